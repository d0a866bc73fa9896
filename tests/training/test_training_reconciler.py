"""A TrainingJob among its children, with the controllers around it, and with everything that may die."""

from __future__ import annotations

import pytest

from tests.training.support import (
    NOW,
    Simulation,
    conditions,
    deployment_manifest,
    failure,
    job_key,
    result,
    seconds,
    training_key,
    training_manifest,
    version_manifest,
)
from tidegate.domain.manifests.training_job import TrainingConfig
from tidegate.errors import Stalled
from tidegate.ports import CONFIG_MAP, DEPLOYMENT, JOB, MODEL_VERSION, Key
from tidegate.reconcilers.pattern import Gone

DEPLOY = {"deploy": {"name": "connect4", "onlyIfImproved": {"metric": "moveAccuracy"}}}


async def run_to_the_end(simulation: Simulation) -> None:
    """Start, train, validate: what the world does when nothing goes wrong."""
    await simulation.train()
    simulation.trainer.run()
    await simulation.train()
    simulation.clock.advance(seconds=60)
    simulation.trainer.end(0, result())
    await simulation.train()
    for name in simulation.versions():
        if name != "connect4-1.0.0":
            simulation.set_version_phase(name, "Ready", metrics={"moveAccuracy": 0.93})
    await simulation.train()


def world_with_a_release() -> Simulation:
    stable = version_manifest("connect4-1.0.0", {"phase": "Ready", "metrics": {"moveAccuracy": 0.9}})
    return Simulation(training_manifest(output=DEPLOY), stable, deployment_manifest("connect4-1.0.0", "connect4-1.0.0"))


async def test_from_spec_to_release() -> None:
    simulation = world_with_a_release()
    await run_to_the_end(simulation)
    status = simulation.status
    assert (status["phase"], status["modelVersion"]) == ("Succeeded", "connect4-1.1.0")
    assert conditions(status) == {"Ready", "Complete"}
    assert status["handover"]["handedOver"] is True
    deployment = simulation.world.get(Key(DEPLOYMENT, "default", "connect4"))
    assert deployment is not None
    assert deployment["spec"] == {"modelVersion": "connect4-1.1.0"}
    assert simulation.registry.ended == {"run-1": "FINISHED"}
    job = simulation.world.get(job_key())
    assert job is not None
    assert job["spec"]["ttlSecondsAfterFinished"] == 86400
    assert simulation.events.reasons == [*("Starting", "PodStarting", "Training", "ModelVersionCreated", "HandedOver")]


async def test_settled_object_costs_nothing() -> None:
    simulation = world_with_a_release()
    await run_to_the_end(simulation)
    simulation.world.requests.clear()
    for _ in range(3):
        simulation.clock.advance(hours=1)
        assert await simulation.training.reconcile(training_key()) is None
    assert simulation.world.requests == []


WRITES = 11
"""How many write requests the whole life takes, for the tests that kill the operator at each of them."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("request_number", range(1, WRITES + 1))
async def test_operator_killed_at_every_request(request_number: int, when: str) -> None:
    simulation = world_with_a_release()
    simulation.kill_at(request_number, when)
    await run_to_the_end(simulation)
    await simulation.train()
    assert simulation.killed
    assert simulation.versions() == ["connect4-1.0.0", "connect4-1.1.0"]
    status = simulation.status
    assert (status["phase"], status["modelVersion"]) == ("Succeeded", "connect4-1.1.0")
    assert status["startedAt"].startswith("2026-01-01T00:00:00")
    assert status["artifact"]["sha256"]
    assert len(simulation.registry.runs) == 1
    assert simulation.registry.ended == {"run-1": "FINISHED"}


async def test_life_is_as_long_as_the_kills_assume() -> None:
    simulation = world_with_a_release()
    await run_to_the_end(simulation)
    assert len(simulation.world.requests) == WRITES, simulation.world.requests


async def test_mlflow_away_at_the_start_delays_and_loses_nothing() -> None:
    simulation = Simulation(training_manifest())
    simulation.registry.away = True
    requeue = await simulation.train()
    assert requeue is not None
    assert simulation.status["phase"] == "Pending"
    assert "MLflow does not answer" in simulation.status["message"]
    assert simulation.world.get(job_key()) is None
    simulation.registry.away = False
    await run_to_the_end(simulation)
    assert simulation.versions() == ["connect4-1.0.0"]


async def test_mlflow_away_at_the_end_keeps_the_verdict() -> None:
    simulation = Simulation(training_manifest())
    await simulation.train()
    simulation.trainer.end(3, failure("DatasetMissing"))
    simulation.registry.away = True
    requeue = await simulation.train()
    assert requeue is not None
    assert requeue.after == seconds(30)
    assert (simulation.status["phase"], simulation.registry.ended) == ("Failed", {})
    simulation.registry.away = False
    assert await simulation.train() is None
    assert simulation.registry.ended == {"run-1": "FAILED"}


async def test_node_with_the_finished_pod_is_gone() -> None:
    simulation = Simulation(training_manifest())
    await simulation.train()
    simulation.trainer.run()
    simulation.registry.results["run-1"] = result()
    simulation.trainer.end(0, result())
    simulation.trainer.lose_pods()
    await simulation.train()
    assert simulation.versions() == ["connect4-1.0.0"]


async def test_lost_node_is_given_up_and_training_goes_on() -> None:
    simulation = Simulation(training_manifest())
    await simulation.train()
    simulation.trainer.run()
    simulation.trainer.delete_pod(gone_by=NOW)
    requeue = await simulation.train()
    assert requeue is not None
    assert requeue.after == seconds(60)
    simulation.clock.advance(seconds=60)
    await simulation.train()
    (pod,) = simulation.trainer.active_pods()
    assert "deletionTimestamp" not in pod["metadata"]


async def test_suspend_and_resume() -> None:
    simulation = Simulation(training_manifest(activeDeadlineSeconds=100))
    await simulation.train()
    simulation.trainer.run()
    await simulation.train()
    simulation.clock.advance(seconds=30)
    simulation.world.change(training_key(), lambda found: found["spec"].update(suspend=True))
    assert await simulation.train() is None
    assert (simulation.status["phase"], simulation.trainer.active_pods()) == ("Suspended", [])
    assert simulation.status["activeSeconds"] == 30
    simulation.clock.advance(hours=5)
    simulation.world.change(training_key(), lambda found: found["spec"].update(suspend=False))
    await simulation.train()
    job = simulation.world.get(job_key())
    assert job is not None
    assert (job["spec"]["suspend"], job["spec"]["activeDeadlineSeconds"]) == (False, 70)
    simulation.trainer.run()
    await simulation.train()
    assert simulation.status["phase"] == "Running"
    simulation.clock.advance(seconds=70)
    simulation.trainer.exceed_deadline()
    await simulation.train()
    assert simulation.status["conditions"][0]["reason"] == "DeadlineExceeded"
    assert simulation.status["activeSeconds"] == 100


async def test_retries_then_reason() -> None:
    simulation = Simulation(training_manifest(backoffLimit=1))
    await simulation.train()
    simulation.trainer.end(137, reason="OOMKilled")
    await simulation.train()
    assert "attempt 2 of 2" in simulation.status["message"]
    simulation.trainer.end(137, reason="OOMKilled")
    await simulation.train()
    assert conditions(simulation.status) == {"Stalled", "Failed"}
    assert "2 pods failed" in simulation.status["message"]
    assert "4Gi" in simulation.status["message"]


async def test_version_name_taken_in_the_last_moment() -> None:
    simulation = Simulation(training_manifest())
    await simulation.train()
    simulation.trainer.end(0, result())

    def steal(verb: str, key: Key) -> None:
        if verb == "create" and key.name == "connect4-1.0.0":
            simulation.world.fault = None
            simulation.world.put(version_manifest("connect4-1.0.0"))

    simulation.world.fault = steal
    await simulation.train()
    assert simulation.versions() == ["connect4-1.0.0", "connect4-1.1.0"]
    assert simulation.status["modelVersion"] == "connect4-1.1.0"


async def test_other_versions_are_looked_at_only_to_name_the_next_one() -> None:
    """1,000 TrainingJobs and 5,000 ModelVersions: what one training costs must not grow with all the others."""
    simulation = world_with_a_release()
    for number in range(30):
        simulation.world.put(version_manifest(f"other-1.{number}.0"))
    simulation.world.put(version_manifest("connect4-1.1.0") | {"spec": version_manifest("other-2.0.0")["spec"]})

    async def versions_listed() -> list[str]:
        simulation.world.listed.clear()
        await simulation.train()
        return [each.name for each in simulation.world.listed if each.kind == MODEL_VERSION]

    assert await versions_listed() == []
    simulation.trainer.run()
    assert await versions_listed() == []
    simulation.trainer.end(0, result())
    assert len(await versions_listed()) >= 32
    assert simulation.status["modelVersion"] == "connect4-1.2.0", "1.1.0 is the name of a version of another model"
    simulation.set_version_phase("connect4-1.2.0", "Ready", metrics={"moveAccuracy": 0.93})
    assert set(await versions_listed()) == {"connect4-1.2.0"}
    assert simulation.status["handover"]["handedOver"] is True
    assert set(await versions_listed()) == {"connect4-1.2.0"}


async def test_deletion_closes_the_run_and_leaves_nothing() -> None:
    simulation = Simulation(training_manifest())
    await simulation.train()
    simulation.trainer.run()
    await simulation.train()
    simulation.world.remove(training_key())
    with pytest.raises(Gone):
        await simulation.training.reconcile(training_key())
    assert simulation.registry.ended == {"run-1": "KILLED"}
    assert simulation.world.list(JOB, "default") == []


async def test_deletion_does_not_wait_for_mlflow() -> None:
    simulation = Simulation(training_manifest())
    await simulation.train()
    simulation.registry.away = True
    simulation.world.remove(training_key())
    with pytest.raises(Gone):
        await simulation.training.reconcile(training_key())
    ((about, reason, message, warning),) = simulation.events.told[-1:]
    assert (about, reason, warning) == ("connect4-policy", "RunNotClosed", True)
    assert "its run run-1 may seem to go on" in message
    told = len(simulation.events.told)
    with pytest.raises(Gone):
        await simulation.training.reconcile(training_key())
    assert len(simulation.events.told) == told, "once"


async def test_a_successor_of_the_same_name_closes_the_run_of_the_one_before() -> None:
    """Deleted and created again before the operator looked."""
    simulation = Simulation(training_manifest())
    await simulation.train()
    simulation.world.remove(training_key())
    simulation.world.put(training_manifest())
    await simulation.train()
    assert simulation.registry.ended == {"run-1": "KILLED"}
    assert simulation.status["mlflow"]["runID"] == "run-2"


async def test_object_that_is_being_deleted_starts_nothing() -> None:
    simulation = Simulation(training_manifest())
    stamp = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    simulation.world.change(training_key(), lambda found: found["metadata"].update(stamp))
    with pytest.raises(Gone):
        await simulation.training.reconcile(training_key())
    assert simulation.world.requests == []


async def test_predecessor_of_the_same_name() -> None:
    old = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job_key().name, "namespace": "default"}}
    owner = {"kind": "TrainingJob", "name": "connect4-policy", "uid": "another", "controller": True}
    old["metadata"]["ownerReferences"] = [owner]  # type: ignore[index]
    simulation = Simulation(training_manifest(), old | {"spec": {"suspend": True}})
    await simulation.train()
    assert simulation.status["conditions"][0]["reason"] == "NameTaken"
    simulation.world.remove(job_key())
    await simulation.train()
    assert simulation.trainer.active_pods()


async def test_without_mlflow_files_go_to_the_artifact_root() -> None:
    simulation = Simulation(training_manifest(), config=TrainingConfig(image="t", artifact_root="s3://bucket/models/"))
    simulation.registry = None  # type: ignore[assignment]
    simulation.start()
    await simulation.train()
    document = simulation.world.get(Key(CONFIG_MAP, "default", job_key().name))
    assert document is not None
    uid = simulation.world.get(training_key())["metadata"]["uid"]  # type: ignore[index]
    assert f"s3://bucket/models/default/connect4-policy/{uid}/model" in document["data"]["job.json"]
    assert '"mlflow": null' in document["data"]["job.json"]
    assert "mlflow" not in simulation.status


async def test_no_place_for_files_is_told() -> None:
    simulation = Simulation(training_manifest(), config=TrainingConfig(image="t"))
    simulation.registry = None  # type: ignore[assignment]
    simulation.start()
    with pytest.raises(Stalled, match="artifact root"):
        await simulation.training.reconcile(training_key())


async def test_made_version_says_where_it_comes_from() -> None:
    gates = [{"metric": "moveAccuracy", "min": 0.8}]
    base = version_manifest("connect4-0.1.0", {"phase": "Ready"})
    spec = {"baseModelVersion": "connect4-0.1.0", "evaluation": {"gates": gates}}
    simulation = Simulation(training_manifest(**spec), base)
    await simulation.train()
    simulation.trainer.end(0, result(parityMaxAbsDifference=5e-5))
    await simulation.train()
    made = simulation.world.get(Key(MODEL_VERSION, "default", "connect4-0.2.0"))
    assert made is not None
    spec = made["spec"]
    assert spec["lineage"] == {
        "trainingJob": "connect4-policy",
        "mlflowRunID": "run-1",
        "parent": "connect4-0.1.0",
        "datasets": [{"name": "positions", "sha256": "d" * 64}],
        "code": "0.1.0",
    }
    assert spec["validation"]["parity"]["tolerance"] == pytest.approx(5e-4)
    assert spec["validation"]["goldenSet"]["min"] == 0.8
    assert spec["validation"]["goldenSet"]["metric"] == "moveAccuracy"
    assert "ownerReferences" not in made["metadata"]


async def test_each_pod_refusal_is_looked_at_once_more() -> None:
    simulation = Simulation(training_manifest(resources={"gpus": 1}))
    await simulation.train()
    simulation.trainer.refuse_to_schedule("0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    assert await simulation.train() is None
    assert "no node has 1 free nvidia.com/gpu" in simulation.status["message"]
    simulation.trainer.run()
    await simulation.train()
    assert simulation.status["phase"] == "Running"


async def test_times_in_the_status_survive_a_round_trip() -> None:
    simulation = Simulation(training_manifest())
    await simulation.train()
    before = dict(simulation.status)
    simulation.clock.advance(minutes=5)
    assert await simulation.training.reconcile(training_key()) is None
    assert simulation.status == before
