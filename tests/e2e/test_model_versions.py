"""Bad artifacts on the real node: each is rejected with its own reason before any traffic, and says what to do."""

from collections.abc import Callable
from typing import Any

import pytest

from dev.demo.kube import Kube, Object, condition, is_true
from tests.e2e.artifacts import SIGNATURE, Stored
from tests.e2e.objects import deployment, model_version

pytestmark = pytest.mark.cluster

BAD: list[tuple[str, Callable[[dict[str, Stored]], Stored], dict[str, Any], str]] = [
    ("nan", lambda store: store["nan"], {}, "FiniteOutputs"),
    ("not-onnx", lambda store: store["not-onnx"], {"signature": None}, "Loadable"),
    ("truncated", lambda store: store["truncated"], {"signature": None}, "Loadable"),
    ("other-signature", lambda store: store["other-signature"], {"signature": SIGNATURE}, "Signature"),
    ("wrong-digest", lambda store: Stored(store["good"].uri, "0" * 64, store["good"].size), {}, "Checksum"),
    (
        "too-slow",
        lambda store: store["slow"],
        {"validation": {"latency": {"p99Milliseconds": 0.5}, "resources": {"cpu": "200m", "memory": "512Mi"}}},
        "Latency",
    ),
]


def settled(found: Object) -> bool:
    """Tell whether the checks have ended."""
    return found.get("status", {}).get("phase") in {"Ready", "Rejected"}


@pytest.mark.parametrize(("name", "artifact", "spec", "check"), BAD, ids=[row[0] for row in BAD])
def test_bad_artifact_is_rejected(
    kube: Kube,
    namespace: str,
    store: dict[str, Stored],
    name: str,
    artifact: Callable[[dict[str, Stored]], Stored],
    spec: dict[str, Any],
    check: str,
) -> None:
    """A model that fails a check is Rejected; the message names the check, and a Deployment of it says so."""
    manifest = model_version(namespace, "1.0.0", artifact(store), **spec)
    manifest["spec"] = {key: value for key, value in manifest["spec"].items() if value is not None}
    kube.apply(manifest)
    found = kube.wait("ModelVersion", "m-1.0.0", settled, timeout=90, namespace=namespace, what="checked")
    assert found["status"]["phase"] == "Rejected"
    assert condition(found, "Stalled")["status"] == "True"
    failed = [entry for entry in found["status"]["checks"] if entry["outcome"] == "Failed"]
    assert failed[0]["name"] == check, f"{name}: {found['status']['checks']}"
    assert len(failed[0]["message"]) > 20


def test_artifact_that_does_not_exist(kube: Kube, namespace: str, store: dict[str, Stored]) -> None:
    """An address without a file is named in the message."""
    missing = Stored("mlflow-artifacts:/e2e/there-is-no-such-file.onnx", "1" * 64, 10)
    kube.apply(model_version(namespace, "1.0.0", missing))
    found = kube.wait("ModelVersion", "m-1.0.0", settled, timeout=90, namespace=namespace, what="checked")
    assert found["status"]["phase"] == "Rejected"
    assert "there-is-no-such-file" in condition(found, "Stalled")["message"]


def test_model_that_does_not_fit_into_memory(kube: Kube, namespace: str, store: dict[str, Stored]) -> None:
    """A validation pod that is killed for memory gives OutOfMemory and says which field to raise."""
    small = {"resources": {"cpu": "200m", "memory": "24Mi"}}
    kube.apply(model_version(namespace, "1.0.0", store["good"], validation=small))
    found = kube.wait("ModelVersion", "m-1.0.0", settled, timeout=120, namespace=namespace, what="checked")
    assert found["status"]["phase"] == "Rejected"
    stalled = condition(found, "Stalled")
    assert stalled["reason"] == "OutOfMemory"
    assert "memory" in stalled["message"]


def test_deployment_of_a_rejected_version_keeps_the_stable_one(
    kube: Kube, namespace: str, store: dict[str, Stored]
) -> None:
    """A Deployment that points to a Rejected version is Stalled and serves on; the next spec mends it."""
    kube.apply(model_version(namespace, "1.0.0", store["good"]))
    kube.apply(model_version(namespace, "1.1.0", store["nan"]))
    kube.apply(deployment(namespace, "1.0.0"))
    kube.wait("Deployment", "m", is_true("Ready"), timeout=120, namespace=namespace, what="Ready")
    kube.wait("ModelVersion", "m-1.1.0", settled, timeout=90, namespace=namespace, what="checked")
    kube.merge("Deployment", "m", {"spec": {"modelVersion": "m-1.1.0"}}, namespace)
    found = kube.wait("Deployment", "m", is_true("Stalled"), timeout=30, namespace=namespace, what="Stalled")
    assert found["status"]["stable"]["modelVersion"] == "m-1.0.0"
    assert found["status"]["stable"]["percent"] == 100
    kube.merge("Deployment", "m", {"spec": {"modelVersion": "m-1.0.0"}}, namespace)
    kube.wait("Deployment", "m", is_true("Ready"), timeout=30, namespace=namespace, what="Ready")


def test_deployment_of_an_unknown_version_goes_on_when_it_appears(
    kube: Kube, namespace: str, store: dict[str, Stored]
) -> None:
    """An unknown version is named; nothing else than its appearance is needed."""
    kube.apply(deployment(namespace, "1.0.0"))
    kube.wait(
        "Deployment",
        "m",
        lambda found: "m-1.0.0" in found.get("status", {}).get("message", ""),
        timeout=30,
        namespace=namespace,
        what="waiting for its version",
    )
    kube.apply(model_version(namespace, "1.0.0", store["good"]))
    kube.wait("Deployment", "m", is_true("Ready"), timeout=120, namespace=namespace, what="Ready")


def test_mlflow_away_delays_and_loses_nothing(
    kube: Kube, namespace: str, store: dict[str, Stored], without: Callable[..., Any]
) -> None:
    """Without MLflow the artifact cannot be read: the version waits, and is checked when MLflow is back."""
    with without("mlflow"):
        kube.apply(model_version(namespace, "1.0.0", store["good"]))
        found = kube.wait(
            "ModelVersion",
            "m-1.0.0",
            lambda found: condition(found, "Ready").get("status") == "False",
            timeout=60,
            namespace=namespace,
            what="waiting",
        )
        assert found["status"]["phase"] in {"Pending", "Validating"}
    kube.wait("ModelVersion", "m-1.0.0", is_true("Ready"), timeout=180, namespace=namespace, what="Ready")


def test_served_by_names_the_deployment(kube: Kube, namespace: str, store: dict[str, Stored]) -> None:
    """``kubectl get mv`` shows who serves a version."""
    kube.apply(model_version(namespace, "1.0.0", store["good"]))
    kube.apply(deployment(namespace, "1.0.0"))
    kube.wait("Deployment", "m", is_true("Ready"), timeout=120, namespace=namespace, what="Ready")
    served = [{"deployment": "m", "role": "Stable", "percent": 100}]
    kube.wait(
        "ModelVersion",
        "m-1.0.0",
        lambda found: [{**s, "percent": int(s["percent"])} for s in found["status"].get("servedBy") or []] == served,
        timeout=15,
        namespace=namespace,
        what="served by m",
    )


def test_deletion_of_a_version_in_validation(kube: Kube, namespace: str, store: dict[str, Stored]) -> None:
    """Deletion finishes in every phase, and the validation Job goes with it."""
    kube.apply(model_version(namespace, "1.0.0", store["good"]))
    kube.wait(
        "ModelVersion",
        "m-1.0.0",
        lambda found: found.get("status", {}).get("phase") == "Validating",
        timeout=30,
        namespace=namespace,
        what="Validating",
    )
    kube.delete("ModelVersion", "m-1.0.0", namespace)
    kube.wait_gone("ModelVersion", "m-1.0.0", timeout=30, namespace=namespace)
