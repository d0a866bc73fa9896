"""ABTest, reconciled in a small world: admitted, split by its Deployment, measured, concluded."""

from typing import Any

import pytest

from tests.runtime.release_world import KEY, ReleaseWorld, deployment, model_version
from tidegate.domain.release import Measurement
from tidegate.ports import ABTEST, Key, Requeue
from tidegate.reconcilers.ab_test import ABTestReconciler
from tidegate.reconcilers.pattern import ErrorMapping

TEST = Key(ABTEST, "default", "t")
GOAL = {"name": "win", "role": "Goal", "direction": "Increase", "minimumDetectableEffect": 0.2}


def ab_test(name: str = "t", version: str = "2.0.0", **spec: Any) -> dict[str, Any]:
    variants = [
        {"name": "control", "weight": 50},
        {"name": "wide", "modelVersion": f"connect4-{version}", "weight": 50},
    ]
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "ABTest",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "deployment": "connect4",
            "variants": variants,
            "assignment": {"header": "x-user-id"},
            "metrics": [GOAL],
            "analysis": {"minSamplesPerVariant": 50},
        }
        | spec,
    }


class World(ReleaseWorld):
    """A settled Deployment and a test on it."""

    def __init__(self, *manifests: dict[str, Any]) -> None:
        super().__init__(model_version("1.0.0"), model_version("2.0.0"), deployment(), *manifests)
        inner = ABTestReconciler(self.objects, self.metrics, self.events, self.telemetry, self.clock)
        self.tests = ErrorMapping(inner, self.objects, self.objects, self.events, self.clock)

    async def run(self, seconds: int) -> Requeue | None:
        for _ in range(seconds):
            await self.settle(1)
            requeue = await self.tests.reconcile(TEST)
        return requeue

    def answer(self, version: str, wins: float, samples: int) -> None:
        self.say(version, "win", Measurement(value=wins, samples=samples))
        self.say(version, "requestRate", Measurement(value=10.0, samples=samples))

    @property
    def test_status(self) -> dict[str, Any]:
        return self.objects.status_of(TEST)


async def test_a_better_version_wins_after_its_samples_and_not_before() -> None:
    made = World(ab_test())
    await made.run(6)
    assert made.test_status["phase"] == "Running"
    assert made.shares[-1] == {"connect4-1.0.0": 50, "connect4-2.0.0": 50}
    made.answer("1.0.0", 0.3, 20)
    made.answer("2.0.0", 0.9, 20)
    await made.run(600 // 60)
    assert made.test_status["phase"] == "Running"
    assert made.test_status.get("winner") is None
    made.answer("1.0.0", 0.3, 5000)
    made.answer("2.0.0", 0.9, 5000)
    made.clock.advance(minutes=10)
    await made.run(3)
    assert (made.test_status["phase"], made.test_status["winner"]) == ("Concluded", "wide")
    assert made.test_status["analysis"][0]["significant"]
    assert made.objects.status_of(KEY)["stable"]["modelVersion"] == "connect4-1.0.0"
    await made.run(3)
    assert made.shares[-1] == {"connect4-1.0.0": 100}
    sent = len(made.objects.requests)
    assert await made.tests.reconcile(TEST) is None
    assert len(made.objects.requests) == sent


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"deployment": "other"}, "DeploymentMissing"),
        ({"version": "1.0.0"}, "EqualVariants"),
        ({"version": "9.0.0"}, "ModelVersionMissing"),
    ],
)
async def test_tests_that_cannot_begin_are_refused_with_the_reason(spec: dict[str, Any], reason: str) -> None:
    made = World(ab_test(**spec))
    await made.run(3)
    stalled = next(each for each in made.test_status["conditions"] if each["type"] == "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", reason)
    assert reason in made.events.reasons


async def test_two_tests_on_one_endpoint() -> None:
    made = World(ab_test("a"), ab_test("t"))
    first = made.objects.get(Key(ABTEST, "default", "a"))
    assert first is not None
    made.objects.change(Key(ABTEST, "default", "a"), lambda each: each.update(status={"phase": "Running"}))
    await made.run(2)
    stalled = next(each for each in made.test_status["conditions"] if each["type"] == "Stalled")
    assert stalled["reason"] == "EndpointBusy"


async def test_tests_of_other_endpoints_are_not_looked_at() -> None:
    """Neither by a test nor by a Deployment: what one costs must not grow with all the others of the namespace."""
    made = World(ab_test(), *(ab_test(f"other-{n}", deployment=f"other-{n}") for n in range(20)))
    made.objects.listed.clear()
    await made.run(3)
    assert made.test_status["phase"] == "Running"
    assert {each for each in made.objects.listed if each.kind == ABTEST} == {TEST}


async def test_dead_metric_source_only_delays() -> None:
    made = World(ab_test())
    await made.run(4)
    for version in ("1.0.0", "2.0.0"):
        made.say(version, "win", Measurement(error="Prometheus did not answer"))
    made.clock.advance(minutes=10)
    await made.run(2)
    assert made.test_status["phase"] == "Running"
    assert "Prometheus did not answer" in made.test_status["message"]
