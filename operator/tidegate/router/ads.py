"""Aggregated discovery over gRPC: one stream per proxy, driven by ``ProxySession``."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from tidegate.router.metrics import RouterMetrics
from tidegate.router.parts import Kind
from tidegate.router.session import ProxySession, Receipt, Request, Response
from tidegate.router.snapshot import Snapshot

__all__ = ["AdsServer", "ControlSource"]

_log = logging.getLogger("tidegate.router.ads")
_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
)
_KINDS = frozenset(Kind)
_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"


class ControlSource(Protocol):
    """What the streams need to know and to tell."""

    @property
    def snapshot(self) -> Snapshot | None:
        """The configuration to send; None until everything was listed."""

    def joined(self, session: ProxySession) -> None:
        """A proxy has connected."""

    def left(self, session: ProxySession) -> None:
        """A stream has ended."""

    def heard(self, session: ProxySession, kind: Kind, receipt: Receipt) -> None:
        """A proxy has accepted or refused something."""


class _Stream:
    """One stream: a reader that feeds the session and a writer that sends what the session wants."""

    def __init__(self, session: ProxySession, source: ControlSource, metrics: RouterMetrics) -> None:
        self.session = session
        self.wake = asyncio.Event()
        self._source = source
        self._metrics = metrics
        self._sent_at: dict[str, float] = {}
        self._ended = False

    async def read(self, requests: AsyncIterator[Any]) -> None:
        try:
            async for message in requests:
                self.take(message)
        finally:
            self.end()

    def end(self) -> None:
        self._ended = True
        self.wake.set()

    def take(self, message: Any) -> None:
        if message.type_url not in _KINDS:
            return
        request = _parse(message)
        receipt = self.session.receive(request)
        if receipt.nonce:
            self._measure(request, receipt)
            self._source.heard(self.session, request.kind, receipt)
        self.wake.set()

    async def write(self) -> AsyncIterator[Any]:
        while not self._ended:
            await self.wake.wait()
            self.wake.clear()
            snapshot = self._source.snapshot
            for response in self.session.respond(snapshot) if snapshot else ():
                self._metrics.pushes.labels(response.kind.label).inc()
                self._sent_at[response.nonce] = time.perf_counter()
                yield _message(response)

    def _measure(self, request: Request, receipt: Receipt) -> None:
        label = request.kind.label
        elapsed = time.perf_counter() - self._sent_at.pop(receipt.nonce)
        fields = {"proxy": self.session.node, "type": label, "milliseconds": round(elapsed * 1000, 3)}
        if receipt.refused is None:
            self._metrics.acknowledgement.labels(label).observe(elapsed)
            _log.debug("configuration acknowledged", extra=fields)
        else:
            self._metrics.refusals.labels(label).inc()
            _log.error("configuration refused: %s", receipt.refused, extra=fields)


class AdsServer:
    """The gRPC server; ``publish`` tells all streams that the snapshot changed."""

    def __init__(self, source: ControlSource, metrics: RouterMetrics) -> None:
        self._source = source
        self._metrics = metrics
        self._streams: set[_Stream] = set()
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((_handlers(self.serve_proxy),))

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port."""
        bound = self._server.add_insecure_port(f"{host}:{port}")
        await self._server.start()
        return int(bound)

    async def stop(self, grace: float) -> None:
        """Close the streams; the proxies keep what they have and look for the next control plane."""
        for stream in self._streams:
            stream.end()
        await self._server.stop(grace)

    def publish(self) -> None:
        """Wake every stream up."""
        for stream in self._streams:
            stream.wake.set()

    async def serve_proxy(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Serve one proxy until it goes away."""
        first = await anext(requests, None)
        if first is None:
            return
        if not first.node.id:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no node id: start the proxy with --service-node")
        stream = _Stream(ProxySession(first.node.id), self._source, self._metrics)
        reader = self._open(stream, first, requests)
        try:
            async for message in stream.write():
                yield message
        finally:
            reader.cancel()
            self._close(stream)

    def _open(self, stream: _Stream, first: Any, requests: AsyncIterator[Any]) -> "asyncio.Task[None]":
        self._streams.add(stream)
        self._source.joined(stream.session)
        self._metrics.connected.set(len(self._streams))
        _log.info("proxy connected", extra={"proxy": stream.session.node})
        stream.take(first)
        return asyncio.create_task(stream.read(requests))

    def _close(self, stream: _Stream) -> None:
        self._streams.discard(stream)
        self._source.left(stream.session)
        self._metrics.connected.set(len(self._streams))
        _log.info("proxy disconnected", extra={"proxy": stream.session.node})


def _handlers(serve: Any) -> Any:
    method = grpc.stream_stream_rpc_method_handler(
        serve,
        request_deserializer=DiscoveryRequest.FromString,
        response_serializer=DiscoveryResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(_SERVICE, {"StreamAggregatedResources": method})


def _parse(message: Any) -> Request:
    return Request(
        kind=Kind(message.type_url),
        version=message.version_info,
        nonce=message.response_nonce,
        names=frozenset(message.resource_names),
        error=message.error_detail.message if message.HasField("error_detail") else None,
    )


def _message(response: Response) -> Any:
    return DiscoveryResponse(
        type_url=response.kind,
        version_info=response.version,
        nonce=response.nonce,
        resources=[{"type_url": response.kind, "value": body} for body in response.bodies],
    )
