"""The comparator between two real HTTP servers; what is special about gRPC is in test_grpc_copies.py."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from tidegate_serving.comparator import build_application, main
from tidegate_serving.comparison import CONCURRENT, LARGEST_BODY, Comparator
from tidegate_serving.contract import ComparatorDocument

PATH = "/v2/models/connect4/infer"


@dataclass
class Version:
    """A model server that answers what it is told."""

    policy: list[float] = field(default_factory=lambda: [0.1, 0.9])
    status: int = 200
    bodies: list[bytes] = field(default_factory=list)
    hold: asyncio.Event | None = None

    async def answer(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        if self.hold is not None:
            await self.hold.wait()
        output = {"name": "policy", "datatype": "FP32", "shape": [1, len(self.policy)], "data": self.policy}
        return web.Response(status=self.status, text=json.dumps({"outputs": [output]}))


@dataclass
class Setting:
    stable: Version
    shadow: Version
    servers: tuple[TestServer, TestServer]
    comparator: Comparator
    client: TestClient[Any, Any]

    async def copy(self, number: int = 1, path: str = PATH, body: bytes = b"{}") -> None:
        for _ in range(number):
            assert (await self.client.post(path, data=body)).status == 202
        await self.comparator.drain()

    async def counted(self) -> dict[str, float]:
        return await counted(self.client)


async def counted(client: TestClient[Any, Any]) -> dict[str, float]:
    """Return what a comparator has counted, by name and version or reason."""
    text = await (await client.get("/metrics")).text()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert all(sample.labels["tidegate_deployment"] == "connect4" for sample in samples)
    found = {}
    for sample in samples:
        detail = sample.labels.get("reason") or sample.labels.get("tidegate_version", "")
        if "le" not in sample.labels and sample.value:
            found[f"{sample.name.removeprefix('tidegate_shadow_')} {detail}"] = sample.value
    return found


def make_document(http: tuple[Any, Any], grpc: tuple[Any, Any], **changes: Any) -> ComparatorDocument:
    """Make the document of a comparator between servers on these ports of this machine."""
    sides = {
        side: {
            "modelVersion": f"m-{number + 1}",
            "url": f"http://127.0.0.1:{http[number]}",
            "grpcAddress": f"127.0.0.1:{grpc[number]}",
        }
        for number, side in enumerate(("stable", "shadow"))
    }
    fields = {"contractVersion": "v1", "namespace": "default", "deployment": "connect4", "agreement": "Argmax"}
    return ComparatorDocument.model_validate(fields | sides | changes)


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    versions = (Version(), Version())
    servers = []
    for version in versions:
        application = web.Application(client_max_size=2 * LARGEST_BODY)
        application.router.add_post(PATH, version.answer)
        servers.append(TestServer(application))
        await servers[-1].start_server()
    document = make_document((servers[0].port, servers[1].port), (1, 1))
    application, comparator = build_application(document, grpc_port=0)
    async with TestClient(TestServer(application)) as client:
        yield Setting(*versions, (servers[0], servers[1]), comparator, client)
    for server in servers:
        await server.close()


async def test_both_are_asked_the_same_and_disagreements_are_counted(setting: Setting) -> None:
    await setting.copy(3, body=b'{"inputs": []}')
    setting.shadow.policy = [0.9, 0.1]
    await setting.copy(2)
    assert setting.stable.bodies == setting.shadow.bodies == [b'{"inputs": []}'] * 3 + [b"{}"] * 2
    counted = await setting.counted()
    assert counted["comparisons_total m-2"] == 5
    assert counted["disagreements_total m-2"] == 2
    assert counted["requests_total m-1"] == counted["requests_total m-2"] == 5
    assert counted["latency_milliseconds_count m-1"] == counted["latency_milliseconds_count m-2"] == 5


async def test_an_error_beside_an_answer_is_a_failure_and_a_disagreement(setting: Setting) -> None:
    setting.shadow.status = 503
    await setting.copy()
    await setting.servers[1].close()
    await setting.copy()
    counted = await setting.counted()
    assert (counted["failures_total m-2"], counted["disagreements_total m-2"]) == (2, 2)
    assert "failures_total m-1" not in counted


async def test_what_stable_does_not_answer_is_not_compared(setting: Setting) -> None:
    setting.stable.status = 400
    await setting.copy()
    setting.stable.status = 500
    await setting.copy()
    counted = await setting.counted()
    assert counted["skipped_total RefusedByStable"] == 2
    assert counted["failures_total m-1"] == 1, "a question that is wrong is nobody's failure"
    assert "comparisons_total m-2" not in counted


async def test_other_requests_and_large_ones_are_left_alone(setting: Setting) -> None:
    await setting.copy(path="/v2/models/connect4/config")
    await setting.copy(body=b" " * (LARGEST_BODY + 1))
    setting.stable.policy = [1.0]
    await setting.copy()
    counted = await setting.counted()
    assert counted["skipped_total NotInference"] == counted["skipped_total TooLarge"] == 1
    assert counted["skipped_total Incomparable"] == 1
    assert len(setting.stable.bodies) == 1


async def test_the_stable_version_is_never_asked_more_at_a_time(setting: Setting) -> None:
    setting.stable.hold = asyncio.Event()
    for _ in range(CONCURRENT + 5):
        assert (await setting.client.post(PATH, data=b"{}")).status == 202, "nobody waits for the answers"
    setting.stable.hold.set()
    await setting.comparator.drain()
    counted = await setting.counted()
    assert counted["skipped_total Busy"] == 5
    assert counted["comparisons_total m-2"] == len(setting.stable.bodies) == CONCURRENT


async def test_every_series_is_there_before_the_first_copy(setting: Setting) -> None:
    """Else what is counted before the second scrape of a series would be lost."""
    text = await (await setting.client.get("/metrics")).text()
    for name in ("comparisons_total", "disagreements_total", "requests_total", "failures_total"):
        assert f"tidegate_shadow_{name}{{" in text
    assert (await setting.client.get("/healthz")).status == 200
    assert "_created" not in text


def test_a_broken_document_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main({}) == 2
    assert main({"TIDEGATE_COMPARATOR": '{"contractVersion": "v1"}'}) == 2
    assert "stable: Field required" in capsys.readouterr().err
