"""The work queue: coalescing, one at a time per object, delays, back-off, and a graceful end."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import pairwise

import pytest

from tidegate import workqueue as module
from tidegate.errors import Conflict, Unavailable
from tidegate.ports import DEPLOYMENT, Key, Requeue
from tidegate.workqueue import WorkQueue

A, B = (Key(DEPLOYMENT, "default", name) for name in "ab")


class Observed:
    def __init__(self) -> None:
        self.failures: list[tuple[Key, str]] = []
        self.finishes = 0

    def started(self, depth: int, waited: float) -> None:
        assert depth >= 0
        assert waited >= 0

    def finished(self, key: Key, seconds: float) -> None:
        self.finishes += 1

    def failed(self, key: Key, reason: str) -> None:
        self.failures.append((key, reason))


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0)


def make(reconcile: Callable[[Key], Awaitable[Requeue | None]], workers: int = 4) -> tuple[WorkQueue, Observed]:
    observed = Observed()
    queue = WorkQueue(reconcile, observed, workers=workers)
    return queue, observed


async def test_many_events_of_one_object_are_one_reconcile() -> None:
    calls: list[Key] = []

    async def reconcile(key: Key) -> None:
        calls.append(key)

    queue, _ = make(reconcile)
    for _ in range(10):
        queue.add(A)
    queue.add(B)
    assert len(queue) == 2
    queue.start()
    await until(lambda: len(calls) == 2)
    await queue.stop(1)
    assert calls == [A, B]


async def test_event_during_a_reconcile_runs_it_once_more_and_never_twice_at_once() -> None:
    running: Counter[Key] = Counter()
    calls = 0
    go_on = asyncio.Event()

    async def reconcile(key: Key) -> None:
        nonlocal calls
        calls += 1
        running[key] += 1
        assert running[key] == 1
        await go_on.wait()
        running[key] -= 1

    queue, _ = make(reconcile)
    queue.start()
    queue.add(A)
    await until(lambda: calls == 1)
    for _ in range(5):
        queue.add(A)
    go_on.set()
    await until(lambda: calls == 2 and queue.is_idle)
    await queue.stop(1)
    assert calls == 2


async def test_a_reconcile_does_not_wake_itself_but_others() -> None:
    calls: list[Key] = []

    async def reconcile(key: Key) -> None:
        calls.append(key)
        queue.add(A)
        if key == A:
            await asyncio.gather(asyncio.to_thread(lambda: None))
            queue.add(B)

    queue, _ = make(reconcile, workers=1)
    queue.start()
    queue.add(A)
    await until(lambda: len(calls) >= 3)
    await queue.stop(1)
    assert calls[:3] == [A, B, A]


async def test_requeue_comes_by_itself_and_an_event_comes_first() -> None:
    times: list[float] = []
    loop = asyncio.get_running_loop()

    async def reconcile(key: Key) -> Requeue | None:
        times.append(loop.time())
        return Requeue(timedelta(seconds=0.05)) if len(times) < 3 else None

    queue, _ = make(reconcile)
    queue.start()
    queue.add(A)
    await until(lambda: len(times) == 3 and queue.is_idle)
    assert times[1] - times[0] >= 0.045
    queue.add_after(A, 60)
    queue.add_after(A, 0.01)
    await until(lambda: len(times) == 4)
    assert not queue._timers
    await queue.stop(1)


async def test_errors_are_retried_with_growing_delays_until_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    attempts = 0

    async def reconcile(key: Key) -> None:
        nonlocal attempts
        attempts += 1
        if attempts <= 6:
            raise Unavailable("ApiServerUnavailable", "no answer")

    queue, observed = make(reconcile)
    original = queue.add_after

    def remember(key: Key, seconds: float) -> None:
        delays.append(seconds)
        original(key, 0)

    monkeypatch.setattr(queue, "add_after", remember)
    queue.start()
    queue.add(A)
    await until(lambda: attempts == 7 and queue.is_idle)
    await queue.stop(1)
    assert observed.failures == [(A, "ApiServerUnavailable")] * 6
    assert [round(later / earlier) for earlier, later in pairwise(delays)] == pytest.approx([2] * 5, abs=1)
    assert queue._failures[A] == 0


async def test_conflicts_are_no_errors_and_never_wait_long(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    attempts = 0

    async def reconcile(key: Key) -> None:
        nonlocal attempts
        attempts += 1
        if attempts <= 12:
            raise Conflict("Conflict", "newer")

    queue, observed = make(reconcile)
    original = queue.add_after
    monkeypatch.setattr(queue, "add_after", lambda key, seconds: (delays.append(seconds), original(key, 0)))
    queue.start()
    queue.add(A)
    await until(lambda: attempts == 13)
    await queue.stop(1)
    assert observed.failures == []
    assert max(delays) <= 1.2


async def test_unknown_exception_does_not_end_the_worker() -> None:
    calls: list[Key] = []

    async def reconcile(key: Key) -> None:
        calls.append(key)
        if key == A:
            raise RuntimeError("a bug")

    queue, observed = make(reconcile, workers=1)
    queue.start()
    queue.add(A)
    queue.add(B)
    await until(lambda: B in calls)
    await queue.stop(1)
    assert (A, "RuntimeError") in observed.failures


async def test_a_reconcile_that_hangs_is_given_up_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_RECONCILE", 0.01)
    attempts = 0

    async def reconcile(key: Key) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await asyncio.Event().wait()

    queue, observed = make(reconcile)
    queue.start()
    queue.add(A)
    await until(lambda: attempts == 2)
    await queue.stop(1)
    assert observed.failures == [(A, "TimeoutError")]


async def test_stop_lets_running_ones_finish_and_starts_nothing_more() -> None:
    started, finished = [], []
    go_on = asyncio.Event()

    async def reconcile(key: Key) -> None:
        started.append(key)
        await go_on.wait()
        finished.append(key)

    queue, _ = make(reconcile, workers=1)
    queue.start()
    queue.add(A)
    await until(lambda: started == [A])
    queue.add(B)
    stopping = asyncio.create_task(queue.stop(5))
    await asyncio.sleep(0)
    go_on.set()
    await stopping
    assert (started, finished) == ([A], [A])
    queue.add(B)
    assert len(queue) == 1


async def test_stop_cancels_what_does_not_end() -> None:
    cancelled = asyncio.Event()

    async def reconcile(key: Key) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    queue, _ = make(reconcile)
    queue.start()
    queue.add(A)
    await until(lambda: queue._running == {A})
    await queue.stop(0.01)
    assert cancelled.is_set()


@pytest.mark.parametrize("seed", range(5))
async def test_every_object_is_reconciled_after_its_last_event(seed: int) -> None:
    """Whatever the interleaving: the state at the last event is seen by a reconcile that starts afterwards."""
    rng = random.Random(seed)
    keys = [Key(DEPLOYMENT, "default", str(n)) for n in range(20)]
    wanted: Counter[Key] = Counter()
    seen: dict[Key, int] = {}

    async def reconcile(key: Key) -> None:
        value = wanted[key]
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        if rng.random() < 0.1:
            raise Conflict("Conflict", "newer")
        seen[key] = value

    queue, _ = make(reconcile, workers=3)
    queue.start()
    for _ in range(500):
        key = rng.choice(keys)
        wanted[key] += 1
        queue.add(key)
        if rng.random() < 0.3:
            await asyncio.sleep(0)
    await until(lambda: seen == dict(wanted), 10)
    await queue.stop(1)
