"""Which end of a puller ends a release at once: the real puller's words, read from the status of its pod."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.release_world import CANARY_STEPS, KEY, POD, ReleaseWorld, deployment, model_version
from tests.serving.file_server import FileServer, free_port, send, serve_files
from tests.serving.onnx_models import policy_value, serving_document
from tidegate.domain.manifests import names
from tidegate.domain.manifests.serving import Platform
from tidegate.domain.pods import find_final_failure
from tidegate.domain.release import VersionID
from tidegate.ports import Key
from tidegate.reconcilers.observation import read_workload
from tidegate_serving import puller
from tidegate_serving.artifacts import Fetcher, Patience

NOON, LATER = "2026-01-01T12:00:00Z", "2026-01-01T12:00:30Z"
FINAL = json.dumps({"reason": "ChecksumMismatch", "message": "upload the right file", "retryable": False})
PASSING = json.dumps({"reason": "ArtifactUnavailable", "message": "it is tried again", "retryable": True})
SERVING = names.serving("connect4", "connect4-2.0.0", "2" * 64)


def ended(code: int, message: str = "", at: str | None = NOON, **more: str) -> dict[str, Any]:
    return {"exitCode": code, "message": message, "finishedAt": at, "reason": "Error"} | more


def pod(name: str = "p", container: str = "puller", **status: Any) -> dict[str, Any]:
    """A pod whose init container waits for its next try after `last`, or is in another `state`."""
    last = status.pop("last", None)
    state = status.pop("state", {"waiting": {"reason": "CrashLoopBackOff"}})
    init = {"name": container, "state": state} | ({"lastState": {"terminated": last}} if last else {})
    return {"metadata": {"name": name}, "status": status | {"initContainerStatuses": [init]}}


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """What a puller needs to succeed."""
    (tmp_path / "models").mkdir()
    return serving_document(policy_value(tmp_path / "source" / "model.onnx"), tmp_path / "models")


@pytest.fixture
def storage() -> Any:
    with serve_files() as server:
        yield server


def run_puller(document: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the pod that the kubelet shows after one run of the real puller, without its patience."""
    hasty = Patience(attempts=1, timeout=2)
    monkeypatch.setattr(puller, "Fetcher", lambda url, environment: Fetcher(url, hasty, environment))
    (folder / "serving.json").write_text(json.dumps(document))
    log = folder / "termination-log"
    code = puller.main({"TIDEGATE_SERVING": str(folder / "serving.json"), "TIDEGATE_TERMINATION_LOG": str(log)})
    return pod(last=ended(code, log.read_text() if log.exists() else ""))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": "0" * 64, "sizeBytes": None}, "ChecksumMismatch: file:"),
        ({"sizeBytes": 1}, "the file was replaced; upload the file again or make a new ModelVersion"),
        ({"uri": "file:///nowhere/model.onnx"}, "ArtifactNotFound: file:///nowhere/model.onnx is no file"),
        ({"uri": "gopher://model"}, "InvalidAddress"),
        ({"uri": "mlflow-artifacts:/1/model.onnx"}, "needs an MLflow server"),
    ],
)
def test_what_only_a_person_can_mend_is_final(
    change: dict[str, Any], words: str, document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_final_failure(
        [run_puller(document | {"artifact": document["artifact"] | change}, tmp_path, monkeypatch)]
    )
    assert found is not None
    assert found.message.startswith("pod p: the artifact could not be fetched: ")
    assert words in found.message


@pytest.mark.parametrize(("status", "final"), [(404, True), (403, True), (401, True), (500, False), (503, False)])
def test_what_the_storage_answers(
    status: int,
    final: bool,
    storage: FileServer,
    document: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage.answers = [send(b"", status)]
    document["artifact"]["uri"] = "mlflow-artifacts:/1/model.onnx"
    seen = run_puller(document | {"mlflowURL": storage.url}, tmp_path, monkeypatch)
    assert (find_final_failure([seen]) is not None) is final


def test_mlflow_that_is_away_is_not_final(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document["artifact"]["uri"] = "mlflow-artifacts:/1/model.onnx"
    away = document | {"mlflowURL": f"http://127.0.0.1:{free_port()}"}
    assert find_final_failure([run_puller(away, tmp_path, monkeypatch)]) is None


def test_a_download_that_breaks_off_is_not_final(
    storage: FileServer, document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = document["artifact"]["sizeBytes"]
    storage.answers = [send(b"half", promised=size)]
    document["artifact"]["uri"] = f"{storage.url}/model.onnx"
    assert find_final_failure([run_puller(document, tmp_path, monkeypatch)]) is None


@pytest.mark.parametrize(
    "seen",
    [
        pod(last=ended(1, PASSING)),
        pod(last=ended(137, "", reason="OOMKilled")),
        pod(last=ended(1, "Traceback: something nobody thought of")),
        pod(last=ended(3, json.dumps(["retryable"]))),
        pod(last=ended(3, FINAL, at=None)),
        pod(last=ended(3, FINAL), container="istio-init"),
        pod(state={"terminated": ended(0)}, last=ended(3, FINAL)),
        {"metadata": {"name": "p"}},
    ],
    ids=["passing", "out of memory", "bug", "no object", "node lost", "other container", "mended", "no status"],
)
def test_only_the_pullers_own_last_word_is_final(seen: dict[str, Any]) -> None:
    assert find_final_failure([seen]) is None


def test_the_newest_word_of_several_pods_counts() -> None:
    found = find_final_failure([pod("old", last=ended(3, FINAL)), pod("new", last=ended(3, FINAL, at=LATER))])
    assert found is not None
    assert found.message == "pod new: the artifact could not be fetched: ChecksumMismatch: upload the right file"
    assert found.at.isoformat() == "2026-01-01T12:00:30+00:00"


def test_the_final_word_is_the_problem_even_where_another_pod_has_a_more_fundamental_one() -> None:
    full = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes: 1 Insufficient cpu"}
    waiting = {"metadata": {"name": "q"}, "status": {"conditions": [full]}}
    live = {"metadata": {"generation": 1}, "spec": {"replicas": 2}, "status": {"observedGeneration": 1}}
    version = VersionID("v1", "a" * 64)
    found = read_workload(live, version, None, Platform("a", "t"), [waiting, pod(last=ended(3, FINAL))])
    assert "ChecksumMismatch" in str(found.problem)
    assert found.fatal_at is not None
    live["status"] |= {"readyReplicas": 2}
    ready = read_workload(live, version, None, Platform("a", "t"), [waiting, pod(last=ended(3, FINAL))])
    assert (ready.problem, ready.fatal_at) == (None, None)


def serving_pod(message: str, code: int, at: str) -> dict[str, Any]:
    labels = names.child_labels("serving", {names.DEPLOYMENT_LABEL: "connect4"}) | {names.WORKLOAD_LABEL: SERVING}
    made = pod(last=ended(code, message, at))
    return made | {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", "labels": labels},
    }


async def releasing(message: str, code: int) -> ReleaseWorld:
    """A world in which 1.0.0 serves and the puller of 2.0.0 has just ended."""
    canary = {"strategy": {"type": "Canary", "canary": CANARY_STEPS}, "rollback": {"drainDelay": "1s"}}
    world = ReleaseWorld(model_version("1.0.0"), model_version("2.0.0"), deployment(**canary))
    await world.settle(3)
    world.pods_become_ready = False
    world.release("2.0.0")
    await world.settle(2)
    await world.objects.apply(serving_pod(message, code, world.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")))
    await world.settle(2)
    return world


async def test_a_release_whose_artifact_is_another_file_is_taken_back_at_once() -> None:
    world = await releasing(FINAL, 3)
    assert world.status["phase"] == "RolledBack"
    assert "upload the right file" in world.status["rejected"][0]["message"]
    assert "ChecksumMismatch" in world.status["message"]
    assert world.shares == [{"connect4-1.0.0": 100}]


async def test_a_release_waits_for_storage_that_is_away_and_says_so() -> None:
    world = await releasing(PASSING, 1)
    assert world.status["phase"] == "Progressing"
    assert "ArtifactUnavailable" in world.status["message"]
    world.objects.change(Key(POD, "default", "p"), lambda each: each["status"].pop("initContainerStatuses"))
    world.pods_become_ready = True
    await world.settle(40)
    assert world.status["phase"] == "Healthy"
    assert world.objects.get(KEY)["status"]["stable"]["modelVersion"] == "connect4-2.0.0"  # type: ignore[index]
