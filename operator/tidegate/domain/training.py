"""Decides what a TrainingJob needs next. Pure: the same arguments give the same plan.

The stages are asked in their order; the first that has something to say decides. Succeeded and Failed are final: after
them only leftovers are tidied up.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from tidegate.api.model_version import ModelPhase
from tidegate.api.training_job import MLflowRun, RunOutcome, TrainingJob, TrainingPhase
from tidegate.domain.conditions import Health
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
from tidegate.domain.manifests import names
from tidegate.domain.manifests.placement import GPU
from tidegate.domain.trainer_config import explain_config
from tidegate.domain.training_evaluation import plan_evaluation
from tidegate.domain.training_failure import Failure, explain_job_failure, explain_pod_failure
from tidegate.domain.training_plan import (
    DeleteJob,
    EndRun,
    Intent,
    Observed,
    Run,
    StartJob,
    SteerJob,
    TrainingPlan,
)
from tidegate.domain.training_scene import (
    AT_ONCE,
    REGISTRY_RETRY,
    Scene,
    assess,
    fail,
    make_plan,
    seconds_left,
    seen,
    stop_clock,
    wait,
)

__all__ = ["FINAL", "is_unjudged", "needs_recorded_result", "needs_run", "plan_training"]

FINAL = frozenset({TrainingPhase.SUCCEEDED, TrainingPhase.FAILED})
BASE_RETRY = timedelta(seconds=15)
NAME_RETRY = timedelta(seconds=5)
NO_DEADLINE = 315_360_000
"""Ten years in seconds: stands for a deadline that was taken out of the spec of a running job."""
Stage = Callable[[Scene], TrainingPlan | None]


def plan_training(job: TrainingJob, observed: Observed, now: datetime) -> TrainingPlan:
    """Return what to do next for one TrainingJob."""
    scene = Scene(job, observed, now)
    for stage in STAGES:
        plan = stage(scene)
        if plan is not None:
            return plan
    return _train(scene)


def needs_run(job: TrainingJob, observed: Observed, now: datetime) -> bool:
    """Whether everything is there to start, except the MLflow run."""
    if observed.job or observed.run or observed.registry_problem:
        return False
    scene = Scene(job, observed, now)
    return all(stage(scene) is None for stage in STAGES[: STAGES.index(_await_run)])


def is_unjudged(job: TrainingJob, observed: Observed) -> bool:
    """Whether the Job is complete and its result is not written down: a ModelVersion may have to be named now."""
    if job.status.phase in FINAL or job.status.model_version:
        return False
    return observed.job is not None and observed.job.outcome is JobOutcome.COMPLETE


def needs_recorded_result(job: TrainingJob, observed: Observed, now: datetime) -> bool:
    """Whether the Job is complete, its result is not written down, and the pod that held it is gone."""
    return is_unjudged(job, observed) and not any(pod.exit_code == 0 for pod in observed.pods)


# ---- Stages: at the end, or at rest ----------------------------------------------------------------------------------


def _tidy_up(scene: Scene) -> TrainingPlan | None:
    """After the end: let the Job go, close the MLflow run. The verdict stays."""
    status, job = scene.status, scene.observed.job
    if status.phase not in FINAL:
        return None
    intents: list[Intent] = []
    if job is not None and job.outcome is JobOutcome.UNFINISHED:
        intents.append(DeleteJob())
    elif job is not None and job.ttl is None:
        ttl = scene.job.spec.ttl_seconds_after_finished
        intents.append(SteerJob(job.suspended, job.deadline, ttl))
    if status.mlflow is not None and status.mlflow.ended_as is None:
        outcome = RunOutcome.FINISHED if status.phase is TrainingPhase.SUCCEEDED else RunOutcome.FAILED
        intents.append(EndRun(status.mlflow.run_id, outcome))
        status = status.model_copy(update={"mlflow": status.mlflow.model_copy(update={"ended_as": outcome})})
    return TrainingPlan(seen(scene, status), tuple(intents))


def _give_up(scene: Scene) -> TrainingPlan | None:
    job = scene.observed.job
    if job is None or job.outcome is not JobOutcome.FAILED:
        return None
    return fail(scene, explain_job_failure(scene.job.spec, scene.status, job, scene.observed.pods))


def _suspend(scene: Scene) -> TrainingPlan | None:
    """Stop the pod; the trainer saves a checkpoint when it is told to end."""
    if not scene.job.spec.suspend:
        return None
    job = scene.observed.job
    intents = (_steer(scene, job, suspend=True),) if job is not None and not job.suspended else ()
    message = "suspended; set spec.suspend to false to go on from the last checkpoint"
    status = stop_clock(scene, assess(scene, TrainingPhase.SUSPENDED, None, "Suspended", message))
    return make_plan(scene, status, intents, Note("Suspended", message))


# ---- Stages: before there is a Job -----------------------------------------------------------------------------------


def _await_name(scene: Scene) -> TrainingPlan | None:
    foreign = scene.observed.foreign_job
    if foreign is None:
        return None
    message = f"Job {foreign} belongs to something else; waiting until it is gone (delete it if nobody needs it)"
    return wait(scene, "NameTaken", message, NAME_RETRY)


def _await_config(scene: Scene) -> TrainingPlan | None:
    """A wrong setting is told before a pod, and with it a GPU, is asked for."""
    trainer = scene.job.spec.trainer
    if scene.observed.job is not None or trainer.image is not None or trainer.algorithm is None:
        return None
    problems = explain_config(trainer.algorithm, trainer.config)
    if not problems:
        return None
    message = f"{'; '.join(problems)}. Nothing was started; create the TrainingJob again with this mended"
    return fail(scene, Failure("InvalidConfig", message))


def _await_base(scene: Scene) -> TrainingPlan | None:
    name, base = scene.job.spec.base_model_version, scene.observed.base
    if name is None or scene.observed.job is not None:
        return None
    if base is None:
        message = f"ModelVersion {name} (spec.baseModelVersion) does not exist; create it"
        return wait(scene, "BaseModelVersionNotFound", message, BASE_RETRY)
    if base.phase is ModelPhase.REJECTED:
        message = (
            f"ModelVersion {name} (spec.baseModelVersion) was rejected; create the job again with one that is Ready"
        )
        return fail(scene, Failure("BaseModelVersionRejected", message))
    if base.phase is not ModelPhase.READY:
        message = f"waiting until ModelVersion {name} (spec.baseModelVersion) is Ready; it is {base.phase}"
        return wait(scene, "BaseModelVersionNotReady", message, BASE_RETRY)
    return None


def _await_run(scene: Scene) -> TrainingPlan | None:
    if scene.observed.job is not None or scene.observed.run is not None:
        return None
    problem = scene.observed.registry_problem
    message = f"MLflow does not answer ({problem}); checkpoints and the model go there. It is tried again by itself"
    return wait(scene, "MLflowUnavailable", message, REGISTRY_RETRY)


def _start(scene: Scene) -> TrainingPlan | None:
    """Write down what the Job will be and which run it gets; then, in the next pass, make it.

    A run that nobody remembers would be lost if the operator ended between the two.
    """
    run = scene.observed.run
    if scene.observed.job is not None or run is None:
        return None
    note = Note("Starting", "the trainer is being started")
    status = stop_clock(scene, assess(scene, TrainingPhase.PENDING, Health.RECONCILING, note.reason, note.message))
    left = seconds_left(scene, status)
    if left is not None and left <= 0:
        return fail(scene, _out_of_time(scene))
    if status.job_name is not None:
        return make_plan(scene, status, (StartJob(run, left, scene.observed.base),), note, POD_PATIENCE)
    changes = {
        "job_name": names.training_job(scene.job.metadata.name),
        "started_at": scene.now,
        "mlflow": _record_run(run),
    }
    return make_plan(scene, status.model_copy(update=changes), (), note, AT_ONCE)


def _record_run(run: Run) -> MLflowRun | None:
    if not run.run_id:
        return None
    return MLflowRun(experiment_id=run.experiment_id, run_id=run.run_id, artifact_uri=run.artifact_uri)


# ---- Stages: there is a Job ------------------------------------------------------------------------------------------


def _resume(scene: Scene) -> TrainingPlan | None:
    job = scene.observed.job
    if job is None or not job.suspended:
        return None
    if job.suspended_since is None:
        return wait(scene, "Suspending", "waiting until the pods of the former run have stopped")
    left = seconds_left(scene, scene.status)
    if left is not None and left <= 0:
        return fail(scene, _out_of_time(scene))
    message = "going on from the last checkpoint"
    status = assess(scene, TrainingPhase.PENDING, Health.RECONCILING, "Resuming", message)
    return make_plan(scene, status, (_steer(scene, job, suspend=False),), Note("Resuming", message))


def _leave_lost_node(scene: Scene) -> TrainingPlan | None:
    """Make the Job anew when the node of its pod does not answer: the Job itself would wait for that pod for ever."""
    lost = lost_pods(scene.observed.pods, scene.now)
    if not lost:
        return None
    pod = lost[-1]
    message = f"node {pod.node} does not answer; pod {pod.name} is given up, training goes on from the last checkpoint"
    note = Note("NodeLost", message, warning=True)
    status = assess(scene, TrainingPhase.PENDING, Health.RECONCILING, note.reason, note.message)
    return make_plan(scene, stop_clock(scene, status), (DeleteJob(),), note, AT_ONCE)


def _train(scene: Scene) -> TrainingPlan:
    """The Job runs: say what its newest pod is doing, and keep in step with the spec what can be changed."""
    job = scene.observed.job
    if job is None:
        raise AssertionError("without a Job an earlier stage decides")
    phase, note, patience = _describe(scene, job)
    status = assess(scene, phase, Health.RECONCILING, note.reason, note.message)
    status = status.model_copy(update={"resumed_at": job.started_at or status.resumed_at})
    wanted = _steer(scene, job, suspend=False)
    steer = () if job.deadline == wanted.deadline else (wanted,)
    return make_plan(scene, status, steer, note, _earliest(patience, until_lost(scene.observed.pods, scene.now)))


STAGES: tuple[Stage, ...] = (
    _tidy_up,
    plan_evaluation,
    _give_up,
    _suspend,
    _await_name,
    _await_config,
    _await_base,
    _await_run,
    _start,
    _resume,
    _leave_lost_node,
)


def _steer(scene: Scene, job: JobState, *, suspend: bool) -> SteerJob:
    left = seconds_left(scene, scene.status)
    deadline = max(1, left) if left is not None else NO_DEADLINE if job.deadline is not None else None
    return SteerJob(suspend, deadline)


def _out_of_time(scene: Scene) -> Failure:
    limit = scene.job.spec.active_deadline_seconds
    return Failure(
        "DeadlineExceeded", f"spec.activeDeadlineSeconds ({limit}) is used up; raise it in a new TrainingJob"
    )


def _earliest(*times: timedelta | None) -> timedelta | None:
    known = [each for each in times if each is not None]
    return min(known) if known else None


# ---- What a running Job waits for ------------------------------------------------------------------------------------


def _describe(scene: Scene, job: JobState) -> tuple[TrainingPhase, Note, timedelta | None]:
    """Return phase, note, and the time after which silence means something."""
    running = [pod for pod in scene.observed.pods if not pod.ended and pod.gone_by is None]
    if not running:
        return _describe_no_pod(scene, job)
    pod = running[-1]
    again = _explain_attempt(scene, job)
    if pod.unschedulable:
        return TrainingPhase.PENDING, _explain_unschedulable(scene, pod.unschedulable), None
    if pod.waiting_reason in NEVER_STARTED:
        return TrainingPhase.PENDING, _explain_no_start(scene, pod), None
    if pod.phase == "Running":
        return TrainingPhase.RUNNING, Note("Training", f"the trainer runs in pod {pod.name}{again}"), None
    return TrainingPhase.PENDING, Note("PodStarting", f"pod {pod.name} is starting{again}"), None


def _describe_no_pod(scene: Scene, job: JobState) -> tuple[TrainingPhase, Note, timedelta | None]:
    if scene.observed.pods and scene.observed.pods[-1].exit_code == 0:
        return TrainingPhase.RUNNING, Note("Finishing", "the trainer has ended; its result is about to be read"), None
    since = max(job.created, job.started_at or job.created)
    waited = scene.now - since
    if scene.observed.pods or waited < POD_PATIENCE:
        note = Note("WaitingForPod", f"waiting for the next pod{_explain_attempt(scene, job)}")
        return TrainingPhase.PENDING, note, None if scene.observed.pods else POD_PATIENCE - waited
    message = (
        f"Job {job.name} has no pod after {int(POD_PATIENCE.total_seconds())} s: the API server refuses it (a quota, "
        f"a missing runtime class, an admission policy). See kubectl describe job {job.name}; it is tried again"
    )
    return TrainingPhase.PENDING, Note("PodRefused", message, warning=True), None


def _explain_unschedulable(scene: Scene, scheduler: str) -> Note:
    gpus = scene.job.spec.resources.gpus
    what, remedy = "room for spec.resources", "free or add capacity, or ask for less in a new TrainingJob"
    if gpus and GPU in scheduler:
        what = f"{gpus} free {GPU}"
        remedy = "add a GPU node with the NVIDIA device plugin, or lower spec.resources.gpus"
    message = f"no node has {what}: {remedy}. The training starts by itself when one has ({scheduler})"
    return Note("Unschedulable", message, warning=True)


def _explain_no_start(scene: Scene, pod: PodState) -> Note:
    source = "spec.trainer.image" if scene.job.spec.trainer.image else "the chart's trainer image"
    remedy = f"Check {source} and the rights to pull it"
    if pod.waiting_reason in ("CreateContainerConfigError", "CreateContainerError"):
        remedy = "Mend what it names"
    message = (
        f"pod {pod.name} does not start: {pod.waiting_message or pod.waiting_reason}. {remedy}; it goes on by itself"
    )
    return Note(pod.waiting_reason or "PodNotStarting", message, warning=True)


def _explain_attempt(scene: Scene, job: JobState) -> str:
    """Say how often it was tried, and why not only once; empty at the first try."""
    if not job.failed:
        return ""
    ended = [pod for pod in scene.observed.pods if pod.ended and pod.exit_code != 0]
    before = explain_pod_failure(scene.job.spec, ended[-1]) if ended else None
    reason = f"; the one before: {before.reason}: {before.message}" if before else ""
    return f" (attempt {job.failed + 1} of {job.backoff_limit + 1}, from the last checkpoint{reason})"
