"""Releases on the real node: behaviour.md, rules 1 to 12 and the scenarios named in each test."""

import time
from collections.abc import Callable

import pytest

from dev.demo.kube import SYSTEM, Kube, Object, is_true
from tests.e2e.artifacts import Stored
from tests.e2e.load import Load
from tests.e2e.objects import FAST, deployment
from tests.e2e.releases import (
    canary_percent,
    command,
    healthy_on,
    pods,
    ready_version,
    release,
    rolled_back,
    serve,
    until,
    wait_until_closed,
)

pytestmark = pytest.mark.cluster


def test_promotion_moves_in_steps_keeps_the_pods_and_loses_no_request(
    kube: Kube,
    namespace: str,
    store: dict[str, Stored],
    load: Callable[..., Load],
) -> None:
    """Rules 1, 3 and 7, scenarios 13 and 14: first release without steps, then 30, 60, 100 % with the same pods."""
    found = serve(kube, namespace, "1.0.0", store["good"])
    assert not any(d["action"] == "SetPercent" and d.get("to") not in (0, 100) for d in found["status"]["decisions"])
    users = load("m")
    ready_version(kube, namespace, "1.1.0", store["better"])
    release(kube, namespace, "1.1.0")
    until(kube, namespace, lambda found: canary_percent(found) == 30, "at 30 %")
    canary_pods = pods(kube, namespace)
    until(kube, namespace, lambda found: canary_percent(found) == 60, "at 60 %")
    found = until(kube, namespace, healthy_on("1.1.0"), "promoted")
    seen = users.stop()
    assert seen.failed == {}
    assert set(seen.answered) == {"m-1.0.0", "m-1.1.0"}
    assert pods(kube, namespace) <= canary_pods
    assert found["status"]["history"][0]["outcome"] == "Promoted"


def test_failing_version_is_rolled_back_within_three_seconds(
    kube: Kube,
    namespace: str,
    store: dict[str, Stored],
    load: Callable[..., Load],
) -> None:
    """Rule 6, scenarios 3 and 13: weight 0 at most 3 s after the first bad samples; only the canary's own errors."""
    serve(kube, namespace, "1.0.0", store["good"])
    users = load("m", rate=60)
    ready_version(kube, namespace, "1.1.0", store["failing"])
    release(kube, namespace, "1.1.0")
    closed = wait_until_closed(kube, namespace, "m-1.1.0", timeout=60)
    found = until(kube, namespace, rolled_back, "rolled back")
    seen = users.stop()
    assert set(seen.failed) == {"m-1.1.0"}, "only the canary's own errors"
    # One scrape passes between an answer and its sample, so that much is allowed on top of the three seconds.
    assert closed - seen.first_bad["m-1.1.0"] < 3 + 1
    assert found["spec"]["modelVersion"] == "m-1.1.0", "the spec is the user's"
    assert found["status"]["rejected"][0]["modelVersion"] == "m-1.1.0"
    assert found["status"]["stable"] | {"percent": 100} == found["status"]["stable"]
    _stays(kube, namespace, found)


def _stays(kube: Kube, namespace: str, found: Object) -> None:
    """A later look changes nothing: the object is touched, and its release is not tried again."""
    kube.merge("Deployment", "m", {"metadata": {"annotations": {"touched": "yes"}}}, namespace)
    kube.merge("Deployment", "m", {"spec": {"analysis": {"interval": "2s"}}}, namespace)
    later = until(
        kube,
        namespace,
        lambda now: now["status"].get("observedGeneration") == now["metadata"]["generation"],
        "observed",
    )
    assert rolled_back(later)
    assert later["status"]["rejected"] == found["status"]["rejected"]


def test_slow_version_is_rolled_back(
    kube: Kube,
    namespace: str,
    store: dict[str, Stored],
    load: Callable[..., Load],
) -> None:
    """Rule 6: the latency bound works on Envoy's own histogram."""
    analysis = {**FAST, "metrics": [{"name": "latencyP95", "maxMilliseconds": 60, "minSamples": 5}]}
    serve(kube, namespace, "1.0.0", store["good"], analysis=analysis)
    users = load("m", rate=20)
    ready_version(kube, namespace, "1.1.0", store["slow"])
    release(kube, namespace, "1.1.0")
    found = until(kube, namespace, rolled_back, "rolled back", timeout=90)
    assert users.stop().failed == {}
    assert "latencyP95" in found["status"]["rejected"][0]["message"]


def test_operator_killed_in_the_middle_of_a_canary(
    kube: Kube,
    namespace: str,
    store: dict[str, Stored],
    load: Callable[..., Load],
    restart: Callable[[str], None],
) -> None:
    """Rule 11, scenario 16: the same step goes on with the same start time, and no request fails."""
    serve(kube, namespace, "1.0.0", store["good"])
    users = load("m", rate=100)
    ready_version(kube, namespace, "1.1.0", store["better"])
    release(kube, namespace, "1.1.0")
    before = until(kube, namespace, lambda found: canary_percent(found) == 30, "at 30 %")
    restart("operator")
    after = kube.get("Deployment", "m", namespace) or {}
    assert after["status"]["canary"]["startedAt"] == before["status"]["canary"]["startedAt"]
    found = until(kube, namespace, healthy_on("1.1.0"), "promoted", timeout=120)
    assert [h["outcome"] for h in found["status"]["history"]][:1] == ["Promoted"]
    assert users.stop().failed == {}


def test_router_away_holds_the_release_and_no_request_fails(
    kube: Kube,
    namespace: str,
    store: dict[str, Stored],
    load: Callable[..., Load],
    without: Callable[..., object],
) -> None:
    """Scenario 11: without confirmation no next step, nothing removed; it goes on when the router is back."""
    serve(kube, namespace, "1.0.0", store["good"])
    users = load("m")
    ready_version(kube, namespace, "1.1.0", store["better"])
    with without("router"):
        release(kube, namespace, "1.1.0")
        until(kube, namespace, lambda found: (found["status"].get("canary") or {}).get("readyReplicas"), "canary ready")
        held = until(kube, namespace, lambda found: "confirm" in found["status"]["message"].lower(), "waiting")
        assert canary_percent(held) == 0
    until(kube, namespace, healthy_on("1.1.0"), "promoted", timeout=90)
    assert users.stop().failed == {}


def test_prometheus_away_holds_the_release(
    kube: Kube,
    namespace: str,
    store: dict[str, Stored],
    load: Callable[..., Load],
    without: Callable[..., object],
) -> None:
    """Rule 4, scenario 6: an outage of the metrics neither promotes nor rolls back; analysis resumes by itself."""
    serve(kube, namespace, "1.0.0", store["good"])
    users = load("m")
    ready_version(kube, namespace, "1.1.0", store["better"])
    release(kube, namespace, "1.1.0")
    until(kube, namespace, lambda found: canary_percent(found) == 30, "at 30 %")
    with without("prometheus"):
        held = until(
            kube,
            namespace,
            lambda found: any(m["verdict"] == "Error" for m in found["status"].get("analysis") or []),
            "in Error",
        )
        assert canary_percent(held) == 30
        assert not rolled_back(held)
    until(kube, namespace, healthy_on("1.1.0"), "promoted", timeout=120)
    assert users.stop().failed == {}


def test_superseded_release_is_never_promoted(
    kube: Kube, namespace: str, store: dict[str, Stored], load: Callable[..., Load]
) -> None:
    """Rule 2, scenarios 1 and 2: traffic back to stable first, then the newest from its first step."""
    serve(kube, namespace, "1.0.0", store["good"])
    users = load("m")
    ready_version(kube, namespace, "1.1.0", store["better"])
    ready_version(kube, namespace, "1.2.0", store["best"])
    release(kube, namespace, "1.1.0")
    until(kube, namespace, lambda found: canary_percent(found) == 30, "at 30 %")
    release(kube, namespace, "1.2.0")
    found = until(kube, namespace, healthy_on("1.2.0"), "promoted", timeout=90)
    outcomes = {h["modelVersion"]: h["outcome"] for h in found["status"]["history"]}
    assert outcomes["m-1.1.0"] == "Superseded"
    assert outcomes["m-1.2.0"] == "Promoted"
    assert users.stop().failed == {}


def test_immediate_release_switches_back_during_its_bake(
    kube: Kube,
    namespace: str,
    store: dict[str, Stored],
    load: Callable[..., Load],
) -> None:
    """Rules 7 and 8: one switch, then the bake time watches, and rolls back if it must."""
    strategy = {"type": "Immediate", "immediate": {"bake": "20s"}}
    serve(kube, namespace, "1.0.0", store["good"], strategy=strategy)
    users = load("m")
    ready_version(kube, namespace, "1.1.0", store["failing"])
    release(kube, namespace, "1.1.0")
    found = until(kube, namespace, rolled_back, "rolled back", timeout=90)
    seen = users.stop()
    assert set(seen.failed) == {"m-1.1.0"}
    assert found["status"]["stable"]["modelVersion"] == "m-1.0.0"


def test_abort_then_retry_then_promote(
    kube: Kube, namespace: str, store: dict[str, Stored], load: Callable[..., Load]
) -> None:
    """Rule 9, scenario 9: commands are consumed once and recorded with who gave them."""
    steps = {"canary": {"steps": [{"setPercent": 30}, {"pause": {}}]}}
    serve(kube, namespace, "1.0.0", store["good"], strategy=steps)
    load("m")
    ready_version(kube, namespace, "1.1.0", store["better"])
    release(kube, namespace, "1.1.0")
    until(kube, namespace, lambda found: found["status"]["phase"] == "Paused", "paused")
    command(kube, namespace, "Abort")
    found = until(kube, namespace, rolled_back, "aborted")
    assert found["status"]["lastCommand"]["by"] == "ann"
    command(kube, namespace, "Retry")
    found = until(kube, namespace, lambda found: found["status"]["phase"] == "Paused", "paused again")
    assert found["status"]["canary"]["attempt"] == 2
    command(kube, namespace, "Promote")
    until(kube, namespace, healthy_on("1.1.0"), "promoted")


def test_person_goes_back_and_changes_her_mind(
    kube: Kube, namespace: str, store: dict[str, Stored], load: Callable[..., Load]
) -> None:
    """Rules 6, 7 and 9: Rollback serves the former version without steps; the spec stays; Retry releases it again."""
    serve(kube, namespace, "1.0.0", store["good"])
    users = load("m")
    ready_version(kube, namespace, "1.1.0", store["better"])
    release(kube, namespace, "1.1.0")
    until(kube, namespace, healthy_on("1.1.0"), "promoted")
    command(kube, namespace, "Rollback")
    found = until(kube, namespace, rolled_back, "rolled back")
    assert found["status"]["stable"]["modelVersion"] == "m-1.0.0"
    assert found["status"]["rejected"][0]["modelVersion"] == "m-1.1.0"
    assert found["spec"]["modelVersion"] == "m-1.1.0", "the spec is the user's"
    command(kube, namespace, "Retry")
    until(kube, namespace, healthy_on("1.1.0"), "promoted again")
    assert users.stop().failed == {}


def test_same_name_in_two_namespaces(
    kube: Kube,
    namespace: str,
    store: dict[str, Stored],
    load: Callable[..., Load],
) -> None:
    """Two Deployments of one name in two namespaces have an endpoint each."""
    other = f"{namespace}-b"
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    try:
        serve(kube, namespace, "1.0.0", store["good"])
        serve(kube, other, "2.0.0", store["better"])
        users = load("m")
        _until_requests(users, 40)
        seen = users.stop()
        assert set(seen.answered) == {"m-1.0.0"}
        assert seen.failed == {}
    finally:
        kube.delete("Namespace", other, api_version="v1")
        kube.wait_gone("Namespace", other, timeout=90, api_version="v1")


def test_name_at_the_length_limit(
    kube: Kube, namespace: str, store: dict[str, Stored], load: Callable[..., Load]
) -> None:
    """The longest name that is accepted serves like any other."""
    name = "m" * 46
    ready_version(kube, namespace, "1.0.0", store["good"])
    kube.apply(deployment(namespace, "1.0.0", name=name))
    kube.wait("Deployment", name, is_true("Ready"), timeout=90, namespace=namespace, what="Ready")
    users = load(name)
    _until_requests(users, 20)
    assert users.stop().failed == {}


def _until_requests(users: Load, count: int) -> None:
    deadline = time.monotonic() + 30
    while users.seen().total < count:
        assert time.monotonic() < deadline, f"fewer than {count} requests in 30 s"
        time.sleep(0.2)


def test_restarted_triton_gets_its_model_again(kube: Kube, namespace: str, store: dict[str, Stored]) -> None:
    """Scenario 17: Triton dies, its container starts again, and the pod is ready only with the model loaded."""
    serve(kube, namespace, "1.0.0", store["good"])
    (pod,) = kube.pods("tidegate.dev/component=serving", namespace)
    name = pod["metadata"]["name"]
    _exec(kube, namespace, name, ["/bin/sh", "-c", "kill -9 $(pidof tritonserver || echo 1)"])

    def again(found: Object) -> bool:
        containers = {c["name"]: c for c in found["status"]["containerStatuses"]}
        ready = {c["type"]: c["status"] for c in found["status"]["conditions"]}["Ready"] == "True"
        return containers["triton"]["restartCount"] >= 1 and ready

    kube.wait("Pod", name, again, timeout=60, namespace=namespace, api_version="v1", what="ready again")


def _exec(kube: Kube, namespace: str, pod: str, command: list[str]) -> None:
    from kubernetes.stream import stream

    core = kube.core()
    stream(
        core.connect_get_namespaced_pod_exec,
        pod,
        namespace,
        container="triton",
        command=command,
        stdout=True,
        stderr=True,
    )


def test_deletion_in_the_middle_of_a_release(
    kube: Kube,
    namespace: str,
    store: dict[str, Stored],
) -> None:
    """Rule 12: deletion at a weight above 0 finishes and leaves no workload, Service or Route behind."""
    serve(kube, namespace, "1.0.0", store["good"])
    ready_version(kube, namespace, "1.1.0", store["better"])
    release(kube, namespace, "1.1.0")
    until(kube, namespace, lambda found: canary_percent(found) == 30, "at 30 %")
    kube.delete("Deployment", "m", namespace)
    kube.wait_gone("Deployment", "m", timeout=60, namespace=namespace)
    kube.wait_gone("Route", "m", timeout=60, namespace=namespace)
    deadline = time.monotonic() + 60
    while kube.pods("tidegate.dev/component=serving", namespace) or kube.select("Deployment", namespace, "apps/v1"):
        assert time.monotonic() < deadline, "workloads are still there a minute after the deletion"
        time.sleep(0.2)


def test_metrics_tell_what_was_decided(kube: Kube, namespace: str, store: dict[str, Stored]) -> None:
    """Every decision is an event and a Prometheus series with the same reason."""
    found = serve(kube, namespace, "1.0.0", store["good"])
    events = kube.select("Event", namespace, "v1")
    reasons = {event["reason"] for event in events if event["involvedObject"]["name"] == "m"}
    assert {decision["reason"] for decision in found["status"]["decisions"]} <= reasons
    deadline = time.monotonic() + 20
    query = "tidegate_decisions_total"
    while not kube.service_get("tidegate-prometheus:9090", "/api/v1/query", SYSTEM, query=query)["data"]["result"]:
        assert time.monotonic() < deadline, "Prometheus has no tidegate_decisions_total"
        time.sleep(0.5)
