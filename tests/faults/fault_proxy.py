"""A proxy before a real API server that does to its client what networks and busy servers do."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from enum import StrEnum
from pathlib import Path

import aiohttp
from aiohttp import web

from tests.faults.background import BackgroundServer
from tidegate.adapters.credentials import Credentials

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
RATE = 0.08
"""Share of the requests that something happens to."""
STALE_RATE = 0.2
"""Share of the lists that are older ones."""
KEPT_RATE = 0.3
"""Share of the lists that are kept to be given again."""
HANG_SECONDS = 1.5
WATCH_SECONDS = (0.3, 3.0)
STATUS = {409: "Conflict", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}


class Fault(StrEnum):
    """What happens to a request."""

    CONFLICT = "409"
    TOO_MANY = "429"
    INTERNAL = "500"
    UNAVAILABLE = "503"
    HANG = "no answer for a while, then none at all"
    LOST_ANSWER = "carried out, and the answer is lost"
    STALE_LIST = "an older list"
    DROPPED_WATCH = "the watch ends"


class FaultProxy(BackgroundServer):
    """Serves plain HTTP on a loopback port, in a thread of its own; ``calm`` stops the faults."""

    def __init__(self, server: Credentials, folder: Path, seed: int) -> None:
        super().__init__()
        self._server = server
        self._folder = folder
        self._random = random.Random(seed)
        self._lists: dict[str, bytes] = {}
        self.calm = True
        self.injected: Counter[Fault] = Counter()

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig that leads through the proxy."""
        return self._folder / "proxied.kubeconfig"

    async def _start(self) -> None:
        connector = aiohttp.TCPConnector(ssl=self._server.ssl_context(), limit=0)
        self._session = aiohttp.ClientSession(connector=connector)
        application = web.Application(client_max_size=1 << 24)
        application.router.add_route("*", "/{path:.*}", self._handle)
        address = await self._listen(application)
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": address}}],
            "users": [{"name": "u", "user": {}}],
        }
        self.kubeconfig.write_text(json.dumps(config))

    async def _stop(self) -> None:
        await self._session.close()  # first: it ends the watches that the handlers pass on
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if "watch" in request.query:
            return await self._watch(request)
        fault = self._draw(request)
        if fault is None:
            return await self._forward(request, body)
        self.injected[fault] += 1
        if fault is Fault.HANG:
            await asyncio.sleep(HANG_SECONDS)
        elif fault is Fault.LOST_ANSWER:
            await self._forward(request, body)
        elif fault is Fault.STALE_LIST:
            return web.Response(body=self._lists[request.path_qs], content_type="application/json")
        else:
            return _refuse(int(fault.value))
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    def _draw(self, request: web.Request) -> Fault | None:
        if self.calm:
            return None
        if request.path_qs in self._lists and self._random.random() < STALE_RATE:
            return Fault.STALE_LIST
        if self._random.random() >= RATE:
            return None
        faults = [Fault.TOO_MANY, Fault.INTERNAL, Fault.UNAVAILABLE, Fault.HANG]
        if request.method in WRITES:
            faults += [Fault.CONFLICT, Fault.LOST_ANSWER, Fault.LOST_ANSWER]
        return self._random.choice(faults)

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        async with self._ask(request, body) as answer:
            text = await answer.read()
            is_list = request.method == "GET" and answer.status == 200 and b'List"' in text[:200]
            if is_list and (request.path_qs not in self._lists or self._random.random() < KEPT_RATE):
                self._lists[request.path_qs] = text
            return web.Response(status=answer.status, body=text, headers={"Content-Type": _content_type(answer)})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        """Pass a watch on, and end it early; what happens meanwhile is seen by the next one."""
        response = web.StreamResponse()
        try:
            async with asyncio.timeout(None if self.calm else self._random.uniform(*WATCH_SECONDS)):
                async with self._ask(request, b"") as answer:
                    response.set_status(answer.status)
                    response.content_type = "application/json"
                    await response.prepare(request)
                    async for chunk in answer.content.iter_any():
                        await response.write(chunk)
        except TimeoutError:
            self.injected[Fault.DROPPED_WATCH] += 1
        except (aiohttp.ClientError, ConnectionError):
            pass  # one of the two ends is gone
        return response

    def _ask(self, request: web.Request, body: bytes) -> aiohttp.client._RequestContextManager:
        kept = ("Content-Type", "Accept")
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        timeout = aiohttp.ClientTimeout(total=None)
        return self._session.request(
            request.method,
            f"{self._server.server}{request.path_qs}",
            data=body or None,
            headers=headers,
            timeout=timeout,
        )


def _refuse(code: int) -> web.Response:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": STATUS[code]}
    return web.json_response(status | {"message": "the proxy says so"}, status=code)


def _content_type(answer: aiohttp.ClientResponse) -> str:
    return answer.headers.get("Content-Type", "application/json")
