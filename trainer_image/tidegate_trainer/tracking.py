"""MLflow: parameters, metrics, result and state of the run in the document, from a background thread.

The run says whether a trainer is at work, so that it is not left RUNNING when the TrainingJob is deleted while the
operator is away: KILLED when this pod is told to stop, RUNNING again when the next one goes on. What the operator says
later, after gates and checks, holds.

MLflow may be away: what could not be logged waits and is tried again, at the end for a bounded time. The training
neither waits for it nor fails because of it.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Protocol

from tidegate_trainer.contract import RESULT_TAG, MLflowRun
from tidegate_trainer.errors import Reason, TrainingError

__all__ = ["Batch", "MLflowSink", "RunState", "Sink", "Tracker"]

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 5.0
_LAST_SECONDS = 20.0
_LAST_PAUSE_SECONDS = 0.5
_LONGEST_PARAMETER = 500
_LONGEST_TAG = 5000
"""Characters that every MLflow keeps: version 3 takes 8,000, and cuts off what is longer without a word."""


class RunState(StrEnum):
    """What MLflow shows of a run."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


@dataclass(frozen=True, slots=True)
class Batch:
    """Something to log at one moment."""

    metrics: dict[str, float]
    parameters: dict[str, str]
    step: int
    milliseconds: int
    """Unix time of the measurement, kept while MLflow is away."""
    tags: dict[str, str] = field(default_factory=dict)
    state: RunState | None = None


class Sink(Protocol):
    """Where batches go."""

    def log(self, batch: Batch) -> None:
        """Log one batch; any exception means that it is to be tried again."""


class MLflowSink:
    """A run on an MLflow server."""

    def __init__(self, run: MLflowRun) -> None:
        """Remember the run; mlflow is imported with the first batch, in the tracker's thread."""
        self._run = run

    def log(self, batch: Batch) -> None:
        """Log one batch."""
        # The tracker retries on its own; MLflow's default would hold it for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.tracking import MlflowClient

        client = MlflowClient(self._run.tracking_uri)
        client.log_batch(
            self._run.run_id,
            metrics=[Metric(name, value, batch.milliseconds, batch.step) for name, value in batch.metrics.items()],
            params=[Param(name, value[:_LONGEST_PARAMETER]) for name, value in batch.parameters.items()],
            tags=[RunTag(name, value) for name, value in batch.tags.items()],
        )
        if batch.state is RunState.RUNNING:
            client.update_run(self._run.run_id, batch.state)
        elif batch.state is not None:
            client.set_terminated(self._run.run_id, batch.state, batch.milliseconds)


class Tracker(AbstractContextManager["Tracker"]):
    """Hands batches to a sink in order, again and again until it takes them."""

    def __init__(
        self, sink: Sink | None, *, last_seconds: float = _LAST_SECONDS, pause_seconds: float = _PAUSE_SECONDS
    ) -> None:
        """Log to `sink`; None: log nothing."""
        self._sink = sink
        self._last_seconds = last_seconds
        self._pause = pause_seconds
        self._waiting: queue.Queue[Batch | None] = queue.Queue()
        self._closed = threading.Event()
        self._given_up = threading.Event()
        self._away = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def __enter__(self) -> Tracker:
        if self._sink:
            self._thread.start()
        self._show(RunState.RUNNING)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show(_state_after(error))
        self._closed.set()
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join(self._last_seconds)
            self._given_up.set()
            if self._thread.is_alive():
                log.warning("MLflow did not take the end of the run; the termination message and the manifest have it")

    def log_parameters(self, parameters: dict[str, str]) -> None:
        """Log what the training was told."""
        self._waiting.put(Batch({}, parameters, 0, _now()))

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Log what the training measured at `step`."""
        self._waiting.put(Batch(metrics, {}, step, _now()))

    def record_result(self, text: str) -> None:
        """Keep a copy of the result on the run. One that MLflow would cut off is left out: half of it is no result."""
        if len(text) > _LONGEST_TAG:
            log.warning("the result has %d characters, %d fit into an MLflow tag: no copy", len(text), _LONGEST_TAG)
            return
        self._waiting.put(Batch({}, {}, 0, _now(), {RESULT_TAG: text}))

    def _show(self, state: RunState) -> None:
        self._waiting.put(Batch({}, {}, 0, _now(), state=state))

    def _work(self) -> None:
        while (batch := self._waiting.get()) is not None:
            while not self._try(batch):
                if self._closed.wait(self._pause) and self._given_up.wait(_LAST_PAUSE_SECONDS):
                    return

    def _try(self, batch: Batch) -> bool:
        assert self._sink is not None
        try:
            self._sink.log(batch)
        except Exception as error:
            if not self._away:
                log.warning("MLflow is away, metrics wait: %s", error)
            self._away = True
            return False
        if self._away:
            log.info("MLflow is back")
        self._away = False
        return True


def _state_after(error: BaseException | None) -> RunState:
    if error is None:
        return RunState.FINISHED
    is_stopped = isinstance(error, TrainingError) and error.reason is Reason.STOPPED
    return RunState.KILLED if is_stopped else RunState.FAILED


def _now() -> int:
    return int(time.time() * 1000)
