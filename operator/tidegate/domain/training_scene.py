"""What the stages of a training's decision share: the scene they look at, and the status and clock they write."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tidegate.api.base import ConditionStatus
from tidegate.api.training_job import TrainingJob, TrainingJobStatus, TrainingPhase
from tidegate.domain.conditions import Health, find_condition, set_condition
from tidegate.domain.jobs import Note
from tidegate.domain.training_failure import Failure
from tidegate.domain.training_plan import Intent, Observed, TrainingPlan, VersionState

__all__ = [
    "AT_ONCE",
    "REGISTRY_RETRY",
    "Scene",
    "assess",
    "fail",
    "make_plan",
    "seconds_left",
    "seen",
    "stop_clock",
    "wait",
]

REGISTRY_RETRY = timedelta(seconds=10)
AT_ONCE = timedelta(0)
"""What comes next needs this status to be written down first; the operator's own writes wake nobody."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The arguments of one decision."""

    job: TrainingJob
    observed: Observed
    now: datetime

    @property
    def status(self) -> TrainingJobStatus:
        """The status as it was read."""
        return self.job.status

    @property
    def own_version(self) -> VersionState | None:
        """The ModelVersion that this TrainingJob made, also when the making was never recorded."""
        uid = self.job.metadata.uid
        return next((each for each in self.observed.versions if uid and each.maker == uid), None)

    def version(self, name: str) -> VersionState | None:
        """Return the ModelVersion of this name."""
        return next((each for each in self.observed.versions if each.name == name), None)


def assess(scene: Scene, phase: TrainingPhase, health: Health | None, reason: str, message: str) -> TrainingJobStatus:
    """Return the status with phase, message and all conditions; `health` None stands for at rest, but not ready."""
    holds = {
        **{each.value: each is health for each in Health},
        "Complete": phase is TrainingPhase.SUCCEEDED,
        "Failed": phase is TrainingPhase.FAILED,
        "Suspended": phase is TrainingPhase.SUSPENDED,
    }
    conditions = scene.status.conditions
    for aspect, true in holds.items():
        value = ConditionStatus.TRUE if true else ConditionStatus.FALSE
        told = message if true or aspect == Health.READY else ""
        generation = scene.job.metadata.generation
        conditions = set_condition(conditions, aspect, value, reason, told, generation=generation, now=scene.now)
    changes = {"phase": phase, "message": message, "conditions": conditions}
    return seen(scene, scene.status.model_copy(update=changes))


def seen(scene: Scene, status: TrainingJobStatus) -> TrainingJobStatus:
    """Note the generation that the status is about."""
    return status.model_copy(update={"observed_generation": scene.job.metadata.generation})


def make_plan(
    scene: Scene,
    status: TrainingJobStatus,
    intents: tuple[Intent, ...] = (),
    note: Note | None = None,
    recheck_after: timedelta | None = None,
) -> TrainingPlan:
    """Return a plan; its note is told only when the reason is another than before."""
    before = find_condition(scene.status.conditions, Health.READY)
    after = find_condition(status.conditions, Health.READY)
    news = before is None or after is None or before.reason != after.reason
    return TrainingPlan(status, intents, (note,) if note is not None and news else (), recheck_after)


def wait(
    scene: Scene,
    reason: str,
    message: str,
    recheck_after: timedelta | None = None,
    phase: TrainingPhase = TrainingPhase.PENDING,
) -> TrainingPlan:
    """Something else has to happen first."""
    status = assess(scene, phase, Health.RECONCILING, reason, message)
    return make_plan(scene, status, (), Note(reason, message), recheck_after)


def fail(scene: Scene, failure: Failure, **changes: Any) -> TrainingPlan:
    """It is over, without a model."""
    status = assess(scene, TrainingPhase.FAILED, Health.STALLED, failure.reason, failure.message)
    status = stop_clock(scene, status.model_copy(update=changes | {"finished_at": scene.now}))
    return make_plan(scene, status, (), Note(failure.reason, failure.message, warning=True), AT_ONCE)


def stop_clock(scene: Scene, status: TrainingJobStatus) -> TrainingJobStatus:
    """Add the run that has ended to the time that counts towards the deadline."""
    if status.resumed_at is None:
        return status
    job = scene.observed.job
    ended = job.suspended_since if job is not None and job.suspended_since else scene.now
    spent = max(0.0, (min(ended, scene.now) - status.resumed_at).total_seconds())
    return status.model_copy(update={"active_seconds": status.active_seconds + spent, "resumed_at": None})


def seconds_left(scene: Scene, status: TrainingJobStatus) -> int | None:
    """Return how long a run may take from its start; None without a deadline.

    It does not change while the run goes on: the clock of earlier runs stands still.
    """
    limit = scene.job.spec.active_deadline_seconds
    return None if limit is None else math.ceil(limit - status.active_seconds)
