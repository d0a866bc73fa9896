"""What one decision about a training is made from, and what it results in: plain data, no behaviour.

The life of a TrainingJob, seen from its children::

    spec ──► MLflow run ──► Job ──► pod ──► result ──► gates ──► ModelVersion ──► validated ──► handed over
     │            │          │ ▲     │ lost, evicted: the next pod resumes from the checkpoint
     │ wrong:     │ away:    │ └─────┘                    │ missed            │ rejected
     ▼ Failed     ▼ waits    ▼ suspended: no pod          ▼ Failed            ▼ Failed

The functions are in ``training.py``. Times are aware datetimes in UTC.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from tidegate.api.model_version import ModelPhase
from tidegate.api.training_job import RunOutcome, TrainingJobStatus
from tidegate.domain.jobs import JobState, Note, PodState
from tidegate.domain.training_result import TrainerResult

__all__ = [
    "BaseVersion",
    "CreateVersion",
    "DeleteJob",
    "EndRun",
    "HandOver",
    "Intent",
    "Observed",
    "Run",
    "StartJob",
    "SteerJob",
    "Target",
    "TrainingPlan",
    "VersionState",
]


@dataclass(frozen=True, slots=True)
class Run:
    """A run in MLflow; without MLflow, only a place for the files."""

    experiment_id: str
    run_id: str
    artifact_uri: str
    """Root of the run's artifacts."""


@dataclass(frozen=True, slots=True)
class VersionState:
    """A ModelVersion."""

    name: str
    model: str
    version: str
    phase: ModelPhase
    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    maker: str | None = None
    """Identity of the TrainingJob that made it."""


@dataclass(frozen=True, slots=True)
class BaseVersion:
    """The ModelVersion that the training starts from."""

    phase: ModelPhase
    uri: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Target:
    """The Deployment that is to receive the result."""

    name: str
    uid: str
    wanted: str
    """Its spec.modelVersion."""
    stable: str | None
    """The version that serves."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that is known when a decision is made."""

    job: JobState | None = None
    foreign_job: str | None = None
    """A Job of the same name that belongs to somebody else, for example to a deleted TrainingJob of this name."""
    pods: tuple[PodState, ...] = ()
    """Pods of the Job, oldest first."""
    run: Run | None = None
    registry_problem: str | None = None
    """Why MLflow could not be asked."""
    recorded_result: str | None = None
    """The result as the trainer recorded it in MLflow; asked for only when the pod that made it is gone."""
    versions: tuple[VersionState, ...] = ()
    """The ModelVersion that it made and those of its target; all of the namespace while one has to be named."""
    base: BaseVersion | None = None
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class StartJob:
    """Make the ConfigMap and the Job."""

    run: Run
    deadline: int | None
    """Seconds that the training may still take."""
    base: BaseVersion | None = None


@dataclass(frozen=True, slots=True)
class SteerJob:
    """Change what may change in a Job that exists."""

    suspend: bool
    deadline: int | None = None
    ttl: int | None = None
    """Seconds until the Job and its pods are removed; only set once everything is read from them."""


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Stop the Job and its pods: for good, or to start anew on another node."""


@dataclass(frozen=True, slots=True)
class CreateVersion:
    """Make the ModelVersion of a result; somebody else's of the same name is a conflict and leads to the next plan."""

    name: str
    version: str
    result: TrainerResult


@dataclass(frozen=True, slots=True)
class HandOver:
    """Set the Deployment's spec.modelVersion."""

    target: Target
    model_version: str


@dataclass(frozen=True, slots=True)
class EndRun:
    """Close the run in MLflow."""

    run_id: str
    outcome: RunOutcome


Intent = StartJob | SteerJob | DeleteJob | CreateVersion | HandOver | EndRun


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What to do, in this order; the status that holds when all of it worked; when to look again without an event."""

    status: TrainingJobStatus
    intents: tuple[Intent, ...] = ()
    notes: tuple[Note, ...] = ()
    recheck_after: timedelta | None = None
