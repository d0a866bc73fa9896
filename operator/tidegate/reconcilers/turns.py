"""Whose turn it is to release, where the number of releases at once is limited: one memory for all Deployments."""

from collections.abc import Callable
from datetime import datetime

from pydantic import ValidationError

from tidegate.api.deployment import DeploymentStatus
from tidegate.domain.admission import Limits, Place, Releases, Ticket, admit
from tidegate.domain.conditions import find_condition
from tidegate.domain.reasons import Reason
from tidegate.ports import DEPLOYMENT, Key, Kind, Manifest

__all__ = ["Turns"]


class Turns:
    """Knows which releases are under way, and which wait for nothing but their turn.

    What is planned takes its place at once, before it is written: of two Deployments that are reconciled at the same
    time, the second sees what the first is about to do. A place is given back only when that is written; so one whose
    taking was written and the answer lost is not given away. Whoever waits is woken when the turn comes, nobody else.
    """

    def __init__(self, limits: Limits, wake: Callable[[Key], None]) -> None:
        """Call `wake` with every Deployment whose turn has come; without limits there is nothing to remember."""
        self._limits = limits
        self._wake = wake
        self._under_way: set[Place] = set()
        self._waiting: dict[Place, datetime] = {}

    def look(self, key: Key) -> Releases | None:
        """Return the releases of all other Deployments; None without limits."""
        if not self._limits:
            return None
        own = _place(key)
        waiting = tuple(each for each in self._tickets() if each.place != own)
        return Releases(own, self._limits, frozenset(self._under_way - {own}), waiting)

    def plan(self, key: Key, status: DeploymentStatus) -> None:
        """Take the place, or the number in the queue, that is about to be written."""
        place, since = _place(key), _waits_since(status)
        if not self._limits:
            return
        if _is_under_way(status):
            self._under_way.add(place)
            self._waiting.pop(place, None)
        elif since is not None:
            self._waiting[place] = since

    def confirm(self, key: Key, status: DeploymentStatus) -> None:
        """Take over what is written; a place that is free now goes to the next."""
        place = _place(key)
        before = (place in self._under_way, self._waiting.get(place))
        self._under_way.discard(place)
        self._waiting.pop(place, None)
        self.plan(key, status)
        if before != (place in self._under_way, self._waiting.get(place)):
            self._wake_next()

    def notice(self, kind: Kind, before: Manifest | None, after: Manifest | None) -> None:
        """Take over what a Deployment says that was seen in the cluster; None stands for absent."""
        present = after or before
        if kind != DEPLOYMENT or present is None or not self._limits:
            return
        metadata = present["metadata"]
        self.confirm(Key(kind, metadata.get("namespace", ""), metadata["name"]), _read_status(after))

    def _wake_next(self) -> None:
        for ticket in admit(self._under_way, self._tickets(), self._limits):
            self._wake(Key(DEPLOYMENT, *ticket.place))

    def _tickets(self) -> list[Ticket]:
        return [Ticket(since, *place) for place, since in self._waiting.items()]


def _place(key: Key) -> Place:
    return key.namespace, key.name


def _read_status(manifest: Manifest | None) -> DeploymentStatus:
    """Read the status; what is gone, on its way out or not to be understood takes no place."""
    if manifest is None or manifest["metadata"].get("deletionTimestamp"):
        return DeploymentStatus()
    try:
        return DeploymentStatus.model_validate(manifest.get("status") or {})
    except ValidationError:
        return DeploymentStatus()


def _is_under_way(status: DeploymentStatus) -> bool:
    """Tell whether a version is being replaced; a first release takes nobody's turn."""
    return status.canary is not None and status.stable is not None


def _waits_since(status: DeploymentStatus) -> datetime | None:
    """Return since when a release waits for its turn; one that has another problem by now is passed over."""
    ready = find_condition(status.conditions, "Ready")
    is_waiting = ready is not None and ready.reason == Reason.RELEASE_LIMIT
    return status.held.since if status.held is not None and is_waiting else None
