"""Golden simulations of releases: the committed log says what happens and why, random orders must end alike.

A log that is meant to change: `UPDATE_GOLDEN=1 python -m pytest tests/scenarios`, then read the difference.
"""

import os
from pathlib import Path

import pytest

from tests.scenarios.releases import SCENARIOS, Scenario
from tests.scenarios.simulator import World

DATA = Path(__file__).parent / "data"
CALM = 60
MILESTONES = {"StartRelease", "Bake", "Promote", "RollBack", "Abort", "Supersede", "RestartSteps", "AcceptCommand"}
scenarios = pytest.mark.parametrize("case", SCENARIOS, ids=lambda case: case.name)


@scenarios
def test_log(case: Scenario) -> None:
    world = case.build()
    world.run(case.seconds)
    check_end(case, world)
    check_settled(world)
    path = DATA / f"{case.name}.log"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text("\n".join(world.log) + "\n")
    assert world.log == path.read_text().splitlines()


@pytest.mark.slow
@scenarios
def test_any_order_ends_alike(case: Scenario) -> None:
    undisturbed = case.build()
    undisturbed.run(case.seconds)
    for seed in range(case.seeds):
        world = case.build()
        try:
            world.run_randomly(case.seconds, seed, CALM)
            check_end(case, world)
            assert milestones(world) == milestones(undisturbed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}\n" + "\n".join(world.log)) from error


def milestones(world: World) -> list[tuple[str, str | None]]:
    """Return what was decided, without how often a share was taken back or evidence was late."""
    return [each for each in world.decided if each[0] in MILESTONES]


def check_end(case: Scenario, world: World) -> None:
    status = world.status
    assert not world.events, f"these never happened: {world.events}"
    assert status.phase is case.phase, status.message
    assert status.stable is not None
    assert status.stable.model_version == case.stable
    assert status.canary is None
    assert status.draining == ()
    assert [each.model_version for each in world.workloads] == [case.stable]
    ended = tuple(f"{each.model_version} {each.outcome}" for each in reversed(status.history))
    assert ended == case.history
    assert case.loses_traffic or world.lost == 0


def check_settled(world: World) -> None:
    """A settled object costs nothing: no plan is made, and one that is made changes nothing."""
    plans = world.plans
    world.run(30)
    assert world.plans == plans
    world.reconcile()
    assert world.plans == plans + 1
    assert world._wake is None
