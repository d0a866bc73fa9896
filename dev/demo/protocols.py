"""How the load generator asks: the KServe v2 protocol over HTTP with JSON, or over gRPC with raw tensors."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import aiohttp
import grpc
import numpy as np
from tritonclient.grpc import service_pb2

__all__ = ["NOBODY", "PROTOCOLS", "Answer", "Infer", "Protocol"]

NOBODY = "none"
"""Stands for the version where no version answered."""
INFER = "/inference.GRPCInferenceService/ModelInfer"
INPUT, OUTPUT = "board", "policy"
USER, VERSION = "x-user-id", "x-tidegate-version"
TIMEOUT_SECONDS = 10.0
OK = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one position."""

    version: str = NOBODY
    policy: Sequence[float] = ()
    error: str | None = None
    """What an error answer says."""
    is_missing: bool = False
    """Whether there was no answer at all."""


Infer = Callable[[bytes, str], Awaitable[Answer]]
"""Sends the body of a request in the name of a user; never raises."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way to ask."""

    encode: Callable[[np.ndarray, str], bytes]
    """Makes the body of a request for the policy of one position, from its planes and the name of the model."""
    connect: Callable[[str, str], AbstractAsyncContextManager[Infer]]
    """Opens the way to an address, ``host:port``, and the model behind it."""


def _encode_http(planes: np.ndarray, model: str) -> bytes:
    """The model stands in the path."""
    del model
    tensor = {"name": INPUT, "shape": [1, *planes.shape], "datatype": "FP32", "data": planes.ravel().tolist()}
    return json.dumps({"inputs": [tensor], "outputs": [{"name": OUTPUT}]}).encode()


@asynccontextmanager
async def _connect_http(address: str, model: str) -> AsyncIterator[Infer]:
    url = f"http://{address}/v2/models/{model}/infer"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)) as session:

        async def infer(body: bytes, user: str) -> Answer:
            version = NOBODY
            try:
                async with session.post(url, data=body, headers={USER: user}) as answer:
                    version = answer.headers.get(VERSION, NOBODY)
                    payload = await answer.json(content_type=None)
                    if answer.status != OK:
                        return Answer(version, error=f"{answer.status} {payload}")
                    return Answer(version, payload["outputs"][0]["data"])
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                return Answer(version, error=repr(error), is_missing=True)

        yield infer


def _encode_grpc(planes: np.ndarray, model: str) -> bytes:
    question = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[planes.astype("<f4").tobytes()])
    question.inputs.add(name=INPUT, datatype="FP32", shape=[1, *planes.shape])
    question.outputs.add(name=OUTPUT)
    return bytes(question.SerializeToString())


@asynccontextmanager
async def _connect_grpc(address: str, model: str) -> AsyncIterator[Infer]:
    """The model stands in the question."""
    del model
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary(INFER, response_deserializer=service_pb2.ModelInferResponse.FromString)

        async def infer(body: bytes, user: str) -> Answer:
            call = ask(body, metadata=((USER, user),), timeout=TIMEOUT_SECONDS)
            try:
                said = await call
                policy = np.frombuffer(said.raw_output_contents[0], "<f4").tolist()
                return Answer(_find_version(await call.initial_metadata()), policy)
            except grpc.aio.AioRpcError as error:
                # An answer without any message has its headers where others have their trailers.
                version = _find_version([*error.initial_metadata(), *error.trailing_metadata()])
                return Answer(version, error=f"{error.code().name} {error.details()}", is_missing=version == NOBODY)
            except IndexError:
                return Answer(_find_version(await call.initial_metadata()), error="an answer without raw outputs")

        yield infer


def _find_version(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    return next((str(value) for name, value in metadata if name == VERSION), NOBODY)


PROTOCOLS = {"http": Protocol(_encode_http, _connect_http), "grpc": Protocol(_encode_grpc, _connect_grpc)}
