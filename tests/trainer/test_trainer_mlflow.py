"""A whole job with the real MLflow server: what the trainer leaves there, the operator can read."""

import asyncio
import json
import time

import httpx
import pytest

from tests.training.mlflow_process import MLflowProcess
from tidegate.adapters.mlflow import MLflow
from tidegate.domain.training_result import TrainerResult, parse_result
from tidegate_trainer import runner
from tidegate_trainer.contract import RESULT_TAG, MLflowRun
from tidegate_trainer.tracking import MLflowSink, Tracker
from tidegate_trainer.training import StopSignal

pytestmark = pytest.mark.mlflow


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory):
    with MLflowProcess(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


def wait_until(holds, seconds=20):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ask(mlflow, method, *arguments):
    """Let the operator's own adapter ask."""

    async def work():
        adapter = MLflow(mlflow.url)
        try:
            return await getattr(adapter, method)(*arguments)
        finally:
            await adapter.close()

    return asyncio.run(work())


def test_the_result_of_a_lost_pod_is_read_from_its_run(document, write_document, mlflow):
    run = ask(mlflow, "ensure_run", "default.connect4", "5c8d", {})
    document["mlflow"] = {"trackingURI": mlflow.url, "experimentID": run.experiment_id, "runID": run.run_id}
    settings = write_document(document)
    assert runner.run(settings, StopSignal()) == 0
    recorded = ask(mlflow, "recorded_result", run.run_id)
    assert recorded == settings.termination_log.read_text()
    result = parse_result(recorded)
    assert isinstance(result, TrainerResult)
    assert result.artifact.uri.endswith("/model/model.onnx")
    assert json.loads(recorded)["mlflowRunID"] == run.run_id


def state_of(mlflow, run):
    answer = httpx.get(f"{mlflow.url}/api/2.0/mlflow/runs/get", params={"run_id": run.run_id}, timeout=20)
    return answer.raise_for_status().json()["run"]["info"]["status"]


def test_a_run_is_not_left_running_when_its_trainer_is_stopped(document, write_document, mlflow):
    """As when the TrainingJob, and so the pod, is deleted while no operator is there; the next pod goes on."""
    run = ask(mlflow, "ensure_run", "default.connect4", "stopped", {})
    document["mlflow"] = {"trackingURI": mlflow.url, "experimentID": run.experiment_id, "runID": run.run_id}
    stop = StopSignal()
    stop.request()
    assert runner.run(write_document(document), stop) == 143
    assert state_of(mlflow, run) == "KILLED"
    reference = MLflowRun.model_validate(document["mlflow"])
    with Tracker(MLflowSink(reference)) as tracker:
        tracker.log_metrics({"loss": 1.0}, 1)
        wait_until(lambda: state_of(mlflow, run) == "RUNNING")
    assert state_of(mlflow, run) == "FINISHED"
    ask(mlflow, "end_run", run.run_id, "FAILED")
    assert state_of(mlflow, run) == "FAILED", "the operator has the last word"


def test_a_job_that_failed_leaves_no_result(document, write_document, mlflow):
    run = ask(mlflow, "ensure_run", "default.connect4", "failing", {})
    document["mlflow"] = {"trackingURI": mlflow.url, "experimentID": run.experiment_id, "runID": run.run_id}
    document["datasets"][0]["sha256"] = "0" * 64
    assert runner.run(write_document(document), StopSignal()) == 3
    assert ask(mlflow, "recorded_result", run.run_id) is None


def test_the_longest_result_that_is_copied_comes_back_whole(mlflow):
    run = ask(mlflow, "ensure_run", "default.connect4", "long", {})
    longest = json.dumps({"outcome": "Succeeded", "filler": "ä" * 4962}, ensure_ascii=False)
    assert len(longest) == 5000
    reference = MLflowRun.model_validate(
        {"trackingURI": mlflow.url, "experimentID": run.experiment_id, "runID": run.run_id}
    )
    with Tracker(MLflowSink(reference)) as tracker:
        tracker.record_result(longest)
    assert ask(mlflow, "recorded_result", run.run_id) == longest


def test_why_a_longer_one_is_not_copied(mlflow):
    """The server answers 200 and keeps only the beginning."""
    run = ask(mlflow, "ensure_run", "default.connect4", "cut off", {})
    body = {"run_id": run.run_id, "key": RESULT_TAG, "value": "x" * 8001}
    httpx.post(f"{mlflow.url}/api/2.0/mlflow/runs/set-tag", json=body, timeout=20).raise_for_status()
    assert len(ask(mlflow, "recorded_result", run.run_id)) == 8000
