"""ABTests on the real node: a split, counters of real requests, and a verdict."""

from collections.abc import Callable

import pytest

from dev.demo.kube import TIDEGATE, Kube, Object
from tests.e2e.artifacts import Stored
from tests.e2e.load import Load
from tests.e2e.releases import ready_version, serve

pytestmark = pytest.mark.cluster

USERS = 1_000_000
"""So many that hardly anybody asks twice: the test counts requests, as if each came from another user."""
SALT = "stones"
"""Who gets which version is the same in every run. With a salt of its own one sound test in a thousand is Invalid."""


def ab_test(namespace: str, goal_direction: str = "Increase") -> Object:
    """Make a test of m-1.1.0 against what is stable."""
    return {
        "apiVersion": TIDEGATE,
        "kind": "ABTest",
        "metadata": {"name": "centre", "namespace": namespace},
        "spec": {
            "deployment": "m",
            "hypothesis": "Stones in the centre keep more games.",
            "variants": [
                {"name": "control", "weight": 50},
                {"name": "centre", "modelVersion": "m-1.1.0", "weight": 50},
            ],
            "assignment": {"header": "x-user-id", "salt": SALT},
            "metrics": [
                {"name": "accuracy", "role": "Goal", "direction": goal_direction, "minimumDetectableEffect": 0.1},
                {"name": "errorRate", "role": "Guardrail", "direction": "Decrease", "margin": 0.05},
            ],
            "analysis": {"method": "FixedHorizon", "minSamplesPerVariant": 400},
            "maxDuration": "2m",
        },
    }


@pytest.mark.parametrize(
    ("direction", "winner", "action"), [("Increase", "centre", "Adopt"), ("Decrease", "control", "Keep")]
)
def test_split_traffic_gives_a_verdict_and_is_given_back(
    kube: Kube,
    namespace: str,
    store: dict[str, Stored],
    load: Callable[..., Load],
    direction: str,
    winner: str,
    action: str,
) -> None:
    """A version that plays the centre against one that plays the edges; afterwards stable has everything again."""
    serve(kube, namespace, "1.0.0", store["edge"])
    ready_version(kube, namespace, "1.1.0", store["centre"])
    users = load("m", rate=100, users=USERS)
    kube.apply(ab_test(namespace, direction))
    found = kube.wait(
        "ABTest",
        "centre",
        lambda found: (found.get("status") or {}).get("phase") == "Concluded",
        timeout=90,
        namespace=namespace,
        what="Concluded",
    )
    status = found["status"]
    assert status["recommendation"]["action"] == action, status["recommendation"]
    assert status.get("winner") == winner
    assert status["sampleRatio"]["ok"]
    (goal,) = [each for each in status["analysis"] if each["metric"] == "accuracy"]
    low, high = goal["confidenceInterval"]
    assert 0 < low < goal["effect"] < high
    assert goal["significant"]
    kube.wait(
        "Route",
        "m",
        lambda route: [each["modelVersion"] for each in route["status"].get("weights") or []] == ["m-1.0.0"],
        timeout=30,
        namespace=namespace,
        what="back to the stable version alone",
    )
    seen = users.stop()
    assert seen.failed == {}
    assert set(seen.answered) == {"m-1.0.0", "m-1.1.0"}


def test_test_of_a_version_that_does_not_exist_waits_and_says_so(
    kube: Kube, namespace: str, store: dict[str, Stored]
) -> None:
    """Nothing moves; the message names the missing version; stable keeps all traffic."""
    serve(kube, namespace, "1.0.0", store["good"])
    kube.apply(ab_test(namespace))
    found = kube.wait(
        "ABTest",
        "centre",
        lambda found: "m-1.1.0" in (found.get("status") or {}).get("message", ""),
        timeout=30,
        namespace=namespace,
        what="naming the version",
    )
    assert found["status"]["phase"] in {"Pending", "Invalid"}
    route = kube.get("Route", "m", namespace) or {}
    assert [each["modelVersion"] for each in route["status"]["weights"]] == ["m-1.0.0"]
