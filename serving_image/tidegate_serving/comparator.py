"""Asks two versions the same question and counts how often their answers disagree; no user waits for it.

The proxies send copies of users' requests here and ignore the answer. Each inference request is put to the stable and
to the shadowed version at the same time; what came back is compared and counted, and nothing else is kept::

    tidegate_shadow_comparisons_total     pairs of answers that were compared
    tidegate_shadow_disagreements_total   pairs that disagree; an answer of stable beside an error of the other is one
    tidegate_shadow_requests_total        questions, by version
    tidegate_shadow_failures_total        5xx and questions without an answer, by version
    tidegate_shadow_latency_milliseconds  time to an answer, by version
    tidegate_shadow_skipped_total         copies that nothing was learnt from, by reason

Copies beyond ``CONCURRENT`` at a time are skipped: what is compared is a sample, and the stable version, which answers
each question a second time, is never asked more at a time than that.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from tidegate_serving.answers import Criterion, IncomparableError, agree, read_answer
from tidegate_serving.contract import ComparatorDocument, ComparedVersion, ContractError, parse_document

__all__ = ["Comparator", "Skipped", "build_application", "main"]

VARIABLE = "TIDEGATE_COMPARATOR"
PORT = 8095
CONCURRENT = 32
LARGEST_BODY = 8 << 20
TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=3)
JSON_LENGTH = "Inference-Header-Content-Length"
FORWARDED = ("Content-Type", "Content-Encoding", JSON_LENGTH)
BOUNDS = (0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000)
"""Of the latency histogram, in milliseconds: those of the proxies."""
OK, SERVER_ERROR, UNANSWERED = 200, 500, 0


class Skipped(StrEnum):
    """Why nothing was learnt from a copy."""

    BUSY = "Busy"
    NOT_INFERENCE = "NotInference"
    REFUSED_BY_STABLE = "RefusedByStable"
    """The question is wrong, or the stable version failed: there is nothing to compare with."""
    INCOMPARABLE = "Incomparable"
    TOO_LARGE = "TooLarge"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one version said: status 0 stands for no answer."""

    status: int
    body: bytes = b""
    json_length: str | None = None


class Comparator:
    """The counters, and what happens to one copy."""

    def __init__(self, document: ComparatorDocument, registry: CollectorRegistry) -> None:
        """Compare as the document says; nothing is connected yet."""
        self._document = document
        self._criterion = Criterion(document.agreement, document.tolerance or 0.0, document.outputs)
        self._registry = registry
        self._labels = {"tidegate_namespace": document.namespace, "tidegate_deployment": document.deployment}
        self._pairs = self._counter("comparisons", "Pairs of answers that were compared.")
        self._disagreements = self._counter("disagreements", "Pairs of answers that disagree.")
        self._requests = self._counter("requests", "Questions asked.")
        self._failures = self._counter("failures", "Questions answered with 5xx or not at all.")
        self._skipped = self._counter("skipped", "Copies that nothing was learnt from.", "reason")
        labels = (*self._labels, "tidegate_version")
        about = "Time to an answer, in milliseconds."
        self._latency = Histogram(
            "tidegate_shadow_latency_milliseconds", about, labels, buckets=BOUNDS, registry=registry
        )
        self._begin_at_zero()
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, request: web.Request) -> web.Response:
        """Take a copy and let the proxy go at once; what is asked is asked afterwards."""
        if request.method != "POST" or not request.path.endswith("/infer"):
            return self._skip(Skipped.NOT_INFERENCE)
        if len(self._tasks) >= CONCURRENT:
            return self._skip(Skipped.BUSY)
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return self._skip(Skipped.TOO_LARGE)
        headers = {name: request.headers[name] for name in FORWARDED if name in request.headers}
        task = asyncio.create_task(self._compare(request.path, headers, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return web.Response(status=202)

    async def drain(self) -> None:
        """Wait until every question that was begun is answered and counted."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Drop the questions under way and close the connections."""
        for task in self._tasks:
            task.cancel()
        if self._session is not None:
            await self._session.close()

    async def _compare(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        sides = (self._document.stable, self._document.shadow)
        stable, shadow = await asyncio.gather(*(self._ask(side, path, headers, body) for side in sides))
        if stable.status != OK:
            self._skip(Skipped.REFUSED_BY_STABLE)
            return
        try:
            disagrees = shadow.status != OK or not self._agree(stable, shadow)
        except IncomparableError as error:
            print(f"nothing can be compared: {error}", file=sys.stderr, flush=True)
            self._skip(Skipped.INCOMPARABLE)
            return
        version = self._document.shadow.model_version
        self._pairs.labels(**self._labels, tidegate_version=version).inc()
        self._disagreements.labels(**self._labels, tidegate_version=version).inc(disagrees)

    def _agree(self, stable: Answer, shadow: Answer) -> bool:
        """An answer of the shadowed version that cannot be read is a disagreement; one of stable's tells nothing."""
        expected = read_answer(stable.body, stable.json_length)
        try:
            found = read_answer(shadow.body, shadow.json_length)
        except IncomparableError:
            return False
        return agree(expected, found, self._criterion)

    async def _ask(self, side: ComparedVersion, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        labels = {**self._labels, "tidegate_version": side.model_version}
        began = time.perf_counter()
        answer = await self._post(f"{side.url}{path}", headers, body)
        self._requests.labels(**labels).inc()
        if answer.status == UNANSWERED or answer.status >= SERVER_ERROR:
            self._failures.labels(**labels).inc()
        else:
            self._latency.labels(**labels).observe((time.perf_counter() - began) * 1000)
        return answer

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=TIMEOUT, connector=aiohttp.TCPConnector(ttl_dns_cache=2))
        try:
            async with self._session.post(url, data=body, headers=headers) as response:
                return Answer(response.status, await response.read(), response.headers.get(JSON_LENGTH))
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Answer(UNANSWERED)

    def _skip(self, reason: Skipped) -> web.Response:
        self._skipped.labels(**self._labels, reason=reason).inc()
        return web.Response(status=202)

    def _counter(self, name: str, about: str, label: str = "tidegate_version") -> Counter:
        return Counter(f"tidegate_shadow_{name}", about, (*self._labels, label), registry=self._registry)

    def _begin_at_zero(self) -> None:
        """Show every series from the first scrape on: a counter that begins later would lose its first counts."""
        stable, shadow = self._document.stable.model_version, self._document.shadow.model_version
        for family in (self._requests, self._failures, self._latency):
            for version in (stable, shadow):
                family.labels(**self._labels, tidegate_version=version)
        for family in (self._pairs, self._disagreements):
            family.labels(**self._labels, tidegate_version=shadow)
        for reason in Skipped:
            self._skipped.labels(**self._labels, reason=reason)


def build_application(document: ComparatorDocument) -> tuple[web.Application, Comparator]:
    """Build the server: copies on every path, and its own health and metrics."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    comparator = Comparator(document, registry)

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def end(_: web.Application) -> None:
        await comparator.close()

    application = web.Application(client_max_size=LARGEST_BODY)
    application.router.add_get("/healthz", health)
    application.router.add_get("/metrics", metrics)
    application.router.add_route("*", "/{path:.*}", comparator.take)
    application.on_cleanup.append(end)
    return application, comparator


def main(environment: Mapping[str, str] | None = None) -> int:
    """Serve until SIGTERM."""
    environment = os.environ if environment is None else environment
    try:
        document = parse_document(ComparatorDocument, environment.get(VARIABLE, ""), VARIABLE)
    except ContractError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    application, _ = build_application(document)
    web.run_app(application, port=PORT, print=None, access_log=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
