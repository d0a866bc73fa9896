"""ONNX Runtime as a python-based backend of Triton, for machines without the vendor image.

Triton calls a folder ``onnxruntime/model.py`` in its backend directory the backend ``onnxruntime``, so one
``config.pbtxt`` and one repository layout run here and on the vendor image, whose backend of that name is in C++.
Understood parameters are the vendor's: ``intra_op_thread_count`` and ``inter_op_thread_count``.

Triton's stub runs its interpreter isolated: it ignores ``PYTHONPATH`` and virtual environments, so the packages lie
beside this file (see ``triton/install.py``) and come before whatever the machine's own Python has.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
# Read when the library starts; without it the official build sends what it knows of the model to its maker.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

Array = npt.NDArray[Any]

TRITON_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}
CGROUP = Path("/sys/fs/cgroup")
QUOTA_FILES = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))


def allowed_cores() -> int:
    """Whole cores that this container may use: the cgroup quota rounded up, else the affinity of the process."""
    cores = len(os.sched_getaffinity(0))
    for files in QUOTA_FILES:
        texts = [(CGROUP / file).read_text() for file in files if (CGROUP / file).exists()]
        numbers = " ".join(texts).split()
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            return max(1, min(cores, math.ceil(int(numbers[0]) / int(numbers[1]))))
    return cores


def parameter(config: dict[str, Any], name: str) -> str | None:
    """The string value of one parameter of config.pbtxt, or None."""
    found = config.get("parameters", {}).get(name)
    return None if found is None else str(found["string_value"])


def build_session(model_file: Path, config: dict[str, Any]) -> ort.InferenceSession:
    """A CPU session of the model file with the thread counts of the configuration.

    Threads default to the container's share of the machine, not to all its cores: more only fight for the quota.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(parameter(config, "intra_op_thread_count") or allowed_cores())
    options.inter_op_num_threads = int(parameter(config, "inter_op_thread_count") or 1)
    # Spinning workers burn the quota that the next request needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(model_file), options, providers=["CPUExecutionProvider"])


def model_path(version_folder: Path, config: dict[str, Any]) -> Path:
    """The model file of a version."""
    return version_folder / (config.get("default_model_filename") or "model.onnx")


def described(node: Any, batched: bool) -> dict[str, Any]:
    """One input or output of the session as Triton's configuration writes it."""
    dims = [d if isinstance(d, int) else -1 for d in node.shape]
    if batched and len(dims) < 2:
        remedy = "state the signature in the ModelVersion or set maxBatchSize to 0"
        raise pb_utils.TritonModelException(
            f"{node.name} has no dimension but the batch, which Triton must be told: {remedy}"
        )
    return {"name": node.name, "data_type": TRITON_TYPES[node.type], "dims": dims[1:] if batched else dims}


def from_triton(tensor: Array) -> Array:
    """Triton's bytes become the text that ONNX Runtime wants; numbers stay."""
    if tensor.dtype != np.object_:
        return tensor
    texts = [item.decode() if isinstance(item, bytes) else str(item) for item in tensor.ravel()]
    return np.array(texts, dtype=np.object_).reshape(tensor.shape)


def to_triton(tensor: Array) -> Array:
    """The other way round of `from_triton`; results are made contiguous because Triton copies them as one block."""
    if tensor.dtype != np.object_:
        return np.ascontiguousarray(tensor)
    return np.array([str(item).encode() for item in tensor.ravel()], dtype=np.object_).reshape(tensor.shape)


def start_guard() -> subprocess.Popen[bytes]:
    """A shell that kills the server when this process dies without a farewell.

    Triton lists a model READY for ever after its stub was killed (out of memory, say) and answers every request with an
    error. A dead server is restarted and gets its model again, so death is the honest state. The shell waits on a pipe:
    it costs no time, and the end of this process closes the pipe however it ends.
    """
    script = 'read -r farewell || kill -KILL "$1"'
    return subprocess.Popen(["/bin/sh", "-c", script, "guard", str(os.getppid())], stdin=subprocess.PIPE)


class TritonPythonModel:
    """The class that Triton's python backend looks for."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in inputs and outputs that config.pbtxt leaves out; a complete one costs no second load of the model."""
        config = auto_complete_model_config.as_dict()
        if config["input"] and config["output"]:
            return auto_complete_model_config
        session = build_session(model_path(Path(pb_utils.get_model_dir()), config), config)
        batched = config["max_batch_size"] > 0
        for node in session.get_inputs():
            auto_complete_model_config.add_input(described(node, batched))
        for node in session.get_outputs():
            auto_complete_model_config.add_output(described(node, batched))
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model file of the version that Triton asks for."""
        config = json.loads(args["model_config"])
        version_folder = Path(args["model_repository"], args["model_version"])
        self.session = build_session(model_path(version_folder, config), config)
        self.inputs = [node.name for node in self.session.get_inputs()]
        self.batched = config["max_batch_size"] > 0
        self.outputs = [output["name"] for output in config["output"]]
        self.guard = start_guard()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests that Triton's batcher put together with one run of the model.

        When the joint run fails each request runs alone, so that a bad one does not spoil its neighbours' answers.
        """
        feeds = [self.feed(request) for request in requests]
        if not self.batched or len(feeds) == 1:
            return [self.answer(feed) for feed in feeds]
        try:
            return self.answer_together(feeds)
        except Exception:  # ONNX Runtime has no common base class for its errors
            return [self.answer(feed) for feed in feeds]

    def finalize(self) -> None:
        """Give the memory of the session back when the model is unloaded, and dismiss the guard."""
        del self.session
        self.guard.communicate(b"farewell\n")

    def feed(self, request: Any) -> dict[str, Array]:
        """The inputs of one request by name."""
        tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self.inputs}
        return {name: from_triton(tensor.as_numpy()) for name, tensor in tensors.items() if tensor is not None}

    def answer(self, feed: dict[str, Array]) -> Any:
        """The response to one request; an error of the model becomes the response's error."""
        try:
            return self.response(self.session.run(self.outputs, feed))
        except Exception as error:  # see execute
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"ONNX Runtime: {error}"))

    def answer_together(self, feeds: list[dict[str, Array]]) -> list[Any]:
        """One run over the concatenated rows of all requests, split into a response for each."""
        joint = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        ends = np.cumsum([len(feed[self.inputs[0]]) for feed in feeds])[:-1]
        parts = [np.split(result, ends) for result in self.session.run(self.outputs, joint)]
        return [self.response(list(results)) for results in zip(*parts, strict=True)]

    def response(self, results: list[Array]) -> Any:
        """Name the results and hand them to Triton."""
        named = zip(self.outputs, results, strict=True)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, to_triton(result)) for name, result in named])
