"""Why pods are not ready, in a sentence with the remedy, read from what the kubelet and the scheduler report."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tidegate.domain.jobs import read_time
from tidegate.domain.manifests.placement import GPU

__all__ = ["FinalFailure", "find_final_failure", "find_pod_problem", "find_workload_problem"]

Status = Mapping[str, Any]

PULL_REASONS = {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
CONFIG_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
PULLER, TRITON = "puller", "triton"
LONGEST = 600


@dataclass(frozen=True, slots=True)
class FinalFailure:
    """A pod has found out that its model cannot be had, whatever time it is given."""

    message: str
    """What the pod said, with the remedy."""
    at: datetime
    """When it said so, by its node's clock."""


def find_pod_problem(pods: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the first known problem of these pods, the most fundamental kind first; None when nothing is known.

    Args:
        pods: Pods as JSON; ready ones are looked at, too, but have no problem.
    """
    statuses = [(pod["metadata"]["name"], pod.get("status") or {}) for pod in pods]
    for check in _CHECKS:
        for name, status in statuses:
            found = check(status)
            if found:
                return f"pod {name}: {found}"[:LONGEST]
    return None


def find_final_failure(pods: Sequence[Mapping[str, Any]]) -> FinalFailure | None:
    """Return the newest failure of a puller that says of itself that trying again cannot help.

    Only its own word counts: a puller that was killed, or that could not reach the storage, may succeed later.
    """
    found = [failure for pod in pods for failure in _final_failures(pod)]
    return max(found, key=lambda failure: failure.at, default=None)


def find_workload_problem(workload: Mapping[str, Any]) -> str | None:
    """Return why no pods could be created at all (quota, admission), from the apps/v1 Deployment's conditions."""
    for condition in (workload.get("status") or {}).get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return f"pods cannot be created: {condition.get('message', '')}"[:LONGEST]
    return None


def _check_scheduling(status: Status) -> str | None:
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _explain_scheduling(condition.get("message", ""))
    return None


def _explain_scheduling(message: str) -> str:
    if GPU in message:
        return f"no node has the GPUs asked for: add a GPU node or lower serving.resources.gpus ({message})"
    lacking = sorted(set(re.findall(r"Insufficient ([\w./-]*\w)", message)))
    if lacking:
        return f"no node has enough {', '.join(lacking)}: add nodes or lower serving.resources ({message})"
    return f"cannot be scheduled: {message or 'no reason given'}"


def _check_images(status: Status) -> str | None:
    for container in _containers(status):
        waiting = _waiting(container)
        if waiting.get("reason") in PULL_REASONS:
            image, said = container.get("image", "?"), waiting.get("message", waiting["reason"])
            return f"image {image} cannot be pulled: check its name, the registry and its pull secret ({said})"
    return None


def _check_configuration(status: Status) -> str | None:
    for container in _containers(status):
        waiting = _waiting(container)
        if waiting.get("reason") in CONFIG_REASONS:
            return f"container {container['name']} cannot be started: {waiting.get('message', waiting['reason'])}"
    return None


def _check_puller(status: Status) -> str | None:
    """The puller says in its termination message what went wrong; it counts while the puller has not succeeded."""
    for container in status.get("initContainerStatuses") or ():
        ended = _last_end(container)
        if not ended or ended.get("exitCode") == 0:
            continue
        if ended.get("reason") == "OOMKilled":
            return _explain_memory(container["name"])
        return _explain_puller(ended)
    return None


def _explain_puller(ended: Mapping[str, Any]) -> str:
    failure = _read_failure(ended)
    said = f"{failure['reason']}: {failure.get('message', '')}" if failure else ended.get("message", "").strip()
    exit_code = f"exit code {ended.get('exitCode')}"
    return f"the artifact could not be fetched: {said or exit_code}"


def _final_failures(pod: Mapping[str, Any]) -> Iterator[FinalFailure]:
    for container in (pod.get("status") or {}).get("initContainerStatuses") or ():
        ended = _last_end(container)
        at = read_time(ended.get("finishedAt"))
        if container["name"] == PULLER and at and ended.get("exitCode") and _is_final(_read_failure(ended)):
            yield FinalFailure(f"pod {pod['metadata']['name']}: {_explain_puller(ended)}"[:LONGEST], at)


def _is_final(failure: Mapping[str, Any]) -> bool:
    return failure.get("retryable") is False


def _check_memory(status: Status) -> str | None:
    for container in status.get("containerStatuses") or ():
        ended = _last_end(container)
        if not container.get("ready") and ended.get("reason") == "OOMKilled":
            return _explain_memory(container["name"])
    return None


def _explain_memory(container: str) -> str:
    """Only Triton's memory is the user's to set."""
    remedy = "raise serving.resources.memory" if container == TRITON else "please report it with the artifact's size"
    return f"container {container} was killed for lack of memory: {remedy}"


def _check_crashes(status: Status) -> str | None:
    for container in status.get("containerStatuses") or ():
        if _waiting(container).get("reason") == "CrashLoopBackOff":
            ended = _last_end(container)
            said = ended.get("message") or f"exit code {ended.get('exitCode', '?')}"
            hint = ": killed, for lack of memory or because it did not answer" if ended.get("exitCode") == 137 else ""
            return f"container {container['name']} crashes again and again ({said.strip()}{hint}); read its log"
    return None


def _check_eviction(status: Status) -> str | None:
    if status.get("phase") == "Failed":
        return f"it failed: {status.get('reason', '')} {status.get('message', '')}".strip()
    return None


def _check_loading(status: Status) -> str | None:
    ready = {container["name"]: container.get("ready") for container in status.get("containerStatuses") or ()}
    if ready.get("triton") and ready.get("agent") is False:
        return "Triton runs but does not list the model as READY; its log says why (container triton)"
    return None


_CHECKS: tuple[Callable[[Status], str | None], ...] = (
    _check_scheduling,
    _check_images,
    _check_configuration,
    _check_puller,
    _check_memory,
    _check_crashes,
    _check_eviction,
    _check_loading,
)


def _containers(status: Status) -> Iterator[Mapping[str, Any]]:
    for field in ("initContainerStatuses", "containerStatuses"):
        found: Iterable[Mapping[str, Any]] = status.get(field) or ()
        yield from found


def _waiting(container: Mapping[str, Any]) -> Mapping[str, Any]:
    return (container.get("state") or {}).get("waiting") or {}


def _last_end(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how the container ended last: now, or before the restart that it waits for or runs in."""
    for place in ("state", "lastState"):
        ended = (container.get(place) or {}).get("terminated")
        if ended:
            return dict(ended)
    return {}


def _read_failure(ended: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the failure that the puller left in its termination message; empty where that is something else."""
    try:
        said = json.loads(ended.get("message", ""))
    except ValueError:
        return {}
    return said if isinstance(said, dict) and said.get("reason") else {}
