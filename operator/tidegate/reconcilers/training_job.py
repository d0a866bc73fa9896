"""TrainingJob: gathers what is known, lets the planner decide, acts, and writes the status down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from tidegate.api.model_version import ModelPhase
from tidegate.api.training_job import RunOutcome, TrainingJob
from tidegate.domain.jobs import JobState, PodState, read_job, read_pod
from tidegate.domain.manifests import names
from tidegate.domain.manifests.training_job import (
    CONTAINER,
    CONTROL_MANAGER,
    MAKER_LABEL,
    TrainingConfig,
    build_handover,
    build_model_version,
    build_steering,
    build_training,
)
from tidegate.domain.mlflow_names import experiment_name, run_tags
from tidegate.domain.training import is_unjudged, needs_recorded_result, needs_run, plan_training
from tidegate.domain.training_plan import (
    BaseVersion,
    CreateVersion,
    DeleteJob,
    EndRun,
    HandOver,
    Intent,
    Observed,
    Run,
    StartJob,
    SteerJob,
    Target,
    TrainingPlan,
    VersionState,
)
from tidegate.errors import Stalled, Unavailable
from tidegate.ports import (
    DEPLOYMENT,
    JOB,
    MODEL_VERSION,
    POD,
    Clock,
    Creation,
    Events,
    Key,
    Manifest,
    Objects,
    Registry,
    Requeue,
    Telemetry,
)
from tidegate.reconcilers.pattern import Gone, read

__all__ = ["TrainingJobReconciler"]

HANDOVER_MANAGER = "tidegate-handover"
REGISTRY_RETRY = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Sight:
    """A TrainingJob and everything that matters for it."""

    job: TrainingJob
    manifest: Manifest
    observed: Observed


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run in MLflow that is to be closed when its TrainingJob is deleted."""

    run_id: str
    manifest: Manifest
    """The TrainingJob, to tell people about when it is gone."""

    @property
    def uid(self) -> str:
        """Identity of the TrainingJob."""
        return str(self.manifest["metadata"]["uid"])


class TrainingJobReconciler:
    """Brings one TrainingJob nearer to a ModelVersion."""

    def __init__(
        self,
        objects: Objects,
        creation: Creation,
        registry: Registry | None,
        events: Events,
        telemetry: Telemetry,
        clock: Clock,
        config: TrainingConfig,
    ) -> None:
        """Use these; `registry` is None when no MLflow is configured."""
        self._objects = objects
        self._creation = creation
        self._registry = registry
        self._events = events
        self._telemetry = telemetry
        self._clock = clock
        self._config = config
        self._open_runs: dict[Key, OpenRun] = {}

    async def reconcile(self, key: Key) -> Requeue | None:
        """Observe, plan, act, record."""
        try:
            sight = await self._observe(key)
        except Gone:
            await self._cancel(key)
            raise
        await self._cancel(key, successor=sight.job.metadata.uid)
        plan = plan_training(sight.job, sight.observed, self._clock.now())
        plan = await self._act(sight, plan)
        return await self._record(key, sight, plan)

    # ---- observe -----------------------------------------------------------------------------------------------------

    async def _observe(self, key: Key) -> Sight:
        job, manifest = read(self._objects, key, TrainingJob)
        if job.metadata.deletion_timestamp is not None:
            raise Gone
        observed = self._gather(job)
        now = self._clock.now()
        if needs_run(job, observed, now):
            observed = await self._ensure_run(job, observed)
        if needs_recorded_result(job, observed, now):
            observed = await self._recall_result(observed)
        return Sight(job, manifest, observed)

    def _gather(self, job: TrainingJob) -> Observed:
        namespace, spec, status = job.metadata.namespace, job.spec, job.status
        found = self._find_job(job)
        own = found if found is not None and found.owner_uid == job.metadata.uid else None
        recorded = status.mlflow
        run = Run(recorded.experiment_id, recorded.run_id, recorded.artifact_uri) if recorded else None
        deploy = spec.output.deploy
        observed = Observed(
            job=own,
            foreign_job=found.name if found is not None and own is None else None,
            pods=self._find_pods(job, own) if own else (),
            run=run,
            base=_read_base(self._get(MODEL_VERSION, namespace, spec.base_model_version)),
            target=_read_target(self._get(DEPLOYMENT, namespace, deploy.name if deploy else None)),
        )
        versions = self._find_versions(job, observed)
        return replace(observed, versions=tuple(_read_version(each) for each in versions))

    def _find_versions(self, job: TrainingJob, observed: Observed) -> Sequence[Manifest]:
        """Go through all of the namespace only while one has to be named: there may be thousands."""
        namespace, target = job.metadata.namespace, observed.target
        if is_unjudged(job, observed):
            return self._objects.list(MODEL_VERSION, namespace)
        made = self._objects.list(MODEL_VERSION, namespace, {MAKER_LABEL: job.metadata.uid})
        wanted, stable = (target.wanted, target.stable) if target else (None, None)
        compared = (self._get(MODEL_VERSION, namespace, name) for name in (wanted, stable))
        return [*made, *(each for each in compared if each is not None)]

    def _get(self, kind: Any, namespace: str, name: str | None) -> Manifest | None:
        return self._objects.get(Key(kind, namespace, name)) if name else None

    def _find_job(self, job: TrainingJob) -> JobState | None:
        manifest = self._objects.get(_job_key(job))
        return read_job(manifest) if manifest is not None else None

    def _find_pods(self, job: TrainingJob, owner: JobState) -> tuple[PodState, ...]:
        label = {names.TRAINING_JOB_LABEL: names.label_value(job.metadata.name)}
        pods = [read_pod(each, CONTAINER) for each in self._objects.list(POD, job.metadata.namespace, label)]
        return tuple(sorted((pod for pod in pods if pod.owner_uid == owner.uid), key=lambda pod: pod.created))

    async def _ensure_run(self, job: TrainingJob, observed: Observed) -> Observed:
        """The one thing that observing makes: a run has to be there before anything can be planned with it."""
        metadata = job.metadata
        if self._registry is None:
            return replace(observed, run=self._place_without_registry(job))
        experiment = experiment_name(metadata.namespace, job.spec.model)
        try:
            run = await self._registry.ensure_run(experiment, metadata.uid, run_tags(job))
        except Unavailable as error:
            return replace(observed, registry_problem=error.message)
        return replace(observed, run=run)

    def _place_without_registry(self, job: TrainingJob) -> Run:
        root = self._config.artifact_root
        if root is None:
            message = "neither MLflow nor an artifact root is configured; set mlflow.url in the chart's values"
            raise Stalled("NoArtifactStore", message)
        place = f"{root.rstrip('/')}/{job.metadata.namespace}/{job.metadata.name}/{job.metadata.uid}"
        return Run(experiment_id="", run_id="", artifact_uri=place)

    async def _recall_result(self, observed: Observed) -> Observed:
        if self._registry is None or observed.run is None or not observed.run.run_id:
            return observed
        try:
            return replace(observed, recorded_result=await self._registry.recorded_result(observed.run.run_id))
        except Unavailable as error:
            return replace(observed, registry_problem=error.message)

    # ---- act ---------------------------------------------------------------------------------------------------------

    async def _act(self, sight: Sight, plan: TrainingPlan) -> TrainingPlan:
        """Do what is planned; only the closing of the MLflow run may fail without an effect on the rest."""
        for intent in plan.intents:
            if not isinstance(intent, EndRun):
                await self._do(sight, intent)
            elif not await self._end_run(intent.run_id, intent.outcome):
                status = plan.status.model_copy(update={"mlflow": sight.job.status.mlflow})
                plan = replace(plan, status=status, recheck_after=REGISTRY_RETRY)
        return plan

    async def _do(self, sight: Sight, intent: Intent) -> None:
        job, namespace = sight.job, sight.job.metadata.namespace
        match intent:
            case StartJob():
                for manifest in build_training(job, intent, self._config):
                    await self._objects.apply(manifest)
            case SteerJob():
                await self._objects.apply(build_steering(job, intent), field_manager=CONTROL_MANAGER)
            case DeleteJob():
                await self._objects.delete(_job_key(job))
            case CreateVersion():
                await self._creation.create(build_model_version(job, intent))
            case HandOver():
                await self._objects.apply(build_handover(namespace, intent), field_manager=HANDOVER_MANAGER)

    async def _end_run(self, run_id: str, outcome: RunOutcome) -> bool:
        try:
            if self._registry is not None:
                await self._registry.end_run(run_id, outcome)
        except Unavailable:
            return False
        return True

    async def _cancel(self, key: Key, successor: str | None = None) -> None:
        """The TrainingJob was deleted, perhaps for a successor of its name: its Job goes with it, its run is closed.

        No finalizer waits for that: a deletion must end while MLflow, or the operator itself, is away. The trainer
        closes the run as well when it is told to stop; what may stay open is said. A run that both miss, because the
        operator is away and the trainer is killed outright, only a search of MLflow finds (docs/troubleshooting.md).
        """
        left = self._open_runs.get(key)
        if left is None or left.uid == successor:
            return
        del self._open_runs[key]
        if not await self._end_run(left.run_id, RunOutcome.KILLED):
            message = (
                f"MLflow does not answer, so its run {left.run_id} may seem to go on; the trainer closes it when it is"
                " told to stop, or set its status to KILLED there"
            )
            self._events.emit(left.manifest, "RunNotClosed", message, warning=True)

    # ---- record ------------------------------------------------------------------------------------------------------

    async def _record(self, key: Key, sight: Sight, plan: TrainingPlan) -> Requeue | None:
        self._remember_run(key, sight, plan)
        if plan.status != sight.job.status:
            await self._objects.patch_status(sight.manifest, plan.status.to_json())
        for note in plan.notes:
            self._events.emit(sight.manifest, note.reason, note.message, warning=note.warning)
            self._telemetry.count_decision("TrainingJob", plan.status.phase, note.reason)
        return Requeue(plan.recheck_after) if plan.recheck_after is not None else None

    def _remember_run(self, key: Key, sight: Sight, plan: TrainingPlan) -> None:
        run = plan.status.mlflow
        if run is not None and run.ended_as is None:
            self._open_runs[key] = OpenRun(run.run_id, sight.manifest)
        else:
            self._open_runs.pop(key, None)


def _job_key(job: TrainingJob) -> Key:
    return Key(JOB, job.metadata.namespace, names.training_job(job.metadata.name))


def _read_version(manifest: Mapping[str, Any]) -> VersionState:
    metadata, spec, status = manifest["metadata"], manifest["spec"], manifest.get("status") or {}
    return VersionState(
        name=metadata["name"],
        model=spec["model"],
        version=spec["version"],
        phase=ModelPhase(status.get("phase", ModelPhase.PENDING)),
        message=status.get("message", ""),
        metrics=status.get("metrics") or {},
        maker=(metadata.get("labels") or {}).get(MAKER_LABEL),
    )


def _read_base(manifest: Mapping[str, Any] | None) -> BaseVersion | None:
    if manifest is None:
        return None
    artifact, status = manifest["spec"]["artifact"], manifest.get("status") or {}
    return BaseVersion(ModelPhase(status.get("phase", ModelPhase.PENDING)), artifact["uri"], artifact["sha256"])


def _read_target(manifest: Mapping[str, Any] | None) -> Target | None:
    if manifest is None:
        return None
    stable = (manifest.get("status") or {}).get("stable") or {}
    metadata = manifest["metadata"]
    return Target(metadata["name"], metadata["uid"], manifest["spec"]["modelVersion"], stable.get("modelVersion"))
