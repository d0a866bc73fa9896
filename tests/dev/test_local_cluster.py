"""The local cluster for real: idempotent, mortal, repairable, and able to run pods.

A cluster that is up when the tests begin is up with all its objects when they end; one that was
started for them is taken down again.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from dev.cluster.daemons import DAEMONS, Options
from dev.cluster.images import reference
from dev.cluster.leftovers import find_leftovers
from dev.cluster.node import Node
from dev.cluster.processes import kill_processes, start_time
from dev.cluster.settings import REPOSITORY, find_folders, find_network

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="a node of our own needs root"),
]
NAMESPACE = "tidegate-cluster-test"
PROBE = """
import socket, ssl, urllib.request
print(socket.gethostbyname("kubernetes.default"))
print(socket.gethostbyname("web.tidegate-cluster-test.svc.cluster.local"))
context = ssl.create_default_context(cafile="/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
print(urllib.request.urlopen("https://kubernetes.default.svc/readyz", context=context).read().decode())
print(urllib.request.urlopen("http://web/").status)
"""
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def command(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "dev.cluster", *words], cwd=REPOSITORY, check=True, timeout=1800)


def wait_for(check: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, f"not true within {timeout} s"
        time.sleep(0.2)


def fetch(url: str) -> str:
    """The body of a page, or nothing while nobody answers: kube-proxy follows the pod by a moment."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    node = Node(find_folders(), find_network(), Options())
    was_up = node.is_complete()
    command("up")
    command("load", "base")
    apply(node, {"apiVersion": "v1", "kind": "Namespace", "metadata": namespace_metadata()})
    yield node
    if was_up:
        node.kubectl("delete", "namespace", NAMESPACE)
    else:
        command("down")
        assert not find_leftovers(node.folders, node.network)


def namespace_metadata() -> dict[str, object]:
    return {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}


def apply(node: Node, *documents: dict[str, object]) -> None:
    node.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))


def pod_spec(*command: str, **container: object) -> dict[str, object]:
    details = {"name": "main", "image": reference("base"), "command": list(command), "securityContext": RESTRICTED}
    return {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [details | container]}


def metadata(name: str, **labels: str) -> dict[str, object]:
    return {"name": name, "namespace": NAMESPACE, "labels": labels}


def pids(node: Node) -> dict[str, int]:
    return {name: record.pid for name, record in node.supervisor.alive().items()}


def test_up_again_changes_nothing(node: Node):
    before = pids(node)
    command("up")
    assert pids(node) == before


@pytest.fixture
def web(node: Node) -> Iterator[str]:
    """A web server behind a NodePort Service; gives the port."""
    ready = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    serve = pod_spec("python3", "-m", "http.server", "8080", "--directory", "/tmp", readinessProbe=ready)
    service = {
        "type": "NodePort",
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": 8080}],
    }
    apply(
        node,
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata("web", app="web"), "spec": serve},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata("web"), "spec": service},
    )
    node.kubectl("wait", "-n", NAMESPACE, "--for=condition=Ready", "pod/web", "--timeout=60s")
    found = json.loads(node.kubectl("get", "service", "web", "-n", NAMESPACE, "-o", "json"))
    yield str(found["spec"]["ports"][0]["nodePort"])
    node.kubectl("delete", "pod,service", "web", "-n", NAMESPACE)


def test_a_pod_finds_services_by_name_and_address(node: Node, web: str):
    job = {"backoffLimit": 0, "template": {"spec": pod_spec("python3", "-c", PROBE)}}
    apply(node, {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata("probe"), "spec": job})
    node.kubectl("wait", "-n", NAMESPACE, "--for=condition=Complete", "job/probe", "--timeout=60s")
    lines = node.kubectl("logs", "-n", NAMESPACE, "job/probe").split()
    assert lines[0] == node.network.kubernetes_service
    assert lines[2:] == ["ok", "200"]
    node.kubectl("delete", "job", "probe", "-n", NAMESPACE)


def test_the_machine_reaches_node_ports_and_commands_in_pods(node: Node, web: str):
    wait_for(lambda: "Directory listing" in fetch(f"http://{node.network.node_address}:{web}/"))
    assert node.kubectl("exec", "-n", NAMESPACE, "web", "--", "id", "-u").strip() == "65532"
    assert "GET /" in node.kubectl("logs", "-n", NAMESPACE, "web")


def test_port_forwarding(node: Node, web: str):
    words = [node.folders.bin / "kubectl", f"--kubeconfig={node.folders.kubeconfig}", "port-forward"]
    words += ["-n", NAMESPACE, "service/web", ":80"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as forward:
        assert forward.stdout is not None
        port = forward.stdout.readline().split(" -> ")[0].rpartition(":")[2]
        answer = fetch(f"http://127.0.0.1:{port}/")
        forward.terminate()
    assert "Directory listing" in answer


def test_a_claim_gets_a_volume_that_any_user_can_write_and_that_goes_with_it(node: Node):
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    spec = pod_spec("touch", "/data/file", volumeMounts=[{"name": "data", "mountPath": "/data"}])
    spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    apply(
        node,
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata("data"), "spec": claim},
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata("writer"), "spec": spec},
    )
    node.kubectl("wait", "-n", NAMESPACE, "--for=jsonpath={.status.phase}=Succeeded", "pod/writer", "--timeout=60s")
    volume = node.kubectl("get", "pvc", "data", "-n", NAMESPACE, "-o", "jsonpath={.spec.volumeName}")
    folder = node.folders.node / "volumes" / volume
    assert (folder / "file").exists()
    node.kubectl("delete", "pod/writer", "pvc/data", "-n", NAMESPACE)
    wait_for(lambda: not folder.exists())


def test_restricted_pod_security_is_enforced(node: Node):
    spec = pod_spec("true", securityContext={"privileged": True})
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata("bad"), "spec": spec}
    with pytest.raises(Exception, match="violates PodSecurity"):
        apply(node, document)


def test_killed_daemons_are_replaced_and_nothing_is_lost(node: Node, web: str):
    before = pids(node)
    killed = ("kubelet", "containerd", "kube-scheduler", "etcd")
    kill_processes(before[name] for name in killed)
    assert not node.is_complete()
    command("up")
    after = pids(node)
    assert set(after) >= set(DAEMONS)
    assert {name for name in DAEMONS if after[name] != before[name]} == set(killed)
    restarts = "jsonpath={.status.containerStatuses[0].restartCount}"
    assert node.kubectl("get", "pod", "web", "-n", NAMESPACE, "-o", restarts) == "0"
    test_a_pod_finds_services_by_name_and_address(node, web)


def test_a_fake_node_with_gpus_runs_pods_that_ask_for_them(node: Node):
    if node.kubectl("get", "nodes", "-l", "type=kwok", "-o", "name"):
        pytest.skip("fake nodes are in use")
    command("kwok", "up", "--nodes", "2", "--gpus", "4")
    try:
        spec = pod_spec("train", resources={"limits": {"nvidia.com/gpu": "4"}})
        spec["tolerations"] = [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}]
        apply(node, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata("gpu"), "spec": spec})
        node.kubectl("wait", "-n", NAMESPACE, "--for=condition=Ready", "pod/gpu", "--timeout=60s")
    finally:
        command("kwok", "down")
    assert "kwok" not in node.supervisor.records()
    assert not node.kubectl("get", "nodes", "-l", "type=kwok", "-o", "name")


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A cluster of another name, beside the one that others may be using."""
    state = tempfile.mkdtemp(prefix="tidegate-")
    monkeypatch.setenv("TIDEGATE_NAME", "second")
    monkeypatch.setenv("TIDEGATE_NETWORK", "10.99.0.0/16")
    monkeypatch.setenv("TIDEGATE_STATE", state)
    node = Node(find_folders(), find_network(), Options())
    yield node
    command("down")
    shutil.rmtree(node.folders.containerd_root)
    shutil.rmtree(state)


def test_a_cluster_killed_whole_is_repaired_by_up_and_cleaned_away_by_down(second: Node):
    command("up")
    second.kubectl("create", "configmap", "kept")
    kill_whole(second)
    command("up")
    second.kubectl("get", "configmap", "kept")
    killed = kill_whole(second)
    for path in second.folders.daemons.glob("*.json"):
        path.unlink()
    command("down")
    assert not find_leftovers(second.folders, second.network)
    assert str(second.folders.state) not in Path("/proc/self/mounts").read_text()
    assert all(start_time(pid) is None for pid in killed)


def kill_whole(node: Node) -> set[int]:
    """Kill the daemons, the shims and the pods, all with SIGKILL."""
    found = find_leftovers(node.folders, node.network)
    assert found.daemons
    assert found.pods
    kill_processes(found.daemons)
    kill_processes(found.pods)
    return set(found.daemons | found.pods)
