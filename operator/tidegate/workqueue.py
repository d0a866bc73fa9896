"""One level-triggered queue for all kinds: whatever happens, the object is reconciled again, never twice at once."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Protocol

from tidegate.errors import Conflict, TidegateError
from tidegate.ports import Key, Requeue

__all__ = ["Observer", "Reconcile", "WorkQueue"]

Reconcile = Callable[[Key], Awaitable[Requeue | None]]

FIRST_DELAY = 0.05
LONGEST_DELAY = 60.0
LONGEST_CONFLICT_DELAY = 1.0
LONGEST_RECONCILE = 120.0
"""Every request has a time-out of its own; this one is for what nobody thought of."""

logger = logging.getLogger(__name__)
_current: ContextVar[Key | None] = ContextVar("current", default=None)


class Observer(Protocol):
    """Who wants to know how the queue does; all times in seconds."""

    def started(self, depth: int, waited: float) -> None:
        """A reconcile starts after `waited`; `depth` objects still wait."""
        ...

    def finished(self, key: Key, seconds: float) -> None:
        """A reconcile ended, well or not."""
        ...

    def failed(self, key: Key, reason: str) -> None:
        """A reconcile raised and will be retried."""
        ...


class WorkQueue:
    """Keys that need a reconcile, now or at a known time.

    * A key that is added while it waits is not added twice; one that is added while it is reconciled runs once more
      afterwards. Nothing is remembered but the key: a reconcile reads the state of the moment.
    * What a reconcile writes wakes others, not itself: it says through `Requeue` when to look again.
    * An exception is retried after 0.05 s, doubled each time up to a minute; a Conflict after a second at most.
    * A fixed number of workers; keys wait for a free one in the order of arrival.
    """

    def __init__(self, reconcile: Reconcile, observer: Observer, *, workers: int = 16) -> None:
        """Prepare; nothing runs before `start`."""
        self._reconcile = reconcile
        self._observer = observer
        self._workers = workers
        self._ready: asyncio.Queue[Key | None] = asyncio.Queue()
        self._waiting: dict[Key, float] = {}
        self._running: set[Key] = set()
        self._dirty: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: Counter[Key] = Counter()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    def __len__(self) -> int:
        """Return how many keys wait for a worker."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or runs; what is due later does not count."""
        return not (self._waiting or self._running)

    def add(self, key: Key) -> None:
        """Reconcile this object soon, unless it is the caller's own reconcile that says so."""
        if key != _current.get():
            self._enqueue(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Reconcile this object in so many seconds, or earlier if it is due or woken earlier."""
        loop = asyncio.get_running_loop()
        due = self._timers.get(key)
        if self._stopping or (due is not None and due.when() <= loop.time() + seconds):
            return
        if due is not None:
            due.cancel()
        self._timers[key] = loop.call_later(seconds, self._enqueue, key)

    def start(self) -> None:
        """Start the workers."""
        self._tasks = [asyncio.create_task(self._work(), name=f"worker {n}") for n in range(self._workers)]

    async def stop(self, grace: float) -> None:
        """Start nothing more, let what runs finish, and cancel what still runs after `grace` seconds."""
        self._stopping = True
        for timer in self._timers.values():
            timer.cancel()
        for _ in self._tasks:
            self._ready.put_nowait(None)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _enqueue(self, key: Key) -> None:
        if self._stopping or key in self._waiting:
            return
        if key in self._running:
            self._dirty.add(key)
            return
        self._waiting[key] = time.monotonic()
        self._ready.put_nowait(key)

    async def _work(self) -> None:
        while True:
            key = await self._ready.get()
            if key is None or self._stopping:
                return
            await self._process(key)

    async def _process(self, key: Key) -> None:
        started = time.monotonic()
        self._observer.started(len(self._waiting) - 1, started - self._waiting.pop(key))
        self._running.add(key)
        if timer := self._timers.pop(key, None):
            timer.cancel()
        token = _current.set(key)
        try:
            async with asyncio.timeout(LONGEST_RECONCILE):
                requeue = await self._reconcile(key)
        except Exception as error:
            self._retry(key, error)
        else:
            self._failures.pop(key, None)
            if requeue is not None:
                self.add_after(key, requeue.after.total_seconds())
        finally:
            _current.reset(token)
            self._running.discard(key)
            self._observer.finished(key, time.monotonic() - started)
        if key in self._dirty:
            self._dirty.discard(key)
            self._enqueue(key)

    def _retry(self, key: Key, error: Exception) -> None:
        self._failures[key] += 1
        longest = LONGEST_CONFLICT_DELAY if isinstance(error, Conflict) else LONGEST_DELAY
        delay = min(FIRST_DELAY * 2 ** min(self._failures[key] - 1, 20), longest) * random.uniform(0.8, 1.2)
        self.add_after(key, delay)
        if isinstance(error, Conflict):
            logger.debug("%s: %s", key, error)
            return
        reason = error.reason if isinstance(error, TidegateError) else type(error).__name__
        self._observer.failed(key, reason)
        fields = {"reason": reason, "object": str(key), "retryAfterSeconds": round(delay, 2)}
        unknown = not isinstance(error, TidegateError)
        logger.warning("reconcile failed: %s", error, exc_info=error if unknown else None, extra={"fields": fields})
