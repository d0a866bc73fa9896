"""Events that people read in `kubectl describe`, and the same text as a log line."""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tidegate.adapters import telemetry
from tidegate.adapters.connection import MERGE_PATCH, ApiConnection
from tidegate.errors import Ending, TidegateError
from tidegate.ports import Clock, Manifest

__all__ = ["KubernetesEvents"]

CONTROLLER = "tidegate.dev/operator"
WRITERS = 4
"""At once: one alone lags behind two hundred releases by a minute."""
PENDING = 2000
REMEMBERED = 2000
REPEAT_WINDOW = timedelta(minutes=30)
"""A repeat within this time counts the first event up; the API server forgets events after an hour."""
REPEAT_PAUSE = timedelta(seconds=10)
"""Repeats that follow faster than this are counted in memory and not written."""
LONGEST_NOTE = 1024
ENDING_PAUSE = timedelta(minutes=1)
"""So long nothing more is written into a namespace that is being deleted: whatever goes with it would be told of every
object that used it, and refused each time."""

logger = logging.getLogger("tidegate")


@dataclass(slots=True)
class Told:
    """An event that was told, perhaps several times."""

    path: str
    since: datetime
    written: datetime
    count: int = 1


class KubernetesEvents:
    """The port `Events`: writes in the background, so that no reconcile ever waits for an event."""

    def __init__(self, api: ApiConnection, clock: Clock, instance: str) -> None:
        """Use this connection; `instance` is the name of this replica."""
        self._api = api
        self._clock = clock
        self._instance = instance
        self._pending: asyncio.Queue[tuple[str, str, Manifest]] = asyncio.Queue(PENDING)
        self._told: OrderedDict[str, Told] = OrderedDict()
        self._ending: dict[str, datetime] = {}
        """When a namespace said last that it is being deleted, by the path of its events."""

    def emit(self, about: Manifest, reason: str, message: str, *, warning: bool = False) -> None:
        """Log, and queue an event."""
        metadata = about["metadata"]
        fields = {
            "reason": reason,
            "kind": about["kind"],
            "namespace": metadata.get("namespace"),
            "name": metadata["name"],
        }
        logger.log(logging.WARNING if warning else logging.INFO, message, extra={"fields": fields})
        try:
            self._enqueue(about, reason, message[:LONGEST_NOTE], warning)
        except asyncio.QueueFull:
            telemetry.EVENTS_DROPPED.inc()

    async def run(self) -> None:
        """Write events until cancelled; a failed one is dropped, for the log has it."""
        async with asyncio.TaskGroup() as writers:
            for _ in range(WRITERS):
                writers.create_task(self._write_all())

    async def _write_all(self) -> None:
        while True:
            verb, path, body = await self._pending.get()
            try:
                await self._write(verb, path, body)
            except TidegateError as error:
                telemetry.EVENTS_DROPPED.inc()
                logger.debug("event dropped: %s", error)
            finally:
                self._pending.task_done()

    async def flush(self, seconds: float) -> None:
        """Wait until everything queued is written, but no longer than this."""
        try:
            await asyncio.wait_for(self._pending.join(), seconds)
        except TimeoutError:
            logger.debug("events left unwritten: %d", self._pending.qsize())

    async def _write(self, verb: str, path: str, body: Manifest) -> None:
        if verb == "POST":
            await self._create(path, body)
        else:
            await self._api.patch(path, body, MERGE_PATCH)

    async def _create(self, collection: str, event: Manifest) -> None:
        since = self._ending.get(collection)
        if since is not None and self._clock.now() - since < ENDING_PAUSE:
            telemetry.EVENTS_DROPPED.inc()
            return
        try:
            await self._api.post(collection, event)
        except Ending:
            self._ending[collection] = self._clock.now()
            raise

    def _enqueue(self, about: Manifest, reason: str, note: str, warning: bool) -> None:
        now = self._clock.now()
        metadata = about["metadata"]
        identity = hashlib.sha256(f"{metadata.get('uid')} {reason} {note}".encode()).hexdigest()[:16]
        told = self._told.get(identity)
        if told is not None and now - told.since < REPEAT_WINDOW:
            self._repeat(told, now)
            return
        namespace = metadata.get("namespace") or "default"
        collection = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        name = f"{metadata['name'][:200]}.{identity}{int(now.timestamp()):x}"
        event = self._build(about, reason, note, warning, now) | {"metadata": {"name": name, "namespace": namespace}}
        self._pending.put_nowait(("POST", collection, event))
        self._remember(identity, Told(f"{collection}/{name}", now, now))

    def _repeat(self, told: Told, now: datetime) -> None:
        told.count += 1
        if now - told.written >= REPEAT_PAUSE:
            told.written = now
            series = {"count": told.count, "lastObservedTime": _micro_time(now)}
            self._pending.put_nowait(("PATCH", told.path, {"series": series}))

    def _remember(self, identity: str, told: Told) -> None:
        self._told[identity] = told
        self._told.move_to_end(identity)
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)

    def _build(self, about: Manifest, reason: str, note: str, warning: bool, now: datetime) -> dict[str, Any]:
        metadata = about["metadata"]
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "eventTime": _micro_time(now),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": reason,
            "reason": reason,
            "note": note,
            "type": "Warning" if warning else "Normal",
            "regarding": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "namespace": metadata.get("namespace"),
                "name": metadata["name"],
                "uid": metadata.get("uid"),
            },
        }


def _micro_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
