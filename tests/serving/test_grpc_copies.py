"""Copies of calls over gRPC, between two real gRPC servers, with the messages of the vendor's client."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from tritonclient.grpc import service_pb2

from tests.serving.file_server import free_port
from tests.serving.test_comparator import counted, make_document
from tidegate_serving.comparator import build_application
from tidegate_serving.comparison import CONCURRENT, LARGEST_BODY, Comparator
from tidegate_serving.grpc_copies import FAILURES, INFER

SERVICE = INFER.split("/")[1]


def answer(*rows: list[float], is_raw: bool = True, name: str = "policy") -> bytes:
    """Write an answer as a model server does: in binary form, or typed."""
    output = service_pb2.ModelInferResponse.InferOutputTensor(
        name=name, datatype="FP32", shape=[len(rows), len(rows[0])]
    )
    made = service_pb2.ModelInferResponse(model_name="connect4", outputs=[output])
    values = np.array(rows, dtype=np.float32)
    if is_raw:
        made.raw_output_contents.append(values.tobytes())
    else:
        made.outputs[0].contents.fp32_contents.extend(values.ravel().tolist())
    return bytes(made.SerializeToString())


@dataclass
class Version:
    """A model server over gRPC that answers what it is told."""

    said: bytes = field(default_factory=lambda: answer([0.1, 0.9]))
    status: grpc.StatusCode = grpc.StatusCode.OK
    questions: list[bytes] = field(default_factory=list)
    hold: asyncio.Event | None = None
    port: int = 0
    server: Any = None

    async def start(self, port: int = 0) -> None:
        self.server = grpc.aio.server()
        methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(self.infer)}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        await self.server.start()

    async def infer(self, question: bytes, context: Any) -> bytes:
        self.questions.append(question)
        if self.hold is not None:
            await self.hold.wait()
        if self.status is not grpc.StatusCode.OK:
            await context.abort(self.status, "as told")
        return self.said


@dataclass
class Setting:
    stable: Version
    shadow: Version
    comparator: Comparator
    client: TestClient[Any, Any]
    channel: Any

    async def copy(self, question: bytes = b"any", number: int = 1, method: str = INFER) -> None:
        for _ in range(number):
            assert await self.channel.unary_unary(method)(question) == b""
        await self.comparator.drain()

    async def counted(self) -> dict[str, float]:
        return await counted(self.client)


@pytest.fixture
async def setting(request: pytest.FixtureRequest) -> AsyncIterator[Setting]:
    versions = (Version(), Version())
    for version in versions:
        await version.start()
    changes = getattr(request, "param", {})
    document = make_document((1, 1), (versions[0].port, versions[1].port), **changes)
    port = free_port()
    application, comparator = build_application(document, grpc_port=port)
    async with (
        TestClient(TestServer(application)) as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Setting(*versions, comparator, client, channel)
    for version in versions:
        await version.server.stop(0)


async def test_both_are_asked_the_same_bytes_and_disagreements_are_counted(setting: Setting) -> None:
    await setting.copy(b"\x00 not read by us", 3)
    setting.shadow.said = answer([0.9, 0.1])
    await setting.copy(number=2)
    assert setting.stable.questions == setting.shadow.questions == [b"\x00 not read by us"] * 3 + [b"any"] * 2
    found = await setting.counted()
    assert found["comparisons_total m-2"] == 5
    assert found["disagreements_total m-2"] == 2
    assert found["requests_total m-1"] == found["requests_total m-2"] == 5
    assert found["latency_milliseconds_count m-1"] == found["latency_milliseconds_count m-2"] == 5


@pytest.mark.parametrize(
    ("setting", "disagreements"),
    [
        ({"agreement": "Tolerance", "tolerance": 0.06}, 0),
        ({"agreement": "Tolerance", "tolerance": 0.04}, 1),
        ({"outputs": ["policy"]}, 0),
    ],
    indirect=["setting"],
)
async def test_tolerance_and_outputs_count_as_over_http_in_both_forms_of_an_answer(
    setting: Setting, disagreements: int
) -> None:
    setting.stable.said, setting.shadow.said = answer([0.1, 0.9]), answer([0.15, 0.85], is_raw=False)
    await setting.copy()
    found = await setting.counted()
    assert found["comparisons_total m-2"] == 1
    assert found.get("disagreements_total m-2", 0) == disagreements


@pytest.mark.parametrize("setting", [{"outputs": ["value"]}], indirect=True)
async def test_an_output_that_is_not_there_cannot_be_compared(setting: Setting) -> None:
    await setting.copy()
    assert (await setting.counted())["skipped_total Incomparable"] == 1


@pytest.mark.parametrize("status", sorted(FAILURES, key=str))
async def test_an_error_beside_an_answer_is_a_failure_and_a_disagreement(
    setting: Setting, status: grpc.StatusCode
) -> None:
    setting.shadow.status = status
    await setting.copy()
    found = await setting.counted()
    assert (found["failures_total m-2"], found["disagreements_total m-2"]) == (1, 1)
    assert "failures_total m-1" not in found


async def test_a_version_that_is_away_fails_and_is_found_again(setting: Setting) -> None:
    await setting.shadow.server.stop(0)
    await setting.copy()
    found = await setting.counted()
    assert (found["failures_total m-2"], found["disagreements_total m-2"]) == (1, 1)
    await setting.shadow.start(setting.shadow.port)
    async with asyncio.timeout(30):
        while not setting.shadow.questions:
            await setting.copy()
    found = await setting.counted()
    assert found["comparisons_total m-2"] == found["disagreements_total m-2"] + 1


async def test_what_stable_does_not_answer_is_not_compared(setting: Setting) -> None:
    setting.stable.status = grpc.StatusCode.INVALID_ARGUMENT
    await setting.copy()
    setting.stable.status = grpc.StatusCode.INTERNAL
    await setting.copy()
    found = await setting.counted()
    assert found["skipped_total RefusedByStable"] == 2
    assert found["failures_total m-1"] == 1, "a question that is wrong is nobody's failure"
    assert "comparisons_total m-2" not in found


async def test_an_answer_that_is_none_of_the_protocol_is_a_disagreement(setting: Setting) -> None:
    setting.shadow.said = b"\xff"
    await setting.copy()
    assert (await setting.counted())["disagreements_total m-2"] == 1


async def test_other_calls_and_large_ones_are_left_alone(setting: Setting) -> None:
    for method in (f"/{SERVICE}/ServerReady", f"/{SERVICE}/ModelStreamInfer"):
        with pytest.raises(grpc.aio.AioRpcError):
            await setting.channel.unary_unary(method)(b"")
    with pytest.raises(grpc.aio.AioRpcError):
        await setting.channel.unary_unary(INFER)(b" " * (LARGEST_BODY + 1))
    await setting.copy()
    found = await setting.counted()
    assert (found["skipped_total NotInference"], found["skipped_total TooLarge"]) == (2, 1)
    assert len(setting.stable.questions) == 1


async def test_the_stable_version_is_never_asked_more_at_a_time(setting: Setting) -> None:
    setting.stable.hold = asyncio.Event()
    for _ in range(CONCURRENT + 5):
        assert await setting.channel.unary_unary(INFER)(b"x") == b"", "nobody waits for the answers"
    setting.stable.hold.set()
    await setting.comparator.drain()
    found = await setting.counted()
    assert found["skipped_total Busy"] == 5
    assert found["comparisons_total m-2"] == len(setting.stable.questions) == CONCURRENT


async def test_copies_over_both_protocols_count_together(setting: Setting) -> None:
    """And share one limit; here nobody answers over HTTP."""
    await setting.copy()
    assert (await setting.client.post("/v2/models/connect4/infer", data=b"{}")).status == 202
    await setting.comparator.drain()
    found = await setting.counted()
    assert (found["requests_total m-1"], found["failures_total m-1"], found["comparisons_total m-2"]) == (2, 1, 1)
