"""The trainer's environment; everything else is in the document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Settings", "read_settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the pod has what."""

    document: Path
    """The contract document (TIDEGATE_JOB)."""
    termination_log: Path
    """Where the result goes (TIDEGATE_TERMINATION_LOG)."""
    work_folder: Path
    """Writable folder for checkpoints, best one that outlives the container (TIDEGATE_WORK)."""
    storage_patience: float
    """Seconds for which storage that cannot be reached is tried again (TIDEGATE_STORAGE_PATIENCE_SECONDS)."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Return the settings with their defaults."""
    return Settings(
        document=Path(environment.get("TIDEGATE_JOB", "/etc/tidegate/job.json")),
        termination_log=Path(environment.get("TIDEGATE_TERMINATION_LOG", "/dev/termination-log")),
        work_folder=Path(environment.get("TIDEGATE_WORK", "/tmp/tidegate")),
        storage_patience=float(environment.get("TIDEGATE_STORAGE_PATIENCE_SECONDS", "120")),
    )
