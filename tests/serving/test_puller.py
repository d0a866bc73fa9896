"""The init container: what lies in the repository after it, however it ended."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.serving.file_server import FileServer, free_port, send
from tests.serving.onnx_models import policy_value, serving_document
from tidegate_serving import puller
from tidegate_serving.artifacts import Fetcher, Patience
from tidegate_serving.contract import ServingDocument
from tidegate_serving.puller import main, pull


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return policy_value(tmp_path / "source" / "model.onnx")


def run(document: dict[str, Any], tmp_path: Path, **environment: str) -> tuple[int, dict[str, Any]]:
    """Exit code and termination message."""
    file, log = tmp_path / "serving.json", tmp_path / "termination-log"
    file.write_text(json.dumps(document))
    log.write_text("")
    code = main({"TIDEGATE_SERVING": str(file), "TIDEGATE_TERMINATION_LOG": str(log)} | environment)
    return code, json.loads(log.read_text() or "{}")


def with_uri(document: dict[str, Any], uri: str) -> dict[str, Any]:
    return document | {"artifact": document["artifact"] | {"uri": uri}}


def contents(repository: Path) -> list[str]:
    return sorted(str(file.relative_to(repository)) for file in repository.rglob("*") if file.is_file())


def test_the_model_is_put_in_place(model: Path, repository: Path, tmp_path: Path) -> None:
    assert run(serving_document(model, repository), tmp_path) == (0, {})
    assert contents(repository) == ["connect4/1/model.onnx", "connect4/config.pbtxt"]
    assert (repository / "connect4/1/model.onnx").read_bytes() == model.read_bytes()


def test_a_second_run_fetches_nothing(files: FileServer, model: Path, repository: Path, tmp_path: Path) -> None:
    files.answers = [send(model.read_bytes())]
    document = with_uri(serving_document(model, repository), f"{files.url}/model.onnx")
    assert run(document, tmp_path)[0] == 0
    assert run(document, tmp_path)[0] == 0
    assert len(files.paths) == 1


@pytest.mark.parametrize("damage", ["model", "config", "model is gone"])
def test_what_is_damaged_is_fetched_again(damage: str, model: Path, repository: Path, tmp_path: Path) -> None:
    document = serving_document(model, repository)
    run(document, tmp_path)
    if damage == "model":
        (repository / "connect4/1/model.onnx").write_bytes(b"half")
    elif damage == "config":
        (repository / "connect4/config.pbtxt").write_text("name: 1")
    else:
        (repository / "connect4/1/model.onnx").unlink()
    assert run(document, tmp_path)[0] == 0
    assert (repository / "connect4/1/model.onnx").read_bytes() == model.read_bytes()
    assert "tidegate_digest" in (repository / "connect4/config.pbtxt").read_text()
    assert contents(repository) == ["connect4/1/model.onnx", "connect4/config.pbtxt"]


def test_another_version_replaces_the_whole_folder(model: Path, repository: Path, tmp_path: Path) -> None:
    run(serving_document(model, repository), tmp_path)
    (repository / "connect4/1/left-over").touch()
    newer = policy_value(tmp_path / "newer.onnx", seed=2)
    assert run(serving_document(newer, repository), tmp_path)[0] == 0
    assert (repository / "connect4/1/model.onnx").read_bytes() == newer.read_bytes()
    assert contents(repository) == ["connect4/1/model.onnx", "connect4/config.pbtxt"]


def test_leftovers_of_a_killed_puller_are_removed(model: Path, repository: Path, tmp_path: Path) -> None:
    half = repository / ".incoming" / "new" / "1" / ".model.onnx.part"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    assert run(serving_document(model, repository), tmp_path)[0] == 0
    assert contents(repository) == ["connect4/1/model.onnx", "connect4/config.pbtxt"]


def test_while_the_download_runs_there_is_no_model(files: FileServer, model: Path, repository: Path) -> None:
    arrived, go_on = threading.Event(), threading.Event()
    content = model.read_bytes()

    def halting(request: Any) -> None:
        send(content[:100], promised=len(content))(request)
        request.wfile.flush()
        arrived.set()
        go_on.wait(10)
        request.wfile.write(content[100:])

    files.answers = [halting]
    document = ServingDocument.model_validate(with_uri(serving_document(model, repository), f"{files.url}/model.onnx"))
    thread = threading.Thread(target=pull, args=(document, Fetcher()))
    thread.start()
    assert arrived.wait(10)
    assert not (repository / "connect4").exists()
    go_on.set()
    thread.join(10)
    assert (repository / "connect4/1/model.onnx").read_bytes() == content


@pytest.mark.parametrize(
    ("change", "code", "reason", "words"),
    [
        ({"sha256": "0" * 64, "sizeBytes": None}, 3, "ChecksumMismatch", "make a new ModelVersion"),
        ({"sizeBytes": 1}, 3, "ChecksumMismatch", "the file was replaced"),
        ({"uri": "file:///nowhere/model.onnx"}, 3, "ArtifactNotFound", "correct the address"),
        ({"uri": "gopher://model"}, 3, "InvalidAddress", "use an address that starts with"),
    ],
)
def test_a_failure_is_explained_and_leaves_nothing(
    change: dict[str, Any], code: int, reason: str, words: str, model: Path, repository: Path, tmp_path: Path
) -> None:
    document = serving_document(model, repository)
    found, message = run(document | {"artifact": document["artifact"] | change}, tmp_path)
    assert (found, message["reason"], message["retryable"]) == (code, reason, False)
    assert words in message["message"]
    assert contents(repository) == []


def test_storage_that_is_away_may_come_back(
    model: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = Fetcher(patience=Patience(attempts=1))
    monkeypatch.setattr(puller, "Fetcher", lambda *_, **__: hasty)
    document = with_uri(serving_document(model, repository), f"http://127.0.0.1:{free_port()}/m")
    code, message = run(document, tmp_path)
    assert (code, message["reason"], message["retryable"]) == (1, "ArtifactUnavailable", True)


def test_an_old_model_stays_when_the_new_one_cannot_be_brought(model: Path, repository: Path, tmp_path: Path) -> None:
    document = serving_document(model, repository)
    run(document, tmp_path)
    newer = serving_document(policy_value(tmp_path / "newer.onnx", seed=2), repository)
    assert run(with_uri(newer, model.as_uri()), tmp_path)[1]["reason"] == "ChecksumMismatch"
    assert (repository / "connect4/1/model.onnx").read_bytes() == model.read_bytes()


def test_a_broken_document_and_a_missing_volume(model: Path, tmp_path: Path) -> None:
    document = serving_document(model, tmp_path / "not-mounted" / "file")
    (tmp_path / "not-mounted").touch()
    code, message = run(document, tmp_path)
    assert (code, message["reason"]) == (1, "RepositoryUnwritable")
    code, message = run(document | {"contractVersion": "v0"}, tmp_path)
    assert (code, message["reason"]) == (3, "InvalidDocument")


def test_threads_are_shared_by_the_instances(model: Path, repository: Path, tmp_path: Path) -> None:
    document = serving_document(model, repository)
    document["triton"]["instances"] = 2
    run(document, tmp_path, TIDEGATE_THREADS="5")
    config = (repository / "connect4/config.pbtxt").read_text()
    assert '"intra_op_thread_count" value { string_value: "2" }' in config
