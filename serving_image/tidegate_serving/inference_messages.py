"""The answer of an inference call over gRPC, as far as it is compared.

The fields and their numbers are those of the KServe v2 protocol (``grpc_predict_v2.proto``). Stated here rather than
generated: generated code is bound to the release of protobuf that it was made with.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

__all__ = ["InferAnswer"]

_PACKAGE = "inference"
_Field = FieldDescriptorProto
_ONE, _MANY = _Field.LABEL_OPTIONAL, _Field.LABEL_REPEATED

_MESSAGES: dict[str, tuple[tuple[int, str, Any, Any, str], ...]] = {
    "InferTensorContents": (
        (1, "bool_contents", _MANY, _Field.TYPE_BOOL, ""),
        (2, "int_contents", _MANY, _Field.TYPE_INT32, ""),
        (3, "int64_contents", _MANY, _Field.TYPE_INT64, ""),
        (4, "uint_contents", _MANY, _Field.TYPE_UINT32, ""),
        (5, "uint64_contents", _MANY, _Field.TYPE_UINT64, ""),
        (6, "fp32_contents", _MANY, _Field.TYPE_FLOAT, ""),
        (7, "fp64_contents", _MANY, _Field.TYPE_DOUBLE, ""),
        (8, "bytes_contents", _MANY, _Field.TYPE_BYTES, ""),
    ),
    "InferOutputTensor": (
        (1, "name", _ONE, _Field.TYPE_STRING, ""),
        (2, "datatype", _ONE, _Field.TYPE_STRING, ""),
        (3, "shape", _MANY, _Field.TYPE_INT64, ""),
        (5, "contents", _ONE, _Field.TYPE_MESSAGE, "InferTensorContents"),
    ),
    "ModelInferResponse": (
        (5, "outputs", _MANY, _Field.TYPE_MESSAGE, "InferOutputTensor"),
        (6, "raw_output_contents", _MANY, _Field.TYPE_BYTES, ""),
    ),
}
"""By message: number, name, label, type and, of a message, its name."""


def _build(name: str) -> Any:
    file = FileDescriptorProto(name="tidegate/inference.proto", package=_PACKAGE, syntax="proto3")
    for message, fields in _MESSAGES.items():
        file.message_type.append(DescriptorProto(name=message, field=[_field(*each) for each in fields]))
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


def _field(number: int, name: str, label: Any, kind: Any, message: str) -> FieldDescriptorProto:
    named = {"type_name": f".{_PACKAGE}.{message}"} if message else {}
    return FieldDescriptorProto(number=number, name=name, label=label, type=kind, **named)


InferAnswer = _build("ModelInferResponse")
"""``inference.ModelInferResponse``; fields that are not compared are passed over."""
