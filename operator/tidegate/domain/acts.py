"""What has to be done in the cluster for a status to come true: derived, so doing it twice changes nothing."""

from collections.abc import Iterator
from datetime import datetime

from tidegate.api.deployment import Draining
from tidegate.api.model_version import Role
from tidegate.domain.reasons import Action, Reason
from tidegate.domain.release import (
    ApplyComparator,
    ApplyWorkload,
    Backend,
    DeleteComparator,
    DeleteWorkload,
    Experiment,
    Mirror,
    SetRoute,
    Stickiness,
    VersionID,
)
from tidegate.domain.situation import MAX_DRAINING, Situation, identify
from tidegate.domain.steps import pods_for

__all__ = ["collect_strays", "forget_gone", "keep_variant", "mark_free", "plan_applies", "plan_deletes", "plan_route"]


def plan_applies(s: Situation) -> tuple[ApplyWorkload | ApplyComparator, ...]:
    """Return the workloads to create or change. One on its way out is never touched: it may still have traffic."""
    wanted = dict(_wanted_pods(s)).items()
    pods = (ApplyWorkload(version, pods) for version, pods in wanted if not _is_as_wanted(s, version, pods))
    return (*pods, *_missing_comparator(s))


def _missing_comparator(s: Situation) -> Iterator[ApplyComparator]:
    mirror, stable = s.mirror, s.stable_id
    if mirror is None or stable is None:
        return
    found = s.observed.comparators.get(mirror.version)
    if found is None or not found.current:
        yield ApplyComparator(mirror.version, stable)


def _wanted_pods(s: Situation) -> Iterator[tuple[VersionID, int]]:
    if s.stable_id:
        yield s.stable_id, s.replicas
    if s.status.canary and s.status.canary.retreat is None:
        yield identify(s.status.canary), s.canary_pods
    if s.experiment:
        yield s.experiment.version, _variant_pods(s, s.experiment)


def _variant_pods(s: Situation, experiment: Experiment) -> int:
    return pods_for(experiment.percent, s.replicas)


def _is_as_wanted(s: Situation, version: VersionID, replicas: int) -> bool:
    workload = s.observed.workloads.get(version)
    return workload is not None and workload.current and workload.replicas == replicas


def plan_route(s: Situation) -> SetRoute | None:
    """Return the shares to write, or None while they are right or cannot be reached with the pods that are ready."""
    backends = _wanted_backends(s)
    wanted = SetRoute(backends, _wanted_sticky(s), _wanted_mirror(s))
    if not backends or _is_route_as_wanted(s, wanted):
        return None
    if any(s.observed.ready(each.version) == 0 and each.percent > s.share(each.version) for each in backends):
        return None
    return wanted


def _is_route_as_wanted(s: Situation, wanted: SetRoute) -> bool:
    route = s.observed.route
    others = (route.sticky, route.mirror) == (wanted.sticky, wanted.mirror)
    return route.exists and others and set(route.backends) == set(wanted.backends)


def _wanted_mirror(s: Situation) -> Mirror | None:
    """Return the copies to make.

    They begin when both who compares and who is asked are ready, and no user gets to who is asked; later gaps are seen.
    """
    mirror = s.mirror
    if mirror is None or s.observed.route.mirror == mirror:
        return mirror
    comparator = s.observed.comparators.get(mirror.version)
    is_ready = comparator is not None and comparator.ready and comparator.current and s.has_canary_capacity
    return mirror if is_ready and s.canary.target_percent == 0 else None


def _wanted_backends(s: Situation) -> tuple[Backend, ...]:
    if s.status.canary is not None:
        return _split(identify(s.status.canary), s.status.canary.target_percent, Role.CANARY, s.stable_id)
    if s.stable_id is None:
        return ()
    if s.experiment and _variant_can_serve(s, s.experiment):
        return _arms(s.experiment, s.stable_id)
    return (Backend(s.stable_id, 100.0, Role.STABLE),)


def _split(version: VersionID, percent: float, role: Role, stable: VersionID | None) -> tuple[Backend, ...]:
    """Share between two; a version without a share is left out, and who has all is called Stable."""
    if percent == 100:
        return (Backend(version, 100.0, Role.STABLE),)
    if stable is None:
        return ()
    if percent == 0:
        return (Backend(stable, 100.0, Role.STABLE),)
    return (Backend(version, percent, role), Backend(stable, round(100 - percent, 6), Role.STABLE))


def _arms(experiment: Experiment, stable: VersionID) -> tuple[Backend, ...]:
    rest = round(100 - experiment.percent, 6)
    return (
        Backend(experiment.version, experiment.percent, Role.VARIANT, experiment.variant),
        Backend(stable, rest, Role.STABLE, experiment.control),
    )


def _variant_can_serve(s: Situation, experiment: Experiment) -> bool:
    """Tell whether the arm gets its share: at first with all its pods, later while any is ready."""
    ready = s.observed.ready(experiment.version)
    return ready > 0 and (ready >= _variant_pods(s, experiment) or s.share(experiment.version) > 0)


def _wanted_sticky(s: Situation) -> Stickiness | None:
    if s.experiment and _variant_can_serve(s, s.experiment):
        return s.experiment.sticky
    return Stickiness(s.spec.traffic.sticky.header) if s.spec.traffic.sticky else None


def plan_deletes(s: Situation) -> tuple[DeleteWorkload | DeleteComparator, ...]:
    """Return the workloads whose drain delay is over, and unused comparators; asked again until they are gone."""
    return (*_drained(s), *_unused_comparators(s))


def _unused_comparators(s: Situation) -> Iterator[DeleteComparator]:
    needed = s.mirror.version if s.mirror else None
    for version in sorted(s.observed.comparators):
        if version != needed and s.observed.route.confirmed and not s.is_mirrored(version):
            yield DeleteComparator(version)


def _drained(s: Situation) -> tuple[DeleteWorkload, ...]:
    return tuple(
        DeleteWorkload(identify(each))
        for each in s.status.draining
        if each.since is not None
        and s.now >= each.since + s.spec.rollback.drain_delay
        and identify(each) in s.observed.workloads
    )


def keep_variant(s: Situation) -> Situation:
    """Keep the pods of a version that a test has begun to use."""
    experiment = s.experiment
    if experiment is None or experiment.version not in map(identify, s.status.draining):
        return s
    return s.keep(experiment.version)


def forget_gone(s: Situation) -> Situation:
    """Forget versions whose pods are gone."""
    left = tuple(each for each in s.status.draining if identify(each) in s.observed.workloads)
    return s if left == s.status.draining else s.update(draining=left)


def collect_strays(s: Situation) -> Situation:
    """Drain workloads that nobody uses: an ended test's, or what a lost status left behind."""
    known = set(s.known_versions())
    for version in sorted(set(s.observed.workloads) - known):
        if len(s.status.draining) < MAX_DRAINING:
            message = "its pods are not used by anything; they go once no proxy sends them traffic"
            s = s.drain(version, None).decide(Action.DRAIN, Reason.NOT_KNOWN, message, version=version)
    return s


def mark_free(s: Situation) -> Situation:
    """Let the drain delay begin once it is certain that a version gets no traffic, and stop it if it does again."""
    wanted = {each.version for each in _wanted_backends(s)}
    marked = tuple(each.model_copy(update={"since": _free_since(s, each, wanted)}) for each in s.status.draining)
    return s if marked == s.status.draining else s.update(draining=marked)


def _free_since(s: Situation, each: Draining, wanted: set[VersionID]) -> datetime | None:
    """Return since when a version is free; what was confirmed once holds until the Route names the version again."""
    version = identify(each)
    if version in wanted or s.share(version) > 0 or s.live_share(version) > 0:
        return None
    if each.since is not None:
        return each.since
    return s.now if s.is_free(version) else None
