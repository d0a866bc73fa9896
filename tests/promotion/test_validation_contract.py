"""What the operator writes for the validator is what the validator reads, and the other way round."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.training.support import SHA, SIGNATURE, VALIDATION, validation_error, verdict, version_manifest
from tidegate.api.model_version import CheckName, CheckOutcome, ModelVersion
from tidegate.domain.manifests.validation_job import ValidationConfig, build_validation_document
from tidegate.domain.validation_result import REASONS, parse_validation
from tidegate_serving import contract as serving

EVERYTHING: dict[str, Any] = {
    "artifact": {"uri": "s3://b/m.onnx", "sha256": SHA, "sizeBytes": 12, "format": "ONNX"},
    "signature": SIGNATURE,
    "validation": {
        "parity": {"uri": "s3://b/parity.npz", "sha256": "b" * 64, "tolerance": 0.0005},
        "latency": {"p99Milliseconds": 10, "batchSize": 8},
        "goldenSet": {"uri": "gs://b/golden.npz", "metric": "moveAccuracy", "min": 0.8},
    },
}


@pytest.mark.parametrize("spec", [{}, EVERYTHING], ids=["least", "everything"])
@pytest.mark.parametrize("config", [VALIDATION, ValidationConfig(image="a")], ids=["mlflow", "no mlflow"])
def test_document_is_read_by_the_validator(spec: dict[str, Any], config: ValidationConfig) -> None:
    version = ModelVersion.model_validate(version_manifest(**spec))
    document = build_validation_document(version, config)
    read = serving.ValidationDocument.model_validate_json(json.dumps(document))
    assert (read.name, read.model_version) == ("connect4-1.0.0", "1.0.0")
    assert read.artifact.sha256 == SHA
    assert read.mlflow_url == config.mlflow_url
    assert (read.parity is not None, read.golden_set is not None) == (bool(spec), bool(spec))


def test_values_arrive() -> None:
    version = ModelVersion.model_validate(version_manifest(**EVERYTHING))
    read = serving.ValidationDocument.model_validate(build_validation_document(version, VALIDATION))
    assert read.parity is not None
    assert read.parity.tolerance == 0.0005
    assert read.latency is not None
    assert (read.latency.p99_milliseconds, read.latency.batch_size) == (10, 8)
    assert read.golden_set is not None
    assert read.golden_set.min == 0.8
    assert read.signature is not None
    assert read.signature.inputs[0].shape == (-1, 3, 6, 7)


@pytest.mark.parametrize("text", [verdict(), verdict("Failed", "Parity"), validation_error()])
def test_validators_result_is_read_by_the_operator(text: str) -> None:
    written = serving.ValidationResult.model_validate_json(text)
    read = parse_validation(written.model_dump_json(by_alias=True, exclude_none=True))
    assert read is not None
    assert read.outcome == written.outcome
    assert [check.name for check in read.checks] == [check.name for check in written.checks]
    assert read.retryable is (True if written.retryable is None else written.retryable)


def test_both_sides_know_the_same_checks() -> None:
    assert [each.value for each in CheckName] == [each.value for each in serving.CheckName]
    assert {each.value for each in CheckOutcome} == {each.value for each in serving.CheckOutcome}
    assert set(REASONS) == set(CheckName)


@pytest.mark.parametrize("text", ["", "Killed", "{}", '{"outcome": "Maybe"}', '{"outcome": "Passed", "checks": 3}'])
def test_text_that_is_no_result(text: str) -> None:
    assert parse_validation(text) is None
