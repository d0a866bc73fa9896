"""What the kubelet and the scheduler report becomes one sentence with the remedy."""

import json
from typing import Any

import pytest

from tidegate.domain.pods import find_pod_problem, find_workload_problem


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "status": status}


def unschedulable(message: str) -> dict[str, Any]:
    reason = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(phase="Pending", conditions=[reason])


def waiting(cause: str, said: str = "", /, *, name: str = "triton", init: bool = False, **last: Any) -> dict[str, Any]:
    container = {"name": name, "image": "repo/triton:1", "state": {"waiting": {"reason": cause, "message": said}}}
    if last:
        container["lastState"] = {"terminated": last}
    return pod(phase="Pending", **{"initContainerStatuses" if init else "containerStatuses": [container]})


CHECKSUM = json.dumps({"reason": "ChecksumMismatch", "message": "sha256 is b…, not a…; publish the file again"})


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."), "no node has the GPUs asked for"),
        (
            unschedulable("0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient memory."),
            "no node has enough cpu, memory: add nodes or lower serving.resources",
        ),
        (unschedulable("0/1 nodes are available: 1 node(s) had untolerated taint"), "cannot be scheduled"),
        (waiting("ImagePullBackOff", "Back-off pulling"), "image repo/triton:1 cannot be pulled: check its name"),
        (waiting("ErrImageNeverPull", init=True, name="puller"), "cannot be pulled"),
        (
            waiting("CreateContainerConfigError", 'configmap "x" not found'),
            'cannot be started: configmap "x" not found',
        ),
        (
            waiting("CrashLoopBackOff", init=True, name="puller", exitCode=3, reason="Error", message=CHECKSUM),
            "the artifact could not be fetched: ChecksumMismatch: sha256 is b…, not a…; publish the file again",
        ),
        (
            waiting("CrashLoopBackOff", init=True, name="puller", exitCode=1, reason="Error", message="Traceback: x"),
            "the artifact could not be fetched: Traceback: x",
        ),
        (
            waiting("CrashLoopBackOff", init=True, name="puller", exitCode=137, reason="OOMKilled"),
            "container puller was killed for lack of memory: please report it",
        ),
        (
            waiting("CrashLoopBackOff", exitCode=137, reason="OOMKilled"),
            "container triton was killed for lack of memory: raise serving.resources.memory",
        ),
        (
            waiting("CrashLoopBackOff", exitCode=137, reason="Error"),
            "crashes again and again (exit code 137: killed, for lack of memory or because it did not answer)",
        ),
        (
            waiting("CrashLoopBackOff", exitCode=2, reason="Error"),
            "container triton crashes again and again (exit code 2)",
        ),
        (pod(phase="Failed", reason="Evicted", message="low on disk"), "it failed: Evicted low on disk"),
        (
            pod(containerStatuses=[{"name": "triton", "ready": True}, {"name": "agent", "ready": False}]),
            "does not list the model as READY",
        ),
    ],
)
def test_problems(seen: dict[str, Any], words: str) -> None:
    found = find_pod_problem([seen])
    assert found is not None
    assert found.startswith("pod p: ")
    assert words in found


@pytest.mark.parametrize(
    "seen",
    [
        pod(),
        pod(phase="Pending", conditions=[{"type": "PodScheduled", "status": "True"}]),
        waiting("PodInitializing"),
        waiting("ContainerCreating"),
        pod(initContainerStatuses=[{"name": "puller", "state": {"terminated": {"exitCode": 0}}}]),
        pod(containerStatuses=[{"name": "triton", "ready": True}, {"name": "agent", "ready": True}]),
        pod(containerStatuses=[{"name": "triton", "ready": True, "lastState": {"terminated": {"exitCode": 137}}}]),
    ],
)
def test_a_pod_on_its_way_has_no_problem(seen: dict[str, Any]) -> None:
    assert find_pod_problem([seen]) is None


def test_a_puller_that_succeeded_at_last_is_forgiven() -> None:
    ended = {"exitCode": 1, "message": CHECKSUM}
    container = {"name": "puller", "state": {"terminated": {"exitCode": 0}}, "lastState": {"terminated": ended}}
    assert find_pod_problem([pod(initContainerStatuses=[container])]) is None


def test_the_most_fundamental_problem_of_any_pod_comes_first() -> None:
    crash = waiting("CrashLoopBackOff", exitCode=1)
    found = find_pod_problem([crash, unschedulable("0/1 nodes: 1 Insufficient cpu")])
    assert "no node has enough cpu" in str(found)


def test_long_messages_are_cut() -> None:
    assert len(str(find_pod_problem([waiting("ImagePullBackOff", "x" * 5000)]))) <= 600


def test_pods_that_cannot_even_be_created() -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "message": 'pods "x" is forbidden: exceeded quota'}
    assert "exceeded quota" in str(find_workload_problem({"status": {"conditions": [failure]}}))
    assert find_workload_problem({"status": {"conditions": [failure | {"status": "False"}]}}) is None
    assert find_workload_problem({}) is None
