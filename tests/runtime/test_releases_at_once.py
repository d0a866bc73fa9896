"""Limits on releases at once: many Deployments, reconciled at the same time by one process."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import Context
from datetime import datetime
from typing import Any

import pytest

from tests.fakes.world import FakeClock, FakeEvents, FakeGates, FakeMetrics, FakeObjects, FakeTelemetry, key_of
from tests.runtime.release_world import deployment, model_version
from tidegate.domain.admission import Limits
from tidegate.domain.manifests.serving import Platform
from tidegate.errors import Conflict, Unavailable
from tidegate.ports import DEPLOYMENT, ROUTE, WORKLOAD, Key, Manifest
from tidegate.reconcilers.deployment import DeploymentReconciler
from tidegate.reconcilers.pattern import ErrorMapping
from tidegate.reconcilers.turns import Turns
from tidegate.wakeups import Wakeups
from tidegate.workqueue import WorkQueue

IMMEDIATE = {"strategy": {"type": "Immediate", "immediate": {"bake": "0s"}}, "rollback": {"drainDelay": "0s"}}
SETTLED = {"stable": {"modelVersion": "connect4-1.0.0", "digest": "1" * 64, "percent": 100, "readyReplicas": 1}}
NOW = "2026-01-01T00:00:00.000000Z"


class TickingClock(FakeClock):
    """No two moments are the same."""

    def now(self) -> datetime:
        return self.advance(microseconds=1)


class Cluster(FakeObjects):
    """Tells what changes, lets others run at every request, and has a kubelet and a router that do their part."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[Any, Manifest | None, Manifest | None], None]] = []
        super().__init__()

    def put(self, manifest: Manifest) -> Manifest:
        key = key_of(manifest)
        before = self.get(key)
        stored = super().put(manifest)
        self._tell(key, before, stored)
        if key.kind in ANSWERS:
            asyncio.get_running_loop().call_soon(self._answer_to, key, context=Context())
        return stored

    def _answer_to(self, key: Key) -> None:
        """Do what the kubelet or the router does; they are no part of the operator that made the object."""
        live = self.get(key)
        status = ANSWERS[key.kind](live) if live else None
        if live is not None and live.get("status") != status:
            self.change(key, lambda each: each.update(status=status))

    def remove(self, key: Key) -> None:
        before = self.get(key)
        super().remove(key)
        self._tell(key, before, None)

    async def apply(self, manifest: Manifest, **options: Any) -> Manifest:
        await asyncio.sleep(0)
        return await super().apply(manifest, **options)

    async def patch_status(self, observed: Manifest, status: Mapping[str, Any]) -> Manifest:
        await asyncio.sleep(0)
        return await super().patch_status(observed, status)

    def _tell(self, key: Key, before: Manifest | None, after: Manifest | None) -> None:
        for listener in self.listeners:
            listener(key.kind, before, after)

    def releasing(self) -> Counter[str]:
        """Count the releases under way, by namespace."""
        found = [each for each in self if each.kind == DEPLOYMENT and self.status_of(each).get("canary")]
        return Counter(each.namespace for each in found)


def _run_pods(workload: Manifest) -> dict[str, Any]:
    replicas = workload["spec"]["replicas"]
    pods = {"replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas}
    return {"observedGeneration": workload["metadata"]["generation"], **pods}


def _confirm(route: Manifest) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True", "reason": "Confirmed", "lastTransitionTime": NOW}
    weights = [{"modelVersion": b["modelVersion"], "percent": b["percent"]} for b in route["spec"]["backends"]]
    return {"observedGeneration": route["metadata"]["generation"], "weights": weights, "conditions": [ready]}


ANSWERS = {WORKLOAD: _run_pods, ROUTE: _confirm}


class SlowMetrics(FakeMetrics):
    async def measure_failures(self, *arguments: Any) -> Any:
        await asyncio.sleep(0)
        return await super().measure_failures(*arguments)


class Process:
    """One operator."""

    def __init__(self, cluster: Cluster, limits: Limits) -> None:
        self.woken: list[str] = []
        self.events = FakeEvents()
        self.metrics = SlowMetrics()
        self.turns = Turns(limits, lambda key: self.woken.append(key.name))
        clock = TickingClock()
        platform = Platform("agent:1", "triton:1")
        inner = DeploymentReconciler(
            cluster, cluster, self.metrics, FakeGates(), self.events, FakeTelemetry(), clock, platform, self.turns
        )
        self.reconciler = ErrorMapping(inner, cluster, cluster, self.events, clock)
        cluster.listeners = [self.turns.notice]
        for key in cluster:
            self.turns.notice(key.kind, None, cluster.get(key))


def build(*names: str, namespaces: tuple[str, ...] = ("default",), **spec: Any) -> Cluster:
    """Build Deployments on which 1.0.0 serves and 2.0.0 is asked for."""
    cluster = Cluster()
    for namespace in namespaces:
        for version in ("1.0.0", "2.0.0"):
            cluster.put(_named(model_version(version), namespace))
        for name in names:
            made = _named(deployment("2.0.0", **IMMEDIATE, **spec), namespace, name)
            cluster.put(made | {"status": SETTLED})
    return cluster


def _named(manifest: Manifest, namespace: str, name: str | None = None) -> Manifest:
    metadata = manifest["metadata"] | {"namespace": namespace}
    return manifest | {"metadata": metadata | ({"name": name} if name else {})}


def key(name: str, namespace: str = "default") -> Key:
    return Key(DEPLOYMENT, namespace, name)


def reasons(cluster: Cluster, *names: str) -> list[str]:
    found = (cluster.status_of(key(name))["conditions"] for name in names)
    return [next(each["reason"] for each in conditions if each["type"] == "Ready") for conditions in found]


async def test_two_that_start_at_the_same_moment_do_not_both_slip_in() -> None:
    """Both have seen that nothing is under way before either has written anything."""
    cluster = build("a", "b", "c", errorBudget={"objective": 99})
    process = Process(cluster, Limits(in_cluster=1))
    await asyncio.gather(*(process.reconciler.reconcile(key(name)) for name in "cab"))
    assert cluster.releasing() == {"default": 1}
    assert sorted(reasons(cluster, *"abc"))[1:] == ["ReleaseLimit", "ReleaseLimit"]


async def test_without_limits_all_start_at_once() -> None:
    cluster = build("a", "b", "c")
    process = Process(cluster, Limits())
    await asyncio.gather(*(process.reconciler.reconcile(key(name)) for name in "abc"))
    assert cluster.releasing() == {"default": 3}


async def test_waiting_is_told_once_and_is_no_warning() -> None:
    cluster = build("a", "b")
    process = Process(cluster, Limits(per_namespace=1))
    for name in "abbb":
        await process.reconciler.reconcile(key(name))
    told = [(name, warning) for name, reason, _, warning in process.events.told if reason == "ReleaseLimit"]
    assert told == [("b", False)]


async def test_the_end_of_a_release_wakes_the_next_in_line_and_nobody_else() -> None:
    cluster = build(*"abcdef")
    process = Process(cluster, Limits(in_cluster=2))
    for name in "abcdef":
        await process.reconciler.reconcile(key(name))
    process.woken.clear()
    while cluster.status_of(key("b")).get("canary"):
        await process.reconciler.reconcile(key("b"))
    assert process.woken == ["c"]
    process.woken.clear()
    cluster.remove(key("a"))
    assert process.woken == ["c", "d"], "c has not been reconciled yet, and there are two places"


async def test_a_start_whose_answer_was_lost_keeps_its_place() -> None:
    """The watch may tell later that it was written: nobody else may start meanwhile."""
    cluster = build("a", "b")
    process = Process(cluster, Limits(in_cluster=1))
    cluster.listeners = []  # the watch lags behind
    cluster.lose_answer = lambda verb, _: Unavailable("Lost", "") if verb == "patch_status" else None
    with pytest.raises(Unavailable):
        await process.reconciler.reconcile(key("a"))
    cluster.lose_answer = None
    await process.reconciler.reconcile(key("b"))
    assert reasons(cluster, "b") == ["ReleaseLimit"]


@pytest.mark.parametrize("watch_lags", [False, True])
async def test_a_start_that_could_not_be_written_gives_its_place_back(watch_lags: bool) -> None:
    """At the next word of its Deployment: from the watch, or when it is reconciled again."""
    cluster = build("a", "b")
    process = Process(cluster, Limits(in_cluster=1))

    def pause(verb: str, about: Key) -> Exception | None:
        if verb != "patch_status" or about != key("a"):
            return None
        cluster.fault = None
        cluster.change(about, lambda each: each["spec"].update(paused=True))
        return Conflict("Conflict", "somebody was faster")

    cluster.fault = pause
    cluster.listeners = [] if watch_lags else cluster.listeners
    with pytest.raises(Conflict):
        await process.reconciler.reconcile(key("a"))
    if watch_lags:
        await process.reconciler.reconcile(key("b"))
        assert reasons(cluster, "b") == ["ReleaseLimit"]
        await process.reconciler.reconcile(key("a"))
        assert process.woken == ["b"]
    await process.reconciler.reconcile(key("b"))
    assert cluster.status_of(key("b")).get("canary")


async def test_one_that_has_another_problem_by_now_blocks_nobody() -> None:
    """Stalled by a spec that this operator does not understand: it is passed over."""
    cluster = build("a", "b", "c")
    process = Process(cluster, Limits(in_cluster=1))
    for name in "abc":
        await process.reconciler.reconcile(key(name))
    cluster.change(key("b"), lambda each: each["spec"].update(nonsense=1))
    await process.reconciler.reconcile(key("b"))
    assert reasons(cluster, "b") == ["InvalidSpec"]
    process.woken.clear()
    cluster.remove(key("a"))
    assert process.woken == ["c"]


async def test_a_new_process_knows_who_is_under_way_and_who_waited_longer() -> None:
    """Scenario 16 for limits: everything is in the objects."""
    cluster = build("a", "b", "c")
    first = Process(cluster, Limits(in_cluster=1))
    for name in "acb":
        await first.reconciler.reconcile(key(name))
    second = Process(cluster, Limits(in_cluster=1))
    await second.reconciler.reconcile(key("b"))
    assert cluster.releasing() == {"default": 1}
    second.woken.clear()
    cluster.remove(key("a"))
    assert second.woken == ["c"], "c was asked for before b"


@pytest.mark.parametrize("seed", range(5))
async def test_all_get_their_turn_and_no_limit_is_ever_exceeded(seed: int) -> None:
    """Sixteen Deployments, eight workers: woken by changes alone, each is released once, whatever fails."""
    chance = random.Random(seed)
    names, namespaces = [f"d{number}" for number in range(8)], ("default", "other")
    cluster = build(*names, namespaces=namespaces, errorBudget={"objective": 99})
    process = Process(cluster, Limits(per_namespace=2, in_cluster=3))
    queue = WorkQueue(process.reconciler.reconcile, Quiet(), workers=8)
    process.turns._wake = queue.add
    waited: set[tuple[str, str]] = set()

    def check(kind: Any, before: Manifest | None, after: Manifest | None) -> None:
        busy = cluster.releasing()
        assert busy.total() <= 3
        assert max(busy.values(), default=0) <= 2
        if after is not None and (after.get("status") or {}).get("held"):
            waited.add((after["metadata"]["namespace"], after["metadata"]["name"]))

    cluster.listeners += [Wakeups(queue.add, queue.add).notice, check]
    cluster.fault = lambda verb, _: Unavailable("Flaky", "") if chance.random() < 0.02 else None
    keys = [key(name, namespace) for name in names for namespace in namespaces]
    chance.shuffle(keys)
    for each in keys:
        queue.add(each)
    queue.start()
    async with asyncio.timeout(20):
        while not all(cluster.status_of(each).get("phase") == "Healthy" for each in keys):
            await asyncio.sleep(0.005)
    await queue.stop(1)
    for each in keys:
        outcomes = [entry["outcome"] for entry in cluster.status_of(each)["history"]]
        assert outcomes == ["Promoted"]
    assert len(waited) >= len(keys) - 3, "most had to wait"


class Quiet:
    """Nobody measures the queue."""

    def started(self, depth: int, waited: float) -> None: ...

    def finished(self, key: Key, seconds: float) -> None: ...

    def failed(self, key: Key, reason: str) -> None: ...
