"""The real proxy: shares, stickiness, versions, errors, mirrors, gRPC, labels."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.router.conftest import World
from tests.router.oracle import bucket
from tests.router.support import INFER, Client, Upstream, backend, eventually, pod_object, route_object, versions_of
from tests.serving.file_server import free_port
from tests.serving.test_comparator import counted, make_document
from tidegate.domain.release import Measurement
from tidegate.domain.requests import GRPC_STATUSES, REQUESTS, measure_error_rate
from tidegate.domain.series import Series, Window
from tidegate_serving.comparator import build_application
from tidegate_serving.inference_messages import InferAnswer

KEYS = [f"user-{number}" for number in range(2000)]
CANARY, STABLE = "connect4-1.1.0", "connect4-1.0.0"


async def canary_keys(world: World) -> set[str]:
    found = await versions_of(world.envoy.port, KEYS)
    return {key for key, version in found.items() if version == CANARY}


async def test_canary_share_is_sticky_and_only_grows(world: World) -> None:
    sets = []
    for percent in (5, 20, 60):
        world.split(percent)
        await world.confirmed()
        sets.append(await canary_keys(world))
        share = 100 * len(sets[-1]) / len(KEYS)
        print(f"{percent} % of the weight: {share:.2f} % of {len(KEYS)} keys")
        assert abs(share - percent) < 3
    assert sets[0] < sets[1] < sets[2]
    assert await canary_keys(world) == sets[2] == {key for key in KEYS if bucket(key) < 6000}


async def test_salt_draws_other_users(world: World) -> None:
    world.split(20, sticky={"header": "x-user-id", "salt": r"test\1-a"})
    await world.confirmed()
    found = await canary_keys(world)
    assert found == {key for key in KEYS if bucket(key, r"test\1-a") < 2000}
    both = found & {key for key in KEYS if bucket(key) < 2000}
    print(f"20 % with salt: {len(found)} keys, {len(both)} of them also without (independent: {len(found) / 5:.0f})")
    assert abs(len(both) - len(found) / 5) < 40


async def test_without_a_key_the_share_is_random(world: World) -> None:
    world.split(50)
    await world.confirmed()
    client = Client(world.envoy.port)
    seen = [(await client.get()).headers["x-tidegate-version"] for _ in range(200)]
    assert 60 < seen.count(CANARY) < 140
    await client.close()


async def test_variant_is_named(world: World) -> None:
    variants = [
        backend(STABLE, "stable", 50, "Variant", variant="control"),
        backend(CANARY, "canary", 50, "Variant", variant="100% wide"),
    ]
    world.cluster.routes.put(route_object(backends=variants, sticky={"header": "X-User-Id"}))
    await world.confirmed()
    client = Client(world.envoy.port)
    answers = [await client.get(x_user_id=key) for key in KEYS[:50]]
    pairs = {(answer.headers["x-tidegate-version"], answer.headers["x-tidegate-variant"]) for answer in answers}
    assert pairs == {(STABLE, "control"), (CANARY, "100% wide")}
    await client.close()


@pytest.mark.parametrize("host", ["connect4.default", "connect4.default:8000", "connect4.default.svc.cluster.local:80"])
async def test_every_spelling_of_the_host_reaches_the_endpoint(world: World, host: str) -> None:
    client = Client(world.envoy.port)
    answer = await client.get("/v2/health/ready", host=host)
    assert (answer.status, answer.headers["x-tidegate-version"]) == (200, STABLE)
    await client.close()


@pytest.mark.parametrize(
    ("path", "host", "status", "reason"),
    [
        (INFER, "nobody.default", 404, "UnknownHost"),
        ("/", "nobody.default", 404, "UnknownHost"),
        ("/v2/repository/models/connect4/unload", "connect4.default", 403, "PathRefused"),
        ("/v2/models/connect4/trace/setting", "connect4.default", 403, "PathRefused"),
        ("/v2/models/connect4%2Finfer", "connect4.default", 400, None),
    ],
)
async def test_what_is_refused_says_why(world: World, path: str, host: str, status: int, reason: str | None) -> None:
    client = Client(world.envoy.port)
    answer = await client.get(path, host=host)
    assert (answer.status, answer.headers.get("x-tidegate-reason")) == (status, reason)
    assert list(json.loads(answer.body)) == ["error"]
    assert not world.stable.requests
    await client.close()


async def test_unready_canary_gives_its_share_to_stable_and_nobody_ready_is_503(world: World) -> None:
    world.split(40)
    await world.confirmed()
    world.cluster.pods.put(pod_object("canary", http=world.canary.port, ready=False))
    await eventually(lambda: world.cluster.ready().get("reason") == "BackendsNotReady")
    shares = {item["modelVersion"]: item["percent"] for item in world.cluster.status()["weights"]}
    assert shares == {CANARY: 0, STABLE: 100}
    assert await canary_keys(world) == set()
    world.cluster.pods.put(pod_object("stable", http=world.stable.port, terminating=True))
    client = Client(world.envoy.port)
    answer = await eventually(lambda: _failed(client))
    assert answer.headers["x-tidegate-reason"] == "NoReadyBackend"
    assert json.loads(answer.body) == {"error": "no version of default/connect4 is ready to answer"}
    world.cluster.pods.put(pod_object("stable", http=world.stable.port))
    world.cluster.pods.put(pod_object("canary", http=world.canary.port))
    await world.confirmed()
    assert len(await canary_keys(world)) > 600
    await client.close()


async def _failed(client: Client) -> Any:
    answer = await client.get()
    return answer if answer.status == 503 else None


async def test_errors_of_a_version_are_neither_retried_nor_hidden(world: World) -> None:
    world.split(100)
    await world.confirmed()
    world.canary.status = 503
    client = Client(world.envoy.port)
    answers = [await client.get() for _ in range(20)]
    assert {(answer.status, answer.headers["x-tidegate-version"]) for answer in answers} == {(503, CANARY)}
    assert world.canary.requests.total() == 20
    await client.close()


async def test_timeout_is_the_routes(world: World) -> None:
    world.stable.delay = 5
    world.split(0, timeout="1s")
    await world.confirmed()
    client = Client(world.envoy.port)
    answer = await client.get()
    assert (answer.status, answer.headers["x-tidegate-reason"]) == (504, "Timeout")
    await client.close()


async def test_mirror_copies_requests_and_nobody_notices(world: World) -> None:
    shadow = await Upstream("shadow").start()
    shadow.status, shadow.delay = 500, 0.05
    world.cluster.pods.put(pod_object("shadow", http=shadow.port))
    world.split(0, mirror={"modelVersion": "connect4-2.0.0", "workload": "shadow", "percent": 100})
    await world.confirmed()
    client = Client(world.envoy.port)
    answers = [await client.get(x_user_id=key) for key in KEYS[:100]]
    assert {(answer.status, answer.headers["x-tidegate-version"]) for answer in answers} == {(200, STABLE)}
    await eventually(lambda: shadow.requests[INFER] == 100)
    assert "host: connect4.default:8000" in shadow.heads[0]
    series = await eventually(lambda: _mirror_series(world), what="the mirror's own series")
    assert 'tidegate_mirror_version="connect4-2.0.0"' in series
    assert "tidegate_version" not in series
    await shadow.stop()
    assert (await client.get()).status == 200
    await client.close()


async def test_who_takes_copies_over_http_alone_gets_no_grpc_calls(world: World) -> None:
    """Calls over gRPC go on, uncopied."""
    shadow = await Upstream("shadow").start()
    copies = pod_object("shadow", http=shadow.port)
    comparator = copies["spec"]["containers"][0]
    comparator["ports"] = [each for each in comparator["ports"] if each["name"] == "http"]
    world.cluster.pods.put(copies)
    world.split(0, mirror={"modelVersion": "connect4-2.0.0", "workload": "shadow", "percent": 100})
    async with grpc_stable(world) as (_, channel):
        await world.confirmed()
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert await call(b"x") == b"from grpc: x"
        client = Client(world.envoy.port)
        assert (await client.get(x_user_id="u")).status == 200
        await client.close()
        await eventually(lambda: shadow.requests[INFER] == 1)
    assert shadow.requests.total() == 1
    await shadow.stop()


async def test_calls_over_grpc_are_copied_to_the_comparator_and_nobody_notices(world: World) -> None:
    """The real comparator takes the copies over HTTP/2 and compares what both versions say."""
    shadow = await Upstream("shadow").start()
    copies = free_port()
    async with grpc_stable(world) as (_, channel), grpc_model() as (model, models):
        document = make_document((world.stable.port, shadow.port), (models, models))
        application, comparator = build_application(document, grpc_port=copies)
        async with TestClient(TestServer(application)) as client:
            world.cluster.pods.put(pod_object("shadow", http=int(client.port or 0), grpc=copies))
            world.split(0, mirror={"modelVersion": "connect4-2.0.0", "workload": "shadow", "percent": 100})
            await world.confirmed()
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            calls = [infer(b"board") for _ in range(20)]
            assert [await each for each in calls] == [b"from grpc: board"] * 20
            assert {dict(await each.initial_metadata())["x-tidegate-version"] for each in calls} == {STABLE}
            await eventually(lambda: _is_compared(client, 20), what="all copies are compared")
            assert set(model) == {b"board"}
            assert len(model) == 40, "each copy is put to both versions"
            await comparator.drain()
    await shadow.stop()


async def _is_compared(client: TestClient[Any, Any], number: int) -> bool:
    return (await counted(client)).get("comparisons_total m-2") == number


@contextlib.asynccontextmanager
async def grpc_model() -> AsyncIterator[tuple[list[bytes], int]]:
    """A model server over gRPC: what it was asked, and its port."""
    asked: list[bytes] = []
    answer = InferAnswer(raw_output_contents=[bytes(8)])
    answer.outputs.add(name="policy", datatype="FP32", shape=[1, 2])

    async def say(question: bytes, _: Any) -> bytes:
        asked.append(question)
        return bytes(answer.SerializeToString())

    server = grpc.aio.server()
    methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(say)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield asked, port
    await server.stop(None)


async def _mirror_series(world: World) -> str:
    lines = (await world.envoy.metrics()).splitlines()
    return next((x for x in lines if "upstream_rq_xx" in x and "mirror" in x and x.endswith(" 100")), "")


async def _answer_grpc(request: bytes, context: Any) -> bytes:
    if request == b"bad":
        await context.abort(grpc.StatusCode.INTERNAL, "the model failed")
    if request == b"unreadable":
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such input")
    if request == b"slow":
        await asyncio.sleep(5)
    return b"from grpc: " + request


@contextlib.asynccontextmanager
async def grpc_stable(world: World) -> AsyncIterator[tuple[Any, Any]]:
    """A gRPC server behind the stable version, and a channel to the endpoint."""
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(_answer_grpc)
    methods = {"ModelInfer": handler, "RepositoryModelUnload": handler}
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    world.cluster.pods.put(pod_object("stable", http=world.stable.port, grpc=port))
    options = [("grpc.default_authority", "connect4.default:8000")]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.envoy.port}", options=options) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        await eventually(lambda: _answered(infer), what="the gRPC endpoint is known")
        yield server, channel
    await server.stop(None)


async def fail_grpc(infer: Any, request: bytes) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await infer(request)
    return error.value.code()


async def test_grpc_goes_to_the_grpc_port_with_the_same_labels(world: World) -> None:
    async with grpc_stable(world) as (_, channel):
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        call = infer(b"board")
        assert await call == b"from grpc: board"
        assert dict(await call.initial_metadata())["x-tidegate-version"] == STABLE
        unload = channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelUnload")
        assert await fail_grpc(unload, b"") is grpc.StatusCode.PERMISSION_DENIED
        assert await fail_grpc(infer, b"bad") is grpc.StatusCode.INTERNAL
    client = Client(world.envoy.port)
    await client.get()
    await client.close()
    text = await world.envoy.metrics()
    pattern = rf'envoy_cluster_upstream_rq_xx{{[^}}]*tidegate_version="{STABLE}"[^}}]*tidegate_protocol="(\w+)"}} [1-9]'
    assert set(re.findall(pattern, text)) == {"http", "grpc"}
    statuses = re.findall(rf'envoy_cluster_grpc{{envoy_grpc_status="(\d+)",[^}}]*tidegate_version="{STABLE}"', text)
    assert {"0", "13"} <= set(statuses)


def read_counts(text: str) -> list[dict[str, str]]:
    """The labels of each series that errorRate is measured from, and what it counts under "count"."""
    lines = re.findall(rf"^(?:{REQUESTS}|{GRPC_STATUSES})\{{(.*)\}} (\d+)$", text, re.M)
    return [dict(re.findall(r'(\w+)="([^"]*)"', labels)) | {"count": count} for labels, count in lines]


def read_requests(before: str, after: str) -> list[Series]:
    """The series of two scrapes, ten seconds apart."""
    ends = [
        {tuple(sorted(each.items() - {("count", each["count"])})): float(each["count"]) for each in read_counts(text)}
        for text in (before, after)
    ]
    return [Series(dict(key), [(0.0, ends[0].get(key, 0.0)), (10.0, count)]) for key, count in ends[1].items()]


def read_attempts(text: str) -> int:
    found = re.search(rf'^envoy_cluster_upstream_rq_total{{[^}}]*"{STABLE}"[^}}]*"grpc"}} (\d+)$', text, re.M)
    assert found
    return int(found[1])


async def test_every_failed_grpc_call_is_one_error(world: World) -> None:
    """What the server says (HTTP 200), what the client did wrong, what Envoy says of a server slow or gone (5xx)."""
    world.split(0, timeout="1s")
    await world.confirmed()
    async with grpc_stable(world) as (server, channel):
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        before = await world.envoy.metrics()
        assert {await fail_grpc(infer, b"bad") for _ in range(2)} == {grpc.StatusCode.INTERNAL}
        assert await fail_grpc(infer, b"unreadable") is grpc.StatusCode.INVALID_ARGUMENT
        assert await fail_grpc(infer, b"slow") is grpc.StatusCode.UNAVAILABLE
        await server.stop(None)
        assert {await fail_grpc(infer, b"gone") for _ in range(3)} == {grpc.StatusCode.UNAVAILABLE}
        after = await world.envoy.metrics()
    found = measure_error_rate(Window(read_requests(before, after), 0, 10), STABLE)
    assert found == Measurement(value=pytest.approx(6 / 7), samples=7)
    classes = {labels.get("envoy_response_code_class") for labels in read_counts(after)}
    assert {"2", "5"} <= classes
    assert read_attempts(after) - read_attempts(before) == 4, "what no server took is missing in upstream_rq_total"


async def _answered(infer: Any) -> bool:
    try:
        return bool(await infer(b"ready?"))
    except grpc.aio.AioRpcError:
        return False


async def test_series_have_the_labels_that_analysis_asks_for(world: World) -> None:
    world.split(50)
    await world.confirmed()
    world.canary.status = 500
    client = Client(world.envoy.port)
    for key in KEYS[:100]:
        await client.get(x_user_id=key)
    await client.close()
    text = await eventually(lambda: _latencies(world), 3, "the latencies are visible")
    labels = (
        f'tidegate_namespace="default",tidegate_deployment="connect4",tidegate_version="{CANARY}",'
        'tidegate_workload="canary",tidegate_protocol="http"'
    )
    total = re.search(rf"^envoy_cluster_upstream_rq_total{{{labels}}} (\d+)$", text, re.M)
    failed = re.search(rf'^envoy_cluster_upstream_rq_xx{{envoy_response_code_class="5",{labels}}} (\d+)$', text, re.M)
    assert total
    assert failed
    assert total[1] == failed[1] != "0"
    bounds = re.findall(rf'^envoy_cluster_upstream_rq_time_bucket{{{labels},le="([^"]+)"}}', text, re.M)
    assert bounds[:6] == ["0.5", "1", "2", "3", "5", "7.5"]
    assert bounds[-1] == "+Inf"
    foreign = {line.split("{")[0] for line in text.splitlines() if line.startswith("envoy_cluster_")}
    assert "envoy_cluster_external_upstream_rq_xx" not in foreign


async def _latencies(world: World) -> str:
    text = await world.envoy.metrics()
    counts = re.findall(rf'upstream_rq_time_count{{[^}}]*{CANARY}[^}}]*"http"}} (\d+)', text)
    return text if counts and int(counts[0]) > 0 else ""


async def test_management_interface_is_not_reachable(world: World) -> None:
    paths = {"/ready": 200, "/config_dump": 404, "/quitquitquit": 404, "/ready/../config_dump": 404, "/": 404}
    for path, status in paths.items():
        client = Client(world.envoy.observe_port)
        assert (await client.get(path)).status == status
        await client.close()
