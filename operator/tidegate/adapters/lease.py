"""Leader election through a Lease: of several replicas one works, the others wait and do nothing at all.

As in client-go, no clock of another machine is trusted: a lease has run out when this replica has seen it unchanged
for its whole duration, by its own monotonic clock.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tidegate.adapters import telemetry
from tidegate.adapters.connection import ApiConnection
from tidegate.errors import Conflict, TidegateError, Unavailable
from tidegate.ports import Manifest

__all__ = ["LeaderElection", "LeaseThread", "LeaseTimes"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds. A replica that could not renew for `renew_deadline` gives up before others may take over."""

    duration: float = 15
    renew_deadline: float = 10
    retry: float = 2


class LeaderElection:
    """Holds one Lease, or waits for it."""

    def __init__(
        self,
        api: ApiConnection,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes = LeaseTimes(),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Compete for the Lease `name` under this identity (the pod's name: a restarted container is no rival)."""
        self._api = api
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._metadata = {"name": name, "namespace": namespace}
        self._identity = identity
        self._times = times
        self._monotonic = monotonic
        self._seen: tuple[Any, float] = (None, 0.0)
        self._renewed = float("-inf")

    def is_leading(self) -> bool:
        """Whether the lease is surely ours just now; asked before every write."""
        return self._monotonic() - self._renewed < self._times.duration

    async def acquire(self) -> None:
        """Return once this replica leads."""
        told = False
        while not await self._try():
            if not told:
                logger.info("standing by: another replica leads")
                told = True
            await asyncio.sleep(self._times.retry)
        telemetry.LEADING.set(1)
        logger.info("this replica leads", extra={"fields": {"identity": self._identity}})

    async def hold(self) -> None:
        """Renew the lease until cancelled.

        Raises:
            Unavailable: That has failed for `renew_deadline`; somebody else may lead now.
        """
        while self._monotonic() - self._renewed < self._times.renew_deadline:
            await asyncio.sleep(self._times.retry)
            await self._try()
        telemetry.LEADING.set(0)
        self._renewed = float("-inf")
        raise Unavailable("LeaseLost", "the lease could not be renewed in time; this replica ends")

    async def release(self) -> None:
        """Let the lease go at once, so that the next replica need not wait; best effort."""
        if not self.is_leading():
            return
        try:
            lease = await self._api.get(self._path)
            if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
                await self._api.put(self._path, lease)
        except TidegateError as error:
            logger.warning("could not release the lease: %s", error)
        self._renewed = float("-inf")
        telemetry.LEADING.set(0)

    @property
    def _path(self) -> str:
        return f"{self._collection}/{self._metadata['name']}"

    async def _try(self) -> bool:
        """Take or renew the lease if we may; say whether it is ours now."""
        asked = self._monotonic()
        try:
            async with asyncio.timeout(self._times.renew_deadline):
                taken = await self._take()
        except (TidegateError, TimeoutError) as error:
            logger.warning("could not read or write the lease: %s", error)
            return False
        if taken:
            self._renewed = asked
        return taken

    async def _take(self) -> bool:
        lease = await self._api.get(self._path)
        if lease is None:
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": self._metadata}
            return await self._write(body | {"spec": self._spec({})}, new=True)
        spec = lease.get("spec") or {}
        if spec.get("holderIdentity") != self._identity and not self._has_run_out(spec):
            return False
        return await self._write(lease | {"spec": self._spec(spec)}, new=False)

    def _has_run_out(self, spec: Manifest) -> bool:
        if not spec.get("holderIdentity"):
            return True
        record = (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if record != self._seen[0]:
            self._seen = (record, self._monotonic())
        duration = spec.get("leaseDurationSeconds") or self._times.duration
        return self._monotonic() - self._seen[1] >= float(duration)

    async def _write(self, lease: Manifest, *, new: bool) -> bool:
        try:
            if new:
                await self._api.post(self._collection, lease)
            else:
                await self._api.put(self._path, lease)
        except Conflict:
            return False
        return True

    def _spec(self, before: Manifest) -> Manifest:
        ours = before.get("holderIdentity") == self._identity
        now = _now()
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._times.duration)),
            "acquireTime": before.get("acquireTime", now) if ours else now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (not ours),
        }


class LeaseThread:
    """Leader election in an event loop of its own: neither a long list nor a hundred reconciles delay a renewal."""

    def __init__(self, election: LeaderElection, api: ApiConnection) -> None:
        """Take over the election and the connection that nobody else uses."""
        self._election = election
        self._api = api
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lease", daemon=True)

    def is_leading(self) -> bool:
        """Whether the lease is surely ours just now."""
        return self._election.is_leading()

    async def acquire(self) -> None:
        """Return once this replica leads."""
        if not self._thread.is_alive():
            self._thread.start()
        await self._there(self._election.acquire())

    async def hold(self) -> None:
        """Renew the lease until cancelled; raises Unavailable when that has failed for too long."""
        await self._there(self._election.hold())

    async def release(self) -> None:
        """Let the lease go at once; best effort."""
        await self._there(self._election.release())

    async def close(self) -> None:
        """Close the connection and end the thread."""
        if self._thread.is_alive():
            await self._there(self._api.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    async def _there(self, work: Coroutine[Any, Any, None]) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
