"""Decides what a ModelVersion needs next. Pure: the same arguments give the same plan.

::

    Pending ──► Validating ──► Ready ──► registered in MLflow, aliases follow spec.stage
       ▲            │ │
       └── later ───┘ └──────► Rejected
       a source is away, the pod was lost

Ready and Rejected are final: the artifact cannot change, so the verdict on it cannot either. MLflow is a mirror: while
it is away a version stays what it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from tidegate.api.base import ConditionStatus
from tidegate.api.model_version import ModelPhase, ModelVersion, ModelVersionStatus, ServedBy, Stage
from tidegate.domain.conditions import Health, find_condition, set_condition, set_health
from tidegate.domain.jobs import (
    NEVER_STARTED,
    POD_PATIENCE,
    JobOutcome,
    JobState,
    Note,
    PodState,
    lost_pods,
    until_lost,
)
from tidegate.domain.validation_result import REASONS, ValidationResult, parse_validation

__all__ = [
    "ALIASES",
    "FINAL",
    "MANAGED_ALIASES",
    "REGISTRY_UNAVAILABLE",
    "DeleteValidation",
    "ExpireValidation",
    "Mirror",
    "MirrorProblem",
    "Observed",
    "StartValidation",
    "VersionPlan",
    "conclude_mirror",
    "plan_model_version",
]

FINAL = frozenset({ModelPhase.READY, ModelPhase.REJECTED})
ALIASES: Mapping[Stage, tuple[str, ...]] = {Stage.PRODUCTION: ("champion",), Stage.STAGING: ("challenger",)}
MANAGED_ALIASES = ("champion", "challenger")
AT_ONCE = timedelta(0)
"""What comes next needs this status to be written down first; the operator's own writes wake nobody."""
SOON = timedelta(seconds=1)
FIRST_RETRY = timedelta(seconds=5)
LONGEST_RETRY = timedelta(minutes=1)
REGISTRY_RETRY = timedelta(seconds=30)
TOLERATED_CRASHES = 2
"""Validation pods that may end without a word, as when a node dies, before the model is taken to be the cause."""
KEEP_SECONDS = 600
"""How long the pod of a finished validation stays to be looked at."""
REGISTERED = "Registered"
REGISTRY_UNAVAILABLE = "MLflowUnavailable"
"""The registry does not answer; any other reason is a refusal, which only another spec can help."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that is known when a decision is made."""

    job: JobState | None = None
    pods: tuple[PodState, ...] = ()
    """Pods of the Job, oldest first."""
    foreign_job: str | None = None
    """A Job of the same name that belongs to somebody else."""
    training_metrics: Mapping[str, float] = field(default_factory=dict)
    """What the TrainingJob measured, if it is still there."""
    served_by: tuple[ServedBy, ...] = ()
    registry: bool = True
    """Whether there is an MLflow to mirror to."""


@dataclass(frozen=True, slots=True)
class StartValidation:
    """Make the ConfigMap and the Job."""


@dataclass(frozen=True, slots=True)
class DeleteValidation:
    """Remove the Job of an attempt that came to nothing."""


@dataclass(frozen=True, slots=True)
class ExpireValidation:
    """Let the Job and its pod go after a while; only once the verdict is written down."""

    ttl: int


@dataclass(frozen=True, slots=True)
class Mirror:
    """Register the version in MLflow and let its aliases follow the stage."""

    stage: Stage
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MirrorProblem:
    """Why the registry could not be brought up to date."""

    reason: str
    message: str
    is_passing: bool
    """Whether the same may work later."""


Intent = StartValidation | DeleteValidation | ExpireValidation | Mirror


@dataclass(frozen=True, slots=True)
class VersionPlan:
    """What to do, in this order; the status that holds when all of it worked; when to look again without an event."""

    status: ModelVersionStatus
    intents: tuple[Intent, ...] = ()
    notes: tuple[Note, ...] = ()
    recheck_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """The arguments of one decision."""

    version: ModelVersion
    observed: Observed
    now: datetime

    @property
    def status(self) -> ModelVersionStatus:
        """The status as it was read."""
        return self.version.status


def plan_model_version(version: ModelVersion, observed: Observed, now: datetime) -> VersionPlan:
    """Return what to do next for one ModelVersion."""
    scene = Scene(version, observed, now)
    for step in (_keep_verdict, _await_name, _await_retry, _start, _judge, _leave_lost_node):
        plan = step(scene)
        if plan is not None:
            return plan
    return _watch(scene)


def conclude_mirror(plan: VersionPlan, outcome: str | MirrorProblem, now: datetime) -> VersionPlan:
    """Complete the plan by what came of Mirror: the number in the registry, or why there is none yet.

    The version stays Ready either way.
    """
    if isinstance(outcome, MirrorProblem):
        return _fall_behind(plan, outcome, now)
    note = Note(REGISTERED, f"version {outcome} in the MLflow registry")
    changes = {"registry_version": outcome, "registry_stage": _mirrored_stage(plan)}
    status = _register(plan.status.model_copy(update=changes), ConditionStatus.TRUE, note, now)
    return replace(plan, status=status, intents=(), notes=(*plan.notes, note))


def _fall_behind(plan: VersionPlan, problem: MirrorProblem, now: datetime) -> VersionPlan:
    remedy = "It is tried again by itself" if problem.is_passing else "It is tried again when the spec changes"
    message = f"the MLflow registry is behind: {problem.message}. {remedy}; serving is not affected"
    note = Note(problem.reason, message, warning=True)
    before = find_condition(plan.status.conditions, REGISTERED)
    news = before is None or before.reason != note.reason
    return replace(
        plan,
        status=_register(plan.status, ConditionStatus.FALSE, note, now),
        intents=(),
        notes=(*plan.notes, *((note,) if news else ())),
        recheck_after=REGISTRY_RETRY if problem.is_passing else None,
    )


def _register(status: ModelVersionStatus, value: ConditionStatus, note: Note, now: datetime) -> ModelVersionStatus:
    generation = status.observed_generation or 1
    old = status.conditions
    conditions = set_condition(old, REGISTERED, value, note.reason, note.message, generation=generation, now=now)
    return status.model_copy(update={"conditions": conditions})


def _mirrored_stage(plan: VersionPlan) -> Stage | None:
    return next((each.stage for each in plan.intents if isinstance(each, Mirror)), plan.status.registry_stage)


# ---- Stages ----------------------------------------------------------------------------------------------------------


def _keep_verdict(scene: Scene) -> VersionPlan | None:
    """After the verdict: let the Job go, say who serves it, keep the registry in step."""
    status, job = scene.status, scene.observed.job
    if status.phase not in FINAL:
        return None
    intents: list[Intent] = []
    if job is not None and job.ttl is None:
        intents.append(ExpireValidation(KEEP_SECONDS))
    if status.phase is ModelPhase.READY and scene.observed.registry and _is_behind(scene):
        stage = scene.version.spec.stage
        intents.append(Mirror(stage, ALIASES.get(stage, ())))
    return VersionPlan(_seen(scene, status), tuple(intents))


def _await_name(scene: Scene) -> VersionPlan | None:
    foreign = scene.observed.foreign_job
    if foreign is None:
        return None
    message = f"Job {foreign} belongs to something else; waiting until it is gone (delete it if nobody needs it)"
    return _wait(scene, ModelPhase.PENDING, Note("NameTaken", message), FIRST_RETRY)


def _await_retry(scene: Scene) -> VersionPlan | None:
    """Between two attempts the status says what went wrong; it stays until the next one starts.

    The Job of the attempt goes once that is written down: an attempt that nobody remembers would not count.
    """
    retry_at = scene.status.retry_at
    if retry_at is None:
        return None
    if scene.observed.job is not None:
        pause = max(retry_at - scene.now, SOON)
        return VersionPlan(_seen(scene, scene.status), (DeleteValidation(),), (), pause)
    if scene.now < retry_at:
        return VersionPlan(_seen(scene, scene.status), (), (), retry_at - scene.now)
    return None


def _start(scene: Scene) -> VersionPlan | None:
    """Make the Job; another one only once it is written down that the attempt before is over and its Job gone."""
    if scene.observed.job is not None:
        return None
    again = f" (attempt {scene.status.attempts + 1})" if scene.status.attempts else ""
    note = Note("Validating", f"the checks are being started{again}")
    status = _assess(scene, ModelPhase.VALIDATING, Health.RECONCILING, note.reason, note.message)
    if scene.status.retry_at is not None:
        return _plan(scene, status.model_copy(update={"retry_at": None}), (), note, AT_ONCE)
    return _plan(scene, status, (StartValidation(),), note, POD_PATIENCE)


def _judge(scene: Scene) -> VersionPlan | None:
    """The Job has ended: the pod's last words are the verdict, or say why there is none."""
    job = scene.observed.job
    if job is None or job.outcome is JobOutcome.UNFINISHED:
        return None
    pod = _last(scene.observed.pods)
    result = parse_validation(pod.termination_message) if pod is not None else None
    if pod is not None and pod.out_of_memory:
        return _reject(scene, "OutOfMemory", _explain_memory(scene))
    if result is None:
        return _explain_silence(scene, job, pod)
    if result.outcome == "Passed":
        return _accept(scene, result)
    return _reject_checked(scene, result) if result.outcome == "Failed" else _handle_error(scene, result)


def _leave_lost_node(scene: Scene) -> VersionPlan | None:
    """Begin anew when the node of the pod does not answer: the Job itself would wait for that pod for ever."""
    lost = lost_pods(scene.observed.pods, scene.now)
    if not lost:
        return None
    return _retry(scene, "NodeLost", f"node {lost[-1].node} does not answer; its pod {lost[-1].name} is given up")


def _watch(scene: Scene) -> VersionPlan:
    """The Job runs: say what its pod is doing."""
    job = scene.observed.job
    if job is None:
        raise AssertionError("without a Job an earlier stage decides")
    pod = _last(scene.observed.pods)
    if pod is None:
        return _watch_no_pod(scene, job)
    if pod.unschedulable:
        message = f"no node has room for spec.validation.resources; the checks start when one has ({pod.unschedulable})"
        return _wait(scene, ModelPhase.VALIDATING, Note("Unschedulable", message, warning=True))
    if pod.waiting_reason in NEVER_STARTED:
        why = pod.waiting_message or pod.waiting_reason
        message = (
            f"the validation pod {pod.name} does not start: {why}. Check the chart's agent image; it goes on by itself"
        )
        return _wait(scene, ModelPhase.VALIDATING, Note(str(pod.waiting_reason), message, warning=True))
    note = Note("Validating", f"the checks run in pod {pod.name}")
    return _wait(scene, ModelPhase.VALIDATING, note, until_lost(scene.observed.pods, scene.now))


def _watch_no_pod(scene: Scene, job: JobState) -> VersionPlan:
    waited = scene.now - job.created
    if waited < POD_PATIENCE:
        note = Note("Validating", "the checks are being started")
        return _wait(scene, ModelPhase.VALIDATING, note, POD_PATIENCE - waited)
    message = (
        f"Job {job.name} has no pod: the API server refuses it (a quota, an admission policy). See kubectl describe job"
    )
    return _wait(scene, ModelPhase.VALIDATING, Note("PodRefused", message, warning=True))


# ---- Verdicts --------------------------------------------------------------------------------------------------------


def _accept(scene: Scene, result: ValidationResult) -> VersionPlan:
    note = Note("Ready", "every check that was asked for has passed")
    status = _assess(scene, ModelPhase.READY, Health.READY, note.reason, note.message)
    return _plan(scene, status.model_copy(update=_findings(scene, result)), (), note, AT_ONCE)


def _reject_checked(scene: Scene, result: ValidationResult) -> VersionPlan:
    failed = result.failed_check
    if failed is None:
        return _reject(
            scene, "ValidationFailed", result.message or "the validation failed without saying which check", result
        )
    return _reject(scene, REASONS[failed.name], f"{failed.name}: {failed.message}", result)


def _handle_error(scene: Scene, result: ValidationResult) -> VersionPlan:
    if not result.retryable:
        return _reject(scene, result.reason, result.message, result)
    return _retry(scene, result.reason, result.message)


def _explain_silence(scene: Scene, job: JobState, pod: PodState | None) -> VersionPlan:
    """The pod ended without a word: it was lost, or the model brought it down."""
    ended = (
        "is gone" if pod is None else f"ended with {pod.reason or pod.ended_reason or 'no reason'} ({pod.exit_code})"
    )
    message = f"the validation pod {ended} before it could say what it found"
    if pod is None or job.outcome is JobOutcome.COMPLETE:
        return _retry(scene, "ValidationLost", message)
    crashes = scene.status.crashes + 1
    if crashes <= TOLERATED_CRASHES:
        return _retry(scene, "ValidationLost", message, crashes)
    message = (
        f"the model brings the checks down: the validation pod {ended}, {crashes} times in a row. Try the file with "
        f"ONNX Runtime by hand, mend it and create a new version"
    )
    return _reject(scene, "ValidationCrashed", message)


def _reject(scene: Scene, reason: str, message: str, result: ValidationResult | None = None) -> VersionPlan:
    status = _assess(scene, ModelPhase.REJECTED, Health.STALLED, reason, message)
    note = Note(reason, message, warning=True)
    return _plan(scene, status.model_copy(update=_findings(scene, result)), (), note, AT_ONCE)


def _retry(scene: Scene, reason: str, message: str, crashes: int = 0) -> VersionPlan:
    """Do it again later; the time in between grows up to a minute."""
    attempts = scene.status.attempts + 1
    pause = min(FIRST_RETRY * 2 ** min(attempts - 1, 10), LONGEST_RETRY)
    note = Note(reason, f"{message} (tried {attempts} times; tried again by itself)", warning=True)
    status = _assess(scene, ModelPhase.PENDING, Health.RECONCILING, note.reason, note.message)
    changes = {"attempts": attempts, "crashes": crashes, "retry_at": scene.now + pause}
    return _plan(scene, status.model_copy(update=changes), (), note, AT_ONCE)


def _findings(scene: Scene, result: ValidationResult | None) -> dict[str, object]:
    checks, measured = (result.checks, result.metrics) if result else ((), {})
    metrics = {**scene.observed.training_metrics, **measured}
    return {"checks": checks, "metrics": metrics, "validated_at": scene.now, "retry_at": None}


def _explain_memory(scene: Scene) -> str:
    limit = scene.version.spec.validation.resources.memory
    bound = f"the {limit} of the validation pod" if limit else "the memory of the node"
    return f"the model does not fit into {bound}: create a new version with more in spec.validation.resources.memory"


# ---- Status ----------------------------------------------------------------------------------------------------------


def _assess(scene: Scene, phase: ModelPhase, health: Health, reason: str, message: str) -> ModelVersionStatus:
    generation = scene.version.metadata.generation
    old = scene.status.conditions
    conditions = set_health(old, health, reason, message, generation=generation, now=scene.now)
    changes = {"phase": phase, "message": message, "conditions": conditions}
    return _seen(scene, scene.status.model_copy(update=changes))


def _seen(scene: Scene, status: ModelVersionStatus) -> ModelVersionStatus:
    generation = scene.version.metadata.generation
    return status.model_copy(update={"observed_generation": generation, "served_by": scene.observed.served_by})


def _wait(scene: Scene, phase: ModelPhase, note: Note, recheck_after: timedelta | None = None) -> VersionPlan:
    return _plan(scene, _assess(scene, phase, Health.RECONCILING, note.reason, note.message), (), note, recheck_after)


def _plan(
    scene: Scene,
    status: ModelVersionStatus,
    intents: tuple[Intent, ...],
    note: Note,
    recheck_after: timedelta | None = None,
) -> VersionPlan:
    """Return a plan whose note is told only when the reason is another than before."""
    before = find_condition(scene.status.conditions, Health.READY)
    news = before is None or before.reason != note.reason
    return VersionPlan(status, intents, (note,) if news else (), recheck_after)


def _is_behind(scene: Scene) -> bool:
    """Whether the registry is to be told something, and has not refused just that."""
    registered = find_condition(scene.status.conditions, REGISTERED)
    if registered is not None and registered.reason not in (REGISTERED, REGISTRY_UNAVAILABLE):
        return registered.observed_generation != scene.version.metadata.generation
    return scene.status.registry_version is None or scene.status.registry_stage is not scene.version.spec.stage


def _last(pods: tuple[PodState, ...]) -> PodState | None:
    return pods[-1] if pods else None
