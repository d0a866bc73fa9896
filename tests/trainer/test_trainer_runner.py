"""Whole jobs: from the document to the termination message, in one process and as a pod would run them."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.trainer.devices import needs_gpu, on_every_device
from tidegate_trainer import artifacts, runner
from tidegate_trainer.algorithms.supervised.algorithm import Supervised
from tidegate_trainer.contract import TrainingResult
from tidegate_trainer.training import StopSignal

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(write_document):
    """Run a job and return (exit status, result)."""

    def work(document):
        settings = write_document(document)
        status = runner.run(settings, StopSignal())
        text = settings.termination_log.read_text()
        assert len(text.encode()) < 4096
        result = json.loads(text)
        TrainingResult.model_validate({"result": result})
        return status, result

    return work


def test_the_demo_trains_what_the_example_shows():
    demo, example = read_spec("dev/demo/manifests/training.yaml"), read_spec("examples/training-job.yaml")
    assert (demo["trainer"], demo["resources"]) == (example["trainer"], example["resources"])


@pytest.mark.slow
@on_every_device
def test_a_job_ends_with_a_model_and_its_facts(run, document, tmp_path, server, device):
    document["trainer"]["config"]["device"] = device
    document["progress"] = {"url": f"{server.url}/progress", "intervalSeconds": 0.05}
    status, result = run(document)
    assert (status, result["outcome"], result["code"]) == (0, "Succeeded", "0.1.0")
    assert result["artifact"]["uri"] == f"{(tmp_path / 'model').as_uri()}/model.onnx"
    assert result["manifestURI"] == f"{(tmp_path / 'model').as_uri()}/manifest.json"
    assert {"moveAccuracy", "randomMoveAccuracy", "valueAccuracy", "policyLoss"} <= result["metrics"].keys()
    assert result["parityMaxAbsDifference"] < 1e-4
    assert json.loads((tmp_path / "model" / "manifest.json").read_text())["training"]["device"] == device
    golden = np.load(tmp_path / "model" / "golden.npz")
    assert golden["in_board"].shape == (200, 3, 6, 7)
    percents = [post[2]["percent"] for post in server.posts]
    assert percents == sorted(percents)
    assert percents[-1] == 100


@pytest.mark.slow
def test_a_job_without_mlflow_s_server_ends_well(run, document, monkeypatch):
    monkeypatch.setattr("tidegate_trainer.tracking._LAST_SECONDS", 0.1)
    document["mlflow"] = {"trackingURI": "http://127.0.0.1:9", "experimentID": "1", "runID": "abc"}
    status, result = run(document)
    assert (status, result["mlflowRunID"]) == (0, "abc")


@pytest.mark.slow
def test_everything_goes_through_mlflow_when_it_is_the_store(run, document, server):
    root = "mlflow-artifacts:/1/abc/artifacts"
    document |= {"artifact": {"uri": f"{root}/model"}, "mlflow": None}
    document["checkpoint"]["uri"] = f"{root}/checkpoints"
    os.environ["MLFLOW_TRACKING_URI"] = server.url
    try:
        status, result = run(document)
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]
    assert (status, result["artifact"]["uri"]) == (0, f"{root}/model/model.onnx")
    names = {path.removeprefix("/api/2.0/mlflow-artifacts/artifacts/1/abc/artifacts/") for path in server.files}
    assert names == {
        "checkpoints/slot-0.ckpt",
        *(
            f"model/{name}"
            for name in ("model.onnx", "weights.safetensors", "parity.npz", "golden.npz", "manifest.json")
        ),
    }


def fail_with(error):
    def train(self, context):
        raise error

    return train


@pytest.mark.parametrize(
    ("error", "reason", "status", "said"),
    [
        (MemoryError(), "OutOfMemory", 3, "spec.resources.memory"),
        (np.exceptions.AxisError("x"), "InternalError", 1, "see the pod's log"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "OutOfMemory", 3, "larger GPU"),
        (torch.AcceleratorError("CUDA error: out of memory"), "OutOfMemory", 3, "GPU memory"),
        (torch.AcceleratorError("CUDA error: an illegal memory access"), "InternalError", 1, "illegal"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "OutOfMemory",
            3,
            "GPU memory",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "OutOfMemory", 3, "GPU memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "InternalError", 1, "CUDNN_STATUS"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "OutOfMemory",
            3,
            "host",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "/work/x"), "DiskFull", 1, "/work/x"),
        (RuntimeError("boom"), "InternalError", 1, "RuntimeError: boom"),
    ],
)
def test_every_failure_has_its_reason_and_remedy(run, document, monkeypatch, error, reason, status, said):
    monkeypatch.setattr(Supervised, "train", fail_with(error))
    code, result = run(document)
    assert (code, result["outcome"], result["reason"]) == (status, "Failed", reason)
    assert result["retryable"] == (status == 1)
    assert said in result["message"]


@pytest.mark.slow
@needs_gpu
def test_a_gpu_with_too_little_memory_is_named(run, document):
    document["trainer"]["config"]["device"] = "cuda"
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        status, result = run(document)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (status, result["reason"]) == (3, "OutOfMemory")
    assert "GPU memory" in result["message"]


@pytest.mark.slow
def test_a_full_disk_at_the_end_may_be_tried_again(run, document, monkeypatch, tmp_path):
    real = artifacts._write_file

    def full(path, content):
        if path.parent.name == "model":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, content)

    monkeypatch.setattr(artifacts, "_write_file", full)
    status, result = run(document)
    assert (status, result["reason"], result["retryable"]) == (1, "DiskFull", True)
    monkeypatch.setattr(artifacts, "_write_file", real)
    monkeypatch.setattr(
        "tidegate_trainer.algorithms.supervised.loop.Loop._step", lambda _: pytest.fail("trained again")
    )
    assert run(document)[0] == 0


@pytest.mark.slow
def test_storage_that_is_away_at_the_end_may_be_tried_again(run, document):
    document["artifact"]["uri"] = "http://127.0.0.1:9/model"
    status, result = run(document)
    assert (status, result["reason"], result["retryable"]) == (1, "StorageUnavailable", True)


@pytest.mark.slow
def test_sigterm_ends_the_wait_for_storage_that_is_away(document, write_document):
    document["artifact"]["uri"] = "http://127.0.0.1:9/model"
    settings = replace(write_document(document), storage_patience=3600)
    stop = StopSignal()
    stop.pause = lambda _: (stop.request(), stop.leave_if_requested())
    assert runner.run(settings, stop) == 143
    assert json.loads(settings.termination_log.read_text())["reason"] == "Stopped"


def test_a_bad_config_ends_before_anything_is_loaded(run, document, monkeypatch):
    monkeypatch.setattr(Supervised, "train", lambda *_: pytest.fail("started"))
    document["trainer"]["config"]["blocks"] = 0
    status, result = run(document)
    assert (status, result["reason"]) == (3, "InvalidConfig")
    assert "trainer.config.blocks" in result["message"]


def test_a_termination_log_that_cannot_be_written_loses_nothing(document, write_document, capsys, tmp_path):
    settings = write_document(document | {"seed": -1})
    settings.termination_log.mkdir()
    assert runner.run(settings, StopSignal()) == 3
    assert json.loads(capsys.readouterr().out)["reason"] == "InvalidConfig"


def start(document, tmp_path, pod, output):
    path = tmp_path / "job.json"
    path.write_text(json.dumps(document))
    environment = os.environ | {
        "PYTHONPATH": "trainer_image",
        "TIDEGATE_JOB": str(path),
        "TIDEGATE_WORK": str(tmp_path / pod),
        "TIDEGATE_TERMINATION_LOG": str(tmp_path / f"{pod}.json"),
    }
    return subprocess.Popen([sys.executable, "-m", "tidegate_trainer"], env=environment, stderr=output)


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_and_the_next_pod_ends_the_job(document, run, tmp_path, server):
    document["trainer"]["config"] |= {"epochs": 60}
    remote = document["checkpoint"]["uri"]
    document["checkpoint"]["uri"] = None
    run(document)
    undisturbed = (tmp_path / "model" / "weights.safetensors").read_bytes()

    document["checkpoint"]["uri"] = remote
    document["artifact"]["uri"] = (tmp_path / "second").as_uri()
    document["progress"] = {"url": f"{server.url}/progress", "intervalSeconds": 0.02}
    with (tmp_path / "log").open("w") as log:
        pod = start(document, tmp_path, "first", log)
        while not any(post[2].get("step", 0) > 20 for post in server.posts):
            server.wait_for_posts(len(server.posts) + 1, seconds=300)
        pod.send_signal(signal.SIGTERM)
        assert pod.wait(120) == 143, (tmp_path / "log").read_text()
    stopped = json.loads((tmp_path / "first.json").read_text())
    assert (stopped["reason"], stopped["retryable"]) == ("Stopped", True)
    assert "checkpoint kept at step" in stopped["message"]

    reported, server.posts = server.posts, []
    status, _ = run(document)
    assert status == 0
    assert server.posts[0][2]["percent"] >= reported[-1][2]["percent"] - 5
    assert (tmp_path / "second" / "weights.safetensors").read_bytes() == undisturbed


def read_spec(path):
    return yaml.safe_load((ROOT / path).read_text())["spec"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "accuracy"), [("examples/training-job.yaml", 0.92), ("examples/quickstart/train.yaml", 0.85)]
)
def test_the_jobs_that_people_try_first_reach_their_accuracy(run, document, path, accuracy):
    spec = read_spec(path)
    document["datasets"] = [each | {"sha256": None} for each in spec["datasets"]]
    document["trainer"]["config"] = spec["trainer"]["config"]
    status, result = run(document)
    assert status == 0
    assert result["metrics"]["moveAccuracy"] >= accuracy
    assert accuracy > spec["evaluation"]["gates"][0]["min"]
    assert result["metrics"]["randomMoveAccuracy"] == pytest.approx(0.62, abs=0.01)
