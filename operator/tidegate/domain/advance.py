"""The way forward: start, pods, share, confirmed by the proxies, held under analysis, next step, bake, promotion."""

from datetime import timedelta

from tidegate.api.base import format_duration
from tidegate.api.deployment import ActiveCanary, ActiveStable, MetricResult, Outcome, StrategyType
from tidegate.api.model_version import Role
from tidegate.domain.analysis import Conclusion, Say
from tidegate.domain.gates import is_gate_open
from tidegate.domain.measuring import assess_passes, assess_time, find_query_fault
from tidegate.domain.permission import can_start, find_hold, wanted_release, why_start
from tidegate.domain.reasons import Action, Reason
from tidegate.domain.retreat import reject_former, stable_can_take_all
from tidegate.domain.shadow import DISAGREEMENT
from tidegate.domain.situation import Situation, identify
from tidegate.domain.steps import FAST_STEPS, fingerprint

__all__ = [
    "adopt",
    "advance",
    "begin_release",
    "confirm_step",
    "find_block",
    "mark_holding",
    "pass_step",
    "restart_steps",
    "set_share",
    "start",
]


def adopt(s: Situation) -> Situation:
    """Take the version that the Route serves for stable when the status was lost, for example by a restored backup."""
    if s.status.stable is not None or s.status.canary is not None:
        return s
    served = [each.version for each in s.observed.route.backends if each.role is Role.STABLE]
    found = next((version for version in served if version in s.observed.workloads), None)
    if found is None or (found == s.target and can_start(s)):
        return s
    stable = ActiveStable(model_version=found.model_version, digest=found.digest)
    message = "the status was lost; the Route says that this version serves"
    return s.update(stable=stable).decide(Action.ADOPT, Reason.STATUS_LOST, message, version=found)


def start(s: Situation) -> Situation:
    """Start the release of the version that is wanted, if nothing stands in its way."""
    return s if find_hold(s) else begin_release(s)


def begin_release(s: Situation) -> Situation:
    """Start the release of the version that is wanted, whatever holds it."""
    target = wanted_release(s)
    if target is None:
        return s
    reason, message = why_start(s, target)
    fast = reason in (Reason.FIRST_RELEASE, Reason.ROLLBACK_WINDOW, Reason.COMMANDED)
    steps = FAST_STEPS if fast else s.ordinary_steps
    canary = ActiveCanary(
        model_version=target.model_version,
        digest=target.digest,
        steps=len(steps),
        steps_hash=fingerprint(steps),
        attempt=1 + s.attempts(target),
        started_at=s.now,
        fast=fast,
    )
    begun = s.keep(target).rest().update(canary=canary, analysis=(), analysed_at=None)
    return begun.decide(Action.START_RELEASE, reason, message, version=target)


def restart_steps(s: Situation) -> Situation:
    """Begin the steps anew, with the same pods, when the spec has changed them under way."""
    canary = s.status.canary
    if canary is None or canary.retreat is not None or canary.steps_hash == s.steps_hash:
        return s
    changed = (
        _forget_shadow(s)
        .rest()
        .update_canary(
            step=0, steps=len(s.steps), steps_hash=s.steps_hash, step_started_at=None, baking_since=None, gate=None
        )
    )
    message = f"the spec has other steps now: {len(s.steps)}, from step 0"
    return changed.decide(Action.RESTART_STEPS, Reason.STEPS_CHANGED, message, version=identify(canary))


def _forget_shadow(s: Situation) -> Situation:
    """Forget what was measured if the new steps begin with copies, or the old ones were at them."""
    was_shadow = any(each.name == DISAGREEMENT for each in s.status.analysis)
    return s.update(analysis=(), analysed_at=None) if was_shadow or s.steps[0].mirror else s


def set_share(s: Situation) -> Situation:
    """Decide the canary's share: its step's if its pods are there, nothing if none is ready, and 0 on the way back."""
    canary = s.status.canary
    if canary is None:
        return s
    wanted = _wanted_share(s)
    if wanted == canary.target_percent:
        return s
    reason, message = _why_share(s)
    return s.update_canary(target_percent=wanted, step_started_at=None, baking_since=None).decide(
        Action.SET_PERCENT,
        reason,
        message,
        version=identify(canary),
        share=(canary.target_percent, wanted),
        evidence={result.name: _summary(result) for result in s.status.analysis},
    )


def _wanted_share(s: Situation) -> float:
    """Return the share that the canary should have now; while something is missing, the one decided last."""
    canary = s.canary
    if canary.retreat is not None:
        return 0.0 if stable_can_take_all(s) else canary.target_percent
    if s.stable_id is None:
        return 100.0 if s.has_canary_capacity else canary.target_percent
    if s.has_canary_capacity:
        wanted = s.step.percent
    elif s.observed.ready(identify(canary)) == 0:
        wanted = 0.0
    else:
        wanted = min(s.step.percent, canary.target_percent)
    gives_back = wanted < canary.target_percent
    return canary.target_percent if gives_back and s.observed.ready(s.stable_id) == 0 else wanted


def _why_share(s: Situation) -> tuple[str, str]:
    canary = s.canary
    if canary.retreat is not None:
        return canary.retreat.reason, f"back to {s.stable_id}: {canary.retreat.message}"
    if not s.has_canary_capacity:
        return Reason.PODS_NOT_READY, "no traffic until its pods are ready again"
    if s.stable_id is None:
        return Reason.FIRST_RELEASE, "its pods are ready"
    is_tick = s.spec.strategy.moving is StrategyType.GRADUAL and not s.is_fast
    return Reason.RAMP_TICK if is_tick else Reason.STEP_STARTED, f"step {canary.step} of {canary.steps}"


def confirm_step(s: Situation) -> Situation:
    """Let the time of a step begin once every proxy has confirmed its share."""
    canary = s.status.canary
    if canary is None or canary.retreat is not None or canary.step_started_at is not None or not _is_in_force(s):
        return s
    first = canary.first_traffic_at or (s.now if s.step.percent > 0 else None)
    fresh = tuple(result.model_copy(update={"passes": 0}) for result in s.status.analysis)
    confirmed = s.update(analysis=fresh).update_canary(step_started_at=s.now, first_traffic_at=first)
    if not s.step.mirror:
        return confirmed
    message = f"copies of {s.step.mirror:g} % of the requests are answered and compared; no user gets such an answer"
    return confirmed.decide(Action.MIRROR, Reason.SHADOW_STARTED, message, version=identify(canary))


def advance(s: Situation) -> Situation:
    """Go on to the next step, the bake time or the promotion when the time is over and the evidence is good."""
    canary = s.status.canary
    if canary is None or s.is_paused or not _can_move(s) or not _is_time_over(s):
        return s
    return s if find_block(s) else pass_step(s)


def find_block(s: Situation) -> Conclusion | None:
    """Return the analysis' objection to leaving the step or the bake time now; None if there is none."""
    canary = s.canary
    fault = find_query_fault(s) if s.is_analysed else None
    if fault is not None:
        return Conclusion(Say.HOLD, Reason.INVALID_QUERY, fault)
    began, lasts = canary.step_started_at, s.step.hold
    if canary.baking_since is not None:
        began, lasts = canary.baking_since, s.bake
    elif s.step.analysis is not None:
        return _find_objection(s) or _unless_go(assess_passes(s, s.step.analysis))
    elif s.step.gate is not None and s.is_analysed:
        return _unless_go(s.conclusion)
    if began is None or lasts == timedelta():
        return _find_objection(s)
    return _unless_go(assess_time(s, began))


def _find_objection(s: Situation) -> Conclusion | None:
    """Return what stands against any further step, evidence of its own or not."""
    conclusion = s.conclusion
    return conclusion if s.is_analysed and (conclusion.say is Say.FAIL or conclusion.needs_person) else None


def _unless_go(conclusion: Conclusion) -> Conclusion | None:
    return None if conclusion.say is Say.GO else conclusion


def mark_holding(s: Situation) -> Situation:
    """Note since when a step waits for data or evidence beyond its time, and say so once."""
    canary = s.status.canary
    block = find_block(s) if canary and canary.retreat is None and _can_move(s) and _is_time_over(s) else None
    if block is None or block.reason is Reason.WAITING_FOR_MEASUREMENT:
        return s if s.status.holding_since is None else s.update(holding_since=None)
    if s.status.holding_since is not None:
        return s
    held = s.update(holding_since=s.now)
    return held.decide(Action.HOLD, block.reason, block.message, version=s.canary_id, evidence=block.evidence)


def pass_step(s: Situation) -> Situation:
    """Leave the step in progress."""
    if not s.is_last_step:
        return _end_shadow(s).rest().update_canary(step=s.canary.step + 1, step_started_at=None, gate=None)
    if s.bake > timedelta() and s.canary.baking_since is None:
        baking = s.rest().update_canary(baking_since=s.now, gate=None)
        message = f"{s.stable_id} stays ready to take over for {format_duration(s.bake)}"
        return baking.decide(Action.BAKE, Reason.STEPS_PASSED, message, version=s.canary_id)
    return _promote(s)


def _end_shadow(s: Situation) -> Situation:
    """Leave a step of copies: what was measured of them says nothing about users' requests, and is not counted on."""
    if not s.step.mirror:
        return s
    evidence = {result.name: _summary(result) for result in s.status.analysis}
    found = next((each.message for each in s.status.analysis if each.name == DISAGREEMENT), "nothing was compared")
    ended = s.update(analysis=(), analysed_at=None)
    return ended.decide(Action.MIRROR, Reason.SHADOW_PASSED, found, version=s.canary_id, evidence=evidence)


def _promote(s: Situation) -> Situation:
    """Make the canary's pods the stable ones; nothing restarts, and the former stable version drains."""
    canary, former = s.canary, s.stable_id
    version = identify(canary)
    reason = Reason.FIRST_RELEASE if former is None else Reason.PROMOTED
    if s.status.rollback is not None:
        reason = Reason.COMMANDED
    done = s.remember(version, Outcome.PROMOTED, reason.value, canary.started_at)
    if former is not None:
        done = done.drain(former, None)
    stable = ActiveStable(model_version=version.model_version, digest=version.digest)
    rejected = tuple(each for each in s.status.rejected if identify(each) != version)
    done = done.rest().update(stable=stable, canary=None, rejected=rejected)
    if former is not None:
        done = reject_former(done, former)
    evidence = {result.name: _summary(result) for result in s.status.analysis}
    return done.decide(Action.PROMOTE, reason, _promotion_message(s), version=version, evidence=evidence)


def _promotion_message(s: Situation) -> str:
    replaced = f"replaces {s.stable_id}" if s.stable_id else "serves as the first version"
    dry = [f"{each.name} failed {each.failures} of {each.measurements}" for each in s.status.analysis if each.dry_run]
    return f"{replaced}; dry run: {', '.join(dry)}" if dry else replaced


def _can_move(s: Situation) -> bool:
    """Tell whether the step in progress stands: share confirmed, pods ready, a way back, and not on it."""
    canary = s.canary
    stands = canary.retreat is None and canary.step_started_at is not None and _is_in_force(s)
    return stands and s.has_way_back


def _is_in_force(s: Situation) -> bool:
    canary = identify(s.canary)
    decided = s.canary.target_percent == s.step.percent
    return decided and s.has_canary_capacity and s.is_mirror_confirmed and s.is_confirmed(canary, s.step.percent)


def _is_time_over(s: Situation) -> bool:
    canary = s.canary
    if canary.baking_since is not None:
        return s.now >= canary.baking_since + s.bake
    if s.step.pause or (s.step.gate is not None and not is_gate_open(s)):
        return False
    return canary.step_started_at is not None and s.now >= canary.step_started_at + s.step.hold


def _summary(result: MetricResult) -> str:
    value = "" if result.value is None else f"{result.value:.6g} "
    evidence = f", e-value {result.comparison.e_value:.4g}" if result.comparison else ""
    return f"{value}{result.verdict.value}{evidence}"
