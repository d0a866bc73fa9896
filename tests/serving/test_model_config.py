"""config.pbtxt: the text, and that Triton's own parser reads it."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tests.serving.test_serving_contract import SERVING, SHA256
from tidegate_serving.contract import ContractError, ServingDocument
from tidegate_serving.model_config import build_model_config

WHOLE = f"""\
name: "connect4"
backend: "onnxruntime"
max_batch_size: 64
input [ {{ name: "board" data_type: TYPE_FP32 dims: [ 3, 6, 7 ] }} ]
output [ {{ name: "policy" data_type: TYPE_FP32 dims: [ 7 ] }} ]
output [ {{ name: "value" data_type: TYPE_FP32 dims: [ 1 ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
dynamic_batching {{ max_queue_delay_microseconds: 500 }}
parameters {{ key: "tidegate_digest" value {{ string_value: "{SHA256}" }} }}
parameters {{ key: "tidegate_version" value {{ string_value: "connect4-1.1.0" }} }}
parameters {{ key: "intra_op_thread_count" value {{ string_value: "2" }} }}
model_warmup [ {{ name: "rows-1" batch_size: 1 inputs {{ key: "board" value {{ data_type: TYPE_FP32 dims: [ 3, 6, 7 ] zero_data: true }} }} }} ]
model_warmup [ {{ name: "rows-64" batch_size: 64 inputs {{ key: "board" value {{ data_type: TYPE_FP32 dims: [ 3, 6, 7 ] zero_data: true }} }} }} ]
"""  # noqa: E501


def build(threads: int | None = None, triton: dict[str, Any] | None = None, **changes: Any) -> str:
    settings = SERVING["triton"] | (triton or {})
    return build_model_config(ServingDocument.model_validate(SERVING | {"triton": settings} | changes), threads)


def parse(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def signature(data_type: str, shape: list[int]) -> dict[str, Any]:
    tensor = {"name": "x", "dataType": data_type, "shape": shape}
    return {"inputs": [tensor], "outputs": [tensor | {"name": "y"}]}


def test_golden() -> None:
    assert build(threads=2) == WHOLE


def test_tritons_own_parser_reads_every_part() -> None:
    config = parse(build(threads=2))
    assert (config.name, config.backend, config.max_batch_size) == ("connect4", "onnxruntime", 64)
    assert [(t.name, list(t.dims)) for t in config.output] == [("policy", [7]), ("value", [1])]
    assert config.parameters["tidegate_digest"].string_value == SHA256
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert [w.batch_size for w in config.model_warmup] == [1, 64]


def test_without_batching_the_whole_shape_stands_there() -> None:
    config = parse(build(triton={"maxBatchSize": 0}, signature=signature("INT64", [1, -1])))
    assert list(config.input[0].dims) == [1, -1]
    assert not config.HasField("dynamic_batching")
    assert list(config.model_warmup[0].inputs["x"].dims) == [1, 1]
    assert config.model_warmup[0].batch_size == 0


def test_gpus_choose_the_kind_of_instance() -> None:
    group = parse(build(triton={"gpus": 1, "instances": 2})).instance_group[0]
    assert (group.count, group.kind) == (2, model_config_pb2.ModelInstanceGroup.KIND_GPU)


def test_warm_up_can_be_left_out() -> None:
    assert not parse(build(triton={"warmup": False})).model_warmup


def test_a_batch_of_one_is_warmed_up_once() -> None:
    assert [w.batch_size for w in parse(build(triton={"maxBatchSize": 1})).model_warmup] == [1]


def test_without_a_signature_triton_finds_it_out() -> None:
    config = parse(build(signature=None))
    assert not config.input
    assert not config.output
    assert not config.model_warmup


def test_a_scalar_per_row_has_one_dimension_of_one() -> None:
    found = parse(build(signature=signature("BOOL", [-1]))).input[0]
    assert (list(found.dims), found.HasField("reshape"), list(found.reshape.shape)) == ([1], True, [])


@pytest.mark.parametrize(
    ("data_type", "expected"), [("BYTES", "TYPE_STRING"), ("FP16", "TYPE_FP16"), ("BOOL", "TYPE_BOOL")]
)
def test_data_types_get_tritons_names(data_type: str, expected: str) -> None:
    found = parse(build(signature=signature(data_type, [-1, 2]))).input[0].data_type
    assert model_config_pb2.DataType.Name(found) == expected


def test_names_are_quoted() -> None:
    odd = 'a"} evil { \\'
    config = parse(build(modelVersion=odd))
    assert config.parameters["tidegate_version"].string_value == odd


@pytest.mark.parametrize("shape", [[8, 3], []])
def test_a_fixed_batch_with_dynamic_batching_is_refused_with_the_remedy(shape: list[int]) -> None:
    with pytest.raises(ContractError, match="maxBatchSize to 0"):
        build(signature=signature("FP32", shape))
