"""The MLflow adapter against the real server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.training.mlflow_process import MLflowProcess
from tests.training.support import SHA, training_job, version_manifest
from tidegate.adapters.mlflow import MLflow
from tidegate.api.model_version import ModelVersion
from tidegate.domain.mlflow_names import (
    RESULT_TAG,
    experiment_name,
    find_run,
    registered_name,
    run_tags,
    version_tags,
)
from tidegate.domain.promotion import MANAGED_ALIASES
from tidegate.errors import Unavailable

pytestmark = pytest.mark.mlflow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowProcess]:
    with MLflowProcess(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.fixture
async def mlflow(server: MLflowProcess) -> AsyncIterator[MLflow]:
    adapter = MLflow(server.url)
    yield adapter
    await adapter.close()


@pytest.fixture
def uid() -> str:
    return str(uuid.uuid4())


def call(server: MLflowProcess, method: str, path: str, **arguments: Any) -> dict[str, Any]:
    """One request of a person who looks or meddles."""
    answer = httpx.request(method, f"{server.url}/api/2.0/mlflow/{path}", timeout=20, **arguments)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def get_run(server: MLflowProcess, run_id: str) -> dict[str, Any]:
    return dict(call(server, "GET", "runs/get", params={"run_id": run_id})["run"])


async def test_run_is_made_once(server: MLflowProcess, mlflow: MLflow, uid: str) -> None:
    job = training_job()
    experiment = experiment_name("default", "connect4")
    runs = [await mlflow.ensure_run(experiment, uid, run_tags(job)) for _ in range(3)]
    assert len({run.run_id for run in runs}) == 1
    run = runs[0]
    assert run.artifact_uri == f"mlflow-artifacts:/{run.experiment_id}/{run.run_id}/artifacts"
    found = get_run(server, run.run_id)
    assert (found["info"]["status"], found["info"]["run_name"]) == ("RUNNING", "connect4-policy")
    tags = {tag["key"]: tag["value"] for tag in found["data"]["tags"]}
    assert tags["tidegate.dev/uid"] == uid
    assert tags["tidegate.dev/training-job"] == "connect4-policy"


async def test_equal_names_in_two_namespaces_are_two_experiments(mlflow: MLflow, uid: str) -> None:
    one = await mlflow.ensure_run(experiment_name("a", "m"), uid, {})
    two = await mlflow.ensure_run(experiment_name("b", "m"), uid, {})
    assert (one.experiment_id != two.experiment_id, one.run_id != two.run_id) == (True, True)


async def test_experiment_made_by_two_at_once(mlflow: MLflow) -> None:
    runs = await asyncio.gather(*(mlflow.ensure_run("at-once", str(uuid.uuid4()), {}) for _ in range(4)))
    assert len({run.experiment_id for run in runs}) == 1


async def test_deleted_experiment_is_brought_back(server: MLflowProcess, mlflow: MLflow, uid: str) -> None:
    run = await mlflow.ensure_run("comes-back", uid, {})
    call(server, "POST", "experiments/delete", json={"experiment_id": run.experiment_id})
    again = await mlflow.ensure_run("comes-back", str(uuid.uuid4()), {})
    assert again.experiment_id == run.experiment_id


async def test_end_of_a_run(server: MLflowProcess, mlflow: MLflow, uid: str) -> None:
    run = await mlflow.ensure_run("ends", uid, {})
    for outcome in ("FINISHED", "FAILED", "KILLED"):
        await mlflow.end_run(run.run_id, outcome)
        assert get_run(server, run.run_id)["info"]["status"] == outcome
    await mlflow.end_run("0" * 32, "KILLED")


async def test_recorded_result(server: MLflowProcess, mlflow: MLflow, uid: str) -> None:
    run = await mlflow.ensure_run("results", uid, {})
    assert await mlflow.recorded_result(run.run_id) is None
    text = '{"outcome": "Succeeded", "long": "' + "x" * 3500 + '"}'
    call(server, "POST", "runs/set-tag", json={"run_id": run.run_id, "key": RESULT_TAG, "value": text})
    assert await mlflow.recorded_result(run.run_id) == text
    assert await mlflow.recorded_result("0" * 32) is None


async def register(mlflow: MLflow, model: str, name: str, uid: str) -> str:
    artifact = {"uri": "s3://bucket/model.onnx", "sha256": SHA}
    manifest = version_manifest(name, lineage={"trainingJob": "connect4-policy"}, artifact=artifact)
    version = ModelVersion.model_validate(manifest)
    return await mlflow.ensure_version(model, uid, artifact["uri"], find_run(version), version_tags(version))


async def test_version_is_registered_once(server: MLflowProcess, mlflow: MLflow, uid: str) -> None:
    model = registered_name("default", "once")
    numbers = {await register(mlflow, model, "connect4-1.0.0", uid) for _ in range(3)}
    assert numbers == {"1"}
    assert await register(mlflow, model, "connect4-1.1.0", str(uuid.uuid4())) == "2"
    found = call(server, "GET", "model-versions/get", params={"name": model, "version": "1"})["model_version"]
    assert found["source"] == "s3://bucket/model.onnx"
    tags = {tag["key"]: tag["value"] for tag in found["tags"]}
    assert (tags["tidegate.dev/uid"], tags["tidegate.dev/version"]) == (uid, "1.0.0")


async def test_version_of_a_run_is_found_by_its_address(mlflow: MLflow, uid: str) -> None:
    run = await mlflow.ensure_run("with-run", uid, {})
    artifact = {"uri": f"{run.artifact_uri}/model/model.onnx", "sha256": SHA}
    found = find_run(ModelVersion.model_validate(version_manifest(artifact=artifact)))
    assert found == run.run_id
    assert await mlflow.ensure_version("with-run", uid, artifact["uri"], found, {}) == "1"


async def test_file_in_the_artifact_store_outside_any_run_is_refused(mlflow: MLflow, uid: str) -> None:
    with pytest.raises(Unavailable, match="run_id") as refused:
        await mlflow.ensure_version("no-run", uid, "mlflow-artifacts:/somewhere/model.onnx", None, {})
    assert refused.value.reason == "MLflowRefused"


def aliases_of(server: MLflowProcess, model: str) -> dict[str, str]:
    found = call(server, "GET", "registered-models/get", params={"name": model})["registered_model"]
    return {each["alias"]: str(each["version"]) for each in found.get("aliases", ())}


async def test_aliases_follow_the_stages(server: MLflowProcess, mlflow: MLflow, uid: str) -> None:
    model = "aliases"
    first = await register(mlflow, model, "connect4-1.0.0", uid)
    second = await register(mlflow, model, "connect4-1.1.0", str(uuid.uuid4()))
    steps: list[tuple[str, str, tuple[str, ...], dict[str, str]]] = [
        (first, "Production", ("champion",), {"champion": first}),
        (second, "Staging", ("challenger",), {"champion": first, "challenger": second}),
        (second, "Production", ("champion",), {"champion": second, "previous": first}),
        (second, "Production", ("champion",), {"champion": second, "previous": first}),
        (first, "Archived", (), {"champion": second, "previous": first}),
        (second, "None", (), {"previous": first}),
    ]
    for version, stage, aliases, expected in steps:
        await mlflow.set_stage(model, version, stage, aliases, MANAGED_ALIASES)
        assert aliases_of(server, model) == expected, stage
    found = call(server, "GET", "model-versions/get", params={"name": model, "version": first})["model_version"]
    assert {"key": "tidegate.dev/stage", "value": "Archived"} in found["tags"]


async def test_server_that_goes_and_comes_back(server: MLflowProcess, mlflow: MLflow, uid: str) -> None:
    run = await mlflow.ensure_run("survives", uid, {})
    server.stop()
    with pytest.raises(Unavailable) as away:
        await mlflow.ensure_run("survives", uid, {})
    assert away.value.reason == "MLflowUnavailable"
    server.start()
    assert await mlflow.ensure_run("survives", uid, {}) == run
