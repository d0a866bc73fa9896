"""Small ONNX files for the end-to-end tests: a good one, and one for each way to be bad."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dev import installation
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


def make_model(seed: int = 0, outputs: int = 7, preference: Sequence[float] | None = None) -> bytes:
    """Make a linear policy and value with random weights; different seeds give different digests.

    With a `preference` the policy likes the columns in that order, whatever the position.
    """
    random = np.random.default_rng(seed)
    policy = np.tile(preference, (126, 1)) if preference else random.normal(size=(126, outputs))
    weights = {
        "w_policy": policy.astype(np.float32) / 10,
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


def annotate(model: bytes) -> bytes:
    """Return the same model in another file: other digest, same answers."""
    annotated = onnx.load_model_from_string(model)
    annotated.doc_string = "twin"
    return annotated.SerializeToString()


def all_files() -> dict[str, bytes]:
    """Return every file of the tests by name."""
    good = make_model(seed=1)
    return {
        "good": good,
        "twin": annotate(good),
        "better": make_model(seed=2),
        "best": make_model(seed=3),
        "centre": make_model(seed=10, preference=(1, 2, 3, 4, 3.1, 2.1, 1.1)),
        "edge": make_model(seed=11, preference=(4, 3, 2, 1, 2.1, 3.1, 4.1)),
        "slow": sabotage.sabotage(make_model(seed=4), "slow"),
        "failing": sabotage.sabotage(make_model(seed=5), "failing"),
        "nan": make_nan_model(),
        "other-signature": make_model(seed=6, outputs=9),
        "not-onnx": b"this is a text and no model\n" * 40,
        "truncated": good[: len(good) // 2],
    }


def store(installed: installation.Installed, files: Mapping[str, bytes]) -> dict[str, Stored]:
    """Put files into MLflow's artifact store."""
    stored = {}
    with installation.forward(installed, "tidegate-mlflow", 5000) as address, httpx.Client(timeout=30) as client:
        for name, data in files.items():
            path = f"e2e/{name}-{digest(data)[:12]}.onnx"
            client.put(f"{address}/api/2.0/mlflow-artifacts/artifacts/{path}", content=data).raise_for_status()
            stored[name] = Stored(f"mlflow-artifacts:/{path}", digest(data), len(data))
    return stored
