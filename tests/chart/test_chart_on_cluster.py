"""A real `helm install --wait`, `upgrade` and `uninstall`, beside whatever else is installed on the local cluster."""

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev import installation

pytestmark = pytest.mark.cluster

CHART = Path(__file__).parents[2] / "charts" / "tidegate"
RELEASE = f"chart-test-{uuid.uuid4().hex[:6]}"
NAMESPACE = RELEASE
NAME = f"{RELEASE}-tidegate"
PARTS = {"operator", "router", "envoy", "prometheus", "mlflow"}


class Cluster:
    """Helm and kubectl on the local cluster."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = {**os.environ, **variables}

    def run(self, program: str, *arguments: str, stdin: str = "", check: bool = True) -> str:
        path = shutil.which(program, path=self._variables["PATH"])
        assert path is not None, program
        command = [path, f"--namespace={NAMESPACE}", *arguments]
        done = subprocess.run(command, env=self._variables, input=stdin, capture_output=True, text=True, timeout=400)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def upgrade(self, values: dict[str, Any]) -> str:
        flags = ["--install", "--create-namespace", "--wait", "--timeout=5m", "--values=-"]
        return self.run("helm", "upgrade", RELEASE, str(CHART), *flags, stdin=yaml.safe_dump(values))

    def pods(self) -> list[dict[str, Any]]:
        return json.loads(self.run("kubectl", "get", "pods", "-o", "json"))["items"]

    def names(self, kinds: str, *, everywhere: bool = False) -> list[str]:
        selector = f"--selector=app.kubernetes.io/instance={RELEASE}"
        scope = ["--all-namespaces"] if everywhere else []
        return self.run("kubectl", "get", kinds, selector, "-o", "name", *scope).split()

    def proxy(self, service: str, path: str) -> Any:
        """Ask a Service through the API server."""
        raw = f"/api/v1/namespaces/{NAMESPACE}/services/{service}/proxy{path}"
        return json.loads(self.run("kubectl", "get", "--raw", raw))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    running = installation.is_running()
    installation.cluster("up")
    installation.cluster("load", "operator", "envoy", "prometheus", "mlflow")
    made = Cluster(installation.environment())
    yield made
    made.run("helm", "uninstall", RELEASE, "--ignore-not-found", "--wait")
    made.run("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")
    if not running and not os.environ.get("TIDEGATE_KEEP_CLUSTER"):
        installation.cluster("down")


@pytest.fixture(scope="module")
def values(cluster) -> dict[str, Any]:
    """Local images; only its own namespace, so that it leaves objects of another installation alone."""
    found = cluster.run("kubectl", "get", "crd", "deployments.tidegate.dev", "--ignore-not-found", "-o", "name")
    return {
        **installation.values(installation.references(), None),
        "crds": {"enabled": not found, "keep": False},
        "watchNamespaces": [NAMESPACE],
        "mlflow": {"image": installation.references()["mlflow"], "storage": ""},
    }


@pytest.fixture(scope="module")
def installed(cluster, values) -> str:
    cluster.run("kubectl", "create", "namespace", NAMESPACE, check=False)
    restricted = "pod-security.kubernetes.io/enforce=restricted"
    cluster.run("kubectl", "label", "namespace", NAMESPACE, restricted, "--overwrite")
    return cluster.upgrade(values)


def eventually(holds: Callable[[], object], what: str, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"not after {timeout:.0f} s: {what}"
        time.sleep(0.5)


def test_every_part_becomes_ready_at_the_restricted_level(cluster, installed):
    parts = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in cluster.pods()}
    assert parts == PARTS
    for pod in cluster.pods():
        (status,) = pod["status"]["containerStatuses"]
        assert status["ready"], pod["metadata"]["name"]
        assert status["restartCount"] == 0, pod["metadata"]["name"]


def test_the_notes_name_the_first_three_commands(installed):
    commands = [line for line in installed.splitlines() if line.startswith("  kubectl")]
    assert len(commands) == 3


def test_prometheus_reads_every_pod_that_asks_for_it(cluster, installed):
    def up() -> set[str]:
        answer = cluster.proxy(f"{NAME}-prometheus:9090", "/api/v1/query?query=up==1")
        return {series["metric"]["pod"] for series in answer["data"]["result"]}

    asking = [pod for pod in cluster.pods() if "prometheus.io/scrape" in pod["metadata"].get("annotations", {})]
    assert {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in asking} == {
        "operator",
        "router",
        "envoy",
    }
    names = {pod["metadata"]["name"] for pod in asking}
    eventually(lambda: up() == names, f"targets {names}")


def test_the_operator_leads_and_sees_mlflow_and_prometheus(cluster, installed):
    def leading() -> bool:
        answer = cluster.proxy(f"{NAME}-prometheus:9090", "/api/v1/query?query=tidegate_leading")
        return any(series["value"][1] == "1" for series in answer["data"]["result"])

    eventually(leading, "tidegate_leading")
    log = cluster.run("kubectl", "logs", f"deployment/{NAME}-operator")
    assert "Forbidden" not in log
    assert "Traceback" not in log


def test_mlflow_answers_to_the_name_of_its_service(cluster, installed):
    url = f"http://{NAME}-mlflow.{NAMESPACE}:5000/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    script = f"import urllib.request; print(urllib.request.urlopen('{url}', timeout=10).status)"
    answer = cluster.run("kubectl", "exec", f"deployment/{NAME}-operator", "--", "python", "-c", script)
    assert answer.strip() == "200"


def test_an_upgrade_changes_what_it_says_and_nothing_else(cluster, values, installed):
    before = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in cluster.pods()}
    cluster.upgrade({**values, "operator": {**values["operator"], "logLevel": "DEBUG"}})

    def names() -> set[str]:
        return {pod["metadata"]["name"] for pod in cluster.pods()}

    eventually(lambda: len(names()) == len(before), "the old operator is gone")
    kept = {name for name in before if f"{NAME}-operator-" not in name}
    assert kept <= names()
    assert len(names() - kept) == 1


def test_an_uninstall_leaves_nothing(cluster, values, installed):
    cluster.run("helm", "uninstall", RELEASE, "--wait")
    eventually(lambda: not cluster.pods(), "no pods")
    kinds = "deployments.apps,services,configmaps,serviceaccounts,roles,rolebindings,persistentvolumeclaims"
    assert cluster.names(kinds) == []
    assert cluster.names("clusterroles,clusterrolebindings", everywhere=True) == []
    if values["crds"]["enabled"]:
        eventually(lambda: not cluster.names("crd", everywhere=True), "no kinds")
