"""A Deployment with everything around it: fake objects, a kubelet and a router that do their part when told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from tests.fakes.world import FakeClock, FakeEvents, FakeGates, FakeMetrics, FakeObjects, FakeTelemetry
from tidegate.domain.admission import Limits
from tidegate.domain.manifests.serving import Platform
from tidegate.domain.release import Measurement
from tidegate.ports import ABTEST, DEPLOYMENT, MODEL_VERSION, POD, ROUTE, SERVICE, WORKLOAD, Key, Manifest, Requeue
from tidegate.reconcilers.deployment import DeploymentReconciler
from tidegate.reconcilers.pattern import ErrorMapping
from tidegate.reconcilers.turns import Turns

KEY = Key(DEPLOYMENT, "default", "connect4")
ROUTE_KEY = Key(ROUTE, "default", "connect4")
ENDPOINT = Key(SERVICE, "default", "connect4")
CANARY_STEPS = {"steps": [{"setPercent": 20}, {"hold": "10s"}, {"setPercent": 50}, {"hold": "10s"}]}


def model_version(version: str, phase: str | None = "Ready", digest: str | None = None) -> Manifest:
    sha = digest or version.replace(".", "")[0] * 64
    status = {"status": {"phase": phase}} if phase else {}
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": f"connect4-{version}", "namespace": "default"},
        "spec": {"model": "connect4", "version": version, "artifact": {"uri": "https://x/m.onnx", "sha256": sha}},
    } | status


def deployment(version: str = "1.0.0", **spec: Any) -> Manifest:
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "Deployment",
        "metadata": {"name": "connect4", "namespace": "default"},
        "spec": {"modelVersion": f"connect4-{version}"} | spec,
    }


class ReleaseWorld:
    """Drives the reconciler to rest, as the queue would."""

    def __init__(self, *manifests: Manifest) -> None:
        self.objects = FakeObjects(*manifests)
        self.metrics = FakeMetrics()
        self.gates = FakeGates()
        self.events = FakeEvents()
        self.telemetry = FakeTelemetry()
        self.clock = FakeClock()
        self.pods_become_ready = True
        self.comparators_become_ready = True
        self.router_confirms = True
        self.shares: list[dict[str, float]] = []
        """Every distinct split that the proxies confirmed, in order."""
        self.reconciler = self.restart()

    def restart(self) -> ErrorMapping:
        """A new operator process: nothing but the objects survives."""
        inner = DeploymentReconciler(
            self.objects,
            self.objects,
            self.metrics,
            self.gates,
            self.events,
            self.telemetry,
            self.clock,
            Platform("agent:1", "triton:1"),
            Turns(Limits(), lambda _: None),
        )
        self.reconciler = ErrorMapping(inner, self.objects, self.objects, self.events, self.clock)
        return self.reconciler

    async def reconcile(self) -> Requeue | None:
        return await self.reconciler.reconcile(KEY)

    async def settle(self, seconds: float = 0, step: float = 1, until: Callable[[], bool] = lambda: False) -> None:
        """Let everybody do their part for a while; faults are retried as the queue retries them."""
        end = self.clock.now() + timedelta(seconds=seconds)
        while True:
            await self._turn()
            if until() or self.clock.now() >= end:
                return
            self.clock.advance(seconds=step)

    async def _turn(self) -> None:
        for _ in range(60):
            before = self.objects.serial
            try:
                await self.reconcile()
            except Exception:  # the queue would try again
                continue
            self.play_kubelet()
            self.play_router()
            if self.objects.serial == before:
                return
        raise AssertionError("it does not come to rest")

    def play_kubelet(self) -> None:
        if not self.pods_become_ready:
            return
        for live in self.objects.list(WORKLOAD, "default"):
            replicas = live["spec"]["replicas"]
            if live["metadata"]["labels"]["tidegate.dev/component"] == "comparator":
                replicas *= self.comparators_become_ready
            status = {
                "observedGeneration": live["metadata"]["generation"],
                "replicas": replicas,
                "updatedReplicas": replicas,
                "readyReplicas": replicas,
            }
            if live.get("status") != status:
                self.objects.change(_key(WORKLOAD, live), lambda each, s=status: each.update(status=s))  # type: ignore[misc]

    def play_router(self) -> None:
        route = self.objects.get(ROUTE_KEY)
        if route is None or not self.router_confirms:
            return
        weights = [{"modelVersion": b["modelVersion"], "percent": b["percent"]} for b in route["spec"]["backends"]]
        now = "2026-01-01T00:00:00.000000Z"
        ready = {"type": "Ready", "status": "True", "reason": "Confirmed", "lastTransitionTime": now}
        status = {
            "observedGeneration": route["metadata"]["generation"],
            "weights": weights,
            "conditions": [ready],
            "proxies": {"connected": 1, "acknowledged": 1},
        }
        self._remember({each["modelVersion"]: each["percent"] for each in weights if each["percent"]})
        if route.get("status") != status:
            self.objects.change(ROUTE_KEY, lambda each: each.update(status=status))

    def _remember(self, split: dict[str, float]) -> None:
        assert not split or abs(sum(split.values()) - 100) < 1e-6
        ready = {each["metadata"]["annotations"]["tidegate.dev/model-version"] for each in self.workloads()}
        assert split.keys() <= ready, "traffic goes to a version without pods"
        if not self.shares or self.shares[-1] != split:
            self.shares.append(split)

    def workloads(self) -> list[Manifest]:
        return list(self.objects.list(WORKLOAD, "default"))

    def release(self, version: str) -> None:
        """What GitOps does."""
        self.objects.change(KEY, lambda each: each["spec"].update(modelVersion=f"connect4-{version}"))

    def say(self, version: str, metric: str, measurement: Measurement) -> None:
        self.metrics.answers[f"connect4-{version}", metric] = measurement

    @property
    def status(self) -> dict[str, Any]:
        return self.objects.status_of(KEY)

    def condition(self, name: str) -> dict[str, Any]:
        return next(each for each in self.status["conditions"] if each["type"] == name)


def _key(kind: Any, manifest: Manifest) -> Key:
    return Key(kind, manifest["metadata"]["namespace"], manifest["metadata"]["name"])


__all__ = ["ABTEST", "KEY", "MODEL_VERSION", "POD", "ReleaseWorld", "deployment", "model_version"]
