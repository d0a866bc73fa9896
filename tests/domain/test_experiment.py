"""A/B tests with a fixed horizon: admission, one look, refusals, faults."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tidegate.api.ab_test import ABTest, ABTestPhase, ABTestSpec, ABTestStatus, RecommendationAction
from tidegate.domain.conditions import is_true
from tidegate.domain.experiment import (
    Endpoint,
    ExperimentPlan,
    ObservedTest,
    find_experiment,
    find_rivals,
    looks_due,
    plan_ab_test,
)
from tidegate.domain.release import Measurement, ModelState, VersionID

START = datetime(2026, 1, 1, tzinfo=UTC)
STABLE, WIDE = VersionID("v1", "a" * 64), VersionID("v2", "b" * 64)
METRICS = (
    {"name": "win", "role": "Goal", "direction": "Increase"},
    {"name": "errorRate", "role": "Guardrail", "direction": "Decrease", "margin": 0.01},
)


def make_spec(**fields: object) -> ABTestSpec:
    spec: dict[str, object] = {
        "deployment": "connect4",
        "variants": [{"name": "control", "weight": 50}, {"name": "wide", "model_version": "v2", "weight": 50}],
        "assignment": {"header": "x-user-id"},
        "metrics": METRICS,
        "analysis": {"min_samples_per_variant": 1000},
        "max_duration": "1h",
    }
    return ABTestSpec.model_validate(spec | fields)


def observe(**fields: object) -> ObservedTest:
    settled = ObservedTest("wider", 1, Endpoint(STABLE, is_settled=True), ModelState.READY, WIDE.digest)
    return replace(settled, **fields)  # type: ignore[arg-type]


SPLIT = Endpoint(STABLE, is_settled=True, test="wider", percent=50)


def arm(requests: int, wins: float, errors: float = 0.001) -> dict[str, Measurement]:
    return {
        "requestRate": Measurement(1.0, samples=requests),
        "win": Measurement(wins, samples=requests),
        "errorRate": Measurement(errors, samples=requests),
    }


def plan(spec: ABTestSpec, status: ABTestStatus, observed: ObservedTest, seconds: float = 0) -> ExperimentPlan:
    return plan_ab_test(spec, status, observed, START + timedelta(seconds=seconds))


def started(spec: ABTestSpec) -> ABTestStatus:
    admitted = plan(spec, ABTestStatus(), observe())
    assert admitted.status.phase is ABTestPhase.RUNNING
    running = plan(spec, admitted.status, observe(endpoint=SPLIT))
    assert running.status.started_at == START
    return running.status


def look(
    spec: ABTestSpec, control: dict[str, Measurement], wide: dict[str, Measurement], seconds: float = 60
) -> ABTestStatus:
    observed = observe(endpoint=SPLIT, measured={"control": control, "wide": wide})
    return plan(spec, started(spec), observed, seconds).status


def test_a_test_waits_for_its_deployment_and_begins_with_the_confirmed_split() -> None:
    spec = make_spec()
    waiting = plan(spec, ABTestStatus(), observe(endpoint=Endpoint(STABLE, is_settled=False)))
    assert waiting.status.phase is ABTestPhase.PENDING
    assert is_true(waiting.status.conditions, "Reconciling")
    admitted = plan(spec, waiting.status, observe())
    assert (admitted.status.phase, admitted.status.started_at) == (ABTestPhase.RUNNING, None)
    half = plan(spec, admitted.status, observe(endpoint=replace(SPLIT, percent=0)))
    assert half.status.started_at is None
    assert is_true(plan(spec, half.status, observe(endpoint=SPLIT)).status.conditions, "Ready")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"endpoint": None}, "DeploymentMissing"),
        ({"state": ModelState.MISSING, "digest": None}, "ModelVersionMissing"),
        ({"state": ModelState.REJECTED}, "ModelVersionRejected"),
        ({"endpoint": Endpoint(WIDE, is_settled=True)}, "EqualVariants"),
        ({"rivals": ("older",)}, "EndpointBusy"),
    ],
)
def test_scenario_15_refusals_name_their_reason(fields: dict[str, object], reason: str) -> None:
    refused = plan(make_spec(), ABTestStatus(), observe(**fields))
    stalled = next(each for each in refused.status.conditions if each.type == "Stalled")
    assert (stalled.status, stalled.reason) == ("True", reason)
    assert refused.event == (reason, refused.status.message)
    assert refused.recheck_after is not None
    again = plan(make_spec(), refused.status, observe(**fields), 30)
    assert again.event is None
    assert plan(make_spec(), refused.status, observe()).status.phase is ABTestPhase.RUNNING


def test_there_is_no_verdict_before_the_samples() -> None:
    early = look(make_spec(), arm(999, 0.2), arm(1050, 0.9))
    assert (early.phase, early.winner) == (ABTestPhase.RUNNING, None)
    assert early.analysis[0].significant
    assert early.recommendation is not None
    assert early.recommendation.action is RecommendationAction.CONTINUE


@pytest.mark.parametrize(
    ("wide", "action", "winner", "reason"),
    [
        (arm(2000, 0.60), RecommendationAction.ADOPT, "wide", "ArmIsBetter"),
        (arm(2000, 0.40), RecommendationAction.KEEP, "control", "ControlIsBetter"),
        (arm(2000, 0.51), RecommendationAction.KEEP, None, "NoDifference"),
        (arm(2000, 0.60, errors=0.05), RecommendationAction.KEEP, "control", "GuardrailViolated"),
        (arm(2000, 0.60, errors=0.008), RecommendationAction.KEEP, None, "GuardrailNotShown"),
    ],
)
def test_the_one_look(
    wide: dict[str, Measurement], action: RecommendationAction, winner: str | None, reason: str
) -> None:
    ended = look(make_spec(), arm(2000, 0.50), wide)
    assert ended.phase is ABTestPhase.CONCLUDED
    assert ended.recommendation is not None
    assert (ended.recommendation.action, ended.recommendation.reason, ended.winner) == (action, reason, winner)
    assert ended.ended_at is not None


def test_the_minimum_detectable_effect_sets_the_samples_once() -> None:
    goal = METRICS[0] | {"minimum_detectable_effect": 0.05}
    spec = make_spec(metrics=[goal])
    unknown = look(spec, arm(900, 0.5), arm(900, 0.5))
    assert unknown.required_samples_per_variant is None
    known = look(spec, arm(1200, 0.5), arm(1200, 0.5))
    assert known.required_samples_per_variant == 1565
    later = observe(endpoint=SPLIT, measured={"control": arm(1400, 0.3), "wide": arm(1400, 0.3)})
    assert plan(spec, known, later, 120).status.required_samples_per_variant == 1565


def test_a_false_sample_ratio_makes_the_test_invalid_loudly() -> None:
    ended = look(make_spec(), arm(2300, 0.5), arm(2000, 0.9))
    assert (ended.phase, ended.winner) == (ABTestPhase.INVALID, None)
    assert ended.sample_ratio is not None
    assert not ended.sample_ratio.ok
    assert is_true(ended.conditions, "Stalled")
    early = look(make_spec(), arm(500, 0.5), arm(400, 0.5))
    assert early.phase is ABTestPhase.RUNNING
    assert look(make_spec(), arm(900, 0.5), arm(600, 0.5)).phase is ABTestPhase.INVALID


@pytest.mark.parametrize(("control", "wide"), [(0.0, 0.0), (1.0, 1.0)])
def test_degenerate_data_have_a_name(control: float, wide: float) -> None:
    ended = look(make_spec(), arm(2000, control, errors=0), arm(2000, wide, errors=0))
    assert ended.phase is ABTestPhase.CONCLUDED
    assert ended.analysis[0].note in ("NoEvents", "AllEvents")
    assert ended.winner is None


def test_an_empty_arm_is_named_and_waited_for() -> None:
    seen = look(make_spec(), arm(0, 0.5), arm(3, 0.5))
    assert seen.phase is ABTestPhase.RUNNING
    assert seen.analysis[0].note == "EmptyArm"


def test_the_time_ends_a_test_without_a_verdict() -> None:
    ended = look(make_spec(), arm(500, 0.1), arm(500, 0.9), seconds=3600)
    assert (ended.phase, ended.winner) == (ABTestPhase.CONCLUDED, None)
    assert ended.recommendation is not None
    assert ended.recommendation.reason == "NotEnoughSamples"


def test_stop_ends_a_test_in_any_phase_and_an_ended_test_stays_as_it_is() -> None:
    stopped = plan(make_spec(stop=True), started(make_spec()), observe(endpoint=SPLIT), 60)
    assert stopped.status.phase is ABTestPhase.STOPPED
    again = plan(make_spec(stop=True), stopped.status, observe(endpoint=None), 600)
    assert again.status == stopped.status
    assert again.recheck_after is None


def test_counts_never_shrink_when_the_source_forgets_or_fails() -> None:
    spec = make_spec()
    seen = look(spec, arm(800, 0.5), arm(800, 0.6))
    for lost in (arm(10, 0.1), dict.fromkeys(("requestRate", "win", "errorRate"), Measurement())):
        observed = observe(endpoint=SPLIT, measured={"control": lost, "wide": lost})
        assert plan(spec, seen, observed, 90).status.analysis == seen.analysis
        assert plan(spec, seen, observed, 90).status.counts == seen.counts
    down = dict.fromkeys(("requestRate", "win", "errorRate"), Measurement(error="connection refused"))
    after = plan(spec, seen, observe(endpoint=SPLIT, measured={"control": down, "wide": down}), 90)
    assert after.status.analysis == seen.analysis
    assert "connection refused" in after.status.message


def test_another_control_makes_a_running_test_invalid_and_a_waiting_one_wait_again() -> None:
    spec = make_spec()
    other = Endpoint(VersionID("v9", "c" * 64), is_settled=True, test="wider", percent=50)
    assert plan(spec, started(spec), observe(endpoint=other), 60).status.phase is ABTestPhase.INVALID
    admitted = plan(spec, ABTestStatus(), observe()).status
    again = plan(spec, admitted, observe(endpoint=replace(other, test=None)))
    assert again.status.phase is ABTestPhase.RUNNING
    assert again.status.control_model_version == "v9"


def test_an_arm_without_pods_is_told() -> None:
    spec = make_spec()
    status = plan(spec, started(spec), observe(endpoint=replace(SPLIT, percent=0)), 30).status
    assert "gets no share now" in status.message


def test_every_arm_is_asked_for_every_metric_and_its_requests() -> None:
    spec = make_spec()
    status = started(spec)
    observed = observe(endpoint=SPLIT)
    assert looks_due(spec, status, observed, START + timedelta(seconds=1)) == {}
    due = looks_due(spec, status, observed, START + timedelta(seconds=60))
    assert {name: [query.metric.name for query in queries] for name, queries in due.items()} == {
        "control": ["win", "errorRate", "requestRate"],
        "wide": ["win", "errorRate", "requestRate"],
    }
    assert {query.version for query in due["wide"]} == {WIDE}
    assert {query.start for query in due["control"]} == {START}


def make_test(
    name: str, age: int, phase: ABTestPhase = ABTestPhase.PENDING, uid: str = "uid", **spec: object
) -> ABTest:
    metadata = {"name": name, "uid": uid, "creation_timestamp": START - timedelta(seconds=age)}
    return ABTest.model_validate({"metadata": metadata, "spec": make_spec(**spec), "status": ABTestStatus(phase=phase)})


def test_the_oldest_test_comes_first_and_a_running_one_before_all() -> None:
    old, young = make_test("old", 20), make_test("young", 10)
    elsewhere, stopped = make_test("elsewhere", 30, deployment="other"), make_test("stopped", 30, stop=True)
    everything = (old, young, elsewhere, stopped)
    assert find_rivals(young, everything) == ("old",)
    assert find_rivals(old, everything) == ()
    assert find_rivals(old, (old, make_test("young", 10, ABTestPhase.RUNNING))) == ("young",)


def test_every_test_draws_its_users_anew_unless_it_names_a_salt() -> None:
    named = {"assignment": {"header": "x-user-id", "salt": "same-users"}}
    tests = [
        make_test("wider", 20, ABTestPhase.RUNNING, uid, **more)
        for uid, more in (("uid-1", {}), ("uid-2", {}), ("uid-3", named))
    ]
    found = [find_experiment("connect4", [each], {"v2": WIDE.digest}.get) for each in tests]
    assert [each.sticky.salt for each in found if each] == ["uid-1", "uid-2", "same-users"]


def test_a_deployment_carries_the_running_test() -> None:
    digests = {"v2": WIDE.digest}
    tests = [make_test("pending", 30), make_test("wider", 20, ABTestPhase.RUNNING)]
    found = find_experiment("connect4", tests, digests.get)
    assert found is not None
    assert (found.test, found.variant, found.version, found.percent) == ("wider", "wide", WIDE, 50)
    assert find_experiment("other", tests, digests.get) is None
    assert find_experiment("connect4", tests, {}.get) is None
