"""A ModelVersion among its children, with the controllers around it, and with everything that may die."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.support import (
    Simulation,
    conditions,
    deployment_manifest,
    training_manifest,
    validation_error,
    validation_key,
    verdict,
    version_key,
    version_manifest,
)
from tidegate.ports import CONFIG_MAP, DEPLOYMENT, JOB, ROUTE, Key
from tidegate.reconcilers.pattern import Gone

REGISTERED = "default.connect4"


def status_of(simulation: Simulation) -> dict[str, Any]:
    return simulation.world.status_of(version_key())


async def check(simulation: Simulation, code: int = 0, text: str | None = None) -> None:
    """Run the checks to their end."""
    await simulation.validate()
    simulation.validator.run()
    await simulation.validate()
    simulation.validator.end(code, verdict() if text is None else text)
    await simulation.validate()


async def test_from_spec_to_registry() -> None:
    simulation = Simulation(version_manifest(stage="Staging"))
    await check(simulation)
    status = status_of(simulation)
    assert conditions(status) == {"Ready", "Registered"}
    assert (status["registryVersion"], status["registryStage"]) == ("1", "Staging")
    assert simulation.registry.aliases == {(REGISTERED, "challenger"): "1"}
    job = simulation.world.get(validation_key())
    assert job is not None
    assert job["spec"]["ttlSecondsAfterFinished"] == 600
    assert simulation.events.reasons == ["Validating", "Ready", "Registered"]


async def test_settled_object_costs_nothing() -> None:
    simulation = Simulation(version_manifest())
    await check(simulation)
    simulation.world.requests.clear()
    for _ in range(3):
        simulation.clock.advance(hours=1)
        assert await simulation.promotion.reconcile(version_key()) is None
    assert simulation.world.requests == []


async def test_stage_moves_the_aliases() -> None:
    simulation = Simulation(version_manifest(stage="Staging"))
    await check(simulation)
    for stage, aliases in (("Production", {"champion"}), ("Archived", set()), ("Staging", {"challenger"})):
        simulation.world.change(version_key(), lambda found, stage=stage: found["spec"].update(stage=stage))
        await simulation.validate()
        assert {alias for _, alias in simulation.registry.aliases} == aliases
    assert len(simulation.registry.versions) == 1


async def test_mlflow_away_does_not_touch_ready_and_is_made_up_for() -> None:
    simulation = Simulation(version_manifest(stage="Production"))
    simulation.registry.away = True
    await check(simulation)
    assert conditions(status_of(simulation)) == {"Ready"}
    assert status_of(simulation)["phase"] == "Ready"
    requeue = await simulation.validate()
    assert requeue is not None
    simulation.registry.away = False
    assert await simulation.validate() is None
    assert conditions(status_of(simulation)) == {"Ready", "Registered"}


async def test_artifact_store_away_is_waited_for() -> None:
    simulation = Simulation(version_manifest())
    await check(simulation, 1, validation_error())
    assert simulation.world.list(JOB, "default") == []
    assert "tried again by itself" in status_of(simulation)["message"]
    simulation.clock.advance(seconds=5)
    await check(simulation)
    assert status_of(simulation)["phase"] == "Ready"
    assert "retryAt" not in status_of(simulation)


async def test_rejected_is_not_registered() -> None:
    simulation = Simulation(version_manifest(stage="Production"))
    await check(simulation, 0, verdict("Failed", "Checksum"))
    assert conditions(status_of(simulation)) == {"Stalled"}
    assert simulation.registry.versions == {}


async def test_metrics_of_the_training_are_kept() -> None:
    made_it = {"modelVersion": "connect4-1.0.0", "metrics": {"loss": 0.5, "moveAccuracy": 0.9}}
    lineage = {"trainingJob": "connect4-policy"}
    simulation = Simulation(version_manifest(lineage=lineage), training_manifest(status=made_it))
    await check(simulation)
    assert status_of(simulation)["metrics"]["loss"] == 0.5
    assert status_of(simulation)["metrics"]["moveAccuracy"] == 0.94


async def test_metrics_of_a_training_that_knows_nothing_of_it_are_not_taken() -> None:
    other = {"modelVersion": "connect4-9.0.0", "metrics": {"loss": 0.5}}
    lineage = {"trainingJob": "connect4-policy"}
    simulation = Simulation(version_manifest(lineage=lineage), training_manifest(status=other))
    await check(simulation)
    assert "loss" not in status_of(simulation)["metrics"]


async def test_users_come_and_go() -> None:
    simulation = Simulation(version_manifest())
    await check(simulation)
    name = "connect4-1.0.0"
    other = deployment_manifest("connect4-1.1.0", "connect4-1.1.0", "other")
    other["status"]["canary"] = {"modelVersion": name, "percent": 5}
    route = route_manifest("third", (name, "Variant"), live=25)
    for manifest in (deployment_manifest(name, name), other, route):
        simulation.world.put(manifest)
    await simulation.validate()
    users = [(each["deployment"], each["role"], each["percent"]) for each in status_of(simulation)["servedBy"]]
    assert users == [("connect4", "Stable", 100), ("third", "Variant", 25), ("other", "Canary", 5)]
    for number in range(20):
        simulation.world.put(deployment_manifest(name, name, f"more-{number}"))
    await simulation.validate()
    assert len(status_of(simulation)["servedBy"]) == 16, "a status is bounded"
    for each in list(simulation.world):
        if each.kind.name in ("Deployment", "Route"):
            simulation.world.remove(each)
    await simulation.validate()
    assert status_of(simulation)["servedBy"] == []


def route_manifest(name: str, *backends: tuple[str, str], live: float = 50) -> dict[str, Any]:
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "Route",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"deployment": name, "backends": [{"modelVersion": v, "role": role} for v, role in backends]},
        "status": {"weights": [{"modelVersion": version, "percent": live} for version, _ in backends]},
    }


async def test_a_reconcile_looks_at_its_own_users_alone() -> None:
    """1,000 Deployments and 5,000 ModelVersions: what one version costs must not grow with all the others."""
    name = "connect4-1.0.0"
    others = [deployment_manifest("connect4-2.0.0", "connect4-2.0.0", f"other-{n}") for n in range(50)]
    routes = [route_manifest(f"other-{n}", ("connect4-2.0.0", "Variant")) for n in range(50)]
    own = [deployment_manifest(name, name, "mine"), route_manifest("mine", (name, "Stable"))]
    simulation = Simulation(version_manifest(), *others, *routes, *own)
    simulation.world.listed.clear()
    await simulation.promotion.reconcile(version_key())
    assert [each["deployment"] for each in status_of(simulation)["servedBy"]] == ["mine"]
    assert simulation.world.listed == [Key(DEPLOYMENT, "default", "mine"), Key(ROUTE, "default", "mine")]
    simulation.world.remove(version_key())
    simulation.world.listed.clear()
    with pytest.raises(Gone):
        await simulation.promotion.reconcile(version_key())
    assert simulation.events.reasons[-1] == "ModelVersionDeleted"
    assert simulation.world.listed == [Key(DEPLOYMENT, "default", "mine")]


VERSIONS = st.sampled_from(("connect4-1.0.0", "connect4-2.0.0"))
PLACES = ("stable", "canary", "experiment", "rollback")


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.dictionaries(st.sampled_from(PLACES), VERSIONS), max_size=3),
    st.lists(st.lists(st.tuples(VERSIONS, st.sampled_from(("Stable", "Canary", "Variant"))), max_size=2), max_size=3),
)
def test_no_user_is_missed(places: list[dict[str, str]], routes: list[list[tuple[str, str]]]) -> None:
    """Every place that makes a user is a reference, by which users are found; neither may be changed alone."""
    name, expected = "connect4-1.0.0", set()
    simulation = Simulation(version_manifest(name))
    for number, place in enumerate(places):
        deployment = deployment_manifest("connect4-9.0.0", None, f"d{number}")
        deployment["status"] = {each: {"modelVersion": version, "percent": 1} for each, version in place.items()}
        simulation.world.put(deployment)
        expected |= {(f"d{number}", each.capitalize()) for each in ("stable", "canary") if place.get(each) == name}
    for number, backends in enumerate(routes):
        simulation.world.put(route_manifest(f"r{number}", *backends))
        expected |= {(f"r{number}", role) for version, role in backends if (version, role) == (name, "Variant")}
    asyncio.run(simulation.promotion.reconcile(version_key()))
    assert {(each["deployment"], each["role"]) for each in status_of(simulation).get("servedBy", [])} == expected


WRITES = 7


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("request_number", range(1, WRITES + 1))
async def test_operator_killed_at_every_request(request_number: int, when: str) -> None:
    simulation = Simulation(version_manifest(stage="Production"))
    simulation.kill_at(request_number, when)
    await check(simulation)
    await simulation.validate()
    assert simulation.killed
    assert conditions(status_of(simulation)) == {"Ready", "Registered"}
    assert simulation.registry.versions == {(REGISTERED, _uid(simulation)): "1"}
    assert simulation.registry.aliases == {(REGISTERED, "champion"): "1"}


def _uid(simulation: Simulation) -> str:
    found = simulation.world.get(version_key())
    assert found is not None
    return str(found["metadata"]["uid"])


async def test_life_is_as_long_as_the_kills_assume() -> None:
    simulation = Simulation(version_manifest(stage="Production"))
    await check(simulation)
    assert len(simulation.world.requests) == WRITES, simulation.world.requests


async def test_deletion_leaves_nothing() -> None:
    simulation = Simulation(version_manifest())
    await simulation.validate()
    simulation.world.remove(version_key())
    with pytest.raises(Gone):
        await simulation.promotion.reconcile(version_key())
    assert simulation.world.list(JOB, "default") == []
    assert simulation.world.get(Key(CONFIG_MAP, "default", validation_key().name)) is None


async def test_a_version_deleted_in_use_is_told_to_who_uses_it() -> None:
    name = "connect4-1.0.0"
    canary = deployment_manifest(name, "connect4-0.9.0", "releasing")
    canary["status"]["canary"] = {"modelVersion": name, "digest": "a" * 64, "percent": 10}
    leaving = deployment_manifest(name, name, "leaving")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    unused = deployment_manifest(name, "connect4-0.9.0", "unused")
    users = (deployment_manifest(name, name, "serving"), canary, leaving, unused)
    simulation = Simulation(version_manifest(), *users)
    await check(simulation)
    simulation.events.clear()
    simulation.world.remove(version_key())
    with pytest.raises(Gone):
        await simulation.promotion.reconcile(version_key())
    told = {about: (reason, message) for about, reason, message, warning in simulation.events.told if warning}
    assert told.keys() == {"serving", "releasing"}
    assert {reason for reason, _ in told.values()} == {"ModelVersionDeleted"}
    assert f"ModelVersion {name} was deleted while it serves (Stable)" in told["serving"][1]
    assert "create it again with the same artifact" in told["releasing"][1]


LEGAL = {
    None: {"Validating"},
    "Pending": {"Pending", "Validating"},
    "Validating": {"Pending", "Validating", "Ready", "Rejected"},
    "Ready": {"Ready"},
    "Rejected": {"Rejected"},
}
ACTIONS = (
    *("validate", "validate", "step", "step", "run", "pass", "fail", "unavailable", "not found", "crash", "oom"),
    *("lose pods", "delete job", "mlflow away", "mlflow back", "restart", "later", "to production", "to staging"),
)


async def do(simulation: Simulation, action: str) -> None:
    validator, world = simulation.validator, simulation.world
    ends = {
        "pass": (0, verdict()),
        "fail": (0, verdict("Failed", "Parity")),
        "unavailable": (1, validation_error()),
        "not found": (3, validation_error("ArtifactNotFound", retryable=False)),
        "crash": (139, ""),
        "oom": (137, ""),
    }
    match action:
        case "validate":
            await simulation.reconcile(simulation.promotion, version_key())
        case "step":
            validator.step()
        case "run":
            validator.run()
        case "lose pods":
            validator.lose_pods()
        case "delete job":
            world.remove(validation_key())
        case "mlflow away" | "mlflow back":
            simulation.registry.away = action == "mlflow away"
        case "restart":
            simulation.start()
        case "later":
            simulation.clock.advance(seconds=37)
        case "to production" | "to staging":
            stage = action.removeprefix("to ").capitalize()
            world.change(version_key(), lambda found: found["spec"].update(stage=stage))
        case _ if validator.active_pods():
            code, text = ends[action]
            validator.end(code, text, "OOMKilled" if action == "oom" else "")


def look(simulation: Simulation, before: dict[str, Any]) -> dict[str, Any]:
    status = status_of(simulation)
    if not status:
        return before
    assert status["phase"] in LEGAL[before.get("phase")], (before.get("phase"), status["phase"])
    assert len(conditions(status) & {"Ready", "Reconciling", "Stalled"}) == 1
    assert ("Ready" in conditions(status)) == (status["phase"] == "Ready")
    assert ("Stalled" in conditions(status)) == (status["phase"] == "Rejected")
    if before.get("phase") in ("Ready", "Rejected"):
        assert (status["checks"], status["validatedAt"]) == (before["checks"], before["validatedAt"])
    assert len(simulation.registry.versions) <= 1
    return dict(status)


async def live(actions: list[str]) -> None:
    simulation = Simulation(version_manifest())
    before: dict[str, Any] = {}
    for action in actions:
        await do(simulation, action)
        before = look(simulation, before)
    simulation.registry.away = False
    for action in ("later", "later", *["validate", "step"] * 3, "pass", *["validate", "step"] * 4) * 2:
        await do(simulation, action)
        before = look(simulation, before)
    assert before["phase"] in ("Ready", "Rejected")
    if before["phase"] == "Ready":
        assert before["registryStage"] == simulation.world.get(version_key())["spec"].get("stage", "None")  # type: ignore[index]


@settings(max_examples=120, deadline=None)
@given(st.lists(st.sampled_from(ACTIONS), min_size=10, max_size=40))
def test_promises(actions: list[str]) -> None:
    asyncio.run(live(actions))
