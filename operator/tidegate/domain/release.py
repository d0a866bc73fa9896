"""What one decision about a release is made from, and what it results in: plain data, no behaviour.

A reconciler does four things with it::

    observed = await self._observe(deployment)                       # everything, gathered before anything is decided
    queries  = measurements_due(spec, status, observed, now)         # pure: which metrics are due now
    asked    = questions_due(spec, status, observed, now)            # pure: which gates are to be asked now
    observed = replace(observed, measurements=await fetch(queries), answers=await ask(asked))
    plan     = plan_rollout(spec, status, observed, now)             # pure: what to do and to write

The functions are in ``rollout.py``. Times are aware datetimes in UTC, shares are percentages from 0 to 100.

Where a version can be, seen from its pods and its share::

    asked for ──► canary: pods ──► share of step 0 ─ confirmed ─ held ─► … ──► 100 ─ bake ─► stable
                    │                     │                                                   │
                    └──── retreat ◄───────┘  (analysis, abort, superseded, never ready)       │ a newer one promoted
                             │                                                                │
                             └── stable has its pods ► share 0 ─ confirmed ──► draining ◄─────┘ ──► gone
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from tidegate.api.deployment import Decision, DeploymentStatus, MetricSpec
from tidegate.api.model_version import ModelPhase, Role
from tidegate.domain.admission import Releases
from tidegate.domain.statistics import Proportion

__all__ = [
    "ApplyComparator",
    "ApplyWorkload",
    "Backend",
    "CommandRequest",
    "Comparator",
    "Counted",
    "DeleteComparator",
    "DeleteWorkload",
    "Experiment",
    "GateAnswer",
    "GateQuestion",
    "GateRole",
    "Measurement",
    "Mirror",
    "ModelState",
    "Observed",
    "ObservedRoute",
    "Period",
    "Plan",
    "Query",
    "SetRoute",
    "Stickiness",
    "VersionID",
    "Workload",
]


@dataclass(frozen=True, slots=True, order=True)
class VersionID:
    """One artifact under one name: the same ModelVersion with another digest is another version.

    ``names.serving(deployment, model_version, digest)`` names its workload, so a workload's name found in a Route
    leads back to exactly one of these.
    """

    model_version: str
    digest: str

    def __str__(self) -> str:
        return self.model_version


class ModelState(StrEnum):
    """Whether the ModelVersion that the spec names may be served."""

    MISSING = "Missing"
    PENDING = "Pending"
    VALIDATING = "Validating"
    READY = "Ready"
    REJECTED = "Rejected"

    @classmethod
    def from_phase(cls, phase: ModelPhase | None) -> "ModelState":
        """Translate the phase of a ModelVersion; None stands for one that does not exist."""
        return cls.MISSING if phase is None else cls(phase.value)


@dataclass(frozen=True, slots=True)
class Workload:
    """The pods of one version, as their apps/v1 Deployment tells (ready pods have proved digest and index READY)."""

    version: VersionID
    replicas: int
    """Pods asked for: ``spec.replicas``."""
    ready: int
    """Pods that are ready: ``status.readyReplicas``, also right after a change of its spec: a pod that is ready is
    ready, and every pod of this workload has this digest."""
    current: bool = True
    """Its manifest is what the builder makes of the spec now, replicas aside; False asks for another apply."""
    rolled_out: bool = True
    """Every pod is of the current template: ``observedGeneration`` is current and ``updatedReplicas == replicas``
    and ``status.replicas == updatedReplicas``."""
    problem: str | None = None
    """Why pods are not ready, with the remedy, for example an image that cannot be pulled; None: nothing is known."""
    fatal_at: datetime | None = None
    """When a pod said last that waiting cannot help, for example a wrong checksum; ``problem`` then has its words."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One version and its share in a Route."""

    version: VersionID
    percent: float
    role: Role
    variant: str | None = None
    """Name of the arm in a running test."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """A version that gets copies of the users' requests, by way of its comparator."""

    version: VersionID
    percent: float


@dataclass(frozen=True, slots=True)
class Comparator:
    """The pod that asks the stable version and the shadowed one the same questions and compares the answers."""

    ready: bool
    current: bool = True
    """It is what the builder makes now, so it asks the versions of this release and compares as the spec says."""
    problem: str | None = None
    """Why it is not ready, where something is known."""


@dataclass(frozen=True, slots=True)
class Stickiness:
    """What keeps a user on one version."""

    header: str
    """Request header that names the user."""
    salt: str | None = None
    """Hashed together with the user: another salt draws other users into the same share."""


@dataclass(frozen=True, slots=True)
class ObservedRoute:
    """The Route of the Deployment; the default stands for a Route that does not exist."""

    exists: bool = False
    backends: tuple[Backend, ...] = ()
    """``spec.backends``, workloads resolved to versions (an unknown workload: its modelVersion, empty digest)."""
    sticky: Stickiness | None = None
    """``spec.sticky``."""
    mirror: Mirror | None = None
    """``spec.mirror``."""
    confirmed: bool = False
    """``status.observedGeneration == metadata.generation`` and condition Ready is True."""
    live: Mapping[VersionID, float] = field(default_factory=dict)
    """``status.weights``: the shares that every proxy has confirmed last, whatever the spec says now."""
    missing: tuple[str, ...] = ()
    """Proxies that have not acknowledged: ``status.proxies.missing``."""
    message: str = ""
    """Message of the Route's Ready condition, in the router's words."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Raw counts of both versions from the start to the end of one query: bad ones of all."""

    canary: Proportion
    stable: Proportion
    bound: float | None = None
    """Milliseconds beyond which an answer is slow: the query's, or stable's own quantile if it has none."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the metric source answered for one metric. A dead source and an empty answer are two different things.

    Latencies are in milliseconds, rates and accuracies are shares from 0 to 1, requestRate is in requests per second.
    """

    value: float | None = None
    """Value of the canary; None, NaN or infinite: no data."""
    stable_value: float | None = None
    """Value of the stable version over the same time, where it was asked for."""
    samples: int | None = None
    """Requests or outcomes behind the value; None where the source cannot tell (custom queries)."""
    counted: Counted | None = None
    """Counts of both versions, for a compare metric; None: nobody counts one of the two."""
    interval: tuple[float, float] | None = None
    """Where the true value lies, for a share of disagreeing answers."""
    error: str | None = None
    """The source could not be asked or refused to answer; never a verdict on the canary."""


@dataclass(frozen=True, slots=True)
class Period:
    """The time over which the requests of one endpoint are counted."""

    start: datetime
    end: datetime
    is_whole: bool = False
    """Whether the endpoint is no older: then everything that was ever counted of it was counted in this time."""

    @classmethod
    def cut(cls, start: datetime, end: datetime, created: datetime | None) -> "Period":
        """Let the time begin no earlier than the endpoint."""
        return cls(start, end) if created is None or created < start else cls(min(created, end), end, is_whole=True)


@dataclass(frozen=True, slots=True)
class Query:
    """One metric that is due, to be fetched before the plan is made."""

    metric: MetricSpec
    version: VersionID
    """The version that is being released."""
    stable: VersionID | None
    """The version to compare with: set only where the metric compares."""
    start: datetime
    """Look back to here: the window, but never to before the canary's first traffic; for a compare metric, to where the
    last look ended, so that everything is counted once."""
    end: datetime
    bound: float | None = None
    """Milliseconds beyond which an answer is slow, once it is set."""
    mirrored: bool = False
    """Asked of the comparator's counts of copied requests, not of the proxies' counts of the users' requests."""


class GateRole(StrEnum):
    """What a gate is asked for; each is asked by one reconcile at most once."""

    STEP = "Gate"
    """Whether the step in progress may end."""
    ROLLBACK = "RollbackGate"
    """Whether the release has to be taken back."""


@dataclass(frozen=True, slots=True)
class GateQuestion:
    """One gate that is due to be asked before the plan is made."""

    role: GateRole
    url: str
    timeout: timedelta
    document: Mapping[str, str | float | None]
    """What the gate is told of the release, as JSON."""
    secret: str | None = None
    """The Secret that lets us in there."""


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """What a gate answered; one that could not be asked is neither a yes nor a no."""

    code: int | None
    """HTTP status; None: no answer."""
    message: str = ""
    """How the answer begins, or why there is none; at most 200 printable characters."""
    is_misconfigured: bool = False
    """It was not asked, as its Secret cannot be used: a person has to mend that."""


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """The command annotation, parsed by ``commands.parse_command``."""

    id: str
    command: str
    """One of ``CommandName``, or whatever else somebody wrote: refused with a reason."""
    to: str = ""
    """For Rollback: the ModelVersion to go back to; empty: the newest one."""
    by: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Experiment:
    """The split that a running ABTest (phase Running) asks this Deployment for."""

    test: str
    """Name of the ABTest."""
    variant: str
    """Name of the treatment arm."""
    version: VersionID
    percent: float
    """Share of the treatment arm; the control, which is the stable version, gets the rest."""
    sticky: Stickiness
    """How users are drawn into the arms."""
    control: str = "control"
    """Name of the control arm."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything one decision is made from, gathered before anything is decided."""

    name: str
    """Name of the Deployment, for messages."""
    generation: int
    """``metadata.generation``."""
    state: ModelState
    """State of the ModelVersion that ``spec.modelVersion`` names."""
    digest: str | None = None
    """``spec.artifact.sha256`` of that ModelVersion; None if it is missing."""
    state_message: str = ""
    """``status.message`` of that ModelVersion: why it is rejected or what it waits for."""
    workloads: Mapping[VersionID, Workload] = field(default_factory=dict)
    """Every workload that carries this Deployment's label, those that nobody remembers included."""
    route: ObservedRoute = ObservedRoute()
    comparators: Mapping[VersionID, Comparator] = field(default_factory=dict)
    """By shadowed version: every comparator of this Deployment."""
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    """By metric name: the answers to ``measurements_due``."""
    answers: Mapping[GateRole, GateAnswer] = field(default_factory=dict)
    """The answers to ``questions_due``."""
    budget: Measurement | None = None
    """The share of all requests that failed, and how many there were: the answer to ``budget_due``."""
    releases: Releases | None = None
    """The releases of the other Deployments; None where no limit is set."""
    command: CommandRequest | None = None
    former: Mapping[VersionID, ModelState] = field(default_factory=dict)
    """The ModelVersions of the versions that a rollback is or may be about."""
    experiment: Experiment | None = None
    endpoint: str | None = None
    """Address that clients use, copied into the status."""

    def ready(self, version: VersionID) -> int:
        """Return the number of ready pods of a version, 0 if it has no workload."""
        workload = self.workloads.get(version)
        return workload.ready if workload else 0

    def former_state(self, version: VersionID) -> ModelState:
        """Return the state of a former version's ModelVersion; one with another artifact now is missing, too."""
        return self.former.get(version, ModelState.MISSING)

    def problem(self, version: VersionID) -> str | None:
        """Return why pods of a version are not ready, where something is known."""
        workload = self.workloads.get(version)
        return workload.problem if workload else None


@dataclass(frozen=True, slots=True)
class ApplyWorkload:
    """Create the pods of a version or bring them to this number and to the present template."""

    version: VersionID
    replicas: int


@dataclass(frozen=True, slots=True)
class DeleteWorkload:
    """Remove the pods of a version; its weight is confirmed 0 and its drain delay is over."""

    version: VersionID


@dataclass(frozen=True, slots=True)
class ApplyComparator:
    """Create the comparator of a version that is shadowed, or bring it to the present template."""

    version: VersionID
    stable: VersionID


@dataclass(frozen=True, slots=True)
class DeleteComparator:
    """Remove the comparator of a version that is not shadowed any more; no proxy copies requests to it."""

    version: VersionID


@dataclass(frozen=True, slots=True)
class SetRoute:
    """Write these shares; they sum to 100, and only versions with ready pods gain any."""

    backends: tuple[Backend, ...]
    sticky: Stickiness | None = None
    mirror: Mirror | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: ``apply``, ``route``, ``delete``, in this order, and ``status`` to write, once.

    The status is written after the acts, before them if ``record_first`` says so. Every act is level-triggered: it
    follows from the status and the objects, so a crash at any moment is mended by planning again.
    """

    status: DeploymentStatus
    """The whole new status. Write it if it differs from the present one."""
    apply: tuple[ApplyWorkload | ApplyComparator, ...] = ()
    route: SetRoute | None = None
    delete: tuple[DeleteWorkload | DeleteComparator, ...] = ()
    decisions: tuple[Decision, ...] = ()
    """Decisions of this pass, oldest first (also in ``status.decisions``): one event, log line and count each."""
    recheck_after: timedelta | None = None
    """Plan again after this long at the latest; None: only when something changes."""

    @property
    def record_first(self) -> bool:
        """Tell whether to write ``status`` before acting.

        What was decided is written down before it is carried out: it may rest on measurements that cannot be had a
        second time, and a decision that is forgotten half-way would be taken back and made again.
        """
        return bool(self.decisions)

    @property
    def idle(self) -> bool:
        """Tell whether there is nothing to do but (perhaps) to write the status."""
        return not (self.apply or self.route or self.delete)
