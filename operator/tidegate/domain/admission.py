"""How many releases may be under way at once, and whose turn it is: first come, first served. Pure.

Of those that wait, the one whose release was asked for first is let in first, then the next, as long as there are
places in its namespace and in the cluster. One whose namespace is full is passed over, not waited for.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

__all__ = ["Limits", "Place", "Releases", "Ticket", "admit", "describe_limits", "may_start"]

Place = tuple[str, str]
"""Namespace and name of a Deployment."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many releases may be under way at once; 0: as many as there are."""

    per_namespace: int = 0
    in_cluster: int = 0

    def __bool__(self) -> bool:
        """Whether there is a limit at all."""
        return bool(self.per_namespace or self.in_cluster)


@dataclass(frozen=True, slots=True, order=True)
class Ticket:
    """A release that waits for its turn; the smallest is the next."""

    since: datetime
    """When it was asked for."""
    namespace: str
    name: str

    @property
    def place(self) -> Place:
        """The Deployment."""
        return self.namespace, self.name


@dataclass(frozen=True, slots=True)
class Releases:
    """The releases of all the other Deployments, as one of them sees them."""

    own: Place
    limits: Limits
    under_way: frozenset[Place] = frozenset()
    waiting: tuple[Ticket, ...] = ()
    """Those that nothing holds but the limits."""


def may_start(releases: Releases, since: datetime) -> bool:
    """Tell whether it is this Deployment's turn, whose release was asked for at `since`."""
    mine = Ticket(since, *releases.own)
    return mine in admit(releases.under_way, (*releases.waiting, mine), releases.limits)


def admit(under_way: Iterable[Place], waiting: Iterable[Ticket], limits: Limits) -> tuple[Ticket, ...]:
    """Return those who may start now, the first one first."""
    busy = Counter(namespace for namespace, _ in under_way)
    admitted = []
    for ticket in sorted(waiting):
        if limits.in_cluster and busy.total() >= limits.in_cluster:
            break
        if limits.per_namespace and busy[ticket.namespace] >= limits.per_namespace:
            continue
        busy[ticket.namespace] += 1
        admitted.append(ticket)
    return tuple(admitted)


def describe_limits(limits: Limits) -> str:
    """Say what the limits are.

    >>> describe_limits(Limits(per_namespace=1, in_cluster=5))
    'at most 1 in a namespace, at most 5 in the cluster'
    """
    said = ((limits.per_namespace, "in a namespace"), (limits.in_cluster, "in the cluster"))
    return ", ".join(f"at most {number} {where}" for number, where in said if number)
