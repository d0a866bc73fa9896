"""The pod's side of the contracts with the operator: what it mounts, and what comes back in the termination message.

``python -m tidegate_serving.contract`` writes the JSON schemas to ``docs/contracts``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

__all__ = [
    "Agreement",
    "Artifact",
    "CheckName",
    "CheckOutcome",
    "CheckResult",
    "ComparatorDocument",
    "ComparedVersion",
    "ContractError",
    "DataType",
    "Failure",
    "GoldenMetric",
    "GoldenSet",
    "Latency",
    "Parity",
    "ServingDocument",
    "Signature",
    "Tensor",
    "TritonSettings",
    "ValidationDocument",
    "ValidationResult",
    "parse_document",
    "read_document",
    "write_schemas",
]

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
DEFAULT_FOLDER = Path("docs/contracts")


class ContractError(ValueError):
    """A document that cannot be read or breaks the contract; the message names the fields."""


class ContractModel(BaseModel):
    """camelCase on the wire, frozen in memory, and an unknown field is an error: silently ignored input is a lie."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class DataType(StrEnum):
    """The data types of the KServe v2 protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"


class Tensor(ContractModel):
    """One input or output of a model."""

    name: str = Field(min_length=1, description="Name of the tensor in the ONNX graph.")
    data_type: DataType = Field(description="Data type as the KServe v2 protocol spells it.")
    shape: tuple[Annotated[int, Field(ge=-1)], ...] = Field(description="Whole shape with the batch; -1 is any size.")


class Signature(ContractModel):
    """What a model takes and gives, by name."""

    inputs: tuple[Tensor, ...] = Field(min_length=1, description="Inputs of the model.")
    outputs: tuple[Tensor, ...] = Field(min_length=1, description="Outputs of the model.")


class Artifact(ContractModel):
    """Where the model lies and what it must be."""

    uri: str = Field(min_length=1, description="mlflow-artifacts:/, http(s)://, file://, s3:// or gs:// address.")
    sha256: Sha256 = Field(description="Digest of the file, lower-case hexadecimal.")
    size_bytes: int | None = Field(default=None, ge=1, description="Size in bytes, where it is known.")
    format: Literal["ONNX"] = Field(default="ONNX", description="Format of the file.")


class TritonSettings(ContractModel):
    """How Triton runs the model."""

    max_batch_size: int = Field(default=64, ge=0, description="Largest dynamic batch; 0 turns batching off.")
    max_queue_delay_microseconds: int = Field(
        default=500, ge=0, description="How long a request may wait for company, in microseconds."
    )
    instances: int = Field(
        default=1, ge=1, description="Copies of the model in one server, per GPU where there are GPUs."
    )
    gpus: int = Field(default=0, ge=0, description="GPUs of the pod; 0 runs the model on the CPU.")
    warmup: bool = Field(default=True, description="Run the model once before it is listed as ready.")


class ServingDocument(ContractModel):
    """What the puller and the agent of one serving pod are to serve; named by TIDEGATE_SERVING."""

    contract_version: Literal["v1"] = Field(description="Version of this contract.")
    model_name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the model in Triton, the Deployment's name."
    )
    model_version: str = Field(min_length=1, description="Name of the ModelVersion that is served.")
    namespace: str = Field(min_length=1, description="Namespace of the Deployment.")
    deployment: str = Field(min_length=1, description="Name of the Deployment.")
    artifact: Artifact = Field(description="The model file.")
    signature: Signature | None = Field(
        default=None, description="Null leaves inputs and outputs to Triton to find out."
    )
    triton: TritonSettings = Field(default=TritonSettings(), description="How Triton runs the model.")
    repository: str = Field(default="/models", pattern="^/", description="Folder of the model repository in the pod.")
    mlflow_url: str | None = Field(
        default=None, alias="mlflowURL", description="MLflow server that answers for mlflow-artifacts:/ addresses."
    )


class ComparedVersion(ContractModel):
    """One of the two versions that a comparator asks."""

    model_version: str = Field(min_length=1, description="Name of the ModelVersion.")
    url: str = Field(pattern="^http://", description="Address of its servers, over HTTP.")
    grpc_address: str = Field(pattern="^[^/]+:[0-9]+$", description="Host and port of its servers, over gRPC.")


class Agreement(StrEnum):
    """When two answers to one question agree."""

    ARGMAX = "Argmax"
    TOLERANCE = "Tolerance"


class ComparatorDocument(ContractModel):
    """Whom a comparator asks and how it compares; the value of TIDEGATE_COMPARATOR."""

    contract_version: Literal["v1"] = Field(description="Version of this contract.")
    namespace: str = Field(min_length=1, description="Namespace of the Deployment.")
    deployment: str = Field(min_length=1, description="Name of the Deployment.")
    stable: ComparedVersion = Field(description="The version that serves.")
    shadow: ComparedVersion = Field(description="The version that no user gets an answer of.")
    agreement: Agreement = Field(description="Argmax: the largest value is at the same place; Tolerance: near enough.")
    tolerance: float | None = Field(default=None, ge=0, description="Largest absolute difference that agrees.")
    outputs: tuple[str, ...] | None = Field(default=None, description="Outputs to compare; null compares all.")

    @model_validator(mode="after")
    def _has_its_tolerance(self) -> Self:
        if (self.agreement is Agreement.TOLERANCE) != (self.tolerance is not None):
            raise ValueError("tolerance and agreement Tolerance belong together")
        return self


class Parity(ContractModel):
    """Outputs that the training framework recorded, for comparison."""

    uri: str = Field(min_length=1, description="Address of an .npz file with arrays in_<input> and out_<output>.")
    sha256: Sha256 | None = Field(default=None, description="Digest of the file; null skips its verification.")
    tolerance: float = Field(default=1e-4, ge=0, description="Largest allowed absolute difference of any output value.")


class Latency(ContractModel):
    """How fast the model must be on the validation pod's CPU."""

    p99_milliseconds: float = Field(gt=0, description="Bound for the 99th percentile of one run, in milliseconds.")
    batch_size: int = Field(default=1, ge=1, description="Rows per run.")


class GoldenMetric(StrEnum):
    """What can be measured on a golden set.

    moveAccuracy: share of positions (`in_*`) where the legal move with the highest `policy` is among `optimal`.
    accuracy: share of rows where the largest value of the first output stands at `labels`.
    """

    MOVE_ACCURACY = "moveAccuracy"
    ACCURACY = "accuracy"


class GoldenSet(ContractModel):
    """Positions or rows with known right answers, and how many must be right."""

    uri: str = Field(min_length=1, description="Address of an .npz file with in_<input> and the right answers.")
    sha256: Sha256 | None = Field(default=None, description="Digest of the file; null skips its verification.")
    metric: GoldenMetric = Field(description="What is measured: moveAccuracy or accuracy.")
    min: float = Field(description="Smallest value that passes.")


class ValidationDocument(ContractModel):
    """What the validation Job is to check; named by TIDEGATE_VALIDATION. A null block is a check nobody asked for."""

    contract_version: Literal["v1"] = Field(description="Version of this contract.")
    namespace: str = Field(min_length=1, description="Namespace of the ModelVersion.")
    name: str = Field(min_length=1, description="Name of the ModelVersion.")
    model_version: str = Field(min_length=1, description="Semantic version or name of the ModelVersion, for messages.")
    artifact: Artifact = Field(description="The model file.")
    signature: Signature | None = Field(default=None, description="Inputs and outputs that the model must have.")
    parity: Parity | None = Field(default=None, description="Recorded outputs to compare with.")
    latency: Latency | None = Field(default=None, description="Bound for the time of one run.")
    golden_set: GoldenSet | None = Field(default=None, description="Right answers to compare with.")
    mlflow_url: str | None = Field(
        default=None, alias="mlflowURL", description="MLflow server that answers for mlflow-artifacts:/ addresses."
    )


class CheckName(StrEnum):
    """The checks in the order in which they run."""

    CHECKSUM = "Checksum"
    LOADABLE = "Loadable"
    SIGNATURE = "Signature"
    FINITE_OUTPUTS = "FiniteOutputs"
    PARITY = "Parity"
    LATENCY = "Latency"
    GOLDEN_SET = "GoldenSet"


class CheckOutcome(StrEnum):
    """Skipped: nobody asked for the check, or an earlier one failed; the message says which."""

    PASSED = "Passed"
    FAILED = "Failed"
    SKIPPED = "Skipped"


class CheckResult(ContractModel):
    """The outcome of one check."""

    name: CheckName = Field(description="Which check.")
    outcome: CheckOutcome = Field(description="How it ended.")
    message: str = Field(description="What was found, and after a failure what to do.")
    measured: float | None = Field(default=None, description="The measured number, where the check has one.")


class ValidationResult(ContractModel):
    """The termination message of the validation Job."""

    outcome: Literal["Passed", "Failed", "Error"] = Field(description="Error: the checks could not be made.")
    checks: tuple[CheckResult, ...] = Field(default=(), description="All seven checks in order; empty after an Error.")
    metrics: dict[str, float] = Field(default_factory=dict, description="Measured numbers by name.")
    signature: Signature | None = Field(
        default=None, description="The model's own signature, where it could be loaded."
    )
    size_bytes: int | None = Field(default=None, description="Size of the artifact in bytes.")
    reason: str | None = Field(default=None, description="Of an Error: a CamelCase word.")
    message: str | None = Field(default=None, description="Of an Error: what happened and what to do.")
    retryable: bool | None = Field(default=None, description="Of an Error: whether the same Job may succeed later.")

    @model_validator(mode="after")
    def check_error_is_explained(self) -> Self:
        """An Error names its reason; a verdict has none."""
        explained = None not in (self.reason, self.message, self.retryable)
        if explained != (self.outcome == "Error"):
            raise ValueError("reason, message and retryable belong to the outcome Error, all three of them")
        return self


class Failure(ContractModel):
    """The termination message of a puller that could not bring the model."""

    reason: str = Field(description="A CamelCase word, for example ChecksumMismatch.")
    message: str = Field(description="What happened and what to do.")
    retryable: bool = Field(description="Whether trying again without a change can help.")


Document = TypeVar("Document", bound=ContractModel)


def read_document(model: type[Document], environment: Mapping[str, str], variable: str) -> Document:
    """Read and check the mounted document that an environment variable names."""
    path = environment.get(variable)
    if not path:
        raise ContractError(f"{variable} is not set; set it to the path of the mounted document")
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise ContractError(f"cannot read {path}: {error.strerror}; mount the document there") from error
    return parse_document(model, text, path)


def parse_document(model: type[Document], text: str | bytes, source: str) -> Document:
    """Check a document; `source` names it in the error."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'document'}: {e['msg']}" for e in error.errors())
        raise ContractError(f"{source} breaks the contract {model.__name__} v1: {details}") from error


SCHEMAS: dict[str, type[ContractModel]] = {
    "comparator": ComparatorDocument,
    "serving": ServingDocument,
    "serving-failure": Failure,
    "validation": ValidationDocument,
    "validation-result": ValidationResult,
}


def build_schema(model: type[ContractModel]) -> str:
    """The published JSON schema of one document as text."""
    return json.dumps(model.model_json_schema(by_alias=True), indent=2) + "\n"


def write_schemas(folder: Path) -> list[Path]:
    """Write every schema and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, model in SCHEMAS.items():
        written.append(folder / f"{name}.schema.json")
        written[-1].write_text(build_schema(model))
    return written


if __name__ == "__main__":
    for file in write_schemas(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER):
        print(file)
