"""The checks of a loaded model. Each returns what it found or raises `CheckFailed` with the remedy."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tidegate_serving.contract import GoldenMetric, Signature, Tensor
from tidegate_serving.onnx_model import Array, CannotRun, Feeds, OnnxModel, random_inputs

__all__ = [
    "CheckFailed",
    "Finding",
    "check_finite_outputs",
    "check_golden_set",
    "check_latency",
    "check_parity",
    "check_signature",
    "input_rows",
    "read_arrays",
]

RANDOM_ROWS = 8
WARM_UP_RUNS = 20
LATENCY_RUNS = 300
LATENCY_ROUNDS = 3
LATENCY_SECONDS = 20.0
"""For one round; a slow model gets fewer runs, but at least `LEAST_RUNS`."""
LEAST_RUNS = 20


class CheckFailed(Exception):
    """A check was made and the model did not pass."""

    def __init__(self, message: str, measured: float | None = None, metrics: dict[str, float] | None = None) -> None:
        super().__init__(message)
        self.measured = measured
        self.metrics = metrics or {}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a passed check found."""

    message: str
    measured: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


def check_signature(found: Signature, wanted: Signature) -> Finding:
    """The model must take and give what the ModelVersion promises; further outputs are no matter."""
    problems = compare_group("input", found.inputs, wanted.inputs) + compare_group(
        "output", found.outputs, wanted.outputs
    )
    promised = {tensor.name for tensor in wanted.inputs}
    problems += [f"input {t.name} is not in spec.signature" for t in found.inputs if t.name not in promised]
    if problems:
        raise CheckFailed(
            f"{'; '.join(problems)}. Correct spec.signature or export the model with these names and shapes"
        )
    return Finding(f"{len(wanted.inputs)} inputs and {len(wanted.outputs)} outputs as promised")


def compare_group(kind: str, found: Iterable[Tensor], wanted: Iterable[Tensor]) -> list[str]:
    """The differences of all inputs or of all outputs."""
    by_name = {tensor.name: tensor for tensor in found}
    problems = []
    for tensor in wanted:
        if (actual := by_name.get(tensor.name)) is None:
            problems.append(f"{kind} {tensor.name} is missing, the model has {', '.join(by_name)}")
        else:
            problems += compare_tensor(kind, actual, tensor)
    return problems


def compare_tensor(kind: str, found: Tensor, wanted: Tensor) -> list[str]:
    """The differences of one tensor. A model that takes any size also takes the promised one."""
    problems = []
    if found.data_type != wanted.data_type:
        problems.append(f"{kind} {wanted.name} is {found.data_type}, promised is {wanted.data_type}")
    fits = len(found.shape) == len(wanted.shape) and all(
        actual in (-1, promised) for actual, promised in zip(found.shape, wanted.shape, strict=True)
    )
    if not fits:
        problems.append(f"{kind} {wanted.name} has shape {list(found.shape)}, promised is {list(wanted.shape)}")
    return problems


def check_finite_outputs(model: OnnxModel, parity: Feeds | None) -> Finding:
    """No output may be NaN or infinite, on random inputs and on the recorded ones.

    Random inputs may be nonsense to a model (a token it does not know), so its refusal of them counts only when there
    are no recorded ones.
    """
    checked = []
    if parity is not None:
        assess_finite("recorded", model.run_rows(parity))
        checked.append("recorded")
    try:
        feeds = random_inputs(model.signature, model.fixed_batch or RANDOM_ROWS, seed=0)
        assess_finite("random", model.run(feeds))
        checked.append("random")
    except CannotRun as error:
        if not checked:
            raise CheckFailed(
                f"{error}; make the model take any input of its signature, or give a parity set"
            ) from error
    return Finding(f"all outputs finite on {' and '.join(checked)} inputs")


def assess_finite(kind: str, outputs: Feeds) -> None:
    """Raise with the name of the output and the count of bad values."""
    for name, array in outputs.items():
        if not np.issubdtype(array.dtype, np.floating):
            continue
        nans, infinities = int(np.isnan(array).sum()), int(np.isinf(array).sum())
        if nans or infinities:
            counts = " and ".join(f"{n} {what}" for n, what in ((nans, "NaN"), (infinities, "infinite")) if n)
            raise CheckFailed(
                f"output {name} has {counts} of {array.size} values on {kind} inputs; look for a division by zero, a "
                "logarithm of zero or an overflow of the weights, and train or export again",
                measured=float(nans + infinities),
            )


def read_arrays(path: Path, what: str) -> Feeds:
    """The arrays of an .npz file; pickled objects in it are refused, for they could run code."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise CheckFailed(f"the {what} is no .npz file of plain arrays: {error}; write it with numpy.savez") from error


def recorded(arrays: Feeds, prefix: str, names: Iterable[str], what: str) -> Feeds:
    """The arrays with a prefix, by the bare name; all must be there, with the same number of rows."""
    missing = [f"{prefix}{name}" for name in names if f"{prefix}{name}" not in arrays]
    if missing:
        raise CheckFailed(f"the {what} lacks {', '.join(missing)} (it has {', '.join(arrays)}); record it again")
    found = {name: arrays[f"{prefix}{name}"] for name in names}
    if len({len(array) if array.ndim else 0 for array in found.values()} - {0}) != 1:
        raise CheckFailed(f"the arrays {prefix}… of the {what} are empty or differ in rows; record it again")
    return found


def input_rows(model: OnnxModel, arrays: Feeds, what: str) -> Feeds:
    """The recorded inputs of the model."""
    return recorded(arrays, "in_", [tensor.name for tensor in model.signature.inputs], what)


def check_parity(model: OnnxModel, arrays: Feeds, tolerance: float) -> Finding:
    """The outputs must be those of the training framework, within the tolerance, in every value."""
    inputs = input_rows(model, arrays, "parity set")
    names = [t.name for t in model.signature.outputs if f"out_{t.name}" in arrays]
    if not names:
        raise CheckFailed(f"the parity set has no out_<output> (it has {', '.join(arrays)}); record it again")
    wanted = recorded(arrays, "out_", names, "parity set")
    outputs = model.run_rows(inputs)
    worst, value = max(((name, largest_difference(outputs[name], wanted[name], name)) for name in names), key=second)
    rows = len(next(iter(inputs.values())))
    message = f"largest difference {value:.3g} (output {worst}, {rows} rows), allowed {tolerance:g}"
    if not value <= tolerance:
        measured = value if np.isfinite(value) else None
        raise CheckFailed(f"{message}; the export changed the model: export again, or raise the tolerance", measured)
    return Finding(message, value, {"parityMaxAbsDifference": value})


def second(pair: tuple[str, float]) -> float:
    """The number of a pair; NaN, which no comparison finds, counts as the largest."""
    return float("inf") if np.isnan(pair[1]) else pair[1]


def largest_difference(found: Array, wanted: Array, name: str) -> float:
    """The largest absolute difference of two arrays of one shape; of other things than numbers 0 or infinity."""
    if found.shape != wanted.shape:
        raise CheckFailed(
            f"output {name} has shape {list(found.shape)}, recorded was {list(wanted.shape)}; record the set again"
        )
    if not np.issubdtype(found.dtype, np.number):
        return 0.0 if np.array_equal(found, wanted) else float("inf")
    return float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max(initial=0.0))


def check_latency(
    model: OnnxModel,
    rows: int,
    bound: float,
    recorded_inputs: Feeds | None,
    clock: Callable[[], float] = time.perf_counter,
) -> Finding:
    """The 99th percentile of a run, in milliseconds, must be within the bound.

    A neighbour on the node can only make a round slower, so the best of up to three rounds is taken as the model's own.
    """
    if model.fixed_batch not in (None, rows):
        raise CheckFailed(f"the model takes {model.fixed_batch} rows only; set validation.latency.batchSize to that")
    feeds = repeat_rows(recorded_inputs, rows) if recorded_inputs else random_inputs(model.signature, rows, seed=1)
    for _ in range(WARM_UP_RUNS):
        model.run(feeds)
    rounds: list[tuple[float, float]] = []
    while len(rounds) < LATENCY_ROUNDS and not any(p99 <= bound for p99, _ in rounds):
        rounds.append(measure(model, feeds, clock))
    p99, p50 = min(rounds)
    metrics = {"latencyP50Milliseconds": round(p50, 4), "latencyP99Milliseconds": round(p99, 4)}
    message = f"p99 {p99:.3g} ms, p50 {p50:.3g} ms with {rows} rows, allowed p99 {bound:g} ms"
    if p99 > bound:
        remedy = "make the model smaller, give the validation more CPU, or raise validation.latency.p99Milliseconds"
        raise CheckFailed(f"{message}; {remedy}", p99, metrics)
    return Finding(message, p99, metrics)


def repeat_rows(feeds: Feeds, rows: int) -> Feeds:
    """The first rows of the recorded inputs, repeated where there are too few."""
    return {name: np.resize(array, (rows, *array.shape[1:])) for name, array in feeds.items()}


def measure(model: OnnxModel, feeds: Feeds, clock: Callable[[], float]) -> tuple[float, float]:
    """99th percentile and median of one round of runs, in milliseconds."""
    times: list[float] = []
    end = clock() + LATENCY_SECONDS
    while len(times) < LEAST_RUNS or (len(times) < LATENCY_RUNS and clock() < end):
        start = clock()
        model.run(feeds)
        times.append((clock() - start) * 1000)
    return float(np.percentile(times, 99)), float(np.percentile(times, 50))


def check_golden_set(model: OnnxModel, arrays: Feeds, metric: GoldenMetric, least: float) -> Finding:
    """The metric over the golden set must not be below its bound."""
    inputs = input_rows(model, arrays, "golden set")
    rows = len(next(iter(inputs.values())))
    measure_metric = {GoldenMetric.MOVE_ACCURACY: right_moves, GoldenMetric.ACCURACY: right_labels}[metric]
    value = float(np.mean(measure_metric(model.run_rows(inputs), arrays, rows)))
    message = f"{metric} {value:.4f} over {rows} rows, required {least:g}"
    if not value >= least:
        remedy = "train for longer or on more data, or lower validation.goldenSet.min"
        raise CheckFailed(f"{message}, short by {least - value:.4f}; {remedy}", value, {metric.value: value})
    return Finding(message, value, {metric.value: value})


def answers(arrays: Feeds, name: str, rows: int) -> Array:
    """The right answers of the golden set, a row for each row of the inputs."""
    array = recorded(arrays, "", [name], "golden set")[name]
    if len(array) != rows:
        raise CheckFailed(f"{name} of the golden set has {len(array)} rows and the inputs have {rows}; record it again")
    return array


def right_moves(outputs: Feeds, arrays: Feeds, rows: int) -> Array:
    """For each position whether the best legal move by `policy` keeps the game-theoretic value."""
    legal = answers(arrays, "legal", rows).astype(bool)
    optimal = answers(arrays, "optimal", rows).astype(bool)
    if "policy" not in outputs:
        raise CheckFailed(f"moveAccuracy needs an output policy, the model has {', '.join(outputs)}; name it so")
    policy = outputs["policy"]
    if policy.shape != legal.shape or legal.shape != optimal.shape:
        shapes = f"policy {list(policy.shape)}, legal {list(legal.shape)}, optimal {list(optimal.shape)}"
        raise CheckFailed(f"the golden set does not fit the model: {shapes}; record it for this signature")
    chosen = np.where(legal, policy, -np.inf).argmax(axis=1)
    picked: Array = (optimal & legal)[np.arange(rows), chosen]
    return picked


def right_labels(outputs: Feeds, arrays: Feeds, rows: int) -> Array:
    """For each row whether the largest value of the first output stands at the label."""
    name, scores = next(iter(outputs.items()))
    if scores.ndim != 2:
        raise CheckFailed(f"accuracy needs a first output of rows and classes, {name} has shape {list(scores.shape)}")
    right: Array = scores.argmax(axis=1) == answers(arrays, "labels", rows)
    return right
