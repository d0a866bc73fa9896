"""What a trainer reports while it works, and how it becomes the progress in the status."""

from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, Field

from tidegate.api.base import StatusModel
from tidegate.api.training_job import Progress

__all__ = ["ProgressReport", "merge_progress"]

Count = Annotated[int, Field(ge=0, le=2**53)]
Name = Annotated[str, Field(min_length=1, max_length=128)]


class ProgressReport(StatusModel):
    """One report. Fields of a newer trainer are ignored; every number is finite."""

    model_config = ConfigDict(allow_inf_nan=False)

    percent: Annotated[float, Field(ge=0, le=100)]
    epoch: Count | None = None
    epochs: Count | None = None
    step: Count | None = None
    estimated_seconds_left: Annotated[float, Field(ge=0)] | None = None
    metrics: Annotated[dict[Name, float], Field(max_length=64)] = Field(default_factory=dict)
    message: Annotated[str, Field(max_length=1024)] | None = None


def merge_progress(before: Progress | None, report: ProgressReport, pod: str, now: datetime) -> Progress:
    """Return the progress after a report.

    The percentage never goes back, with one exception: a new pod resumes from a checkpoint, and says so.
    """
    percent, message = report.percent, report.message
    if before is not None and percent < before.percent:
        if before.pod in (None, pod):
            percent = before.percent
        else:
            resumed = f"resumed from a checkpoint at {percent:.0f} %; the pod before was at {before.percent:.0f} %"
            message = f"{resumed}. {message}" if message else resumed
    elif message is None and before is not None and before.pod == pod and _is_resuming(before):
        message = before.message
    return Progress(
        percent=percent,
        epoch=report.epoch,
        epochs=report.epochs,
        step=report.step,
        estimated_seconds_left=report.estimated_seconds_left,
        metrics=report.metrics,
        message=message,
        pod=pod,
        updated_at=now,
    )


def _is_resuming(before: Progress) -> bool:
    return bool(before.message and before.message.startswith("resumed from a checkpoint"))
