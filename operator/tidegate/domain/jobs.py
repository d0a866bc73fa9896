"""What a batch/v1 Job and its pods say, read into plain data; and what a decision about them tells people."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

__all__ = [
    "NEVER_STARTED",
    "POD_PATIENCE",
    "JobOutcome",
    "JobState",
    "Note",
    "PodState",
    "lost_pods",
    "read_job",
    "read_pod",
    "read_time",
    "until_lost",
]

NEVER_STARTED = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RegistryUnavailable",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
)
"""Why a container waits that has never run; the kubelet tries again by itself."""
POD_PATIENCE = timedelta(seconds=20)
"""A Job without a pod after this time says that the API server refuses its pods."""
LOST_POD_PATIENCE = timedelta(seconds=60)
"""A pod that is still there so long after its grace period is on a node that does not answer."""


class JobOutcome(StrEnum):
    """Whether a Job has ended, and how."""

    UNFINISHED = "Unfinished"
    COMPLETE = "Complete"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class JobState:
    """A Job."""

    name: str
    uid: str
    owner_uid: str | None
    """Identity of the object that controls it."""
    created: datetime
    suspended: bool
    """What its spec asks for."""
    suspended_since: datetime | None = None
    """When its pods were stopped; none while the Job controller has not said so."""
    started_at: datetime | None = None
    """Start of the current run: the Job controller sets it anew after a suspension."""
    deadline: int | None = None
    """activeDeadlineSeconds of the current run."""
    backoff_limit: int = 0
    ttl: int | None = None
    failed: int = 0
    """Pods that counted towards the back-off limit."""
    outcome: JobOutcome = JobOutcome.UNFINISHED
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class PodState:
    """A pod, seen through its main container."""

    name: str
    uid: str
    owner_uid: str | None
    created: datetime
    phase: str = "Pending"
    node: str | None = None
    gone_by: datetime | None = None
    """When its node should have stopped it; set once it is being deleted."""
    reason: str = ""
    """Why the pod ended, for example Evicted or DeadlineExceeded."""
    message: str = ""
    unschedulable: str | None = None
    """The scheduler's explanation."""
    waiting_reason: str | None = None
    """Why the container does not start, for example ImagePullBackOff."""
    waiting_message: str = ""
    exit_code: int | None = None
    ended_reason: str = ""
    """How the container ended, for example OOMKilled."""
    termination_message: str = ""

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel killed it for its memory limit, be it before its first instruction."""
        early = self.ended_reason in ("StartError", "ContainerCannotRun") and "oom" in self.termination_message.lower()
        return early or self.ended_reason == "OOMKilled"

    @property
    def ended(self) -> bool:
        """Whether it runs no more, and never will."""
        return self.phase in ("Succeeded", "Failed") or self.exit_code is not None


@dataclass(frozen=True, slots=True)
class Note:
    """What people are told when it happens."""

    reason: str
    message: str
    warning: bool = False


def read_time(value: object) -> datetime | None:
    """Read a timestamp of the Kubernetes API."""
    return datetime.fromisoformat(str(value).replace("Z", "+00:00")) if value else None


def read_job(manifest: Mapping[str, Any]) -> JobState:
    """Read a batch/v1 Job."""
    metadata, spec, status = manifest["metadata"], manifest.get("spec", {}), manifest.get("status", {})
    conditions = _true_conditions(status)
    outcome = next((each for each in (JobOutcome.COMPLETE, JobOutcome.FAILED) if each in conditions), None)
    ended = conditions.get(outcome or "", {})
    return JobState(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        owner_uid=_controller(metadata),
        created=_created(metadata),
        suspended=bool(spec.get("suspend")),
        suspended_since=read_time(conditions.get("Suspended", {}).get("lastTransitionTime")),
        started_at=read_time(status.get("startTime")),
        deadline=spec.get("activeDeadlineSeconds"),
        backoff_limit=spec.get("backoffLimit", 0),
        ttl=spec.get("ttlSecondsAfterFinished"),
        failed=status.get("failed", 0),
        outcome=outcome or JobOutcome.UNFINISHED,
        reason=ended.get("reason", ""),
        message=ended.get("message", ""),
    )


def read_pod(manifest: Mapping[str, Any], container: str) -> PodState:
    """Read a pod; `container` is the one whose end is the end of the pod."""
    metadata, status = manifest["metadata"], manifest.get("status", {})
    state = _container_state(status.get("containerStatuses", ()), container)
    ended, waiting = state.get("terminated") or {}, state.get("waiting") or {}
    return PodState(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        owner_uid=_controller(metadata),
        created=_created(metadata),
        phase=status.get("phase", "Pending"),
        node=manifest.get("spec", {}).get("nodeName"),
        gone_by=read_time(metadata.get("deletionTimestamp")),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        unschedulable=_unschedulable(status),
        waiting_reason=waiting.get("reason"),
        waiting_message=waiting.get("message", ""),
        exit_code=ended.get("exitCode"),
        ended_reason=ended.get("reason", ""),
        termination_message=ended.get("message", ""),
    )


def lost_pods(pods: Iterable[PodState], now: datetime) -> tuple[PodState, ...]:
    """Return the pods whose node does not answer.

    The Job replaces a pod only once it has ended, and keeps a pod that is deleted by force with its own finalizer.
    """
    return tuple(pod for pod in pods if pod.gone_by is not None and now >= pod.gone_by + LOST_POD_PATIENCE)


def until_lost(pods: Iterable[PodState], now: datetime) -> timedelta | None:
    """Return the time until the first pod that is being deleted has to be given up."""
    left = [pod.gone_by + LOST_POD_PATIENCE - now for pod in pods if pod.gone_by is not None]
    return max(min(left), timedelta(seconds=1)) if left else None


def _true_conditions(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {each["type"]: each for each in status.get("conditions") or () if each.get("status") == "True"}


def _unschedulable(status: Mapping[str, Any]) -> str | None:
    for each in status.get("conditions") or ():
        if each["type"] == "PodScheduled" and each.get("status") == "False":
            return str(each.get("message") or each.get("reason") or "not scheduled")
    return None


def _container_state(statuses: Iterable[Mapping[str, Any]], container: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next((each for each in statuses or () if each["name"] == container), {})
    state: Mapping[str, Any] = found.get("state") or {}
    return state


def _controller(metadata: Mapping[str, Any]) -> str | None:
    owners = metadata.get("ownerReferences") or ()
    return next((str(each["uid"]) for each in owners if each.get("controller")), None)


def _created(metadata: Mapping[str, Any]) -> datetime:
    created = read_time(metadata.get("creationTimestamp"))
    if created is None:
        raise ValueError(f"{metadata['name']} has no creationTimestamp: it was never stored")
    return created
