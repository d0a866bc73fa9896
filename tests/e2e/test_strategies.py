"""Strategies beside the canary's steps, and comparisons with the stable version, under real users."""

from collections.abc import Callable
from typing import Any

import pytest

from dev.demo.kube import Kube, Object
from tests.e2e.artifacts import Stored
from tests.e2e.load import Load
from tests.e2e.objects import FAST
from tests.e2e.releases import (
    canary_percent,
    healthy_on,
    ready_version,
    release,
    rolled_back,
    serve_then_release,
    until,
)

pytestmark = pytest.mark.cluster

SHADOW_STEP = {"duration": "6s", "minSamples": 50, "maxDisagreement": 0.02, "then": "Immediate"}
SHADOW = {"type": "Shadow", "shadow": SHADOW_STEP, "immediate": {"bake": "2s"}}


def copies(found: Object) -> float:
    """Return the confirmed share of the requests that the canary gets copies of."""
    return float((found["status"].get("canary") or {}).get("mirrorPercent") or 0)


def result(found: Object, name: str) -> dict[str, Any]:
    """Return the last measurement of a metric."""
    return next((each for each in found["status"].get("analysis") or [] if each["name"] == name), {})


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_shadowed_version_that_agrees_is_compared_and_released(
    kube: Kube, namespace: str, store: dict[str, Stored], load: Callable[..., Load], protocol: str
) -> None:
    """Requirement 0.40: copies of all requests, answers compared, no failed request, then users and no comparator.

    All users speak one protocol, so whatever was compared came over it.
    """
    models = (store["good"], store["twin"])
    strategy = SHADOW | {"shadow": {**SHADOW_STEP, "duration": "15s"}}  # Prometheus may find the comparator late
    users = serve_then_release(kube, namespace, load, models, protocol=protocol, strategy=strategy)
    found = until(
        kube, namespace, lambda f: copies(f) == 100 and result(f, "disagreement").get("samples", 0) >= 50, "compared"
    )
    assert canary_percent(found) == 0
    assert result(found, "disagreement")["value"] == 0
    low, high = result(found, "disagreement")["interval"]
    assert low == 0 < high < 0.5
    assert result(found, "latencyP99")["value"] > 0
    assert result(found, "latencyP99")["stableValue"] > 0
    assert result(found, "errorRate")["stableValue"] == 0
    found = until(kube, namespace, healthy_on("1.1.0"), "promoted")
    seen = users.stop()
    assert (seen.failed, set(seen.answered)) == ({}, {"m-1.0.0", "m-1.1.0"})
    reasons = [each["reason"] for each in reversed(found["status"]["decisions"])]
    assert [each for each in reasons if each.startswith("Shadow")] == ["ShadowStarted", "ShadowPassed"]
    comparators = kube.pods("tidegate.dev/component=comparator", namespace)
    assert all(pod["metadata"].get("deletionTimestamp") for pod in comparators), "nothing of it stays"


def test_a_shadowed_version_that_answers_otherwise_never_gets_a_user(
    kube: Kube, namespace: str, store: dict[str, Stored], load: Callable[..., Load]
) -> None:
    """Requirement 0.40: taken back by its disagreements; every answer that a user got is stable's."""
    numbers = {"agreement": "Tolerance", "tolerance": 0.001, "outputs": ["policy"]}
    strategy = SHADOW | {"shadow": {**SHADOW_STEP, **numbers}}
    users = serve_then_release(kube, namespace, load, (store["good"], store["better"]), strategy=strategy)
    found = until(kube, namespace, rolled_back, "rolled back")
    seen = users.stop()
    assert (seen.failed, set(seen.answered)) == ({}, {"m-1.0.0"})
    assert "disagreement" in found["status"]["rejected"][0]["message"]


def test_a_shadowed_version_that_fails_at_random_never_gets_a_user(
    kube: Kube, namespace: str, store: dict[str, Stored], load: Callable[..., Load]
) -> None:
    """An error beside an answer is a disagreement; users see none of it."""
    users = serve_then_release(kube, namespace, load, (store["good"], store["failing"]), strategy=SHADOW)
    until(kube, namespace, rolled_back, "rolled back")
    assert users.stop().failed == {}


def test_a_comparison_takes_a_failing_canary_back_and_promotes_a_good_one(
    kube: Kube, namespace: str, store: dict[str, Stored], load: Callable[..., Load]
) -> None:
    """Rule 5: no bound but stable itself, on counts of real requests; the evidence is in the status."""
    compare = {"metric": "errorRate", "margin": 0.01, "minSamples": 50}
    metrics = [{"name": "errorsVsStable", "compare": compare}]
    ramp = {"type": "Gradual", "gradual": {"duration": "8s", "tick": "2s"}}
    models, analysis = (store["good"], store["better"]), FAST | {"metrics": metrics}
    users = serve_then_release(kube, namespace, load, models, rate=80, strategy=ramp, analysis=analysis)
    shares: set[float] = set()

    def promoted(found: Object) -> bool:
        shares.add(canary_percent(found))
        return healthy_on("1.1.0")(found)

    until(kube, namespace, promoted, "promoted")
    assert {25, 50, 75} <= shares, "an even ramp"
    ready_version(kube, namespace, "1.2.0", store["failing"])
    release(kube, namespace, "1.2.0")
    found = until(kube, namespace, rolled_back, "rolled back")
    assert set(users.stop().failed) == {"m-1.2.0"}
    evidence = result(found, "errorsVsStable")["comparison"]
    assert evidence["eValue"] >= 100
    assert evidence["canaryBad"] > 0 == evidence["stableBad"]
