"""Scenario rule 11: the operator is killed at each await of whole releases in turn, and nobody can tell afterwards.

For n = 1, 2, 3, … the reconcile coroutine is cancelled at its n-th await, everything in the memory of the process is
thrown away, and another process starts over the objects that are left. The end state, every decision with its message
and time, and the invariants after every write are those of the run that nobody disturbed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.faults.cluster import KEY, Cluster
from tidegate.domain.release import GateAnswer, Measurement

SPEC: dict[str, Any] = {
    "serving": {"replicas": 2},
    "strategy": {
        "type": "Canary",
        "canary": {
            "steps": [
                {"setPercent": 20},
                {"hold": "2s"},
                {"setPercent": 50},
                {"hold": "2s"},
                {"setPercent": 100},
                {"hold": "2s"},
            ]
        },
    },
    "analysis": {"interval": "1s", "metrics": [{"name": "errorRate", "max": 0.05}]},
    "rollback": {"drainDelay": "2s"},
}
IMMEDIATE = {"strategy": {"type": "Immediate", "immediate": {"bake": "5s"}}}
SHADOW = {
    "strategy": {
        "type": "Shadow",
        "shadow": {"percent": 50, "duration": "2s", "then": "Immediate"},
        "immediate": {"bake": "2s"},
    }
}
GATE = "http://approvals.example/release"
GATED = {
    "strategy": {
        "type": "Canary",
        "canary": {"steps": [{"setPercent": 50}, {"hold": "1s"}, {"gate": {"url": GATE, "interval": "2s"}}]},
    }
}
ROLLBACK_GATE = "http://approvals.example/rollback"
WATCHED = IMMEDIATE | {"rollback": {"drainDelay": "2s", "gate": {"url": ROLLBACK_GATE}}}
COMPARED = {
    "strategy": {"type": "Canary", "canary": {"steps": [{"setPercent": 50}, {"hold": "4s"}]}},
    "analysis": {"interval": "1s", "metrics": [{"name": "errors", "compare": {"metric": "errorRate"}}]},
}
BAD = Measurement(0.4, samples=500)
Act = Callable[[Cluster], object]


@dataclass(frozen=True)
class Story:
    """What happens once 1.0.0 serves and 2.0.0 is being released, and how it ends."""

    name: str
    acts: tuple[tuple[Callable[[Cluster], bool], Act], ...]
    phase: str
    serves: str
    spec: dict[str, Any] = field(default_factory=dict)
    """Instead of three steps under one metric."""


def at_step(step: int, version: str = "2.0.0") -> Callable[[Cluster], bool]:
    def is_there(cluster: Cluster) -> bool:
        canary = cluster.status.get("canary") or {}
        held = canary.get("step") == step and "stepStartedAt" in canary
        return bool(held and canary["modelVersion"] == f"connect4-{version}")

    return is_there


def healthy_on(version: str) -> Callable[[Cluster], bool]:
    def is_there(cluster: Cluster) -> bool:
        return cluster.status.get("phase") == "Healthy" and cluster.serving == [f"connect4-{version}"]

    return is_there


def fails(version: str, metric: str = "errorRate") -> Act:
    return lambda cluster: cluster.prometheus.answers.update({(f"connect4-{version}", metric): BAD})


def answers(url: str, code: int) -> Act:
    return lambda cluster: cluster.gates.answers.update({url: GateAnswer(code)})


def gate_said(code: int) -> Callable[[Cluster], bool]:
    return lambda cluster: ((cluster.status.get("canary") or {}).get("gate") or {}).get("code") == code


def has_begun(cluster: Cluster) -> bool:
    return cluster.status.get("canary") is not None


STORIES = (
    Story("promotion", (), "Healthy", "2.0.0"),
    Story("failing canary", ((at_step(1), fails("2.0.0")),), "RolledBack", "1.0.0"),
    Story("superseded", ((at_step(1), lambda cluster: cluster.release("3.0.0")),), "Healthy", "3.0.0"),
    Story("abort", ((at_step(1), lambda cluster: cluster.command("Abort", "1")),), "RolledBack", "1.0.0"),
    Story("switched back", ((at_step(0), fails("2.0.0")),), "RolledBack", "1.0.0", IMMEDIATE),
    Story("person goes back", ((healthy_on("2.0.0"), lambda c: c.command("Rollback", "1")),), "RolledBack", "1.0.0"),
    Story("shadow", (), "Healthy", "2.0.0", SHADOW),
    Story("shadow disagrees", ((at_step(0), fails("2.0.0", "disagreement")),), "RolledBack", "1.0.0", SHADOW),
    Story("shadow superseded", ((at_step(0), lambda cluster: cluster.release("3.0.0")),), "Healthy", "3.0.0", SHADOW),
    Story("gate", ((at_step(1), answers(GATE, 403)), (gate_said(403), answers(GATE, 200))), "Healthy", "2.0.0", GATED),
    Story(
        "rollback gate",
        ((has_begun, answers(ROLLBACK_GATE, 404)), (at_step(0), answers(ROLLBACK_GATE, 200))),
        "RolledBack",
        "1.0.0",
        WATCHED,
    ),
    Story("compared", (), "Healthy", "2.0.0", COMPARED),
    Story(
        "found worse",
        ((has_begun, lambda c: c.prometheus.worse.add("connect4-2.0.0")),),
        "RolledBack",
        "1.0.0",
        COMPARED,
    ),
)
stories = pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)


def tell(story: Story, kill_at: int | None = None) -> Cluster:
    """Live through a story, with an operator that is killed at one await, to the fixed point."""
    cluster = Cluster(**copy.deepcopy(SPEC | story.spec))
    cluster.death.at = kill_at
    acts = ((healthy_on("1.0.0"), lambda each: each.release("2.0.0")), *story.acts)
    for when, act in acts:
        assert cluster.run(60, when), cluster.status
        act(cluster)
    assert cluster.run(60, lambda each: each.operator.is_settled), cluster.status
    assert cluster.comparators == []
    cluster.check_narration()
    return cluster


def remains(cluster: Cluster) -> dict[str, Any]:
    """Return every object as it is in the end; versions count writes, which may be more."""
    left = copy.deepcopy(cluster.api.objects)
    for each in left.values():
        for counted in ("resourceVersion", "uid", "generation"):
            each["metadata"].pop(counted, None)
        for owner in each["metadata"].get("ownerReferences", ()):
            owner.pop("uid")
        each.get("status", {}).pop("observedGeneration", None)
    return left


def check_untouched(story: Story, undisturbed: Cluster, kill_at: int) -> None:
    killed = tell(story, kill_at)
    assert killed.death.has_come
    assert killed.told == undisturbed.told
    assert remains(killed) == remains(undisturbed)
    assert killed.errors == []


@stories
def test_the_undisturbed_story(story: Story) -> None:
    cluster = tell(story)
    assert cluster.status["phase"] == story.phase
    assert cluster.serving == [f"connect4-{story.serves}"]
    assert cluster.errors == []
    assert cluster.operator.get(KEY) is not None
    assert cluster.death.awaits > 30


@pytest.mark.slow
@stories
def test_killed_at_every_await_it_ends_alike(story: Story) -> None:
    undisturbed = tell(story)
    for number in range(1, undisturbed.death.awaits + 1):
        try:
            check_untouched(story, undisturbed, number)
        except AssertionError as error:
            raise AssertionError(f"killed at await {number}: {error}") from error
