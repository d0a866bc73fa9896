"""What a Deployment is doing or waiting for, and why: one sentence for people, three conditions for programs."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from tidegate.api.deployment import ActiveVariant, DeploymentPhase, Wait
from tidegate.domain.acts import plan_deletes
from tidegate.domain.advance import find_block
from tidegate.domain.analysis import Say
from tidegate.domain.conditions import Health, set_health
from tidegate.domain.gates import (
    describe_answer,
    find_gate_fault,
    is_gate_open,
    next_question,
    shown_url,
)
from tidegate.domain.measuring import find_query_fault, next_measurement
from tidegate.domain.permission import find_hold, object_to_windows
from tidegate.domain.reasons import Reason
from tidegate.domain.release import ModelState, VersionID
from tidegate.domain.retreat import stable_can_take_all
from tidegate.domain.situation import Situation, identify

__all__ = ["describe", "find_recheck"]

MISSING_GRACE = timedelta(minutes=1)
"""A ModelVersion that is applied together with its Deployment may arrive later; only then are people told."""
SHORTEST_RECHECK = timedelta(milliseconds=100)
DELETION_RECHECK = timedelta(seconds=2)
"""What the operator deletes itself wakes nobody; then it has to be forgotten."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What it waits for."""

    reason: Reason
    message: str
    phase: DeploymentPhase = DeploymentPhase.PROGRESSING
    health: Health = Health.RECONCILING
    is_timed: bool = False
    """Since when it waits is kept in the status."""
    limit: timedelta | None = None
    """After this long people are told: Stalled."""


def describe(s: Situation) -> Situation:
    """Fill in everything of the status that only tells: shares, pods, phase, message, conditions."""
    explanation = explain(s)
    waiting = _waiting(s, explanation)
    told = s.update(waiting=waiting)
    if explanation.limit and told.waited(explanation.reason, explanation.limit):
        explanation = Explanation(explanation.reason, explanation.message, DeploymentPhase.DEGRADED, Health.STALLED)
    conditions = set_health(
        s.status.conditions,
        explanation.health,
        explanation.reason.value,
        explanation.message,
        generation=s.observed.generation,
        now=s.now,
    )
    return _show_shares(told).update(
        observed_generation=s.observed.generation,
        phase=explanation.phase,
        message=explanation.message,
        endpoint=s.observed.endpoint or s.status.endpoint,
        conditions=conditions,
    )


def explain(s: Situation) -> Explanation:
    """Say in one sentence what the Deployment waits for, and why."""
    if s.status.canary is not None:
        return _retreating(s) if s.status.canary.retreat else _releasing(s)
    if not s.is_settled_on_target:
        found = _not_started(s)
        if found is not None:
            return found
    return _serving(s)


def find_recheck(s: Situation) -> timedelta | None:
    """Return when to look again without an event: the nearest moment at which time alone changes something."""
    moments = [*_deadlines(s), *_step_ends(s)]
    moments += [each.since + s.spec.rollback.drain_delay for each in s.status.draining if each.since]
    ahead = [moment - s.now for moment in moments if moment > s.now]
    if plan_deletes(s):
        ahead.append(DELETION_RECHECK)
    looks = (next_measurement(s), next_question(s))
    ahead += [max(look - s.now, SHORTEST_RECHECK) for look in looks if look is not None]
    hold = find_hold(s)
    if hold is not None and hold.until is not None:
        ahead.append(max(hold.until - s.now, SHORTEST_RECHECK))
    return min(ahead, default=None)


def _deadlines(s: Situation) -> list[datetime]:
    moments = []
    if s.status.waiting is not None:
        limit = MISSING_GRACE if s.status.waiting.reason == Reason.MODEL_VERSION_MISSING else s.spec.progress_deadline
        moments.append(s.status.waiting.since + limit)
    if s.status.holding_since is not None:
        moments.append(s.status.holding_since + s.spec.analysis.max_hold)
    return moments


def _step_ends(s: Situation) -> list[datetime]:
    canary = s.status.canary
    if canary is None or canary.retreat is not None:
        return []
    if canary.baking_since is not None:
        return [canary.baking_since + s.bake]
    is_timed = not s.step.pause and s.step.gate is None
    return [canary.step_started_at + s.step.hold] if canary.step_started_at and is_timed else []


def _waiting(s: Situation, explanation: Explanation) -> Wait | None:
    if not explanation.is_timed:
        return None
    before = s.status.waiting
    if before is not None and before.reason == explanation.reason:
        return before
    return Wait(reason=explanation.reason.value, since=s.now)


def _show_shares(s: Situation) -> Situation:
    fields = {}
    for name in ("stable", "canary"):
        active = getattr(s.status, name)
        if active is not None:
            version = identify(active)
            shown = {"percent": s.live_share(version), "ready_replicas": s.observed.ready(version)}
            fields[name] = active.model_copy(update=shown)
    if "canary" in fields:
        fields["canary"] = fields["canary"].model_copy(update={"mirror_percent": _confirmed_copies(s)})
    return s.update(experiment=_show_experiment(s), **fields)


def _confirmed_copies(s: Situation) -> float:
    route = s.observed.route
    is_copied = route.mirror is not None and route.confirmed and route.mirror.version == s.canary_id
    return route.mirror.percent if route.mirror and is_copied else 0.0


def _show_experiment(s: Situation) -> ActiveVariant | None:
    experiment = s.experiment
    if experiment is None:
        return None
    return ActiveVariant(
        test=experiment.test,
        variant=experiment.variant,
        model_version=experiment.version.model_version,
        digest=experiment.version.digest,
        percent=s.live_share(experiment.version),
        ready_replicas=s.observed.ready(experiment.version),
    )


# A release under way


def _retreating(s: Situation) -> Explanation:
    canary, stable = s.canary, s.stable_id
    cause = canary.retreat.message if canary.retreat else ""
    if stable is not None and canary.target_percent > 0 and not stable_can_take_all(s):
        pods = f"{s.observed.ready(stable)} of {s.replicas} pods of {stable} are ready{_problem(s, stable)}"
        message = f"taking the traffic of {canary.model_version} back ({cause}) as soon as {stable} can take it: {pods}"
        return _timed(Reason.STABLE_PODS_NOT_READY, message, s, DeploymentPhase.DEGRADED)
    message = f"taking the traffic of {canary.model_version} back ({cause}): {_unconfirmed(s)}"
    return _timed(Reason.ROUTE_NOT_CONFIRMED, message, s)


def _releasing(s: Situation) -> Explanation:
    explanation = (
        _failed_analysis(s)
        or _pods_missing(s)
        or _way_back_missing(s)
        or _comparator_missing(s)
        or _share_missing(s)
        or (_query_refused(s) if s.is_analysed else None)
        or _undecided(s)
        or _waiting_for_gate(s)
        or _held(s)
    )
    return replace(explanation, message=f"{explanation.message}{_rollback_gate(s)}")


def _rollback_gate(s: Situation) -> str:
    """Say that the rollback gate does not answer, in words that stay the same while it does not."""
    gate, record = s.spec.rollback.gate, s.canary.rollback_gate
    if gate is None or record is None or not record.consecutive_errors:
        return ""
    return f"; the rollback gate {shown_url(gate)} {describe_answer(record)}"


def _failed_analysis(s: Situation) -> Explanation | None:
    if not s.is_analysed or s.conclusion.say is not Say.FAIL:
        return None
    message = f"{s.conclusion.message}; spec.rollback.automatic is false: promote or abort {s.canary.model_version}"
    return Explanation(Reason.ANALYSIS_FAILED, message, DeploymentPhase.PAUSED, Health.STALLED)


def _pods_missing(s: Situation) -> Explanation | None:
    if s.has_canary_capacity:
        return None
    version = identify(s.canary)
    message = f"{s.observed.ready(version)} of {s.canary_pods} pods of {version} are ready{_problem(s, version)}"
    if s.status.stable is not None:
        return Explanation(Reason.PODS_NOT_READY, message, is_timed=True)
    if s.is_canary_hopeless:
        message = f"{message}; change spec.modelVersion to a version that can be loaded"
        return Explanation(Reason.PODS_NOT_READY, message, DeploymentPhase.DEGRADED, Health.STALLED)
    return _timed(Reason.PODS_NOT_READY, message, s)


def _way_back_missing(s: Situation) -> Explanation | None:
    stable = s.stable_id
    if stable is None or s.has_way_back:
        return None
    pods = f"no pod of {stable} is ready{_problem(s, stable)}"
    message = f"{_step_name(s)}: {pods}; no further step without a way back, unless you promote fully"
    return _timed(Reason.STABLE_PODS_NOT_READY, message, s, DeploymentPhase.DEGRADED)


def _comparator_missing(s: Situation) -> Explanation | None:
    mirror = s.mirror
    found = s.observed.comparators.get(mirror.version) if mirror else None
    if mirror is None or (found is not None and found.ready and found.current):
        return None
    problem = f": {found.problem}" if found and found.problem else ""
    message = f"{_step_name(s)}: the pod that compares the answers is not ready{problem}"
    return _timed(Reason.COMPARATOR_NOT_READY, message, s, DeploymentPhase.DEGRADED)


def _share_missing(s: Situation) -> Explanation | None:
    canary = s.canary
    is_confirmed = s.is_mirror_confirmed and s.is_confirmed(identify(canary), s.step.percent)
    if canary.step_started_at is not None and is_confirmed:
        return None
    message = f"{_share_name(s)}: {_unconfirmed(s)}"
    return _timed(Reason.ROUTE_NOT_CONFIRMED, message, s)


def _query_refused(s: Situation, serving: str = "") -> Explanation | None:
    fault = find_query_fault(s)
    if fault is None:
        return None
    return Explanation(Reason.INVALID_QUERY, f"{fault}{serving}", DeploymentPhase.DEGRADED, Health.STALLED)


def _undecided(s: Situation) -> Explanation | None:
    """Explain a step that stands, but whose evidence does not let it end."""
    conclusion = s.conclusion
    if s.is_analysed and conclusion.needs_person:
        message = f"{conclusion.message}; promote or abort {s.canary.model_version}"
        return Explanation(conclusion.reason, message, DeploymentPhase.PAUSED, Health.STALLED)
    if s.is_analysed and conclusion.stalled:
        message = f"{conclusion.message}; the release goes on by itself when the source answers again"
        return Explanation(conclusion.reason, message, DeploymentPhase.DEGRADED, Health.STALLED)
    if s.is_paused:
        return Explanation(Reason.PAUSED, f"{_step_name(s)}: spec.paused is true", DeploymentPhase.PAUSED)
    block = find_block(s) if s.status.holding_since else None
    if block is None or s.status.holding_since is None:
        return None
    message = f"{_step_name(s)} is held since {_clock(s.status.holding_since)}: {block.message}"
    if s.now - s.status.holding_since >= s.spec.analysis.max_hold:
        message = f"{message}; longer than maxHold: mend the metric, promote or abort"
        return Explanation(block.reason, message, DeploymentPhase.DEGRADED, Health.STALLED)
    return Explanation(block.reason, message)


def _waiting_for_gate(s: Situation) -> Explanation | None:
    gate, record = s.step.gate, s.canary.gate
    if gate is None or s.canary.baking_since is not None or is_gate_open(s):
        return None
    message = f"{_step_name(s)}: waits for the gate {shown_url(gate)}, which {describe_answer(record)}"
    fault = find_gate_fault(gate, record)
    if fault is not None:
        message = f"{message}; the release goes on by itself when the gate opens, or promote or abort"
        return Explanation(fault, message, DeploymentPhase.DEGRADED, Health.STALLED)
    return Explanation(Reason.GATE_CLOSED, message, DeploymentPhase.PAUSED)


def _held(s: Situation) -> Explanation:
    canary = s.canary
    if canary.baking_since is not None:
        end = _clock(canary.baking_since + s.bake)
        message = (
            f"{canary.model_version} has all traffic and is watched until {end}; {s.stable_id} is ready to take over"
        )
        return Explanation(Reason.BAKING, message)
    if s.step.pause:
        message = f"{_step_name(s)}: the steps say to wait for a person; promote or abort"
        return Explanation(Reason.PAUSE_STEP, message, DeploymentPhase.PAUSED)
    block = find_block(s) if s.step.analysis is not None else None
    if block is not None:
        return Explanation(Reason.WAITING_FOR_MEASUREMENT, f"{_step_name(s)} is measured: {block.message}")
    end = _clock((canary.step_started_at or s.now) + s.step.hold)
    return Explanation(Reason.HOLDING, f"{_step_name(s)} is held until {end}")


# No release under way


def _not_started(s: Situation) -> Explanation | None:
    """Explain why the version asked for is not being released."""
    name = s.target.model_version if s.target else s.spec.model_version
    serving = f"; {s.stable_id} keeps serving" if s.stable_id else ""
    rejection = s.rejection
    if rejection is not None:
        message = f"{name} was taken back: {rejection.message}{serving}; ask for another version, or retry"
        reason = Reason.ABORTED if rejection.reason == Reason.ABORTED else Reason.ROLLED_BACK
        return Explanation(reason, message, DeploymentPhase.ROLLED_BACK, Health.STALLED)
    refused = _query_refused(s, serving) if s.status.rollback is None else None
    if refused is not None:
        return refused
    if s.target_state is ModelState.MISSING:
        message = f"there is no ModelVersion {name}{serving}; create it or correct spec.modelVersion"
        return Explanation(Reason.MODEL_VERSION_MISSING, message, is_timed=True, limit=MISSING_GRACE)
    if s.target_state is ModelState.REJECTED:
        message = f"ModelVersion {name} is rejected: {s.observed.state_message}{serving}; ask for another version"
        return Explanation(Reason.MODEL_VERSION_REJECTED, message, DeploymentPhase.DEGRADED, Health.STALLED)
    if s.target_state is not ModelState.READY:
        message = (
            f"ModelVersion {name} is {s.target_state.value}: {s.observed.state_message or 'its checks run'}{serving}"
        )
        return Explanation(Reason.MODEL_VERSION_NOT_READY, message)
    if s.spec.paused:
        return Explanation(
            Reason.PAUSED, f"{name} is not released: spec.paused is true{serving}", DeploymentPhase.PAUSED
        )
    if s.experiment is not None:
        message = f"the release of {name} waits for the end of ABTest {s.experiment.test}; its spec.stop ends it now"
        return Explanation(Reason.EXPERIMENT_RUNNING, message)
    return _held_back(s, name, serving)


def _held_back(s: Situation, name: str, serving: str) -> Explanation | None:
    """Explain what keeps a release from starting; what only a person can mend is Stalled, the rest is intended."""
    hold = find_hold(s)
    if hold is None:
        return None
    message = f"{name} is not released: {hold.message}{serving}"
    if hold.reason is Reason.UNKNOWN_TIME_ZONE:
        return Explanation(hold.reason, message, DeploymentPhase.DEGRADED, Health.STALLED)
    if hold.reason is Reason.ERROR_BUDGET_UNKNOWN:
        return _timed(hold.reason, message, s, DeploymentPhase.PAUSED)
    return Explanation(hold.reason, message, DeploymentPhase.PAUSED)


def _serving(s: Situation) -> Explanation:
    stable = s.stable_id
    if stable is None:
        raise AssertionError("a Deployment without a version is waiting for one")
    return (
        _stable_pods_missing(s, stable)
        or _stable_share_missing(s, stable)
        or _query_refused(s, f"; {stable} serves")
        or _windows_unreadable(s)
        or _healthy(s, stable)
    )


def _windows_unreadable(s: Situation) -> Explanation | None:
    """Say at once what would hold the next release."""
    objection = object_to_windows(s)
    if objection is None:
        return None
    return Explanation(objection.reason, objection.message, DeploymentPhase.DEGRADED, Health.STALLED)


def _stable_pods_missing(s: Situation, stable: VersionID) -> Explanation | None:
    workload = s.observed.workloads.get(stable)
    ready = s.observed.ready(stable)
    is_changing = workload is None or workload.replicas != s.replicas or not (workload.current and workload.rolled_out)
    if ready >= s.replicas and not is_changing:
        return None
    if ready >= s.replicas:
        return _timed(Reason.UPDATING_PODS, f"the pods of {stable} are being replaced or removed", s)
    message = f"{ready} of {s.replicas} pods of {stable} are ready{_problem(s, stable)}"
    return _timed(
        Reason.PODS_NOT_READY, message, s, DeploymentPhase.PROGRESSING if is_changing else DeploymentPhase.DEGRADED
    )


def _stable_share_missing(s: Situation, stable: VersionID) -> Explanation | None:
    route = s.observed.route
    carries_test = s.experiment is not None and s.share(s.experiment.version) > 0
    if route.confirmed and (carries_test or s.is_confirmed(stable, 100)):
        return None
    return _timed(Reason.ROUTE_NOT_CONFIRMED, f"traffic to {stable}: {_unconfirmed(s)}", s)


def _healthy(s: Situation, stable: VersionID) -> Explanation:
    message = f"{stable} serves all traffic with {s.replicas} {'pod' if s.replicas == 1 else 'pods'}"
    if s.experiment is not None and s.share(s.experiment.version) > 0:
        message = (
            f"{stable} serves; ABTest {s.experiment.test} sends {s.experiment.percent:g} % to {s.experiment.version}"
        )
    elif s.observed.state is ModelState.MISSING:
        message = f"{message}; its ModelVersion is gone, so its pods cannot be changed"
    return Explanation(Reason.HEALTHY, message, DeploymentPhase.HEALTHY, Health.READY)


# Words


def _timed(
    reason: Reason, message: str, s: Situation, phase: DeploymentPhase = DeploymentPhase.PROGRESSING
) -> Explanation:
    return Explanation(reason, message, phase, is_timed=True, limit=s.spec.progress_deadline)


def _unconfirmed(s: Situation) -> str:
    """Say what the router says, and which proxy is missing."""
    route = s.observed.route
    if route.missing:
        return f"not yet confirmed by {', '.join(route.missing)}"
    if route.exists and not route.confirmed and route.message:
        return route.message
    return "waits for the proxies to confirm it"


def _problem(s: Situation, version: VersionID) -> str:
    problem = s.observed.problem(version)
    return f": {problem}" if problem else ""


def _step_name(s: Situation) -> str:
    return f"step {s.canary.step} of {s.canary.steps} ({_share_name(s)})"


def _share_name(s: Situation) -> str:
    if s.step.mirror:
        return f"copies of {s.step.mirror:g} % of the requests to {s.canary.model_version}"
    return f"{s.step.percent:g} % to {s.canary.model_version}"


def _clock(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%H:%M:%SZ")
