"""The one place that maps errors to conditions: what people see, and when it is tried again."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.world import FakeClock, FakeEvents, FakeObjects
from tidegate.api.deployment import Deployment
from tidegate.errors import Conflict, Ending, Stalled, Unavailable, Waiting
from tidegate.ports import DEPLOYMENT, Key, Requeue
from tidegate.reconcilers.pattern import ErrorMapping, Gone, parse_all

KEY = Key(DEPLOYMENT, "default", "d")


class World:
    def __init__(self) -> None:
        metadata = {"name": "d", "namespace": "default"}
        spec = {"modelVersion": "m-1"}
        kind = {"apiVersion": "tidegate.dev/v1alpha1", "kind": "Deployment"}
        self.objects = FakeObjects(kind | {"metadata": metadata, "spec": spec})
        self.events = FakeEvents()
        self.clock = FakeClock()
        self.outcome: Callable[[], Requeue | None] = lambda: None
        self.mapping = ErrorMapping(self, self.objects, self.objects, self.events, self.clock)

    async def reconcile(self, key: Key) -> Requeue | None:
        return self.outcome()

    def fail(self, error: Exception) -> None:
        def outcome() -> Requeue | None:
            raise error

        self.outcome = outcome

    async def run(self) -> Requeue | None:
        return await self.mapping.reconcile(KEY)

    def conditions(self) -> dict[str, tuple[str, str]]:
        return {each["type"]: (each["status"], each["reason"]) for each in self.objects.status_of(KEY)["conditions"]}


@pytest.fixture
def world() -> World:
    return World()


async def test_waiting_is_no_error_and_looks_again(world: World) -> None:
    world.fail(Waiting("PodsNotReady", "waits for pods", timedelta(seconds=7)))
    assert await world.run() == Requeue(timedelta(seconds=7))
    found = {"Ready": ("False", "PodsNotReady"), "Reconciling": ("True", "PodsNotReady")}
    assert world.conditions() == found | {"Stalled": ("False", "PodsNotReady")}
    assert world.events.told == [("d", "PodsNotReady", "waits for pods", False)]


async def test_a_namespace_that_ends_is_no_error_and_nothing_is_tried_again(world: World) -> None:
    """Rule 12: its objects go one after the other, and each would be made anew and refused, again and again."""
    world.fail(Ending("NamespaceTerminating", "is being terminated"))
    assert [await world.run() for _ in range(5)] == [None] * 5
    assert "status" not in (world.objects.get(KEY) or {})
    assert world.events.told == []


async def test_stalled_is_told_once_and_not_tried_again(world: World) -> None:
    world.fail(Stalled("InvalidSpec", "change spec.x"))
    for _ in range(3):
        assert await world.run() is None
    assert world.conditions()["Stalled"] == ("True", "InvalidSpec")
    status: dict[str, Any] = world.objects.status_of(KEY)
    assert (status["observedGeneration"], status["message"]) == (1, "change spec.x")
    assert len(world.objects.requests) == 1
    assert world.events.told == [("d", "InvalidSpec", "change spec.x", True)]


async def test_transition_times_are_kept(world: World) -> None:
    world.fail(Stalled("InvalidSpec", "change spec.x"))
    await world.run()
    since = world.objects.status_of(KEY)["conditions"][0]["lastTransitionTime"]
    world.clock.advance(minutes=5)
    world.fail(Stalled("InvalidSpec", "change spec.y"))
    await world.run()
    (ready, *_) = world.objects.status_of(KEY)["conditions"]
    assert (ready["lastTransitionTime"], ready["message"]) == (since, "change spec.y")


async def test_failures_are_told_only_when_they_persist_and_never_as_observed(world: World) -> None:
    world.fail(Unavailable("ApiServerUnavailable", "no answer"))
    for _ in range(2):
        with pytest.raises(Unavailable):
            await world.run()
    assert world.objects.requests == []
    with pytest.raises(Unavailable):
        await world.run()
    assert world.conditions()["Reconciling"] == ("True", "ApiServerUnavailable")
    assert "observedGeneration" not in world.objects.status_of(KEY)


async def test_success_forgets_former_failures(world: World) -> None:
    for _ in range(4):
        world.fail(Unavailable("ApiServerUnavailable", "no answer"))
        for _ in range(2):
            with pytest.raises(Unavailable):
                await world.run()
        world.outcome = lambda: None
        await world.run()
    assert world.objects.requests == []


async def test_conflicts_are_never_told(world: World) -> None:
    world.fail(Conflict("Conflict", "newer"))
    for _ in range(10):
        with pytest.raises(Conflict):
            await world.run()
    assert world.objects.requests == []


async def test_bugs_are_told_as_such(world: World) -> None:
    world.fail(KeyError("x"))
    for _ in range(3):
        with pytest.raises(KeyError):
            await world.run()
    assert world.conditions()["Ready"] == ("False", "InternalError")


async def test_gone_objects_need_nothing(world: World) -> None:
    world.fail(Gone())
    assert await world.run() is None
    world.fail(Stalled("InvalidSpec", "x"))
    world.objects.remove(KEY)
    assert await world.run() is None


def test_broken_neighbours_are_left_out() -> None:
    good = World().objects.get(KEY)
    assert good is not None
    broken = good | {"spec": {"modelVersion": 7}}
    assert len(parse_all(Deployment, [good, broken])) == 1
