"""Credentials for the metric source, on a real server with TLS: what is sent, what is said when it is wrong."""

import base64
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from dev.cluster.pki import create_pki
from dev.cluster.shell import run
from tidegate.adapters.access import AccessFolder
from tidegate.adapters.prometheus import PrometheusMetrics
from tidegate.api.deployment import MetricSpec, Verdict
from tidegate.domain.analysis import assess_measurement
from tidegate.domain.release import Measurement, Query, VersionID
from tidegate.errors import Unavailable

END = datetime(2026, 1, 1, 12, tzinfo=UTC)
QUERY = Query(
    MetricSpec.model_validate({"name": "custom", "query": "up", "max": 3}),
    VersionID("connect4-1.1.0", "b" * 64),
    None,
    END - timedelta(seconds=10),
    END,
)
ONE = {"status": "success", "data": {"resultType": "scalar", "result": [0, "1"]}}
SECRET = "ops/prometheus"
HIDDEN = "open-sesame"


@dataclass
class Guarded:
    """A server that answers only who has the right header, and remembers the headers of every request."""

    server: TestServer
    expected: str = ""
    seen: list[dict[str, str]] = field(default_factory=list)
    answer: web.Response | None = None

    async def handle(self, request: web.Request) -> web.Response:
        self.seen.append(dict(request.headers))
        if request.headers.get("Authorization", "") != self.expected:
            return web.Response(status=401, text="Unauthorized")
        return self.answer or web.json_response(ONE)

    def url(self, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.server.port}"


async def serve(tls: ssl.SSLContext | None = None) -> Guarded:
    application = web.Application()
    server = TestServer(application, scheme="https" if tls else "http")
    made = Guarded(server)
    application.router.add_post("/api/v1/query", made.handle)
    await server.start_server(ssl=tls)
    return made


@pytest.fixture
async def guarded() -> AsyncIterator[Guarded]:
    made = await serve()
    yield made
    await made.server.close()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("access") / "pki"
    create_pki(folder, ["127.0.0.1"])
    return folder


def write(folder: Path, **keys: str | bytes) -> AccessFolder:
    """Write the keys of a Secret; `ca_crt` is ca.crt."""
    folder.mkdir(exist_ok=True)
    for key, value in keys.items():
        (folder / key.replace("_", ".")).write_bytes(value if isinstance(value, bytes) else value.encode())
    return AccessFolder(folder, SECRET)


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


async def ask(url: str, access: AccessFolder | None = None) -> Measurement:
    metrics = PrometheusMetrics(url, access)
    try:
        return (await metrics.measure("ns", "connect4", [QUERY], timedelta(seconds=5)))["custom"]
    finally:
        await metrics.close()


async def test_name_and_password(guarded: Guarded, tmp_path: Path) -> None:
    guarded.expected = basic("ada", "a pass: wörd")
    assert (await ask(guarded.url(), write(tmp_path, username="ada", password="a pass: wörd\n"))).value == 1


async def test_token_and_tenant(guarded: Guarded, tmp_path: Path) -> None:
    guarded.expected = f"Bearer {HIDDEN}"
    access = write(tmp_path, token=f"{HIDDEN}\n", headers="X-Scope-OrgID: games|search\n\nTHANOS-TENANT:  b \n")
    assert (await ask(guarded.url(), access)).value == 1
    assert (guarded.seen[0]["X-Scope-OrgID"], guarded.seen[0]["THANOS-TENANT"]) == ("games|search", "b")


async def test_nothing_is_sent_without_a_secret(guarded: Guarded) -> None:
    assert (await ask(guarded.url())).value == 1
    assert "Authorization" not in guarded.seen[0]


async def test_changed_keys_are_used_without_a_restart(guarded: Guarded, tmp_path: Path) -> None:
    """A mounted Secret is a folder behind a link, which turns to another folder."""
    for name, token in (("..1", "old"), ("..2", "new")):
        write(tmp_path / name, token=token)
    (tmp_path / "..data").symlink_to(tmp_path / "..1")
    (tmp_path / "token").symlink_to(Path("..data") / "token")
    metrics = PrometheusMetrics(guarded.url(), AccessFolder(tmp_path, SECRET))

    async def value() -> Any:
        return (await metrics.measure("ns", "connect4", [QUERY], timedelta(seconds=5)))["custom"].value

    guarded.expected = "Bearer old"
    assert await value() == 1
    guarded.expected = "Bearer new"
    assert await value() is None
    (tmp_path / "..swap").symlink_to(tmp_path / "..2")
    (tmp_path / "..swap").rename(tmp_path / "..data")
    assert await value() == 1
    await metrics.close()


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"token": HIDDEN}, "check token in Secret ops/prometheus"),
        ({"username": "ada", "password": HIDDEN}, "check username and password in Secret ops/prometheus"),
        (
            {"token": HIDDEN, "headers": "X-Scope-OrgID: a"},
            "check token and headers in Secret ops/prometheus",
        ),
        ({}, "Secret ops/prometheus is missing or has none of username, password, token, headers"),
    ],
    ids=["token", "password", "tenant", "nothing"],
)
async def test_refused_credentials_name_the_key_and_never_show_it(
    guarded: Guarded, tmp_path: Path, keys: dict[str, str], said: str, status: int
) -> None:
    """The verdict is Error: neither good nor bad for the release."""
    guarded.answer = web.Response(status=status, text=f"no: {HIDDEN}")
    access = write(tmp_path, **keys)
    if keys:
        guarded.expected = access.read().headers["Authorization"]
    found = await ask(guarded.url(), access)
    assert said in str(found.error)
    assert str(status) in str(found.error)
    assert HIDDEN not in str(found.error)
    assert assess_measurement(QUERY.metric, found, comparable=False).verdict is Verdict.ERROR


async def test_a_source_that_wants_credentials_where_there_is_no_secret(guarded: Guarded) -> None:
    guarded.expected = "Bearer x"
    assert "name a Secret with them in prometheus.auth.existingSecret" in str((await ask(guarded.url())).error)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"token": "a", "username": "b", "password": "c"}, "a token and a username"),
        ({"username": "b"}, "one of username and password"),
        ({"password": HIDDEN}, "one of username and password"),
        ({"token": ""}, "token is empty"),
        ({"token": f"{HIDDEN}\nX-Evil: 1"}, "token is empty or has characters"),
        ({"token": f"Bearer {HIDDEN}"}, "token is empty or has characters"),
        ({"token": b"\xff\xfe"}, "token is not text"),
        ({"headers": f"X-Scope-OrgID {HIDDEN}"}, "line 1 of headers"),
        ({"headers": f"a: b\nAuthorization: {HIDDEN}"}, "line 2 of headers sets Authorization"),
        ({"headers": f"X Y: {HIDDEN}"}, "line 1 of headers"),
        ({"ca_crt": HIDDEN}, "ca.crt has no certificate"),
        ({"tls_crt": HIDDEN}, "one of tls.crt and tls.key"),
        ({"tls_crt": HIDDEN, "tls_key": HIDDEN}, "tls.crt and tls.key are not"),
    ],
)
async def test_unusable_keys_are_named_and_never_shown(
    guarded: Guarded, tmp_path: Path, keys: dict[str, str | bytes], said: str
) -> None:
    found = await ask(guarded.url(), write(tmp_path, **keys))
    assert said in str(found.error)
    assert SECRET in str(found.error)
    assert HIDDEN not in str(found.error)
    assert guarded.seen == []


async def test_a_key_that_needs_a_passphrase_is_refused_and_asks_nobody(guarded: Guarded, tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    create_pki(folder, [])
    locked = tmp_path / "locked.key"
    run(["openssl", "ec", "-in", folder / "admin.key", "-aes256", "-passout", "pass:1234", "-out", locked])
    access = write(tmp_path / "keys", tls_crt=(folder / "admin.crt").read_bytes(), tls_key=locked.read_bytes())
    assert "tls.crt and tls.key are not" in str((await ask(guarded.url(), access)).error)


async def test_credentials_are_not_passed_on_to_another_address(guarded: Guarded, tmp_path: Path) -> None:
    other = await serve()
    headers = {"Location": other.url() + "/api/v1/query"}
    guarded.expected, guarded.answer = f"Bearer {HIDDEN}", web.Response(status=307, headers=headers)
    found = await ask(guarded.url(), write(tmp_path, token=HIDDEN, headers="X-Scope-OrgID: a"))
    assert "is elsewhere (307); correct prometheus.url" in str(found.error)
    assert other.seen == []
    await other.server.close()


def server_tls(pki: Path, *, wants_client: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki / "apiserver.crt", pki / "apiserver.key")
    if wants_client:
        context.load_verify_locations(pki / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_the_authority_of_the_secret_is_trusted_and_no_other(pki: Path, tmp_path: Path) -> None:
    made = await serve(server_tls(pki))
    right = write(tmp_path / "right", ca_crt=(pki / "ca.crt").read_bytes())
    wrong = write(tmp_path / "wrong", ca_crt=(pki / "front-proxy-ca.crt").read_bytes())
    assert (await ask(made.url("https"), right)).value == 1
    for access in (wrong, None):
        error = str((await ask(made.url("https"), access)).error)
        assert "its certificate is not trusted" in error
        assert "into ca.crt of" in error
        assert (SECRET in error) == (access is not None)
    assert len(made.seen) == 1
    await made.server.close()


async def test_client_certificates_are_shown_and_replaced(pki: Path, tmp_path: Path) -> None:
    made = await serve(server_tls(pki, wants_client=True))
    authority = (pki / "ca.crt").read_bytes()
    access = write(tmp_path, ca_crt=authority)
    metrics = PrometheusMetrics(made.url("https"), access)

    async def measure() -> Measurement:
        return (await metrics.measure("ns", "connect4", [QUERY], timedelta(seconds=5)))["custom"]

    assert "check tls.crt and tls.key of Secret ops/prometheus" in str((await measure()).error)
    write(tmp_path, tls_crt=(pki / "admin.crt").read_bytes(), tls_key=(pki / "admin.key").read_bytes())
    assert (await measure()).value == 1
    other = {"tls_crt": "front-proxy-client.crt", "tls_key": "front-proxy-client.key"}
    write(tmp_path, **{key: (pki / name).read_bytes() for key, name in other.items()})
    assert "check tls.crt and tls.key" in str((await measure()).error), "no open connection of before is used"
    await metrics.close()
    await made.server.close()


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = write(tmp_path, token=HIDDEN)

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(Unavailable, match="cannot be read: Permission denied"):
        access.read()


def test_what_a_request_carries_does_not_show_itself(tmp_path: Path) -> None:
    assert HIDDEN not in repr(write(tmp_path, token=HIDDEN).read())
