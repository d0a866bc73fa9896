"""Training on the real node: tiny nets on the real positions."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dev import installation
from dev.cluster import kwok
from dev.demo.kube import Kube, Object, condition, is_true
from tests.e2e.artifacts import Stored
from tests.e2e.load import Load
from tests.e2e.objects import TINY, training_job
from tests.e2e.releases import healthy_on, serve, until

pytestmark = pytest.mark.cluster

LONG = {**TINY, "epochs": 200, "earlyStoppingPatience": 200}


def ended(found: Object) -> bool:
    """Tell whether the training is over."""
    return any(condition(found, kind).get("status") == "True" for kind in ("Complete", "Failed"))


def wait(kube: Kube, namespace: str, holds: Callable[[Object], object], what: str, timeout: float = 180) -> Object:
    """Wait for a state of the job."""
    return kube.wait("TrainingJob", "tiny", lambda f: bool(holds(f)), timeout=timeout, namespace=namespace, what=what)


def percent(found: Object) -> float:
    """Return the reported progress."""
    return float(((found.get("status") or {}).get("progress") or {}).get("percent") or 0)


def test_training_becomes_a_version_that_is_ready(kube: Kube, namespace: str) -> None:
    """Trained, exported, checked against its own outputs, registered with lineage and the next semantic version."""
    kube.apply(training_job(namespace))
    found = wait(kube, namespace, ended, "ended", 240)
    assert condition(found, "Complete")["status"] == "True", condition(found, "Failed")
    assert found["status"]["modelVersion"] == "m-1.0.0"
    assert found["status"]["metrics"]["moveAccuracy"] > found["status"]["metrics"]["randomMoveAccuracy"]
    assert found["status"]["mlflow"]["runID"]
    version = kube.wait("ModelVersion", "m-1.0.0", is_true("Ready"), timeout=90, namespace=namespace, what="Ready")
    outcomes = {check["name"]: check["outcome"] for check in version["status"]["checks"]}
    assert outcomes["Parity"] == "Passed"
    assert version["spec"]["lineage"]["trainingJob"] == "tiny"
    kube.apply(training_job(namespace, "again", output={"versionBump": "minor"}, evaluation=_gate(2.0)))
    missed = kube.wait("TrainingJob", "again", ended, timeout=240, namespace=namespace, what="ended")
    failed = condition(missed, "Failed")
    assert failed["status"] == "True"
    assert "moveAccuracy" in failed["message"]
    assert kube.get("ModelVersion", "m-1.1.0", namespace) is None


def test_hand_over_releases_what_was_trained(
    kube: Kube, namespace: str, store: dict[str, Stored], load: Callable[..., Load]
) -> None:
    """``output.deploy``: the version takes its steps as if a person had named it, and no request fails."""
    serve(kube, namespace, "1.0.0", store["good"])
    users = load("m", rate=20)
    kube.apply(training_job(namespace, output={"versionBump": "major", "deploy": {"name": "m"}}))
    found = until(kube, namespace, healthy_on("2.0.0"), "promoted", timeout=240)
    assert found["status"]["history"][0]["outcome"] == "Promoted"
    assert users.stop().failed == {}


def _gate(minimum: float) -> Object:
    return {"gates": [{"metric": "moveAccuracy", "min": minimum}]}


def test_killed_trainer_and_killed_operator(kube: Kube, namespace: str, restart: Callable[[str], None]) -> None:
    """A killed pod is replaced and resumes from its checkpoint; a killed operator changes nothing."""
    kube.apply(training_job(namespace, config=LONG))
    wait(kube, namespace, lambda found: percent(found) > 8, "at 8 %")
    restart("operator")
    (pod,) = kube.pods("tidegate.dev/training-job=tiny", namespace)
    kube.delete("Pod", pod["metadata"]["name"], namespace, "v1", gracePeriodSeconds=0)

    def replaced(_: Object) -> bool:
        pods = kube.pods("tidegate.dev/training-job=tiny", namespace)
        return any(p["metadata"]["uid"] != pod["metadata"]["uid"] for p in pods)

    wait(kube, namespace, replaced, "with a new pod", 60)
    log = _wait_for_log(kube, namespace, "resum")
    assert "resum" in log.lower()


def _wait_for_log(kube: Kube, namespace: str, word: str) -> str:
    deadline = time.monotonic() + 90
    while True:
        text = ""
        for pod in kube.pods("tidegate.dev/training-job=tiny", namespace):
            if (pod["status"].get("phase")) == "Running":
                text = kube.core().read_namespaced_pod_log(pod["metadata"]["name"], namespace)
        if word in text.lower():
            return text
        assert time.monotonic() < deadline, f"no {word!r} in the trainer's log:\n{text}"
        time.sleep(0.5)


def test_suspend_and_resume(kube: Kube, namespace: str) -> None:
    """A suspended job gives its pod back and goes on from its checkpoint."""
    kube.apply(training_job(namespace, config=LONG))
    wait(kube, namespace, lambda found: percent(found) > 5, "at 5 %")
    kube.merge("TrainingJob", "tiny", {"spec": {"suspend": True}}, namespace)
    wait(kube, namespace, lambda found: condition(found, "Suspended").get("status") == "True", "suspended", 60)
    deadline = time.monotonic() + 60
    while kube.pods("tidegate.dev/training-job=tiny", namespace):
        assert time.monotonic() < deadline, "the suspended trainer still runs"
        time.sleep(0.2)
    kube.merge("TrainingJob", "tiny", {"spec": {"suspend": False}}, namespace)
    assert "resum" in _wait_for_log(kube, namespace, "resum").lower()


BAD = [
    ("config", {"config": {**TINY, "blokcs": 3}}, "blokcs"),
    (
        "checksum",
        {"datasets": [{"name": "positions", "uri": "builtin://connect4-solved", "sha256": "0" * 64}]},
        "sha256",
    ),
    ("dataset", {"datasets": [{"name": "positions", "uri": "mlflow-artifacts:/no/positions.npz"}]}, "no/positions.npz"),
]


@pytest.mark.parametrize(("spec", "word"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_training_fails_with_its_reason(kube: Kube, namespace: str, spec: dict[str, Any], word: str) -> None:
    """A wrong field, a wrong checksum and a missing data set each say what is wrong; no version is made."""
    kube.apply(training_job(namespace, **{"backoffLimit": 0, **spec}))
    found = wait(kube, namespace, ended, "ended")
    failed = condition(found, "Failed")
    assert failed["status"] == "True"
    assert word in failed["message"]
    assert condition(found, "Stalled")["status"] == "True"
    assert kube.select("ModelVersion", namespace) == []


def test_image_that_cannot_be_pulled(kube: Kube, namespace: str) -> None:
    """The condition names the image."""
    trainer = {"image": "registry.invalid/no/such-trainer:1"}
    manifest = training_job(namespace)
    manifest["spec"]["trainer"] = trainer
    kube.apply(manifest)
    found = wait(kube, namespace, lambda f: "no/such-trainer" in (f.get("status") or {}).get("message", ""), "told", 60)
    assert condition(found, "Ready")["status"] == "False"


def test_node_without_the_gpu_asked_for(kube: Kube, namespace: str) -> None:
    """The condition names the resource that no node has; lowering nothing, it waits."""
    kube.apply(training_job(namespace, resources={"cpu": "1", "memory": "1Gi", "gpus": 1}))
    wait(kube, namespace, lambda f: "gpu" in (f.get("status") or {}).get("message", "").lower(), "told", 60)


@pytest.fixture
def fake_gpu_node(installed: installation.Installed) -> Iterator[None]:
    """A node of kwok with four GPUs: its pods are placed and called Running, but nothing runs."""
    installation.cluster("kwok", "up", "--nodes", "1", "--gpus", "4")
    yield
    installation.cluster("kwok", "down")


@pytest.mark.usefixtures("fake_gpu_node")
def test_pod_with_gpus_lands_on_a_gpu_node(kube: Kube, namespace: str) -> None:
    """GPUs are limits, the node selector and tolerations are the user's, and the scheduler finds the node."""
    runs_on = {
        "nodeSelector": {"nvidia.com/gpu.present": "true"},
        "tolerations": [{"key": kwok.ANNOTATION, "operator": "Exists"}],
    }
    kube.apply(training_job(namespace, resources={"cpu": "1", "memory": "1Gi", "gpus": 2}, scheduling=runs_on))
    wait(kube, namespace, lambda f: (f.get("status") or {}).get("phase") == "Running", "Running", 60)
    (pod,) = kube.pods("tidegate.dev/training-job=tiny", namespace)
    assert pod["spec"]["nodeName"] == "fake-0"
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"


@pytest.mark.parametrize("phase", ["Pending", "Running"])
def test_deletion_cancels(kube: Kube, namespace: str, phase: str) -> None:
    """Deletion in every phase finishes, and the pods go."""
    resources = {"cpu": "64", "memory": "1Gi"} if phase == "Pending" else {"cpu": "1", "memory": "3Gi"}
    kube.apply(training_job(namespace, config=LONG, resources=resources))
    wait(kube, namespace, lambda f: (f.get("status") or {}).get("phase") == phase, phase, 90)
    kube.delete("TrainingJob", "tiny", namespace)
    kube.wait_gone("TrainingJob", "tiny", timeout=60, namespace=namespace)
    deadline = time.monotonic() + 60
    while kube.pods("tidegate.dev/training-job=tiny", namespace):
        assert time.monotonic() < deadline, "a pod is still there a minute after the deletion"
        time.sleep(0.2)


def test_mlflow_away_delays_and_loses_nothing(kube: Kube, namespace: str, without: Callable[..., Any]) -> None:
    """Without MLflow there is nowhere to keep the result: the job waits and says so, and starts when MLflow is back."""
    with without("mlflow"):
        kube.apply(training_job(namespace))
        wait(
            kube, namespace, lambda f: "MLflow" in (f.get("status") or {}).get("message", ""), "waiting for MLflow", 60
        )
    found = wait(kube, namespace, ended, "ended", 240)
    assert condition(found, "Complete")["status"] == "True"
