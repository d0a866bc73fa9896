"""Events: written in the background, repeats folded, and nothing of it can hold up a reconcile."""

import asyncio
import logging
from typing import Any

import pytest

from tests.fakes.api import FakeApi, unavailable
from tests.fakes.world import FakeClock
from tidegate.adapters import events as module
from tidegate.adapters.events import KubernetesEvents
from tidegate.errors import Ending

ABOUT: dict[str, Any] = {
    "apiVersion": "tidegate.dev/v1alpha1",
    "kind": "Deployment",
    "metadata": {"name": "connect4", "namespace": "ns", "uid": "u1"},
}


def ending(*_: object) -> Exception:
    """A fault: the namespace is being deleted."""
    return Ending("NamespaceTerminating", "namespace ns is being terminated")


class World:
    def __init__(self) -> None:
        self.api = FakeApi()
        self.clock = FakeClock()
        self.events = KubernetesEvents(self.api, self.clock, "pod-1")  # type: ignore[arg-type]

    async def write(self) -> None:
        task = asyncio.create_task(self.events.run())
        await self.events.flush(5)
        task.cancel()

    @property
    def stored(self) -> list[dict[str, Any]]:
        return list(self.api.objects.values())


async def test_event_says_what_happened_to_whom(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    with caplog.at_level(logging.INFO):
        world.events.emit(ABOUT, "AnalysisFailed", "errorRate 0.2 > 0.05", warning=True)
    await world.write()
    (event,) = world.stored
    assert event["regarding"] == {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "Deployment",
        "namespace": "ns",
        "name": "connect4",
        "uid": "u1",
    }
    assert (event["type"], event["reason"], event["note"]) == ("Warning", "AnalysisFailed", "errorRate 0.2 > 0.05")
    assert event["reportingInstance"] == "pod-1"
    (record,) = caplog.records
    assert record.getMessage() == "errorRate 0.2 > 0.05"
    assert record.fields["reason"] == "AnalysisFailed"  # type: ignore[attr-defined]


async def test_repeats_are_counted_and_seldom_written() -> None:
    world = World()
    for _ in range(10):
        world.events.emit(ABOUT, "Waiting", "for pods")
    await world.write()
    assert len(world.api.requests) == 1
    world.clock.advance(seconds=30)
    world.events.emit(ABOUT, "Waiting", "for pods")
    world.events.emit(ABOUT, "Waiting", "for pods")
    await world.write()
    (event,) = world.stored
    assert event["series"]["count"] == 11
    assert len(world.api.requests) == 2
    world.clock.advance(hours=1)
    world.events.emit(ABOUT, "Waiting", "for pods")
    world.events.emit(ABOUT, "Waiting", "for the proxies")
    await world.write()
    assert len(world.stored) == 3


async def test_namespace_that_is_being_deleted_is_left_alone_for_a_while() -> None:
    """Its objects go one by one, and each would be told of all that used it."""
    world = World()
    world.api.fault = ending
    for number in range(50):
        world.events.emit(ABOUT, "ModelVersionDeleted", f"{number}")
    await world.write()
    assert len(world.api.requests) <= module.WRITERS
    world.api.fault = None
    elsewhere = ABOUT | {"metadata": ABOUT["metadata"] | {"namespace": "other"}}
    world.events.emit(elsewhere, "Promoted", "here all is well")
    await world.write()
    assert [each["metadata"]["namespace"] for each in world.stored] == ["other"]
    world.clock.advance(minutes=2)
    world.events.emit(ABOUT, "Promoted", "a namespace of that name was made anew")
    await world.write()
    assert len(world.stored) == 2


async def test_slow_answer_holds_up_no_other_event() -> None:
    world = World()
    slow, asked = asyncio.Event(), world.api.post

    async def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        if body["note"] == "slow":
            await slow.wait()
        return await asked(path, body)

    world.api.post = post  # type: ignore[method-assign]
    for note in ("slow", "quick"):
        world.events.emit(ABOUT, "Promoted", note)
    task = asyncio.create_task(world.events.run())
    async with asyncio.timeout(10):
        while not world.stored:
            await asyncio.sleep(0.001)
    assert [each["note"] for each in world.stored] == ["quick"]
    slow.set()
    await world.events.flush(5)
    task.cancel()
    assert len(world.stored) == 2


async def test_failure_loses_one_event_and_no_more() -> None:
    world = World()
    world.api.fault = unavailable
    world.events.emit(ABOUT, "One", "1")
    await world.write()
    world.api.fault = None
    world.events.emit(ABOUT, "Two", "2")
    await world.write()
    assert [event["reason"] for event in world.stored] == ["Two"]


async def test_full_queue_drops_instead_of_blocking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PENDING", 3)
    world = World()
    for number in range(10):
        world.events.emit(ABOUT, "Busy", str(number))
    await world.write()
    assert len(world.stored) == 3


async def test_long_notes_and_long_names_fit() -> None:
    world = World()
    about = ABOUT | {"metadata": {"name": "n" * 253, "namespace": "ns", "uid": "u"}}
    world.events.emit(about, "Long", "x" * 5000)
    await world.write()
    (event,) = world.stored
    assert len(event["note"]) <= 1024
    assert len(event["metadata"]["name"]) <= 253


async def test_memory_of_told_events_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 5)
    world = World()
    for number in range(50):
        world.events.emit(ABOUT, "Many", str(number))
    assert len(world.events._told) == 5
