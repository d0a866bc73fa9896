"""Looking at a Deployment again and again until something is so, or time is up."""

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from tidegate.cli.exits import Unreachable
from tidegate.cli.view import View

__all__ = ["Clock", "SystemClock", "wait_until"]

INTERVAL = 0.5
T = TypeVar("T")


class Clock(Protocol):
    """Time, so that tests need none."""

    def monotonic(self) -> float:
        """Return seconds that only grow."""

    def sleep(self, seconds: float) -> None:
        """Let this much time pass."""


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let this much time pass."""
        time.sleep(seconds)


def wait_until(
    look: Callable[[], View],
    find: Callable[[View], T | None],
    seconds: float,
    *,
    show: Callable[[View], object] = lambda _: None,
    clock: Clock | None = None,
) -> T | None:
    """Look until there is something to find; None when the time is up.

    A cluster that has answered once may be away for a while: a long wait survives the restart of an API server.

    Args:
        look: Reads the Deployment.
        find: Returns what is waited for, or None.
        seconds: How long to wait at most; it is looked at least once.
        show: Called with everything that was seen.
        clock: Stands in for the machine's clock.
    """
    time_of = clock or SystemClock()
    deadline = time_of.monotonic() + seconds
    answered = False
    while True:
        try:
            view = look()
            answered = True
            show(view)
        except Unreachable:
            if not answered:
                raise
        else:
            found = find(view)
            if found is not None:
                return found
        left = deadline - time_of.monotonic()
        if left <= 0:
            return None
        time_of.sleep(min(INTERVAL, left))
