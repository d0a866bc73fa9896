"""Copies of requests over HTTP, the REST form of the KServe v2 protocol."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp
from aiohttp import web

from tidegate_serving.answers import read_answer
from tidegate_serving.comparison import TIMEOUT_SECONDS, Answer, Comparator, Outcome, Skipped
from tidegate_serving.contract import ComparedVersion

__all__ = ["HttpCopies"]

TIMEOUT = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS, sock_connect=3)
JSON_LENGTH = "Inference-Header-Content-Length"
FORWARDED = ("Content-Type", "Content-Encoding", JSON_LENGTH)
OK, SERVER_ERROR = 200, 500


class HttpCopies:
    """Takes copies, and puts their questions to both versions."""

    def __init__(self, comparator: Comparator) -> None:
        """Connect to nothing yet."""
        self._comparator = comparator
        self._session: aiohttp.ClientSession | None = None

    async def take(self, request: web.Request) -> web.Response:
        """Take a copy and let the proxy go at once; what is asked is asked afterwards."""
        if request.method != "POST" or not request.path.endswith("/infer"):
            return self._skip(Skipped.NOT_INFERENCE)
        if self._comparator.is_busy:
            return self._skip(Skipped.BUSY)
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return self._skip(Skipped.TOO_LARGE)
        path = request.path
        headers = {name: request.headers[name] for name in FORWARDED if name in request.headers}

        async def ask(side: ComparedVersion) -> Answer:
            return await self._post(f"{side.url}{path}", headers, body)

        self._comparator.begin(ask)
        return web.Response(status=202)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=TIMEOUT, connector=aiohttp.TCPConnector(ttl_dns_cache=2))
        try:
            async with self._session.post(url, data=body, headers=headers) as response:
                said, length = await response.read(), response.headers.get(JSON_LENGTH)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Answer(Outcome.FAILED)
        if response.status == OK:
            return Answer(Outcome.ANSWERED, lambda: read_answer(said, length))
        return Answer(Outcome.FAILED if response.status >= SERVER_ERROR else Outcome.REFUSED)

    def _skip(self, reason: Skipped) -> web.Response:
        self._comparator.skip(reason)
        return web.Response(status=202)
