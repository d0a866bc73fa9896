"""Around a real API server: kubelet, router and Prometheus in one thread, and what must hold at every moment."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Iterable
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from tests.faults.background import BackgroundServer
from tidegate.adapters.credentials import Credentials

POLL_SECONDS = 0.1
MERGE = "application/merge-patch+json"
ROUTES = "/apis/tidegate.dev/v1alpha1/routes"
WORKLOADS = "/apis/apps/v1/deployments?labelSelector=tidegate.dev%2Fcomponent%3Dserving"
NOW = "2026-01-01T00:00:00.000000Z"
REQUESTS = 50
"""Requests per second of every version."""
BAD_SHARE = 0.5
MISSING_FOR = 3.0
"""Seconds after which a share of a version without a workload is a fault, and no matter of two lists that differ."""


class LiveWorld(BackgroundServer):
    """Makes pods ready and confirms shares, late and in any order, and counts errors of the versions called bad."""

    def __init__(self, server: Credentials, bad: Iterable[str], seed: int) -> None:
        super().__init__()
        self._server = server
        self._bad = frozenset(bad)
        self._random = random.Random(seed)
        self._began = time.time() - 120
        self._due: dict[tuple[str, int], float] = {}
        self._missing: dict[tuple[str, str], float] = {}
        self.calm = True
        self.violations: list[str] = []
        """What must never be, and was."""
        self.prometheus = ""

    def patch(self, name: str, namespace: str, content: dict[str, Any]) -> None:
        """Change a Deployment of ours, as a person does: not through the proxy."""
        path = f"/apis/tidegate.dev/v1alpha1/namespaces/{namespace}/deployments/{name}"
        self.run(self._send(path, content), 30)

    def deployments(self, namespace: str) -> dict[str, dict[str, Any]]:
        """Return our Deployments by name."""
        path = f"/apis/tidegate.dev/v1alpha1/namespaces/{namespace}/deployments"
        found = self.run(self._list(path), 30)
        return {each["metadata"]["name"]: each for each in found}

    async def _start(self) -> None:
        connector = aiohttp.TCPConnector(ssl=self._server.ssl_context())
        self._session = aiohttp.ClientSession(self._server.server, connector=connector)
        application = web.Application()
        application.router.add_post("/api/v1/query", self._query)
        self.prometheus = await self._listen(application)
        self._task = asyncio.create_task(self._play())
        self._task.add_done_callback(self._notice_end)

    async def _stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._runner.cleanup()
        await self._session.close()

    def _notice_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self.violations.append(f"the world has ended: {task.exception()!r}")

    # Kubelet and router

    async def _play(self) -> None:
        while True:
            workloads, routes = await self._list(WORKLOADS), await self._list(ROUTES)
            self._check(workloads, routes)
            await asyncio.gather(*map(self._run_pods, workloads), *map(self._confirm, routes))
            await asyncio.sleep(POLL_SECONDS)

    async def _run_pods(self, live: dict[str, Any]) -> None:
        replicas = live["spec"]["replicas"]
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), replicas)
        status = counts | {"observedGeneration": live["metadata"]["generation"]}
        if not status.items() <= (live.get("status") or {}).items() and self._is_time(live):
            await self._send(_path("/apis/apps/v1", "deployments", live) + "/status", {"status": status})

    async def _confirm(self, route: dict[str, Any]) -> None:
        generation = route["metadata"]["generation"]
        if (route.get("status") or {}).get("observedGeneration") == generation or not self._is_time(route):
            return
        weights = [{key: each[key] for key in ("modelVersion", "percent")} for each in route["spec"]["backends"]]
        ready = {"type": "Ready", "status": "True", "reason": "Confirmed", "message": "", "lastTransitionTime": NOW}
        status = {"observedGeneration": generation, "weights": weights, "conditions": [ready]}
        await self._send(_path("/apis/tidegate.dev/v1alpha1", "routes", route) + "/status", {"status": status})

    def _is_time(self, live: dict[str, Any]) -> bool:
        """Let everything take a while of its own."""
        key = (live["metadata"]["uid"], live["metadata"]["generation"])
        delay = 0.0 if self.calm else self._random.uniform(0, 0.6)
        return time.monotonic() >= self._due.setdefault(key, time.monotonic() + delay)

    # What must hold

    def _check(self, workloads: list[dict[str, Any]], routes: list[dict[str, Any]]) -> None:
        names = {each["metadata"]["name"] for each in workloads if not each["metadata"].get("deletionTimestamp")}
        seen = set()
        for route in routes:
            name, backends = route["metadata"]["name"], route["spec"]["backends"]
            total = sum(each["percent"] for each in backends)
            if backends and abs(total - 100) > 1e-6:
                self.violations.append(f"{name}: the shares sum to {total}")
            for each in backends:
                if each["modelVersion"] in self._bad and each["percent"] == 100:
                    self.violations.append(f"{name}: {each['modelVersion']} got all traffic")
                if each["percent"] > 0 and each["workload"] not in names:
                    seen.add((name, each["workload"]))
        now = time.monotonic()
        self._missing = {key: self._missing.get(key, now) for key in seen}
        late = [key for key, since in self._missing.items() if now - since > MISSING_FOR]
        self.violations += [
            f"{time.strftime('%T')} {name}: {workload} has traffic and no pods" for name, workload in late
        ]

    # Prometheus

    async def _query(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        chance = self._random.random()
        if not self.calm and chance < 0.05:
            return web.json_response({"status": "error", "error": "overloaded"}, status=503)
        if not self.calm and chance < 0.07 and request.transport is not None:
            request.transport.abort()
        result = [] if not self.calm and 0.07 <= chance < 0.12 else self._series(str(form["query"]), str(form["time"]))
        return web.json_response({"status": "success", "data": {"resultType": "matrix", "result": result}})

    def _series(self, query: str, at: str) -> list[dict[str, Any]]:
        """Count requests of every version evenly, and errors of the bad ones."""
        found = re.search(r"\[(\d+)ms\]", query)
        end, span = float(at), float(found[1]) / 1000 if found else 60.0
        moments = [end - span + 0.5 * n for n in range(int(span / 0.5) + 1)]
        series = []
        for version in (*self._bad, *self._good):
            share = BAD_SHARE if version in self._bad else 0.0
            for code, part in (("2", 1 - share), ("5", share)):
                values = [[each, str(int(REQUESTS * part * (each - self._began)))] for each in moments]
                labels = {
                    "__name__": "envoy_cluster_upstream_rq_xx",
                    "tidegate_version": version,
                    "envoy_response_code_class": code,
                }
                series.append({"metric": labels, "values": values})
        return series

    def know(self, good: Iterable[str]) -> None:
        """Name the versions that answer well."""
        self._good = tuple(good)

    # Requests, past the proxy

    async def _list(self, path: str) -> list[dict[str, Any]]:
        """List objects; an API server that has just learnt of a kind says 429 for a moment."""
        for _ in range(30):
            async with self._session.get(URL(path, encoded=True)) as answer:
                if answer.status == 200:
                    return list((await answer.json())["items"])
            await asyncio.sleep(1)
        raise AssertionError(f"{path}: {answer.status}")

    async def _send(self, path: str, content: dict[str, Any]) -> None:
        async with self._session.patch(path, data=json.dumps(content), headers={"Content-Type": MERGE}) as answer:
            if answer.status not in (200, 404):
                raise AssertionError(f"{path}: {answer.status} {await answer.text()}")


def _path(api: str, plural: str, live: dict[str, Any]) -> str:
    metadata = live["metadata"]
    return f"{api}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}"
