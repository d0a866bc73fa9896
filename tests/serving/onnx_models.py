"""Small ONNX models, good and bad, and the documents that speak of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BOARD = (3, 6, 7)
SIGNATURE = {
    "inputs": [{"name": "board", "dataType": "FP32", "shape": [-1, *BOARD]}],
    "outputs": [
        {"name": "policy", "dataType": "FP32", "shape": [-1, 7]},
        {"name": "value", "dataType": "FP32", "shape": [-1, 1]},
    ],
}


def save(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, np.ndarray], path: Path) -> Path:
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def tensor(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def policy_value(path: Path, seed: int = 0, batch: Any = "batch", policy: str = "policy", last: str = "Tanh") -> Path:
    """A linear policy and value net with Connect Four's signature; `last` is the operator of the value."""
    generator = np.random.default_rng(seed)
    weights = {
        "to_policy": generator.normal(size=(126, 7)).astype(np.float32),
        "to_value": generator.normal(size=(126, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Flatten", ["board"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "to_policy"], [policy]),
        helper.make_node("MatMul", ["flat", "to_value"], ["raw"]),
        helper.make_node(last, ["raw"], ["value"]),
    ]
    outputs = [tensor(policy, [batch, 7]), tensor("value", [batch, 1])]
    return save(nodes, [tensor("board", [batch, *BOARD])], outputs, weights, path)


def not_a_number(path: Path) -> Path:
    """The value is the square root of a number that is negative for half of all boards."""
    return policy_value(path, last="Sqrt")


def table_lookup(path: Path) -> Path:
    """Takes indices of a table with one row, so most inputs make it fail."""
    nodes = [helper.make_node("Gather", ["table", "index"], ["row"], axis=0)]
    return save(
        nodes,
        [tensor("index", ["batch"], TensorProto.INT64)],
        [tensor("row", ["batch", 2])],
        {"table": np.ones((1, 2), np.float32)},
        path,
    )


def echo_text(path: Path) -> Path:
    """Text in, the same text out."""
    nodes = [helper.make_node("Identity", ["text"], ["echo"])]
    kind = TensorProto.STRING
    return save(nodes, [tensor("text", ["batch", 1], kind)], [tensor("echo", ["batch", 1], kind)], {}, path)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def boards(rows: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, *BOARD)).astype(np.float32)


def serving_document(model: Path, repository: Path, **changes: Any) -> dict[str, Any]:
    """The document of a pod that serves the model from a file."""
    document = {
        "contractVersion": "v1",
        "modelName": "connect4",
        "modelVersion": "connect4-1.0.0",
        "namespace": "default",
        "deployment": "connect4",
        "artifact": {"uri": model.as_uri(), "sha256": digest(model), "sizeBytes": model.stat().st_size},
        "signature": SIGNATURE,
        "triton": {
            "maxBatchSize": 64,
            "maxQueueDelayMicroseconds": 500,
            "instances": 1,
            "gpus": 0,
            "warmup": True,
        },
        "repository": str(repository),
        "mlflowURL": None,
    }
    return document | changes


def validation_document(model: Path, **changes: Any) -> dict[str, Any]:
    """The document of a validation that asks for the signature only."""
    document = {
        "contractVersion": "v1",
        "namespace": "default",
        "name": "connect4-1.0.0",
        "modelVersion": "1.0.0",
        "artifact": {"uri": model.as_uri(), "sha256": digest(model), "sizeBytes": model.stat().st_size},
        "signature": SIGNATURE,
        "parity": None,
        "latency": None,
        "goldenSet": None,
        "mlflowURL": None,
    }
    return document | changes
