"""Deployment, reconciled in a small world: releases, faults between any two requests, restarts, bad input."""

import contextlib
import copy
import itertools
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.runtime.release_world import (
    CANARY_STEPS,
    ENDPOINT,
    KEY,
    ROUTE_KEY,
    ReleaseWorld,
    deployment,
    model_version,
)
from tidegate.domain.manifests import names
from tidegate.domain.manifests.serving import DOCUMENT_ANNOTATION, MODEL_VERSION_ANNOTATION
from tidegate.domain.release import Measurement
from tidegate.errors import Conflict, Refused, Unavailable
from tidegate.ports import ABTEST, MODEL_VERSION, POD, SERVICE, WORKLOAD, Key

CANARY = {"strategy": {"type": "Canary", "canary": CANARY_STEPS}}
WATCHED = CANARY | {"analysis": {"interval": "2s", "metrics": [{"name": "errorRate", "max": 0.05}]}}
GOOD, BAD = Measurement(value=0.01, samples=500), Measurement(value=0.4, samples=500)
QUICK_STEPS = {"steps": [{"setPercent": 20}, {"hold": "2s"}, {"setPercent": 50}, {"hold": "2s"}]}
QUICK = {
    "strategy": {"type": "Canary", "canary": QUICK_STEPS},
    "analysis": {"interval": "1s", "metrics": [{"name": "errorRate", "max": 0.05}]},
    "rollback": {"drainDelay": "1s"},
}
FAULTS = [
    ("before", Conflict("Conflict", "newer")),
    ("before", Unavailable("TooManyRequests", "429, 500, or no connection")),
    ("after", Unavailable("ApiServerUnavailable", "the answer is lost")),
]
RELEASE = [
    {"connect4-1.0.0": 100},
    {"connect4-2.0.0": 20, "connect4-1.0.0": 80},
    {"connect4-2.0.0": 50, "connect4-1.0.0": 50},
    {"connect4-2.0.0": 100},
]


def world(**spec: Any) -> ReleaseWorld:
    return ReleaseWorld(model_version("1.0.0"), model_version("2.0.0"), model_version("3.0.0"), deployment(**spec))


READY = {"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}
SHADOWED = {
    "strategy": {
        "type": "Shadow",
        "shadow": {"percent": 40, "duration": "10s", "then": "Immediate"},
        "immediate": {"bake": "0s"},
    },
    "analysis": {"interval": "2s"},
}
COMPARATOR = {"tidegate.dev/component": "comparator"}
SERVING = {"tidegate.dev/component": "serving"}


def of_comparators(made: ReleaseWorld) -> list[Key]:
    """Return all that belongs to comparators: Services, then workloads."""
    found = ((kind, each) for kind in (SERVICE, WORKLOAD) for each in made.objects.list(kind, "default", COMPARATOR))
    return [Key(kind, "default", each["metadata"]["name"]) for kind, each in found]


async def test_a_shadowed_version_gets_copies_until_its_answers_are_compared() -> None:
    """Requirement 0.40: Services and pod of the comparator, copies by way of it, and nothing of it afterwards."""
    made = world(**SHADOWED)
    await made.settle(3)
    made.say("2.0.0", "disagreement", Measurement(0.001, samples=4000))
    made.release("2.0.0")
    await made.settle(5)
    (comparator,) = made.objects.list(WORKLOAD, "default", COMPARATOR)
    route = made.objects.get(ROUTE_KEY)
    assert route is not None
    mirror = {"modelVersion": "connect4-2.0.0", "workload": comparator["metadata"]["name"], "percent": 40}
    assert route["spec"]["mirror"] == mirror
    assert [each["percent"] for each in route["spec"]["backends"]] == [100]
    document = json.loads(comparator["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"])
    assert [document[side]["modelVersion"] for side in ("stable", "shadow")] == ["connect4-1.0.0", "connect4-2.0.0"]
    hosts = {document[side]["grpcAddress"].partition(".")[0] for side in ("stable", "shadow")}
    assert {each["metadata"]["name"] for each in made.objects.list(SERVICE, "default", COMPARATOR)} == hosts
    asked = {each["metadata"]["name"] for each in made.objects.list(WORKLOAD, "default", SERVING)}
    services = made.objects.list(SERVICE, "default", COMPARATOR)
    assert {each["spec"]["selector"][names.WORKLOAD_LABEL] for each in services} == asked
    assert made.status["canary"]["mirrorPercent"] == 40
    assert made.status["canary"]["percent"] == 0
    await made.settle(20)
    assert made.status["stable"]["modelVersion"] == "connect4-2.0.0"
    assert made.shares == [{"connect4-1.0.0": 100}, {"connect4-2.0.0": 100}]
    assert not made.objects.list(WORKLOAD, "default", COMPARATOR)
    assert not made.objects.list(SERVICE, "default", COMPARATOR)
    route = made.objects.get(ROUTE_KEY)
    assert route is not None
    assert "mirror" not in route["spec"]


async def test_a_shadowed_version_that_disagrees_never_gets_a_user() -> None:
    made = world(**SHADOWED)
    await made.settle(3)
    made.say("2.0.0", "disagreement", Measurement(0.3, samples=4000))
    made.release("2.0.0")
    await made.settle(30)
    assert made.status["phase"] == "RolledBack"
    assert made.shares == [{"connect4-1.0.0": 100}]
    assert not made.objects.list(WORKLOAD, "default", COMPARATOR)
    rejected = made.status["rejected"][0]
    assert "disagreement = 0.3 of 4000 answers (95 % interval" in rejected["message"]


async def test_no_copies_go_to_a_version_that_users_get_to() -> None:
    """Steps become copies under way, and the canary keeps its users: the stable version has no pod to take them."""
    made = world(strategy={"type": "Canary", "canary": CANARY_STEPS})
    await made.settle(3)
    made.release("2.0.0")
    await made.settle(5)
    made.pods_become_ready = False
    for live in made.workloads():
        key = Key(WORKLOAD, "default", live["metadata"]["name"])
        if live["metadata"]["annotations"]["tidegate.dev/model-version"] == "connect4-1.0.0":
            made.objects.change(key, lambda each: each["status"].update(readyReplicas=0))
    made.objects.change(KEY, lambda each: each["spec"].update(SHADOWED))
    await made.settle(3)
    for live in made.objects.list(WORKLOAD, "default", COMPARATOR):
        key = Key(WORKLOAD, "default", live["metadata"]["name"])
        made.objects.change(key, lambda each: each.update(status=READY))
    await made.settle(3)
    route = made.objects.get(ROUTE_KEY)
    assert route is not None
    assert [each["percent"] for each in route["spec"]["backends"]] == [20, 80]
    assert "mirror" not in route["spec"]
    made.pods_become_ready = True
    await made.settle(3)
    route = made.objects.get(ROUTE_KEY)
    assert route is not None
    assert [each["percent"] for each in route["spec"]["backends"]] == [100]
    assert route["spec"]["mirror"]["modelVersion"] == "connect4-2.0.0"


@pytest.mark.parametrize("gone", [{0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2}], ids=str)
async def test_what_is_left_of_a_comparator_is_made_whole_or_removed(gone: set[int]) -> None:
    """Some of it, as a death between two writes leaves it: mended while it is needed, removed when it is not."""
    made = world(**SHADOWED)
    await made.settle(3)
    made.release("2.0.0")
    await made.settle(5)
    whole = of_comparators(made)
    assert [key.kind for key in whole] == [SERVICE, SERVICE, WORKLOAD]
    for number in gone:
        made.objects.remove(whole[number])
    await made.settle(5)
    assert of_comparators(made) == whole
    made.release("1.0.0")
    for number in gone:
        made.objects.remove(whole[number])
    await made.settle(20)
    assert of_comparators(made) == []


@pytest.mark.parametrize("number", range(4))
async def test_nothing_of_a_comparator_is_left_by_an_operator_that_dies_while_it_removes_it(number: int) -> None:
    """The shadowed version's workload, the comparator's and both Services go, one after another."""
    made = world(**SHADOWED)
    await made.settle(3)
    made.release("2.0.0")
    await made.settle(5)
    calls = itertools.count()

    def kill(verb: str, _: Key) -> Exception | None:
        dies = verb == "delete" and next(calls) == number
        return Unavailable("Killed", "the operator is killed here") if dies else None

    made.objects.fault = kill
    made.release("1.0.0")
    await made.settle(20)
    assert next(calls) > number
    assert of_comparators(made) == []
    assert served(made) == ["connect4-1.0.0"]


async def test_a_service_to_a_stable_version_of_before_goes_with_the_rest_of_a_comparator() -> None:
    made = world(**SHADOWED)
    await made.settle(3)
    made.release("2.0.0")
    await made.settle(5)
    former = copy.deepcopy(made.objects.list(SERVICE, "default", COMPARATOR)[0])
    former["metadata"]["name"] = "connect4-former"
    made.objects.put(former)
    await made.settle(2)
    assert len(of_comparators(made)) == 4
    made.release("1.0.0")
    await made.settle(20)
    assert of_comparators(made) == []


async def test_a_comparator_that_does_not_start_is_said_and_no_version_is_blamed() -> None:
    made = world(**SHADOWED, progressDeadline="5s")
    await made.settle(3)
    made.comparators_become_ready = False
    made.release("2.0.0")
    await made.settle(20)
    assert made.condition("Stalled")["reason"] == "ComparatorNotReady"
    assert made.status["canary"]["modelVersion"] == "connect4-2.0.0"
    assert not made.status.get("rejected")
    made.comparators_become_ready = True
    made.say("2.0.0", "disagreement", Measurement(0.001, samples=4000))
    await made.settle(20)
    assert made.status["stable"]["modelVersion"] == "connect4-2.0.0"


async def test_first_release_ends_healthy_and_then_nothing_more_is_sent() -> None:
    made = world(**CANARY)
    await made.settle(5)
    assert made.status["phase"] == "Healthy"
    assert made.status["endpoint"] == "http://connect4.default:8000"
    assert made.condition("Ready")["status"] == "True"
    assert made.objects.get(ENDPOINT) is not None
    assert made.shares == RELEASE[:1]
    sent = len(made.objects.requests)
    assert await made.reconcile() is None, "no timer on a settled object"
    await made.settle(100, step=10)
    assert len(made.objects.requests) == sent


async def test_a_release_takes_its_steps_and_keeps_the_pods() -> None:
    made = world(**CANARY)
    await made.settle(3)
    made.release("2.0.0")
    await made.settle(40)
    assert made.shares == RELEASE
    assert made.status["phase"] == "Healthy"
    assert made.status["history"][0]["outcome"] == "Promoted"
    (left,) = made.workloads()
    assert left["metadata"]["annotations"]["tidegate.dev/model-version"] == "connect4-2.0.0"
    assert [key for key in made.objects if key.kind == SERVICE] == [ENDPOINT], "no version has one"


async def test_a_bad_canary_is_rolled_back_and_every_decision_is_told_the_same_everywhere() -> None:
    made = world(**WATCHED)
    await made.settle(3)
    made.say("2.0.0", "errorRate", BAD)
    made.release("2.0.0")
    await made.settle(30)
    assert made.shares == [*RELEASE[:2], RELEASE[0]]
    assert made.status["phase"] == "RolledBack"
    assert made.condition("Stalled")["status"] == "True"
    assert made.status["rejected"][0]["digest"] == "2" * 64
    reasons = {decision["reason"] for decision in made.status["decisions"]}
    assert reasons <= set(made.events.reasons)
    counted = [reason for kind, _, reason in made.telemetry.decisions if kind == "Deployment"]
    assert sorted(counted) == sorted(decision["reason"] for decision in made.status["decisions"])
    assert made.telemetry.weights["default", "connect4"] == {("connect4-1.0.0", "Stable"): 100}
    sent = len(made.objects.requests)
    await made.settle(60, step=5)
    assert len(made.objects.requests) == sent


async def test_the_verdict_on_a_bad_canary_is_written_before_the_traffic_moves() -> None:
    """The measurements may not be had a second time: a crash in between must not forget what was decided."""
    made = world(**WATCHED)
    await made.settle(3)
    made.say("2.0.0", "errorRate", BAD)
    made.release("2.0.0")
    await made.settle(1)
    killed = itertools.count()

    def kill(verb: str, key: Key) -> Exception | None:
        moves_back = verb == "apply" and key == ROUTE_KEY and made.status["canary"].get("retreat")
        return Unavailable("Killed", "the operator is killed here") if moves_back and next(killed) < 3 else None

    made.objects.fault = kill
    await made.settle(10, until=lambda: next(killed) > 0)
    made.metrics.answers.clear()
    made.restart()
    await made.settle(30)
    assert made.status["phase"] == "RolledBack"
    assert made.shares[-1] == RELEASE[0]


async def release_under(place: str, fail: Any) -> ReleaseWorld:
    """Release 1.0.0, then 2.0.0, with an operator that is killed in the middle."""
    made = world(**QUICK)
    made.say("2.0.0", "errorRate", GOOD)
    setattr(made.objects, place, fail)
    await made.settle(1)
    made.release("2.0.0")
    await made.settle(3)
    made.restart()
    await made.settle(30, until=lambda: made.status.get("phase") == "Healthy" and len(made.workloads()) == 1)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("when", "fault"), FAULTS, ids=["conflict", "failure", "lost answer"])
async def test_a_fault_at_any_request_changes_nothing_in_the_end(when: str, fault: Exception) -> None:
    """Each request of a whole release fails once, or is carried out and its answer lost."""
    place = {"before": "fault", "after": "lose_answer"}[when]
    undisturbed = await release_under(place, None)
    assert undisturbed.shares == RELEASE
    for number in range(len(undisturbed.objects.requests)):
        calls = itertools.count()

        def fail(verb: str, key: Key, calls: Any = calls, number: int = number) -> Exception | None:
            return fault if next(calls) == number else None

        made = await release_under(place, fail)
        assert made.shares == RELEASE, number
        assert made.status["phase"] == "Healthy", number
        promoted = [entry for entry in made.status["history"] if entry["modelVersion"] == "connect4-2.0.0"]
        assert len(promoted) == 1, number


async def test_the_same_step_goes_on_after_a_restart() -> None:
    made = world(**CANARY)
    await made.settle(3)
    made.release("2.0.0")
    await made.settle(4)
    before = made.status["canary"]
    made.restart()
    await made.settle(1)
    assert made.status["canary"]["stepStartedAt"] == before["stepStartedAt"]
    assert made.status["canary"]["step"] == before["step"]


async def test_a_release_begins_when_its_window_opens_and_nothing_happens_before() -> None:
    """Held: no request, no question to Prometheus, and one look, exactly then; each cause is told once."""
    window = {"days": ["Thursday"], "start": "02:00", "end": "03:00", "timeZone": "Europe/Berlin"}
    made = world(**CANARY, releaseWindows=[window], errorBudget={"objective": 99.9, "window": "1h"})
    await made.settle(3)
    made.release("2.0.0")
    await made.settle(0)
    assert made.condition("Reconciling")["reason"] == "OutsideReleaseWindow"
    assert made.condition("Reconciling")["status"] == "True"
    sent = len(made.objects.requests)
    requeue = await made.reconcile()
    assert requeue is not None
    assert made.clock.now() + requeue.after == datetime(2026, 1, 1, 1, tzinfo=UTC)
    assert len(made.objects.requests) == sent
    assert made.metrics.budgets == 0
    made.clock.advance(seconds=requeue.after.total_seconds())
    await made.settle(0)
    assert made.metrics.budgets == 1
    assert made.status["canary"]["modelVersion"] == "connect4-2.0.0"
    assert "held" not in made.status
    told = [(reason, warning) for _, reason, _, warning in made.events.told if reason == "OutsideReleaseWindow"]
    assert told == [("OutsideReleaseWindow", False)]


async def test_a_spent_budget_holds_until_a_person_promotes() -> None:
    made = world(**CANARY, errorBudget={"objective": 99.9, "window": "1h"})
    await made.settle(3)
    made.metrics.failures = Measurement(0.02, samples=5000)
    made.release("2.0.0")
    await made.settle(150, step=10)
    assert made.status["phase"] == "Paused"
    assert made.status["errorBudget"]["requests"] == 5000
    assert "2 % of 5000 requests of the last 1h failed, 0.1 % may" in made.status["message"]
    assert made.metrics.budgets == 3
    warnings = [reason for _, reason, _, warning in made.events.told if warning]
    assert warnings == ["ErrorBudgetSpent"]
    command = {names.COMMAND_ANNOTATION: '{"id": "1", "command": "Promote", "by": "ada"}'}
    made.objects.change(KEY, lambda each: each["metadata"].update(annotations=command))
    await made.settle(40)
    assert made.shares == RELEASE
    assert made.status["lastCommand"]["result"] == "the release starts now, in spite of ErrorBudgetSpent"


async def test_shares_do_not_grow_while_the_router_is_away() -> None:
    made = world(**CANARY)
    await made.settle(3)
    made.router_confirms = False
    made.release("2.0.0")
    await made.settle(60, step=5)
    assert made.shares == RELEASE[:1]
    assert made.status["canary"]["percent"] == 0
    assert len(made.workloads()) == 2
    made.router_confirms = True
    await made.settle(60)
    assert made.shares == RELEASE


@pytest.mark.parametrize(
    ("phase", "reason", "stalls"),
    [("Rejected", "ModelVersionRejected", True), ("Validating", "ModelVersionNotReady", False)],
)
async def test_versions_that_may_not_be_served(phase: str, reason: str, stalls: bool) -> None:
    made = ReleaseWorld(model_version("1.0.0", phase), deployment())
    await made.settle(1)
    assert made.condition("Ready")["reason"] == reason
    assert (made.condition("Stalled")["status"] == "True") == stalls
    assert made.workloads() == []


async def test_unknown_version_is_told_and_picked_up_when_it_comes() -> None:
    made = ReleaseWorld(deployment())
    await made.settle(90, step=10)
    assert made.condition("Stalled")["status"] == "True"
    assert "connect4-1.0.0" in made.condition("Stalled")["message"]
    made.objects.put(model_version("1.0.0"))
    await made.settle(5)
    assert made.status["phase"] == "Healthy"


async def test_what_keeps_pods_from_being_ready_is_said_with_the_remedy() -> None:
    made = world()
    made.pods_become_ready = False
    await made.settle(1)
    (live,) = made.workloads()
    labels = live["spec"]["template"]["metadata"]["labels"]
    assert labels[names.WORKLOAD_LABEL] == live["metadata"]["name"]
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "triton:1"'}
    container = {"name": "triton", "image": "triton:1", "state": {"waiting": waiting}}
    made.objects.put(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", "namespace": "default", "labels": labels},
            "status": {"phase": "Pending", "containerStatuses": [container]},
        }
    )
    await made.settle(1)
    assert "image triton:1 cannot be pulled" in made.status["message"]
    made.objects.remove(Key(POD, "default", "p"))
    made.pods_become_ready = True
    await made.settle(3)
    assert made.status["phase"] == "Healthy"


async def test_deleted_children_are_made_again() -> None:
    made = world()
    await made.settle(3)
    (live,) = made.workloads()
    made.objects.remove(ENDPOINT)
    await made.settle(1)
    assert made.objects.get(ENDPOINT) is not None
    made.objects.remove(Key(WORKLOAD, "default", live["metadata"]["name"]))
    await made.settle(3)
    assert len(made.workloads()) == 1
    assert made.status["phase"] == "Healthy"


async def test_a_service_of_somebody_else_is_not_taken_over() -> None:
    made = world()
    foreign = Conflict("AlreadyExists", "there is one, but without our label")
    taken = True
    made.objects.fault = lambda verb, key: foreign if taken and verb == "create" and key == ENDPOINT else None
    await made.settle(5)
    assert made.condition("Ready")["reason"] == "EndpointNameTaken"
    assert "rename" in made.condition("Ready")["message"]
    assert made.objects.get(ENDPOINT) is None
    taken = False
    await made.settle(60, step=10)
    assert made.status["phase"] == "Healthy"


async def test_changed_settings_reach_the_pods_of_the_served_version() -> None:
    made = world()
    await made.settle(3)
    made.objects.change(KEY, lambda each: each["spec"].update(serving={"replicas": 3, "triton": {"maxBatchSize": 8}}))
    await made.settle(5)
    (live,) = made.workloads()
    assert live["spec"]["replicas"] == 3
    assert '"maxBatchSize": 8' in live["spec"]["template"]["metadata"]["annotations"][DOCUMENT_ANNOTATION]
    assert made.shares == RELEASE[:1]


async def test_a_served_version_whose_model_version_was_deleted_goes_on_serving() -> None:
    made = world()
    await made.settle(3)
    made.objects.remove(Key(MODEL_VERSION, "default", "connect4-1.0.0"))
    made.objects.change(KEY, lambda each: each["spec"].update(serving={"replicas": 2}))
    await made.settle(5)
    (live,) = made.workloads()
    assert "template" in live["spec"]
    assert made.shares == RELEASE[:1]


@pytest.mark.parametrize("place", ["fault", "lose_answer"])
async def test_nothing_of_a_removed_version_is_left_by_an_operator_that_dies_meanwhile(place: str) -> None:
    """Scenario rule 11: it dies before the workload is deleted, or before it is told so."""
    made = world(**QUICK)
    await made.settle(3)
    made.say("2.0.0", "errorRate", GOOD)
    made.release("2.0.0")
    calls = itertools.count()

    def kill(verb: str, _: Key) -> Exception | None:
        dies = verb == "delete" and next(calls) == 0
        return Unavailable("Killed", "the operator is killed here") if dies else None

    setattr(made.objects, place, kill)
    await made.settle(30)
    assert next(calls) > 0
    gone = names.serving("connect4", "connect4-1.0.0", "1" * 64)
    assert [key for key in made.objects if key.name == gone] == []


async def test_a_version_that_cannot_get_its_pods_gives_way_to_the_next() -> None:
    """Scenario rule 11: nothing is left of it."""
    made = world(**QUICK)
    await made.settle(3)
    never = names.serving("connect4", "connect4-2.0.0", "2" * 64)
    refusal = Unavailable("InternalError", "no")
    made.objects.fault = lambda _, key: refusal if key == Key(WORKLOAD, "default", never) else None
    made.release("2.0.0")
    with contextlib.suppress(AssertionError):  # it does not come to rest
        await made.settle(0)
    made.say("3.0.0", "errorRate", GOOD)
    made.release("3.0.0")
    await made.settle(30)
    assert made.status["phase"] == "Healthy"
    assert served(made) == ["connect4-3.0.0"]
    assert [key for key in made.objects if key.name == never] == []


async def test_deletion_ends_the_series_and_asks_for_nothing() -> None:
    made = world()
    await made.settle(3)
    assert made.telemetry.weights
    made.objects.remove(KEY)
    assert await made.reconcile() is None
    assert not made.telemetry.weights
    assert made.workloads() == []
    assert made.objects.get(ROUTE_KEY) is None


async def test_an_object_that_is_being_deleted_is_left_alone() -> None:
    made = world()
    made.objects.change(KEY, lambda each: each["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"))
    assert await made.reconcile() is None
    assert made.objects.requests == []


async def test_refusal_of_the_api_server_is_told_after_some_tries_and_mends_itself() -> None:
    made = world()
    quota = Refused("Forbidden", "exceeded quota: pods")
    made.objects.fault = lambda verb, key: quota if key.kind == WORKLOAD else None
    for _ in range(3):
        with pytest.raises(Refused):
            await made.reconcile()
    assert made.condition("Ready")["reason"] == "Forbidden"
    assert "exceeded quota" in made.condition("Reconciling")["message"]
    made.objects.fault = None
    await made.settle(3)
    assert made.status["phase"] == "Healthy"


async def test_a_spec_that_does_not_fit_stalls_with_the_field() -> None:
    made = world()
    made.objects.change(KEY, lambda each: each["spec"].update(serving={"replicas": -1}))
    assert await made.reconcile() is None
    stalled = made.condition("Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "InvalidSpec")
    assert "spec.serving.replicas" in stalled["message"]
    sent = len(made.objects.requests)
    assert await made.reconcile() is None
    assert len(made.objects.requests) == sent


async def test_a_query_that_cannot_be_asked_stalls_and_asks_nobody() -> None:
    metrics = [{"name": "custom", "query": 'x{v="{{ verison }}"}', "max": 3}]
    made = world(analysis={"metrics": metrics})
    await made.settle(5)
    assert (made.condition("Stalled")["status"], made.condition("Stalled")["reason"]) == ("True", "InvalidQuery")
    said = "custom cannot be asked: there is no {{ verison }} (line 1, column 6)"
    assert said in made.condition("Stalled")["message"]
    assert (made.workloads(), made.metrics.rounds) == ([], 0)
    assert await made.reconcile() is None, "only a person can mend it"


async def test_commands_are_consumed_once() -> None:
    made = world(**CANARY)
    await made.settle(3)
    made.release("2.0.0")
    await made.settle(4)
    command = '{"id": "c1", "command": "Abort", "by": "ada"}'
    made.objects.change(KEY, lambda each: each["metadata"].update(annotations={names.COMMAND_ANNOTATION: command}))
    await made.settle(20)
    assert made.status["lastCommand"]["id"] == "c1"
    assert made.shares == [*RELEASE[:2], RELEASE[0]]
    assert (made.condition("Stalled")["reason"], made.status["phase"]) == ("Aborted", "RolledBack")
    made.release("3.0.0")
    await made.settle(60)
    assert made.shares[-1] == {"connect4-3.0.0": 100}


async def test_a_rollback_makes_the_pods_of_the_former_version_again_across_a_restart() -> None:
    made = world(**QUICK)
    await made.settle(3)
    made.say("2.0.0", "errorRate", GOOD)
    made.release("2.0.0")
    await made.settle(30)
    assert served(made) == ["connect4-2.0.0"]
    generation = made.status["observedGeneration"]
    command = '{"id": "c1", "command": "Rollback", "to": "connect4-1.0.0", "by": "ada"}'
    made.objects.change(KEY, lambda each: each["metadata"].update(annotations={names.COMMAND_ANNOTATION: command}))
    made.pods_become_ready = False
    await made.settle(2)
    assert made.status["rollback"]["modelVersion"] == "connect4-1.0.0"
    made.restart()
    made.pods_become_ready = True
    await made.settle(10)
    assert made.shares[-2:] == [{"connect4-2.0.0": 100}, {"connect4-1.0.0": 100}]
    assert (made.condition("Ready")["reason"], made.condition("Stalled")["status"]) == ("RolledBack", "True")
    assert [each["modelVersion"] for each in made.status["rejected"]] == ["connect4-2.0.0"]
    assert "rollback" not in made.status
    assert made.status["observedGeneration"] == generation, "the spec is not touched"
    assert served(made) == ["connect4-1.0.0"]


def served(made: ReleaseWorld) -> list[str]:
    return [each["metadata"]["annotations"][MODEL_VERSION_ANNOTATION] for each in made.workloads()]


async def test_a_rollback_to_a_version_that_is_gone_is_refused() -> None:
    made = world(**QUICK)
    await made.settle(3)
    made.say("2.0.0", "errorRate", GOOD)
    made.release("2.0.0")
    await made.settle(30)
    made.objects.remove(Key(MODEL_VERSION, "default", "connect4-1.0.0"))
    command = '{"id": "c1", "command": "Rollback"}'
    made.objects.change(KEY, lambda each: each["metadata"].update(annotations={names.COMMAND_ANNOTATION: command}))
    await made.settle(3)
    assert made.status["lastCommand"]["result"] == (
        "refused: ModelVersion connect4-1.0.0 is gone or has another artifact now"
    )
    assert made.status["phase"] == "Healthy"


async def test_a_running_test_gets_its_share_and_gives_it_back() -> None:
    made = world()
    await made.settle(3)
    variants = [{"name": "control", "weight": 50}, {"name": "wide", "modelVersion": "connect4-2.0.0", "weight": 50}]
    metrics = [{"name": "win", "role": "Goal", "direction": "Increase", "minimumDetectableEffect": 0.02}]
    test = {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "ABTest",
        "metadata": {"name": "t", "namespace": "default"},
        "spec": {
            "deployment": "connect4",
            "variants": variants,
            "assignment": {"header": "x-user-id"},
            "metrics": metrics,
        },
        "status": {"phase": "Running", "controlModelVersion": "connect4-1.0.0"},
    }
    made.objects.put(test)
    await made.settle(10)
    assert made.shares[-1] == {"connect4-1.0.0": 50, "connect4-2.0.0": 50}
    assert made.status["experiment"]["test"] == "t"
    uid = made.objects.get(Key(ABTEST, "default", "t"))["metadata"]["uid"]  # type: ignore[index]
    assert made.objects.get(ROUTE_KEY)["spec"]["sticky"] == {"header": "x-user-id", "salt": uid}  # type: ignore[index]
    sent = len(made.objects.requests)
    await made.settle(10)
    assert len(made.objects.requests) == sent, "the Route is as it should be"
    made.objects.change(Key(ABTEST, "default", "t"), lambda each: each["status"].update(phase="Concluded"))
    await made.settle(30)
    assert made.shares[-1] == {"connect4-1.0.0": 100}
    assert len(made.workloads()) == 1
