"""Scenario rule 11 for trainings and models: killed at each await of a story, the operator ends it as if undisturbed.

Stories of a TrainingJob run from its spec to the ModelVersion, its number in the MLflow registry and the handover, or
to the reason why there is none; stories of a ModelVersion to its verdict and its aliases. Afterwards every object is
as it would have been, times included, and so is MLflow: one Job, one ModelVersion, one number, one run. Nobody is told
anything twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.faults.training_cluster import Ending, TrainingCluster
from tests.training.support import (
    deployment_manifest,
    failure,
    result,
    training_key,
    training_manifest,
    validation_error,
    verdict,
    version_key,
    version_manifest,
)
from tidegate.ports import Key, Manifest

When = Callable[[TrainingCluster], bool]
Act = Callable[[TrainingCluster], object]
OUT_OF_MEMORY = Ending(137, reason="OOMKilled")
USELESS = Ending(3, failure())
"""Ends a story early whose point is another one."""
REGISTERED = "default.connect4"


@dataclass(frozen=True)
class Story:
    """What there is, what happens, and how it ends."""

    name: str
    ends: When
    acts: tuple[tuple[When, Act], ...] = ()
    spec: dict[str, Any] = field(default_factory=dict)
    main: Key = field(default_factory=training_key)
    others: tuple[Manifest, ...] = ()
    trainer_ends: tuple[Ending, ...] = ()
    checks_end: tuple[Ending, ...] = ()

    def begin(self) -> TrainingCluster:
        trains = self.main == training_key()
        manifest = training_manifest(**self.spec) if trains else version_manifest(self.main.name, **self.spec)
        cluster = TrainingCluster(self.main, *self.others, manifest)
        cluster.trainer_ends.first += self.trainer_ends
        cluster.checks_end.first += self.checks_end
        return cluster


def ended(phase: str, *versions: str, runs: str = "", aliases: Iterable[tuple[str, str]] = ()) -> When:
    """Phase, the ModelVersions that there are, states of the runs in MLflow, and aliases."""

    def is_so(cluster: TrainingCluster) -> bool:
        shown = [each for model in cluster.store.models.values() for each in model["aliases"].items()]
        return (
            cluster.status.get("phase", "Gone") == phase
            and cluster.versions == [f"connect4-{each}" for each in versions]
            and " ".join(cluster.store.states().values()) == runs
            and sorted(shown) == sorted(aliases)
        )

    return is_so


def in_phase(phase: str, percent: float = 0) -> When:
    """Return whether it is in this phase, and a pod has told so much progress."""

    def is_so(cluster: TrainingCluster) -> bool:
        progress = cluster.status.get("progress", {"percent": 0})
        return cluster.status.get("phase") == phase and progress["percent"] >= percent

    return is_so


def change(**fields: Any) -> Act:
    return lambda cluster: cluster.change(**fields)


def make_again(cluster: TrainingCluster) -> None:
    cluster.delete()
    cluster.objects.put(training_manifest())


STABLE = version_manifest("connect4-1.0.0", {"phase": "Ready", "metrics": {"moveAccuracy": 0.9}}, stage="Production")
SERVING = deployment_manifest("connect4-1.0.0", "connect4-1.0.0")
DEPLOY = {"output": {"deploy": {"name": "connect4", "onlyIfImproved": {"metric": "moveAccuracy"}}}}
GATES = {"evaluation": {"gates": [{"metric": "moveAccuracy", "min": 0.99}]}}
TRAININGS = (
    Story(
        "released",
        ended("Succeeded", "1.0.0", "1.1.0", runs="FINISHED", aliases=[("champion", "1")]),
        spec=DEPLOY,
        others=(STABLE, SERVING),
    ),
    Story(
        "suspended and resumed",
        ended("Failed", runs="FAILED"),
        ((in_phase("Running", 25), change(suspend=True)), (in_phase("Suspended"), change(suspend=False))),
        {"activeDeadlineSeconds": 100},
        trainer_ends=(USELESS,),
    ),
    Story(
        "second attempt, and its node lost with the result",
        ended("Succeeded", "1.0.0", runs="FINISHED"),
        trainer_ends=(OUT_OF_MEMORY, Ending(0, result(), lost=True)),
    ),
    Story("given up", ended("Failed", runs="FAILED"), spec={"backoffLimit": 1}, trainer_ends=(OUT_OF_MEMORY,) * 2),
    Story("useless to retry", ended("Failed", runs="FAILED"), trainer_ends=(USELESS,)),
    Story("gate missed", ended("Failed", runs="FAILED"), spec=GATES),
    Story(
        "version rejected",
        ended("Failed", "1.0.0", runs="FAILED"),
        checks_end=(Ending(0, verdict("Failed", "Parity")),),
    ),
    Story(
        "node lost",
        ended("Failed", runs="FAILED"),
        ((in_phase("Running", 25), TrainingCluster.lose_node),),
        trainer_ends=(USELESS,),
    ),
    Story("deleted", ended("Gone", runs="KILLED"), ((in_phase("Running", 25), TrainingCluster.delete),)),
    Story(
        "made anew",
        ended("Failed", runs="KILLED FAILED"),
        ((in_phase("Running", 25), make_again),),
        trainer_ends=(USELESS,),
    ),
)
PROMOTED = {"stage": "Production"}
MODELS = (
    Story(
        "champion",
        ended("Ready", "1.0.0", "1.1.0", aliases=[("champion", "2"), ("previous", "1")]),
        spec=PROMOTED,
        main=version_key("connect4-1.1.0"),
        others=(STABLE,),
    ),
    Story(
        "archived",
        ended("Ready", "1.0.0"),
        ((ended("Ready", "1.0.0", aliases=[("champion", "1")]), change(stage="Archived")),),
        PROMOTED,
        version_key(),
    ),
    Story(
        "rejected",
        ended("Rejected", "1.0.0"),
        spec=PROMOTED,
        main=version_key(),
        checks_end=(Ending(0, verdict("Failed", "Checksum")),),
    ),
    Story(
        "checked again",
        ended("Ready", "1.0.0"),
        main=version_key(),
        checks_end=(Ending(1, validation_error()), Ending(139)),
    ),
)
stories = pytest.mark.parametrize("story", TRAININGS + MODELS, ids=lambda story: story.name)


def tell(story: Story, kill_at: int | None = None) -> TrainingCluster:
    """Live through a story, with an operator that is killed at one await, to the fixed point."""
    cluster = story.begin()
    cluster.death.at = kill_at
    for when, act in story.acts:
        assert cluster.run(60, when), cluster.status
        act(cluster)
        cluster.operator.hear()
    assert cluster.run(60, lambda each: story.ends(each) and each.operator.is_settled), cluster.remains()
    return cluster


def told(cluster: TrainingCluster) -> list[tuple[str, str]]:
    """Return about what was told, and why; the words say what was seen at that moment."""
    return [(about, reason) for about, reason, _, _ in cluster.events.told]


def is_told_in(killed: TrainingCluster, undisturbed: TrainingCluster) -> bool:
    """What is told of an object may be lost with a process, but is never told twice, nor in another order.

    Which of two objects is looked at first is no promise: a process that starts begins with Deployments.
    """
    rest = {about: iter([each for each in told(undisturbed) if each[0] == about]) for about, _ in told(undisturbed)}
    return all(each in rest.get(each[0], ()) for each in told(killed))


@stories
def test_the_undisturbed_story(story: Story) -> None:
    cluster = tell(story)
    assert cluster.errors == []
    assert cluster.death.awaits > 10


@pytest.mark.slow
@stories
def test_killed_at_every_await_it_ends_alike(story: Story) -> None:
    undisturbed = tell(story)
    for number in range(1, undisturbed.death.awaits + 1):
        try:
            killed = tell(story, number)
            assert killed.death.has_come
            assert killed.errors == []
            assert killed.made == undisturbed.made
            assert killed.remains() == undisturbed.remains()
            assert is_told_in(killed, undisturbed), told(killed)
        except AssertionError as error:
            raise AssertionError(f"killed at await {number}: {error}") from error
