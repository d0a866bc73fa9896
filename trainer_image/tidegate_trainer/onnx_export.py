"""From a torch network to a checked ONNX file, and the files that go beside it.

Opset 17 in IR version 8 is read by every onnxruntime since 1.14, and so by every current Triton.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from tidegate_trainer.contract import Signature, Tensor
from tidegate_trainer.errors import Reason, TrainingError

__all__ = [
    "BATCH",
    "OPSET",
    "PARITY_BATCHES",
    "PARITY_TOLERANCE",
    "check_parity",
    "export",
    "open_session",
    "record_outputs",
    "signature_of",
    "to_npz",
]

Arrays = Mapping[str, NDArray[np.float32]]

OPSET = 17
BATCH = "batch"
PARITY_BATCHES = (1, 7, 64)
PARITY_TOLERANCE = 1e-3
"""Largest difference between torch and onnxruntime; float32 rounding stays two orders of magnitude below."""


def export(network: torch.nn.Module, inputs: Arrays, outputs: Sequence[str]) -> bytes:
    """Return the network as an ONNX file whose first dimension is free."""
    names = [*inputs, *outputs]
    rows = tuple(torch.from_numpy(array[:2]) for array in inputs.values())
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        # The newer exporter is the default and gives the same graph, for twenty times the CPU time.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network.eval(), rows, Path(folder, "model.onnx"), input_names=list(inputs), output_names=list(outputs),
            dynamic_axes={name: {0: BATCH} for name in names}, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
        model = Path(folder, "model.onnx").read_bytes()
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    return model


def record_outputs(network: torch.nn.Module, inputs: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Return what torch itself answers to `inputs`, by output name."""
    with torch.no_grad():
        answers = network.eval()(*(torch.from_numpy(array) for array in inputs.values()))
    return {name: answer.numpy() for name, answer in zip(outputs, answers, strict=True)}


def check_parity(model: bytes, inputs: Arrays, expected: Arrays, tolerance: float = PARITY_TOLERANCE) -> float:
    """Return the largest difference between onnxruntime and the recorded outputs, in batches of 1, 7 and 64 rows.

    Raises:
        TrainingError: ParityFailed when the difference is above `tolerance` or not a number.
    """
    session = open_session(model)
    rows = len(next(iter(inputs.values())))
    worst = 0.0
    for size in PARITY_BATCHES:
        for start in range(0, min(rows, 4 * size), size):
            part = slice(start, start + size)
            answers = session.run(list(expected), {name: array[part] for name, array in inputs.items()})
            for answer, name in zip(answers, expected, strict=True):
                difference = float(np.max(np.abs(answer - expected[name][part])))
                if not difference <= tolerance:
                    raise _differs(name, difference, size, tolerance)
                worst = max(worst, difference)
    return worst


def _differs(name: str, difference: float, size: int, tolerance: float) -> TrainingError:
    message = (
        f"onnxruntime and torch differ by {difference:g} in {name!r} in batches of {size} (allowed {tolerance:g}); "
        "the export is not used; report it with the document"
    )
    return TrainingError(Reason.PARITY_FAILED, message)


def open_session(model: bytes) -> onnxruntime.InferenceSession:
    """Open an ONNX file with onnxruntime on one CPU thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def signature_of(model: bytes) -> Signature:
    """Return the inputs and outputs the ONNX file declares."""
    session = open_session(model)
    return Signature(
        inputs=[_tensor(one) for one in session.get_inputs()], outputs=[_tensor(one) for one in session.get_outputs()]
    )


def to_npz(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Return the arrays as a compressed .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _tensor(argument: onnxruntime.NodeArg) -> Tensor:
    if argument.type != "tensor(float)":
        raise TrainingError(Reason.PARITY_FAILED, f"{argument.name} is a {argument.type}; models carry FP32 only")
    return Tensor(name=argument.name, shape=[one if isinstance(one, int) else -1 for one in argument.shape])
