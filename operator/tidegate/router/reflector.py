"""List and watch: keeps a table equal to what the API server has, through restarts, expiry and outages."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["GoneError", "Page", "Reflector", "Source", "UnavailableError", "WatchEvent"]

_log = logging.getLogger("tidegate.router.watch")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_BETWEEN_WATCHES = 0.02
"""Seconds; keeps a server that ends every watch at once from being asked without a pause."""

Object = Mapping[str, Any]
Key = tuple[str, str]


class UnavailableError(Exception):
    """The API server did not answer as it should; trying again later may help."""


class GoneError(Exception):
    """The watch is too old to go on; everything has to be listed again."""


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list, the version of the list, and where the next part begins (empty: this was the last)."""

    items: tuple[Object, ...]
    version: str
    following: str = ""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """ADDED, MODIFIED, DELETED or BOOKMARK, and the object."""

    kind: str
    item: Object

    @property
    def version(self) -> str:
        """The version from which a watch can go on after this event."""
        return str(self.item["metadata"].get("resourceVersion", ""))


class Source(Protocol):
    """One kind of objects at the API server."""

    @property
    def kind(self) -> str:
        """Plural name, for logs and metrics."""

    async def list_page(self, following: str) -> Page:
        """Return a part of the list."""

    def watch(self, version: str) -> AsyncIterator[WatchEvent]:
        """Yield what changed since ``version`` until the server ends the watch."""


class Reflector:
    """Feeds ``put`` and ``remove`` with every change; both get the object's namespace and name."""

    def __init__(
        self,
        source: Source,
        put: Callable[[Key, Object], None],
        remove: Callable[[Key], None],
        listed: Callable[[], None] = lambda: None,
    ) -> None:
        self._source = source
        self._put = put
        self._remove = remove
        self._listed = listed
        self._known: set[Key] = set()
        self._pause = _FIRST_PAUSE
        self._version = ""
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """List, then watch, for ever."""
        while True:
            try:
                if not self._version:
                    self._version = await self._relist()
                await self._follow()
                await asyncio.sleep(_BETWEEN_WATCHES)
            except GoneError:
                self._version = ""
            except UnavailableError as error:
                await self._rest(error)

    async def _relist(self) -> str:
        found: dict[Key, Object] = {}
        following, version = "", ""
        while not version or following:
            page = await self._source.list_page(following)
            found.update({_key(item): item for item in page.items})
            following, version = page.following, page.version
        for key in self._known - found.keys():
            self._remove(key)
        for key, item in found.items():
            self._put(key, item)
        self._known = set(found)
        self._pause = _FIRST_PAUSE
        self._listed()
        self.synced.set()
        return version

    async def _follow(self) -> None:
        async for event in self._source.watch(self._version):
            self._apply(event)
            self._version = event.version or self._version
            self._pause = _FIRST_PAUSE

    def _apply(self, event: WatchEvent) -> None:
        if event.kind == "BOOKMARK":
            return
        key = _key(event.item)
        if event.kind == "DELETED":
            self._known.discard(key)
            self._remove(key)
        else:
            self._known.add(key)
            self._put(key, event.item)

    async def _rest(self, error: Exception) -> None:
        pause = self._pause * random.uniform(0.5, 1.0)
        fields = {"kind": self._source.kind, "error": str(error), "retryAfterSeconds": round(pause, 2)}
        _log.warning("watch interrupted", extra=fields)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        await asyncio.sleep(pause)


def _key(item: Object) -> Key:
    metadata = item["metadata"]
    return metadata["namespace"], metadata["name"]
