"""Why a training failed, in a word and a sentence a person can act on."""

from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.api.training_job import TrainingJobSpec, TrainingJobStatus
from tidegate.domain.jobs import JobState, PodState
from tidegate.domain.training_result import BrokenResultError, TrainerFailure, parse_result

__all__ = ["Failure", "explain_job_failure", "explain_pod_failure"]

KILLED = 137


@dataclass(frozen=True, slots=True)
class Failure:
    """A reason in one CamelCase word, and what to do about it."""

    reason: str
    message: str


def explain_job_failure(
    spec: TrainingJobSpec, status: TrainingJobStatus, job: JobState, pods: Sequence[PodState]
) -> Failure:
    """Explain a Job that failed: by what its last pod said, by how the pod ended, or by what the Job says."""
    if job.reason == "DeadlineExceeded":
        return Failure("DeadlineExceeded", _explain_deadline(spec, status))
    failed = [pod for pod in pods if pod.ended and pod.exit_code != 0]
    last = explain_pod_failure(spec, failed[-1]) if failed else None
    if last is None:
        return Failure(
            job.reason or "JobFailed", job.message or "the Job failed and its pods are gone; no reason is known"
        )
    if job.reason != "BackoffLimitExceeded":
        return last
    tries = f"{job.failed} pods failed (spec.backoffLimit is {spec.backoff_limit}); the last one"
    reason = "BackoffLimitExceeded" if last.reason == "TrainerCrashed" else last.reason
    return Failure(reason, f"{tries}: {last.message}")


def explain_pod_failure(spec: TrainingJobSpec, pod: PodState) -> Failure:
    """Explain a pod that ended badly."""
    if pod.out_of_memory:
        limit = spec.resources.memory
        bound = f"its limit of {limit} (spec.resources.memory)" if limit else "the memory of its node"
        message = f"the trainer used more than {bound}: raise it, or lower trainer.config.batchSize"
        return Failure("OutOfMemory", message)
    said = _read_reason(pod)
    if said is not None:
        return said
    if pod.reason in ("Evicted", "DeadlineExceeded", "NodeLost"):
        return Failure(pod.reason, pod.message or f"pod {pod.name} ended: {pod.reason}")
    return Failure("TrainerCrashed", f"{_explain_exit(pod)} and left no reason; see: kubectl logs {pod.name}")


def _read_reason(pod: PodState) -> Failure | None:
    try:
        result = parse_result(pod.termination_message)
    except BrokenResultError:
        return None
    return Failure(result.reason, result.message) if isinstance(result, TrainerFailure) else None


def _explain_exit(pod: PodState) -> str:
    if pod.exit_code == KILLED:
        return "the trainer was killed (exit code 137)"
    code = "without an exit code" if pod.exit_code is None else f"with exit code {pod.exit_code}"
    return f"the trainer ended {code}"


def _explain_deadline(spec: TrainingJobSpec, status: TrainingJobStatus) -> str:
    done = f" at {status.progress.percent:.0f} %" if status.progress else ""
    return f"spec.activeDeadlineSeconds ({spec.active_deadline_seconds}) ran out{done}; raise it or train less"
