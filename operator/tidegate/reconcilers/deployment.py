"""Deployment: keeps the pods, the shares and the status of one endpoint at what the release planner says."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from tidegate.api.ab_test import ABTest
from tidegate.api.deployment import Deployment, DeploymentStatus, Verdict
from tidegate.api.model_version import ModelVersion, Role
from tidegate.domain.commands import parse_command
from tidegate.domain.experiment import find_experiment
from tidegate.domain.manifests import names
from tidegate.domain.manifests.comparator import build_comparator
from tidegate.domain.manifests.route import build_route
from tidegate.domain.manifests.serving import Platform, build_endpoint, build_scale, build_serving
from tidegate.domain.reasons import Action, Reason
from tidegate.domain.release import (
    ApplyComparator,
    ApplyWorkload,
    Comparator,
    DeleteComparator,
    DeleteWorkload,
    Experiment,
    ModelState,
    Observed,
    Period,
    Plan,
    SetRoute,
    VersionID,
    Workload,
)
from tidegate.domain.rollout import budget_due, measurements_due, plan_rollout, questions_due
from tidegate.domain.situation import identify
from tidegate.errors import Conflict, Waiting
from tidegate.ports import (
    ABTEST,
    DEPLOYMENT,
    MODEL_VERSION,
    POD,
    ROUTE,
    SERVICE,
    WORKLOAD,
    Clock,
    Creation,
    Events,
    Gates,
    Key,
    Kind,
    Manifest,
    MetricSource,
    Objects,
    Requeue,
    Telemetry,
)
from tidegate.reconcilers.observation import (
    Scene,
    former_versions,
    known_versions,
    make_served,
    make_shadowing,
    model_state,
    read_comparator,
    read_route,
    read_workload,
    version_of,
)
from tidegate.reconcilers.pattern import Gone, parse, parse_all, read
from tidegate.reconcilers.turns import Turns
from tidegate.references import referring_to

__all__ = ["DeploymentReconciler"]

SCALE_MANAGER = "tidegate-scale"
"""Field manager that owns only spec.replicas of a workload that cannot be built any more."""
WARNINGS = frozenset({Action.ROLL_BACK, Action.ABORT, Action.HOLD, Action.REFUSE_COMMAND})
INTENDED = frozenset({Reason.OUTSIDE_RELEASE_WINDOW, Reason.RELEASE_LIMIT})
"""What somebody has set up to hold a release is no reason to warn."""
LONGEST_QUERY = timedelta(seconds=5)
NAME_TAKEN_RECHECK = timedelta(seconds=30)


class DeploymentReconciler:
    """Reconciles one Deployment at a time."""

    def __init__(
        self,
        objects: Objects,
        creation: Creation,
        metrics: MetricSource,
        gates: Gates,
        events: Events,
        telemetry: Telemetry,
        clock: Clock,
        platform: Platform,
        turns: Turns,
    ) -> None:
        """Take the ports, what all serving pods have in common, and whose turn it is to release."""
        self._objects = objects
        self._creation = creation
        self._metrics = metrics
        self._gates = gates
        self._events = events
        self._telemetry = telemetry
        self._clock = clock
        self._platform = platform
        self._turns = turns

    async def reconcile(self, key: Key) -> Requeue | None:
        """Observe, plan, act, record.

        A decision that rests on measurements is recorded before it is acted on: they may not be had a second time.
        Whose turn it is to release is looked up, and what is planned is noted, without a moment in between.
        """
        now = self._clock.now()
        scene = await self._observe(key, now)
        observed = replace(scene.observed, releases=self._turns.look(key))
        plan = plan_rollout(scene.deployment.spec, scene.deployment.status, observed, now)
        self._turns.plan(key, plan.status)
        for step in (self._record, self._act) if plan.record_first else (self._act, self._record):
            await step(scene, plan)
        return Requeue(plan.recheck_after) if plan.recheck_after is not None else None

    # Observe

    async def _observe(self, key: Key, now: datetime) -> Scene:
        try:
            deployment, manifest = read(self._objects, key, Deployment)
        except Gone:
            self._telemetry.forget(key.namespace, key.name)
            self._turns.confirm(key, DeploymentStatus())
            raise
        scene = await self._measure_budget(self._gather(key, deployment, manifest), now)
        about = (deployment.spec, deployment.status, scene.observed, now)
        queries, questions = measurements_due(*about), questions_due(*about)
        if not queries and not questions:
            return scene
        patience = min(LONGEST_QUERY, deployment.spec.analysis.interval * 0.8)
        measuring = self._metrics.measure(key.namespace, key.name, queries, patience)
        if not questions:
            return replace(scene, observed=replace(scene.observed, measurements=await measuring))
        measured, answers = await asyncio.gather(measuring, self._gates.ask(key.namespace, questions, patience))
        return replace(scene, observed=replace(scene.observed, measurements=measured, answers=answers))

    async def _measure_budget(self, scene: Scene, now: datetime) -> Scene:
        spec, status = scene.deployment.spec, scene.deployment.status
        start = budget_due(spec, status, scene.observed, now)
        if start is None:
            return scene
        about = scene.deployment.metadata
        period = Period.cut(start, now, about.creation_timestamp)
        measured = await self._metrics.measure_failures(scene.namespace, about.name, period, LONGEST_QUERY)
        return replace(scene, observed=replace(scene.observed, budget=measured))

    def _gather(self, key: Key, deployment: Deployment, manifest: Manifest) -> Scene:
        namespace, name = key.namespace, key.name
        lives = self._children(WORKLOAD, "serving", namespace, name)
        known = known_versions(deployment.status, lives)
        command = parse_command(deployment.metadata.annotations.get(names.COMMAND_ANNOTATION))
        former = former_versions(deployment.status, command)
        used = {each.model_version for each in known | former}
        models = self._models(namespace, {deployment.spec.model_version, *used})
        target = models.get(deployment.spec.model_version)
        if target is not None:
            known.add(VersionID(deployment.spec.model_version, target.spec.artifact.sha256))
        experiment = self._find_experiment(namespace, name, models)
        if experiment is not None:
            known.add(experiment.version)
        route = self._objects.get(Key(ROUTE, namespace, names.route(name)))
        observed = Observed(
            name=name,
            generation=deployment.metadata.generation,
            state=ModelState.from_phase(target.status.phase if target else None),
            digest=target.spec.artifact.sha256 if target else None,
            state_message=target.status.message if target else "",
            workloads=self._read_workloads(deployment, models, lives),
            route=read_route(route, name, known),
            comparators=self._read_comparators(deployment),
            command=command,
            releases=self._turns.look(key),
            former={each: model_state(models, each) for each in former},
            experiment=experiment,
            endpoint=f"http://{names.endpoint(name)}.{namespace}:{self._platform.envoy_port}",
        )
        return Scene(key, deployment, manifest, self._platform, models, observed)

    def _find_experiment(self, namespace: str, name: str, models: dict[str, ModelVersion]) -> Experiment | None:
        """Find the split that a running test asks for; the model of its arm joins `models`."""
        mine = referring_to(Key(DEPLOYMENT, namespace, name))
        tests = parse_all(ABTest, self._objects.list(ABTEST, namespace, mine))

        def digest_of(version: str) -> str | None:
            models.update(self._models(namespace, {version}))
            return models[version].spec.artifact.sha256 if version in models else None

        return find_experiment(name, tests, digest_of) if tests else None

    def _children(self, kind: Kind, component: str, namespace: str, name: str) -> list[Manifest]:
        labels = names.child_labels(component, {names.DEPLOYMENT_LABEL: name})
        return list(self._objects.list(kind, namespace, labels))

    def _models(self, namespace: str, wanted: Iterable[str]) -> dict[str, ModelVersion]:
        found = ((name, self._objects.get(Key(MODEL_VERSION, namespace, name))) for name in sorted(set(wanted)))
        return {name: parse(ModelVersion, manifest) for name, manifest in found if manifest is not None}

    def _read_workloads(
        self, deployment: Deployment, models: Mapping[str, ModelVersion], lives: Iterable[Manifest]
    ) -> dict[VersionID, Workload]:
        workloads = {}
        for live in lives:
            version = version_of(live)
            if version is None:
                continue
            served = make_served(deployment, models, version)
            pods = self._pods(deployment, live, "serving")
            workloads[version] = read_workload(live, version, served, self._platform, pods)
        return workloads

    def _read_comparators(self, deployment: Deployment) -> dict[VersionID, Comparator]:
        where = (deployment.metadata.namespace, deployment.metadata.name)
        stable, canary = deployment.status.stable, deployment.status.canary
        services, lives = (self._children(kind, "comparator", *where) for kind in (SERVICE, WORKLOAD))
        found = {}
        for version in {version for each in (*services, *lives) if (version := version_of(each))}:
            wanted = None
            if stable and canary and identify(canary) == version:
                built = build_comparator(make_shadowing(deployment, version, identify(stable)), self._platform)
                wanted = built.workload if _names(built.services) <= _names(services) else None
            live = next((each for each in lives if version_of(each) == version), None)
            pods = self._pods(deployment, live, "comparator") if live else []
            found[version] = read_comparator(live, wanted, pods)
        return found

    def _pods(self, deployment: Deployment, live: Manifest, component: str) -> list[Manifest]:
        labels = names.child_labels(component, {names.DEPLOYMENT_LABEL: deployment.metadata.name})
        mine = labels | {names.WORKLOAD_LABEL: live["metadata"]["name"]}
        return list(self._objects.list(POD, deployment.metadata.namespace, mine))

    # Act

    async def _act(self, scene: Scene, plan: Plan) -> None:
        """Pods first, then shares, then what nobody needs any more; the address, which seldom changes, last."""
        basis = None if plan.record_first else scene.manifest  # a status just written was of the newest state
        for intent in plan.apply:
            await self._apply(scene, intent)
        if plan.route is not None:
            metadata = scene.deployment.metadata
            route = build_route(scene.namespace, metadata.name, metadata.uid, plan.route)
            await self._objects.apply(route, decided_on=basis, resting_on=self._find_pods_of(scene, plan.route))
        for removal in plan.delete:
            await self._delete(scene, removal, basis)
        await self._apply_endpoint(scene)

    def _find_pods_of(self, scene: Scene, route: SetRoute) -> list[Manifest]:
        """Return the workloads that a share leads to."""
        used = [_serving_name(scene, each.version) for each in route.backends if each.percent > 0]
        found = (self._objects.get(Key(WORKLOAD, scene.namespace, name)) for name in used)
        return [each for each in found if each is not None]

    async def _apply(self, scene: Scene, intent: ApplyWorkload | ApplyComparator) -> None:
        if isinstance(intent, ApplyWorkload):
            await self._apply_workload(scene, intent)
            return
        built = build_comparator(make_shadowing(scene.deployment, intent.version, intent.stable), self._platform)
        for manifest in (*built.services, built.workload):
            await self._objects.apply(manifest)

    async def _apply_workload(self, scene: Scene, intent: ApplyWorkload) -> None:
        served = scene.served(intent.version)
        if served is None:
            name = _serving_name(scene, intent.version)
            scale = build_scale(scene.namespace, name, intent.replicas)
            if self._objects.get(Key(WORKLOAD, scene.namespace, name)) is not None:
                await self._objects.apply(scale, field_manager=SCALE_MANAGER)
            return
        await self._objects.apply(build_serving(served, self._platform, intent.replicas))

    async def _delete(self, scene: Scene, removal: DeleteWorkload | DeleteComparator, basis: Manifest | None) -> None:
        if isinstance(removal, DeleteWorkload):
            key = Key(WORKLOAD, scene.namespace, _serving_name(scene, removal.version))
            await self._objects.delete(key, decided_on=basis)
            return
        name, version = scene.deployment.metadata.name, removal.version
        comparator = names.comparator(name, version.model_version, version.digest)
        await self._objects.delete(Key(WORKLOAD, scene.namespace, comparator), decided_on=basis)
        for each in self._children(SERVICE, "comparator", scene.namespace, name):
            if version_of(each) == version:
                await self._objects.delete(Key(SERVICE, scene.namespace, each["metadata"]["name"]))

    async def _apply_endpoint(self, scene: Scene) -> None:
        metadata = scene.deployment.metadata
        endpoint = build_endpoint(scene.namespace, metadata.name, metadata.uid, self._platform)
        if self._objects.get(Key(SERVICE, scene.namespace, endpoint["metadata"]["name"])) is not None:
            await self._objects.apply(endpoint)
            return
        try:
            await self._creation.create(endpoint)
        except Conflict as error:
            taken = f"Service {metadata.name!r} exists and is not Tidegate's; delete it or rename this Deployment"
            raise Waiting("EndpointNameTaken", taken, NAME_TAKEN_RECHECK) from error

    # Record

    async def _record(self, scene: Scene, plan: Plan) -> None:
        """Write the status once, then tell people; every decision is an event, a log line and a count."""
        await self._objects.patch_status(scene.manifest, plan.status.to_json())
        self._turns.confirm(scene.key, plan.status)
        for decision in plan.decisions:
            said = f"{decision.action}: {decision.message or decision.reason}"
            warning = decision.action in WARNINGS and decision.reason not in INTENDED
            self._events.emit(scene.manifest, decision.reason, said, warning=warning)
            self._telemetry.count_decision("Deployment", decision.action, decision.reason)
        self._show(scene, plan.status)

    def _show(self, scene: Scene, status: DeploymentStatus) -> None:
        metadata = scene.deployment.metadata
        active = ((Role.STABLE, status.stable), (Role.CANARY, status.canary), (Role.VARIANT, status.experiment))
        weights = {(each.model_version, str(role)): each.percent for role, each in active if each is not None}
        values = {each.name: each.value for each in status.analysis if each.value is not None}
        verdicts = {
            (each.name, str(verdict)): float(verdict is each.verdict) for each in status.analysis for verdict in Verdict
        }
        self._telemetry.show_weights(metadata.namespace, metadata.name, weights)
        self._telemetry.show_analysis(metadata.namespace, metadata.name, values, verdicts)


def _names(manifests: Iterable[Manifest]) -> set[str]:
    return {each["metadata"]["name"] for each in manifests}


def _serving_name(scene: Scene, version: VersionID) -> str:
    return names.serving(scene.deployment.metadata.name, version.model_version, version.digest)
