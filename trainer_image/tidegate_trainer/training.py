"""What an algorithm is given and what it gives back: the seam between the trainer and its algorithms."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tidegate_trainer.artifacts import ArtifactStore
from tidegate_trainer.checkpoints import Checkpoint, Checkpoints
from tidegate_trainer.contract import DatasetHash, TrainingJob
from tidegate_trainer.errors import Reason, TrainingError
from tidegate_trainer.progress import ProgressReporter
from tidegate_trainer.tracking import Tracker

if TYPE_CHECKING:
    import torch

__all__ = ["Algorithm", "Context", "StopSignal", "Trained"]


class StopSignal:
    """SIGTERM as a flag: the training looks at it between two steps and leaves in good order."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    def listen(self) -> None:
        """Take SIGTERM from now on; only the main thread can."""
        signal.signal(signal.SIGTERM, lambda *_: self.request())

    def request(self) -> None:
        """Ask the training to stop."""
        self._requested.set()

    def pause(self, seconds: float) -> None:
        """Sleep, and leave at once when somebody wants the training to stop."""
        self._requested.wait(seconds)
        self.leave_if_requested()

    @property
    def requested(self) -> bool:
        """Whether somebody wants the training to stop."""
        return self._requested.is_set()

    def leave_if_requested(self, kept: str = "nothing was lost") -> None:
        """End the job when somebody wants it to stop.

        Raises:
            TrainingError: Stopped.
        """
        if self.requested:
            message = f"stopped by SIGTERM, {kept}; the next pod goes on from there"
            raise TrainingError(Reason.STOPPED, message, retryable=True)


@dataclass(frozen=True, slots=True)
class Context:
    """Everything an algorithm works with."""

    job: TrainingJob
    config: Any
    """The algorithm's validated settings."""
    store: ArtifactStore
    checkpoints: Checkpoints
    resumed: Checkpoint | None
    """Where an earlier pod stopped."""
    base_weights: dict[str, torch.Tensor] | None
    """Weights of the base model, by parameter name."""
    progress: ProgressReporter
    tracker: Tracker
    stop: StopSignal


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained network and what is needed to export, check and describe it."""

    network: torch.nn.Module
    """On the CPU, in evaluation mode; takes the inputs in order and returns a tuple of the outputs."""
    inputs: dict[str, NDArray[np.float32]]
    """By name, at least 64 held-out rows: recorded for the parity checks here and before serving."""
    outputs: Sequence[str]
    metrics: dict[str, float]
    golden_set: dict[str, NDArray[np.generic]]
    """Arrays of the golden set: in_<input> and the right answers."""
    datasets: list[DatasetHash]
    notes: dict[str, Any] = field(default_factory=dict)
    """Further facts for the manifest."""


class Algorithm(Protocol):
    """Trains a network."""

    def train(self, context: Context) -> Trained:
        """Train, evaluate on held-out data, and return the network.

        It saves and resumes checkpoints, reports progress, looks at `context.stop`, and raises `TrainingError` for
        every failure a person can act on.
        """
