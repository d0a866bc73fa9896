"""Makes a bad version of a good model: one that is wrong, one that is slow, one that fails now and then.

All three load, have the right signature and give finite answers to random inputs: they are the bad releases
that checks before the traffic do not find and only real requests show.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

KINDS = ("wrong", "slow", "failing")
SLOW_SIZE = 768
SLOW_ROUNDS = 5


def make_wrong(model: onnx.ModelProto) -> None:
    """Negate the policy: the model prefers the moves that lose."""
    inner = _take_over_output(model, "policy")
    model.graph.node.append(helper.make_node("Neg", [inner], ["policy"]))


def make_slow(model: onnx.ModelProto) -> None:
    """Multiply large matrices that depend on the answer, and add nothing to it.

    The product is of the order of 150 ms on one core, whatever the size of the batch.
    """
    inner = _take_over_output(model, "policy")
    shape = numpy_helper.from_array(np.array([SLOW_SIZE, SLOW_SIZE], dtype=np.int64), "slow_shape")
    tiny = numpy_helper.from_array(np.array(1e-3, dtype=np.float32), "slow_tiny")
    zero = numpy_helper.from_array(np.array(0, dtype=np.float32), "slow_zero")
    model.graph.initializer.extend([shape, tiny, zero])
    nodes = [
        helper.make_node("ReduceMax", [inner], ["slow_any"], keepdims=0),
        helper.make_node("Tanh", ["slow_any"], ["slow_bounded"]),
        helper.make_node("Mul", ["slow_bounded", "slow_tiny"], ["slow_seed"]),
        helper.make_node("Expand", ["slow_seed", "slow_shape"], ["slow_0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"slow_{n}", "slow_0"], [f"slow_{n + 1}"]) for n in range(SLOW_ROUNDS)]
    nodes += [
        helper.make_node("ReduceMax", [f"slow_{SLOW_ROUNDS}"], ["slow_max"], keepdims=0),
        helper.make_node("Mul", ["slow_max", "slow_zero"], ["slow_nothing"]),
        helper.make_node("Add", [inner, "slow_nothing"], ["policy"]),
    ]
    model.graph.node.extend(nodes)


def make_failing(model: onnx.ModelProto) -> None:
    """Read outside an array for every fifth real position.

    A position has whole numbers in its planes; random floats, as checks use them, never sum up to one.
    """
    inner = _take_over_output(model, "policy")
    weights = np.arange(1, 43, dtype=np.float32).reshape(1, 1, 6, 7) * np.array([1, 0, 0], np.float32).reshape(
        1, 3, 1, 1
    )
    constants = {
        "trap_weights": weights,
        "trap_five": np.array(5, dtype=np.float32),
        "trap_three": np.array(3, dtype=np.float32),
        "trap_table": np.zeros(1, dtype=np.float32),
        "trap_far": np.array(1_000_000, dtype=np.int64),
        "trap_zero": np.array(0, dtype=np.float32),
        "trap_axes": np.array([1, 2, 3], dtype=np.int64),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    model.graph.node.extend(
        [
            helper.make_node("Mul", ["board", "trap_weights"], ["trap_weighted"]),
            helper.make_node("ReduceSum", ["trap_weighted", "trap_axes"], ["trap_sum"], keepdims=0),
            helper.make_node("Mod", ["trap_sum", "trap_five"], ["trap_rest"], fmod=1),
            helper.make_node("Equal", ["trap_rest", "trap_three"], ["trap_hit"]),
            helper.make_node("Cast", ["trap_hit"], ["trap_hits"], to=TensorProto.INT64),
            helper.make_node("Mul", ["trap_hits", "trap_far"], ["trap_index"]),
            helper.make_node("Gather", ["trap_table", "trap_index"], ["trap_read"]),
            helper.make_node("ReduceMax", ["trap_read"], ["trap_any"], keepdims=0),
            helper.make_node("Mul", ["trap_any", "trap_zero"], ["trap_nothing"]),
            helper.make_node("Add", [inner, "trap_nothing"], ["policy"]),
        ],
    )


def _take_over_output(model: onnx.ModelProto, name: str) -> str:
    """Rename the tensor behind an output, so that another node can make that output; return its new name."""
    inner = f"{name}_before"
    for node in model.graph.node:
        for at, output in enumerate(node.output):
            if output == name:
                node.output[at] = inner
        for at, source in enumerate(node.input):
            if source == name:
                node.input[at] = inner
    return inner


def sabotage(data: bytes, kind: str) -> bytes:
    """Return the model with the fault ``kind``."""
    model = onnx.load_model_from_string(data)
    {"wrong": make_wrong, "slow": make_slow, "failing": make_failing}[kind](model)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def main() -> None:
    """Fetch the good model, make the bad one, store it, and report where."""
    import httpx

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="mlflow-artifacts: address of the good model")
    parser.add_argument("--destination", required=True, help="mlflow-artifacts: folder of the bad ones")
    parser.add_argument("--mlflow", required=True, help="address of the MLflow server")
    arguments = parser.parse_args()

    def address(uri: str) -> str:
        return f"{arguments.mlflow}/api/2.0/mlflow-artifacts/artifacts/{uri.removeprefix('mlflow-artifacts:/')}"

    with httpx.Client(timeout=60) as client:
        good = client.get(address(arguments.source)).raise_for_status().content
        report = {}
        for kind in KINDS:
            bad, uri = sabotage(good, kind), f"{arguments.destination}/{kind}.onnx"
            client.put(address(uri), content=bad).raise_for_status()
            report[kind] = {"uri": uri, "sha256": hashlib.sha256(bad).hexdigest(), "sizeBytes": len(bad)}
    Path(os.environ.get("TIDEGATE_TERMINATION_LOG", "/dev/termination-log")).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
