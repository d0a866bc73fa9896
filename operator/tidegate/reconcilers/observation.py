"""What the objects around a Deployment say, in the words of the release planner; pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate.api.deployment import CommandName, Deployment, DeploymentStatus
from tidegate.api.model_version import ModelVersion
from tidegate.api.route import Mirror as RouteMirror
from tidegate.api.route import Route
from tidegate.domain.conditions import find_condition, is_true
from tidegate.domain.manifests import names
from tidegate.domain.manifests.comparator import Shadowing
from tidegate.domain.manifests.serving import (
    DIGEST_ANNOTATION,
    MODEL_VERSION_ANNOTATION,
    TEMPLATE_ANNOTATION,
    Platform,
    Served,
    template_hash,
)
from tidegate.domain.pods import find_final_failure, find_pod_problem, find_workload_problem
from tidegate.domain.release import (
    Backend,
    CommandRequest,
    Comparator,
    Mirror,
    ModelState,
    Observed,
    ObservedRoute,
    Stickiness,
    VersionID,
    Workload,
)
from tidegate.domain.rollback import healthy_versions
from tidegate.domain.situation import identify
from tidegate.ports import POD, WORKLOAD, Key, Kind, Manifest

__all__ = [
    "Scene",
    "former_versions",
    "known_versions",
    "make_served",
    "make_shadowing",
    "model_state",
    "read_child",
    "read_comparator",
    "read_route",
    "read_workload",
    "version_of",
]


@dataclass(frozen=True, slots=True)
class Scene:
    """One Deployment and everything around it, gathered before anything is decided."""

    key: Key
    deployment: Deployment
    manifest: Manifest
    """The Deployment as it was read; the status is written against it."""
    platform: Platform
    models: Mapping[str, ModelVersion]
    """By name: the ModelVersions that are served, asked for or tested, as far as they exist."""
    observed: Observed

    @property
    def namespace(self) -> str:
        """Namespace of everything here."""
        return self.key.namespace

    def served(self, version: VersionID) -> Served | None:
        """Return what the manifests of a version are built from; None if its ModelVersion is gone or another one."""
        return make_served(self.deployment, self.models, version)


def make_served(deployment: Deployment, models: Mapping[str, ModelVersion], version: VersionID) -> Served | None:
    """Return what the manifests of a version are built from; None if its ModelVersion is gone or another one."""
    model = models.get(version.model_version)
    if model is None or model.spec.artifact.sha256 != version.digest:
        return None
    return Served(
        namespace=deployment.metadata.namespace,
        deployment=deployment.metadata.name,
        deployment_uid=deployment.metadata.uid,
        model_version=version.model_version,
        artifact=model.spec.artifact,
        signature=model.spec.signature,
        serving=deployment.spec.serving,
    )


def make_shadowing(deployment: Deployment, version: VersionID, stable: VersionID) -> Shadowing:
    """Return what the comparator of a version is built from."""
    metadata = deployment.metadata
    shadow = deployment.spec.strategy.shadow
    return Shadowing(metadata.namespace, metadata.name, metadata.uid, version, stable, shadow)


def model_state(models: Mapping[str, ModelVersion], version: VersionID) -> ModelState:
    """Return the state of a version's ModelVersion; one that has another artifact now is missing."""
    model = models.get(version.model_version)
    is_there = model is not None and model.spec.artifact.sha256 == version.digest
    return ModelState.from_phase(model.status.phase if model and is_there else None)


def version_of(child: Mapping[str, Any]) -> VersionID | None:
    """Return which version a workload or a comparator's Service is about, from its annotations."""
    annotations = child["metadata"].get("annotations") or {}
    name, digest = annotations.get(MODEL_VERSION_ANNOTATION), annotations.get(DIGEST_ANNOTATION)
    return VersionID(name, digest) if name and digest else None


def known_versions(status: DeploymentStatus, workloads: Iterable[Mapping[str, Any]]) -> set[VersionID]:
    """Return every version that the status names or that has a workload."""
    active = (status.stable, status.canary, status.experiment, *status.draining)
    named = {VersionID(each.model_version, each.digest) for each in active if each is not None}
    return named | {version for workload in workloads if (version := version_of(workload))}


def former_versions(status: DeploymentStatus, command: CommandRequest | None) -> set[VersionID]:
    """Return the versions that a rollback is about, or, while the command for one is not taken, may be about."""
    found = {identify(status.rollback)} if status.rollback else set()
    last = status.last_command
    is_open = command is not None and (last is None or last.id != command.id)
    if command is not None and is_open and command.command == CommandName.ROLLBACK:
        found.update(healthy_versions(status))
    return found


def read_child(kind: Kind, child: Mapping[str, Any] | None) -> object:
    """Return all that is read here of a child of a Deployment; while it is the same, nothing has to be planned anew.

    Pods and workloads change some nine times on their way to readiness and away, and three of these changes matter.
    """
    if kind == POD:
        pods = [child] if child else []
        return find_pod_problem(pods), find_final_failure(pods)
    if kind == WORKLOAD and child:
        status = child.get("status") or {}
        counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas", "readyReplicas")]
        return _read_marks(child), _is_seen(child), counts, find_workload_problem(child)
    return child


def _read_marks(child: Mapping[str, Any]) -> object:
    """Identity, content by its generation, and the labels and annotations that are not other controllers' notes."""
    metadata = child["metadata"]
    annotations = (metadata.get("annotations") or {}).items()
    ours = {name: value for name, value in annotations if not name.startswith("deployment.kubernetes.io/")}
    return ours, [metadata.get(name) for name in ("uid", "generation", "labels", "deletionTimestamp")]


def _is_seen(workload: Mapping[str, Any]) -> bool:
    """Whether the status is of the newest generation."""
    status = workload.get("status") or {}
    return bool(status.get("observedGeneration", 0) >= workload["metadata"].get("generation", 1))


def read_workload(
    live: Mapping[str, Any],
    version: VersionID,
    served: Served | None,
    platform: Platform,
    pods: Sequence[Mapping[str, Any]],
) -> Workload:
    """Read an apps/v1 Deployment and its pods."""
    spec, status = live.get("spec") or {}, live.get("status") or {}
    replicas = int(spec.get("replicas", 1))
    updated, total = status.get("updatedReplicas", 0), status.get("replicas", 0)
    ready = int(status.get("readyReplicas", 0))
    final = find_final_failure(pods) if ready < replicas else None
    return Workload(
        version=version,
        replicas=replicas,
        ready=ready,
        current=_is_current(live, served, platform),
        rolled_out=_is_seen(live) and updated == replicas and total == updated,
        problem=final.message if final else _find_problem(live, pods) if ready < replicas else None,
        fatal_at=final.at if final else None,
    )


def _find_problem(live: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> str | None:
    return find_workload_problem(live) or find_pod_problem(pods)


def read_route(manifest: Manifest | None, deployment: str, known: Iterable[VersionID]) -> ObservedRoute:
    """Read the Route: what it asks for, and what the proxies have confirmed."""
    if manifest is None:
        return ObservedRoute()
    route = Route.model_validate(manifest)
    by_workload = {names.serving(deployment, each.model_version, each.digest): each for each in known}
    backends = tuple(
        Backend(
            version=by_workload.get(each.workload, VersionID(each.model_version, "")),
            percent=each.percent,
            role=each.role,
            variant=each.variant,
        )
        for each in route.spec.backends
    )
    mirror = route.spec.mirror
    return ObservedRoute(
        exists=True,
        backends=backends,
        sticky=Stickiness(route.spec.sticky.header, route.spec.sticky.salt) if route.spec.sticky else None,
        mirror=Mirror(_find_mirrored(mirror, deployment, by_workload.values()), mirror.percent) if mirror else None,
        confirmed=_is_route_seen(route) and is_true(route.status.conditions, "Ready"),
        live=_read_live(route, backends, set(by_workload.values())),
        missing=route.status.proxies.missing,
        message=_read_message(route),
    )


def _read_message(route: Route) -> str:
    """Return what the router says of the Route as it is now; what it said of the one before would mislead."""
    if not route.status.observed_generation:
        return "the router has not seen the Route yet; is it running?"
    ready = find_condition(route.status.conditions, "Ready")
    return ready.message if ready and _is_route_seen(route) else ""


def _is_route_seen(route: Route) -> bool:
    return route.status.observed_generation == route.metadata.generation


def _find_mirrored(mirror: RouteMirror, deployment: str, known: Iterable[VersionID]) -> VersionID:
    by_workload = {names.comparator(deployment, each.model_version, each.digest): each for each in known}
    return by_workload.get(mirror.workload, VersionID(mirror.model_version, ""))


def read_comparator(
    live: Mapping[str, Any] | None, wanted: Manifest | None, pods: Sequence[Mapping[str, Any]]
) -> Comparator:
    """Read the apps/v1 Deployment of a comparator.

    Args:
        live: The workload; None if there are only Services.
        wanted: What the builder makes now; None if nobody needs it, or a Service is missing.
        pods: Its pods.
    """
    if live is None:
        return Comparator(ready=False, current=False)
    status = live.get("status") or {}
    ready = _is_seen(live) and status.get("readyReplicas", 0) >= 1 and status.get("updatedReplicas", 0) >= 1
    return Comparator(
        ready=ready,
        current=wanted is not None and _template(live) == _template(wanted),
        problem=None if ready else _find_problem(live, pods),
    )


def _template(workload: Mapping[str, Any]) -> str | None:
    return (workload["metadata"].get("annotations") or {}).get(TEMPLATE_ANNOTATION)


def _read_live(route: Route, backends: Iterable[Backend], known: set[VersionID]) -> dict[VersionID, float]:
    """Resolve the names in the confirmed shares; two versions of one name both get its share, so none is removed."""
    candidates = known | {each.version for each in backends}
    live: dict[VersionID, float] = {}
    for weight in route.status.weights:
        found = [each for each in candidates if each.model_version == weight.model_version]
        for version in found or [VersionID(weight.model_version, "")]:
            live[version] = weight.percent
    return live


def _is_current(live: Mapping[str, Any], served: Served | None, platform: Platform) -> bool:
    """Whether the live workload is what the builder makes now; one whose ModelVersion is gone cannot be rebuilt."""
    if served is None:
        return True
    return _template(live) == template_hash(served, platform)
