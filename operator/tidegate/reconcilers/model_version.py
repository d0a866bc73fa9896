"""ModelVersion: gathers what is known, lets the planner decide, acts, and writes the status down."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidegate.api.model_version import ModelVersion, Role, ServedBy
from tidegate.domain.jobs import JobState, PodState, read_job, read_pod
from tidegate.domain.manifests import names
from tidegate.domain.manifests.training_job import CONTROL_MANAGER
from tidegate.domain.manifests.validation_job import CONTAINER, ValidationConfig, build_expiry, build_validation
from tidegate.domain.mlflow_names import find_run, registered_name, version_tags
from tidegate.domain.promotion import (
    MANAGED_ALIASES,
    REGISTRY_UNAVAILABLE,
    DeleteValidation,
    ExpireValidation,
    Intent,
    Mirror,
    MirrorProblem,
    Observed,
    StartValidation,
    VersionPlan,
    conclude_mirror,
    plan_model_version,
)
from tidegate.errors import Unavailable
from tidegate.ports import (
    DEPLOYMENT,
    JOB,
    POD,
    ROUTE,
    TRAINING_JOB,
    Clock,
    Events,
    Key,
    Manifest,
    Objects,
    Registry,
    Requeue,
    Telemetry,
)
from tidegate.reconcilers.pattern import Gone, read
from tidegate.references import referring_to

__all__ = ["ModelVersionReconciler"]

MOST_USERS = 16
"""How many users a ModelVersion lists: a status is bounded."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A ModelVersion and everything that matters for it."""

    version: ModelVersion
    manifest: Manifest
    observed: Observed


class ModelVersionReconciler:
    """Brings one ModelVersion to its verdict, and keeps the MLflow registry in step with it."""

    def __init__(
        self,
        objects: Objects,
        registry: Registry | None,
        events: Events,
        telemetry: Telemetry,
        clock: Clock,
        config: ValidationConfig,
    ) -> None:
        """Use these; `registry` is None when no MLflow is configured."""
        self._objects = objects
        self._registry = registry
        self._events = events
        self._telemetry = telemetry
        self._clock = clock
        self._config = config

    async def reconcile(self, key: Key) -> Requeue | None:
        """Observe, plan, act, record."""
        try:
            sight = self._observe(key)
        except Gone:
            self._tell_users(key)
            raise
        plan = plan_model_version(sight.version, sight.observed, self._clock.now())
        plan = await self._act(sight, plan)
        return await self._record(sight, plan)

    # ---- observe -----------------------------------------------------------------------------------------------------

    def _observe(self, key: Key) -> Sight:
        version, manifest = read(self._objects, key, ModelVersion)
        if version.metadata.deletion_timestamp is not None:
            raise Gone
        found = self._find_job(version)
        own = found if found is not None and found.owner_uid == version.metadata.uid else None
        observed = Observed(
            job=own,
            foreign_job=found.name if found is not None and own is None else None,
            pods=self._find_pods(version, own) if own else (),
            training_metrics=self._find_training_metrics(version),
            served_by=self._find_users(key),
            registry=self._registry is not None,
        )
        return Sight(version, manifest, observed)

    def _tell_users(self, key: Key) -> None:
        """A ModelVersion was deleted while Deployments use it: they go on, and people learn what does not work now."""
        for manifest in self._objects.list(DEPLOYMENT, key.namespace, referring_to(key)):
            used = _read_deployment(manifest, key.name)
            if used and not manifest["metadata"].get("deletionTimestamp"):
                roles = " and ".join(each.role for each in used)
                message = (
                    f"ModelVersion {key.name} was deleted while it serves ({roles}): its pods go on, but of"
                    " spec.serving only replicas can change now; create it again with the same artifact, or"
                    " release another version"
                )
                self._events.emit(manifest, "ModelVersionDeleted", message, warning=True)

    def _find_job(self, version: ModelVersion) -> JobState | None:
        manifest = self._objects.get(_job_key(version))
        return read_job(manifest) if manifest is not None else None

    def _find_pods(self, version: ModelVersion, owner: JobState) -> tuple[PodState, ...]:
        label = names.child_labels("validation", {names.MODEL_VERSION_LABEL: version.metadata.name})
        pods = [read_pod(each, CONTAINER) for each in self._objects.list(POD, version.metadata.namespace, label)]
        return tuple(sorted((pod for pod in pods if pod.owner_uid == owner.uid), key=lambda pod: pod.created))

    def _find_training_metrics(self, version: ModelVersion) -> Mapping[str, float]:
        """What the TrainingJob measured, if it says itself that this version is its own."""
        name = version.spec.lineage.training_job
        manifest = self._objects.get(Key(TRAINING_JOB, version.metadata.namespace, name)) if name else None
        status = (manifest or {}).get("status") or {}
        metrics: Mapping[str, float] = status.get("metrics") or {}
        return metrics if status.get("modelVersion") == version.metadata.name else {}

    def _find_users(self, key: Key) -> tuple[ServedBy, ...]:
        deployments, routes = (
            self._objects.list(kind, key.namespace, referring_to(key)) for kind in (DEPLOYMENT, ROUTE)
        )
        users = [each for manifest in deployments for each in _read_deployment(manifest, key.name)]
        users += [each for manifest in routes for each in _read_variants(manifest, key.name)]
        return tuple(sorted(users, key=lambda user: -user.percent)[:MOST_USERS])

    # ---- act ---------------------------------------------------------------------------------------------------------

    async def _act(self, sight: Sight, plan: VersionPlan) -> VersionPlan:
        """Do what is planned; the registry completes the plan, and its absence stops nothing."""
        for intent in plan.intents:
            if isinstance(intent, Mirror):
                plan = await self._mirror(sight.version, intent, plan)
            else:
                await self._do(sight.version, intent)
        return plan

    async def _do(self, version: ModelVersion, intent: Intent) -> None:
        match intent:
            case StartValidation():
                for manifest in build_validation(version, self._config):
                    await self._objects.apply(manifest)
            case DeleteValidation():
                await self._objects.delete(_job_key(version))
            case ExpireValidation():
                await self._objects.apply(build_expiry(version, intent.ttl), field_manager=CONTROL_MANAGER)

    async def _mirror(self, version: ModelVersion, intent: Mirror, plan: VersionPlan) -> VersionPlan:
        if self._registry is None:
            return plan
        outcome: str | MirrorProblem
        try:
            outcome = await self._register(self._registry, version, intent)
        except Unavailable as error:
            outcome = MirrorProblem(error.reason, error.message, is_passing=error.reason == REGISTRY_UNAVAILABLE)
        return conclude_mirror(plan, outcome, self._clock.now())

    async def _register(self, registry: Registry, version: ModelVersion, intent: Mirror) -> str:
        spec, metadata = version.spec, version.metadata
        model = registered_name(metadata.namespace, spec.model)
        number = await registry.ensure_version(
            model, metadata.uid, spec.artifact.uri, find_run(version), version_tags(version)
        )
        await registry.set_stage(model, number, intent.stage, intent.aliases, MANAGED_ALIASES)
        return number

    # ---- record ------------------------------------------------------------------------------------------------------

    async def _record(self, sight: Sight, plan: VersionPlan) -> Requeue | None:
        if plan.status != sight.version.status:
            await self._objects.patch_status(sight.manifest, plan.status.to_json())
        for note in plan.notes:
            self._events.emit(sight.manifest, note.reason, note.message, warning=note.warning)
            self._telemetry.count_decision("ModelVersion", plan.status.phase, note.reason)
        return Requeue(plan.recheck_after) if plan.recheck_after is not None else None


def _job_key(version: ModelVersion) -> Key:
    return Key(JOB, version.metadata.namespace, names.validation_job(version.metadata.name))


def _read_deployment(manifest: Mapping[str, Any], version: str) -> list[ServedBy]:
    status, name = manifest.get("status") or {}, manifest["metadata"]["name"]
    roles = ((Role.STABLE, status.get("stable")), (Role.CANARY, status.get("canary")))
    return [
        ServedBy(deployment=name, role=role, percent=part.get("percent", 0))
        for role, part in roles
        if part and part.get("modelVersion") == version
    ]


def _read_variants(manifest: Mapping[str, Any], version: str) -> list[ServedBy]:
    """Variants of a test stand in the Route only; their share is the one that the proxies have confirmed."""
    spec, status = manifest.get("spec") or {}, manifest.get("status") or {}
    shares = {each["modelVersion"]: each.get("percent", 0) for each in status.get("weights") or ()}
    return [
        ServedBy(deployment=spec["deployment"], role=Role.VARIANT, percent=shares.get(version, 0))
        for each in spec.get("backends") or ()
        if each.get("role") == Role.VARIANT and each["modelVersion"] == version
    ]
