"""Answers of the KServe v2 protocol, over HTTP and gRPC, read and compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from tidegate_serving.contract import Agreement
from tidegate_serving.inference_messages import InferAnswer

__all__ = ["Criterion", "IncomparableError", "Outputs", "agree", "read_answer", "read_grpc_answer"]

Array = np.ndarray[Any, Any]
Outputs = Mapping[str, Array]
"""The outputs of an answer, by name."""

_TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where a gRPC answer has its values, unless they are in binary form; FP16 always is."""


class IncomparableError(Exception):
    """Two answers that nothing can be said about; the message says why."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """When two answers agree."""

    agreement: Agreement
    tolerance: float = 0.0
    """Largest absolute difference of two values that agree, with Tolerance."""
    outputs: tuple[str, ...] | None = None
    """Outputs to compare; None compares all of the first answer."""


def read_answer(body: bytes, json_length: str | None) -> Outputs:
    """Read the outputs of an answer, by name.

    Args:
        body: The answer: JSON, and the outputs in binary form behind it, if there are any.
        json_length: The header ``Inference-Header-Content-Length``: bytes of the JSON part.

    Raises:
        IncomparableError: The answer is not one of the protocol.
    """
    split = int(json_length) if json_length else len(body)
    try:
        described = json.loads(body[:split])["outputs"]
        outputs, position = {}, split
        for each in described:
            size = (each.get("parameters") or {}).get("binary_data_size")
            outputs[each["name"]] = _array(each, None if size is None else body[position : position + size])
            position += size or 0
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IncomparableError(f"an answer is not one of the v2 protocol: {error!r}") from error
    return outputs


def read_grpc_answer(body: bytes) -> Outputs:
    """Read the outputs of a ``ModelInferResponse``, by name.

    Raises:
        IncomparableError: The answer is not one of the protocol.
    """
    try:
        answer = InferAnswer.FromString(body)
        binary = list(answer.raw_output_contents) or [None] * len(answer.outputs)
        return {each.name: _tensor(each, raw) for each, raw in zip(answer.outputs, binary, strict=True)}
    except (DecodeError, ValueError, KeyError) as error:
        raise IncomparableError(f"an answer is not one of the v2 protocol: {error!r}") from error


def _tensor(tensor: Any, binary: bytes | None) -> Array:
    described = {"datatype": tensor.datatype, "shape": tuple(tensor.shape)}
    if binary is None:
        described["data"] = list(getattr(tensor.contents, _CONTENTS[tensor.datatype]))
    return _array(described, binary)


def _array(described: Mapping[str, Any], binary: bytes | None) -> Array:
    kind, shape = _TYPES[described["datatype"]], described["shape"]
    if binary is None:
        return np.array(described["data"], dtype=kind).reshape(shape)
    if kind is np.object_:  # each with its length in front: equal bytes are equal values
        return np.array([binary], dtype=kind)
    return np.frombuffer(binary, dtype=kind).reshape(shape)


def agree(stable: Outputs, shadow: Outputs, criterion: Criterion) -> bool:
    """Tell whether two answers agree; one differing prediction among many is enough to disagree.

    Raises:
        IncomparableError: There is no output that the criterion could be applied to.
    """
    names = criterion.outputs or tuple(stable)
    if unknown := [name for name in names if name not in stable]:
        raise IncomparableError(f"the stable version has no output {unknown[0]!r}")
    comparable = [name for name in names if _is_comparable(stable[name], criterion)]
    if not comparable:
        raise IncomparableError("every output is a single number, which has no largest place; use agreement: Tolerance")
    return all(name in shadow and _is_equal(stable[name], shadow[name], criterion) for name in comparable)


def _is_comparable(values: Array, criterion: Criterion) -> bool:
    """A single floating-point number is at its own largest place, whatever it is."""
    if criterion.agreement is Agreement.TOLERANCE or not np.issubdtype(values.dtype, np.floating):
        return True
    return values.ndim > 0 and values.shape[-1] > 1


def _is_equal(stable: Array, shadow: Array, criterion: Criterion) -> bool:
    if stable.shape != shadow.shape or stable.dtype != shadow.dtype:
        return False
    if not np.issubdtype(stable.dtype, np.floating):
        return bool(np.array_equal(stable, shadow))
    if not np.isfinite(shadow).all():
        return False
    if criterion.agreement is Agreement.ARGMAX:
        return bool(np.array_equal(stable.argmax(axis=-1), shadow.argmax(axis=-1)))
    difference = np.abs(stable.astype(np.float64) - shadow.astype(np.float64))
    return bool((difference <= criterion.tolerance).all())
