"""What a validation pod leaves behind, and what it means for the ModelVersion."""

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from tidegate.api.base import StatusModel
from tidegate.api.model_version import Check, CheckName, CheckOutcome
from tidegate.domain.training_result import drop_not_finite

__all__ = ["REASONS", "ValidationResult", "parse_validation"]

REASONS = {
    CheckName.CHECKSUM: "ChecksumMismatch",
    CheckName.LOADABLE: "NotLoadable",
    CheckName.SIGNATURE: "SignatureMismatch",
    CheckName.FINITE_OUTPUTS: "OutputsNotFinite",
    CheckName.PARITY: "ParityFailed",
    CheckName.LATENCY: "TooSlow",
    CheckName.GOLDEN_SET: "GoldenSetFailed",
}
"""The reason of a rejection by the check that failed."""


class ValidationResult(StatusModel):
    """The termination message of a validation pod. Fields of a newer agent are ignored."""

    outcome: Literal["Passed", "Failed", "Error"]
    """Error: the checks could not be done."""
    checks: tuple[Check, ...] = ()
    metrics: Annotated[dict[str, float], drop_not_finite] = Field(default_factory=dict)
    reason: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$", max_length=128)] = "ValidationError"
    message: str = ""
    retryable: bool = True

    @property
    def failed_check(self) -> Check | None:
        """The first check that failed; the later ones were skipped for it."""
        return next((each for each in self.checks if each.outcome is CheckOutcome.FAILED), None)


def parse_validation(text: str) -> ValidationResult | None:
    """Read a termination message; None if it is none."""
    try:
        return ValidationResult.model_validate_json(text)
    except ValidationError:
        return None
