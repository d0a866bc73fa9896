"""The pod's side of the trainer contract: the document it reads and the result it writes.

`python -m tidegate_trainer.contract DIRECTORY` writes the JSON schemas of both; without a directory it prints them.
"""

from __future__ import annotations

import json
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from tidegate_trainer.errors import Reason, TrainingError

__all__ = [
    "Artifact",
    "Checkpoint",
    "Dataset",
    "DatasetHash",
    "Document",
    "File",
    "Result",
    "TrainingJob",
    "TrainingResult",
    "explain",
    "json_schemas",
    "read_document",
]

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
DatasetURI = Annotated[
    str, StringConstraints(pattern=r"^(builtin://[a-z0-9-]+|(file|https?|s3|gs|mlflow-artifacts):/{1,3}[^/].*)$")
]
StorageURI = Annotated[str, StringConstraints(pattern=r"^(file|https?|s3|gs|mlflow-artifacts):/{1,3}[^/].*$")]
WebURL = Annotated[str, StringConstraints(pattern=r"^https?://.+")]


class Document(BaseModel):
    """Base of every part of the contract: camelCase on the wire, no unknown field, immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, allow_inf_nan=False
    )


# ---- the document ----------------------------------------------------------------------------------------------------


class Trainer(Document):
    """What to run."""

    algorithm: str = Field(min_length=1, description="Name of a built-in algorithm, such as supervised.")
    config: dict[str, Any] = Field(
        default_factory=dict, description="The algorithm's own settings; it refuses unknown ones."
    )


class Dataset(Document):
    """One data set; several are joined, and rows that repeat (also mirrored) count once."""

    name: str = Field(min_length=1)
    uri: DatasetURI = Field(description="builtin://connect4-solved, or the address of an .npz file.")
    sha256: Sha256 | None = Field(None, description="Expected hash of the file; a difference ends the job.")


class BaseModelArtifact(Document):
    """The ONNX file of the model to start from; its manifest and weights lie beside it."""

    uri: StorageURI
    sha256: Sha256


class Checkpoint(Document):
    """Where and how often the state of the training is kept."""

    interval_seconds: float = Field(30, gt=0, description="Seconds between two checkpoints.")
    keep: int = Field(2, ge=1, le=16, description="Checkpoints kept; the store always holds at least two.")
    uri: StorageURI | None = Field(None, description="Folder that outlives the pod; null keeps checkpoints in the pod.")


class ArtifactFolder(Document):
    """Where the model goes."""

    uri: StorageURI = Field(description="Folder for model.onnx and the files beside it.")


class MLflowRun(Document):
    """Where parameters, metrics, a copy of the result and the trainer's state go; the operator has the last word."""

    model_config = ConfigDict(alias_generator=None)

    tracking_uri: str = Field(alias="trackingURI", min_length=1)
    experiment_id: str = Field(alias="experimentID", min_length=1)
    run_id: str = Field(alias="runID", min_length=1)


class Progress(Document):
    """Where progress is reported."""

    url: WebURL
    token_file: str | None = Field(None, description="File with the bearer token; read again before every report.")
    interval_seconds: float = Field(2, gt=0, description="Seconds between two reports.")


class Resources(Document):
    """What the pod was given; the CPU cores decide the number of threads."""

    cpu: float = Field(1, gt=0, description="CPU cores.")
    gpus: int = Field(0, ge=0)


class Distributed(Document):
    """How many processes train together; the algorithms of this version run in one."""

    nodes: int = Field(1, ge=1)
    processes_per_node: int = Field(1, ge=1)


class TrainingJob(Document):
    """Everything a trainer is told, in one file named by the variable TIDEGATE_JOB."""

    contract_version: Literal["v1"]
    namespace: str = Field(min_length=1)
    name: str = Field(min_length=1)
    uid: str = Field(min_length=1, description="Identity of the TrainingJob; a checkpoint of another is not resumed.")
    model: str = Field(min_length=1)
    attempt: int | None = Field(None, ge=0, description="How many pods ran before this one.")
    trainer: Trainer
    datasets: list[Dataset] = Field(min_length=1)
    base_model: BaseModelArtifact | None = None
    checkpoint: Checkpoint = Checkpoint()
    artifact: ArtifactFolder
    mlflow: MLflowRun | None = None
    progress: Progress | None = None
    seed: int = Field(0, ge=0, lt=2**31)
    resources: Resources = Resources()
    distributed: Distributed = Distributed()


# ---- the result ------------------------------------------------------------------------------------------------------


class File(Document):
    """A stored file."""

    uri: str
    sha256: Sha256


class Artifact(File):
    """The model."""

    size_bytes: int = Field(gt=0)
    format: Literal["ONNX"] = "ONNX"


class Tensor(Document):
    """One input or output of the model; -1 is the batch dimension."""

    name: str
    data_type: Literal["FP32"] = "FP32"
    shape: list[int]


class Signature(Document):
    """The model's inputs and outputs."""

    inputs: list[Tensor]
    outputs: list[Tensor]


class DatasetHash(Document):
    """What a data set really was."""

    name: str
    sha256: Sha256


class Succeeded(Document):
    """The model and what is known about it."""

    outcome: Literal["Succeeded"] = "Succeeded"
    artifact: Artifact
    parity: File = Field(description="Recorded inputs and outputs of the framework (.npz: in_<name>, out_<name>).")
    golden_set: File = Field(description="Held-out positions with their right moves (.npz).")
    signature: Signature
    metrics: dict[str, float]
    parity_max_abs_difference: float = Field(description="Largest difference between the framework and onnxruntime.")
    mlflow_run_id: str | None = Field(None, alias="mlflowRunID")
    code: str = Field(description="Version of the trainer.")
    datasets: list[DatasetHash]
    manifest_uri: str = Field(alias="manifestURI")


RESULT_TAG = "tidegate.dev/result"
"""Tag of the MLflow run with a copy of the result, which the operator reads when the pod that ended well is gone."""


class Failed(Document):
    """Why there is no model, and what to do."""

    outcome: Literal["Failed"] = "Failed"
    reason: Reason
    message: str
    retryable: bool


Result = Succeeded | Failed


class TrainingResult(Document):
    """The one JSON object in the termination message (less than 4,096 bytes)."""

    result: Annotated[Result, Field(discriminator="outcome")]


# ---- reading and explaining ------------------------------------------------------------------------------------------


def read_document(path: Path) -> TrainingJob:
    """Read and validate the contract document.

    Raises:
        TrainingError: InvalidConfig with the path of every bad field.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise TrainingError(Reason.INVALID_CONFIG, f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise TrainingError(Reason.INVALID_CONFIG, f"{path} is not JSON: {error}") from error
    try:
        return TrainingJob.model_validate(content)
    except ValidationError as error:
        raise TrainingError(Reason.INVALID_CONFIG, explain(error, TrainingJob)) from error


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """Say what is wrong with every field, by its path in the document."""
    return "; ".join(_explain_one(dict(one), model, prefix) for one in error.errors(include_url=False))


def _explain_one(error: dict[str, Any], model: type[BaseModel], prefix: str) -> str:
    location = error["loc"]
    path = prefix
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown field{_suggestion(location, model)}"
    if error["type"] == "missing":
        return f"{path}: required"
    return f"{path or 'document'}: {error['msg'].removeprefix('Value error, ')} (got {error['input']!r:.80})"


def _suggestion(location: tuple[str | int, ...], model: type[BaseModel]) -> str:
    for part in location[:-1]:
        annotations = [model.model_fields[name].annotation for name in model.model_fields if to_camel(name) == part]
        nested = [kind for one in annotations for kind in (one, *get_args(one)) if _is_model(kind)]
        if nested:
            model = nested[0]
    known = [field.alias or name for name, field in model.model_fields.items()]
    close = get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


# ---- schemas ---------------------------------------------------------------------------------------------------------


def json_schemas() -> dict[str, dict[str, Any]]:
    """Return the published schemas by file name."""
    document = TrainingJob.model_json_schema(by_alias=True)
    envelope = TrainingResult.model_json_schema(by_alias=True)
    result = {
        "title": "TrainingResult",
        "description": TrainingResult.__doc__,
        "$defs": envelope["$defs"],
        **{key: value for key, value in envelope["properties"]["result"].items() if key != "title"},
    }
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {"training-job.schema.json": draft | document, "training-result.schema.json": draft | result}


def main(arguments: list[str]) -> None:
    """Write the schemas into the folder given, or print them."""
    for name, schema in json_schemas().items():
        text = json.dumps(schema, indent=2) + "\n"
        if arguments:
            Path(arguments[0], name).write_text(text)
        else:
            sys.stdout.write(text)


if __name__ == "__main__":
    main(sys.argv[1:])
