"""What the status of a Deployment says about pods that do not become ready: the reason and the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from tests.runtime.release_world import CANARY_STEPS, ReleaseWorld, deployment, model_version
from tidegate.domain.manifests import names
from tidegate.ports import Manifest


def pod(version: str, **status: Any) -> Manifest:
    """A pod of a version, as the kubelet and the scheduler show it."""
    serving = names.serving("connect4", f"connect4-{version}", version[0] * 64)
    labels = names.child_labels("serving", {names.DEPLOYMENT_LABEL: "connect4"}) | {names.WORKLOAD_LABEL: serving}
    metadata = {"name": f"{serving}-a", "namespace": "default", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"phase": "Pending"} | status}


def unschedulable(message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"conditions": [condition]}


def waiting(cause: str, said: str, **last: Any) -> dict[str, Any]:
    container = {"name": "triton", "image": "triton:1", "state": {"waiting": {"reason": cause, "message": said}}}
    return {"containerStatuses": [container | ({"lastState": {"terminated": last}} if last else {})]}


PROBLEMS = {
    "no gpu": (
        unschedulable("0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: not helpful"),
        "no node has the GPUs asked for: add a GPU node or lower serving.resources.gpus",
    ),
    "pull fails": (
        waiting("ErrImagePull", "pull access denied"),
        "image triton:1 cannot be pulled: check its name, the registry and its pull secret (pull access denied)",
    ),
    "pull is put off": (
        waiting("ImagePullBackOff", "Back-off pulling image"),
        "image triton:1 cannot be pulled: check its name, the registry and its pull secret (Back-off pulling image)",
    ),
    "out of memory": (
        waiting("CrashLoopBackOff", "back-off 10s", exitCode=137, reason="OOMKilled"),
        "container triton was killed for lack of memory: raise serving.resources.memory",
    ),
}
problems = pytest.mark.parametrize(("seen", "words"), PROBLEMS.values(), ids=PROBLEMS)


async def world_with(version: str, seen: dict[str, Any]) -> ReleaseWorld:
    """1.0.0 is asked for, or serves while 2.0.0 is; the pods of `version` are as seen."""
    spec = {"strategy": {"type": "Canary", "canary": CANARY_STEPS}, "progressDeadline": "30s"}
    made = ReleaseWorld(model_version("1.0.0"), model_version("2.0.0"), deployment(**spec))
    if version == "2.0.0":
        await made.settle(3)
        made.release(version)
    made.pods_become_ready = False
    await made.objects.apply(pod(version, **seen))
    await made.settle(2)
    return made


@problems
async def test_a_first_release_says_why_it_waits_and_when_that_takes_too_long(seen: dict[str, Any], words: str) -> None:
    made = await world_with("1.0.0", seen)
    assert words in made.condition("Ready")["message"]
    assert made.condition("Ready")["reason"] == "PodsNotReady"
    assert made.condition("Stalled")["status"] == "False"
    await made.settle(40)
    assert made.condition("Stalled")["status"] == "True"
    assert words in made.condition("Stalled")["message"]


@problems
async def test_a_canary_says_why_it_waits_and_why_it_was_taken_back(seen: dict[str, Any], words: str) -> None:
    made = await world_with("2.0.0", seen)
    assert (made.status["phase"], words in made.status["message"]) == ("Progressing", True)
    await made.settle(40)
    assert made.status["phase"] == "RolledBack"
    assert words in made.status["message"]
    assert words in made.status["rejected"][0]["message"]
    assert any(words in message for _, _, message, _ in made.events.told)


@problems
async def test_a_version_that_serves_says_why_it_is_degraded(seen: dict[str, Any], words: str) -> None:
    made = ReleaseWorld(model_version("1.0.0"), deployment())
    await made.settle(3)
    made.pods_become_ready = False
    (live,) = made.workloads()
    live["status"] |= {"readyReplicas": 0}
    made.objects.put(live)
    await made.objects.apply(pod("1.0.0", **seen))
    await made.settle(1)
    assert made.status["phase"] == "Degraded"
    assert words in made.condition("Ready")["message"]
