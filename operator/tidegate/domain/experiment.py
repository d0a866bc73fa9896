"""The planner of A/B tests: first form, with a fixed horizon. Pure.

=========  ==================================================  ====================================================
phase      what it means                                       leaves it by
=========  ==================================================  ====================================================
Pending    not begun: refused with a reason, or waiting        admitted: the Deployment is settled, both versions are
                                                               there and differ, no other test is on the endpoint
Running    admitted; the Deployment splits its traffic. The    every arm has its samples: the one look; maxDuration;
           test's time begins when every proxy confirmed it    spec.stop; a false sample ratio; another control
Concluded  the look was taken, or the time is over             never
Stopped    a person said stop                                  never
Invalid    its data cannot be trusted                          never
=========  ==================================================  ====================================================

A fixed horizon means one look: before every arm has its samples there are estimates, but no verdict. The unit of
analysis is the request in this form; the assumption that requests are independent holds when no user makes many.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tidegate.api.ab_test import (
    ABTest,
    ABTestPhase,
    ABTestSpec,
    ABTestStatus,
    Recommendation,
    RecommendationAction,
)
from tidegate.api.base import format_duration
from tidegate.api.deployment import MetricSpec
from tidegate.domain.conditions import Health, is_true, set_health
from tidegate.domain.estimates import REQUESTS, Arms, estimate_arms, fewest_samples, has_samples, judge
from tidegate.domain.release import Experiment, ModelState, Query, Stickiness, VersionID

__all__ = ["Endpoint", "ExperimentPlan", "ObservedTest", "find_experiment", "find_rivals", "looks_due", "plan_ab_test"]

SHORTEST_LOOK, LONGEST_LOOK = timedelta(seconds=2), timedelta(minutes=1)
RETRY = timedelta(seconds=30)
MISMATCH = 0.001
"""A sample ratio less likely than this makes the test Invalid when the verdict is due."""
EARLY_MISMATCH = 1e-6
"""The same at every look before: so small that looking again and again does not matter."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the Deployment under test says of itself."""

    stable: VersionID | None
    is_settled: bool
    """No release is under way: ``status.canary`` is empty."""
    test: str | None = None
    """The test that it carries: ``status.experiment.test``."""
    percent: float = 0
    """The confirmed share of that test's arm: ``status.experiment.percent``."""


@dataclass(frozen=True, slots=True)
class ObservedTest:
    """Everything one decision about a test is made from."""

    name: str
    generation: int
    endpoint: Endpoint | None
    """None: there is no such Deployment."""
    state: ModelState
    """State of the ModelVersion of the second arm."""
    digest: str | None
    """Its digest."""
    rivals: tuple[str, ...] = ()
    """Tests of the same Deployment that come first; see ``find_rivals``."""
    measured: Arms = field(default_factory=dict)
    """Answers to ``looks_due``, by arm."""


@dataclass(frozen=True, slots=True)
class ExperimentPlan:
    """The new status, and when to look again. A test acts on nothing: the Deployment carries its split."""

    status: ABTestStatus
    event: tuple[str, str] | None = None
    """Reason and message of what changed, to be told once."""
    recheck_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a test stands after this pass, in words."""

    status: ABTestStatus
    health: Health
    reason: str
    message: str


def find_experiment(
    deployment: str, tests: Iterable[ABTest], digest_of: Callable[[str], str | None]
) -> Experiment | None:
    """Return the split that a running test asks this Deployment for; the oldest, if there should be two.

    Args:
        deployment: Name of the Deployment.
        tests: All tests of its namespace.
        digest_of: Gives the digest of a ModelVersion, None if it is missing.
    """
    running = [
        each
        for each in tests
        if each.spec.deployment == deployment and each.status.phase is ABTestPhase.RUNNING and not each.spec.stop
    ]
    for test in sorted(running, key=_age):
        arm = test.spec.variants[1]
        digest = digest_of(arm.model_version or "")
        if test.metadata.deletion_timestamp is None and arm.model_version and digest:
            version = VersionID(arm.model_version, digest)
            sticky = _find_sticky(test)
            return Experiment(test.metadata.name, arm.name, version, arm.weight, sticky, test.spec.variants[0].name)
    return None


def find_rivals(test: ABTest, tests: Iterable[ABTest]) -> tuple[str, ...]:
    """Return the tests on the same Deployment that come before this one: running, or older and not refused."""
    others = [each for each in tests if each.spec.deployment == test.spec.deployment and not _is_same(each, test)]
    first = [each for each in others if _is_first(each, test)]
    return tuple(sorted(each.metadata.name for each in first))


def looks_due(
    spec: ABTestSpec, status: ABTestStatus, observed: ObservedTest, now: datetime
) -> Mapping[str, tuple[Query, ...]]:
    """Return what to measure now, by arm: every metric, and the requests, since the test began; mostly empty."""
    stable = observed.endpoint.stable if observed.endpoint else None
    if status.phase is not ABTestPhase.RUNNING or status.started_at is None or stable is None:
        return {}
    if now < _next_look(spec, status, status.started_at) or observed.digest is None:
        return {}
    treatment = VersionID(spec.variants[1].model_version or "", observed.digest)
    metrics = {metric.name: MetricSpec(name=metric.name, source=metric.source) for metric in spec.metrics}
    metrics[REQUESTS] = MetricSpec(name=REQUESTS)
    start = status.started_at
    return {
        arm.name: tuple(Query(metric, version, None, start, now) for metric in metrics.values())
        for arm, version in zip(spec.variants, (stable, treatment), strict=True)
    }


def plan_ab_test(spec: ABTestSpec, status: ABTestStatus, observed: ObservedTest, now: datetime) -> ExperimentPlan:
    """Plan the next state of one test."""
    if status.phase in (ABTestPhase.CONCLUDED, ABTestPhase.STOPPED, ABTestPhase.INVALID):
        return ExperimentPlan(status.model_copy(update={"observed_generation": observed.generation}))
    outcome = _decide(spec, status, observed, now)
    conditions = set_health(
        status.conditions,
        outcome.health,
        outcome.reason,
        outcome.message,
        generation=observed.generation,
        now=now,
    )
    fresh = {"observed_generation": observed.generation, "message": outcome.message, "conditions": conditions}
    new = outcome.status.model_copy(update=fresh)
    is_new = (new.phase, _reason(new)) != (status.phase, _reason(status))
    event = (outcome.reason, outcome.message) if is_new else None
    return ExperimentPlan(new, event, _recheck(spec, new, now))


def _decide(spec: ABTestSpec, status: ABTestStatus, observed: ObservedTest, now: datetime) -> Outcome:
    if spec.stop:
        message = "stopped by spec.stop; all traffic goes to the stable version"
        return _end(status, ABTestPhase.STOPPED, Health.READY, "Stopped", message, now)
    if status.phase is ABTestPhase.PENDING or _has_other_control(status, observed):
        return _admit(spec, status.model_copy(update={"phase": ABTestPhase.PENDING}), observed)
    return _spoiled(status, observed, now) or _begin(spec, status, observed, now) or _look(spec, status, observed, now)


def _has_other_control(status: ABTestStatus, observed: ObservedTest) -> bool:
    """Tell whether a release got in before the split: the test has no data yet and is admitted anew."""
    stable = observed.endpoint.stable if observed.endpoint else None
    return status.started_at is None and (stable is None or stable.model_version != status.control_model_version)


# Admission


def _admit(spec: ABTestSpec, status: ABTestStatus, observed: ObservedTest) -> Outcome:
    refusal = _refuse(spec, observed)
    if refusal is not None:
        return Outcome(status, Health.STALLED, *refusal)
    endpoint = observed.endpoint
    if endpoint is None or endpoint.stable is None or not endpoint.is_settled:
        message = f"Deployment {spec.deployment} has no settled version; the test begins after its release"
        return Outcome(status, Health.RECONCILING, "DeploymentReleasing", message)
    if observed.state is not ModelState.READY:
        arm = spec.variants[1].model_version
        message = f"ModelVersion {arm} is {observed.state.value}; the test begins when it is Ready"
        return Outcome(status, Health.RECONCILING, "ModelVersionNotReady", message)
    control = {"phase": ABTestPhase.RUNNING, "control_model_version": endpoint.stable.model_version}
    message = f"waits for Deployment {spec.deployment} to split its traffic"
    return Outcome(status.model_copy(update=control), Health.RECONCILING, "Admitted", message)


def _refuse(spec: ABTestSpec, observed: ObservedTest) -> tuple[str, str] | None:
    """Return why this test cannot begin before a person changes something."""
    arm = spec.variants[1].model_version
    endpoint = observed.endpoint
    if endpoint is None:
        return "DeploymentMissing", f"there is no Deployment {spec.deployment}; create it or correct spec.deployment"
    if observed.state is ModelState.MISSING:
        return "ModelVersionMissing", f"there is no ModelVersion {arm}; create it"
    if observed.state is ModelState.REJECTED:
        return "ModelVersionRejected", f"ModelVersion {arm} is rejected; test another one"
    if endpoint.stable is not None and endpoint.stable == VersionID(arm or "", observed.digest or ""):
        return "EqualVariants", f"both arms are {arm}, the stable version; test another one"
    if observed.rivals:
        return "EndpointBusy", f"ABTest {observed.rivals[0]} tests Deployment {spec.deployment} first; stop it, or wait"
    return None


# The test


def _spoiled(status: ABTestStatus, observed: ObservedTest, now: datetime) -> Outcome | None:
    """End a test whose data no longer mean what they should."""
    endpoint = observed.endpoint
    if endpoint is None or endpoint.stable is None:
        message = "the Deployment under test is gone"
        return _end(status, ABTestPhase.INVALID, Health.STALLED, "DeploymentMissing", message, now)
    if endpoint.stable.model_version != status.control_model_version:
        message = f"the stable version is {endpoint.stable} now, not {status.control_model_version}; start a new test"
        return _end(status, ABTestPhase.INVALID, Health.STALLED, "ControlChanged", message, now)
    if observed.state is ModelState.MISSING:
        message = "the ModelVersion of the second arm is gone; start a new test"
        return _end(status, ABTestPhase.INVALID, Health.STALLED, "ModelVersionMissing", message, now)
    return None


def _begin(spec: ABTestSpec, status: ABTestStatus, observed: ObservedTest, now: datetime) -> Outcome | None:
    """Let the time of the test begin once every proxy has confirmed the split."""
    if status.started_at is not None:
        return None
    if not _is_split(spec, observed):
        message = f"waits for Deployment {spec.deployment} to split its traffic"
        return Outcome(status, Health.RECONCILING, "Admitted", message)
    begun = status.model_copy(update={"started_at": now})
    return Outcome(begun, Health.READY, "Running", f"runs until {_samples(spec, begun)} or {_time(spec)} have passed")


def _look(spec: ABTestSpec, status: ABTestStatus, observed: ObservedTest, now: datetime) -> Outcome:
    """Bring the estimates up to date, and take the one look when every arm has its samples."""
    failed = next((each.error for arm in observed.measured.values() for each in arm.values() if each.error), None)
    seen = status if failed else estimate_arms(spec, status, observed.measured, now)
    ratio = seen.sample_ratio.p_value if seen.sample_ratio else None
    is_due = has_samples(spec, seen)
    if ratio is not None and ratio < (MISMATCH if is_due else EARLY_MISMATCH):
        return _end_mismatch(seen, ratio, now)
    if is_due:
        return _conclude(spec, seen, now)
    if status.started_at is not None and now >= status.started_at + spec.max_duration:
        message = f"{_time(spec)} are over before every arm had {_samples(spec, seen)}: no verdict"
        kept = _recommend(seen, RecommendationAction.KEEP, "NotEnoughSamples", message)
        return _end(kept, ABTestPhase.CONCLUDED, Health.READY, "NotEnoughSamples", message, now)
    return _continue(spec, seen, observed, failed)


def _continue(spec: ABTestSpec, seen: ABTestStatus, observed: ObservedTest, failed: str | None) -> Outcome:
    message = f"{fewest_samples(spec, seen)} of {_samples(spec, seen)}: no verdict before"
    if failed:
        message = f"{message}; the metric source failed: {failed}"
    elif not _is_split(spec, observed):
        arm = spec.variants[1].name
        message = f"{message}; arm {arm} gets no share now, its pods are not ready: the other arm takes its users"
    going = _recommend(seen, RecommendationAction.CONTINUE, "NotEnoughSamples", message)
    return Outcome(going, Health.READY, "Running", message)


def _conclude(spec: ABTestSpec, seen: ABTestStatus, now: datetime) -> Outcome:
    verdict, winner = judge(spec, seen)
    concluded = seen.model_copy(update={"recommendation": verdict, "winner": winner})
    return _end(concluded, ABTestPhase.CONCLUDED, Health.READY, verdict.reason, verdict.message, now)


def _end_mismatch(seen: ABTestStatus, ratio: float, now: datetime) -> Outcome:
    counts = ", ".join(f"{each.variant} {each.requests}" for each in seen.counts)
    message = (
        f"the arms did not get their shares ({counts}; probability {ratio:.2g}): the assignment or the counting is"
        " broken, so no estimate can be trusted; find out why and start a new test"
    )
    wrong = seen.sample_ratio.model_copy(update={"ok": False}) if seen.sample_ratio else None
    invalid = _recommend(seen, RecommendationAction.STOP, "SampleRatioMismatch", message)
    invalid = invalid.model_copy(update={"sample_ratio": wrong, "winner": None})
    return _end(invalid, ABTestPhase.INVALID, Health.STALLED, "SampleRatioMismatch", message, now)


# Small questions


def _find_sticky(test: ABTest) -> Stickiness:
    """Draw the users of each test anew: else those who saw the arm of the last one would see that of the next, too."""
    assignment = test.spec.assignment
    return Stickiness(assignment.header, assignment.salt or test.metadata.uid)


def _is_split(spec: ABTestSpec, observed: ObservedTest) -> bool:
    endpoint = observed.endpoint
    return endpoint is not None and endpoint.test == observed.name and endpoint.percent == spec.variants[1].weight


def _look_interval(spec: ABTestSpec) -> timedelta:
    return min(max(spec.max_duration / 200, SHORTEST_LOOK), LONGEST_LOOK)


def _next_look(spec: ABTestSpec, status: ABTestStatus, started_at: datetime) -> datetime:
    due = (status.looked_at or started_at) + _look_interval(spec)
    return min(due, max(started_at + spec.max_duration, status.looked_at or started_at))


def _recheck(spec: ABTestSpec, status: ABTestStatus, now: datetime) -> timedelta | None:
    if status.phase is ABTestPhase.PENDING:
        return RETRY
    if status.phase is not ABTestPhase.RUNNING or status.started_at is None:
        return None
    return max(_next_look(spec, status, status.started_at) - now, timedelta(seconds=1))


def _recommend(status: ABTestStatus, action: RecommendationAction, reason: str, message: str) -> ABTestStatus:
    return status.model_copy(update={"recommendation": Recommendation(action=action, reason=reason, message=message)})


def _end(status: ABTestStatus, phase: ABTestPhase, health: Health, reason: str, message: str, now: datetime) -> Outcome:
    return Outcome(status.model_copy(update={"phase": phase, "ended_at": now}), health, reason, message)


def _samples(spec: ABTestSpec, status: ABTestStatus) -> str:
    return f"{status.required_samples_per_variant or spec.analysis.min_samples_per_variant} samples in each arm"


def _time(spec: ABTestSpec) -> str:
    return format_duration(spec.max_duration)


def _reason(status: ABTestStatus) -> str:
    return next((each.reason for each in status.conditions if each.type == Health.READY), "")


def _age(test: ABTest) -> tuple[datetime, str]:
    created = test.metadata.creation_timestamp
    return created or datetime.max.replace(tzinfo=UTC), test.metadata.name


def _is_same(one: ABTest, other: ABTest) -> bool:
    return one.metadata.name == other.metadata.name


def _is_first(rival: ABTest, test: ABTest) -> bool:
    if rival.metadata.deletion_timestamp is not None or rival.spec.stop:
        return False
    if rival.status.phase is ABTestPhase.RUNNING:
        return True
    waits = rival.status.phase is ABTestPhase.PENDING and not is_true(rival.status.conditions, Health.STALLED)
    return waits and _age(rival) < _age(test)
