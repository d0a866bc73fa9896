"""The gates of the users over HTTP, against a real server in a thread: nothing that it answers does any harm."""

import asyncio
import json
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from dev.cluster.pki import create_pki
from tests.fakes.api import FakeApi
from tidegate.adapters import gates as adapter
from tidegate.adapters.access import AccessSecrets
from tidegate.adapters.connection import ApiConnection
from tidegate.adapters.gates import MAX_MESSAGE, MAX_OPEN_PER_HOST, WebGates
from tidegate.domain.release import GateAnswer, GateQuestion, GateRole
from tidegate.errors import Refused, Unavailable

SECOND = timedelta(seconds=1)
LONG = timedelta(seconds=20)
Respond = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Hook:
    """A webhook of a user."""

    url: str = ""
    respond: Respond = lambda request: answer(request, 200)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    documents: list[Any] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    """Set at the end of the test: what hangs may end."""


def answer(request: BaseHTTPRequestHandler, code: int, body: bytes = b"", **headers: str) -> None:
    request.send_response(code)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.paths.append(self.path)
            made.headers.append(dict(self.headers))
            made.documents.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            made.respond(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}/go"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.left.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
async def gates(api: FakeApi) -> AsyncIterator[WebGates]:
    made = WebGates(AccessSecrets(cast("ApiConnection", api)))
    yield made
    await made.close()


def question(url: str, role: GateRole = GateRole.STEP, timeout: timedelta = 3 * SECOND) -> GateQuestion:
    return GateQuestion(role, url, timeout, {"deployment": "connect4", "stableVersion": None, "percent": 12.5})


async def ask(gates: WebGates, url: str, timeout: timedelta = 3 * SECOND, patience: timedelta = LONG) -> GateAnswer:
    answers = await gates.ask("shop", [question(url, timeout=timeout)], patience)
    return answers[GateRole.STEP]


async def test_a_gate_is_told_of_the_release_and_its_answer_is_read(gates: WebGates, hook: Hook) -> None:
    hook.respond = lambda request: answer(request, 200, b"approved by ops\n")
    assert await ask(gates, f"{hook.url}?token=7") == GateAnswer(200, "approved by ops")
    assert hook.documents == [
        {"namespace": "shop", "deployment": "connect4", "stableVersion": None, "percent": 12.5},
    ]
    assert hook.paths == ["/go?token=7"]
    assert hook.headers[0]["Content-Type"] == "application/json"


@pytest.mark.parametrize("code", [202, 204, 403, 404, 500, 503])
async def test_any_status_is_an_answer(gates: WebGates, hook: Hook, code: int) -> None:
    hook.respond = lambda request: answer(request, code)
    assert await ask(gates, hook.url) == GateAnswer(code)


@pytest.mark.parametrize("code", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(gates: WebGates, hook: Hook, code: int) -> None:
    hook.respond = lambda request: answer(request, code, Location=hook.url.replace("/go", "/other"))
    assert (await ask(gates, hook.url)).code == code
    assert hook.paths == ["/go"]


async def test_cookies_are_not_kept(gates: WebGates, hook: Hook) -> None:
    hook.respond = lambda request: answer(request, 403, Set_Cookie="session=1")
    await ask(gates, hook.url)
    await ask(gates, hook.url)
    assert all("Cookie" not in headers for headers in hook.headers)


async def test_nobody_who_listens_is_no_answer(gates: WebGates) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = await ask(gates, f"http://127.0.0.1:{free.getsockname()[1]}/go")
    assert found.code is None
    assert "127.0.0.1" in found.message


async def test_a_hanging_gate_is_no_answer_after_its_timeout_or_the_patience(gates: WebGates, hook: Hook) -> None:
    hook.respond = lambda _: hook.left.wait(30) and None
    assert await ask(gates, hook.url, timeout=0.6 * SECOND) == GateAnswer(None, "no answer within 0.6 s")
    assert await ask(gates, hook.url, patience=0.7 * SECOND) == GateAnswer(None, "no answer within 0.7 s")


async def test_a_body_that_never_ends_is_no_answer(gates: WebGates, hook: Hook) -> None:
    def hang(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b"half")
        request.wfile.flush()
        hook.left.wait(30)

    hook.respond = hang
    assert await ask(gates, hook.url, timeout=0.5 * SECOND) == GateAnswer(None, "no answer within 0.5 s")


async def test_of_a_huge_body_only_the_start_is_read(gates: WebGates, hook: Hook) -> None:
    sent: list[bool] = []

    def flood(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            for _ in range(4096):
                request.wfile.write(b"x" * 65536)
            sent.append(True)
        except OSError:
            sent.append(False)
        hook.left.set()

    hook.respond = flood
    assert await ask(gates, hook.url) == GateAnswer(200, "x" * MAX_MESSAGE)
    await asyncio.to_thread(hook.left.wait, 10)
    assert sent == [False], "the connection is closed while 256 MiB are still to come"


async def test_control_characters_and_broken_text_do_not_reach_the_status(gates: WebGates, hook: Hook) -> None:
    hook.respond = lambda request: answer(request, 403, b"\x1b[31mno\r\n\x00 \xff\xe2\x80\xae later")
    assert await ask(gates, hook.url) == GateAnswer(403, "[31mno \N{REPLACEMENT CHARACTER} later")


async def test_something_else_than_http_is_no_answer(gates: WebGates, hook: Hook) -> None:
    hook.respond = lambda request: request.wfile.write(b"220 mail.example ESMTP\r\n") and None
    assert (await ask(gates, hook.url)).code is None
    hook.respond = lambda request: request.close_connection and None
    assert (await ask(gates, hook.url)).code is None


@pytest.mark.parametrize("url", ["http://[", "http://a:99999/", "http://..", "http://127.0.0.1:0/?token=7"])
async def test_an_address_that_cannot_be_asked_is_no_answer(gates: WebGates, url: str) -> None:
    found = await ask(gates, url)
    assert found.code is None
    assert "token" not in found.message


async def test_both_gates_of_a_release_are_asked_at_once(gates: WebGates, hook: Hook) -> None:
    both = threading.Barrier(2)
    hook.respond = lambda request: answer(request, 200 + both.wait(10))
    asked = [question(hook.url), question(hook.url, GateRole.ROLLBACK)]
    answers = await gates.ask("shop", asked, LONG)
    assert {each.code for each in answers.values()} == {200, 201}
    assert answers.keys() == {GateRole.STEP, GateRole.ROLLBACK}


async def test_nothing_asked_is_nothing_sent(gates: WebGates) -> None:
    assert await gates.ask("shop", [], SECOND) == {}


async def test_a_host_that_hangs_keeps_neither_other_hosts_nor_the_workers_waiting(
    gates: WebGates, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "LONGEST_QUEUE", timedelta(milliseconds=50))
    hanging = threading.Semaphore(0)

    def hang(request: BaseHTTPRequestHandler) -> None:
        if request.path == "/go":
            hanging.release()
            hook.left.wait(30)
        answer(request, 200)

    hook.respond = hang
    taken = [asyncio.create_task(ask(gates, hook.url, timeout=LONG)) for _ in range(MAX_OPEN_PER_HOST)]
    for _ in taken:
        assert await asyncio.to_thread(hanging.acquire, timeout=10)
    refused = await ask(gates, f"{hook.url}?another")
    assert refused.code is None
    assert refused.message.startswith("not asked")
    elsewhere = hook.url.replace("127.0.0.1", "localhost").replace("/go", "/free")
    assert await ask(gates, elsewhere) == GateAnswer(200)
    hook.left.set()
    assert [each.code for each in await asyncio.gather(*taken)] == [200] * MAX_OPEN_PER_HOST
    assert await ask(gates, hook.url) == GateAnswer(200)


# Credentials

HIDDEN = "open-sesame"


def give(api: FakeApi, hook: Hook, **keys: str | bytes) -> None:
    """Put a Secret for the hook into the namespace; `ca_crt` is ca.crt."""
    given = {"origin": hook.url.removesuffix("/go"), **keys}
    data = {
        key.replace("_", "."): b64encode(value if isinstance(value, bytes) else value.encode()).decode()
        for key, value in given.items()
    }
    path = "/api/v1/namespaces/shop/secrets/board"
    api.objects[path] = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "board"}, "data": data}


async def ask_with_secret(gates: WebGates, url: str, role: GateRole = GateRole.STEP) -> GateAnswer:
    asked = replace(question(url, role), secret="board")
    return (await gates.ask("shop", [asked], LONG))[role]


@pytest.mark.parametrize("role", GateRole)
async def test_a_protected_gate_gets_what_the_secret_of_its_namespace_holds(
    gates: WebGates, hook: Hook, api: FakeApi, role: GateRole
) -> None:
    give(api, hook, token=f"{HIDDEN}\n", headers="X-Api-Key: 7\n")
    assert await ask_with_secret(gates, hook.url, role) == GateAnswer(200)
    assert hook.headers[0]["Authorization"] == f"Bearer {HIDDEN}"
    assert hook.headers[0]["X-Api-Key"] == "7"
    assert hook.headers[0]["Content-Type"] == "application/json"


async def test_a_changed_secret_counts_with_the_next_question(gates: WebGates, hook: Hook, api: FakeApi) -> None:
    give(api, hook, token="old")
    await ask_with_secret(gates, hook.url)
    give(api, hook, username="ada", password="new")
    await ask_with_secret(gates, hook.url)
    found = [each["Authorization"] for each in hook.headers]
    assert found == ["Bearer old", "Basic " + b64encode(b"ada:new").decode()]


async def test_no_secret_is_read_for_a_gate_that_names_none(gates: WebGates, hook: Hook, api: FakeApi) -> None:
    assert await ask(gates, hook.url) == GateAnswer(200)
    assert api.requests == []
    assert "Authorization" not in hook.headers[0]


async def test_a_gate_that_wants_other_credentials_is_closed_and_the_message_says_what_to_check(
    gates: WebGates, hook: Hook, api: FakeApi
) -> None:
    hook.respond = lambda request: answer(request, 401, b"who are you?")
    wanted = "it wants credentials (401); name a Secret with them in secret of the gate"
    assert await ask(gates, hook.url) == GateAnswer(401, wanted)
    give(api, hook, token=HIDDEN)
    refused = "it refused the credentials (401); check token in Secret board"
    assert await ask_with_secret(gates, hook.url) == GateAnswer(401, refused)


async def test_a_missing_secret_asks_nobody(gates: WebGates, hook: Hook) -> None:
    found = await ask_with_secret(gates, hook.url)
    assert found == GateAnswer(None, "Secret board: is missing; create it in namespace shop", is_misconfigured=True)
    assert hook.paths == []


async def test_a_secret_that_the_operator_may_not_read_says_which_setting_lets_it(
    gates: WebGates, hook: Hook, api: FakeApi
) -> None:
    api.fault = lambda method, path: Refused("Forbidden", "secrets is forbidden")
    found = await ask_with_secret(gates, hook.url)
    assert "add its name to gates.secrets of the chart" in found.message
    assert found.is_misconfigured
    assert hook.paths == []


async def test_an_api_server_that_is_away_is_no_answer_and_nobodys_mistake(
    gates: WebGates, hook: Hook, api: FakeApi
) -> None:
    api.fault = lambda method, path: Unavailable("ApiServerUnavailable", "connection refused")
    assert await ask_with_secret(gates, hook.url) == GateAnswer(None, "connection refused")
    assert hook.paths == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"origin": ""}, "add the key origin with the one place"),
        ({"origin": "127.0.0.1"}, "origin is not like https://gates.example:8443"),
        ({"origin": "https://gates.example/team-a"}, "origin is not like"),
        ({"origin": "https://gates.example"}, "its origin is not http://127.0.0.1:"),
        ({"username": "ada"}, "one of username and password; add the other one"),
        ({"token": f"{HIDDEN}\nX: y"}, "token is empty or has characters"),
        ({"headers": f"Authorization: {HIDDEN}"}, "line 1 of headers sets Authorization"),
        ({"ca_crt": HIDDEN}, "ca.crt has no certificate"),
        ({"tls_crt": HIDDEN}, "has one of tls.crt and tls.key"),
        ({"tls_crt": HIDDEN, "tls_key": HIDDEN}, "tls.crt and tls.key are not"),
    ],
)
async def test_a_key_that_cannot_be_used_is_named_and_asks_nobody(
    gates: WebGates, hook: Hook, api: FakeApi, keys: dict[str, str], said: str
) -> None:
    give(api, hook, **keys)
    found = await ask_with_secret(gates, hook.url)
    assert found.code is None
    assert said in found.message
    assert found.message.startswith("Secret board: ")
    assert found.is_misconfigured
    assert HIDDEN not in found.message
    assert hook.paths == []


async def test_credentials_go_to_no_address_but_the_one_that_their_secret_names(
    gates: WebGates, hook: Hook, api: FakeApi
) -> None:
    """Who may write Deployments must not be able to read a Secret by naming an address of their own."""
    give(api, hook, token=HIDDEN, origin="http://127.0.0.1:1")
    assert (await ask_with_secret(gates, hook.url)).is_misconfigured
    give(api, hook, token=HIDDEN)
    assert (await ask_with_secret(gates, hook.url.replace("127.0.0.1", "localhost"))).is_misconfigured
    assert hook.paths == []
    hook.respond = lambda request: answer(request, 307, Location=f"{hook.url}/elsewhere")
    assert (await ask_with_secret(gates, hook.url)).code == 307
    assert hook.paths == ["/go"]


async def test_a_gate_behind_tls_is_trusted_and_shown_a_client_certificate_by_its_secret(
    gates: WebGates, api: FakeApi, tmp_path: Path
) -> None:
    create_pki(tmp_path, ["127.0.0.1"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.crt"))
    tls.load_cert_chain(tmp_path / "apiserver.crt", tmp_path / "apiserver.key")
    tls.verify_mode = ssl.CERT_REQUIRED
    application = web.Application()

    async def say_yes(_: web.Request) -> web.Response:
        return web.Response()

    application.router.add_post("/go", say_yes)
    server = TestServer(application, scheme="https")
    await server.start_server(ssl=tls)
    guarded = Hook(url=f"https://127.0.0.1:{server.port}/go")
    files = {"ca_crt": "ca.crt", "tls_crt": "admin.crt", "tls_key": "admin.key"}
    keys = {key: (tmp_path / name).read_bytes() for key, name in files.items()}
    give(api, guarded)
    untrusted = await ask_with_secret(gates, guarded.url)
    assert untrusted.code is None
    assert "its certificate is not trusted" in untrusted.message
    give(api, guarded, **keys)
    assert await ask_with_secret(gates, guarded.url) == GateAnswer(200)
    await server.close()
