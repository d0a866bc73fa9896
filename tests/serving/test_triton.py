"""Puller, agent and backend with the real Triton server, on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
from aiohttp.test_utils import TestClient, TestServer

from dev.demo.protocols import PROTOCOLS
from tests.serving.file_server import FileServer, free_port, send
from tests.serving.onnx_models import boards, echo_text, policy_value, save, serving_document, table_lookup, tensor
from tests.serving.test_comparator import counted, make_document
from tests.serving.triton_process import Triton, is_alive, request, wait_until
from tidegate_serving.agent import Agent, Assessment
from tidegate_serving.artifacts import Fetcher
from tidegate_serving.comparator import build_application
from tidegate_serving.contract import ServingDocument
from tidegate_serving.puller import pull

pytestmark = pytest.mark.triton
LOOKUP = {
    "inputs": [{"name": "index", "dataType": "INT64", "shape": [-1]}],
    "outputs": [{"name": "row", "dataType": "FP32", "shape": [-1, 2]}],
}
LOAD_AT_START = ("--load-model=connect4", "--disable-auto-complete-config")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return policy_value(tmp_path / "source" / "model.onnx")


def place(server: Triton, model: Path, **changes: Any) -> dict[str, Any]:
    """Let the puller put the model into the server's repository."""
    document = serving_document(model, server.repository, **changes)
    pull(ServingDocument.model_validate(document), Fetcher(), threads=1)
    return document


def agent_of(server: Triton, document: dict[str, Any]) -> Agent:
    file = server.repository.parent / "serving.json"
    file.write_text(json.dumps(document))
    agent = Agent(str(file), ("127.0.0.1", server.http))
    agent.reloads.first_pause = 0.1
    return agent


def wait_for(agent: Agent, reason: str, words: str = "") -> Assessment:
    """Probe as the kubelet does, until the reason is there."""
    seen: list[Assessment] = []

    def probe() -> Assessment | None:
        seen.append(agent.probe())
        return seen[-1] if seen[-1].reason == reason and words in seen[-1].message else None

    try:
        found: Assessment = wait_until(probe, reason)
    except AssertionError as error:
        raise AssertionError(f"{error}, last was {seen[-1]}") from error
    return found


def infer(client: Any, server: Triton, rows: np.ndarray, model: str = "connect4") -> Any:
    """One request by the http or the grpc client."""
    port = server.grpc if client is tritonclient.grpc else server.http
    with client.InferenceServerClient(f"127.0.0.1:{port}") as connection:
        given = client.InferInput("board", list(rows.shape), "FP32")
        given.set_data_from_numpy(rows)
        return connection.infer(model, [given])


def onnxruntime_says(model: Path, rows: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    answers: list[np.ndarray] = session.run(["policy", "value"], {"board": rows})
    return answers


def statistics(server: Triton) -> dict[str, Any]:
    found: dict[str, Any] = request("GET", f"{server.url}/v2/models/connect4/stats")[1]["model_stats"][0]
    return found


def test_a_life_in_a_pod(triton_server: Triton, model: Path) -> None:
    """Ready; lost behind its back and brought back; killed and started again; another digest; no server."""
    document = place(triton_server, model)
    triton_server.options = LOAD_AT_START
    agent = agent_of(triton_server, document)
    assert agent.probe().reason == "TritonUnreachable"
    triton_server.start()
    wait_for(agent, "Ready")

    triton_server.unload()
    assert not agent.probe().ready
    wait_for(agent, "Ready")

    triton_server.kill()
    assert agent.probe().reason == "TritonUnreachable"
    triton_server.start()
    wait_for(agent, "Ready")

    newer = serving_document(policy_value(model.parent / "newer.onnx", seed=2), triton_server.repository)
    assert agent_of(triton_server, newer).probe().reason == "DigestMismatch"


def test_answers_are_those_of_onnxruntime_over_both_protocols(triton_server: Triton, model: Path) -> None:
    agent = agent_of(triton_server, place(triton_server, model))
    triton_server.options = LOAD_AT_START
    triton_server.start()
    wait_for(agent, "Ready")
    for client in (tritonclient.http, tritonclient.grpc):
        for rows in (boards(1), boards(64, seed=3)):
            found = infer(client, triton_server, rows)
            for name, wanted in zip(("policy", "value"), onnxruntime_says(model, rows), strict=True):
                np.testing.assert_allclose(found.as_numpy(name), wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(tritonclient.http.InferenceServerException, match="batch-size must be <= 64"):
        infer(tritonclient.http, triton_server, boards(65))


async def test_the_load_generator_is_understood_over_both_protocols(triton_server: Triton, model: Path) -> None:
    agent = agent_of(triton_server, place(triton_server, model))
    triton_server.options = LOAD_AT_START
    triton_server.start()
    wait_for(agent, "Ready")
    rows = boards(1, seed=3)
    wanted = onnxruntime_says(model, rows)[0].ravel()
    for name, port in (("http", triton_server.http), ("grpc", triton_server.grpc)):
        protocol = PROTOCOLS[name]
        async with protocol.connect(f"127.0.0.1:{port}", "connect4") as ask:
            answer = await ask(protocol.encode(rows[0], "connect4"), "user-1")
        assert answer.error is None
        np.testing.assert_allclose(answer.policy, wanted, rtol=1e-5, atol=1e-6)


async def test_copies_over_both_protocols_are_compared_between_two_versions(
    triton_home: Path, triton_server: Triton, model: Path, tmp_path: Path
) -> None:
    """What users' clients send is put to both servers as it came, and the answers of both forms are read."""
    (tmp_path / "other").mkdir()
    other = Triton(triton_home, tmp_path / "other", tmp_path / "other.log")
    servers, models = (triton_server, other), (model, policy_value(tmp_path / "other.onnx", seed=2))
    try:
        for server, each in zip(servers, models, strict=True):
            agent = agent_of(server, place(server, each))
            server.options = LOAD_AT_START
            server.start()
            wait_for(agent, "Ready")
        document = make_document((servers[0].http, servers[1].http), (servers[0].grpc, servers[1].grpc))
        port = free_port()
        application, comparator = build_application(document, grpc_port=port)
        rows = boards(16, seed=3)
        says = [onnxruntime_says(each, rows)[0].argmax(axis=-1) for each in models]
        differing = sum(not np.array_equal(*pair) for pair in zip(*says, strict=True))
        assert 0 < differing < len(rows)
        async with TestClient(TestServer(application)) as client:
            async with tritonclient.grpc.aio.InferenceServerClient(f"127.0.0.1:{port}") as copies:
                for row in rows:
                    given = tritonclient.grpc.InferInput("board", [1, *row.shape], "FP32")
                    given.set_data_from_numpy(row[None])
                    await copies.infer("connect4", [given])
            await comparator.drain()
            found = await counted(client)
            assert (found["comparisons_total m-2"], found["disagreements_total m-2"]) == (len(rows), differing)
            for row in rows:
                values = {"name": "board", "datatype": "FP32", "shape": [1, *row.shape], "data": row.ravel().tolist()}
                await client.post("/v2/models/connect4/infer", json={"inputs": [values]})
            await comparator.drain()
            found = await counted(client)
            assert (found["comparisons_total m-2"], found["disagreements_total m-2"]) == (2 * len(rows), 2 * differing)
            assert "failures_total m-1" not in found
    finally:
        other.kill()


def test_concurrent_requests_share_a_run(triton_server: Triton, model: Path) -> None:
    """Each caller gets its own rows back, and there are fewer runs than requests."""
    slow_queue = serving_document(model, triton_server.repository)["triton"] | {"maxQueueDelayMicroseconds": 50_000}
    agent = agent_of(triton_server, place(triton_server, model, triton=slow_queue))
    triton_server.options = LOAD_AT_START
    triton_server.start()
    wait_for(agent, "Ready")
    runs_before = statistics(triton_server)["execution_count"]
    requests = [boards(1 + i % 3, seed=i) for i in range(40)]
    together = threading.Barrier(8)

    def ask(share: int) -> list[Any]:
        together.wait()
        return [infer(tritonclient.http, triton_server, rows).as_numpy("policy") for rows in requests[share::8]]

    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(ask, range(8)))
    for share, found in enumerate(answers):
        for rows, policy in zip(requests[share::8], found, strict=True):
            np.testing.assert_allclose(policy, onnxruntime_says(model, rows)[0], rtol=1e-5, atol=1e-6)
    assert statistics(triton_server)["execution_count"] - runs_before < 30


def test_a_half_copied_file_is_never_loaded(triton_server: Triton, model: Path, files: FileServer) -> None:
    """The model name is known to nobody until its verified file is in place; then the agent has it loaded."""
    content, arrived, go_on = model.read_bytes(), threading.Event(), threading.Event()

    def halting(handler: Any) -> None:
        send(content[:1000], promised=len(content))(handler)
        handler.wfile.flush()
        arrived.set()
        go_on.wait(20)
        handler.wfile.write(content[1000:])

    files.answers = [halting]
    document = serving_document(model, triton_server.repository)
    document["artifact"]["uri"] = f"{files.url}/model.onnx"
    agent = agent_of(triton_server, document)
    triton_server.start()
    puller = threading.Thread(target=pull, args=(ServingDocument.model_validate(document), Fetcher()))
    puller.start()
    triton_server.wait_for_answer()
    assert arrived.wait(10)
    for name in ("connect4", ".incoming", "new"):
        assert request("POST", f"{triton_server.url}/v2/repository/models/{name}/load", {})[0] != 200
    assert not agent.probe().ready
    go_on.set()
    puller.join(10)
    wait_for(agent, "Ready")


def test_a_failed_load_is_told_in_tritons_words_and_mended(triton_server: Triton, model: Path) -> None:
    """Load answers are not believed: a broken file is never Ready, and the repaired one is without a restart."""
    document = place(triton_server, model)
    file = triton_server.repository / "connect4" / "1" / "model.onnx"
    good = file.read_bytes()
    file.write_bytes(good[:1000])
    triton_server.options = LOAD_AT_START
    agent = agent_of(triton_server, document)
    triton_server.start()
    wait_for(agent, "ModelLoadFailed", "Protobuf parsing failed")
    request("POST", f"{triton_server.url}/v2/repository/models/connect4/load", {})
    assert not agent.probe().ready
    file.write_bytes(good)
    wait_for(agent, "Ready")


def test_the_backend_tells_nobody_about_the_model(triton_server: Triton, model: Path, tmp_path: Path) -> None:
    """ONNX Runtime's official build has telemetry that is on by default and keeps its state in the home folder."""
    home = tmp_path / "home"
    home.mkdir()
    triton_server.environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    place(triton_server, model)
    triton_server.options = LOAD_AT_START
    triton_server.start()
    wait_until(lambda: triton_server.index_state() == "READY", "READY")
    assert list(home.iterdir()) == []


def test_a_killed_stub_takes_the_server_with_it(triton_server: Triton, model: Path) -> None:
    """Triton alone would list the model READY for ever and answer every request with an error."""
    agent = agent_of(triton_server, place(triton_server, model))
    triton_server.options = LOAD_AT_START
    triton_server.start()
    wait_for(agent, "Ready")
    (stub, region), server = triton_server.stubs().popitem(), triton_server.process
    assert server is not None
    os.kill(stub, signal.SIGKILL)
    assert server.wait(10) == -signal.SIGKILL
    region.unlink(missing_ok=True)
    assert agent.probe().reason == "TritonUnreachable"


def test_sigterm_is_a_clean_end(triton_server: Triton, model: Path) -> None:
    place(triton_server, model)
    triton_server.options = LOAD_AT_START
    triton_server.start()
    triton_server.wait_for_answer()
    stubs, server = triton_server.stubs(), triton_server.process
    assert server is not None
    server.terminate()
    assert server.wait(15) == 0
    assert not any(is_alive(pid) for pid in stubs)


@pytest.fixture
def other_models(tmp_path: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Models by name with what their documents say of them."""
    fixed = save(*sum_of_fixed_rows(), path=tmp_path / "fixed" / "model.onnx")
    return {
        "text": (echo_text(tmp_path / "text" / "model.onnx"), {"signature": None, "triton": {"maxBatchSize": 8}}),
        "fixed": (fixed, {"signature": None, "triton": {"maxBatchSize": 0}}),
        "lookup": (table_lookup(tmp_path / "lookup" / "model.onnx"), {"signature": LOOKUP}),
        "unclear": (table_lookup(tmp_path / "unclear" / "model.onnx"), {"signature": None}),
    }


def sum_of_fixed_rows() -> tuple[Any, ...]:
    """A model that takes two rows of three half-precision numbers, no more and no fewer."""
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Add", ["x", "one"], ["y"])]
    kind = TensorProto.FLOAT16
    return nodes, [tensor("x", [2, 3], kind)], [tensor("y", [2, 3], kind)], {"one": np.ones(1, np.float16)}


def test_other_models(triton_server: Triton, other_models: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    """Signatures that are found out, text, a fixed batch, numbers per row, a request that fails among good ones."""
    for name, (file, changes) in other_models.items():
        place(triton_server, file, modelName=name, **changes)
    triton_server.options = tuple(f"--load-model={name}" for name in other_models)
    triton_server.start()
    triton_server.wait_for_answer()
    url = f"{triton_server.url}/v2/models"

    assert request("GET", f"{url}/fixed")[1]["inputs"] == [{"name": "x", "datatype": "FP16", "shape": [2, 3]}]
    assert request("GET", f"{url}/text")[1]["outputs"] == [{"name": "echo", "datatype": "BYTES", "shape": [-1, 1]}]

    text = {"name": "text", "datatype": "BYTES", "shape": [2, 1], "data": ["Grüße", "🙂"]}
    assert request("POST", f"{url}/text/infer", {"inputs": [text]})[1]["outputs"][0]["data"] == ["Grüße", "🙂"]

    def look_up(index: int) -> tuple[int, Any]:
        given = {"name": "index", "datatype": "INT64", "shape": [1, 1], "data": [index]}
        return request("POST", f"{url}/lookup/infer", {"inputs": [given]})

    with ThreadPoolExecutor(6) as callers:
        answers = list(callers.map(look_up, [0, 5, 0, 0, 7, 0] * 3))
    assert [status == 200 for status, _ in answers] == [True, False, True, True, False, True] * 3
    assert "indices element out of data bounds" in answers[1][1]["error"]
    assert answers[0][1]["outputs"][0]["data"] == [1.0, 1.0]

    index = request("POST", f"{triton_server.url}/v2/repository/index", {})[1]
    reasons = {entry["name"]: entry.get("reason", "") for entry in index}
    assert "state the signature in the ModelVersion or set maxBatchSize to 0" in reasons["unclear"]


def test_as_first_process_of_a_container_it_ends_when_its_stub_is_killed(triton_server: Triton, model: Path) -> None:
    """The first process of a container cannot be killed from inside; the start script stands in front of the server."""
    if subprocess.run(["unshare", "--pid", "--mount", "--fork", "true"], check=False, capture_output=True).returncode:
        pytest.skip("may not make namespaces")
    document = place(triton_server, model)
    command = ["unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
    private_memory = 'mount -t tmpfs none /dev/shm && touch /dev/shm/triton_x_backend_shm_region_old && exec "$0" "$@"'
    triton_server.home = contained(triton_server, [*command, private_memory])
    triton_server.options = LOAD_AT_START
    agent = agent_of(triton_server, document)
    triton_server.start()
    wait_for(agent, "Ready")
    server = triton_server.process
    assert server is not None
    [stub] = find_stubs(triton_server.repository)
    os.kill(stub, signal.SIGKILL)
    assert server.wait(10) == 128 + signal.SIGKILL
    triton_server.start()
    wait_for(agent, "Ready")
    [wrapper] = [pid for pid in children_of(triton_server.process.pid) if is_alive(pid)]
    os.kill(wrapper, signal.SIGTERM)
    assert triton_server.process.wait(15) == 0


def contained(server: Triton, prefix: list[str]) -> Path:
    """A home whose tritonserver runs in namespaces of its own."""
    home = server.repository.parent / "contained"
    (home / "bin").mkdir(parents=True)
    words = " ".join(f"'{word}'" for word in [*prefix, str(server.home / "bin" / "tritonserver")])
    (home / "bin" / "tritonserver").write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    (home / "bin" / "tritonserver").chmod(0o755)
    return home


def find_stubs(repository: Path) -> list[int]:
    """Stubs that serve a model of this repository, in whatever namespace."""
    wanted = f"{repository}/".encode()
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"triton_python_backend_stub") and words[1].startswith(wanted):
            found.append(int(line.parent.name))
    return found


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_layout_has_what_the_image_needs(triton_home: Path, tmp_path: Path) -> None:
    """It can be moved, and holds no stub of another Python."""
    names = {str(path.relative_to(triton_home)) for path in triton_home.rglob("*stub*") if path.is_file()}
    assert {name for name in names if name.endswith("backend_stub")} == {"backends/python/triton_python_backend_stub"}
    moved = tmp_path / "moved"
    (moved / "bin").mkdir(parents=True)
    for part in ("packages", "backends"):
        (moved / part).symlink_to(triton_home / part)
    shutil.copy(triton_home / "bin" / "tritonserver", moved / "bin")
    usage = subprocess.run([moved / "bin" / "tritonserver", "--help"], capture_output=True, text=True, check=False)
    assert "--model-control-mode" in usage.stdout + usage.stderr
