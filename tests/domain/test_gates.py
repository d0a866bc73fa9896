"""Gates and analysis steps: who is asked when, what an answer means, what has to be measured."""

import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.domain.test_rollout import conditions, plan, releasing, until
from tests.scenarios.releases import (
    BAD,
    EMPTY,
    GATE,
    ROLLBACK_GATE,
    at_step,
    gate_says,
    make_world,
    settled_on,
    steps,
)
from tests.scenarios.simulator import START, World
from tidegate.api.deployment import DeploymentPhase, DeploymentSpec, GateRecord
from tidegate.domain.release import GateAnswer, GateQuestion, GateRole, Measurement
from tidegate.domain.rollout import questions_due
from tidegate.domain.steps import ReleaseStep, fingerprint, release_steps

TWO_METRICS = {
    "interval": "1s",
    "metrics": [{"name": "errorRate", "max": 0.05}, {"name": "latencyP99", "max_milliseconds": 50}],
}


def due(world: World, seconds: float = 0) -> tuple[GateQuestion, ...]:
    return questions_due(world.spec, world.status, world.observe(), world.now + timedelta(seconds=seconds))


def waiting_at_gate(code: int | None = 403, **fields: object) -> World:
    """Return a world in which v2 has 25 % and its gate has been asked."""
    world = make_world(strategy=steps("25", "gate", "50"), **fields)
    world.gates[GateRole.STEP] = GateAnswer(code, "no")
    until(world, settled_on("v1"))
    world.change(model_version="v2")

    def asked(w: World) -> bool:
        return w.status.canary is not None and w.status.canary.gate is not None

    return until(world, asked)


def with_record(world: World, record: GateRecord, age: int = 0) -> World:
    """Let the gate of the step have said this so many seconds ago."""
    assert world.status.canary is not None
    gate = record.model_copy(update={"at": world.now - timedelta(seconds=age)})
    world.status = world.status.model_copy(update={"canary": world.status.canary.model_copy(update={"gate": gate})})
    return world


# When a gate is asked, and what


def test_a_gate_is_told_what_it_decides_about() -> None:
    world = waiting_at_gate()
    (question,) = due(world, 3)
    assert question == GateQuestion(
        role=GateRole.STEP,
        url=GATE,
        timeout=timedelta(seconds=3),
        document={
            "ask": "Gate",
            "deployment": "connect4",
            "modelVersion": "v2",
            "digest": world.models["v2"][1],
            "stableVersion": "v1",
            "step": 1,
            "steps": 4,
            "percent": 25.0,
            "attempt": 1,
        },
    )


def test_a_closed_gate_is_asked_every_interval_and_nothing_else_happens() -> None:
    """Scenario 12: held, no failure counted."""
    world = waiting_at_gate()
    began = len(world.asked)
    first = world.asked[-1][0]
    world.run(30)
    assert [at - first for at, _ in world.asked[began:]] == [3.0 * k for k in range(1, 11)]
    assert world.status.phase is DeploymentPhase.PAUSED
    assert conditions(world.status)["Stalled"].status == "False"
    assert [each.failures for each in world.status.analysis] == [0]
    assert sum(action == "Wait" for action, _ in world.decided) == 1


def test_a_gate_is_looked_at_again_in_time_without_an_event() -> None:
    world = waiting_at_gate(analysis={})
    assert plan(world).recheck_after == timedelta(seconds=3)


def test_a_paused_release_does_not_ask_its_gate_but_its_rollback_gate() -> None:
    world = waiting_at_gate(rollback=ROLLBACK_GATE)
    world.change(paused=True)
    world.run(1)
    assert {each.role for each in due(world, 9)} == {GateRole.ROLLBACK}
    world.change(paused=False)
    assert {each.role for each in due(world, 9)} == {GateRole.STEP, GateRole.ROLLBACK}


def test_a_yes_from_before_a_pause_does_not_count_after_it() -> None:
    world = waiting_at_gate()
    world.change(paused=True)
    world.run(1)
    with_record(world, GateRecord(at=START, code=200))
    world.run(20)
    world.change(paused=False)
    world.run(5)
    assert world.status.canary is not None
    assert world.status.canary.step == 1


def test_the_rollback_gate_is_asked_with_every_look_of_the_analysis() -> None:
    world = releasing(strategy=steps("25", "20s"), analysis=TWO_METRICS | {"interval": "4s"}, rollback=ROLLBACK_GATE)
    looks = []
    for _ in range(12):
        world.run(1)
        looks.append((world.now - START).total_seconds() if world.status.analysed_at == world.now else None)
    asked = {at for at, role in world.asked if role is GateRole.ROLLBACK}
    measured = {at for at in looks if at is not None}
    assert len(measured) == 3
    assert measured <= asked
    assert len(asked) <= len(measured) + 1


def test_a_first_release_and_a_return_ask_no_gate() -> None:
    world = until(make_world(strategy=steps("25", "gate"), rollback=ROLLBACK_GATE), settled_on("v1"))
    assert world.asked == []
    assert due(world, 3600) == ()


def test_a_gate_is_not_asked_about_a_version_that_nobody_wants_any_more() -> None:
    world = waiting_at_gate(rollback=ROLLBACK_GATE)
    world.change(model_version="v3")
    assert due(world, 30) == ()


def test_answers_that_were_not_asked_for_change_nothing() -> None:
    world = releasing(strategy=steps("25", "20s"))
    observed = world.observe()
    told = {GateRole.STEP: GateAnswer(200), GateRole.ROLLBACK: GateAnswer(200)}
    assert plan(world, replace(observed, answers=told)).status == plan(world, observed).status


# What an answer means


@pytest.mark.parametrize("code", [201, 202, 204, 301, 403, 404, 500])
def test_only_200_opens_a_gate(code: int) -> None:
    world = waiting_at_gate(code)
    world.run(20)
    assert world.status.canary is not None
    assert world.status.canary.step == 1
    assert f"answered {code}" in world.status.message


@pytest.mark.parametrize("code", [201, 204, 301, 404, 500, None])
def test_only_200_takes_a_release_back(code: int | None) -> None:
    world = make_world(strategy=steps("25", "4s", "50", "4s"), rollback=ROLLBACK_GATE)
    world.gates[GateRole.ROLLBACK] = GateAnswer(code)
    until(world, settled_on("v1"))
    world.change(model_version="v2")
    until(world, settled_on("v2"))


@pytest.mark.slow
def test_a_gate_without_an_answer_is_told_after_its_limit_and_never_rolls_back() -> None:
    world = waiting_at_gate(None, progress_deadline="5s")
    assert conditions(world.status)["Stalled"].status == "False"
    world.run(3)
    assert conditions(world.status)["Stalled"].status == "True"
    assert conditions(world.status)["Stalled"].reason == "GateUnreachable"
    world.run(3600)
    assert world.status.canary is not None
    assert world.status.canary.retreat is None
    told = [each for each in world.status.decisions if each.reason == "GateUnreachable"]
    assert len(told) == 1
    world.gates[GateRole.STEP] = GateAnswer(200)
    until(world, settled_on("v2"))


USELESS = GateAnswer(None, "Secret change-board: is missing; create it in namespace shop", is_misconfigured=True)


def test_a_gate_with_a_useless_secret_is_told_at_once_and_the_release_holds_until_it_is_mended() -> None:
    """No traffic moves, nobody is told twice, and a mended Secret lets the release go on without a person."""
    world = waiting_at_gate()
    world.gates[GateRole.STEP] = USELESS
    until(world, lambda w: w.status.canary.gate.misconfigured)
    stalled = conditions(world.status)["Stalled"]
    assert (stalled.status, stalled.reason) == ("True", "BadGateCredentials")
    assert f"cannot be asked ({USELESS.message})" in stalled.message
    world.run(60)
    assert world.status.canary is not None
    assert (world.status.canary.step, world.status.canary.percent) == (1, 25)
    assert [each.reason for each in world.status.decisions].count("BadGateCredentials") == 1
    world.gates[GateRole.STEP] = GateAnswer(200)
    until(world, settled_on("v2"))


def test_a_rollback_gate_with_a_useless_secret_takes_nothing_back_and_is_told() -> None:
    world = releasing(strategy=steps("25", "20s"), rollback=ROLLBACK_GATE)
    world.gates[GateRole.ROLLBACK] = USELESS
    until(world, lambda w: w.status.canary.rollback_gate is not None)
    world.run(2)
    assert "the rollback gate https://gates.example/back cannot be asked (Secret change-board" in world.status.message
    until(world, settled_on("v2"))


def test_both_gates_are_asked_with_the_secret_that_they_name() -> None:
    gate = {"set_percent": 25}, {"gate": {"url": GATE, "secret": "change-board"}}
    back = {"gate": {"url": "https://gates.example/back", "secret": "alerts"}}
    world = until(make_world(strategy={"canary": {"steps": list(gate)}}, rollback=back), settled_on("v1"))
    world.gates[GateRole.STEP] = GateAnswer(403)
    world.change(model_version="v2")
    until(world, gate_says(403))
    assert {each.role: each.secret for each in due(world, 60)} == {
        GateRole.STEP: "change-board",
        GateRole.ROLLBACK: "alerts",
    }


def test_one_lost_answer_neither_opens_a_gate_nor_tells_anybody_again() -> None:
    world = waiting_at_gate(403)
    before = len(world.decided)
    world.gates[GateRole.STEP] = GateAnswer(None, "connection reset")
    until(world, lambda w: w.status.canary.gate.consecutive_errors == 1)
    world.gates[GateRole.STEP] = GateAnswer(403, "no")
    until(world, lambda w: w.status.canary.gate.consecutive_errors == 0)
    assert len(world.decided) == before


@pytest.mark.parametrize(("age", "errors", "step"), [(0, 0, 2), (2, 0, 2), (3, 0, 1), (0, 1, 1)])
def test_a_yes_counts_for_one_interval_unless_a_try_failed_since(age: int, errors: int, step: int) -> None:
    world = with_record(waiting_at_gate(), GateRecord(at=START, code=200, consecutive_errors=errors), age)
    canary = plan(world).status.canary
    assert canary is not None
    assert canary.step == step


def test_two_gates_in_a_row_are_both_asked() -> None:
    world = make_world(strategy=steps("25", "gate", "gate", "50"))
    until(world, settled_on("v1"))
    world.change(model_version="v2")
    until(world, at_step("v2", 2))
    world.gates[GateRole.STEP] = GateAnswer(403)
    until(world, gate_says(403))
    assert world.status.canary is not None
    assert world.status.canary.step == 2


def test_an_address_is_shown_without_its_query() -> None:
    world = releasing(strategy=steps("25", "20s"), rollback=ROLLBACK_GATE)
    world.gates[GateRole.ROLLBACK] = GateAnswer(200)
    until(world, lambda w: w.status.phase is DeploymentPhase.ROLLED_BACK)
    assert "https://gates.example/back" in world.status.message
    assert "token" not in world.status.model_dump_json()


def test_a_version_that_a_rollback_gate_took_back_is_rejected_until_a_retry() -> None:
    world = releasing(strategy=steps("25", "20s"), rollback=ROLLBACK_GATE)
    world.gates[GateRole.ROLLBACK] = GateAnswer(200)
    until(world, lambda w: w.status.phase is DeploymentPhase.ROLLED_BACK)
    (rejected,) = world.status.rejected
    assert rejected.reason == "RollbackGate"
    world.gates.clear()
    world.give("Retry", "1")
    until(world, settled_on("v2"))


# Analysis steps


def named(count: int, *metrics: str) -> dict[str, object]:
    found = [{"set_percent": 25}, {"analysis": {"count": count, "metrics": list(metrics)}}, {"set_percent": 50}]
    return {"canary": {"steps": found}}


def test_an_analysis_step_lasts_as_long_as_its_measurements() -> None:
    world = until(releasing(strategy=named(5, "errorRate")), at_step("v2", 1))
    assert world.status.canary is not None
    began = world.status.canary.step_started_at
    until(world, lambda w: w.status.canary.step == 2)
    assert began is not None
    assert world.now - began == 5 * world.spec.analysis.interval


def test_a_metric_that_the_step_does_not_name_holds_it_not() -> None:
    world = releasing(strategy=named(2, "errorRate"), analysis=TWO_METRICS)
    world.values["v2"] = {"latencyP99": Measurement()}
    until(world, lambda w: w.status.canary.step == 2, limit=20)


def test_a_metric_that_the_step_does_not_name_fails_as_usual() -> None:
    world = releasing(strategy=named(50, "errorRate"), analysis=TWO_METRICS)
    world.values["v2"] = {"latencyP99": Measurement(900, samples=100)}
    until(world, lambda w: w.status.phase is DeploymentPhase.ROLLED_BACK)


def test_a_dry_run_is_not_waited_for() -> None:
    metrics = [{"name": "errorRate", "max": 0.05}, {"name": "latencyP99", "max_milliseconds": 1, "dry_run": True}]
    world = releasing(strategy=steps("25", "analysis", "50"), analysis={"interval": "1s", "metrics": metrics})
    world.values["v2"] = {"latencyP99": Measurement(900, samples=100)}
    until(world, settled_on("v2"))


def test_a_tolerated_failure_is_no_pass() -> None:
    metrics = [{"name": "errorRate", "max": 0.05, "failure_limit": 100}]
    world = releasing(strategy=named(1, "errorRate"), analysis={"interval": "1s", "metrics": metrics})
    world.values["v2"] = BAD
    world.run(10)
    assert world.status.canary is not None
    assert world.status.canary.step == 1
    assert world.status.analysis[0].passes == 0
    assert world.status.holding_since is not None


def test_an_analysis_step_without_data_is_told_after_the_longest_hold() -> None:
    analysis = {"interval": "1s", "max_hold": "5s", "metrics": [{"name": "errorRate", "max": 0.05}]}
    world = releasing(strategy=named(1, "errorRate"), analysis=analysis)
    world.values["v2"] = EMPTY
    world.run(10)
    assert conditions(world.status)["Stalled"].reason == "NoData"


# Steps


def text(step: dict[str, object]) -> str:
    fields = {"model_version": "v1", "strategy": {"canary": {"steps": [{"set_percent": 5}, step]}}}
    return fingerprint(release_steps(DeploymentSpec.model_validate(fields)))


def test_what_a_step_waits_for_is_part_of_its_fingerprint_and_how_often_it_asks_is_not() -> None:
    gate = {"url": GATE}
    assert text({"gate": gate}) != text({"gate": {"url": f"{GATE}/2"}})
    assert text({"gate": gate}) == text({"gate": gate | {"interval": "5s", "timeout": "1s", "error_limit": 9}})
    assert text({"analysis": {}}) == text({"analysis": {"count": 1}})
    assert (
        len({text({"analysis": each}) for each in ({}, {"count": 2}, {"metrics": ["a"]}, {"metrics": ["a", "b"]})}) == 4
    )
    assert text({"analysis": {}}) != text({"pause": {}})


def test_the_fingerprint_of_steps_without_gates_is_what_it_was() -> None:
    """Scenario 16: an upgrade of the operator restarts no release."""
    known = hashlib.sha256(b"5,0,False;5,600,False;100,0,True").hexdigest()[:8]
    made = (ReleaseStep(5.0), ReleaseStep(5.0, timedelta(minutes=10)), ReleaseStep(100.0, pause=True))
    assert fingerprint(made) == known
