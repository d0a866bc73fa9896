"""Whether a release may start, and what holds it: its windows, the limits on releases at once, the error budget. Pure.

Held is only what brings something new: a version that has not served lately, or another try of one that was taken
back. The first release, a return to a version of the rollback window, and a person's Rollback start at once, and
nothing here touches a release that has begun. A person who gives Promote or PromoteFully overrules all of it.

What costs nothing is asked first, and the budget, for which Prometheus is asked, only when nothing else holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tidegate.api.deployment import HeldRelease, NoBudgetPolicy, Outcome
from tidegate.domain.admission import describe_limits, may_start
from tidegate.domain.budget import (
    BUDGET_INTERVAL,
    describe_budget,
    is_fresh,
    is_spent,
    is_unknown,
    record_budget,
)
from tidegate.domain.measuring import find_query_fault
from tidegate.domain.reasons import Action, Reason
from tidegate.domain.release import ModelState, VersionID
from tidegate.domain.situation import Situation, identify
from tidegate.domain.windows import find_opening, find_unknown_zone

__all__ = [
    "Hold",
    "can_start",
    "find_budget_start",
    "find_hold",
    "mark_held",
    "object_to_windows",
    "take_budget",
    "wanted_release",
    "why_start",
]

_HELD = frozenset({Reason.NEW_VERSION, Reason.RETRY})


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a release does not start now."""

    reason: Reason
    message: str
    until: datetime | None = None
    """When time alone may end it; None: when something changes."""
    evidence: Mapping[str, str] = field(default_factory=dict)


def can_start(s: Situation) -> bool:
    """Tell whether the version that is wanted could be released, were it not held."""
    allowed = s.target_state is ModelState.READY and s.rejection is None
    return allowed and not s.is_paused and s.experiment is None and (_goes_back(s) or find_query_fault(s) is None)


def _goes_back(s: Situation) -> bool:
    """A person's way back has no analysis, and whatever is wrong with that does not stop it."""
    return s.status.rollback is not None


def wanted_release(s: Situation) -> VersionID | None:
    """Return the version whose release could start now, were it not held."""
    target = s.target
    if target is None or s.canary_id is not None or target == s.stable_id or not can_start(s):
        return None
    return target


def why_start(s: Situation, target: VersionID) -> tuple[Reason, str]:
    """Say what kind of release it is."""
    if s.stable_id is None:
        return Reason.FIRST_RELEASE, "nothing served before: no steps and no comparison, 100 % once its pods are ready"
    if s.status.rollback is not None:
        return Reason.COMMANDED, f"{s.status.rollback.message}: no steps"
    attempts = s.attempts(target)
    if attempts:
        return Reason.RETRY, f"attempt {attempts + 1}, from step 0"
    if _is_in_window(s, target):
        return Reason.ROLLBACK_WINDOW, f"one of the last {s.spec.rollback.window} healthy versions: no steps"
    return Reason.NEW_VERSION, f"replaces {s.stable_id} by {s.spec.strategy.type.value}"


def _is_in_window(s: Situation, target: VersionID) -> bool:
    healthy = [identify(each) for each in s.status.history if each.outcome is Outcome.PROMOTED]
    former = dict.fromkeys(version for version in healthy if version != s.stable_id)
    return target in list(former)[: s.spec.rollback.window]


def find_hold(s: Situation) -> Hold | None:
    """Return what keeps the release that is wanted from starting; None if nothing does, or none is wanted."""
    return _hold_for_free(s) or _hold_by_budget(s) if _is_holdable(s) else None


def _is_holdable(s: Situation) -> bool:
    target = wanted_release(s)
    return target is not None and why_start(s, target)[0] in _HELD


def _hold_for_free(s: Situation) -> Hold | None:
    return object_to_windows(s) or _hold_by_window(s) or _hold_by_limits(s)


def object_to_windows(s: Situation) -> Hold | None:
    """Return what only a person can mend; the API server does not know the time zones."""
    zone = find_unknown_zone(s.spec.release_windows)
    if zone is None:
        return None
    remedy = "write the name of a zone such as Europe/Berlin, or UTC"
    return Hold(Reason.UNKNOWN_TIME_ZONE, f"there is no time zone {zone!r} (spec.releaseWindows[].timeZone); {remedy}")


def _hold_by_window(s: Situation) -> Hold | None:
    opening = find_opening(s.spec.release_windows, s.now)
    if opening is None or opening.opens <= s.now:
        return None
    return Hold(Reason.OUTSIDE_RELEASE_WINDOW, f"the next release window opens on {opening}", opening.opens)


def _hold_by_limits(s: Situation) -> Hold | None:
    releases = s.observed.releases
    if releases is None or may_start(releases, _asked_since(s)):
        return None
    message = f"it waits for its turn, first come, first served; releases at once: {describe_limits(releases.limits)}"
    counts = {"underWay": str(len(releases.under_way)), "waiting": str(len(releases.waiting))}
    return Hold(Reason.RELEASE_LIMIT, message, _closing(s), counts)


def _hold_by_budget(s: Situation) -> Hold | None:
    budget, result = s.spec.error_budget, s.status.error_budget
    if budget is None:
        return None
    if result is None or not is_fresh(result, s.now):
        return Hold(Reason.WAITING_FOR_MEASUREMENT, "the error budget is measured next", s.now)
    due = result.at + BUDGET_INTERVAL
    until = min(due, _closing(s) or due)
    if is_unknown(result) and budget.no_data is NoBudgetPolicy.HOLD:
        message = f"what is left of the error budget is not known: {result.message}"
        return Hold(Reason.ERROR_BUDGET_UNKNOWN, message, until, describe_budget(result))
    if not is_spent(result):
        return None
    return Hold(
        Reason.ERROR_BUDGET_SPENT, f"the error budget is spent: {result.message}", until, describe_budget(result)
    )


def _closing(s: Situation) -> datetime | None:
    """Return when the present window closes."""
    opening = find_opening(s.spec.release_windows, s.now)
    return opening.closes if opening else None


def _asked_since(s: Situation) -> datetime:
    """Return when the release that is wanted was asked for, as far as it is known."""
    held = s.status.held
    return held.since if held is not None and identify(held) == s.target else s.now


def mark_held(s: Situation) -> Situation:
    """Note since when a release is held, and say so once for each cause, which may come and go."""
    hold, before = find_hold(s), s.status.held
    if hold is None or s.target is None:
        return s if before is None else s.update(held=None)
    held = HeldRelease(
        model_version=s.target.model_version, digest=s.target.digest, reason=hold.reason.value, since=_asked_since(s)
    )
    is_asking = hold.reason is Reason.WAITING_FOR_MEASUREMENT
    if held == before or (is_asking and before is not None and identify(before) == s.target):
        return s
    marked = s.update(held=held)
    if is_asking or _is_told(s, held):
        return marked
    return marked.decide(Action.HOLD, hold.reason, hold.message, version=s.target, evidence=hold.evidence)


def _is_told(s: Situation, held: HeldRelease) -> bool:
    """Tell whether people know already that this holds the release."""
    told = (each for each in s.status.decisions if each.at >= held.since and each.action == Action.HOLD)
    return any(each.reason == held.reason and each.model_version == held.model_version for each in told)


def find_budget_start(s: Situation) -> datetime | None:
    """Return from when on requests and failures are to be counted; None while the budget is of no interest."""
    budget = s.spec.error_budget
    if budget is None or is_fresh(s.status.error_budget, s.now) or not _is_holdable(s) or _hold_for_free(s):
        return None
    return s.now - budget.window


def take_budget(s: Situation) -> Situation:
    """Take in the budget that was due and measured."""
    budget, measured = s.spec.error_budget, s.observed.budget
    if budget is None or measured is None or find_budget_start(s) is None:
        return s
    return s.update(error_budget=record_budget(budget, measured, s.now))
