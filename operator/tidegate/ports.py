"""What the reconcilers need from the outside world, in their own words; the adapters and the tests' fakes fulfil it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from tidegate.domain.release import GateAnswer, GateQuestion, GateRole, Measurement, Period, Query
from tidegate.domain.training_plan import Run

__all__ = [
    "ABTEST",
    "CONFIG_MAP",
    "DEPLOYMENT",
    "JOB",
    "KINDS",
    "MODEL_VERSION",
    "OWN_KINDS",
    "POD",
    "ROUTE",
    "SECRET",
    "SERVICE",
    "TRAINING_JOB",
    "WATCHED_KINDS",
    "WORKLOAD",
    "Clock",
    "Creation",
    "Events",
    "Gates",
    "Key",
    "Kind",
    "Manifest",
    "MetricSource",
    "Objects",
    "PodIdentity",
    "Reconciler",
    "Registry",
    "Requeue",
    "Telemetry",
    "TokenReviews",
    "Unanswered",
    "is_child",
    "kind_of",
]

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object that the operator reads or writes."""

    api_version: str
    name: str
    plural: str

    @property
    def group(self) -> str:
        """The API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The version within the group."""
        return self.api_version.rpartition("/")[2]


TRAINING_JOB = Kind("tidegate.dev/v1alpha1", "TrainingJob", "trainingjobs")
MODEL_VERSION = Kind("tidegate.dev/v1alpha1", "ModelVersion", "modelversions")
DEPLOYMENT = Kind("tidegate.dev/v1alpha1", "Deployment", "deployments")
ABTEST = Kind("tidegate.dev/v1alpha1", "ABTest", "abtests")
ROUTE = Kind("tidegate.dev/v1alpha1", "Route", "routes")
WORKLOAD = Kind("apps/v1", "Deployment", "deployments")
JOB = Kind("batch/v1", "Job", "jobs")
POD = Kind("v1", "Pod", "pods")
SERVICE = Kind("v1", "Service", "services")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
SECRET = Kind("v1", "Secret", "secrets")

OWN_KINDS = (DEPLOYMENT, TRAINING_JOB, MODEL_VERSION, ABTEST, ROUTE)
"""In the order in which a starting operator looks at them: what decides about traffic waits for nothing."""
WATCHED_KINDS = (*OWN_KINDS, WORKLOAD, JOB, POD, SERVICE)
KINDS = (*WATCHED_KINDS, CONFIG_MAP)
_BY_NAME = {(kind.api_version, kind.name): kind for kind in KINDS}


def is_child(kind: Kind) -> bool:
    """Whether objects of this kind are of interest only when the operator made them."""
    return kind not in OWN_KINDS


def kind_of(manifest: Mapping[str, Any]) -> Kind:
    """Return the kind that a manifest says it is."""
    return _BY_NAME[manifest["apiVersion"], manifest["kind"]]


@dataclass(frozen=True, slots=True)
class Key:
    """Identity of one object; what the work queue holds."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.name}/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Requeue:
    """Look at the object again after this time, even if no event arrives."""

    after: timedelta


class Reconciler(Protocol):
    """Brings one object of one kind nearer to what its spec asks for."""

    async def reconcile(self, key: Key) -> Requeue | None:
        """Observe, plan, act, record; nothing to do again without an event when it returns None."""
        ...


class Objects(Protocol):
    """The Kubernetes objects. Reads come from a cache that already shows the operator's own writes."""

    def get(self, key: Key) -> Manifest | None:
        """Return a watched object, or None; the caller must not change it."""
        ...

    def list(self, kind: Kind, namespace: str, labels: Mapping[str, str] | None = None) -> Sequence[Manifest]:
        """Return the watched objects of one namespace that carry all these labels, ordered by name.

        What an object refers to by name counts as a label: see `referring_to`. A reconcile that names neither a
        reference nor the owner of what it looks for costs as much as the namespace holds objects.
        """
        ...

    async def apply(
        self,
        manifest: Manifest,
        *,
        field_manager: str = "tidegate",
        decided_on: Manifest | None = None,
        resting_on: Sequence[Manifest] = (),
    ) -> Manifest:
        """Apply server-side, forced; no request is made when the object already is like this.

        Args:
            manifest: The fields that are wanted.
            field_manager: Whose they are.
            decided_on: As for `delete`.
            resting_on: Objects that have to be there; one that this process knows from a list alone is read once.

        Raises:
            Conflict: The object that this was decided on has changed since it was read, or what it rests on is gone.
        """
        ...

    async def delete(self, key: Key, *, decided_on: Manifest | None = None) -> None:
        """Delete in the background; an absent object is fine.

        Args:
            key: What to delete.
            decided_on: The object whose state led to this, where nothing of it was written meanwhile.

        Raises:
            Conflict: That object has changed since it was read.
        """
        ...

    async def patch_status(self, observed: Manifest, status: Mapping[str, Any]) -> Manifest:
        """Make `status` the status of the object that was observed; no request is made when nothing differs.

        Raises:
            Conflict: The object changed since it was observed.
        """
        ...


class Unanswered(Protocol):
    """Writes that got no answer: nobody knows whether they were carried out."""

    async def read_again(self) -> None:
        """Read the objects of such writes into the cache; no request is made when there are none.

        Raises:
            Unavailable: The API server does not tell.
        """
        ...


class MetricSource(Protocol):
    """Where the numbers come from that decide about releases and tests."""

    async def measure(
        self, namespace: str, deployment: str, queries: Sequence[Query], patience: timedelta
    ) -> Mapping[str, Measurement]:
        """Answer all queries at once, by the name of the metric; never raises: a dead source is an answer, too."""
        ...

    async def measure_failures(
        self, namespace: str, deployment: str, period: Period, patience: timedelta
    ) -> Measurement:
        """Return the share of all requests that failed, of all versions, and how many there were; never raises."""
        ...


class Gates(Protocol):
    """Addresses of the users that have a say in a release."""

    async def ask(
        self, namespace: str, questions: Sequence[GateQuestion], patience: timedelta
    ) -> Mapping[GateRole, GateAnswer]:
        """Ask all at once; never raises: a gate that cannot be asked is an answer, too."""
        ...


class Events(Protocol):
    """What people read in `kubectl describe` and in the log."""

    def emit(self, about: Manifest, reason: str, message: str, *, warning: bool = False) -> None:
        """Write an event and a log line; returns at once, repeats are folded into one event."""
        ...


class Telemetry(Protocol):
    """Prometheus series about what the operator decides."""

    def count_decision(self, kind: str, action: str, reason: str) -> None:
        """Count one decision."""
        ...

    def show_weights(self, namespace: str, deployment: str, weights: Mapping[tuple[str, str], float]) -> None:
        """Show the confirmed shares in percent, by version and role."""
        ...

    def show_analysis(
        self,
        namespace: str,
        deployment: str,
        values: Mapping[str, float],
        verdicts: Mapping[tuple[str, str], float],
    ) -> None:
        """Show the last values by metric, and 1 for the verdict of each (metric, verdict)."""
        ...

    def forget(self, namespace: str, deployment: str) -> None:
        """Remove the series of a Deployment that is gone."""
        ...


class Clock(Protocol):
    """The time."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        ...


# ---- Ports of TrainingJob and ModelVersion ---------------------------------------------------------------------------


class Creation(Protocol):
    """What server-side apply cannot say: make an object only if there is none."""

    async def create(self, manifest: Manifest) -> Manifest:
        """Create an object.

        Raises:
            Conflict: There already is an object of this name.
        """
        ...


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """The pod that a service account token is bound to."""

    namespace: str
    name: str
    uid: str


class TokenReviews(Protocol):
    """Who holds a token."""

    async def review(self, token: str, audience: str) -> PodIdentity | None:
        """Return the pod that the token is bound to; None for a token that is not valid for this audience.

        Raises:
            Unavailable: The API server did not say.
        """
        ...


class Registry(Protocol):
    """MLflow: runs of trainings and registered models. Every call may be repeated; all raise Unavailable."""

    async def ensure_run(self, experiment: str, uid: str, tags: Mapping[str, str]) -> Run:
        """Return the run of the object with this uid; make it, and its experiment, if there is none."""
        ...

    async def recorded_result(self, run_id: str) -> str | None:
        """Return the result that the trainer recorded on the run, as JSON."""
        ...

    async def end_run(self, run_id: str, outcome: str) -> None:
        """Mark the run as FINISHED, FAILED or KILLED; a run that is gone is fine."""
        ...

    async def ensure_version(
        self, model: str, uid: str, source: str, run_id: str | None, tags: Mapping[str, str]
    ) -> str:
        """Return the number of the registered version of the object with this uid; make it if there is none."""
        ...

    async def set_stage(
        self, model: str, version: str, stage: str, aliases: Sequence[str], managed: Sequence[str]
    ) -> None:
        """Tag the version with its stage; let `aliases` point at it, and none of the other `managed` ones.

        A champion that is replaced stays reachable under the alias `previous`.
        """
        ...
