"""The documents, their published schemas, and what the small processes may import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.serving.onnx_models import SIGNATURE
from tidegate_serving.contract import (
    SCHEMAS,
    ContractError,
    ServingDocument,
    ValidationDocument,
    ValidationResult,
    build_schema,
    read_document,
    write_schemas,
)

REPOSITORY = Path(__file__).parents[2]
SHA256 = "a" * 64
SERVING = {
    "contractVersion": "v1",
    "modelName": "connect4",
    "modelVersion": "connect4-1.1.0",
    "namespace": "default",
    "deployment": "connect4",
    "artifact": {"uri": "mlflow-artifacts:/1/2/artifacts/model/model.onnx", "sha256": SHA256, "sizeBytes": None},
    "signature": SIGNATURE,
    "triton": {"maxBatchSize": 64, "maxQueueDelayMicroseconds": 500, "instances": 1, "gpus": 0, "warmup": True},
    "repository": "/models",
    "mlflowURL": "http://mlflow:5000",
}
VALIDATION = {
    "contractVersion": "v1",
    "namespace": "default",
    "name": "connect4-1.1.0",
    "modelVersion": "1.1.0",
    "artifact": {"uri": "s3://bucket/model.onnx", "sha256": SHA256, "sizeBytes": 12, "format": "ONNX"},
    "signature": None,
    "parity": {"uri": "s3://bucket/parity.npz", "sha256": SHA256, "tolerance": 0.001},
    "latency": {"p99Milliseconds": 10, "batchSize": 1},
    "goldenSet": {"uri": "s3://bucket/golden.npz", "sha256": None, "metric": "moveAccuracy", "min": 0.8},
    "mlflowURL": None,
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_published_schemas_are_those_of_the_models(name: str) -> None:
    published = REPOSITORY / "docs" / "contracts" / f"{name}.schema.json"
    assert published.read_text() == build_schema(SCHEMAS[name]), "run python -m tidegate_serving.contract"


def test_schemas_are_written_where_asked(tmp_path: Path) -> None:
    assert [file.name for file in write_schemas(tmp_path)] == [f"{name}.schema.json" for name in SCHEMAS]


def test_documents_of_the_contract_are_read() -> None:
    serving = ServingDocument.model_validate(SERVING)
    assert serving.model_dump(mode="json", by_alias=True) == SERVING | {
        "artifact": SERVING["artifact"] | {"format": "ONNX"}
    }
    validation = ValidationDocument.model_validate(VALIDATION)
    assert validation.model_dump(mode="json", by_alias=True) == VALIDATION


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"artefact": 1}, "artefact"),
        ({"contractVersion": "v2"}, "contractVersion"),
        ({"artifact": {"uri": "s3://b/m", "sha256": "A" * 64}}, "artifact.sha256"),
        ({"artifact": {"uri": "s3://b/m", "sha256": SHA256, "sizeBytes": 0}}, "artifact.sizeBytes"),
        ({"artifact": {"uri": "s3://b/m", "sha256": SHA256, "format": "TorchScript"}}, "artifact.format"),
        ({"modelName": "../evil"}, "modelName"),
        ({"triton": {"instances": 0}}, "triton.instances"),
        ({"triton": {"maxBatchSize": -1}}, "triton.maxBatchSize"),
        ({"signature": {"inputs": [], "outputs": []}}, "signature.inputs"),
        ({"repository": "models"}, "repository"),
    ],
)
def test_a_broken_document_is_refused_by_the_name_of_its_field(change: dict, field: str, tmp_path: Path) -> None:
    document = tmp_path / "serving.json"
    document.write_text(json.dumps(SERVING | change))
    with pytest.raises(ContractError, match=field.replace(".", r"\.")):
        read_document(ServingDocument, {"TIDEGATE_SERVING": str(document)}, "TIDEGATE_SERVING")


@pytest.mark.parametrize("environment", [{}, {"TIDEGATE_SERVING": "/nowhere/serving.json"}])
def test_a_missing_document_is_named(environment: dict[str, str]) -> None:
    with pytest.raises(ContractError, match=r"TIDEGATE_SERVING is not set|/nowhere/serving\.json"):
        read_document(ServingDocument, environment, "TIDEGATE_SERVING")


def test_only_an_error_has_a_reason_and_every_error_has_one() -> None:
    ValidationResult(outcome="Error", reason="ArtifactUnavailable", message="look", retryable=True)
    with pytest.raises(ValidationError):
        ValidationResult(outcome="Error", reason="ArtifactUnavailable")
    with pytest.raises(ValidationError):
        ValidationResult(outcome="Passed", reason="A", message="b", retryable=False)


def test_the_agent_imports_nothing_heavy() -> None:
    """Its memory is paid for in every serving pod."""
    script = (
        "import sys, tidegate_serving.agent\n"
        "heavy = {'pydantic', 'numpy', 'onnxruntime', 'http', 'ssl', 'asyncio', 'email', 'urllib'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    command = [sys.executable, "-S", "-c", script]
    environment = {"PYTHONPATH": str(REPOSITORY / "serving_image")}
    assert subprocess.check_output(command, env=environment, text=True).strip() == "[]"
