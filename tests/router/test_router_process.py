"""``python -m tidegate.router`` against the real API server, with the real proxy in front of a small model server."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml

from dev.cluster.apiserver import ApiServer
from tests.router.conftest import StartEnvoy
from tests.router.support import (
    ROOT,
    Client,
    Upstream,
    backend,
    eventually,
    free_port,
    pod_object,
    route_object,
)

pytestmark = pytest.mark.apiserver


@pytest.fixture(scope="module")
def api_server() -> Iterator[ApiServer]:
    with ApiServer() as server:
        server.kubectl("apply", "--server-side", "-f", ROOT / "crds/routes.yaml")
        server.kubectl("wait", "--for=condition=Established", "crd/routes.tidegate.dev", "--timeout=30s")
        server.kubectl("create", "serviceaccount", "default")
        yield server


@dataclass
class RouterProcess:
    process: subprocess.Popen[bytes]
    log: Path
    xds_port: int
    http_port: int
    listener_port: int

    async def get(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.http_port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()


@pytest_asyncio.fixture
async def router(api_server: ApiServer, tmp_path: Path) -> AsyncIterator[RouterProcess]:
    xds, http, listener = free_port(), free_port(), free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "operator"),
        "KUBECONFIG": str(api_server.kubeconfig),
        "TIDEGATE_ROUTER_XDS_PORT": str(xds),
        "TIDEGATE_ROUTER_HTTP_PORT": str(http),
        "TIDEGATE_ROUTER_LISTENER_PORT": str(listener),
    }
    log = tmp_path / "router.log"
    process = subprocess.Popen([sys.executable, "-m", "tidegate.router"], env=environment, stderr=log.open("wb"))
    it = RouterProcess(process, log, xds, http, listener)
    await eventually(lambda: _ready(it), 20, "the router is ready")
    yield it
    process.kill()
    process.wait()


async def _ready(router: RouterProcess) -> bool:
    try:
        return (await router.get("/readyz"))[0] == 200
    except aiohttp.ClientError:
        return False


def apply(server: ApiServer, *objects: dict[str, Any]) -> None:
    """Write objects as the operator and the workload controllers would, and the status of pods as the kubelet would."""
    text = yaml.safe_dump_all(_without_server_fields(obj) for obj in objects)
    server.kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=tidegate", "-f", "-", stdin=text)
    for pod in (obj for obj in objects if obj["kind"] == "Pod"):
        status = json.dumps({"status": pod["status"]})
        server.kubectl("patch", "pod", pod["metadata"]["name"], "--subresource=status", "--type=merge", "-p", status)


def _without_server_fields(obj: dict[str, Any]) -> dict[str, Any]:
    kept = {key: obj["metadata"][key] for key in ("name", "namespace", "labels") if key in obj["metadata"]}
    return {**obj, "metadata": kept}


def read(server: ApiServer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.kubectl("get", "mroute", "connect4", "-ojson", "--show-managed-fields"))
    return found


def confirmed(server: ApiServer) -> Callable[[], Any]:
    async def check() -> dict[str, Any] | None:
        route = await asyncio.to_thread(read, server)
        status = route.get("status", {})
        ready = {item["type"]: item["status"] for item in status.get("conditions", [])}.get("Ready")
        current = status.get("observedGeneration") == route["metadata"]["generation"]
        return route if ready == "True" and current else None

    return check


async def test_from_the_object_to_the_request_and_back(
    api_server: ApiServer, router: RouterProcess, start: StartEnvoy
) -> None:
    stable, canary = await Upstream("stable").start(), await Upstream("canary").start()
    backends = [backend("connect4-1.1.0", "canary", 25, "Canary"), backend("connect4-1.0.0", "stable", 75)]
    servers = {"stable": stable, "canary": canary}
    pods = [pod_object(name, http=server.port) for name, server in servers.items()]
    envoy = await start(router.xds_port, router.listener_port)
    route = route_object(backends=backends, sticky={"header": "x-user-id"})
    await asyncio.to_thread(apply, api_server, *pods, route)
    stored = await eventually(confirmed(api_server), 20, "confirmed")
    assert {item["modelVersion"]: item["percent"] for item in stored["status"]["weights"]} == {
        "connect4-1.1.0": 25,
        "connect4-1.0.0": 75,
    }
    managers = {item["manager"]: item.get("subresource") for item in stored["metadata"]["managedFields"]}
    assert managers == {"tidegate": None, "tidegate-router": "status"}
    client = Client(envoy.port)
    seen = [(await client.get(x_user_id=f"user-{n}")).headers["x-tidegate-version"] for n in range(200)]
    assert 25 < seen.count("connect4-1.1.0") < 75
    await client.close()
    await _change(api_server)
    status, text = await router.get("/metrics")
    assert status == 200
    assert "tidegate_router_connected_proxies 1.0" in text
    assert 'tidegate_router_pushes_total{type="routes"}' in text
    await _stop(router)
    await stable.stop()
    await canary.stop()


async def _change(server: ApiServer) -> None:
    backends = [backend("connect4-1.1.0", "canary", 50, "Canary"), backend("connect4-1.0.0", "stable", 50)]
    await asyncio.to_thread(apply, server, route_object(backends=backends, sticky={"header": "x-user-id"}))
    stored = await eventually(confirmed(server), 20, "the change is confirmed")
    assert stored["metadata"]["generation"] == 2


async def _stop(router: RouterProcess) -> None:
    began = time.monotonic()
    router.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(router.process.wait, 10) == 0
    assert time.monotonic() - began < 3
    lines = [json.loads(line) for line in router.log.read_text().splitlines()]
    assert {"proxy connected", "status written"} <= {line["message"] for line in lines}
