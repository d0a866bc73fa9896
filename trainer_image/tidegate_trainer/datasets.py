"""From the document's data sets to labelled positions, split into training, validation and held-out ones.

A data set file is an .npz in the layout of the built-in one: `positions` (N) uint64, `optimal` (N, 7) bool and `value`
(N) int8 as `tidegate_trainer.connect4` defines them.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass

import numpy as np

from tidegate_trainer import connect4
from tidegate_trainer.artifacts import ArtifactMissingError, ArtifactStore, sha256_of
from tidegate_trainer.connect4 import Labelled
from tidegate_trainer.contract import Dataset, DatasetHash
from tidegate_trainer.errors import Reason, TrainingError

__all__ = ["Sizes", "Splits", "load_splits", "to_npz"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How the positions are divided: shares of the split hash's range, and limits of rows."""

    held_out: float
    validation: float
    evaluation_rows: int
    training_rows: int | None


@dataclass(frozen=True, slots=True)
class Splits:
    """Three sets that share no position and no mirror image."""

    training: Labelled
    validation: Labelled
    held_out: Labelled
    hashes: list[DatasetHash]


def load_splits(datasets: list[Dataset], sizes: Sizes, store: ArtifactStore) -> Splits:
    """Read, check, join and divide the data sets.

    Raises:
        TrainingError: DatasetMissing, DatasetChecksumMismatch, DatasetCorrupt or StorageUnavailable.
    """
    if all(dataset.uri.startswith("builtin://") for dataset in datasets):
        return _split_builtin(datasets, sizes)
    parts, hashes = [], []
    for dataset in datasets:
        rows, digest = _load_builtin(dataset) if dataset.uri.startswith("builtin://") else _load_file(dataset, store)
        parts.append(rows)
        hashes.append(DatasetHash(name=dataset.name, sha256=digest))
    return _split(_join(parts), sizes, hashes)


def to_npz(labelled: Labelled) -> bytes:
    """Return the data set file of the given positions."""
    file = io.BytesIO()
    np.savez_compressed(file, positions=labelled.positions, optimal=labelled.optimal, value=labelled.value)
    return file.getvalue()


def _ranges(sizes: Sizes) -> dict[str, tuple[float, float, int | None]]:
    border = sizes.held_out + sizes.validation
    return {
        "held_out": (0.0, sizes.held_out, sizes.evaluation_rows),
        "validation": (sizes.held_out, border, max(sizes.evaluation_rows // 4, 1)),
        "training": (border, 1.0, sizes.training_rows),
    }


def _split_builtin(datasets: list[Dataset], sizes: Sizes) -> Splits:
    """Label only the rows that are wanted: all two million would take ten seconds more."""
    hashes = [DatasetHash(name=one.name, sha256=_builtin_digest(one)) for one in datasets]
    return Splits(**{name: connect4.load_positions(*bounds) for name, bounds in _ranges(sizes).items()}, hashes=hashes)


def _split(rows: Labelled, sizes: Sizes, hashes: list[DatasetHash]) -> Splits:
    numbers = connect4.split_hash(rows.positions)
    order = np.argsort(numbers)

    def part(low: float, high: float, limit: int | None) -> Labelled:
        return rows.take(order[(numbers[order] >= low) & (numbers[order] < high)][:limit])

    return Splits(**{name: part(*bounds) for name, bounds in _ranges(sizes).items()}, hashes=hashes)


def _builtin_digest(dataset: Dataset) -> str:
    try:
        digest = hashlib.sha256(connect4.book_path().read_bytes()).hexdigest()
    except (connect4.DataPackageError, FileNotFoundError) as error:
        message = f"data set {dataset.name} ({dataset.uri}): {error}"
        raise TrainingError(Reason.DATASET_MISSING, message) from error
    _check_digest(dataset, digest)
    return digest


def _load_builtin(dataset: Dataset) -> tuple[Labelled, str]:
    digest = _builtin_digest(dataset)
    return connect4.load_positions(), digest


def _load_file(dataset: Dataset, store: ArtifactStore) -> tuple[Labelled, str]:
    try:
        content = store.read(dataset.uri)
    except ArtifactMissingError as error:
        message = f"data set {dataset.name}: nothing is at {dataset.uri}; correct the address or put the file there"
        raise TrainingError(Reason.DATASET_MISSING, message) from error
    digest = sha256_of(content)
    _check_digest(dataset, digest)
    return _parse(dataset, content), digest


def _check_digest(dataset: Dataset, digest: str) -> None:
    if dataset.sha256 not in (None, digest):
        message = (
            f"data set {dataset.name}: {dataset.uri} has sha256 {digest}, the job expects {dataset.sha256}; "
            "correct the hash if the change is wanted"
        )
        raise TrainingError(Reason.DATASET_CHECKSUM_MISMATCH, message)


def _parse(dataset: Dataset, content: bytes) -> Labelled:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise _corrupt(dataset, "not a whole .npz file")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            rows = Labelled(arrays["positions"], arrays["optimal"], arrays["value"])
    except KeyError as error:
        raise _corrupt(dataset, f"the array {error.args[0].split()[0]} is missing") from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise _corrupt(dataset, f"not a whole .npz file ({error})") from error
    problem = _find_problem(rows)
    if problem:
        raise _corrupt(dataset, problem)
    return _fold(rows)


def _corrupt(dataset: Dataset, problem: str) -> TrainingError:
    message = f"data set {dataset.name} ({dataset.uri}): {problem}; write the file anew"
    return TrainingError(Reason.DATASET_CORRUPT, message)


def _find_problem(rows: Labelled) -> str | None:
    """Return what is wrong with the rows, cheapest first."""
    count = len(rows.positions)
    wanted = {
        "positions": ((count,), np.uint64),
        "optimal": ((count, connect4.COLUMNS), np.bool_),
        "value": ((count,), np.int8),
    }
    for name, (shape, kind) in wanted.items():
        array = getattr(rows, name)
        if array.shape != shape or array.dtype != kind:
            return f"{name} is {array.dtype}{list(array.shape)}, expected {np.dtype(kind)}{list(shape)}"
    if not count:
        return "it has no rows"
    checks = {
        "is not a position of an unfinished game": connect4.are_valid(rows.positions),
        "calls an illegal move optimal": ~(rows.optimal & ~rows.legal).any(axis=1),
        "has no optimal move": rows.optimal.any(axis=1),
        "has a value other than -1, 0 and 1": np.abs(rows.value) <= 1,
    }
    return next((f"row {int(np.argmin(good))} {what}" for what, good in checks.items() if not good.all()), None)


def _fold(rows: Labelled) -> Labelled:
    """Return the rows mirrored to their canonical form, each once."""
    folded = connect4.canonical(rows.positions)
    optimal = np.where((folded != rows.positions)[:, None], rows.optimal[:, ::-1], rows.optimal)
    _, first = np.unique(folded, return_index=True)
    return Labelled(folded[first], optimal[first], rows.value[first])


def _join(parts: list[Labelled]) -> Labelled:
    """Join data sets; where a position is in several, the first one's labels count."""
    positions = np.concatenate([part.positions for part in parts])
    optimal = np.concatenate([part.optimal for part in parts])
    value = np.concatenate([part.value for part in parts])
    _, first = np.unique(positions, return_index=True)
    return Labelled(positions[first], optimal[first], value[first])
