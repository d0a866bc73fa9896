"""What cannot change is refused with the remedy; what can change is accepted."""

import itertools
from typing import Any

import pytest

pytestmark = pytest.mark.apiserver

DIGEST = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
NUMBERS = itertools.count()

TRAINING_JOB: dict[str, Any] = {
    "model": "connect4",
    "trainer": {"algorithm": "supervised", "config": {"blocks": 3, "nested": {"a": [1, 2.5]}}},
    "datasets": [{"name": "positions", "uri": "builtin://connect4-solved"}],
}
MODEL_VERSION: dict[str, Any] = {
    "model": "connect4",
    "version": "1.1.0",
    "artifact": {"uri": "s3://models/model.onnx", "sha256": DIGEST},
}
AB_TEST: dict[str, Any] = {
    "deployment": "connect4",
    "variants": [{"name": "control", "weight": 50}, {"name": "wide", "modelVersion": "connect4-1.2.0", "weight": 50}],
    "assignment": {"header": "x-user-id"},
    "metrics": [{"name": "win", "role": "Goal", "direction": "Increase"}],
}
SPECS = {"TrainingJob": TRAINING_JOB, "ModelVersion": MODEL_VERSION, "ABTest": AB_TEST}

REFUSED = [
    ("TrainingJob", {"model": "connect5"}, "spec.model", "create a TrainingJob of another name"),
    ("TrainingJob", {"seed": 1}, "spec.seed", "create a TrainingJob of another name"),
    ("TrainingJob", {"trainer": {"config": {"blocks": 4}}}, "spec.trainer", "create a TrainingJob of another name"),
    ("TrainingJob", {"trainer": {"config": {"extra": 1}}}, "spec.trainer", "create a TrainingJob of another name"),
    ("TrainingJob", {"baseModelVersion": "connect4-1.0.0"}, "spec.baseModelVersion", "cannot change"),
    ("TrainingJob", {"resources": {"gpus": 1}}, "spec.resources", "cannot change"),
    ("ModelVersion", {"version": "1.1.1"}, "spec.version", "create a ModelVersion with a new version"),
    ("ModelVersion", {"artifact": {"sha256": "0" * 64}}, "spec.artifact", "create a ModelVersion with a new version"),
    ("ModelVersion", {"validation": {"latency": {"p99Milliseconds": 9}}}, "spec.validation", "cannot change"),
    (
        "ModelVersion",
        {"signature": {"inputs": [{"name": "x", "dataType": "FP32", "shape": [1]}], "outputs": []}},
        "spec.signature",
        "",
    ),
    ("ABTest", {"deployment": "other"}, "spec.deployment", "create one of another name"),
    ("ABTest", {"maxDuration": "48h"}, "spec.maxDuration", "create one of another name"),
    ("ABTest", {"variants": AB_TEST["variants"][::-1]}, "spec.variants", "create one of another name"),
    (
        "ABTest",
        {"metrics": [{"name": "draw", "role": "Goal", "direction": "Increase"}]},
        "spec.metrics",
        "cannot change",
    ),
]

ACCEPTED = [
    ("TrainingJob", {"suspend": True}),
    ("TrainingJob", {"suspend": False, "activeDeadlineSeconds": 60, "ttlSecondsAfterFinished": 0}),
    ("TrainingJob", {"model": "connect4"}),
    ("ModelVersion", {"stage": "Production"}),
    ("ABTest", {"stop": True}),
]


@pytest.fixture
def create(api):
    def create(kind: str) -> dict[str, Any]:
        metadata = {"name": f"immutable-{next(NUMBERS)}"}
        return api.create(
            {"apiVersion": "tidegate.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": SPECS[kind]}
        )

    return create


@pytest.mark.parametrize(
    ("kind", "patch", "field", "remedy"), REFUSED, ids=[f"{kind}-{field}" for kind, _, field, _ in REFUSED]
)
def test_a_change_of_what_is_immutable_is_refused(api, create, kind, patch, field, remedy):
    answer = api.merge(create(kind), {"spec": patch})
    assert answer.status_code == 422, answer.text
    message = answer.json()["message"]
    assert f"{field}: Invalid value" in message
    assert remedy in message


@pytest.mark.parametrize(("kind", "patch"), ACCEPTED)
def test_a_change_of_what_may_change_is_accepted(api, create, kind, patch):
    answer = api.merge(create(kind), {"spec": patch})
    assert answer.status_code == 200, answer.text


def test_a_removed_field_is_a_change(api, create):
    stored = create("ModelVersion")
    stored = api.merge(stored, {"spec": {"stage": "Staging"}}).json()
    answer = api.merge(stored, {"spec": {"artifact": {"sizeBytes": 5}}})
    assert answer.status_code == 422


def test_metadata_of_an_immutable_object_may_change(api, create):
    answer = api.merge(create("ModelVersion"), {"metadata": {"labels": {"team": "games"}}})
    assert answer.status_code == 200
