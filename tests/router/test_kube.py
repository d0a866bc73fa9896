"""The Kubernetes adapter against a small HTTP server: lists, watches, errors, the status patch."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from kubernetes.aio import client

from tests.router.support import backend, pod_object, route_object
from tidegate.api.route import RouteStatus
from tidegate.router.kube import KubeStatusWriter, pods, routes
from tidegate.router.recorder import ObsoleteError
from tidegate.router.reflector import GoneError, UnavailableError
from tidegate.router.routes import parse_route

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FakeApi:
    """Passes every request to ``handler`` and keeps them."""

    api: client.ApiClient
    handler: Handler | None = None
    requests: list[tuple[str, str, dict[str, str], str, Any]] = field(default_factory=list)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeApi]:
    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        content = request.headers.get("content-type", "")
        fake.requests.append((request.method, request.path, dict(request.query), content, json.loads(body or b"null")))
        assert fake.handler
        return await fake.handler(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    configuration = client.Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
    async with client.ApiClient(configuration) as api:
        fake = FakeApi(api)
        yield fake
    await runner.cleanup()


def answering(status: int, body: Any) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    return handler


def streaming(*chunks: bytes) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        return response

    return handler


async def test_list_page(server: FakeApi) -> None:
    metadata = {"resourceVersion": "42", "continue": "next"}
    server.handler = answering(200, {"metadata": metadata, "items": [route_object()]})
    page = await routes(server.api, None).list_page("token")
    assert (page.version, page.following, len(page.items)) == ("42", "next", 1)
    _, path, query, *_ = server.requests[0]
    assert path == "/apis/tidegate.dev/v1alpha1/routes"
    assert query == {"limit": "500", "continue": "token"}


@pytest.mark.parametrize(("namespace", "where"), [("team", "/api/v1/namespaces/team/pods"), (None, "/api/v1/pods")])
async def test_pods_with_a_selector(server: FakeApi, namespace: str | None, where: str) -> None:
    metadata = {"resourceVersion": "1"}
    server.handler = answering(200, {"metadata": metadata, "items": [pod_object("stable")]})
    page = await pods(server.api, namespace, "tidegate.dev/workload").list_page("token")
    assert page.items == (pod_object("stable"),), "as the server says it"
    server.handler = streaming(json.dumps({"type": "ADDED", "object": pod_object("canary")}).encode() + b"\n")
    seen = [event.item async for event in pods(server.api, namespace, "tidegate.dev/workload").watch("1")]
    assert seen == [pod_object("canary")]
    listed, watched = server.requests
    assert (listed[1], listed[2]) == (
        where,
        {"labelSelector": "tidegate.dev/workload", "limit": "500", "continue": "token"},
    )
    assert (watched[1], watched[2]["labelSelector"]) == (where, "tidegate.dev/workload")
    assert (watched[2]["watch"], watched[2]["resourceVersion"]) == ("true", "1")


async def test_routes_of_one_namespace(server: FakeApi) -> None:
    server.handler = answering(200, {"metadata": {"resourceVersion": "1"}, "items": []})
    await routes(server.api, "team").list_page("")
    assert server.requests[0][1] == "/apis/tidegate.dev/v1alpha1/namespaces/team/routes"


@pytest.mark.parametrize(("status", "error"), [(410, GoneError), (500, UnavailableError), (403, UnavailableError)])
async def test_refused_lists_and_watches(server: FakeApi, status: int, error: type[Exception]) -> None:
    server.handler = answering(status, {"kind": "Status", "code": status})
    with pytest.raises(error):
        await routes(server.api, None).list_page("")
    with pytest.raises(error):
        await anext(routes(server.api, None).watch("1"))


async def test_watch_puts_events_together_from_any_chunks(server: FakeApi) -> None:
    big = {**route_object("big"), "padding": "x" * 300_000}
    events = [{"type": "ADDED", "object": route_object("a")}, {"type": "MODIFIED", "object": big}]
    text = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    server.handler = streaming(text[:10], text[10:700], text[700:])
    seen = [event async for event in routes(server.api, None).watch("5")]
    assert [(event.kind, event.item["metadata"]["name"]) for event in seen] == [("ADDED", "a"), ("MODIFIED", "big")]
    query = server.requests[0][2]
    assert (query["watch"], query["resourceVersion"], query["allowWatchBookmarks"]) == ("true", "5", "true")


@pytest.mark.parametrize(("code", "error"), [(410, GoneError), (504, UnavailableError)])
async def test_errors_inside_a_watch(server: FakeApi, code: int, error: type[Exception]) -> None:
    server.handler = streaming(json.dumps({"type": "ERROR", "object": {"code": code}}).encode() + b"\n")
    with pytest.raises(error):
        await anext(routes(server.api, None).watch("5"))


async def test_unreachable_server() -> None:
    async with client.ApiClient(client.Configuration(host="http://127.0.0.1:9")) as api:
        with pytest.raises(UnavailableError):
            await routes(api, None).list_page("")


async def test_status_is_applied_server_side_for_this_very_object(server: FakeApi) -> None:
    record = parse_route(route_object(backends=[backend("v1", "stable", 100)]))
    server.handler = answering(200, route_object())
    await KubeStatusWriter(server.api).write(record, RouteStatus(observed_generation=3))
    method, path, query, content, body = server.requests[0]
    assert (method, content) == ("PATCH", "application/apply-patch+yaml")
    assert path == "/apis/tidegate.dev/v1alpha1/namespaces/default/routes/connect4/status"
    assert query == {"fieldManager": "tidegate-router", "force": "true"}
    assert body["metadata"] == {"name": "connect4", "namespace": "default", "uid": "uid-default-connect4"}
    assert body["status"]["observedGeneration"] == 3


@pytest.mark.parametrize(("status", "error"), [(404, ObsoleteError), (409, UnavailableError), (500, UnavailableError)])
async def test_refused_writes(server: FakeApi, status: int, error: type[Exception]) -> None:
    record = parse_route(route_object())
    server.handler = answering(status, {"kind": "Status", "code": status})
    with pytest.raises(error):
        await KubeStatusWriter(server.api).write(record, RouteStatus())
