"""Writes Route.status: level-triggered, one patch per change, one writer per Route at a time."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from tidegate.api.route import RouteStatus
from tidegate.router.metrics import RouterMetrics
from tidegate.router.reflector import UnavailableError
from tidegate.router.routes import RouteRecord
from tidegate.router.status import RouteFacts, plan_status

__all__ = ["ObsoleteError", "StatusRecorder", "StatusWriter"]

_log = logging.getLogger("tidegate.router.status")
_WORKERS = 8
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0


class ObsoleteError(Exception):
    """The Route does not exist any more."""


class StatusWriter(Protocol):
    """Where statuses are written."""

    async def write(self, record: RouteRecord, status: RouteStatus) -> Mapping[str, Any]:
        """Write the status and return the Route as it is then."""


class StatusRecorder:
    """Compares what each marked Route should say with what it says, and writes the difference."""

    def __init__(
        self,
        writer: StatusWriter,
        facts: Callable[[str], tuple[RouteRecord, RouteFacts] | None],
        written: Callable[[Mapping[str, Any]], None],
        metrics: RouterMetrics,
        *,
        delay: float,
        startup_grace: float,
    ) -> None:
        self._writer = writer
        self._facts = facts
        self._written = written
        self._metrics = metrics
        self._delay = delay
        self._quiet_until = time.monotonic() + startup_grace
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._busy: set[str] = set()
        self._waiting: dict[str, float] = {}
        self._pauses: dict[str, float] = {}

    def mark(self, keys: Iterable[str]) -> None:
        """Look at these Routes again."""
        for key in keys:
            if key not in self._queued:
                self._queued.add(key)
                self._queue.put_nowait(key)

    async def run(self) -> None:
        """Work for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            self._queued.discard(key)
            if key in self._busy:
                self._later(0.005, key)
                continue
            self._busy.add(key)
            try:
                await self._record(key)
            finally:
                self._busy.discard(key)

    async def _record(self, key: str) -> None:
        known = self._facts(key)
        if known is None:
            self._waiting.pop(key, None)
            self._pauses.pop(key, None)
            return
        record, facts = known
        if self._held(key, facts):
            return
        status = plan_status(facts, record.status, datetime.now(UTC))
        if status != record.status:
            await self._write(key, record, status)

    def _held(self, key: str, facts: RouteFacts) -> bool:
        """Tell whether to wait a little: an acknowledgement comes within milliseconds and makes a patch unnecessary."""
        if not facts.waiting:
            self._waiting.pop(key, None)
            return False
        now = time.monotonic()
        left = max(self._waiting.setdefault(key, now) + self._delay, self._quiet_until) - now
        if left > 0:
            self._later(left, key)
        return left > 0

    async def _write(self, key: str, record: RouteRecord, status: RouteStatus) -> None:
        try:
            self._written(await self._writer.write(record, status))
        except ObsoleteError:
            self._metrics.patches.labels("obsolete").inc()
        except UnavailableError as error:
            self._metrics.patches.labels("failed").inc()
            pause = self._pauses.get(key, _FIRST_PAUSE)
            self._pauses[key] = min(pause * 2, _LONGEST_PAUSE)
            _log.warning("status not written", extra={"route": key, "error": str(error), "retryAfterSeconds": pause})
            self._later(pause, key)
        else:
            self._metrics.patches.labels("written").inc()
            self._pauses.pop(key, None)
            _log.info("status written", extra={"route": key, **_summary(status)})

    def _later(self, seconds: float, key: str) -> None:
        asyncio.get_running_loop().call_later(seconds, self.mark, (key,))


def _summary(status: RouteStatus) -> dict[str, Any]:
    ready = next(item for item in status.conditions if item.type == "Ready")
    return {
        "generation": status.observed_generation,
        "ready": ready.status.value,
        "reason": ready.reason,
        "weights": {item.model_version: item.percent for item in status.weights},
        "missing": list(status.proxies.missing),
    }
