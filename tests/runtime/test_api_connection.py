"""The connection: answers become the right errors, tokens are renewed, a replica that does not lead writes nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tidegate.adapters import connection
from tidegate.adapters.connection import MERGE_PATCH, ApiConnection, path_of
from tidegate.adapters.credentials import Credentials
from tidegate.errors import Conflict, Refused, TidegateError, Unavailable
from tidegate.ports import POD, ROUTE

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Connect = Callable[..., Awaitable[ApiConnection]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    opened: list[ApiConnection] = []
    servers: list[TestServer] = []

    async def start(handler: Handler, token_path: Path | None = None, **options: object) -> ApiConnection:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", handler)
        server = TestServer(application)
        await server.start_server()
        servers.append(server)
        made = ApiConnection(Credentials(str(server.make_url("")), token_path=token_path), **options)  # type: ignore[arg-type]
        opened.append(made)
        return made

    yield start
    for each in opened:
        await each.close()
    for server in servers:
        await server.close()


def answering(status: int, body: object = None) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        return web.json_response(body if body is not None else {}, status=status)

    return handle


@pytest.mark.parametrize(
    ("status", "reason", "error"),
    [
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", Conflict),
        (401, "Unauthorized", Unavailable),
        (403, "Forbidden", Refused),
        (400, "BadRequest", Refused),
        (422, "Invalid", Refused),
        (429, "TooManyRequests", Unavailable),
        (500, "InternalError", Unavailable),
        (503, "ServiceUnavailable", Unavailable),
        (504, "Timeout", Unavailable),
    ],
)
async def test_answers_become_errors(connect: Connect, status: int, reason: str, error: type[TidegateError]) -> None:
    api = await connect(answering(status, {"kind": "Status", "reason": reason, "message": "said so"}))
    with pytest.raises(error, match="said so") as caught:
        await api.patch("/x", {}, MERGE_PATCH)
    assert caught.value.reason == reason


async def test_absent_objects_are_none_and_absent_namespaces_an_error(connect: Connect) -> None:
    api = await connect(answering(404, {"reason": "NotFound"}))
    assert await api.get("/x") is None
    assert await api.delete("/x", {}) is None
    assert await api.patch("/x", {}, MERGE_PATCH) is None
    with pytest.raises(Refused, match="not found"):
        await api.post("/x", {})


async def test_refusals_need_not_be_json(connect: Connect) -> None:
    """An API server says of an unknown group only "404 page not found"."""

    async def plain(request: web.Request) -> web.Response:
        return web.Response(text="404 page not found", status=int(request.path[1:]))

    api = await connect(plain)
    assert await api.get("/404") is None
    with pytest.raises(Unavailable, match="status 502"):
        await api.get("/502")


async def test_no_answer_in_time(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    monkeypatch.setattr(connection, "TIMEOUT", aiohttp.ClientTimeout(total=0.05))
    api = await connect(hang)
    with pytest.raises(Unavailable, match="GET /x"):
        await api.get("/x")


async def test_nobody_there_and_nonsense(connect: Connect) -> None:
    async def nonsense(_: web.Request) -> web.Response:
        return web.Response(text="<html>")

    with pytest.raises(Unavailable, match="no JSON"):
        await (await connect(nonsense)).get("/x")
    nobody = ApiConnection(Credentials("http://127.0.0.1:1"))
    with pytest.raises(Unavailable):
        await nobody.get("/x")
    await nobody.close()


async def test_renewed_tokens_are_used(connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({})

    token = tmp_path / "token"
    token.write_text("one\n")
    api = await connect(handle, token)
    await api.get("/x")
    token.write_text("two\n")
    await api.get("/x")
    monkeypatch.setattr(connection, "TOKEN_LIFETIME", connection.TOKEN_LIFETIME * 0)
    await api.get("/x")
    assert seen == ["Bearer one", "Bearer one", "Bearer two"]


async def test_without_the_lease_nothing_is_written(connect: Connect) -> None:
    leads = True
    api = await connect(answering(200, {"kind": "x"}), may_write=lambda: leads)
    await api.post("/x", {})
    leads = False
    for write in (api.post("/x", {}), api.put("/x", {}), api.patch("/x", {}, MERGE_PATCH), api.delete("/x", {})):
        with pytest.raises(Unavailable, match="does not hold the lease"):
            await write
    assert await api.get("/x") == {"kind": "x"}


def test_paths() -> None:
    assert path_of(POD, "ns", "p") == "/api/v1/namespaces/ns/pods/p"
    assert path_of(ROUTE) == "/apis/tidegate.dev/v1alpha1/routes"
    assert path_of(ROUTE, "ns", "r", "status") == "/apis/tidegate.dev/v1alpha1/namespaces/ns/routes/r/status"
