"""What a trainer leaves behind."""

import json

import pytest

from tests.training.support import SHA, failure, result
from tidegate.api.training_job import Gate
from tidegate.domain.training_result import BrokenResultError, TrainerFailure, TrainerResult, explain_gate, parse_result


def test_result() -> None:
    parsed = parse_result(result())
    assert isinstance(parsed, TrainerResult)
    assert parsed.artifact.sha256 == SHA
    assert parsed.metrics["moveAccuracy"] == 0.93
    assert parsed.golden_set is not None


def test_failure() -> None:
    parsed = parse_result(failure("DatasetMissing"))
    assert isinstance(parsed, TrainerFailure)
    assert parsed.reason == "DatasetMissing"


def test_metrics_that_are_not_finite_are_not_reported() -> None:
    parsed = parse_result(result(metrics={"loss": float("nan"), "moveAccuracy": 0.9, "best": float("inf")}))
    assert isinstance(parsed, TrainerResult)
    assert parsed.metrics == {"moveAccuracy": 0.9}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no JSON"),
        ("Segmentation fault", "no JSON"),
        ("[1]", "no JSON object"),
        ("{}", "outcome"),
        (json.dumps({"outcome": "Perhaps"}), "outcome"),
        (result(artifact={"uri": "https://x/y", "sha256": "short"}), "artifact.sha256"),
        (result(artifact={"uri": "/local/path", "sha256": SHA}), "artifact.uri"),
        (result(metrics=[1]), "metrics"),
        (json.dumps({"outcome": "Failed", "reason": "two words"}), "reason"),
    ],
)
def test_broken_result_names_the_field(text: str, said: str) -> None:
    with pytest.raises(BrokenResultError, match=said):
        parse_result(text)


@pytest.mark.parametrize(
    ("gate", "metrics", "said"),
    [
        (Gate(metric="a", min=0.8), {"a": 0.8}, None),
        (Gate(metric="a", min=0.8), {"a": 0.62}, "a is 0.62, 0.18 below its minimum of 0.8"),
        (Gate(metric="a", max=5), {"a": 5.5}, "a is 5.5, 0.5 above its maximum of 5"),
        (Gate(metric="a", min=0, max=1), {"a": 0.5}, None),
        (Gate(metric="a", min=0.8), {"b": 1.0}, "a was not reported as a finite number (reported: b)"),
        (Gate(metric="a", min=0.8), {}, "a was not reported as a finite number (reported: none)"),
    ],
)
def test_gate_says_by_how_much(gate: Gate, metrics: dict[str, float], said: str | None) -> None:
    assert explain_gate(gate, metrics) == said
