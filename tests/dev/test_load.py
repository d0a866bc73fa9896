"""The load generator over both protocols, against small servers: what it asks, and how it counts what comes back."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import REGISTRY
from tritonclient.grpc import service_pb2

from dev.demo import load
from dev.demo.protocols import INFER, NOBODY, PROTOCOLS, Protocol
from tests.serving.file_server import free_port

MODEL = "connect4"
POLICY = [0.0, 0.5, 1.0, 4.0, 1.0, 0.5, 0.25]


def reply(user: str) -> str:
    """Return what a server does for a user, whose name says it."""
    return user.partition("-")[0]


@asynccontextmanager
async def serve_http(seen: list[np.ndarray]) -> AsyncIterator[str]:
    async def infer(request: web.Request) -> web.Response:
        question = await request.json()
        (given,) = question["inputs"]
        assert (given["name"], given["datatype"], question["outputs"]) == ("board", "FP32", [{"name": "policy"}])
        seen.append(np.array(given["data"], np.float32).reshape(given["shape"]))
        headers = {"x-tidegate-version": "m-1"}
        if reply(request.headers["x-user-id"]) == "fail":
            return web.json_response({"error": "as told"}, status=500, headers=headers)
        return web.json_response({"outputs": [{"name": "policy", "data": POLICY}]}, headers=headers)

    application = web.Application()
    application.router.add_post(f"/v2/models/{MODEL}/infer", infer)
    async with TestServer(application) as server:
        yield f"127.0.0.1:{server.port}"


@asynccontextmanager
async def serve_grpc(seen: list[np.ndarray]) -> AsyncIterator[str]:
    async def infer(question: Any, context: Any) -> Any:
        (given,), (output,) = question.inputs, question.outputs
        assert (question.model_name, given.name, given.datatype, output.name) == (MODEL, "board", "FP32", "policy")
        seen.append(np.frombuffer(question.raw_input_contents[0], "<f4").reshape(given.shape))
        version = (("x-tidegate-version", "m-1"),)
        kind = reply(dict(context.invocation_metadata())["x-user-id"])
        if kind == "fail":
            # Without a message there is one block of headers, as Envoy passes it on.
            await context.abort(grpc.StatusCode.INTERNAL, "as told", trailing_metadata=version)
        await context.send_initial_metadata(version)
        raw = [] if kind == "empty" else [np.array(POLICY, "<f4").tobytes()]
        return service_pb2.ModelInferResponse(raw_output_contents=raw)

    handler = grpc.unary_unary_rpc_method_handler(
        infer, service_pb2.ModelInferRequest.FromString, service_pb2.ModelInferResponse.SerializeToString
    )
    server = grpc.aio.server()
    service, method = INFER.strip("/").split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


SERVERS: Mapping[str, Any] = {"http": serve_http, "grpc": serve_grpc}


@pytest.fixture(params=sorted(SERVERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def protocol(name: str) -> Protocol:
    return PROTOCOLS[name]


def count(result: str, version: str = "m-1") -> float:
    return REGISTRY.get_sample_value("demo_requests_total", {"tidegate_version": version, "result": result}) or 0.0


async def test_positions_are_asked_for_and_the_policy_comes_back(name: str, protocol: Protocol) -> None:
    """The same planes reach the server, in the shape of the model's input, and the version is known."""
    planes = np.random.default_rng(0).normal(size=(3, 6, 7)).astype(np.float32)
    seen: list[np.ndarray] = []
    async with SERVERS[name](seen) as address, protocol.connect(address, MODEL) as infer:
        answer = await infer(protocol.encode(planes, MODEL), "user-1")
    assert (answer.version, list(answer.policy), answer.error) == ("m-1", POLICY, None)
    np.testing.assert_array_equal(seen, [planes[None]])


async def test_an_error_is_counted_for_the_version_that_gave_it(name: str, protocol: Protocol) -> None:
    async with SERVERS[name]([]) as address, protocol.connect(address, MODEL) as infer:
        (question,) = load.questions(1, MODEL, protocol)
        before = count("ok"), count("error")
        for user in ("user-1", "fail-1", "user-2"):
            await load.ask(infer, load.Target("games", MODEL), question, user)
    assert (count("ok") - before[0], count("error") - before[1]) == (2, 1)


async def test_an_answer_over_grpc_without_numbers_is_an_error_of_its_version() -> None:
    async with serve_grpc([]) as address, PROTOCOLS["grpc"].connect(address, MODEL) as infer:
        answer = await infer(PROTOCOLS["grpc"].encode(np.zeros((3, 6, 7)), MODEL), "empty-1")
    assert answer.version == "m-1"
    assert answer.error is not None


async def test_nobody_there_is_no_answer_of_any_version(protocol: Protocol) -> None:
    before = count("unanswered", NOBODY)
    async with protocol.connect(f"127.0.0.1:{free_port()}", MODEL) as infer:
        target, stock = load.Target("games", MODEL), load.questions(1, MODEL, protocol)
        async with asyncio.timeout(30):
            await load.play(infer, target, stock, rate=20, users=1, seconds=0.01)
    assert count("unanswered", NOBODY) > before
