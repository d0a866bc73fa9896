"""Progress: told to the operator from a background thread, and to people in the log.

The share done never falls, and the estimate of the time left follows the measured speed. Whatever goes wrong with a
report is logged once per cause and never touches the training.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from tidegate_trainer.contract import Progress

__all__ = ["Phase", "ProgressReporter", "ProgressState"]

log = logging.getLogger(__name__)

_CALL_SECONDS = 5.0
_LOG_SECONDS = 10.0


class Phase(Enum):
    """A part of the job, and the range of the percentage it stands for."""

    PREPARING = (0.0, 4.0)
    TRAINING = (4.0, 94.0)
    EVALUATING = (94.0, 96.0)
    EXPORTING = (96.0, 98.0)
    UPLOADING = (98.0, 100.0)
    DONE = (100.0, 100.0)


@dataclass(slots=True)
class ProgressState:
    """Where the job stands; the single writer is the training, the reader is the reporting thread."""

    percent: float = 0.0
    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    estimated_seconds_left: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    message: str | None = None

    def body(self) -> dict[str, Any]:
        """Return the report as the contract has it, without what is not known."""
        report = {
            "percent": round(self.percent, 2),
            "epoch": self.epoch,
            "epochs": self.epochs,
            "step": self.step,
            "estimatedSecondsLeft": None if self.estimated_seconds_left is None else round(self.estimated_seconds_left),
            "metrics": dict(self.metrics),
            "message": self.message,
        }
        return {key: value for key, value in report.items() if value is not None}


class ProgressReporter(AbstractContextManager["ProgressReporter"]):
    """Collects progress and reports it every few seconds until it is closed."""

    def __init__(self, target: Progress | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Report to `target`; None: only to the log."""
        self.state = ProgressState()
        self._target = target
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._told: set[str] = set()
        self._logged_at = -_LOG_SECONDS
        self._speed_from: tuple[float, float] | None = None
        self._thread = threading.Thread(target=self._report_for_ever, name="progress", daemon=True)

    def __enter__(self) -> ProgressReporter:
        if self._target:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(2 * _CALL_SECONDS)

    def resume_at(self, percent: float) -> None:
        """Start from what another pod has reported, so that a resumed job does not seem to fall back."""
        with self._lock:
            self.state.percent = max(self.state.percent, percent)

    def enter(self, phase: Phase, message: str) -> None:
        """Begin a part of the job."""
        with self._lock:
            self.state.message = message
            self._raise_to(phase.value[0])
            self._speed_from = None
        log.info("%s (%.0f %%)", message, self.state.percent)

    def train(
        self, done: int, total: int, *, epoch: int, epochs: int, metrics: dict[str, float], message: str | None = None
    ) -> None:
        """Report the training's step `done` of `total`, and the running metrics."""
        low, high = Phase.TRAINING.value
        with self._lock:
            state = self.state
            state.epoch, state.epochs, state.step, state.message = epoch, epochs, done, message
            state.metrics = metrics
            self._raise_to(low + (high - low) * done / total)
            state.estimated_seconds_left = self._seconds_left(done, total)
        self._log_now_and_then(total)

    def _raise_to(self, percent: float) -> None:
        self.state.percent = max(self.state.percent, min(percent, 100.0))

    def _seconds_left(self, done: int, total: int) -> float | None:
        """Estimate from the mean speed since this pod began to train."""
        if self._speed_from is None:
            self._speed_from = (self._clock(), done)
        began, first = self._speed_from
        if done <= first:
            return None
        return (self._clock() - began) / (done - first) * (total - done)

    def _log_now_and_then(self, total: int) -> None:
        now = self._clock()
        if now - self._logged_at < _LOG_SECONDS:
            return
        self._logged_at = now
        state = self.state
        figures = " ".join(f"{name}={value:.4g}" for name, value in state.metrics.items())
        left = "" if state.estimated_seconds_left is None else f", {state.estimated_seconds_left:.0f} s left"
        log.info(
            "epoch %s/%s step %s/%d %.1f %%%s %s",
            state.epoch, state.epochs, state.step, total, state.percent, left, figures,
        )  # fmt: skip

    def _report_for_ever(self) -> None:
        assert self._target is not None
        with httpx.Client(timeout=_CALL_SECONDS) as client:
            while not self._closed.wait(self._target.interval_seconds):
                self._report(client, self._target)
            self._report(client, self._target)

    def _report(self, client: httpx.Client, target: Progress) -> None:
        with self._lock:
            body = self.state.body()
        try:
            response = client.post(target.url, json=body, headers=_authorization(target))
            response.raise_for_status()
        except httpx.HTTPStatusError as error:
            self._tell_once(f"HTTP {error.response.status_code} {error.response.text[:200]}")
        except (httpx.HTTPError, OSError, ValueError) as error:
            self._tell_once(f"{type(error).__name__}: {error}")
        else:
            self._told.clear()

    def _tell_once(self, cause: str) -> None:
        if cause not in self._told:
            self._told.add(cause)
            log.warning("progress cannot be reported, the training goes on: %s", cause)


def _authorization(target: Progress) -> dict[str, str]:
    """Read the token anew: the kubelet replaces it while the job runs."""
    if target.token_file is None:
        return {}
    return {"authorization": f"Bearer {Path(target.token_file).read_text().strip()}"}
