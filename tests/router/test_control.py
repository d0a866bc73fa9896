"""The router's tables: what changes together is built together."""

import asyncio

from tests.router.support import backend, pod_object, route_object
from tidegate.router import control
from tidegate.router.control import Control
from tidegate.router.metrics import RouterMetrics


class CountedControl(Control):
    """A control that counts what it gives to the proxies."""

    def __init__(self) -> None:
        super().__init__(RouterMetrics(), listener_port=8000, grace=10)
        self.builds = 0
        self.publish = self.count

    def count(self) -> None:
        self.builds += 1

    def put(self, name: str) -> None:
        self.put_route(("default", name), route_object(name, backends=[backend("1.0.0", "w", 100)]))

    def has(self, name: str) -> bool:
        return self.snapshot is not None and f"default/{name}" in self.snapshot.routes


async def opened() -> CountedControl:
    made = CountedControl()
    made.put_pod(("default", "w-a"), pod_object("w"))
    made.open()
    await asyncio.sleep(0.01)
    assert made.builds == 1
    return made


async def test_a_change_after_a_pause_is_built_at_once() -> None:
    """A rollback on a calm cluster waits for nobody."""
    made = await opened()
    await asyncio.sleep(control._BETWEEN_BUILDS)
    made.put("a")
    for _ in range(3):
        await asyncio.sleep(0)
    assert made.has("a")


async def test_changes_without_a_pause_are_built_together() -> None:
    made = await opened()
    began = asyncio.get_running_loop().time()
    for number in range(40):
        made.put(f"m{number}")
        await asyncio.sleep(0.001)
    seconds = asyncio.get_running_loop().time() - began
    assert made.builds <= 2 + seconds / control._BETWEEN_BUILDS
    async with asyncio.timeout(10):
        while not made.has("m39"):
            await asyncio.sleep(0.01)
    assert all(made.has(f"m{number}") for number in range(40))
