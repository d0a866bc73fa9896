"""Copies of calls over gRPC: ``inference.GRPCInferenceService/ModelInfer`` of the KServe v2 protocol.

A question is passed on as the bytes that came, whatever is in it; only answers are read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from tidegate_serving.answers import read_grpc_answer
from tidegate_serving.comparison import LARGEST_BODY, TIMEOUT_SECONDS, Answer, Comparator, Outcome, Skipped
from tidegate_serving.contract import ComparedVersion

__all__ = ["INFER", "GrpcCopies"]

INFER = "/inference.GRPCInferenceService/ModelInfer"
FAILURES = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Statuses that are the server's fault: those that count as errors of the users' calls, too."""
TO_US = (("grpc.max_receive_message_length", LARGEST_BODY), ("grpc.so_reuseport", 0))
TO_MODELS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # A Service of models has no address of its own: all pods behind it get their share, and those that come, soon.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    ("grpc.dns_min_time_between_resolutions_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class GrpcCopies(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Takes copies, and puts their questions to both versions."""

    def __init__(self, comparator: Comparator) -> None:
        """Listen to and connect to nothing yet."""
        self._comparator = comparator
        self._server: Any = None
        self._channels: dict[str, Any] = {}

    async def start(self, port: int) -> int:
        """Listen on all addresses and return the port; 0 takes a free one."""
        self._server = grpc.aio.server(handlers=[self], options=TO_US)
        bound = int(self._server.add_insecure_port(f"[::]:{port}"))
        await self._server.start()
        return bound

    async def close(self) -> None:
        """Close the connections."""
        if self._server is not None:
            await self._server.stop(grace=0)
        for channel in self._channels.values():
            await channel.close()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Say who handles a call, as gRPC asks; everything but inference is refused."""
        if handler_call_details.method != INFER:
            self._comparator.skip(Skipped.NOT_INFERENCE)
            return None
        # As a stream of questions, of which there is one: so we are called before it is read, and see that it is not.
        return grpc.stream_unary_rpc_method_handler(self._take)

    async def _take(self, questions: AsyncIterator[bytes], _: Any) -> bytes:
        """Take a copy and let the proxy go at once; what is asked is asked afterwards."""
        if self._comparator.is_busy:
            self._comparator.skip(Skipped.BUSY)
            return b""
        question = await anext(questions, None)
        if question is None:
            self._comparator.skip(Skipped.TOO_LARGE)
            return b""

        async def ask(side: ComparedVersion) -> Answer:
            return await self._call(side.grpc_address, question)

        self._comparator.begin(ask)
        return b""

    async def _call(self, address: str, question: bytes) -> Answer:
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, options=TO_MODELS)
        try:
            said: bytes = await self._channels[address].unary_unary(INFER)(question, timeout=TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            return Answer(Outcome.FAILED if error.code() in FAILURES else Outcome.REFUSED)
        return Answer(Outcome.ANSWERED, lambda: read_grpc_answer(said))
