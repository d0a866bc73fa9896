"""Answers of the v2 protocol, read and compared."""

import json
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tidegate_serving.answers import (
    _CONTENTS,
    _TYPES,
    Criterion,
    IncomparableError,
    agree,
    read_answer,
    read_grpc_answer,
)
from tidegate_serving.contract import Agreement

ARGMAX = Criterion(Agreement.ARGMAX)


def near(tolerance: float, outputs: tuple[str, ...] | None = None) -> Criterion:
    return Criterion(Agreement.TOLERANCE, tolerance, outputs)


def floats(*rows: list[float]) -> np.ndarray[Any, Any]:
    return np.array(rows, dtype=np.float32)


def test_json_and_binary_answers_are_the_same_outputs() -> None:
    policy = floats([0.25, 0.75])
    described = {"name": "policy", "datatype": "FP32", "shape": [1, 2]}
    as_json = json.dumps({"outputs": [described | {"data": [0.25, 0.75]}]}).encode()
    head = json.dumps({"outputs": [described | {"parameters": {"binary_data_size": 8}}]}).encode()
    for body, length in ((as_json, None), (head + policy.tobytes(), str(len(head)))):
        found = read_answer(body, length)
        assert found.keys() == {"policy"}
        np.testing.assert_array_equal(found["policy"], policy)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"error": "no"}',
        b'{"outputs": [{"name": "a"}]}',
        b'{"outputs": [{"name": "a", "datatype": "FP32", "shape": [3], "data": [1]}]}',
        b'{"outputs": [{"name": "a", "datatype": "NONE", "shape": [1], "data": [1]}]}',
    ],
)
def test_what_is_not_an_answer_is_said(body: bytes) -> None:
    with pytest.raises(IncomparableError, match="v2 protocol"):
        read_answer(body, None)


@pytest.mark.parametrize(
    ("criterion", "stable", "shadow", "expected"),
    [
        (ARGMAX, floats([0.1, 0.9]), floats([0.4, 0.6]), True),
        (ARGMAX, floats([0.1, 0.9]), floats([0.6, 0.4]), False),
        (ARGMAX, floats([0.1, 0.9], [0.9, 0.1]), floats([0.1, 0.9], [0.1, 0.9]), False),
        (ARGMAX, floats([0.1, 0.9]), floats([0.1, float("nan")]), False),
        (near(0.5), floats([0.1, 0.9]), floats([0.4, 0.6]), True),
        (near(0.2), floats([0.1, 0.9]), floats([0.4, 0.6]), False),
        (near(0.2), floats([0.1]), floats([float("inf")]), False),
        (near(9), floats([0.1]), floats([0.1, 0.1]), False),
        (ARGMAX, np.array([3]), np.array([3]), True),
        (ARGMAX, np.array([3]), np.array([4]), False),
        (near(9), np.array([b"cat"], dtype=object), np.array([b"dog"], dtype=object), False),
    ],
)
def test_agreement(criterion: Criterion, stable: Any, shadow: Any, expected: bool) -> None:
    assert agree({"a": stable}, {"a": shadow}, criterion) is expected


def test_a_missing_output_disagrees_and_one_that_is_not_compared_does_not() -> None:
    stable, shadow = {"a": floats([1, 2]), "b": floats([1, 2])}, {"a": floats([1, 2])}
    assert not agree(stable, shadow, ARGMAX)
    assert agree(stable, shadow, Criterion(Agreement.ARGMAX, outputs=("a",)))


def test_a_value_head_beside_a_policy_is_left_to_tolerance() -> None:
    stable, shadow = {"p": floats([1, 2]), "v": floats([0.1])}, {"p": floats([1, 2]), "v": floats([0.9])}
    assert agree(stable, shadow, ARGMAX)
    assert not agree(stable, shadow, near(0.1))


def test_nothing_to_compare_is_said() -> None:
    with pytest.raises(IncomparableError, match="agreement: Tolerance"):
        agree({"v": floats([0.1])}, {"v": floats([0.2])}, ARGMAX)
    with pytest.raises(IncomparableError, match="no output 'x'"):
        agree({"v": floats([0.1])}, {}, near(1, ("x",)))


# gRPC


def grpc_answer(kind: str, values: list[Any], binary: bytes | None = None) -> bytes:
    """Write an answer with the vendor's messages."""
    made = service_pb2.ModelInferResponse(model_name="m", id="7")
    output = made.outputs.add(name="a", datatype=kind, shape=[1, len(values)])
    output.parameters["x"].bool_param = True
    if binary is None:
        getattr(output.contents, _CONTENTS[kind]).extend(values)
    else:
        made.raw_output_contents.append(binary)
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("kind", sorted(_CONTENTS.keys() - {"BYTES", "FP16"}))
def test_typed_and_binary_grpc_answers_are_the_same_outputs_in_every_type(kind: str) -> None:
    values = np.array([[1, 0]], dtype=_TYPES[kind])
    typed = read_grpc_answer(grpc_answer(kind, values[0].tolist()))
    binary = read_grpc_answer(grpc_answer(kind, [1, 0], values.tobytes()))
    for found in (typed, binary):
        assert found["a"].dtype == values.dtype
        np.testing.assert_array_equal(found["a"], values)


def test_texts_and_halves_over_grpc() -> None:
    np.testing.assert_array_equal(
        read_grpc_answer(grpc_answer("BYTES", [b"yes", b"no"]))["a"], np.array([[b"yes", b"no"]], dtype=object)
    )
    one, other = (read_grpc_answer(grpc_answer("BYTES", [0], each)) for each in (b"\1\0\0\0a", b"\1\0\0\0b"))
    assert agree(one, one, ARGMAX)
    assert not agree(one, other, ARGMAX)
    halves = np.array([[0.5, 0.25]], dtype=np.float16)
    np.testing.assert_array_equal(read_grpc_answer(grpc_answer("FP16", [0, 0], halves.tobytes()))["a"], halves)


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xff",
        grpc_answer("BF16", [0, 0], bytes(4)),
        grpc_answer("FP32", [1.0, 2.0], bytes(4)),
        grpc_answer("FP32", [1.0], bytes(4))
        + service_pb2.ModelInferResponse(raw_output_contents=[b""]).SerializeToString(),
    ],
    ids=["no message", "unknown type", "too few bytes", "more values than outputs"],
)
def test_what_is_no_grpc_answer_is_told(body: bytes) -> None:
    with pytest.raises(IncomparableError, match="not one of the v2 protocol"):
        read_grpc_answer(body)
