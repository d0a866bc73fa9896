"""Export, parity, what lies in a model's folder, and base models."""

import io
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tidegate_trainer import onnx_export
from tidegate_trainer.algorithms.supervised.config import SupervisedConfig
from tidegate_trainer.algorithms.supervised.network import OUTPUTS, build_network
from tidegate_trainer.artifacts import ArtifactStore, sha256_of
from tidegate_trainer.contract import BaseModelArtifact, DatasetHash, TrainingJob
from tidegate_trainer.errors import Reason, TrainingError
from tidegate_trainer.release import load_base_weights, release
from tidegate_trainer.training import StopSignal, Trained

STORE = ArtifactStore(patience=0)


@pytest.fixture(scope="module")
def boards(labelled):
    return {"board": labelled.take(slice(0, 100)).boards}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "squeeze-excitation"])
def network(request):
    network = build_network(SupervisedConfig(blocks=2, channels=8, squeeze_excitation=request.param), seed=1)
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return network.eval()


@pytest.fixture
def trained(network, boards):
    return Trained(
        network, boards, OUTPUTS, {"moveAccuracy": 0.9, "randomMoveAccuracy": 0.62},
        {"in_board": boards["board"], "optimal": np.ones((100, 7), bool), "legal": np.ones((100, 7), bool)},
        [DatasetHash(name="positions", sha256="a" * 64)],
    )  # fmt: skip


def test_the_export_answers_as_torch_does_for_any_batch(network, boards):
    model = onnx_export.export(network, boards, OUTPUTS)
    recorded = onnx_export.record_outputs(network, boards, OUTPUTS)
    assert onnx_export.check_parity(model, boards, recorded) < 1e-5
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for rows in (1, 7, 64, 100):
        policy, value = session.run(None, {"board": boards["board"][:rows]})
        assert (policy.shape, value.shape) == ((rows, 7), (rows, 1))
        assert np.abs(value).max() <= 1


def test_the_export_is_readable_by_older_runtimes_and_says_what_it_takes(network, boards):
    model = onnx_export.export(network, boards, OUTPUTS)
    parsed = onnx.load_from_string(model)
    assert parsed.ir_version <= 8
    assert [(one.domain, one.version) for one in parsed.opset_import] == [("", 17)]
    assert onnx_export.signature_of(model).model_dump(by_alias=True) == {
        "inputs": [{"name": "board", "dataType": "FP32", "shape": [-1, 3, 6, 7]}],
        "outputs": [
            {"name": "policy", "dataType": "FP32", "shape": [-1, 7]},
            {"name": "value", "dataType": "FP32", "shape": [-1, 1]},
        ],
    }


@pytest.mark.parametrize("wrong", [0.5, np.nan])
def test_a_difference_is_a_failure(network, boards, wrong):
    model = onnx_export.export(network, boards, OUTPUTS)
    recorded = onnx_export.record_outputs(network, boards, OUTPUTS)
    recorded["policy"] = recorded["policy"] + np.float32(wrong)
    with pytest.raises(TrainingError) as caught:
        onnx_export.check_parity(model, boards, recorded)
    assert caught.value.reason is Reason.PARITY_FAILED
    assert "'policy'" in caught.value.message


def test_the_folder_holds_everything_its_manifest_names(document, trained, tmp_path):
    job = TrainingJob.model_validate(document)
    result = release(job, {"batch_size": 64}, trained, STORE, StopSignal())
    folder = tmp_path / "model"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == sorted([*manifest["files"], "manifest.json"])
    for name, digest in manifest["files"].items():
        assert sha256_of((folder / name).read_bytes()) == digest
    assert result.artifact.sha256 == manifest["files"]["model.onnx"]
    assert result.artifact.size_bytes == (folder / "model.onnx").stat().st_size
    assert result.golden_set.sha256 == manifest["files"]["golden.npz"]
    assert manifest["config"] == {"batchSize": 64}
    assert manifest["parityMaxAbsDifference"] == result.parity_max_abs_difference < 1e-5
    assert {"torch", "onnxruntime", "tidegate-trainer"} <= manifest["versions"].keys()
    parity = np.load(io.BytesIO((folder / "parity.npz").read_bytes()))
    assert {name: parity[name].shape for name in parity} == {
        "in_board": (100, 3, 6, 7), "out_policy": (100, 7), "out_value": (100, 1),
    }  # fmt: skip
    golden = np.load(io.BytesIO((folder / "golden.npz").read_bytes()))
    assert {name: golden[name].dtype for name in golden} == {"in_board": np.float32, "optimal": bool, "legal": bool}


def test_weights_come_back_as_a_base_model(document, trained):
    result = release(TrainingJob.model_validate(document), {}, trained, STORE, StopSignal())
    weights = load_base_weights(BaseModelArtifact(uri=result.artifact.uri, sha256=result.artifact.sha256), STORE)
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(tensor, weights[name])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "is not a trainer's manifest"),
        (lambda folder: (folder / "manifest.json").write_text('{"files": {}}'), "describes another model"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"x"), "is not the file its manifest names"),
    ],
)
def test_a_base_model_without_whole_files_is_unusable(document, trained, tmp_path, spoil, said):
    result = release(TrainingJob.model_validate(document), {}, trained, STORE, StopSignal())
    spoil(tmp_path / "model")
    with pytest.raises(TrainingError) as caught:
        load_base_weights(BaseModelArtifact(uri=result.artifact.uri, sha256=result.artifact.sha256), STORE)
    assert (caught.value.reason, caught.value.retryable) == (Reason.BASE_MODEL_UNUSABLE, False)
    assert said in caught.value.message
