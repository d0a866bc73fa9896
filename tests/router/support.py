"""The real Envoy, small upstream servers and an in-memory cluster for the router's tests."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tidegate.api.route import RouteStatus
from tidegate.router.app import Router, Sources
from tidegate.router.recorder import ObsoleteError
from tidegate.router.reflector import Page, UnavailableError, WatchEvent
from tidegate.router.routes import RouteRecord
from tidegate.router.settings import RouterSettings

ROOT = Path(__file__).parents[2]
BOOTSTRAP = ROOT / "charts/tidegate/files/envoy.yaml"
INFER = "/v2/models/connect4/infer"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def eventually(check: Callable[[], Any], deadline: float = 10.0, what: str = "") -> Any:
    """Poll until ``check`` (which may be async) returns something true, and return it."""
    end = time.monotonic() + deadline
    while True:
        value = check()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what or check}")
        await asyncio.sleep(0.01)


def backend(version: str, workload: str, percent: float, role: str = "Stable", **more: Any) -> dict[str, Any]:
    return {"modelVersion": version, "workload": workload, "percent": percent, "role": role, **more}


def route_object(name: str = "connect4", namespace: str = "default", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "Route",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{namespace}-{name}",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"deployment": name, **spec},
    }


def pod_object(
    workload: str,
    *,
    http: int = 8000,
    grpc: int = 8001,
    address: str = "127.0.0.1",
    name: str = "",
    ready: bool = True,
    terminating: bool = False,
) -> dict[str, Any]:
    """Make a pod of a workload: a model server with both ports, and an agent beside it."""
    ports = [{"name": "http", "containerPort": http}, {"name": "grpc", "containerPort": grpc}]
    agent = {"name": "agent", "image": "agent", "ports": [{"name": "agent", "containerPort": 8090}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name or f"{workload}-a",
            "namespace": "default",
            "generation": 1,
            "labels": {"tidegate.dev/workload": workload},
            **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if terminating else {}),
        },
        "spec": {"containers": [{"name": "triton", "image": "triton", "ports": ports}, agent]},
        "status": {
            "phase": "Running",
            "podIP": address,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


class MemorySource:
    """A watched kind that lives in this process."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self._watchers: set[asyncio.Queue[WatchEvent | None]] = set()
        self._version = 1

    def put(self, obj: dict[str, Any]) -> None:
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        old = self.objects.get(key)
        self._version += 1
        obj = json.loads(json.dumps(obj))
        obj["metadata"]["resourceVersion"] = str(self._version)
        if old and "spec" in obj:
            bump = old["spec"] != obj["spec"]
            obj["metadata"]["generation"] = old["metadata"]["generation"] + bump
            obj.setdefault("status", old.get("status", {}))
        self.objects[key] = obj
        self._tell(WatchEvent("MODIFIED" if old else "ADDED", obj))

    def delete(self, name: str, namespace: str = "default") -> None:
        obj = self.objects.pop((namespace, name))
        self._tell(WatchEvent("DELETED", obj))

    def end_watches(self) -> None:
        for queue in self._watchers:
            queue.put_nowait(None)

    async def list_page(self, following: str) -> Page:
        return Page(tuple(self.objects.values()), str(self._version))

    async def watch(self, version: str) -> AsyncIterator[WatchEvent]:
        queue: asyncio.Queue[WatchEvent | None] = asyncio.Queue()
        for obj in self.objects.values():
            if int(obj["metadata"]["resourceVersion"]) > int(version):
                queue.put_nowait(WatchEvent("MODIFIED", obj))
        self._watchers.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._watchers.discard(queue)

    def _tell(self, event: WatchEvent) -> None:
        for queue in self._watchers:
            queue.put_nowait(event)


@dataclass
class MemoryCluster:
    """Routes and pods, and the writer of Route.status; ``failures`` makes the next writes fail."""

    routes: MemorySource = field(default_factory=lambda: MemorySource("routes"))
    pods: MemorySource = field(default_factory=lambda: MemorySource("pods"))
    proxies: MemorySource = field(default_factory=lambda: MemorySource("pods"))
    writes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    failures: int = 0

    def sources(self, *, proxies: bool = False) -> Sources:
        return Sources([self.routes], [self.pods], self.proxies if proxies else None)

    async def write(self, record: RouteRecord, status: RouteStatus) -> Mapping[str, Any]:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise UnavailableError("500 for the test")
        obj = self.routes.objects.get((record.namespace, record.name))
        if obj is None or obj["metadata"]["uid"] != record.uid:
            raise ObsoleteError
        self.writes.append((record.key, status.to_json()))
        self.routes.put({**obj, "status": status.to_json()})
        return self.routes.objects[record.namespace, record.name]

    def status(self, name: str = "connect4") -> dict[str, Any]:
        return self.routes.objects["default", name].get("status") or {}

    def ready(self, name: str = "connect4") -> dict[str, Any]:
        conditions = self.status(name).get("conditions", [])
        return next((item for item in conditions if item["type"] == "Ready"), {})

    def confirmed(self, name: str = "connect4") -> bool:
        generation = self.routes.objects["default", name]["metadata"]["generation"]
        return self.ready(name).get("status") == "True" and self.status(name)["observedGeneration"] == generation


@contextlib.asynccontextmanager
async def running_router(cluster: MemoryCluster, *, proxies: bool = False, **settings: Any) -> AsyncIterator[Router]:
    """Run the whole router against an in-memory cluster."""
    defaults: dict[str, Any] = {"xds_host": "127.0.0.1", "http_host": "127.0.0.1", "xds_port": 0, "http_port": 0}
    defaults |= {"status_delay_seconds": 0.3, "startup_grace_seconds": 0}
    router = Router(RouterSettings(**{**defaults, **settings}), cluster.sources(proxies=proxies), cluster)
    stop = asyncio.Event()
    task = asyncio.create_task(router.run(stop))
    try:
        await eventually(lambda: router.xds_port or task.done())
        if task.done():
            await task
        yield router
    finally:
        stop.set()
        await task


@dataclass
class Envoy:
    """One process of the real proxy."""

    node: str
    port: int
    observe_port: int
    admin_port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def admin(self, path: str) -> str:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.admin_port}{path}") as answer,
        ):
            return await answer.text()

    async def metrics(self) -> str:
        url = f"http://127.0.0.1:{self.observe_port}/stats/prometheus"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return await answer.text()

    async def live(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            url = f"http://127.0.0.1:{self.observe_port}/ready"
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                return answer.status == 200
        return False

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def envoy_binary() -> str:
    return str(Path(sys.executable).parent / "envoy")


def start_envoy(folder: Path, xds_port: int, listener_port: int, node: str = "envoy-0") -> Envoy:
    """Start Envoy with the chart's own bootstrap; only addresses and ports differ."""
    observe, admin = free_port(), free_port()
    text = BOOTSTRAP.read_text()
    text = text.replace("address: tidegate-router", "address: 127.0.0.1").replace("18000", str(xds_port))
    text = text.replace("9900", str(admin)).replace("port_value: 9901", f"port_value: {observe}")
    assert yaml.safe_load(text)
    file = folder / f"{node}.yaml"
    file.write_text(text)
    arguments = ["-c", str(file), "--service-node", node, "--service-cluster", "tidegate", "--disable-hot-restart"]
    command = [envoy_binary(), *arguments, "--concurrency", "1", "--log-level", os.environ.get("ENVOY_LOG", "error")]
    log = (folder / f"{node}.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    return Envoy(node, listener_port, observe, admin, process)


class Upstream:
    """A model server that does little: HTTP/1.1 with keep-alive, its name in the body, a status that can be set."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = 200
        self.delay = 0.0
        self.requests: Counter[str] = Counter()
        self.heads: list[str] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, host: str = "127.0.0.1") -> "Upstream":
        self._server = await asyncio.start_server(self._serve, host, 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def stop(self) -> None:
        """Stop at once, as a killed server does."""
        assert self._server
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                if (length := _content_length(head)) > 0:
                    await reader.readexactly(length)
                self.requests[head.split(" ", 2)[1]] += 1
                self.heads.append(head)
                if self.delay:
                    await asyncio.sleep(self.delay)
                body = json.dumps({"from": self.name}).encode()
                head = (
                    f"HTTP/1.1 {self.status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
                )
                writer.write(head.encode() + body)
                await writer.drain()
        self._writers.discard(writer)
        writer.close()


def _content_length(head: str) -> int:
    for line in head.split("\r\n"):
        if line.lower().startswith("content-length:"):
            return int(line.split(":")[1])
    return 0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One keep-alive connection; quick enough for thousands of requests."""

    def __init__(self, port: int, host: str = "connect4.default:8000") -> None:
        self._port = port
        self._host = host
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str = INFER, host: str | None = None, **headers: str) -> Answer:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        lines = "".join(f"{key.replace('_', '-')}: {value}\r\n" for key, value in headers.items())
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {host or self._host}\r\n{lines}\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        body = await reader.readexactly(_content_length(head))
        first, *rest = head.strip().split("\r\n")
        pairs = (line.split(": ", 1) for line in rest)
        return Answer(int(first.split(" ")[1]), {key.lower(): value for key, value in pairs}, body)

    async def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None


async def versions_of(
    port: int, keys: Iterable[str], header: str = "x_user_id", connections: int = 16
) -> dict[str, str]:
    """Ask once for every key and return which version answered."""
    queue = list(keys)
    found: dict[str, str] = {}

    async def work() -> None:
        client = Client(port)
        while queue:
            key = queue.pop()
            answer = await client.get(**{header: key})
            assert answer.status == 200, answer
            found[key] = answer.headers["x-tidegate-version"]
        await client.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    return found


class Load:
    """Requests without a pause on a few connections, counted by version and by failure."""

    def __init__(self, port: int, connections: int = 4) -> None:
        self._clients = [Client(port) for _ in range(connections)]
        self.versions: Counter[str] = Counter()
        self.failures: list[Answer | Exception] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._number = 0

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._run(client)) for client in self._clients]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients:
            await client.close()

    @property
    def count(self) -> int:
        return sum(self.versions.values()) + len(self.failures)

    async def more(self, count: int) -> None:
        """Wait until so many more requests were answered."""
        goal = self.count + count
        await eventually(lambda: self.count >= goal, 20, f"{count} more requests")

    async def _run(self, client: Client) -> None:
        while True:
            self._number += 1
            try:
                answer = await client.get(x_user_id=f"user-{self._number % 997}")
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failures.append(error)
                await client.close()
                await asyncio.sleep(0.01)
                continue
            if answer.status == 200:
                self.versions[answer.headers["x-tidegate-version"]] += 1
            else:
                self.failures.append(answer)


def now() -> datetime:
    return datetime.now(UTC)
