from collections.abc import Callable
from pathlib import Path

import pytest

from dev.cluster import kind
from dev.cluster.current import CurrentProvider
from dev.cluster.engines import build_arguments
from dev.cluster.errors import ClusterError
from dev.cluster.images import IMAGES, Image
from dev.cluster.providers import Kind, choose_provider, kubeconfig_in_force
from dev.cluster.settings import REPOSITORY, Folders


def having(*programs: str) -> Callable[[str], bool]:
    return lambda program: program in programs


@pytest.mark.parametrize(
    ("environ", "is_root", "programs", "expected"),
    [
        ({}, True, (), Kind.NODE),
        ({}, True, ("docker", "kind"), Kind.NODE),
        ({}, False, ("docker", "kind"), Kind.KIND),
        ({"CLUSTER": "kind"}, True, ("docker", "kind"), Kind.KIND),
        ({"CLUSTER": "current"}, False, (), Kind.CURRENT),
        ({"CLUSTER": "current"}, True, ("docker", "kind"), Kind.CURRENT),
        ({"CLUSTER": ""}, True, (), Kind.NODE),
    ],
)
def test_provider_follows_the_variable_and_then_the_machine(
    environ: dict[str, str], is_root: bool, programs: tuple[str, ...], expected: Kind
):
    assert choose_provider(environ, is_root=is_root, has=having(*programs)) is expected


@pytest.mark.parametrize(
    ("environ", "is_root", "programs", "remedy"),
    [
        ({}, False, ("docker",), "CLUSTER=current"),
        ({}, False, (), "run as root"),
        ({"CLUSTER": "node"}, False, ("docker", "kind"), "CLUSTER=kind"),
        ({"CLUSTER": "kind"}, True, ("docker",), "`docker` and `kind`"),
        ({"CLUSTER": "minikube"}, True, (), "choose node, kind, current"),
    ],
)
def test_what_cannot_work_is_refused_with_a_remedy(
    environ: dict[str, str], is_root: bool, programs: tuple[str, ...], remedy: str
):
    with pytest.raises(ClusterError, match=remedy):
        choose_provider(environ, is_root=is_root, has=having(*programs))


def test_kind_commands(folders: Folders):
    assert kind.create_arguments(folders) == [
        "kind",
        "create",
        "cluster",
        "--name=tidegate",
        f"--config={REPOSITORY / 'kind-config.yaml'}",
        f"--kubeconfig={folders.kubeconfig}",
        "--wait=180s",
    ]
    assert kind.delete_arguments(folders)[:3] == ["kind", "delete", "cluster"]
    assert kind.load_arguments(["a:1", "b:2"])[-3:] == ["--name=tidegate", "a:1", "b:2"]
    assert kind.list_arguments()[:3] == ["docker", "exec", "tidegate-control-plane"]


def test_kind_config_has_a_pinned_node_and_publishes_only_on_loopback():
    import yaml

    document = yaml.safe_load((REPOSITORY / "kind-config.yaml").read_text())
    (node,) = document["nodes"]
    assert document["kind"] == "Cluster"
    assert document["apiVersion"] == "kind.x-k8s.io/v1alpha4"
    assert document["name"] == kind.NAME
    assert node["image"].startswith("kindest/node:v1.34.")
    assert {mapping["listenAddress"] for mapping in node["extraPortMappings"]} == {"127.0.0.1"}


def test_every_engine_gets_the_same_build_arguments(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dev.cluster.engines.reference", lambda name: f"tidegate.local/{name}:0")
    image = Image("agent", "serving_image/Dockerfile", target="agent")
    words = build_arguments(image, Path("/repo/Dockerfile"), Path("/context"))
    assert words == [
        "--tag=tidegate.local/agent:0",
        "--file=/repo/Dockerfile",
        "--target=agent",
        "--build-arg=BASE=tidegate.local/base:0",
        "/context",
    ]
    bare = build_arguments(IMAGES["pause"], Path("/repo/Dockerfile"), Path("/context"))
    assert not [word for word in bare if "BASE" in word or "--target" in word]


def test_current_cluster_is_never_changed_and_says_how_images_get_there(tmp_path: Path):
    provider = CurrentProvider(tmp_path / "config")
    provider.down()
    with pytest.raises(ClusterError, match=r"python -m dev\.cluster push REGISTRY operator triton"):
        provider.load(["operator", "triton"])
    assert provider.environment()["KUBECONFIG"] == str(tmp_path / "config")


def test_current_cluster_that_does_not_answer_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert CurrentProvider(tmp_path / "missing").status() is False
    assert capsys.readouterr().out


def test_kubeconfig_in_force_is_the_first_of_the_variable():
    assert kubeconfig_in_force({"KUBECONFIG": "/a:/b"}) == Path("/a")
    assert kubeconfig_in_force({}) == Path.home() / ".kube" / "config"
