"""Triton's ``config.pbtxt`` from the serving document. Pure: the same document gives the same text.

The text holds for the vendor image (C++ backend) and for the project's own (python-based backend of the same name).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tidegate_serving.contract import ContractError, DataType, ServingDocument, Tensor, TritonSettings

__all__ = ["DIGEST_PARAMETER", "VERSION_PARAMETER", "build_model_config"]

DIGEST_PARAMETER = "tidegate_digest"
VERSION_PARAMETER = "tidegate_version"
TRITON_TYPES = {data_type: f"TYPE_{data_type.value}" for data_type in DataType} | {DataType.BYTES: "TYPE_STRING"}


def build_model_config(document: ServingDocument, threads: int | None = None) -> str:
    """The configuration of the model that the document asks for.

    `threads` is the number of cores for one run of the model; without it the backend decides.
    """
    triton = document.triton
    lines = [
        f"name: {quote(document.model_name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {triton.max_batch_size}",
    ]
    if document.signature is not None:
        batched = triton.max_batch_size > 0
        lines += tensors("input", document.signature.inputs, batched)
        lines += tensors("output", document.signature.outputs, batched)
    lines.append(instance_group(triton))
    if triton.max_batch_size > 0:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {triton.max_queue_delay_microseconds} }}")
    lines += parameters(document, threads)
    lines += warmups(document)
    return "\n".join(lines) + "\n"


def quote(text: str) -> str:
    """A string of protobuf's text format; JSON's escapes are a part of its."""
    return json.dumps(text)


def dimensions(tensor: Tensor, batched: bool) -> tuple[int, ...]:
    """The shape as Triton wants it: without the batch when Triton makes the batches."""
    if not batched:
        return tensor.shape
    if not tensor.shape or tensor.shape[0] != -1:
        raise ContractError(
            f"{tensor.name} has shape {list(tensor.shape)}, and a maxBatchSize above 0 needs a first dimension of -1; "
            "export the model with a dynamic batch or set serving.triton.maxBatchSize to 0"
        )
    return tensor.shape[1:]


def numbers(values: Iterable[int]) -> str:
    """A list of numbers in text format."""
    return f"[ {', '.join(map(str, values))} ]"


def tensors(field: str, group: Iterable[Tensor], batched: bool) -> list[str]:
    """The inputs or the outputs."""
    return [
        f"{field} [ {{ name: {quote(t.name)} data_type: {TRITON_TYPES[t.data_type]} {dims(t, batched)} }} ]"
        for t in group
    ]


def dims(tensor: Tensor, batched: bool) -> str:
    """Dimensions in text format.

    Triton refuses an empty list: a tensor that has no dimension but the batch is [rows, 1] to clients and [rows] to the
    model.
    """
    found = dimensions(tensor, batched)
    return f"dims: {numbers(found)}" if found else "dims: [ 1 ] reshape { }"


def instance_group(triton: TritonSettings) -> str:
    """How many copies run, and on what."""
    return f"instance_group [ {{ count: {triton.instances} kind: {'KIND_GPU' if triton.gpus else 'KIND_CPU'} }} ]"


def parameters(document: ServingDocument, threads: int | None) -> list[str]:
    """The marks that the agent compares, and the thread count in the vendor's word."""
    values = {DIGEST_PARAMETER: document.artifact.sha256, VERSION_PARAMETER: document.model_version}
    if threads is not None:
        values["intra_op_thread_count"] = str(threads)
    return [
        f"parameters {{ key: {quote(key)} value {{ string_value: {quote(value)} }} }}" for key, value in values.items()
    ]


def warmups(document: ServingDocument) -> list[str]:
    """Runs on zeros before the model is listed as ready: of one row and of a full batch, which use different memory."""
    if document.signature is None or not document.triton.warmup:
        return []
    largest = document.triton.max_batch_size
    sizes = sorted({1, largest}) if largest > 0 else [0]
    return [warmup(document.signature.inputs, size) for size in sizes]


def warmup(inputs: Iterable[Tensor], batch: int) -> str:
    """One warm-up run; a dimension of any size is 1."""
    entries = " ".join(
        f"inputs {{ key: {quote(t.name)} value {{ data_type: {TRITON_TYPES[t.data_type]} "
        f"dims: {numbers(abs(size) for size in dimensions(t, batch > 0) or (1,))} zero_data: true }} }}"
        for t in inputs
    )
    return f'model_warmup [ {{ name: "rows-{batch or 1}" batch_size: {batch} {entries} }} ]'
