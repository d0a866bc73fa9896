"""The readiness agent against a stand-in for Triton that answers as told; the real one is in test_triton.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.file_server import FileServer, free_port, send
from tests.serving.triton_process import request, wait_until
from tidegate_serving.agent import Agent, Reloads, serve_connection

DIGEST = "a" * 64
SERVING_IMAGE = Path(__file__).parents[2] / "serving_image"


def as_json(content: Any, status: int = 200) -> Any:
    return send(json.dumps(content).encode(), status)


def index(state: str, reason: str = "", name: str = "connect4") -> Any:
    return as_json([{"name": name, "version": "1", "state": state, "reason": reason}])


def config(digest: str) -> Any:
    return as_json({"name": "connect4", "parameters": {"tidegate_digest": {"string_value": digest}}})


@pytest.fixture
def document(tmp_path: Path) -> Path:
    file = tmp_path / "serving.json"
    file.write_text(json.dumps({"modelName": "connect4", "artifact": {"sha256": DIGEST}}))
    return file


@pytest.fixture
def agent(files: FileServer, document: Path) -> Agent:
    return Agent(str(document), ("127.0.0.1", int(files.url.rpartition(":")[2])))


@pytest.mark.parametrize(
    ("answers", "reason", "words"),
    [
        ([index("READY"), config(DIGEST)], "Ready", DIGEST),
        ([index("READY"), config("b" * 64)], "DigestMismatch", "replace the pod"),
        ([index("READY"), as_json({"parameters": {}})], "DigestMismatch", "sha256 unknown"),
        ([index("READY"), as_json({"error": "no such model"}, 404)], "ModelNotLoaded", "no such model"),
        ([index("LOADING")], "ModelNotLoaded", "is loading"),
        ([index("UNAVAILABLE", "unloaded")], "ModelNotLoaded", "asked for"),
        ([index("READY", name="other")], "ModelNotLoaded", "runs without connect4"),
        ([as_json([{"name": "connect4"}])], "ModelNotLoaded", "runs without connect4"),
        ([as_json([])], "ModelNotLoaded", "runs without connect4"),
        ([index("UNAVAILABLE", "Internal: bad protobuf")], "ModelLoadFailed", "Internal: bad protobuf"),
        ([as_json({"error": "starting"}, 503)], "ModelNotLoaded", "starting"),
        ([send(b"[{", promised=100)], "TritonUnreachable", "ended too early"),
        ([as_json({"hello": "world"})], "TritonUnreachable", "no Triton"),
    ],
)
def test_reasons(agent: Agent, files: FileServer, answers: list[Any], reason: str, words: str) -> None:
    files.answers = answers
    found = agent.probe()
    assert (found.ready, found.reason) == (reason == "Ready", reason)
    assert words in found.message


def test_nobody_listens(document: Path) -> None:
    found = Agent(str(document), ("127.0.0.1", free_port())).probe()
    assert (found.ready, found.reason) == (False, "TritonUnreachable")


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_broken_document_is_a_reason_too(agent: Agent, document: Path, content: str | None) -> None:
    if content is None:
        document.unlink()
    else:
        document.write_text(content)
    assert agent.probe().reason == "DocumentUnreadable"


def test_a_server_that_hangs_is_answered_for_within_a_second(document: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        found = Agent(str(document), silent.getsockname()).probe()
        assert time.monotonic() - start < 1.0
    assert found.reason == "TritonUnreachable"


def test_a_server_that_hangs_at_the_second_question_too(agent: Agent, files: FileServer) -> None:
    released = threading.Event()
    files.answers = [index("READY"), lambda _: released.wait(5)]
    start = time.monotonic()
    assert agent.probe().reason == "TritonUnreachable"
    assert time.monotonic() - start < 1.0
    released.set()


def test_nothing_is_remembered(agent: Agent, files: FileServer) -> None:
    files.answers = [index("READY"), config(DIGEST), index("READY"), config("b" * 64), index("READY"), config(DIGEST)]
    assert [agent.probe().ready for _ in range(3)] == [True, False, True]


def test_a_changed_document_counts_at_once(agent: Agent, files: FileServer, document: Path) -> None:
    files.answers = [index("READY"), config(DIGEST)] * 2
    assert agent.probe().ready
    document.write_text(json.dumps({"modelName": "connect4", "artifact": {"sha256": "c" * 64}}))
    assert agent.probe().reason == "DigestMismatch"


def loads(files: FileServer) -> int:
    return files.paths.count("POST /v2/repository/models/connect4/load")


def test_a_lost_model_is_asked_for_once_while_the_pause_lasts(agent: Agent, files: FileServer) -> None:
    files.answers = [as_json([])]
    for _ in range(5):
        assert agent.probe().reason == "ModelNotLoaded"
    wait_until(lambda: loads(files) == 1, "the load is asked for")
    agent.probe()
    assert loads(files) == 1


@pytest.mark.parametrize(
    "answers",
    [[index("LOADING")], [index("READY"), config("b" * 64)], [as_json({"error": "starting"}, 503)]],
    ids=["loading", "other digest", "starting"],
)
def test_nothing_is_asked_for_when_it_cannot_help(agent: Agent, files: FileServer, answers: list[Any]) -> None:
    files.answers = answers
    agent.probe()
    assert agent.reloads.begin(), "no request has begun"


def test_a_load_that_says_ok_proves_nothing(agent: Agent, files: FileServer) -> None:
    """A second load after a failed first may answer 200: only the index counts."""
    failed = index("UNAVAILABLE", "bad model")
    files.answers = [failed, send(b"", 200), failed]
    assert agent.probe().reason == "ModelLoadFailed"
    wait_until(lambda: loads(files) == 1, "the load is asked for")
    assert agent.probe().reason == "ModelLoadFailed"


def test_pauses_between_loads_grow_to_a_bound_and_start_again_after_success() -> None:
    now = 0.0
    reloads = Reloads(first_pause=1.0, longest_pause=4.0, clock=lambda: now)
    started = []
    for second in range(16):
        now = float(second)
        if reloads.begin():
            started.append(second)
            reloads.end()
    assert started == [0, 1, 3, 7, 11, 15]
    reloads.reset()
    assert reloads.begin()


def test_one_load_at_a_time() -> None:
    reloads = Reloads()
    assert reloads.begin()
    assert not reloads.begin()


def ask(agent: Agent, text: bytes) -> bytes:
    """What the agent answers on a connection."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(text)
        serve_connection(agent, theirs)
        return ours.recv(65536)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /healthz?x=1 HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /other HTTP/1.1\r\n\r\n", b"404"),
        (b"garbage", b"404"),
    ],
)
def test_other_requests(agent: Agent, text: bytes, status: bytes) -> None:
    assert ask(agent, text).split()[1] == status


@pytest.fixture
def process(files: FileServer, document: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The agent as the pod runs it, and its address."""
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(SERVING_IMAGE),
        "TIDEGATE_SERVING": str(document),
        "TIDEGATE_TRITON_PORT": files.url.rpartition(":")[2],
        "TIDEGATE_AGENT_PORT": str(port),
        "TIDEGATE_DRAIN_SECONDS": "0.3",
    }
    command = [sys.executable, "-m", "tidegate_serving.agent"]
    agent = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, text=True)
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: request("GET", f"{url}/healthz")[0] == 200, "the agent answers")
    yield agent, url
    agent.kill()
    agent.wait()


def test_the_process_drains_and_is_small(process: tuple[subprocess.Popen[str], str], files: FileServer) -> None:
    agent, url = process
    files.answers = [index("READY"), config(DIGEST)] * 30
    for _ in range(20):
        assert request("GET", f"{url}/ready")[0] == 200
    memory = Path(f"/proc/{agent.pid}/status").read_text()
    resident = int(memory.partition("VmRSS:")[2].split()[0])
    assert resident < 30_000, f"{resident} KiB"
    agent.send_signal(signal.SIGTERM)
    wait_until(lambda: (request("GET", f"{url}/ready")[1] or {}).get("reason") == "Draining", "draining")
    assert agent.wait(5) == 0
