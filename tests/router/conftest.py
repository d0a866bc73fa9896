"""Fixtures: an in-memory cluster, the router, the real Envoy and two model servers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.router.support import (
    Envoy,
    MemoryCluster,
    Upstream,
    backend,
    eventually,
    free_port,
    pod_object,
    route_object,
    running_router,
    start_envoy,
)
from tidegate.router.app import Router

StartEnvoy = Callable[..., Awaitable[Envoy]]


@dataclass
class World:
    """Cluster, router, one proxy, and the servers of two versions."""

    cluster: MemoryCluster
    router: Router
    envoy: Envoy
    stable: Upstream
    canary: Upstream

    def split(self, canary: float, **spec: Any) -> None:
        """Set the canary's share."""
        spec = {"sticky": {"header": "x-user-id"}, **spec}
        backends = [
            backend("connect4-1.0.0", "stable", 100 - canary),
            backend("connect4-1.1.0", "canary", canary, "Canary"),
        ]
        self.cluster.routes.put(route_object(backends=backends, **spec))

    async def confirmed(self) -> None:
        """Wait until the Route says that all proxies have its weights."""
        await eventually(self.cluster.confirmed, what="confirmed")


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


@pytest_asyncio.fixture
async def start(tmp_path: Path) -> AsyncIterator[StartEnvoy]:
    """Start proxies that end with the test."""
    started: list[Envoy] = []

    async def launch(xds_port: int, listener_port: int, node: str = "envoy-0") -> Envoy:
        envoy = start_envoy(tmp_path, xds_port, listener_port, node)
        started.append(envoy)
        return envoy

    yield launch
    await asyncio.gather(*(asyncio.to_thread(envoy.stop) for envoy in started))


@pytest_asyncio.fixture
async def world(cluster: MemoryCluster, start: StartEnvoy) -> AsyncIterator[World]:
    """Everything runs, all traffic goes to the stable version, and the proxy has confirmed it."""
    stable, canary = await Upstream("stable").start(), await Upstream("canary").start()
    cluster.pods.put(pod_object("stable", http=stable.port))
    cluster.pods.put(pod_object("canary", http=canary.port))
    port = free_port()
    async with running_router(cluster, listener_port=port) as router:
        envoy = await start(router.xds_port, port)
        it = World(cluster, router, envoy, stable, canary)
        it.split(0)
        await it.confirmed()
        await eventually(envoy.live, what="envoy is ready")
        yield it
    await stable.stop()
    await canary.stop()
