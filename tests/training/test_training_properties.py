"""Whatever happens in whatever order, a TrainingJob keeps its promises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.training.support import (
    NOW,
    Simulation,
    conditions,
    deployment_manifest,
    failure,
    job_key,
    result,
    training_key,
    training_manifest,
    version_key,
    version_manifest,
)
from tidegate.domain.manifests.training_job import MAKER_LABEL
from tidegate.ports import MODEL_VERSION

FINAL = {"Succeeded", "Failed"}
LEGAL = {
    None: {"Pending", "Suspended", "Failed"},
    "Pending": {"Pending", "Suspended", "Running", "Evaluating", "Succeeded", "Failed"},
    "Suspended": {"Suspended", "Pending", "Running", "Evaluating", "Succeeded", "Failed"},
    "Running": {"Running", "Pending", "Suspended", "Evaluating", "Succeeded", "Failed"},
    # Back only if somebody deletes the Job before its result was read: it is trained again, from its checkpoint.
    "Evaluating": {"Evaluating", "Pending", "Suspended", "Running", "Succeeded", "Failed"},
    "Succeeded": {"Succeeded"},
    "Failed": {"Failed"},
}
ACTIONS = (
    *("settle", "settle", "settle", "train", "step", "run", "succeed", "succeed", "succeed"),
    *("fail", "fail for good", "out of memory"),
    *("lose pods", "delete job", "suspend", "resume", "mlflow away", "mlflow back", "restart", "later", "later"),
    *("own ready", "own rejected", "own deleted", "foreign version", "release something else"),
)


class Watcher:
    """Looks at the world after each action and remembers what must not change any more."""

    def __init__(self) -> None:
        self.before: dict[str, Any] = {}
        self.made: set[str] = set()

    def look(self, simulation: Simulation) -> None:
        status = simulation.status
        self._look_at_versions(simulation)
        if not status:
            return
        assert status["phase"] in LEGAL[self.before.get("phase")], (self.before.get("phase"), status["phase"])
        assert len(conditions(status) & {"Ready", "Reconciling", "Stalled"}) <= 1
        assert ("Complete" in conditions(status)) == (status["phase"] == "Succeeded")
        assert ("Failed" in conditions(status)) == (status["phase"] == "Failed")
        for field in ("startedAt", "jobName", "modelVersion", "finishedAt"):
            assert self.before.get(field) in (None, status.get(field)), field
        assert status.get("activeSeconds", 0) >= self.before.get("activeSeconds", 0)
        assert status.get("activeSeconds", 0) <= (simulation.clock.now() - NOW).total_seconds()
        if self.before.get("phase") in FINAL:
            assert status["conditions"] == self.before["conditions"]
        self.before = dict(status)

    def _look_at_versions(self, simulation: Simulation) -> None:
        uid = simulation.world.get(training_key())["metadata"]["uid"]  # type: ignore[index]
        for each in simulation.world.list(MODEL_VERSION, "default"):
            if each["metadata"].get("labels", {}).get(MAKER_LABEL) == uid:
                self.made.add(each["metadata"]["uid"])
        assert len(self.made) <= 1
        assert len(simulation.registry.runs) <= 1


ENDS = {
    "succeed": (0, result(), ""),
    "fail": (1, "", ""),
    "fail for good": (3, failure(), ""),
    "out of memory": (137, "", "OOMKilled"),
}


async def do(simulation: Simulation, action: str) -> None:
    """Let one thing happen; what cannot happen now does not."""
    trainer, world = simulation.trainer, simulation.world
    match action:
        case "train":
            await simulation.reconcile(simulation.training, training_key())
        case "settle":
            await simulation.train()
        case "step" | "run" | "lose pods":
            {"step": trainer.step, "run": trainer.run, "lose pods": trainer.lose_pods}[action]()
        case "delete job":
            world.remove(job_key())
        case "suspend" | "resume":
            world.change(training_key(), lambda found: found["spec"].update(suspend=action == "suspend"))
        case "later":
            simulation.clock.advance(seconds=37)
        case "restart":
            simulation.start()
        case _ if action in ENDS:
            end_pod(simulation, action)
        case _:
            do_elsewhere(simulation, action)


def end_pod(simulation: Simulation, action: str) -> None:
    if simulation.trainer.active_pods():
        simulation.registry.results["run-1"] = result()
        simulation.trainer.end(*ENDS[action])


def do_elsewhere(simulation: Simulation, action: str) -> None:
    """What happens to MLflow, to versions and to the Deployment."""
    world, own = simulation.world, simulation.status.get("modelVersion")
    match action:
        case "mlflow away" | "mlflow back":
            simulation.registry.away = action == "mlflow away"
        case "own ready" | "own rejected" if own and world.get(version_key(own)):
            phase = "Ready" if action == "own ready" else "Rejected"
            simulation.set_version_phase(own, phase, metrics={"moveAccuracy": 0.9})
        case "own deleted" if own:
            world.remove(version_key(own))
        case "foreign version" if not own:
            world.put(version_manifest(f"connect4-1.{len(simulation.versions())}.0"))
        case "release something else":
            world.put(_OTHER)
            world.put(deployment_manifest("other-1.0.0", "other-1.0.0"))


_OTHER = version_manifest("other-1.0.0", {"phase": "Ready"})


async def live(actions: list[str]) -> None:
    deploy = {"deploy": {"name": "connect4", "onlyIfImproved": {"metric": "moveAccuracy"}}}
    simulation = Simulation(training_manifest(output=deploy, activeDeadlineSeconds=3000))
    watcher = Watcher()
    for action in actions:
        await do(simulation, action)
        watcher.look(simulation)
    await come_to_an_end(simulation, watcher)


async def come_to_an_end(simulation: Simulation, watcher: Watcher) -> None:
    """When every obstacle is taken away, the training ends by itself and then rests."""
    simulation.registry.away = False
    simulation.world.change(training_key(), lambda found: found["spec"].update(suspend=False))
    for _ in range(3):
        await simulation.train()
        watcher.look(simulation)
        if simulation.trainer.active_pods() and simulation.status["phase"] not in FINAL:
            await do(simulation, "succeed")
            await simulation.train()
        await do(simulation, "own ready")
        await simulation.train()
        watcher.look(simulation)
        simulation.clock.advance(seconds=90)
    assert simulation.status["phase"] in FINAL
    assert await simulation.train() is None
    assert simulation.registry.ended.keys() == set(simulation.registry.runs.values()) & _recorded(simulation)


def _recorded(simulation: Simulation) -> set[str]:
    return {simulation.status["mlflow"]["runID"]} if "mlflow" in simulation.status else set()


JOB_DELETED_BEFORE_ITS_RESULT_WAS_READ = [
    *("settle",) * 5,
    "succeed",
    "lose pods",
    "mlflow away",
    "settle",
    "delete job",
]


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@example(JOB_DELETED_BEFORE_ITS_RESULT_WAS_READ)
@given(st.lists(st.sampled_from(ACTIONS), min_size=10, max_size=40))
def test_promises(actions: list[str]) -> None:
    asyncio.run(live(actions))
