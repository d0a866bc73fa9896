"""Single decisions of the release planner; whole releases are in tests/scenarios."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.scenarios.releases import BAD, at_step, make_world, released, settled_on, steps
from tests.scenarios.simulator import START, Event, World, digest_of, version
from tidegate.api.base import Condition
from tidegate.api.deployment import DeploymentPhase, DeploymentStatus, HistoryEntry, Outcome
from tidegate.api.model_version import Role
from tidegate.domain.acts import mark_free
from tidegate.domain.release import (
    Backend,
    Experiment,
    Measurement,
    Mirror,
    ModelState,
    Observed,
    ObservedRoute,
    Plan,
    Stickiness,
)
from tidegate.domain.rollout import measurements_due, plan_rollout
from tidegate.domain.situation import MAX_DECISIONS, MAX_HISTORY, MAX_REJECTED, Situation

BAD_RATE = Measurement(0.4, samples=100)


def plan(world: World, observed: Observed | None = None, seconds: float = 0) -> Plan:
    now = world.now + timedelta(seconds=seconds)
    return plan_rollout(world.spec, world.status, observed or world.observe(), now)


def until(world: World, check: object, limit: int = 200) -> World:
    for _ in range(limit):
        if check(world):  # type: ignore[operator]
            return world
        world.run(1)
    raise AssertionError("\n".join(world.log))


def releasing(**fields: object) -> World:
    """Return a world in which v2 is held at its first step with traffic."""
    world = until(make_world(**fields), settled_on("v1"))
    world.change(model_version="v2")
    return until(world, lambda w: w.status.canary is not None and w.status.canary.first_traffic_at is not None)


def conditions(status: DeploymentStatus) -> dict[str, Condition]:
    return {each.type: each for each in status.conditions}


def test_a_version_whose_pods_are_deleted_is_looked_at_again_until_it_is_forgotten() -> None:
    """No event has to come: those of the pods may have been heard by an operator that died."""
    world = until(make_world(*released("v2")), lambda w: bool(w.status.draining and w.status.draining[0].since))
    due = world.status.draining[0].since
    assert due is not None
    deleting = plan_rollout(world.spec, world.status, world.observe(), due + timedelta(minutes=1))
    assert [each.version.model_version for each in deleting.delete] == ["v1"]
    assert deleting.recheck_after == timedelta(seconds=2)
    world.workloads = {key: pods for key, pods in world.workloads.items() if key.model_version == "v2"}
    gone = plan_rollout(world.spec, deleting.status, world.observe(), due + timedelta(minutes=2))
    assert (gone.status.draining, gone.recheck_after) == ((), None)


# Queries that cannot be asked

BAD_QUERY = {
    "interval": "1s",
    "metrics": [{"name": "errorRate", "max": 0.05}, {"name": "custom", "query": "sum(rate(x[1m])", "max": 3}],
}
WHERE = "unclosed left parenthesis (line 1, column 4)"
FAULT = f"the query of custom cannot be asked: {WHERE}; correct analysis.metrics[].query"


def check_query_refused(world: World, message: str) -> None:
    assert world.status.message == message
    told = conditions(world.status)["Stalled"]
    assert (told.status.value, told.reason, told.message) == ("True", "InvalidQuery", message)


def test_no_release_starts_with_a_query_that_cannot_be_asked() -> None:
    world = make_world(analysis=BAD_QUERY)
    world.run(5)
    check_query_refused(world, FAULT)
    assert world.workloads == {}
    world.change(analysis={"interval": "1s"})
    until(world, settled_on("v1"))
    world.change(analysis=BAD_QUERY)
    world.run(2)
    check_query_refused(world, f"{FAULT}; v1 serves")
    world.change(model_version="v2")
    world.run(20)
    check_query_refused(world, f"{FAULT}; v1 keeps serving")
    assert [each.model_version for each in world.workloads] == ["v1"]
    world.change(analysis={"interval": "1s"})
    until(world, settled_on("v2"))


def test_a_query_that_breaks_under_way_holds_the_release_where_it_is() -> None:
    """The share and the pods stay; the other metrics watch on, and roll back if they must."""
    world = releasing()
    share = world.route
    world.change(analysis=BAD_QUERY)
    due = measurements_due(world.spec, world.status, world.observe(), world.now + timedelta(seconds=5))
    asked = {each.metric.name for each in due}
    assert asked == {"errorRate"}
    world.run(60)
    assert world.route == share
    check_query_refused(world, FAULT)
    assert [each.reason for each in world.status.decisions].count("InvalidQuery") == 1
    world.values["v2"] = BAD
    until(world, lambda w: w.status.phase is DeploymentPhase.ROLLED_BACK)


def test_a_query_that_cannot_be_asked_does_not_stop_a_person_going_back() -> None:
    world = until(make_world(*released("v2")), settled_on("v2"))
    world.change(analysis=BAD_QUERY)
    world.give("Rollback", "1")
    until(world, lambda w: w.status.stable is not None and w.status.stable.model_version == "v1")


# Conditions and status


def test_the_three_conditions_are_there_from_the_first_plan_on() -> None:
    world = make_world()
    first = plan(world, seconds=1).status
    assert {name: each.status.value for name, each in conditions(first).items()} == {
        "Ready": "False",
        "Reconciling": "True",
        "Stalled": "False",
    }
    assert first.observed_generation == world.generation
    assert first.endpoint == "http://connect4.default:8000"


def test_a_transition_time_stays_while_only_the_message_changes() -> None:
    world = releasing(strategy=steps("25", "20s"))
    before = conditions(world.status)["Reconciling"]
    world.kill_pods("v2", 1)
    world.run(1)
    after = conditions(world.status)["Reconciling"]
    assert after.message != before.message
    assert after.last_transition_time == before.last_transition_time


def test_rolled_back_is_stalled_and_not_ready() -> None:
    world = releasing()
    world.values["v2"] = BAD
    until(world, lambda w: w.status.phase is DeploymentPhase.ROLLED_BACK)
    told = conditions(world.status)
    assert {name: each.status.value for name, each in told.items()} == {
        "Ready": "False",
        "Reconciling": "False",
        "Stalled": "True",
    }
    assert {each.reason for each in told.values()} == {"RolledBack"}


def test_a_missing_version_is_waited_for_a_minute_and_then_told() -> None:
    world = until(make_world(), settled_on("v1"))
    del world.models["v2"]
    world.change(model_version="v2")
    world.run(5)
    assert conditions(world.status)["Reconciling"].reason == "ModelVersionMissing"
    world.run(60)
    assert conditions(world.status)["Stalled"].status == "True"
    assert "create it or correct spec.modelVersion" in world.status.message
    world.add_model("v2")
    until(world, settled_on("v2"))


def test_a_deleted_version_keeps_serving() -> None:
    world = until(make_world(), settled_on("v1"))
    del world.models["v1"]
    world.run(3)
    assert world.status.phase is DeploymentPhase.HEALTHY
    assert "its ModelVersion is gone" in world.status.message


def test_a_version_deleted_under_way_goes_on_with_the_pods_that_are_there() -> None:
    world = releasing()
    del world.models["v2"]
    until(world, settled_on("v2"))


def test_a_version_rejected_under_way_is_taken_back() -> None:
    world = releasing()
    world.add_model("v2", ModelState.REJECTED)
    until(world, lambda w: w.status.canary is None)
    assert world.status.rejected[0].reason == "ModelVersionRejected"


def test_lost_pods_of_a_settled_version_are_degraded_and_recover() -> None:
    world = until(make_world(), settled_on("v1"))
    world.kill_pods("v1", 1)
    world.run(1)
    assert world.status.phase is DeploymentPhase.DEGRADED
    until(world, lambda w: w.status.phase is DeploymentPhase.HEALTHY)


def test_a_first_release_whose_artifact_cannot_be_had_is_stalled_at_once_and_goes_on_when_it_can() -> None:
    world = make_world()
    world.corrupt.add("v1")
    world.run(2)
    assert conditions(world.status)["Stalled"].status == "True"
    assert "another checksum; change spec.modelVersion to a version that can be loaded" in world.status.message
    world.corrupt.clear()
    until(world, settled_on("v1"), limit=10)


def test_lists_are_bounded_and_the_way_back_is_forgotten_last() -> None:
    world = until(make_world(strategy={"type": "Immediate", "immediate": {"bake": "1s"}}), settled_on("v1"))
    world.values["bad"] = BAD
    for number in range(25):
        name = f"bad-{number}"
        world.values[name] = BAD
        world.add_model(name)
        world.change(model_version=name)
        until(world, lambda w: w.status.phase is DeploymentPhase.ROLLED_BACK and w.status.canary is None)
        world.run(5)
    status = world.status
    assert len(status.history) == MAX_HISTORY
    assert len(status.decisions) == MAX_DECISIONS
    assert len(status.rejected) == MAX_REJECTED
    assert [each.model_version for each in status.history if each.outcome is Outcome.PROMOTED] == ["v1"]


# Shares and pods


def test_the_route_carries_the_header_of_the_spec() -> None:
    world = until(make_world(traffic={"sticky": {"header": "x-user-id"}}), settled_on("v1"))
    assert world.route is not None
    assert world.route.sticky == Stickiness("x-user-id")


def test_scenario_14_promotion_keeps_the_pods() -> None:
    world = releasing()
    pods = world.workloads[version("v2")]
    until(world, settled_on("v2"))
    assert world.workloads[version("v2")] is pods


def test_an_odd_share_still_sums_to_100() -> None:
    world = releasing(strategy=steps("33.3", "20s"))
    assert world.route is not None
    assert sum(each.percent for each in world.route.backends) == 100


def test_without_capacity_first_one_ready_pod_is_enough() -> None:
    world = releasing(strategy=steps("75", "60s"), rollback={"capacity_first": False})
    world.kill_pods("v1", 3, slower=50)
    world.give("Abort", "1")
    world.run(2)
    assert world.status.canary is None


def test_capacity_that_never_comes_is_not_waited_for_without_end() -> None:
    world = releasing(strategy=steps("75", "60s"), progress_deadline="8s")
    world.kill_pods("v1", 3, slower=500)
    world.give("Abort", "1")
    world.run(5)
    assert world.status.canary is not None
    assert "1 of 4 pods of v1 are ready" in world.status.message
    world.run(6)
    assert world.status.canary is None


def test_no_step_is_taken_without_a_way_back_unless_promoted_fully() -> None:
    world = releasing(strategy=steps("50", "2s", "75", "2s"))
    world.kill_pods("v1", slower=500)
    world.run(10)
    assert world.status.canary is not None
    assert world.status.canary.target_percent == 50
    world.give("PromoteFully", "1")
    until(world, settled_on("v2"))


def test_nothing_is_scaled_down_while_a_proxy_may_run_a_share_that_was_never_confirmed() -> None:
    world = releasing(strategy=steps("10", "2s", "50", "60s"))
    world.proxies[0].frozen = True
    until(world, lambda w: sum(each.percent == 50 for each in w.proxies[1].backends) == 2)
    world.proxies[1].frozen = True
    world.change(strategy=steps("10", "60s"))
    world.run(5)
    assert world.route is not None
    assert world.route.backends[0].percent == 10
    assert world.workloads[version("v2")].replicas == 2
    for proxy in world.proxies:
        proxy.frozen = False
    world.run(2)
    assert world.workloads[version("v2")].replicas == 1


def test_a_split_that_was_never_confirmed_is_not_taken_for_gone() -> None:
    world = until(make_world(rollback={"drain_delay": "0s"}), settled_on("v1"))
    world.proxies[0].frozen = True
    world.experiment = Experiment("wider", "wide", version("v2"), 50, Stickiness("x-user-id", "uid-1"))
    until(world, lambda w: len(w.proxies[1].backends) == 2)
    world.proxies[1].frozen = True
    world.experiment = None
    world.run(5)
    assert version("v2") in world.workloads


def test_a_lost_route_is_not_written_for_a_version_without_pods() -> None:
    world = until(make_world(), settled_on("v1"))
    world.kill_pods("v1", slower=5)
    world.route = None
    world.run(3)
    assert world.route is None
    until(world, lambda w: w.status.phase is DeploymentPhase.HEALTHY)


def test_a_test_draws_its_users_with_its_salt_and_another_test_draws_others() -> None:
    world = until(make_world(traffic={"sticky": {"header": "x-user-id"}}), settled_on("v1"))
    for salt in ("uid-1", "uid-2"):
        sticky = Stickiness("x-user-id", salt)
        world.experiment = Experiment("wider", "wide", version("v2"), 50, sticky)
        until(world, lambda w, sticky=sticky: w.route.sticky == sticky)
        until(world, lambda w: w.status.experiment is not None and w.status.experiment.percent == 50)
    world.experiment = None
    until(world, lambda w: w.route.sticky == Stickiness("x-user-id"))


def test_an_ended_test_keeps_its_pods_until_every_proxy_has_let_go() -> None:
    world = until(make_world(rollback={"drain_delay": "0s"}), settled_on("v1"))
    world.experiment = Experiment("wider", "wide", version("v2"), 50, Stickiness("x-user-id", "uid-1"))
    until(world, lambda w: w.status.experiment is not None and w.status.experiment.percent == 50)
    world.proxies[0].frozen = True
    world.experiment = None
    world.run(5)
    assert version("v2") in world.workloads
    world.proxies[0].frozen = False
    world.run(2)
    assert version("v2") not in world.workloads


@pytest.mark.parametrize(
    ("confirmed", "share", "live", "free"),
    [(True, 0, 0, True), (False, 0, 0, False), (True, 10, 10, False), (True, 0, 10, False), (True, 10, 0, False)],
)
def test_a_version_is_free_only_when_that_is_certain(confirmed: bool, share: float, live: float, free: bool) -> None:
    stable, other = version("v1"), version("v2")
    backends = (Backend(stable, 100 - share, Role.STABLE), Backend(other, share, Role.CANARY))
    route = ObservedRoute(exists=True, backends=backends, confirmed=confirmed, live={stable: 100 - live, other: live})
    world = until(make_world(), settled_on("v1"))
    situation = Situation.begin(world.spec, world.status, replace(world.observe(), route=route), world.now)
    assert situation.is_free(other) is free
    lost = replace(situation, observed=replace(situation.observed, route=ObservedRoute()))
    assert not lost.is_free(other)


def test_no_share_goes_back_to_a_stable_version_without_pods() -> None:
    world = releasing(strategy=steps("75", "60s"), rollback={"capacity_first": False})
    world.kill_pods("v1", slower=500)
    world.give("Abort", "1")
    world.run(20)
    assert world.status.canary is not None
    assert world.status.canary.target_percent == 75


def test_no_share_is_written_for_pods_that_died_after_it_was_decided() -> None:
    """Rule 3: the operator is killed between the record and the Route, and the pods of both versions die meanwhile."""
    world = until(make_world(strategy=steps("20", "60s")), settled_on("v1"))
    world.change(model_version="v2")
    pods = until(world, lambda w: version("v2") in w.workloads).workloads[version("v2")]
    pods.ages = [world.ready_after] * pods.replicas
    decided = plan(world)
    assert (decided.record_first, decided.route is not None) == (True, True)
    world.status = decided.status
    world.kill_pods("v1")
    world.kill_pods("v2")
    assert plan(world).route is None


def test_no_share_goes_back_to_stable_pods_that_died_after_it_was_decided() -> None:
    """Rule 6: the same on the way back; the canary's pods, which are ready, go on answering."""
    world = releasing(strategy=steps("75", "60s"))
    world.give("Abort", "1")
    decided = plan(world)
    assert decided.route is not None
    world.status = decided.status
    world.kill_pods("v1")
    assert plan(world).route is None


def test_the_way_back_from_a_shadow_ends_when_every_proxy_has_stopped_its_copies() -> None:
    """Rule 3: users' shares do not change on this way, so they say nothing about it."""
    world = until(make_world(strategy={"type": "Shadow", "shadow": {"duration": "60s"}}), settled_on("v1"))
    world.change(model_version="v2")
    until(world, lambda w: w.route is not None and w.route.mirror is not None and w.is_at_rest)
    world.proxies[0].frozen = True
    world.give("Abort", "1")
    world.run(5)
    assert world.status.canary is not None
    assert world.status.draining == ()
    world.proxies[0].frozen = False
    until(world, lambda w: w.status.canary is None, limit=3)


@pytest.mark.parametrize(
    ("confirmed", "mirrored", "exists", "begins"),
    [(True, False, True, True), (False, False, True, False), (True, True, True, False), (True, False, False, False)],
)
def test_the_drain_delay_begins_when_no_proxy_can_send_anything(
    confirmed: bool, mirrored: bool, exists: bool, begins: bool
) -> None:
    """Rule 3: shares of 0 are not enough: a proxy that lags behind may run any Route since."""
    stable, gone = version("v1"), version("v2")
    world = until(make_world(), settled_on("v1"))
    route = ObservedRoute(
        exists=exists,
        backends=(Backend(stable, 100, Role.STABLE),),
        mirror=Mirror(gone, 50) if mirrored else None,
        confirmed=confirmed,
        live={stable: 100},
    )
    situation = Situation.begin(world.spec, world.status, replace(world.observe(), route=route), world.now)
    (left,) = mark_free(situation.drain(gone, None)).status.draining
    assert (left.since is not None) is begins


def test_the_clock_of_one_release_does_not_run_for_the_next() -> None:
    world = until(make_world(progress_deadline="5s"), settled_on("v1"))
    world.broken.add("v2")
    world.change(model_version="v2")
    world.run(4)
    world.change(model_version="v3")
    until(world, settled_on("v3"))


def test_a_version_that_drains_can_be_released_again_with_its_pods() -> None:
    world = releasing(rollback={"drain_delay": "4s"})
    world.change(model_version="v1")
    world.run(3)
    assert [each.model_version for each in world.status.draining] == ["v2"]
    pods = world.workloads[version("v2")]
    world.change(model_version="v2")
    until(world, settled_on("v2"))
    assert world.workloads[version("v2")] is pods


# Measurements


def test_the_window_never_reaches_back_before_the_first_traffic() -> None:
    world = releasing(analysis={"interval": "2s", "window": "4s", "metrics": [{"name": "errorRate", "max": 0.1}]})
    canary = world.status.canary
    assert canary is not None
    assert canary.first_traffic_at is not None
    at = canary.first_traffic_at

    def due(seconds: float) -> list[tuple[float, float]]:
        now = at + timedelta(seconds=seconds)
        queries = measurements_due(world.spec, world.status, world.observe(), now)
        return [((each.start - at).total_seconds(), (each.end - at).total_seconds()) for each in queries]

    assert due(1) == []
    assert due(2) == [(0, 2)]
    assert due(10) == [(6, 10)]


def test_a_step_shorter_than_the_interval_is_measured_when_it_ends() -> None:
    world = releasing(analysis={"interval": "60s", "metrics": [{"name": "errorRate", "max": 0.1}]})
    found = plan(world)
    assert found.recheck_after is not None
    assert found.recheck_after <= timedelta(seconds=3)
    until(world, settled_on("v2"))
    assert world.status.analysis[0].measurements >= 3


def test_stable_is_measured_only_where_it_is_compared_and_has_traffic() -> None:
    metrics = [{"name": "errorRate", "max": 0.1}, {"name": "accuracy", "source": "Outcomes", "max_drop": 0.1}]
    world = releasing(analysis={"interval": "1s", "metrics": metrics})
    queries = measurements_due(world.spec, world.status, world.observe(), world.now + timedelta(seconds=1))
    assert [query.stable for query in queries] == [None, version("v1")]


def test_a_delayed_metric_lets_early_steps_pass_but_not_the_last() -> None:
    late = {"name": "errorRate", "max": 0.1, "initial_delay": "20s"}
    world = releasing(analysis={"interval": "1s", "metrics": [late]})
    world.run(18)
    assert world.status.canary is not None
    assert world.status.canary.target_percent == 90
    until(world, settled_on("v2"))
    assert world.status.analysis[0].measurements >= 1


def test_a_bad_measurement_and_the_way_back_are_one_pass_and_recorded_first() -> None:
    world = releasing()
    world.run(1)
    observed = replace(world.observe(), measurements={"errorRate": BAD_RATE})
    found = plan(world, observed, seconds=1)
    assert found.record_first
    assert found.route is not None
    assert [(each.version.model_version, each.percent) for each in found.route.backends] == [("v1", 100)]
    assert [each.action for each in found.decisions] == ["RollBack", "SetPercent"]
    assert found.decisions[0].evidence["value"] == "0.4"


def test_a_measurement_that_was_not_due_changes_nothing() -> None:
    world = releasing()
    observed = replace(world.observe(), measurements={"errorRate": BAD_RATE})
    assert plan(world, observed).status.analysis == world.status.analysis


def test_a_first_release_is_not_analysed() -> None:
    world = make_world()
    world.values["v1"] = BAD
    until(world, settled_on("v1"))
    assert world.status.analysis == ()


# The window of fast returns


@pytest.mark.parametrize(("window", "fast"), [(0, []), (1, ["c"]), (2, ["c", "b"]), (9, ["c", "b", "a"])])
def test_the_window_counts_other_healthy_versions(window: int, fast: list[str]) -> None:
    world = until(make_world(rollback={"window": window}), settled_on("v1"))
    promoted = ["a", "b", "c", "a", "b", "v1", "c", "v1"]
    history = tuple(
        HistoryEntry(model_version=name, digest=digest_of(name), outcome=Outcome.PROMOTED, at=START)
        for name in reversed(promoted)
    )
    world.status = world.status.model_copy(update={"history": history})
    found = []
    for name in ("a", "b", "c"):
        world.add_model(name)
        world.spec = world.spec.model_copy(update={"model_version": name})
        canary = plan(world).status.canary
        assert canary is not None
        if canary.fast:
            found.append(name)
    assert sorted(found) == sorted(fast)


# Crash safety


def test_the_same_step_goes_on_with_the_same_start_after_a_crash() -> None:
    world = releasing(strategy=steps("25", "30s"))
    before = world.status.canary
    for _ in range(5):
        world.reconcile(lose_status=True)
        world.run(1)
    after = world.status.canary
    assert before is not None
    assert after is not None
    assert (after.step, after.step_started_at) == (before.step + 0, before.step_started_at)


def test_a_command_is_consumed_once() -> None:
    world = releasing(strategy=steps("10", "pause", "20", "pause", "30", "pause"))
    until(world, at_step("v2", 1))
    world.give("Promote", "once")
    world.run(20)
    assert world.status.canary is not None
    assert world.status.canary.step == 3
    assert world.status.last_command is not None
    assert (world.status.last_command.id, world.status.last_command.by) == ("once", "ada")


def test_promote_waits_for_a_share_that_is_not_confirmed() -> None:
    world = releasing(strategy=steps("10", "pause", "50", "pause"))
    until(world, at_step("v2", 1))
    world.proxies[0].frozen = True
    world.give("Promote", "1")
    world.run(8)
    world.give("Promote", "2")
    world.run(5)
    assert world.status.last_command is not None
    assert world.status.last_command.id == "1"
    world.proxies[0].frozen = False
    until(world, lambda w: w.status.last_command.id == "2")


def test_paused_refuses_to_promote_with_the_remedy() -> None:
    world = releasing()
    world.change(paused=True)
    world.give("Promote", "1")
    world.run(2)
    assert world.status.last_command is not None
    assert world.status.last_command.result == "refused: spec.paused is true; set it to false first"


def test_a_situation_without_a_release_has_no_canary() -> None:
    world = until(make_world(), settled_on("v1"))
    situation = Situation.begin(world.spec, world.status, world.observe(), world.now)
    with pytest.raises(AssertionError, match="no release"):
        _ = situation.canary


def test_workloads_that_nobody_knows_are_drained() -> None:
    world = until(make_world(), settled_on("v1"))
    world.events.append(
        Event(lambda _: True, lambda w: w.workloads.update({version("x"): type(w.workloads[version("v1")])(2)}))
    )
    world.run(10)
    assert list(world.workloads) == [version("v1")]
