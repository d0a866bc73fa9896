"""Route.status: every reason, and what stays when nothing changed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.router.support import backend, pod_object, route_object
from tidegate.api.route import RouteStatus
from tidegate.router.endpoints import EndpointTable, parse_pod
from tidegate.router.fleet import Fleet, Standing
from tidegate.router.parts import Kind, Part
from tidegate.router.routes import parse_route
from tidegate.router.session import ProxySession, Request
from tidegate.router.snapshot import CompiledRoute, Snapshot, compile_route
from tidegate.router.status import RouteFacts, plan_status

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DONE = Standing(connected=2, acknowledged=2)


def compiled(*ready: str) -> CompiledRoute:
    table = EndpointTable()
    for workload in ready:
        table.put(("default", workload), parse_pod(pod_object(workload)))
    backends = [backend("v1", "stable", 70), backend("v2", "canary", 30, "Canary")]
    view = parse_route(route_object(backends=backends)).view
    assert view
    return compile_route(view, table)


BOTH = compiled("stable", "canary")


@pytest.mark.parametrize(
    ("facts", "reason", "words", "stalled"),
    [
        (RouteFacts(3, BOTH, DONE), "Confirmed", "acknowledged by 2 of 2 proxies", False),
        (RouteFacts(3, BOTH, Standing()), "NoProxies", "no proxy is connected", False),
        (RouteFacts(3, BOTH, Standing(1, 0, ("a",))), "WaitingForProxies", "acknowledged by a", False),
        (RouteFacts(3, BOTH, Standing(0, 0, ("a",))), "WaitingForProxies", "acknowledged by a", False),
        (RouteFacts(3, compiled("stable"), DONE), "BackendsNotReady", "no ready endpoint of v2; its share", False),
        (RouteFacts(3, compiled(), DONE), "BackendsNotReady", "requests are answered with 503", False),
        (RouteFacts(3, BOTH, Standing(1, 0, ("a",), "a: no!")), "RefusedByProxy", "a: no!", True),
        (RouteFacts(3, None, Standing(), problem="spec.x: bad"), "InvalidRoute", "spec.x: bad", True),
        (RouteFacts(3, BOTH, DONE, problem="spec.x: bad"), "InvalidRoute", "keep the last good", True),
        (RouteFacts(3, BOTH, Standing(1), conflict="taken"), "HostConflict", "taken", True),
    ],
)
def test_reasons(facts: RouteFacts, reason: str, words: str, stalled: bool) -> None:
    status = plan_status(facts, RouteStatus(), NOW)
    conditions = {item.type: item for item in status.conditions}
    assert (conditions["Ready"].reason, status.observed_generation) == (reason, 3)
    assert words in conditions["Ready"].message
    assert (conditions["Ready"].status == "True") is (reason == "Confirmed")
    assert (conditions["Stalled"].status == "True") is stalled
    assert (conditions["Reconciling"].status == "True") is (not stalled and reason != "Confirmed")


def test_weights_are_what_was_confirmed_last() -> None:
    confirmed = plan_status(RouteFacts(1, BOTH, DONE), RouteStatus(), NOW)
    assert [(item.model_version, item.percent) for item in confirmed.weights] == [("v2", 30), ("v1", 70)]
    waiting = plan_status(RouteFacts(2, compiled("stable"), Standing(2, 1, ("b",))), confirmed, NOW)
    assert waiting.weights == confirmed.weights
    moved = plan_status(RouteFacts(2, compiled("stable"), DONE), waiting, NOW)
    assert [(item.model_version, item.percent) for item in moved.weights] == [("v2", 0), ("v1", 100)]


def test_two_artifacts_of_one_version_are_one_weight() -> None:
    twice = replace(BOTH, weights=(("v1", 30.0), ("v2", 20.0), ("v1", 50.0)))
    status = plan_status(RouteFacts(1, twice, DONE), RouteStatus(), NOW)
    assert [(item.model_version, item.percent) for item in status.weights] == [("v1", 80), ("v2", 20)]


def test_unchanged_conditions_keep_their_time() -> None:
    first = plan_status(RouteFacts(1, BOTH, DONE), RouteStatus(), NOW)
    later = NOW + timedelta(minutes=1)
    assert plan_status(RouteFacts(1, BOTH, DONE), first, later) == first
    read_back = RouteStatus.model_validate(first.to_json())
    assert plan_status(RouteFacts(1, BOTH, DONE), read_back, later) == read_back
    waiting = plan_status(RouteFacts(2, BOTH, Standing(1, 0, ("a",))), first, later)
    times = {item.type: item.last_transition_time for item in waiting.conditions}
    assert times == {"Ready": later, "Reconciling": later, "Stalled": NOW}


def test_many_missing_proxies_stay_readable() -> None:
    names = tuple(f"envoy-{number:03}" for number in range(100))
    status = plan_status(RouteFacts(1, BOTH, Standing(100, 0, names)), RouteStatus(), NOW)
    assert len(status.proxies.missing) == 32
    assert "envoy-004 and 95 more" in status.conditions[0].message


ROUTE = replace(BOTH.route, requires=frozenset())


def session(node: str, route: Part | None = None) -> ProxySession:
    """Return a stream whose proxy has accepted this route configuration."""
    it = ProxySession(node)
    if route:
        it.receive(Request(Kind.ROUTES, names=frozenset({route.name})))
        (response,) = it.respond(Snapshot(routes={route.name: route}))
        it.receive(Request(Kind.ROUTES, response.version, response.nonce, frozenset({route.name})))
    return it


def test_fleet_without_a_known_service_waits_for_a_lost_proxy_only_so_long() -> None:
    fleet = Fleet(grace=10)
    first, second = session("a", ROUTE), session("b")
    fleet.join(first)
    fleet.join(second)
    assert fleet.standing(ROUTE, now=0) == Standing(2, 1, ("b",))
    fleet.leave(second, now=100)
    assert fleet.standing(ROUTE, now=109).missing == ("b",)
    assert fleet.standing(ROUTE, now=111).confirmed
    fleet.leave(first, now=200)
    assert not fleet.standing(ROUTE, now=300).confirmed


def test_fleet_with_a_known_service_waits_for_its_ready_pods() -> None:
    fleet = Fleet(grace=10)
    fleet.join(session("a", ROUTE))
    fleet.expected = frozenset({"a", "c"})
    assert fleet.standing(ROUTE, now=0) == Standing(1, 1, ("c",))
    gone = session("b")
    fleet.join(gone)
    fleet.leave(gone, now=0)
    fleet.expected = frozenset({"a"})
    assert fleet.standing(ROUTE, now=0).confirmed


def test_a_proxy_that_reconnected_counts_with_its_new_stream() -> None:
    fleet = Fleet(grace=10)
    old, new = session("a", ROUTE), session("a")
    fleet.join(old)
    fleet.join(new)
    assert fleet.standing(ROUTE, now=0) == Standing(1, 0, ("a",))
    fleet.leave(old, now=1)
    assert fleet.standing(ROUTE, now=1) == Standing(1, 0, ("a",))
