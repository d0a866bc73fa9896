"""The document and its errors, the registry, and the published schemas."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate_trainer import runner
from tidegate_trainer.algorithms import ALGORITHMS, check_config
from tidegate_trainer.contract import TrainingJob, TrainingResult, json_schemas, read_document
from tidegate_trainer.errors import Reason, TrainingError

PUBLISHED = Path(__file__).parents[2] / "docs" / "contracts"


def put(document, path, value):
    *folders, last = path.split(".")
    for folder in folders:
        document = document[int(folder)] if folder.isdigit() else document[folder]
    document[last] = value


def refuse(document, write_document):
    with pytest.raises(TrainingError) as caught:
        check_config(read_document(write_document(document).document))
    return caught.value


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("trainer.config.blocks", 0, "trainer.config.blocks: Input should be greater than or equal to 1 (got 0)"),
        ("trainer.config.blocks", "many", "trainer.config.blocks: Input should be a valid integer"),
        ("trainer.config.blcks", 3, "trainer.config.blcks: unknown field; did you mean blocks?"),
        ("trainer.config.batch_sizes", 3, "trainer.config.batch_sizes: unknown field; did you mean batchSize?"),
        ("trainer.config.model", "cnn", "trainer.config.model: Input should be 'resnet' (got 'cnn')"),
        ("trainer.config.optimizer", "sgd", "trainer.config.optimizer: Input should be 'adamw'"),
        ("trainer.config.learningRate", 0, "trainer.config.learningRate: Input should be greater than 0"),
        ("trainer.config.learningRate", float("nan"), "trainer.config.learningRate: Input should be a finite number"),
        ("trainer.config.heldOutFraction", 0.9, "trainer.config.heldOutFraction: Input should be less than"),
        ("trainer.config.epochs", 0, "trainer.config.epochs:"),
        ("trainer.config.device", "tpu", "trainer.config.device: Input should be 'auto', 'cpu' or 'cuda'"),
        ("trainer.config.batchSize", 5000, "trainer.config: batchSize is larger than maxExamples or examplesPerEpoch"),
        ("datasets", [], "datasets: List should have at least 1 item"),
        ("datasets.0.uri", "ftp://x/y", "datasets[0].uri: String should match pattern"),
        ("datasets.0.uri", "builtin://chess", "datasets[0].uri: 'builtin://chess' is not built in (known: builtin://"),
        ("datasets.0.sha256", "abc", "datasets[0].sha256: String should match pattern"),
        ("checkpoint.keep", 0, "checkpoint.keep: Input should be greater than or equal to 1"),
        ("checkpoint.intervalSecs", 3, "checkpoint.intervalSecs: unknown field; did you mean intervalSeconds?"),
        ("artifact", {}, "artifact.uri: required"),
        ("contractVersion", "v2", "contractVersion: Input should be 'v1' (got 'v2')"),
        ("seed", -1, "seed: Input should be greater than or equal to 0"),
        ("distributed.nodes", 4, "distributed.nodes: supervised trains in one process; set it to 1 (got 4)"),
        ("surprise", 1, "surprise: unknown field"),
    ],
)
def test_a_bad_field_is_named_with_its_path(document, write_document, path, value, said):
    put(document, path, value)
    error = refuse(document, write_document)
    assert error.reason is Reason.INVALID_CONFIG
    assert said in error.message
    assert not error.retryable
    assert error.exit_code == 3


def test_every_bad_field_is_named_at_once(document, write_document):
    document["trainer"]["config"] |= {"blocks": -1, "channels": 1}
    message = refuse(document, write_document).message
    assert "trainer.config.blocks" in message
    assert "trainer.config.channels" in message


def test_an_unknown_algorithm_names_the_known_ones(document, write_document):
    put(document, "trainer.algorithm", "alchemy")
    error = refuse(document, write_document)
    assert error.reason is Reason.UNKNOWN_ALGORITHM
    assert error.message == (
        "trainer.algorithm: 'alchemy' is not built in (known: supervised); name one of these or your own image"
    )
    assert error.exit_code == 3


@pytest.mark.parametrize("content", [None, "", "[1]", '{"contractVersion":'])
def test_a_document_that_cannot_be_read_is_an_invalid_config(settings, content):
    if content is not None:
        settings.document.write_text(content)
    with pytest.raises(TrainingError) as caught:
        read_document(settings.document)
    assert caught.value.reason is Reason.INVALID_CONFIG


def test_defaults_make_a_short_document_whole(document):
    for field in ("baseModel", "checkpoint", "mlflow", "progress", "seed", "resources", "distributed"):
        del document[field]
    job = TrainingJob.model_validate(document)
    assert (job.checkpoint.interval_seconds, job.checkpoint.keep, job.seed, job.resources.gpus) == (30, 2, 0, 0)


def test_every_algorithm_takes_its_own_defaults():
    for entry in ALGORITHMS.values():
        assert entry.config.model_validate(entry.config().model_dump(by_alias=True)) == entry.config()


def test_check_accepts_a_good_document_and_refuses_a_bad_one(document, write_document):
    settings = write_document(document)
    assert runner.check(settings) == 0
    assert not settings.termination_log.exists()
    put(document, "trainer.config.blocks", 0)
    assert runner.check(write_document(document)) == 3
    result = json.loads(settings.termination_log.read_text())
    assert TrainingResult.model_validate({"result": result}).result.reason is Reason.INVALID_CONFIG


def test_check_imports_nothing_heavy(document, write_document):
    settings = write_document(document)
    heavy = "{'torch', 'onnx', 'onnxruntime', 'mlflow', 'bitbully_databases'}"
    code = (
        "import sys; from tidegate_trainer.__main__ import main; "
        f"print(main(['check']), sorted({heavy} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": "trainer_image", "TIDEGATE_JOB": str(settings.document)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "0 []", done.stderr


@pytest.mark.parametrize("name", sorted(json_schemas()))
def test_published_schemas_are_up_to_date(name):
    published = json.loads((PUBLISHED / name).read_text())
    assert published == json_schemas()[name], "run: python -m tidegate_trainer.contract docs/contracts"
