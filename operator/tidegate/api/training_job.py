"""TrainingJob: trains a model and turns the result into a ModelVersion."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from tidegate.api.base import (
    ComputeResources,
    Condition,
    Digest,
    Duration,
    Label,
    MetricName,
    Model,
    ModelName,
    ObjectName,
    Percent,
    Resource,
    Scheduling,
    StatusModel,
    Timestamp,
)
from tidegate.api.model_version import Signature
from tidegate.api.rules import MODEL_DEFAULT, OPAQUE, Between, Matches, immutable_except, rule, ruled, unique

__all__ = [
    "Artifact",
    "Checkpoint",
    "Dataset",
    "EnvironmentVariable",
    "Evaluation",
    "Gate",
    "Handover",
    "HandoverResult",
    "ImprovementCondition",
    "MLflowRun",
    "Output",
    "Progress",
    "RunOutcome",
    "Trainer",
    "TrainingJob",
    "TrainingJobSpec",
    "TrainingJobStatus",
    "TrainingPhase",
    "VersionBump",
]


Argument = Annotated[str, Field(max_length=4096)]


YEAR = 31_536_000
"""Seconds; the longest time that can be asked for."""


class EnvironmentVariable(Model):
    """An environment variable of the user's own trainer image."""

    name: Annotated[
        str,
        Field(max_length=256),
        Matches(r"^[A-Za-z_][A-Za-z0-9_]*$", "write letters, digits and '_', not beginning with a digit"),
    ]
    """Name of the variable."""
    value: Annotated[str, Field(max_length=32768)] = ""
    """Its value; secrets belong into a mounted Secret, not here."""


class Trainer(Model):
    """Who trains: a built-in algorithm, or an image of the user's that keeps the trainer contract."""

    model_config = ruled(
        rule("has(self.algorithm) != has(self.image)", "set exactly one of algorithm and image"),
        rule("!has(self.command) || has(self.image)", "command needs image; remove it or set image", field="command"),
        rule("!has(self.args) || has(self.image)", "args needs image; remove it or set image", field="args"),
        rule("!has(self.env) || has(self.image)", "env needs image; remove it or set image", field="env"),
        unique("env", "two variables have one name; remove one"),
    )

    algorithm: Literal["supervised"] | None = None
    """Name of a built-in trainer."""
    config: dict[str, Any] = Field(default_factory=dict, json_schema_extra=OPAQUE)
    """Settings of the algorithm; the trainer refuses unknown ones before it starts."""
    image: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """An image that keeps the trainer contract."""
    command: Annotated[tuple[Argument, ...], Field(max_length=64)] | None = None
    """Command of that image, instead of its entry point."""
    args: Annotated[tuple[Argument, ...], Field(max_length=256)] | None = None
    """Arguments of that image's command."""
    env: Annotated[tuple[EnvironmentVariable, ...], Field(max_length=64, json_schema_extra=MODEL_DEFAULT)] = ()
    """Further environment variables of the trainer container."""


class Dataset(Model):
    """One data set that the trainer reads."""

    name: Label
    """Name under which the trainer finds it."""
    uri: Annotated[
        str,
        Field(max_length=2048),
        Matches(
            r"^((builtin|s3|gs|https?|file)://|mlflow-artifacts:/).+$",
            "write an address that begins with builtin://, s3://, gs://, https://, mlflow-artifacts:/ or file://",
        ),
    ]
    """Where it lies: builtin://, s3://, gs://, https://, mlflow-artifacts:/, or file:// inside the image."""
    sha256: Digest | None = None
    """Checksum of the file; when given, another content is refused."""


class Checkpoint(Model):
    """How often the state of the training is saved, so that it goes on after a pod is lost."""

    interval: Annotated[Duration, Between("1s", "24h")] = Field(default="30s", validate_default=True)
    """Time between two checkpoints."""
    keep: Annotated[int, Field(ge=1, le=16)] = 2
    """How many checkpoints are kept."""


class Gate(Model):
    """A bound that a metric of the trained model must keep, or no ModelVersion is created."""

    model_config = ruled(
        rule("has(self.min) || has(self.max)", "a gate without a bound checks nothing; set min or max"),
        rule(
            "!has(self.min) || !has(self.max) || self.min <= self.max",
            "max is below min, no value can pass; raise max or lower min",
            field="max",
        ),
    )

    metric: MetricName
    """Name of a metric that the trainer reports."""
    min: float | None = None
    """The metric must be at least this."""
    max: float | None = None
    """The metric must be at most this."""


class Evaluation(Model):
    """What the trained model must reach."""

    gates: Annotated[tuple[Gate, ...], Field(max_length=32)] = ()
    """Bounds on the metrics of the evaluation."""


class VersionBump(StrEnum):
    """Which part of the semantic version the new ModelVersion raises."""

    MAJOR = "major"
    MINOR = "minor"
    PATCH = "patch"


class ImprovementCondition(Model):
    """Hand the result over only if it is better than the version that serves now."""

    metric: MetricName
    """The metric that must be larger than that of the Deployment's stable version."""


class Handover(Model):
    """The Deployment that receives the new version."""

    name: ObjectName
    """Name of a Deployment (tidegate.dev) in the same namespace; its spec.modelVersion is set to the new version."""
    only_if_improved: ImprovementCondition | None = None
    """Hand over only if this metric improved; without it every version that passes its checks is handed over."""


class Output(Model):
    """What is made of the result."""

    version_bump: VersionBump = VersionBump.MINOR
    """Part of the semantic version that is raised: major, minor or patch. The first version of a model is 1.0.0."""
    deploy: Handover | None = None
    """Release the new version through this Deployment once it is Ready."""


class TrainingJobSpec(Model):
    """What to train, on which data, with which resources, and what must come out."""

    model_config = ruled(
        unique("datasets", "two data sets have one name; rename one"),
        immutable=immutable_except(
            "suspend",
            "activeDeadlineSeconds",
            "ttlSecondsAfterFinished",
            remedy="create a TrainingJob of another name instead",
        ),
    )

    model: ModelName
    """The registered model that the result becomes a version of."""
    trainer: Trainer
    """Who trains."""
    datasets: Annotated[tuple[Dataset, ...], Field(min_length=1, max_length=32)]
    """The data."""
    base_model_version: ObjectName | None = None
    """A ModelVersion whose weights the training starts from."""
    resources: ComputeResources = ComputeResources()
    """CPU, memory and GPUs of the trainer."""
    scheduling: Scheduling = Scheduling()
    """Where the trainer may run."""
    checkpoint: Checkpoint = Checkpoint()
    """How often the state is saved."""
    evaluation: Evaluation = Evaluation()
    """What the result must reach."""
    output: Output = Output()
    """What is made of the result."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] = 0
    """Seed of every random choice; the same seed on the same device gives the same model."""
    suspend: bool = False
    """Stop after a checkpoint and give the resources back; set to false to go on."""
    backoff_limit: Annotated[int, Field(ge=0, le=20)] = 2
    """How many lost or failed trainer pods are replaced before the job fails."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=YEAR)] | None = None
    """Longest time of training in seconds; the clock stands still while the job is suspended."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=YEAR)] = 86400
    """Seconds after which the pods of a finished job are removed; the TrainingJob itself stays."""


class TrainingPhase(StrEnum):
    """The state in one word, for people; the conditions are the contract."""

    PENDING = "Pending"
    SUSPENDED = "Suspended"
    RUNNING = "Running"
    EVALUATING = "Evaluating"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Progress(StatusModel):
    """How far the training is, as the trainer last reported."""

    percent: Percent = 0
    """Share of the work that is done, 0 to 100."""
    epoch: int | None = None
    """Epoch in progress, from 1."""
    epochs: int | None = None
    """Number of epochs planned."""
    step: int | None = None
    """Optimiser steps done."""
    estimated_seconds_left: float | None = None
    """Estimated time to the end in seconds."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Latest values of the training metrics."""
    message: str | None = None
    """What the trainer is doing."""
    pod: str | None = None
    """The pod that reported."""
    updated_at: Timestamp | None = None
    """When the trainer reported."""


class RunOutcome(StrEnum):
    """How a run in MLflow ended, in MLflow's words."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


class MLflowRun(StatusModel):
    """The run in MLflow that records this training."""

    experiment_id: str = Field(alias="experimentID")
    """Experiment in MLflow."""
    run_id: str = Field(alias="runID")
    """Run in MLflow."""
    artifact_uri: str = Field(default="", alias="artifactURI")
    """Root of the run's artifacts: the model and the checkpoints lie under it."""
    ended_as: RunOutcome | None = None
    """How the run was closed; none while it is open."""


class Artifact(StatusModel):
    """The ONNX file that came out."""

    uri: str
    """Where it lies."""
    sha256: Digest
    """Its checksum."""
    size_bytes: int | None = None
    """Its size in bytes."""


class HandoverResult(StatusModel):
    """What became of spec.output.deploy."""

    deployment: str
    """The Deployment that was to receive the version."""
    handed_over: bool
    """Whether its spec.modelVersion was set."""
    reason: str
    """Why, in one word: HandedOver, NotImproved, DeploymentNotFound, Superseded or ModelVersionRejected."""
    message: str = ""
    """Why, in a sentence."""


class TrainingJobStatus(StatusModel):
    """Observed state of a TrainingJob."""

    observed_generation: int | None = None
    """The generation that this status is about."""
    phase: TrainingPhase = TrainingPhase.PENDING
    """State in one word."""
    message: str = ""
    """State in one sentence."""
    job_name: str | None = None
    """The Job that runs the trainer."""
    started_at: Timestamp | None = None
    """When the first trainer pod was asked for."""
    finished_at: Timestamp | None = None
    """When the training ended."""
    active_seconds: float = 0
    """Seconds of training before the current run; counts towards activeDeadlineSeconds."""
    resumed_at: Timestamp | None = None
    """Start of the current run; none while suspended."""
    progress: Progress | None = None
    """How far it is."""
    mlflow: MLflowRun | None = None
    """The run in MLflow."""
    artifact: Artifact | None = None
    """The result."""
    signature: Signature | None = None
    """Inputs and outputs of the result."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Metrics of the evaluation."""
    model_version: str | None = None
    """The ModelVersion that was created."""
    handover: HandoverResult | None = None
    """What became of spec.output.deploy."""
    conditions: tuple[Condition, ...] = ()
    """Ready, Reconciling, Stalled, Complete, Failed, Suspended."""


class TrainingJob(Resource):
    """Trains a model in a pod of its own and, if it passes its gates, makes a ModelVersion of the result."""

    kind: Literal["TrainingJob"] = "TrainingJob"
    spec: TrainingJobSpec
    status: TrainingJobStatus = TrainingJobStatus()
