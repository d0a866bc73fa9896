"""ModelVersion: one immutable artifact with its origin, its interface and the checks it has to pass."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from tidegate.api.base import (
    ComputeResources,
    Condition,
    Digest,
    Label,
    Model,
    ModelName,
    ObjectName,
    Percent,
    Resource,
    SemanticVersion,
    StatusModel,
    Timestamp,
)
from tidegate.api.rules import Matches, immutable_except, ruled, unique

__all__ = [
    "ArtifactReference",
    "Check",
    "CheckName",
    "CheckOutcome",
    "DatasetReference",
    "GoldenSet",
    "LatencyBudget",
    "Lineage",
    "ModelPhase",
    "ModelVersion",
    "ModelVersionSpec",
    "ModelVersionStatus",
    "ParityRecord",
    "Role",
    "ServedBy",
    "Signature",
    "Stage",
    "TensorSpec",
    "Validation",
]

ArtifactURI = Annotated[
    str,
    Field(max_length=2048),
    Matches(
        r"^((s3|gs|https?|file)://|mlflow-artifacts:/).+$",
        "write an address that begins with mlflow-artifacts:/, s3://, gs://, https:// or file://",
    ),
]


class ArtifactReference(Model):
    """A file with its checksum."""

    uri: ArtifactURI
    """Where the file lies: mlflow-artifacts:/, s3://, gs:// or https://."""
    sha256: Digest
    """SHA-256 of the file, 64 hexadecimal digits. A file with another checksum is never served."""
    size_bytes: Annotated[int, Field(ge=1)] | None = None
    """Size in bytes."""
    format: Literal["ONNX"] = "ONNX"
    """Format of the file."""


class DatasetReference(Model):
    """A data set that the model was trained on."""

    name: Label
    """Name of the data set."""
    sha256: Digest | None = None
    """Its checksum."""


class Lineage(Model):
    """Where the model comes from."""

    training_job: ObjectName | None = None
    """The TrainingJob that made it."""
    mlflow_run_id: Annotated[str, Field(max_length=64)] | None = Field(default=None, alias="mlflowRunID")
    """The MLflow run that recorded the training."""
    parent: ObjectName | None = None
    """The ModelVersion that the training started from."""
    datasets: Annotated[tuple[DatasetReference, ...], Field(max_length=32)] = ()
    """The data."""
    code: Annotated[str, Field(max_length=256)] | None = None
    """Version of the trainer."""


class TensorSpec(Model):
    """Name, type and shape of one input or output."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    """Name of the tensor."""
    data_type: Literal["BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"]
    """Data type in the words of the KServe v2 protocol."""
    shape: Annotated[tuple[Annotated[int, Field(ge=-1)], ...], Field(min_length=1, max_length=8)]
    """Shape with the batch dimension first; -1 stands for any size."""


class Signature(Model):
    """What goes in and what comes out."""

    model_config = ruled(
        unique("inputs", "two inputs have one name; each tensor of a model has a name of its own"),
        unique("outputs", "two outputs have one name; each tensor of a model has a name of its own"),
    )

    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=64)]
    """Input tensors."""
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=64)]
    """Output tensors."""


class ParityRecord(Model):
    """Inputs and the outputs that the training framework gave for them."""

    uri: ArtifactURI
    """A .npz file with arrays in_<input> and out_<output>."""
    sha256: Digest | None = None
    """Its checksum."""
    tolerance: Annotated[float, Field(gt=0, le=1)] = 0.001
    """Largest absolute difference that is accepted."""


class LatencyBudget(Model):
    """How fast one inference has to be."""

    p99_milliseconds: Annotated[float, Field(gt=0)]
    """99th percentile of the time of one inference, in milliseconds."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    """Rows in that inference."""


class GoldenSet(Model):
    """Examples with known answers."""

    uri: ArtifactURI
    """A .npz file with the inputs and the right answers."""
    sha256: Digest | None = None
    """Its checksum."""
    metric: Literal["moveAccuracy", "accuracy"]
    """How answers are compared."""
    min: Annotated[float, Field(ge=0, le=1)]
    """The metric must be at least this."""


class Validation(Model):
    """Checks that run before any traffic, beside those that always run."""

    parity: ParityRecord | None = None
    """Compare with outputs that the training framework recorded."""
    latency: LatencyBudget | None = None
    """Time of one inference on the validation pod."""
    golden_set: GoldenSet | None = None
    """Examples with known answers."""
    resources: ComputeResources = ComputeResources(cpu="1", memory="1Gi")
    """Resources of the validation pod; a model that does not fit into them is rejected."""


class Stage(StrEnum):
    """Where the version stands in its life; mirrored to aliases in the MLflow registry."""

    NONE = "None"
    STAGING = "Staging"
    PRODUCTION = "Production"
    ARCHIVED = "Archived"


class ModelVersionSpec(Model):
    """An immutable artifact and what is known and demanded of it."""

    model_config = ruled(
        immutable=immutable_except("stage", remedy="create a ModelVersion with a new version instead"),
    )

    model: ModelName
    """The registered model."""
    version: SemanticVersion
    """Semantic version; unique within the model."""
    artifact: ArtifactReference
    """The ONNX file."""
    lineage: Lineage = Lineage()
    """Where it comes from."""
    signature: Signature | None = None
    """Inputs and outputs; when given, the file must have exactly these."""
    validation: Validation = Validation()
    """Checks before any traffic."""
    stage: Stage = Stage.NONE
    """None, Staging, Production or Archived; mirrored to the registry's aliases."""


class ModelPhase(StrEnum):
    """The state in one word, for people; the conditions are the contract."""

    PENDING = "Pending"
    VALIDATING = "Validating"
    READY = "Ready"
    REJECTED = "Rejected"


class CheckName(StrEnum):
    """The checks, in the order in which they run."""

    CHECKSUM = "Checksum"
    LOADABLE = "Loadable"
    SIGNATURE = "Signature"
    FINITE_OUTPUTS = "FiniteOutputs"
    PARITY = "Parity"
    LATENCY = "Latency"
    GOLDEN_SET = "GoldenSet"


class CheckOutcome(StrEnum):
    """How a check ended."""

    PASSED = "Passed"
    FAILED = "Failed"
    SKIPPED = "Skipped"


class Check(StatusModel):
    """One check and how it ended."""

    name: CheckName
    """Which check."""
    outcome: CheckOutcome
    """How it ended."""
    message: str = ""
    """What was found, and what to do about it."""
    measured: float | None = None
    """The value that was measured, where there is one."""


class Role(StrEnum):
    """What a version is to a Deployment."""

    STABLE = "Stable"
    CANARY = "Canary"
    VARIANT = "Variant"


class ServedBy(StatusModel):
    """A Deployment that serves this version."""

    deployment: str
    """Name of the Deployment (tidegate.dev)."""
    role: Role
    """Stable, Canary or Variant."""
    percent: Percent
    """Its share of the traffic."""


class ModelVersionStatus(StatusModel):
    """Observed state of a ModelVersion."""

    observed_generation: int | None = None
    """The generation that this status is about."""
    phase: ModelPhase = ModelPhase.PENDING
    """State in one word."""
    message: str = ""
    """State in one sentence."""
    checks: tuple[Check, ...] = ()
    """The checks and how they ended."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Metrics of the training and of the checks."""
    served_by: tuple[ServedBy, ...] = ()
    """Who serves this version: at most 16, those with the largest shares."""
    registry_version: str | None = None
    """The version in the MLflow registry."""
    registry_stage: Stage | None = None
    """The stage that the registry's aliases show."""
    attempts: int = 0
    """Validation pods that could not do the checks, because a source was away or the pod was lost."""
    crashes: int = 0
    """How many of them in a row ended without a word."""
    retry_at: Timestamp | None = None
    """When the checks are tried again."""
    validated_at: Timestamp | None = None
    """When the checks ended."""
    conditions: tuple[Condition, ...] = ()
    """Ready, Reconciling, Stalled."""


class ModelVersion(Resource):
    """One immutable version of a model: artifact, origin, interface, and whether it may be served."""

    kind: Literal["ModelVersion"] = "ModelVersion"
    spec: ModelVersionSpec
    status: ModelVersionStatus = ModelVersionStatus()
