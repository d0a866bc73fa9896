"""The built-in algorithms by name.

An algorithm is a pydantic model of its settings and a class that trains. Its settings are checked without importing
torch; the class is imported only when a training starts. To add one, write its package and add an entry to ALGORITHMS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from tidegate_trainer.algorithms.supervised.config import SupervisedConfig
from tidegate_trainer.contract import TrainingJob, explain
from tidegate_trainer.errors import Reason, TrainingError

if TYPE_CHECKING:
    from tidegate_trainer.training import Algorithm

__all__ = ["ALGORITHMS", "Entry", "check_config", "find"]


@dataclass(frozen=True, slots=True)
class Entry:
    """What the registry knows of an algorithm."""

    config: type[BaseModel]
    load: Callable[[], Algorithm]
    """Imports torch and returns the trainer."""
    datasets: frozenset[str]
    """Names of the built-in data sets it understands."""


def _supervised() -> Algorithm:
    from tidegate_trainer.algorithms.supervised.algorithm import Supervised

    return Supervised()


ALGORITHMS: dict[str, Entry] = {
    "supervised": Entry(SupervisedConfig, _supervised, frozenset({"connect4-solved"})),
}


def find(name: str) -> Entry:
    """Return the entry of an algorithm.

    Raises:
        TrainingError: UnknownAlgorithm.
    """
    entry = ALGORITHMS.get(name)
    if entry is None:
        known = ", ".join(sorted(ALGORITHMS))
        message = f"trainer.algorithm: {name!r} is not built in (known: {known}); name one of these or your own image"
        raise TrainingError(Reason.UNKNOWN_ALGORITHM, message)
    return entry


def check_config(job: TrainingJob) -> Any:
    """Return the algorithm's validated settings; imports nothing heavy.

    Raises:
        TrainingError: UnknownAlgorithm, or InvalidConfig with the path of every bad field.
    """
    entry = find(job.trainer.algorithm)
    problems = [*_unknown_datasets(job, entry), *_unsupported(job)]
    if problems:
        raise TrainingError(Reason.INVALID_CONFIG, "; ".join(problems))
    try:
        return entry.config.model_validate(job.trainer.config)
    except ValidationError as error:
        message = explain(error, entry.config, prefix="trainer.config")
        raise TrainingError(Reason.INVALID_CONFIG, message) from error


def _unknown_datasets(job: TrainingJob, entry: Entry) -> list[str]:
    known = ", ".join(f"builtin://{name}" for name in sorted(entry.datasets))
    return [
        f"datasets[{number}].uri: {dataset.uri!r} is not built in (known: {known})"
        for number, dataset in enumerate(job.datasets)
        if dataset.uri.startswith("builtin://") and dataset.uri.removeprefix("builtin://") not in entry.datasets
    ]


def _unsupported(job: TrainingJob) -> list[str]:
    wanted = {"nodes": job.distributed.nodes, "processesPerNode": job.distributed.processes_per_node}
    return [
        f"distributed.{field}: {job.trainer.algorithm} trains in one process; set it to 1 (got {number})"
        for field, number in wanted.items()
        if number != 1
    ]
