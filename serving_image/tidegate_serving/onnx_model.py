"""A loaded ONNX model: its signature, and runs on any number of rows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read when the library starts; without it the official build sends what it knows of the model to its maker.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import numpy.typing as npt
import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]

from tidegate_serving.contract import DataType, Signature, Tensor

__all__ = ["Array", "CannotLoad", "CannotRun", "Feeds", "OnnxModel", "load_model", "random_inputs"]

Array = npt.NDArray[Any]
Feeds = dict[str, Array]

TYPES = {
    "tensor(bool)": (DataType.BOOL, np.bool_),
    "tensor(uint8)": (DataType.UINT8, np.uint8),
    "tensor(uint16)": (DataType.UINT16, np.uint16),
    "tensor(uint32)": (DataType.UINT32, np.uint32),
    "tensor(uint64)": (DataType.UINT64, np.uint64),
    "tensor(int8)": (DataType.INT8, np.int8),
    "tensor(int16)": (DataType.INT16, np.int16),
    "tensor(int32)": (DataType.INT32, np.int32),
    "tensor(int64)": (DataType.INT64, np.int64),
    "tensor(float16)": (DataType.FP16, np.float16),
    "tensor(float)": (DataType.FP32, np.float32),
    "tensor(double)": (DataType.FP64, np.float64),
    "tensor(string)": (DataType.BYTES, np.object_),
}
NUMPY_TYPES = dict(TYPES.values())
CHUNK_ROWS = 256
ANY_SIZE = 8
"""What a dimension of any size, other than the batch, becomes in random inputs."""
FOREIGN_FILES = {
    b"PK\x03\x04": "a zip archive, as torch.save and Keras write it",
    b"\x80": "a Python pickle",
    b"<": "a web page or XML, perhaps a log-in page of the storage",
    b"{": "a JSON document",
    b"version https://git-lfs": "a Git LFS pointer instead of the file",
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
}
EXPORT = "export the model to one .onnx file and upload that"


class CannotLoad(Exception):
    """The file is no model that can be served; the message ends with the remedy."""


class CannotRun(Exception):
    """The model was loaded and fails when it runs."""


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A session with its signature."""

    session: ort.InferenceSession
    signature: Signature

    def run(self, feeds: Feeds) -> Feeds:
        """One run; outputs by name."""
        names = [output.name for output in self.signature.outputs]
        try:
            return dict(zip(names, self.session.run(names, feeds), strict=True))
        except Exception as error:  # ONNX Runtime has no common base class for its errors
            raise CannotRun(f"the model fails when it runs: {error}") from error

    def run_rows(self, feeds: Feeds) -> Feeds:
        """Run over all rows in pieces, for memory's sake; a model with a fixed batch gets full batches."""
        rows = len(next(iter(feeds.values())))
        batch = self.fixed_batch or CHUNK_ROWS
        parts = [self._run_piece(feeds, start, batch) for start in range(0, rows, batch)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @property
    def fixed_batch(self) -> int | None:
        """The number of rows of every run, or None where it is free."""
        shape = self.signature.inputs[0].shape
        return shape[0] if shape and shape[0] != -1 else None

    def _run_piece(self, feeds: Feeds, start: int, batch: int) -> Feeds:
        piece = {name: array[start : start + batch] for name, array in feeds.items()}
        rows = len(next(iter(piece.values())))
        if self.fixed_batch is not None and rows < batch:
            piece = {
                name: np.concatenate([part, np.repeat(part[-1:], batch - rows, 0)]) for name, part in piece.items()
            }
        return {name: array[:rows] for name, array in self.run(piece).items()}


def load_model(path: Path, threads: int) -> OnnxModel:
    """Load the file on the CPU as Triton's backend does."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except MemoryError as error:
        raise CannotLoad("no memory for the model; raise the memory of the validation pod") from error
    except Exception as error:  # see run
        raise CannotLoad(explain(path, str(error))) from error
    return OnnxModel(session, read_signature(session))


def explain(path: Path, error: str) -> str:
    """Why ONNX Runtime refuses a file, in words that say what to do."""
    if foreign := recognise(path):
        return f"not an ONNX file but {foreign}; {EXPORT}"
    lowered = error.lower()
    if "protobuf" in lowered and "pars" in lowered:
        return f"not an ONNX file, or one that is damaged or cut off; {EXPORT} ({error})"
    if "bad_alloc" in lowered or "allocate memory" in lowered:
        return f"no memory for the model; raise the memory of the validation pod ({error})"
    if "opset" in lowered or "ir version" in lowered:
        return f"too new for ONNX Runtime {ort.__version__}; export with an older opset ({error})"
    if "external data" in lowered or "external_data" in lowered:
        return f"the weights lie in a second file; {EXPORT} ({error})"
    return f"ONNX Runtime {ort.__version__} cannot load it; {EXPORT} ({error})"


def recognise(path: Path) -> str | None:
    """What a file is that is not ONNX, by its first bytes."""
    with path.open("rb") as stream:
        head = stream.read(32).lstrip()
    return next((meaning for magic, meaning in FOREIGN_FILES.items() if head.startswith(magic)), None)


def read_signature(session: ort.InferenceSession) -> Signature:
    """The signature of a loaded model."""
    inputs = tuple(describe(node) for node in session.get_inputs())
    outputs = tuple(describe(node) for node in session.get_outputs())
    if not inputs or not outputs:
        raise CannotLoad(
            f"the model has {len(inputs)} inputs and {len(outputs)} outputs and needs one of each at least"
        )
    return Signature(inputs=inputs, outputs=outputs)


def describe(node: Any) -> Tensor:
    """One input or output; symbolic dimensions become -1."""
    if node.type not in TYPES:
        raise CannotLoad(f"{node.name} is a {node.type}, which the v2 protocol cannot carry; export it as a tensor")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return Tensor(name=node.name, data_type=TYPES[node.type][0], shape=shape)


def random_inputs(signature: Signature, rows: int, seed: int) -> Feeds:
    """Inputs of the right type and shape: normal numbers, small whole numbers, short texts."""
    generator = np.random.default_rng(seed)
    return {tensor.name: random_tensor(tensor, rows, generator) for tensor in signature.inputs}


def random_tensor(tensor: Tensor, rows: int, generator: np.random.Generator) -> Array:
    """Random values for one input."""
    free = (rows, *(ANY_SIZE for _ in tensor.shape[1:]))
    shape = tuple(free[i] if size == -1 else size for i, size in enumerate(tensor.shape))
    if tensor.data_type == DataType.BYTES:
        return np.full(shape, "text", dtype=np.object_)
    numpy_type = NUMPY_TYPES[tensor.data_type]
    if np.issubdtype(numpy_type, np.floating):
        return generator.standard_normal(shape).astype(numpy_type)
    return generator.integers(0, 2, shape).astype(numpy_type)
