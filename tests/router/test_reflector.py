"""List and watch: the table equals what the server has, whatever happens on the way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.router.support import eventually
from tidegate.router import reflector
from tidegate.router.reflector import GoneError, Page, Reflector, UnavailableError, WatchEvent

Script = list[Callable[[], Any]]


def item(name: str, version: int = 1) -> dict[str, Any]:
    return {"metadata": {"namespace": "default", "name": name, "resourceVersion": str(version)}}


def failing(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


class ScriptedSource:
    """Answers lists and watches from a script; the last watch lasts."""

    kind = "things"

    def __init__(self, lists: Script, watches: Script) -> None:
        self._lists = lists
        self._watches = watches
        self.asked: list[str] = []

    async def list_page(self, following: str) -> Page:
        self.asked.append(f"list {following}".strip())
        page: Page = self._lists.pop(0)()
        return page

    async def watch(self, version: str) -> AsyncIterator[WatchEvent]:
        self.asked.append(f"watch {version}")
        if not self._watches:
            await asyncio.Event().wait()
        for event in self._watches.pop(0)():
            if isinstance(event, Exception):
                raise event
            yield event


@contextlib.asynccontextmanager
async def reflected(source: ScriptedSource) -> AsyncIterator[dict[tuple[str, str], Any]]:
    table: dict[tuple[str, str], Any] = {}
    task = asyncio.create_task(Reflector(source, table.__setitem__, lambda key: table.pop(key)).run())
    yield table
    task.cancel()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "_FIRST_PAUSE", 0.001)


def names(table: dict[tuple[str, str], Any]) -> set[str]:
    return {name for _, name in table}


async def test_pages_then_events() -> None:
    source = ScriptedSource(
        [lambda: Page((item("a"), item("b")), "7", "more"), lambda: Page((item("c"),), "7")],
        [
            lambda: [
                WatchEvent("ADDED", item("d", 8)),
                WatchEvent("DELETED", item("a", 9)),
                WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "12"}}),
            ]
        ],
    )
    async with reflected(source) as table:
        await eventually(lambda: "watch 12" in source.asked)
        assert names(table) == {"b", "c", "d"}
    assert source.asked == ["list", "list more", "watch 7", "watch 12"]


async def test_an_expired_watch_lists_again_and_forgets_what_is_gone() -> None:
    source = ScriptedSource(
        [lambda: Page((item("a"), item("b")), "7"), lambda: Page((item("b", 20),), "30")],
        [lambda: [GoneError()]],
    )
    async with reflected(source) as table:
        await eventually(lambda: "watch 30" in source.asked)
        assert names(table) == {"b"}
        assert table["default", "b"]["metadata"]["resourceVersion"] == "20"


async def test_an_interrupted_watch_goes_on_where_it_was() -> None:
    source = ScriptedSource(
        [lambda: Page((item("a"),), "7")],
        [
            lambda: [WatchEvent("MODIFIED", item("a", 9)), UnavailableError("reset")],
            failing(UnavailableError("refused")),
        ],
    )
    async with reflected(source) as table:
        await eventually(lambda: source.asked.count("watch 9") == 2)
        assert table["default", "a"]["metadata"]["resourceVersion"] == "9"


async def test_an_unreachable_server_is_asked_again() -> None:
    source = ScriptedSource([failing(UnavailableError("down"))] * 3 + [lambda: Page((item("a"),), "7")], [])
    async with reflected(source) as table:
        await eventually(lambda: names(table) == {"a"})
    assert source.asked.count("list") == 4
