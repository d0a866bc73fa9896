"""How a training ends badly: one reason, one remedy, and whether another try can help."""

from __future__ import annotations

import errno
from enum import StrEnum

__all__ = [
    "EXIT_RETRY",
    "EXIT_STOPPED",
    "EXIT_SUCCESS",
    "EXIT_USELESS_TO_RETRY",
    "Reason",
    "TrainingError",
    "disk_full",
]

EXIT_SUCCESS = 0
EXIT_RETRY = 1
EXIT_USELESS_TO_RETRY = 3
"""The Job's podFailurePolicy fails the Job on this code instead of starting another pod."""
EXIT_STOPPED = 143


class Reason(StrEnum):
    """Why a training did not succeed."""

    BASE_MODEL_UNUSABLE = "BaseModelUnusable"
    DATASET_CHECKSUM_MISMATCH = "DatasetChecksumMismatch"
    DATASET_CORRUPT = "DatasetCorrupt"
    DATASET_MISSING = "DatasetMissing"
    DISK_FULL = "DiskFull"
    INTERNAL_ERROR = "InternalError"
    INVALID_CONFIG = "InvalidConfig"
    NAN_LOSS = "NaNLoss"
    OUT_OF_MEMORY = "OutOfMemory"
    PARITY_FAILED = "ParityFailed"
    STOPPED = "Stopped"
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    UNKNOWN_ALGORITHM = "UnknownAlgorithm"


class TrainingError(Exception):
    """A failure a person can act on."""

    def __init__(self, reason: Reason, message: str, *, retryable: bool = False) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        """What went wrong and what to change, for a person."""
        self.retryable = retryable
        """Whether the same document can succeed later without anybody changing it."""

    @property
    def exit_code(self) -> int:
        """The process's exit status."""
        if self.reason is Reason.STOPPED:
            return EXIT_STOPPED
        return EXIT_RETRY if self.retryable else EXIT_USELESS_TO_RETRY


def disk_full(error: OSError, what: str) -> TrainingError | None:
    """Return the failure for a full disk, or None when `error` is something else."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    place = f" ({error.filename})" if error.filename else ""
    message = (
        f"no space left while writing {what}{place}; free space or give the volume more, the job goes on by itself"
    )
    return TrainingError(Reason.DISK_FULL, message, retryable=True)
