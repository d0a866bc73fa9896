"""ABTest: says which of two versions is better. The Deployment carries the split; a test only watches and tells."""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tidegate.api.ab_test import ABTest
from tidegate.api.deployment import Deployment
from tidegate.api.model_version import ModelVersion
from tidegate.domain.conditions import Health, is_true
from tidegate.domain.experiment import Endpoint, ExperimentPlan, ObservedTest, find_rivals, looks_due, plan_ab_test
from tidegate.domain.release import ModelState, VersionID
from tidegate.ports import (
    ABTEST,
    DEPLOYMENT,
    MODEL_VERSION,
    Clock,
    Events,
    Key,
    Manifest,
    MetricSource,
    Objects,
    Requeue,
    Telemetry,
)
from tidegate.reconcilers.pattern import parse, parse_all, read
from tidegate.references import referring_to

__all__ = ["ABTestReconciler"]

PATIENCE = timedelta(seconds=5)
"""Longest wait for the metric source."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One test and everything around it."""

    test: ABTest
    manifest: Manifest
    observed: ObservedTest


class ABTestReconciler:
    """Reconciles one ABTest at a time."""

    def __init__(
        self, objects: Objects, metrics: MetricSource, events: Events, telemetry: Telemetry, clock: Clock
    ) -> None:
        """Take the ports."""
        self._objects = objects
        self._metrics = metrics
        self._events = events
        self._telemetry = telemetry
        self._clock = clock

    async def reconcile(self, key: Key) -> Requeue | None:
        """Observe, plan, record; there is nothing to act on.

        The plan is made beside the event loop: the first one loads scipy.special, which takes half a second or more.
        """
        now = self._clock.now()
        scene = await self._observe(key, now)
        plan = await asyncio.to_thread(plan_ab_test, scene.test.spec, scene.test.status, scene.observed, now)
        await self._record(scene, plan)
        return Requeue(plan.recheck_after) if plan.recheck_after is not None else None

    async def _observe(self, key: Key, now: datetime) -> Scene:
        test, manifest = read(self._objects, key, ABTest)
        observed = self._gather(test)
        looks = looks_due(test.spec, test.status, observed, now)
        measure = (self._metrics.measure(key.namespace, test.spec.deployment, arm, PATIENCE) for arm in looks.values())
        measured = dict(zip(looks, await asyncio.gather(*measure), strict=True))
        return Scene(test, manifest, replace(observed, measured=measured))

    def _gather(self, test: ABTest) -> ObservedTest:
        namespace = test.metadata.namespace
        model = self._find_model(namespace, test.spec.variants[1].model_version or "")
        same = referring_to(Key(DEPLOYMENT, namespace, test.spec.deployment))
        tests = parse_all(ABTest, self._objects.list(ABTEST, namespace, same))
        return ObservedTest(
            name=test.metadata.name,
            generation=test.metadata.generation,
            endpoint=self._find_endpoint(namespace, test.spec.deployment),
            state=ModelState.from_phase(model.status.phase if model else None),
            digest=model.spec.artifact.sha256 if model else None,
            rivals=find_rivals(test, tests),
        )

    def _find_model(self, namespace: str, name: str) -> ModelVersion | None:
        manifest = self._objects.get(Key(MODEL_VERSION, namespace, name))
        return parse(ModelVersion, manifest) if manifest is not None else None

    def _find_endpoint(self, namespace: str, name: str) -> Endpoint | None:
        manifest = self._objects.get(Key(DEPLOYMENT, namespace, name))
        if manifest is None:
            return None
        status = parse(Deployment, manifest).status
        stable, carried = status.stable, status.experiment
        return Endpoint(
            stable=VersionID(stable.model_version, stable.digest) if stable else None,
            is_settled=status.canary is None,
            test=carried.test if carried else None,
            percent=carried.percent if carried else 0,
        )

    async def _record(self, scene: Scene, plan: ExperimentPlan) -> None:
        await self._objects.patch_status(scene.manifest, plan.status.to_json())
        if plan.event is None:
            return
        reason, message = plan.event
        warning = is_true(plan.status.conditions, Health.STALLED)
        self._events.emit(scene.manifest, reason, message, warning=warning)
        self._telemetry.count_decision("ABTest", str(plan.status.phase), reason)
