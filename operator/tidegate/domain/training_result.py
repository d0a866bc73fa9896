"""What a trainer leaves behind: the result or the reason of its failure, as JSON in the pod's termination message.

A copy of a result is a tag of the MLflow run, for the case that the pod is gone.
"""

import json
import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from tidegate.api.base import Digest, StatusModel
from tidegate.api.model_version import ArtifactReference, ArtifactURI, DatasetReference, Signature
from tidegate.api.training_job import Gate

__all__ = [
    "BrokenResultError",
    "RecordedFile",
    "TrainerFailure",
    "TrainerResult",
    "drop_not_finite",
    "explain_gate",
    "parse_result",
]


class BrokenResultError(ValueError):
    """The trainer left something that is no result; the message names the field."""


def _finite_only(metrics: object) -> object:
    if not isinstance(metrics, dict):
        return metrics
    return {name: value for name, value in metrics.items() if isinstance(value, int | float) and math.isfinite(value)}


drop_not_finite = BeforeValidator(_finite_only)
"""Leaves values out that are not finite: whoever asks for one of them is told that it was not reported."""


class RecordedFile(StatusModel):
    """A file beside the model."""

    uri: ArtifactURI
    sha256: Digest | None = None
    metric: Literal["moveAccuracy", "accuracy"] | None = None
    """Of a golden set: how its answers are compared."""


class TrainerResult(StatusModel):
    """A trained model. Fields of a newer trainer are ignored."""

    outcome: Literal["Succeeded"]
    artifact: ArtifactReference
    signature: Signature | None = None
    metrics: Annotated[dict[str, float], drop_not_finite] = Field(default_factory=dict)
    parity: RecordedFile | None = None
    golden_set: RecordedFile | None = None
    parity_max_abs_difference: float | None = None
    datasets: tuple[DatasetReference, ...] = ()
    code: str | None = None


class TrainerFailure(StatusModel):
    """Why there is no model."""

    outcome: Literal["Failed"]
    reason: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$", max_length=128)]
    message: str = ""
    retryable: bool = False


_RESULT: TypeAdapter[TrainerResult | TrainerFailure] = TypeAdapter(
    Annotated[TrainerResult | TrainerFailure, Field(discriminator="outcome")]
)


def parse_result(text: str) -> TrainerResult | TrainerFailure:
    """Read a termination message.

    Raises:
        BrokenResultError: It keeps no contract.
    """
    document = _load(text)
    try:
        return _RESULT.validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BrokenResultError(
            f"{'.'.join(str(part) for part in first['loc']) or 'outcome'}: {first['msg']}"
        ) from error


def explain_gate(gate: Gate, metrics: dict[str, float]) -> str | None:
    """Say by how much a metric misses its gate; None if it keeps it."""
    value = metrics.get(gate.metric)
    if value is None:
        known = ", ".join(sorted(metrics)) or "none"
        return f"{gate.metric} was not reported as a finite number (reported: {known})"
    if gate.min is not None and value < gate.min:
        return f"{gate.metric} is {value:.6g}, {gate.min - value:.3g} below its minimum of {gate.min:g}"
    if gate.max is not None and value > gate.max:
        return f"{gate.metric} is {value:.6g}, {value - gate.max:.3g} above its maximum of {gate.max:g}"
    return None


def _load(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise BrokenResultError(f"it is no JSON: {text[:80]!r}") from error
    if not isinstance(document, dict):
        raise BrokenResultError("it is no JSON object")
    return document
