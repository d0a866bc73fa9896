"""The way back: stable's capacity first, then its traffic, then the canary drains. One way for every cause."""

from collections.abc import Mapping

from tidegate.api.base import format_duration
from tidegate.api.deployment import Outcome, RejectedVersion, Retreat
from tidegate.domain.analysis import Say
from tidegate.domain.gates import describe_answer, has_said_yes, shown_url
from tidegate.domain.reasons import Action, Reason
from tidegate.domain.release import ModelState, VersionID
from tidegate.domain.situation import MAX_REJECTED, Situation, identify

__all__ = [
    "drop_unserved",
    "fail_analysis",
    "finish_retreat",
    "give_up",
    "heed_rollback_gate",
    "lift_rejections",
    "reject",
    "reject_former",
    "retreat",
    "stable_can_take_all",
    "supersede",
]

_ACTIONS = {
    Outcome.ROLLED_BACK: Action.ROLL_BACK,
    Outcome.ABORTED: Action.ABORT,
    Outcome.SUPERSEDED: Action.SUPERSEDE,
}


def retreat(
    s: Situation, outcome: Outcome, reason: Reason, message: str, evidence: Mapping[str, str] | None = None
) -> Situation:
    """Begin the way back; the version is rejected unless the spec merely asks for another one.

    A person's rollback that fails ends here: the traffic stays where it is.
    """
    canary = identify(s.canary)
    if s.status.rollback is not None and identify(s.status.rollback) == canary:
        s = s.update(rollback=None)
    back = s.rest().update_canary(retreat=Retreat(outcome=outcome, reason=reason.value, message=message, at=s.now))
    if outcome is not Outcome.SUPERSEDED:
        back = _reject_version(back, canary, reason, message, s.canary.attempt)
    return back.decide(_ACTIONS[outcome], reason, message, version=canary, evidence=evidence)


def fail_analysis(s: Situation) -> Situation:
    """Roll back when the analysis failed."""
    conclusion = s.conclusion
    if not s.is_analysed or conclusion.say is not Say.FAIL or not s.spec.rollback.automatic:
        return s
    return retreat(s, Outcome.ROLLED_BACK, Reason.ANALYSIS_FAILED, conclusion.message, conclusion.evidence)


def heed_rollback_gate(s: Situation) -> Situation:
    """Roll back when the rollback gate says so; a person runs it, so spec.rollback.automatic is not asked."""
    gate = s.spec.rollback.gate
    if gate is None or not s.is_analysed or not has_said_yes(s.canary.rollback_gate):
        return s
    said = describe_answer(s.canary.rollback_gate)
    message = f"the rollback gate {shown_url(gate)} {said}"
    return retreat(s, Outcome.ROLLED_BACK, Reason.ROLLBACK_GATE, message)


def supersede(s: Situation) -> Situation:
    """Leave a release that the spec no longer asks for."""
    canary = s.status.canary
    if canary is None or canary.retreat is not None or s.is_wanted(identify(canary)):
        return s
    message = f"the spec asks for {s.spec.model_version} now"
    if s.status.stable is None:
        return drop_unserved(s, Reason.SUPERSEDED, message)
    return retreat(s, Outcome.SUPERSEDED, Reason.SUPERSEDED, message)


def reject(s: Situation) -> Situation:
    """Leave a release whose ModelVersion was rejected after it began."""
    canary = s.status.canary
    rejected = s.target_state is ModelState.REJECTED and canary is not None and identify(canary) == s.target
    if canary is None or canary.retreat is not None or not rejected:
        return s
    why = f": {s.observed.state_message}" if s.is_asked_for(identify(canary)) else ""
    message = f"ModelVersion {canary.model_version} is rejected{why}"
    if s.status.stable is None:
        return drop_unserved(s, Reason.MODEL_VERSION_REJECTED, message)
    return retreat(s, Outcome.ROLLED_BACK, Reason.MODEL_VERSION_REJECTED, message)


def give_up(s: Situation) -> Situation:
    """Roll back when the canary's pods are not ready in time, or never can be; a first release keeps trying."""
    canary = s.status.canary
    if canary is None or canary.retreat is not None or s.status.stable is None or s.has_canary_capacity:
        return s
    version = identify(canary)
    if not s.is_canary_hopeless and not s.waited(Reason.PODS_NOT_READY, s.spec.progress_deadline):
        return s
    message = (
        s.observed.problem(version) or f"its pods were not ready within {format_duration(s.spec.progress_deadline)}"
    )
    return retreat(s, Outcome.ROLLED_BACK, Reason.PODS_NOT_READY, message)


def finish_retreat(s: Situation) -> Situation:
    """End the way back once every proxy has confirmed it; the pods stay for the drain delay."""
    canary = s.status.canary
    if canary is None or canary.retreat is None or s.stable_id is None:
        return s
    version = identify(canary)
    if not s.is_free(version) or not s.is_confirmed(s.stable_id, 100):
        return s
    ended = s.drain(version, s.now).remember(version, canary.retreat.outcome, canary.retreat.reason, canary.started_at)
    delay = format_duration(s.spec.rollback.drain_delay)
    message = f"every proxy confirmed that it gets no traffic; its pods go after {delay}"
    gone = ended.rest().update(canary=None)
    return gone.decide(Action.DRAIN, canary.retreat.outcome.value, message, version=version)


def drop_unserved(s: Situation, reason: Reason, message: str) -> Situation:
    """Leave a first release, where there is nothing to go back to; its pods go when no proxy knows them."""
    version = identify(s.canary)
    left = s.drain(version, None).remember(version, Outcome.SUPERSEDED, reason.value, s.canary.started_at)
    return left.rest().update(canary=None).decide(Action.SUPERSEDE, reason, message, version=version)


def stable_can_take_all(s: Situation) -> bool:
    """Tell whether the stable version has the pods to take all traffic back.

    With a canary that cannot answer anyway, or when the missing pods do not come in time, those that are ready must do.
    """
    ready = s.observed.ready(s.stable_id) if s.stable_id else 0
    if ready == 0:
        return False
    if not s.spec.rollback.capacity_first or s.observed.ready(identify(s.canary)) == 0:
        return True
    return ready >= s.replicas or s.waited(Reason.STABLE_PODS_NOT_READY, s.spec.progress_deadline)


def lift_rejections(s: Situation) -> Situation:
    """Let a rejected version be tried again once the spec has asked for another one."""
    lifted = tuple(
        each if each.lifted or s.is_asked_for(identify(each)) else each.model_copy(update={"lifted": True})
        for each in s.status.rejected
    )
    return s if lifted == s.status.rejected else s.update(rejected=lifted)


def reject_former(s: Situation, former: VersionID) -> Situation:
    """Reject what a person has gone back from: what served, and what the spec asks for; as if analysis had failed."""
    rollback = s.status.rollback
    if rollback is None:
        return s
    in_force = {identify(each) for each in s.status.rejected if not each.lifted}
    for version in dict.fromkeys((former, s.asked or former)):
        if version not in in_force:
            attempts = max(1, s.attempts(version))
            s = _reject_version(s, version, Reason.COMMANDED, rollback.message, attempts)
    return s.update(rollback=None)


def _reject_version(s: Situation, version: VersionID, reason: Reason, message: str, attempts: int) -> Situation:
    entry = RejectedVersion(
        model_version=version.model_version,
        digest=version.digest,
        reason=reason.value,
        message=message,
        at=s.now,
        attempts=attempts,
    )
    others = tuple(each for each in s.status.rejected if identify(each) != version)
    return s.update(rejected=(entry, *others)[:MAX_REJECTED])
