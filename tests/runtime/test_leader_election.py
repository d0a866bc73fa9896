"""Leader election: never two leaders, a dead one is replaced, a stopped one hands over at once."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import sleep as blocking_sleep

import pytest

from tests.fakes.api import FakeApi, unavailable
from tidegate.adapters.lease import LeaderElection, LeaseThread, LeaseTimes
from tidegate.errors import Unavailable

PATH = "/apis/coordination.k8s.io/v1/namespaces/system/leases/tidegate"
TIMES = LeaseTimes(duration=15, renew_deadline=10, retry=2)


class Time:
    """A clock shared by all replicas that moves only when they all sleep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self._sleep = asyncio.sleep
        monkeypatch.setattr("tidegate.adapters.lease.asyncio.sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        if seconds == 0:
            await self._sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, future))
        await future

    async def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            for _ in range(50):
                await self._sleep(0)
            self._sleepers = [each for each in self._sleepers if not each[1].done()]
            due = min((at for at, _ in self._sleepers), default=end)
            if due >= end:
                self.now = end
                return
            self.now = max(self.now, due)
            for at, future in self._sleepers:
                if at <= self.now and not future.done():
                    future.set_result(None)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def make(api: FakeApi, identity: str, time: Time) -> LeaderElection:
    return LeaderElection(api, "system", "tidegate", identity, TIMES, monotonic=lambda: time.now)  # type: ignore[arg-type]


@asynccontextmanager
async def running(*work: object) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.ensure_future(each) for each in work]  # type: ignore[arg-type]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def live(election: LeaderElection) -> None:
    await election.acquire()
    await election.hold()


async def test_first_replica_makes_the_lease_and_leads(time: Time) -> None:
    api = FakeApi()
    election = make(api, "a", time)
    async with running(live(election)):
        await time.advance(60)
        assert election.is_leading()
        spec = api.objects[PATH]["spec"]
        assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("a", 1)


async def test_the_second_waits_until_the_first_lets_go_and_follows_at_once(time: Time) -> None:
    api = FakeApi()
    first, second = make(api, "a", time), make(api, "b", time)
    async with running(live(first)) as (task,):
        await time.advance(1)
        async with running(live(second)):
            await time.advance(100)
            assert (first.is_leading(), second.is_leading()) == (True, False)
            task.cancel()
            await first.release()
            await time.advance(TIMES.retry + 0.1)
            assert (first.is_leading(), second.is_leading()) == (False, True)


async def test_a_dead_leader_is_replaced_after_its_lease_has_run_out_and_not_before(time: Time) -> None:
    api = FakeApi()
    first, second = make(api, "a", time), make(api, "b", time)
    async with running(live(first)) as (task,):
        await time.advance(9)
        task.cancel()
        async with running(live(second)):
            await time.advance(TIMES.duration - TIMES.retry)
            assert not second.is_leading()
            await time.advance(2 * TIMES.retry + 0.1)
            assert second.is_leading()
            assert not first.is_leading()


async def test_a_leader_that_cannot_renew_gives_up_before_another_may_lead(time: Time) -> None:
    api = FakeApi()
    first, second = make(api, "a", time), make(api, "b", time)
    async with running(live(first)) as (task,):
        await time.advance(5)
        api.fault = unavailable
        await time.advance(TIMES.renew_deadline + TIMES.retry + 0.1)
        with pytest.raises(Unavailable, match="could not be renewed"):
            task.result()
        assert not first.is_leading()
        api.fault = None
        async with running(live(second)):
            await time.advance(1)
            assert not second.is_leading(), "it has to see the lease unchanged for its whole duration first"


async def test_a_restarted_container_takes_its_own_lease_again_at_once(time: Time) -> None:
    api = FakeApi()
    async with running(live(make(api, "pod-1", time))):
        await time.advance(5)
    again = make(api, "pod-1", time)
    async with running(live(again)):
        await time.advance(0.1)
        assert again.is_leading()


async def test_lease_taken_by_another_between_read_and_write(time: Time) -> None:
    """Both read a free lease; resourceVersion lets only one of them write."""
    api = FakeApi()
    elections = [make(api, name, time) for name in "abcdef"]
    async with running(*(live(each) for each in elections)):
        await time.advance(1)
        assert sum(each.is_leading() for each in elections) == 1


@pytest.mark.parametrize("seed", range(20))
async def test_never_two_leaders_whatever_fails(time: Time, seed: int) -> None:
    rng = random.Random(seed)
    api = FakeApi()
    elections = [make(api, name, time) for name in "abc"]
    tasks = {name: asyncio.ensure_future(live(each)) for name, each in zip("abc", elections, strict=True)}
    led = set()
    for _ in range(60):
        api.fault = unavailable if rng.random() < 0.3 else None
        api.lose_answer = unavailable if rng.random() < 0.3 else None
        await time.advance(rng.uniform(0.5, 8))
        leading = [index for index, each in enumerate(elections) if each.is_leading()]
        assert len(leading) <= 1
        led |= set(leading)
        for index, name in enumerate("abc"):
            if tasks[name].done():
                elections[index] = make(api, name, time)
                tasks[name] = asyncio.ensure_future(live(elections[index]))
            elif rng.random() < 0.05:
                tasks[name].cancel()
    assert led
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


class ClosableApi(FakeApi):
    async def close(self) -> None:
        pass


async def test_a_busy_event_loop_does_not_delay_the_renewals() -> None:
    """With a thousand objects to list and reconcile, a lease of seconds was lost; it has a thread of its own."""
    api = ClosableApi()
    times = LeaseTimes(duration=0.5, renew_deadline=0.4, retry=0.02)
    lease = LeaseThread(LeaderElection(api, "system", "tidegate", "a", times), api)  # type: ignore[arg-type]
    await lease.acquire()
    async with running(lease.hold()):
        await asyncio.sleep(0)
        blocking_sleep(1.5)  # the whole loop stands still for three times the lease
        assert lease.is_leading()
        await lease.release()
        assert not lease.is_leading()
    await lease.close()
    assert not any(thread.name == "lease" for thread in threading.enumerate())
