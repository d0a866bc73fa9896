"""What holds a new release, and what is never held; whole releases are in tests/scenarios."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.scenarios.releases import (
    AT_NOON,
    BAD,
    OVERSPENT,
    at_step,
    close,
    command,
    held_by,
    in_phase,
    make_world,
    release,
    settled_on,
)
from tests.scenarios.simulator import START, World, version
from tidegate.api.deployment import BudgetResult, DeploymentPhase, DeploymentStatus, ErrorBudget
from tidegate.domain.admission import Limits, Releases
from tidegate.domain.budget import is_spent, record_budget
from tidegate.domain.release import Measurement, Plan
from tidegate.domain.rollout import budget_due, plan_rollout

BUDGET = {"objective": 99.9, "window": "24h"}


def until(world: World, check: Any, limit: int = 200) -> World:
    for _ in range(limit):
        if check(world):
            return world
        world.run(1)
    raise AssertionError("\n".join(world.log))


def asking(**fields: Any) -> World:
    """Return a world in which v1 serves and v2 is asked for, a moment before the operator sees it."""
    world = until(make_world(**fields), settled_on("v1"))
    world.change(model_version="v2")
    return world


def plan(world: World, **observed: Any) -> Plan:
    return plan_rollout(world.spec, world.status, replace(world.observe(), **observed), world.now)


def health(status: DeploymentStatus) -> dict[str, str]:
    return {each.type: each.status.value for each in status.conditions}


# Windows


def test_a_hold_says_when_it_ends_and_looks_again_exactly_then() -> None:
    found = plan(asking(release_windows=AT_NOON))
    world = asking(release_windows=AT_NOON)
    assert found.recheck_after == START + timedelta(hours=12) - world.now
    assert "opens on Thursday 2026-01-01 12:00 UTC" in found.status.message
    assert health(found.status) == {"Ready": "False", "Reconciling": "True", "Stalled": "False"}
    assert found.idle
    assert found.status.canary is None


def test_an_unknown_zone_is_told_at_once_and_holds_only_what_is_new() -> None:
    """The first release is not held by it; whoever wrote it sees Stalled before the next release is due."""
    windows = [{"start": "09:00", "end": "10:00", "time_zone": "Europe/Berlln"}]
    world = until(make_world(release_windows=windows), lambda w: w.status.stable is not None)
    assert health(world.status)["Stalled"] == "True"
    assert "write the name of a zone such as Europe/Berlin" in world.status.message
    world.change(model_version="v2")
    world.run(1)
    assert world.status.held is not None
    assert world.status.held.reason == "UnknownTimeZone"
    assert health(world.status)["Stalled"] == "True"
    world.change(release_windows=[])
    world.run(1)
    assert world.status.canary is not None


def test_a_retry_is_a_new_release_and_is_held() -> None:
    world = asking()
    until(world, at_step("v2", 0)).values["v2"] = BAD
    until(world, in_phase(DeploymentPhase.ROLLED_BACK))
    close(world)
    command("Retry")(world)
    until(world, held_by("OutsideReleaseWindow"))
    assert world.status.canary is None


def test_a_command_for_a_release_that_nothing_holds_is_refused_as_before() -> None:
    world = until(make_world(), settled_on("v1"))
    command("Promote")(world)
    world.run(1)
    assert world.status.last_command is not None
    assert world.status.last_command.result == "refused: no release is under way"


def test_a_paused_release_is_not_started_by_promote() -> None:
    world = asking(release_windows=AT_NOON)
    world.change(paused=True)
    command("Promote")(world)
    world.run(1)
    assert world.status.canary is None
    assert world.status.held is None


def test_the_time_of_asking_is_kept_through_all_causes_and_starts_anew_with_another_version() -> None:
    world = asking(release_windows=AT_NOON)
    until(world, held_by("OutsideReleaseWindow"))
    since = world.status.held.since if world.status.held else None
    world.others = Releases(("default", "connect4"), Limits(in_cluster=1), frozenset({("default", "a")}))
    world.run(5)
    world.change(release_windows=[])
    until(world, held_by("ReleaseLimit"))
    assert world.status.held is not None
    assert world.status.held.since == since
    release("v3")(world)
    world.run(1)
    assert world.status.held.model_version == "v3"
    assert world.status.held.since == world.now


def test_each_cause_is_told_once() -> None:
    """An event once, not once a minute."""
    world = asking(error_budget=BUDGET)
    world.failures = OVERSPENT
    world.run(300)
    holds = [each.reason for each in world.status.decisions if each.action == "Hold"]
    assert holds == ["ErrorBudgetSpent"]


def test_a_cause_that_comes_and_goes_is_told_once() -> None:
    world = asking(error_budget=BUDGET)
    world.failures = OVERSPENT
    full = Releases(("default", "connect4"), Limits(in_cluster=1), frozenset({("default", "a")}))
    for _ in range(5):
        world.run(61)
        assert held_by("ErrorBudgetSpent")(world)
        world.others = full
        world.run(61)
        assert held_by("ReleaseLimit")(world)
        world.others = None
    holds = [each.reason for each in world.status.decisions if each.action == "Hold"]
    assert sorted(holds) == ["ErrorBudgetSpent", "ReleaseLimit"]
    world.change(model_version="v3")
    world.run(61)
    assert world.status.decisions[0].model_version == "v3"


# The error budget


def test_the_budget_is_asked_once_a_minute_while_it_holds_and_not_at_all_otherwise() -> None:
    world = asking(error_budget=BUDGET, release_windows=[{"start": "00:01", "end": "24:00"}])
    world.failures = OVERSPENT
    world.run(50)
    assert world.budgets == 0, "the window is closed"
    world.run(10 + 180)
    assert world.budgets == 4
    world.failures = Measurement(0.0, samples=10)
    until(world, settled_on("v2"))
    world.run(200)
    assert world.budgets == 5, "a settled object costs nothing"


def test_a_budget_that_has_to_be_asked_first_starts_nothing() -> None:
    """Between two looks a window has opened: nothing rests on a budget that nobody measured."""
    world = asking(error_budget=BUDGET)
    found = plan(world)
    assert found.status.canary is None
    assert found.recheck_after is not None
    assert found.recheck_after <= timedelta(seconds=1)
    assert not found.decisions


def test_no_answer_holds_or_passes_as_the_policy_says() -> None:
    dead = Measurement(error="connection refused")
    assert plan(asking(error_budget=BUDGET), budget=dead).status.canary is None
    passed = plan(asking(error_budget=BUDGET | {"no_data": "Pass"}), budget=dead)
    assert passed.status.canary is not None


def test_the_budget_looks_back_over_its_window() -> None:
    world = asking(error_budget=BUDGET)
    assert budget_due(world.spec, world.status, world.observe(), world.now) == world.now - timedelta(hours=24)


@pytest.mark.parametrize(
    ("measured", "left", "spent"),
    [
        (Measurement(samples=0), 100, False),
        (Measurement(0.0005, samples=10_000), 50, False),
        (Measurement(0.001, samples=10_000), 0, True),
        (Measurement(0.003, samples=10_000), -200, True),
    ],
    ids=["no requests", "half", "all", "three times"],
)
def test_what_is_left_of_a_budget(measured: Measurement, left: float, spent: bool) -> None:
    found = record_budget(ErrorBudget(objective=99.9), measured, START)
    assert found.remaining_percent == pytest.approx(left)
    assert is_spent(found) is spent


def test_a_dead_source_leaves_nothing_known() -> None:
    found = record_budget(ErrorBudget(objective=99.9), Measurement(error="gone"), START)
    assert found == BudgetResult(at=START, message="gone")
    assert not is_spent(found)


# Limits


def test_no_limit_holds_a_way_back() -> None:
    world = asking()
    until(world, settled_on("v2"))
    full = Releases(("default", "connect4"), Limits(in_cluster=1), frozenset({("default", "a")}))
    world.change(model_version="v1")
    assert plan(world, releases=full).status.canary is not None
    world.change(model_version="v3")
    held = plan(world, releases=full)
    assert held.status.canary is None
    assert held.recheck_after is None, "woken when its turn comes, not before"
    assert held.status.held is not None
    assert (held.status.held.model_version, held.status.held.digest) == ("v3", version("v3").digest)
