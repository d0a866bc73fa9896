"""What the operator writes for the trainer is what the trainer reads, and the other way round."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.training.support import CONFIG, ROOT, failure, result, training_job
from tidegate.api.model_version import ModelPhase
from tidegate.domain.manifests.training_job import TrainingConfig, build_document
from tidegate.domain.mlflow_names import RESULT_TAG
from tidegate.domain.training_plan import BaseVersion, Run
from tidegate.domain.training_result import TrainerFailure, TrainerResult, parse_result
from tidegate_trainer import contract as trainer
from tidegate_trainer.algorithms import check_config
from tidegate_trainer.errors import Reason

RUN = Run("1", "run-1", ROOT)
BASE = BaseVersion(ModelPhase.READY, "s3://b/m.onnx", "e" * 64)
EVERYTHING: dict[str, Any] = {
    "trainer": {
        "algorithm": "supervised",
        "config": {
            "model": "resnet",
            "blocks": 5,
            "channels": 64,
            "epochs": 8,
            "batchSize": 1024,
            "optimizer": "adamw",
        },
    },
    "datasets": [
        {"name": "positions", "uri": "builtin://connect4-solved", "sha256": "f" * 64},
        {"name": "more", "uri": "s3://bucket/more.npz"},
        {"name": "web", "uri": "https://example.org/web.npz"},
        {"name": "inside", "uri": "file:///data/inside.npz"},
        {"name": "stored", "uri": "mlflow-artifacts:/1/r/artifacts/data.npz"},
    ],
    "baseModelVersion": "connect4-1.0.0",
    "resources": {"cpu": "1500m", "memory": "4Gi", "gpus": 2},
    "checkpoint": {"interval": "1m30s", "keep": 5},
    "seed": 7,
}


@pytest.mark.parametrize("spec", [{}, EVERYTHING, {"resources": {}}], ids=["least", "everything", "no resources"])
@pytest.mark.parametrize("config", [CONFIG, TrainingConfig(image="t", artifact_root="s3://b")], ids=["mlflow", "s3"])
def test_document_is_read_by_the_trainer(spec: dict[str, Any], config: TrainingConfig) -> None:
    run = RUN if config.mlflow_url else Run("", "", "s3://b/default/x/uid")
    document = build_document(training_job(**spec), run, BASE if "baseModelVersion" in spec else None, config)
    read = trainer.TrainingJob.model_validate_json(json.dumps(document))
    check_config(read)
    assert read.uid == "uid-1"
    assert (read.mlflow is not None) == (config.mlflow_url is not None)
    assert read.checkpoint.uri == f"{run.artifact_uri}/checkpoints"


def test_values_arrive() -> None:
    document = build_document(training_job(**EVERYTHING), RUN, BASE, CONFIG)
    read = trainer.TrainingJob.model_validate(document)
    assert read.resources.cpu == 1.5
    assert read.resources.gpus == 2
    assert (read.checkpoint.interval_seconds, read.checkpoint.keep) == (90, 5)
    assert read.base_model is not None
    assert read.base_model.uri == "s3://b/m.onnx"
    assert read.progress is not None
    assert read.progress.url.endswith("/v1/namespaces/default/trainingjobs/connect4-policy/progress")
    assert read.artifact.uri == f"{ROOT}/model"
    assert read.seed == 7


def test_longest_checkpoint_history_of_the_api_is_accepted() -> None:
    document = build_document(training_job(checkpoint={"keep": 16}), RUN, None, CONFIG)
    trainer.TrainingJob.model_validate(document)


def test_own_image_gets_a_document_too() -> None:
    job = training_job(trainer={"image": "mine:1", "config": {"anything": {"goes": [1, 2]}}})
    read = trainer.TrainingJob.model_validate(build_document(job, RUN, None, CONFIG))
    assert (read.trainer.algorithm, read.trainer.config) == ("custom", {"anything": {"goes": [1, 2]}})


def test_trainers_result_is_read_by_the_operator() -> None:
    written = trainer.Succeeded.model_validate_json(result())
    text = written.model_dump_json(by_alias=True)
    read = parse_result(text)
    assert isinstance(read, TrainerResult)
    assert read.artifact.size_bytes == 1234
    assert read.golden_set is not None
    assert read.signature is not None
    assert read.parity_max_abs_difference == 1e-6
    assert read.datasets[0].name == "positions"


def test_both_sides_keep_the_copy_of_the_result_under_one_tag() -> None:
    assert trainer.RESULT_TAG == RESULT_TAG


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_of_the_trainer_is_read(reason: Reason) -> None:
    written = trainer.Failed.model_validate_json(failure(reason))
    read = parse_result(written.model_dump_json(by_alias=True))
    assert isinstance(read, TrainerFailure)
    assert read.reason == reason
