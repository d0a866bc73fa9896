"""One job from its document to its result: check, resume, train, release, report."""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tidegate_trainer.algorithms import check_config, find
from tidegate_trainer.artifacts import ArtifactStore
from tidegate_trainer.checkpoints import Checkpoint, Checkpoints, fingerprint
from tidegate_trainer.contract import Failed, Succeeded, TrainingJob, read_document
from tidegate_trainer.errors import EXIT_SUCCESS, Reason, TrainingError, disk_full
from tidegate_trainer.progress import Phase, ProgressReporter
from tidegate_trainer.release import load_base_weights, release
from tidegate_trainer.settings import Settings
from tidegate_trainer.tracking import MLflowSink, Tracker
from tidegate_trainer.training import Context, StopSignal

__all__ = ["check", "run"]

log = logging.getLogger(__name__)

_LONGEST_RESULT = 4095
_LONGEST_MESSAGE = 1500


def check(settings: Settings) -> int:
    """Validate the document, so that a mistake costs no GPU; return the exit status."""
    try:
        job = read_document(settings.document)
        check_config(job)
    except TrainingError as error:
        _report(settings, _failed(error))
        return error.exit_code
    log.info("the document of %s/%s is valid", job.namespace, job.name)
    return EXIT_SUCCESS


def run(settings: Settings, stop: StopSignal) -> int:
    """Do the job, write its result, and return the exit status."""
    try:
        with _named_failures():
            job = read_document(settings.document)
            result = _do(job, check_config(job), settings, stop)
    except TrainingError as error:
        _report(settings, _failed(error))
        return error.exit_code
    _report(settings, result)
    return EXIT_SUCCESS


def _do(job: TrainingJob, config: Any, settings: Settings, stop: StopSignal) -> Succeeded:
    plain = config.model_dump(mode="json")
    store = ArtifactStore(job.mlflow.tracking_uri if job.mlflow else None, settings.storage_patience, stop.pause)
    local = f"file://{(settings.work_folder / 'checkpoints').absolute()}"
    checkpoints = Checkpoints(store, fingerprint(job, plain), local, job.checkpoint.uri, job.checkpoint.keep)
    with ProgressReporter(job.progress) as progress, Tracker(MLflowSink(job.mlflow) if job.mlflow else None) as tracker:
        tracker.log_parameters(_parameters(job, plain))
        resumed = _find_checkpoint(checkpoints, progress)
        base = load_base_weights(job.base_model, store) if job.base_model else None
        algorithm = find(job.trainer.algorithm).load()
        trained = algorithm.train(
            Context(job, config, store, checkpoints, resumed, base, progress, tracker, stop),
        )
        tracker.log_metrics(trained.metrics, int(trained.metrics.get("steps", 0)))
        progress.enter(Phase.EXPORTING, "exporting, checking and storing the model")
        result = release(job, plain, trained, store, stop)
        tracker.record_result(_to_text(result))
        progress.enter(Phase.DONE, f"stored {result.artifact.uri}")
    return result


def _find_checkpoint(checkpoints: Checkpoints, progress: ProgressReporter) -> Checkpoint | None:
    progress.enter(Phase.PREPARING, "looking for a checkpoint")
    resumed = checkpoints.latest()
    if resumed:
        progress.resume_at(resumed.percent)
    return resumed


def _parameters(job: TrainingJob, plain: dict[str, Any]) -> dict[str, str]:
    parameters = {"algorithm": job.trainer.algorithm, "seed": str(job.seed)}
    parameters |= {f"dataset.{one.name}": one.uri for one in job.datasets}
    return parameters | {name: str(value) for name, value in plain.items()}


@contextmanager
def _named_failures() -> Iterator[None]:
    """Give every exception its reason and remedy."""
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:
        full = disk_full(error, "a file of the training") if isinstance(error, OSError) else None
        raise full or _out_of_memory(error) or _internal(error) from error


def _out_of_memory(error: Exception) -> TrainingError | None:
    """Recognise exhausted memory without importing torch: its CUDA error by name, its host error by text."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if _is_out_of_gpu_memory(kinds, str(error)):
        kind, remedy = "GPU memory", "ask for a larger GPU in spec.scheduling.nodeSelector"
    elif "MemoryError" in kinds or "can't allocate memory" in str(error):
        kind, remedy = "host memory", "raise spec.resources.memory"
    else:
        return None
    message = f"not enough {kind}; lower trainer.config.batchSize, channels or maxExamples, or {remedy}"
    return TrainingError(Reason.OUT_OF_MEMORY, message)


def _is_out_of_gpu_memory(kinds: set[str], text: str) -> bool:
    # CUDA's libraries allocate beside torch; their failure is a plain RuntimeError that names a status.
    from_library = re.search(r"\bCU(BLAS|DNN)_STATUS_ALLOC_FAILED\b", text)
    from_torch = kinds & {"OutOfMemoryError", "AcceleratorError"} and "out of memory" in text
    return bool(from_torch or from_library)


def _internal(error: Exception) -> TrainingError:
    log.error("%s", "".join(traceback.format_exception(error)))
    message = f"{type(error).__name__}: {error}; see the pod's log"
    return TrainingError(Reason.INTERNAL_ERROR, message, retryable=True)


def _failed(error: TrainingError) -> Failed:
    log.error("%s", error)
    return Failed(reason=error.reason, message=error.message[:_LONGEST_MESSAGE], retryable=error.retryable)


def _to_text(result: Succeeded | Failed) -> str:
    return json.dumps(result.model_dump(by_alias=True, mode="json", exclude_none=True), separators=(",", ":"))


def _report(settings: Settings, result: Succeeded | Failed) -> None:
    text = _to_text(result)
    if len(text.encode()) > _LONGEST_RESULT:
        log.error("the result has %d bytes; the kubelet cuts it at %d", len(text.encode()), _LONGEST_RESULT)
    print(text, flush=True)
    try:
        settings.termination_log.write_text(text)
    except OSError as error:
        log.error("cannot write %s (%s); the result is in the log only", settings.termination_log, error.strerror)
