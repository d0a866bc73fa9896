"""What the status of a workload and of a Route say to the release planner."""

from typing import Any

from tidegate.domain.manifests.serving import Platform
from tidegate.domain.release import ObservedRoute, VersionID, Workload
from tidegate.reconcilers.observation import read_route, read_workload


def observe(generation: int, wanted: int, **status: Any) -> Workload:
    live = {"metadata": {"generation": generation}, "spec": {"replicas": wanted}, "status": status}
    return read_workload(live, VersionID("v1", "a" * 64), None, Platform("agent:1", "triton:1"), [])


def test_ready_pods_stay_ready_while_a_change_of_scale_is_not_yet_observed() -> None:
    """Otherwise every scale-up of a canary would take its traffic away for a moment."""
    found = observe(2, 2, observedGeneration=1, replicas=1, updatedReplicas=1, readyReplicas=1)
    assert (found.ready, found.rolled_out) == (1, False)


def test_a_workload_is_rolled_out_when_all_its_pods_are_of_the_present_template() -> None:
    assert observe(2, 2, observedGeneration=2, replicas=2, updatedReplicas=2, readyReplicas=2).rolled_out
    assert not observe(2, 2, observedGeneration=2, replicas=3, updatedReplicas=2, readyReplicas=3).rolled_out
    assert observe(1, 2).ready == 0


def observe_route(generation: int, **status: Any) -> ObservedRoute:
    manifest = {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "Route",
        "metadata": {"name": "m", "namespace": "ns", "generation": generation},
        "spec": {"deployment": "m", "backends": []},
        "status": status,
    }
    return read_route(manifest, "m", [])


def test_what_the_router_said_of_a_former_route_is_not_told_of_the_present_one() -> None:
    """Scenario 11: "acknowledged by 1 of 1 proxies" is no reason why a share is not confirmed."""
    ready = {
        "type": "Ready", "status": "True", "reason": "Confirmed", "message": "acknowledged by 1 of 1 proxies",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    seen = observe_route(1, observedGeneration=1, conditions=[ready])
    assert (seen.confirmed, seen.message) == (True, "acknowledged by 1 of 1 proxies")
    unseen = observe_route(2, observedGeneration=1, conditions=[ready])
    assert (unseen.confirmed, unseen.message) == (False, "")
    assert "is it running" in observe_route(1).message
