"""The tables and the wiring between them: changes come in, a new snapshot goes to the streams, Routes are marked."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tidegate.router.endpoints import EndpointTable, WorkloadKey, parse_pod
from tidegate.router.fleet import Fleet, Standing
from tidegate.router.metrics import RouterMetrics
from tidegate.router.names import route_key
from tidegate.router.parts import Kind
from tidegate.router.routes import RouteRecord, parse_route
from tidegate.router.session import ProxySession, Receipt
from tidegate.router.snapshot import CompiledRoute, Snapshot, assemble_snapshot, compile_route, replace_routes
from tidegate.router.status import RouteFacts

__all__ = ["Control"]

_log = logging.getLogger("tidegate.router.control")

Key = tuple[str, str]
_BETWEEN_BUILDS = 0.05
"""Seconds. A build takes time for every Route, and every proxy is told what it gave: while many Routes change, changes
wait for each other this long. A change after a pause is built at once."""


class Control:
    """What the router knows.

    Changes that arrive together are built together. Nothing is published before ``open`` was called: a configuration
    built from half of the Routes would take the other half out of service.
    """

    def __init__(self, metrics: RouterMetrics, *, listener_port: int, grace: float) -> None:
        self._metrics = metrics
        self._listener_port = listener_port
        self._grace = grace
        self._fleet = Fleet(grace)
        self._records: dict[str, RouteRecord] = {}
        self._compiled: dict[str, CompiledRoute] = {}
        self._users: dict[WorkloadKey, set[str]] = {}
        self._table = EndpointTable()
        self._dirty: set[str] = set()
        self._opened = self._scheduled = False
        self._next_build = 0.0
        self.snapshot: Snapshot | None = None
        self.publish: Callable[[], None] = lambda: None
        self.mark: Callable[[Iterable[str]], None] = lambda keys: None

    def open(self) -> None:
        """Everything was listed: from now on, publish."""
        self._opened = True
        self._schedule()

    def put_route(self, key: Key, obj: Mapping[str, Any]) -> None:
        """Take in a Route as the API server has it."""
        record = parse_route(obj)
        old = self._records.get(record.key)
        self._records[record.key] = record
        if old is None or (old.view, old.uid) != (record.view, record.uid):
            self._change({record.key})
        self.mark({record.key})

    def remove_route(self, key: Key) -> None:
        """Forget a Route; its host name is answered with 404 from now on."""
        name = route_key(*key)
        if self._records.pop(name, None):
            self._change({name})

    def put_pod(self, key: Key, obj: Mapping[str, Any]) -> None:
        """Take in a pod."""
        self._endpoints_changed(self._table.put(key, parse_pod(obj)))

    def remove_pod(self, key: Key) -> None:
        """Forget a pod."""
        self._endpoints_changed(self._table.remove(key))

    def expect(self, pods: frozenset[str]) -> None:
        """Set which proxies are ready."""
        if pods != self._fleet.expected:
            self._fleet.expected = pods
            self.mark(tuple(self._records))

    def joined(self, session: ProxySession) -> None:
        """A proxy has connected."""
        self._fleet.join(session)
        self.mark(tuple(self._records))

    def left(self, session: ProxySession) -> None:
        """A stream has ended; look again when the proxy is no longer waited for."""
        self._fleet.leave(session, time.monotonic())
        self.mark(tuple(self._records))
        asyncio.get_running_loop().call_later(self._grace + 0.01, lambda: self.mark(tuple(self._records)))

    def heard(self, session: ProxySession, kind: Kind, receipt: Receipt) -> None:
        """A proxy has accepted or refused something."""
        if receipt.refused is not None:
            self.mark(tuple(self._records))
        elif kind is Kind.ROUTES:
            self.mark(receipt.accepted & self._records.keys())

    def facts(self, key: str) -> tuple[RouteRecord, RouteFacts] | None:
        """Return what the status of a Route follows from; None for a Route that is gone or not yet built."""
        record = self._records.get(key)
        if record is None or self.snapshot is None or key in self._dirty:
            return None
        compiled = self._compiled.get(key)
        standing = self._fleet.standing(compiled.route, time.monotonic()) if compiled else Standing()
        conflict = self.snapshot.conflicts.get(key, "")
        return record, RouteFacts(record.generation, compiled, standing, record.problem, conflict)

    def _endpoints_changed(self, workloads: set[WorkloadKey]) -> None:
        self._change({key for workload in workloads for key in self._users.get(workload, ())})

    def _change(self, keys: set[str]) -> None:
        self._dirty |= keys
        if keys:
            self._schedule()

    def _schedule(self) -> None:
        if self._opened and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_at(self._next_build, self._rebuild)

    def _rebuild(self) -> None:
        self._scheduled = False
        with self._metrics.build.time():
            changed, self._dirty = self._dirty, set()
            before = {key: self._compiled[key] for key in changed if key in self._compiled}
            for key in changed:
                self._compile(key)
            after = {key: self._compiled[key] for key in changed if key in self._compiled}
            old = self.snapshot
            patched = replace_routes(old, before, after) if old else None
            self.snapshot = patched or self._assemble()
        self._metrics.routes.set(len(self.snapshot.routes))
        if old is not None:
            changed |= old.conflicts.keys() ^ self.snapshot.conflicts.keys()
        self.publish()
        self.mark(changed)
        self._next_build = asyncio.get_running_loop().time() + _BETWEEN_BUILDS

    def _assemble(self) -> Snapshot:
        return assemble_snapshot(self._records.values(), self._compiled, self._listener_port)

    def _compile(self, key: str) -> None:
        record = self._records.get(key)
        if record is None:
            self._index(self._compiled.pop(key, None), None, key)
        elif record.view is not None:
            compiled = compile_route(record.view, self._table)
            self._index(self._compiled.get(key), compiled, key)
            self._compiled[key] = compiled
        else:
            _log.error("route is invalid", extra={"route": key, "problem": record.problem})

    def _index(self, old: CompiledRoute | None, new: CompiledRoute | None, key: str) -> None:
        for workload in old.workloads if old else ():
            self._users[workload].discard(key)
            if not self._users[workload]:
                del self._users[workload]
        for workload in new.workloads if new else ():
            self._users.setdefault(workload, set()).add(key)
