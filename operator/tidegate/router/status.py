"""What Route.status says. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tidegate.api.base import Condition, ConditionStatus
from tidegate.api.route import BackendWeight, Proxies, RouteStatus
from tidegate.router.fleet import Standing
from tidegate.router.snapshot import CompiledRoute

__all__ = ["Reason", "RouteFacts", "plan_status"]

_MOST_MISSING = 32


class Reason(StrEnum):
    """Why a Route is, or is not, ready."""

    CONFIRMED = "Confirmed"
    WAITING_FOR_PROXIES = "WaitingForProxies"
    NO_PROXIES = "NoProxies"
    BACKENDS_NOT_READY = "BackendsNotReady"
    INVALID_ROUTE = "InvalidRoute"
    HOST_CONFLICT = "HostConflict"
    REFUSED_BY_PROXY = "RefusedByProxy"


_WAITING = {Reason.WAITING_FOR_PROXIES, Reason.NO_PROXIES}
_STALLED = {Reason.INVALID_ROUTE, Reason.HOST_CONFLICT, Reason.REFUSED_BY_PROXY}


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """What is known of one Route: its generation, what was built from it, and how far the proxies are."""

    generation: int
    compiled: CompiledRoute | None
    standing: Standing
    problem: str = ""
    conflict: str = ""

    @property
    def waiting(self) -> bool:
        """Only acknowledgements are outstanding."""
        return _assess(self)[0] in _WAITING


def plan_status(facts: RouteFacts, current: RouteStatus, now: datetime) -> RouteStatus:
    """Return the status that the Route shall have; unchanged conditions keep their time."""
    reason, message = _assess(facts)
    compiled, standing = facts.compiled, facts.standing
    live = compiled is not None and not facts.problem and not facts.conflict and standing.confirmed
    return RouteStatus(
        observed_generation=facts.generation,
        weights=_weights(compiled) if live and compiled else current.weights,
        proxies=Proxies(
            connected=standing.connected,
            acknowledged=standing.acknowledged,
            missing=standing.missing[:_MOST_MISSING],
        ),
        version=compiled.route.version if compiled else current.version,
        conditions=_conditions(reason, message, facts.generation, current.conditions, now),
    )


def _assess(facts: RouteFacts) -> tuple[Reason, str]:
    compiled, standing = facts.compiled, facts.standing
    if facts.problem or compiled is None:
        return Reason.INVALID_ROUTE, f"{facts.problem}; the proxies keep the last good configuration"
    if facts.conflict:
        return Reason.HOST_CONFLICT, f"{facts.conflict}; rename one of them"
    if standing.refusal is not None:
        return Reason.REFUSED_BY_PROXY, f"{standing.refusal}; the proxies keep the last good configuration"
    if not standing.connected and not standing.missing:
        return Reason.NO_PROXIES, "no proxy is connected; see whether the Envoy pods run and reach the router"
    if standing.missing:
        return Reason.WAITING_FOR_PROXIES, f"not yet acknowledged by {_listing(standing.missing)}"
    if compiled.unready:
        return Reason.BACKENDS_NOT_READY, _unready(compiled)
    return Reason.CONFIRMED, f"acknowledged by {standing.acknowledged} of {standing.connected} proxies"


def _unready(compiled: CompiledRoute) -> str:
    names = _listing(compiled.unready)
    if any(percent for _, percent in compiled.weights):
        return f"no ready endpoint of {names}; its share goes to the ready versions"
    return f"no ready endpoint of {names}; requests are answered with 503"


def _listing(names: Iterable[str]) -> str:
    items = list(names)
    return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")


def _weights(compiled: CompiledRoute) -> tuple[BackendWeight, ...]:
    """Add up the shares of one version: its artifact may have changed, then two workloads have it."""
    shares: dict[str, float] = {}
    for version, percent in compiled.weights:
        shares[version] = min(100.0, shares.get(version, 0.0) + percent)
    return tuple(BackendWeight(model_version=version, percent=percent) for version, percent in shares.items())


def _conditions(
    reason: Reason, message: str, generation: int, current: Iterable[Condition], now: datetime
) -> tuple[Condition, ...]:
    ready, stalled = reason is Reason.CONFIRMED, reason in _STALLED
    states = {"Ready": ready, "Reconciling": not ready and not stalled, "Stalled": stalled}
    since = {(item.type, item.status): item.last_transition_time for item in current}
    conditions = []
    for kind, holds in states.items():
        value = ConditionStatus.TRUE if holds else ConditionStatus.FALSE
        conditions.append(
            Condition(
                type=kind,
                status=value,
                reason=reason.value,
                message=message,
                last_transition_time=since.get((kind, value), now),
                observed_generation=generation,
            )
        )
    return tuple(conditions)
