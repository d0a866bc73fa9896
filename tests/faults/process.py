"""An operator process that may die between any two instructions, and the world that survives it.

What is made up: the API server (`FakeApi`), the time, and whoever else a world plays. What is real: the reconcilers
with their mapping of errors, the memory (`ObjectCache`), the writes (`KubernetesObjects`), who is woken by what
(`Wakeups`). `Mortal` resumes a coroutine step by step, so "killed at its n-th await" means exactly that; the event loop
is asyncio's own, for what it asks for at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from tests.fakes.api import FakeApi, duplicate
from tests.fakes.world import FakeClock, FakeEvents, FakeTelemetry
from tidegate.adapters.cache import ObjectCache
from tidegate.adapters.connection import path_of
from tidegate.adapters.kubernetes import KubernetesObjects
from tidegate.ports import WATCHED_KINDS, Key, Kind, Manifest, Reconciler, Requeue, kind_of
from tidegate.reconcilers.pattern import ErrorMapping
from tidegate.wakeups import Wakeups

SECOND = timedelta(seconds=1)
"""Nothing is shorter here: what is due sooner is due at once."""
STEPS = 60
"""Reconciles in one second after which the operator does not come to rest."""

Change = tuple[Kind, Manifest | None, Manifest | None]
"""Kind, the object before and the object after; None stands for absent."""


class InvariantError(AssertionError):
    pass


class KilledError(Exception):
    """The process is gone; nothing that was only in its memory is left."""


@dataclass
class Death:
    """Counts the awaits of the operator, and kills it at one of them."""

    at: int | None = None
    awaits: int = 0
    has_come: bool = False


class Mortal:
    """A coroutine that is resumed until it ends, or until death comes at one of its awaits."""

    def __init__(self, work: Coroutine[Any, Any, Any], death: Death) -> None:
        self._work = work
        self._death = death

    def __await__(self) -> Generator[Any, Any, Any]:
        while True:
            try:
                waits_for = self._work.send(None)
            except StopIteration as end:
                return end.value
            self._survive(waits_for)
            yield waits_for

    def _survive(self, waits_for: asyncio.Future[Any] | None) -> None:
        self._death.awaits += 1
        if self._death.awaits != self._death.at:
            return
        self._death.has_come = True
        if waits_for is not None:  # nobody is left to ask what became of it
            waits_for.add_done_callback(lambda done: done.cancelled() or done.exception())
        with contextlib.suppress(asyncio.CancelledError, StopIteration):
            self._work.throw(asyncio.CancelledError())
        self._work.close()
        raise KilledError


def live(work: Coroutine[Any, Any, Any], death: Death) -> Any:
    """Run a coroutine of the operator to its end, or to the operator's."""

    async def run() -> Any:
        return await Mortal(work, death)

    return asyncio.run(run())


class Journal(FakeApi):
    """Shows every change to somebody."""

    def __init__(self, look: Callable[[Change], None], clock: FakeClock) -> None:
        super().__init__()
        self._look = look
        self._clock = clock
        self._made: Counter[str] = Counter()

    @property
    def version(self) -> str:
        return str(self._version)

    def put(self, path: str, manifest: Manifest) -> None:
        """Write as somebody else than the operator."""
        self._store(path, manifest)

    def remove(self, path: str) -> None:
        self._delete(path, {})

    def change(self, path: str, change: Callable[[Manifest], object]) -> None:
        manifest = duplicate(self.objects[path])
        change(manifest)
        self._store(path, manifest)

    def of_kind(self, kind: Kind) -> list[Manifest]:
        return [each for each in self.objects.values() if kind_of(each) == kind]

    def _new_uid(self, path: str) -> str:
        """Count what is made at a path, and nothing else: a restart, with its other writes, changes no identity."""
        self._made[path] += 1
        return "-".join(("uid", *path.split("/")[-2:], str(self._made[path])))

    def _store(self, path: str, manifest: Manifest) -> Manifest:
        before = self.objects.get(path)
        born = before["metadata"]["creationTimestamp"] if before else self._clock.now().isoformat()
        after = super()._store(path, manifest | {"metadata": manifest["metadata"] | {"creationTimestamp": born}})
        if after is not before:
            self._note(before, after)
        return after

    def _delete(self, path: str, options: Manifest) -> Manifest | None:
        before = self.objects.get(path)
        answer = super()._delete(path, options)
        if before is not None:
            self._note(before, None)
        return answer

    def _note(self, before: Manifest | None, after: Manifest | None) -> None:
        self._look((kind_of(after or before or {}), duplicate(before), duplicate(after)))


class Process:
    """One operator process: its memory is filled by a complete list when it starts, and by watches afterwards."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._cache = ObjectCache()
        self.objects = KubernetesObjects(world.api, self._cache, world.clock)  # type: ignore[arg-type]
        self._reconcilers = {
            kind: ErrorMapping(each, self.objects, self.objects, world.events, world.clock)
            for kind, each in world.build(self.objects).items()
        }
        self._cache.subscribe(self.objects.forget)
        self._cache.subscribe(Wakeups(self._wake, self._wake).notice)
        self._news: list[Change] = []
        """What the watches have to say."""
        self._deaf: dict[Kind, datetime] = {}
        """Kinds whose watch is silent, and until when."""
        self._busy: Key | None = None
        self._due: dict[Key, datetime] = {}
        self._woken: dict[Key, None] = {}
        """In the order of arrival."""
        self.list_again()

    def get(self, key: Key) -> Manifest | None:
        """Return what this process knows of an object."""
        return self._cache.get(key)

    def list_again(self, kinds: Iterable[Kind] = WATCHED_KINDS) -> None:
        """Read everything anew, as at the start and after a watch was lost."""
        for kind in kinds:
            self._news = [each for each in self._news if each[0] != kind]
            found = duplicate(self._world.api.of_kind(kind))
            self._cache.replace(kind, None, found, self._world.api.version)

    def lose_watch(self, kind: Kind, until: datetime) -> None:
        self._deaf[kind] = until

    def notice(self, change: Change) -> None:
        if change[0] in WATCHED_KINDS and change[0] not in self._deaf:
            self._news.append(change)

    def hear(self, limit: int | None = None) -> None:
        """Take in what the watches say; `limit`: only so many changes."""
        for kind, until in list(self._deaf.items()):
            if self._world.clock.now() >= until:
                del self._deaf[kind]
                self.list_again([kind])
        heard, self._news = self._news[:limit], self._news[len(self._news[:limit]) :]
        for _, before, after in heard:
            if after is not None:
                self._cache.put(duplicate(after))
            elif before is not None:
                self._cache.remove(before)

    @property
    def next(self) -> Key | None:
        """The object that is to be reconciled now."""
        now = self._world.clock.now()
        return next(chain(self._woken, (key for key, due in self._due.items() if now >= due)), None)

    @property
    def is_awake(self) -> bool:
        return self.next is not None

    @property
    def is_settled(self) -> bool:
        """Nothing is left to do, nothing is due, and every change was heard of."""
        return not (self._deaf or self._news or self._woken or self._due)

    def work(self, key: Key, death: Death) -> None:
        """Reconcile once, as the queue would: an error is tried again a second later."""
        self._woken.pop(key, None)
        self._due.pop(key, None)
        self._busy = key
        now = self._world.clock.now()
        try:
            requeue: Requeue | None = live(self._reconcilers[key.kind].reconcile(key), death)
        except (KilledError, InvariantError):
            raise
        except Exception as error:
            self._world.errors.append(error)
            requeue = Requeue(SECOND)
        finally:
            self._busy = None
        if requeue is not None:
            self._due[key] = now + timedelta(seconds=requeue.after // SECOND)

    def _wake(self, key: Key) -> None:
        if key.kind in self._reconcilers and key != self._busy:
            self._woken[key] = None


class World:
    """Everything that survives the operator."""

    def __init__(self, main: Key) -> None:
        """`main` is what the story is about."""
        self.main = main
        self.clock = FakeClock()
        self.api = Journal(self.notice, self.clock)
        self.events = FakeEvents()
        self.telemetry = FakeTelemetry()
        self.errors: list[Exception] = []
        self.death = Death()
        self.deaths = 0
        self.operator: Process | None = None

    # What a kind of world says

    def build(self, objects: KubernetesObjects) -> Mapping[Kind, Reconciler]:
        """Return the reconcilers of a process."""
        raise NotImplementedError

    def play(self) -> None:
        """Let everybody but the operator do their part."""
        raise NotImplementedError

    def check(self, kind: Kind, before: Manifest | None, after: Manifest | None) -> None:
        """Look at one write of anybody; raise InvariantError."""
        raise NotImplementedError

    # What all have in common

    @property
    def status(self) -> dict[str, Any]:
        """The status of what the story is about."""
        found = self.api.objects.get(path_of(self.main.kind, self.main.namespace, self.main.name)) or {}
        return found.get("status") or {}

    def change(self, **fields: Any) -> None:
        """Change the spec of what the story is about."""
        path = path_of(self.main.kind, self.main.namespace, self.main.name)
        self.api.change(path, lambda each: each["spec"].update(fields))

    def start(self) -> None:
        """Start a process; what one before had in memory is gone."""
        self.operator = Process(self)

    def kill_operator(self) -> None:
        self.deaths += 1
        self.start()

    def pass_time(self) -> None:
        self.clock.advance(seconds=1)

    def work(self) -> None:
        """Reconcile once; if that kills the operator, another one starts over the objects that are there."""
        try:
            self.operator.work(self.operator.next or self.main, self.death)
        except KilledError:
            self.kill_operator()

    def run(self, seconds: int, until: Callable[[Any], bool] = lambda _: False) -> bool:
        """Let everybody do their part until `until` is so; each second, until nobody has anything left to do."""
        for _ in range(seconds):
            self.pass_time()
            for _ in range(STEPS):
                self.play()
                self.operator.hear()
                if not self.operator.is_awake:
                    break
                self.work()
            else:
                raise InvariantError(f"the operator does not come to rest: {self.status.get('message')}")
            if until(self):
                return True
        return False

    def notice(self, change: Change) -> None:
        """Look at one write of anybody, before the watches tell of it."""
        if self.operator is not None:
            self.check(*change)
            self.operator.notice(change)
