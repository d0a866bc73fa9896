"""Conditions that kstatus (Helm, Argo CD, Flux) understands: Ready, Reconciling and Stalled are always there."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from tidegate.api.base import Condition, ConditionStatus

__all__ = ["Health", "find_condition", "is_true", "set_condition", "set_health"]


class Health(StrEnum):
    """What the three standard conditions say together."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


def set_health(
    old: Sequence[Condition], health: Health, reason: str, message: str, *, generation: int, now: datetime
) -> tuple[Condition, ...]:
    """Set the three standard conditions; the others stay.

    ====================  =====  ===========  =======
    health                Ready  Reconciling  Stalled
    ====================  =====  ===========  =======
    READY                 True   False        False
    RECONCILING           False  True         False
    STALLED               False  False        True
    ====================  =====  ===========  =======
    """
    conditions = tuple(old)
    for each in Health:
        status = ConditionStatus.TRUE if each is health else ConditionStatus.FALSE
        told = message if each in (health, Health.READY) else ""
        conditions = set_condition(conditions, each, status, reason, told, generation=generation, now=now)
    return conditions


def set_condition(
    old: Sequence[Condition],
    aspect: str,
    status: ConditionStatus,
    reason: str,
    message: str = "",
    *,
    generation: int,
    now: datetime,
) -> tuple[Condition, ...]:
    """Return `old` with one condition set in its place; the transition time stays unless the status changes."""
    before = find_condition(old, aspect)
    since = before.last_transition_time if before is not None and before.status is status else now
    new = Condition(
        type=aspect,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=since,
        observed_generation=generation,
    )
    if before is None:
        return (*old, new)
    return tuple(new if each is before else each for each in old)


def find_condition(conditions: Sequence[Condition], aspect: str) -> Condition | None:
    """Return the condition of this aspect, if there is one."""
    return next((each for each in conditions if each.type == aspect), None)


def is_true(conditions: Sequence[Condition], aspect: str) -> bool:
    """Whether the condition of this aspect is there and True."""
    found = find_condition(conditions, aspect)
    return found is not None and found.status is ConditionStatus.TRUE
