"""Small ONNX files for the end-to-end tests: a good one, and one for each way to be bad."""

import hashlib
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dev.demo import sabotage

SIGNATURE = {
    "inputs": [{"name": "board", "dataType": "FP32", "shape": [-1, 3, 6, 7]}],
    "outputs": [
        {"name": "policy", "dataType": "FP32", "shape": [-1, 7]},
        {"name": "value", "dataType": "FP32", "shape": [-1, 1]},
    ],
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A file in the artifact store."""

    uri: str
    sha256: str
    size: int

    def reference(self) -> dict[str, object]:
        """Return it as ``spec.artifact``."""
        return {"uri": self.uri, "sha256": self.sha256, "sizeBytes": self.size, "format": "ONNX"}


def digest(data: bytes) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(data).hexdigest()


def make_model(seed: int = 0, outputs: int = 7) -> bytes:
    """Make a linear policy and value with random weights; different seeds give different digests."""
    random = np.random.default_rng(seed)
    weights = {
        "w_policy": random.normal(size=(126, outputs)).astype(np.float32) / 10,
        "w_value": random.normal(size=(126, 1)).astype(np.float32) / 10,
        "flat": np.array([0, 126], dtype=np.int64),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["board", "flat"], ["features"]),
            helper.make_node("MatMul", ["features", "w_policy"], ["policy"]),
            helper.make_node("MatMul", ["features", "w_value"], ["raw_value"]),
            helper.make_node("Tanh", ["raw_value"], ["value"]),
        ],
        "linear",
        [helper.make_tensor_value_info("board", TensorProto.FLOAT, ["batch", 3, 6, 7])],
        [
            helper.make_tensor_value_info("policy", TensorProto.FLOAT, ["batch", outputs]),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, ["batch", 1]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def make_nan_model() -> bytes:
    """Make a model whose policy is not a number."""
    model = onnx.load_model_from_string(make_model(seed=90))
    inner = "policy_before"
    for node in model.graph.node:
        node.output[:] = [inner if name == "policy" else name for name in node.output]
    model.graph.node.append(helper.make_node("Sub", [inner, inner], ["zero"]))
    model.graph.node.append(helper.make_node("Div", ["zero", "zero"], ["policy"]))
    return model.SerializeToString()


def all_files() -> dict[str, bytes]:
    """Return every file of the tests by name."""
    good = make_model(seed=1)
    return {
        "good": good,
        "better": make_model(seed=2),
        "best": make_model(seed=3),
        "slow": sabotage.sabotage(make_model(seed=4), "slow"),
        "failing": sabotage.sabotage(make_model(seed=5), "failing"),
        "nan": make_nan_model(),
        "other-signature": make_model(seed=6, outputs=9),
        "not-onnx": b"this is a text and no model\n" * 40,
        "truncated": good[: len(good) // 2],
    }
