"""Complete lists from the API server: the first fill of the memory, and the cure for whatever a watch has missed."""

import asyncio
import logging
from collections.abc import Sequence

from tidegate.adapters.cache import ObjectCache, trim
from tidegate.adapters.connection import ApiConnection, path_of
from tidegate.errors import TidegateError, Unavailable
from tidegate.ports import WATCHED_KINDS, Kind, Manifest, is_child

__all__ = ["Listing"]

PAGE = 100
"""Objects per answer: a page of a megabyte is decoded in some ten milliseconds, so that nothing waits long."""
FIRST_RESYNC = 15.0
"""Seconds from the first list to the second: an object may have gone before the watch began."""

logger = logging.getLogger(__name__)


class Listing:
    """Keeps the memory complete."""

    def __init__(self, api: ApiConnection, cache: ObjectCache, namespaces: Sequence[str], child_selector: str) -> None:
        """List these namespaces (all when empty); of children only those with the label."""
        self._api = api
        self._cache = cache
        self._namespaces: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._child_selector = child_selector

    async def refresh(self) -> int:
        """List every kind once and return how many objects were news."""
        news = 0
        for kind in WATCHED_KINDS:
            for namespace in self._namespaces:
                manifests, version = await self._list(kind, namespace)
                news += self._cache.replace(kind, namespace, manifests, version)
        return news

    async def keep(self, interval: float) -> None:
        """Refresh again and again until cancelled."""
        pause = min(FIRST_RESYNC, interval)
        while True:
            await asyncio.sleep(pause)
            pause = interval
            try:
                if news := await self.refresh():
                    logger.info("the resync found %d objects that the watches had missed", news)
            except TidegateError as error:
                logger.warning("resync failed, tried again later: %s", error)

    async def _list(self, kind: Kind, namespace: str | None) -> tuple[list[Manifest], str]:
        params = {"limit": str(PAGE)}
        if is_child(kind):
            params["labelSelector"] = self._child_selector
        manifests: list[Manifest] = []
        while True:
            page = await self._api.get(path_of(kind, namespace), params)
            if page is None:
                raise Unavailable("MissingCRDs", f"the API server does not know {kind.plural} of {kind.api_version}")
            named = ({"apiVersion": kind.api_version, "kind": kind.name} | each for each in page["items"])
            manifests += [trim(kind, each) for each in named]
            if not page["metadata"].get("continue"):
                return manifests, page["metadata"]["resourceVersion"]
            params = params | {"continue": page["metadata"]["continue"]}
