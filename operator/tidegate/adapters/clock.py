"""The time of this machine."""

from datetime import UTC, datetime

__all__ = ["SystemClock"]


class SystemClock:
    """The port `Clock`."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)
