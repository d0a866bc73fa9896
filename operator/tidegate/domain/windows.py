"""Release windows: the times at which a new release may start, by the wall clock of a time zone. Pure.

A time that a change of the clock skips or repeats is read as iCalendar reads it (RFC 5545, 3.3.5): a skipped one by the
offset before the gap, a repeated one as the first of the two. A window of which the change leaves nothing does not open
on that day.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from tidegate.api.deployment import ReleaseWindow, Weekday

__all__ = ["Opening", "find_opening", "find_unknown_zone"]

DAY = timedelta(days=1)
DAYS_AHEAD = 15
"""A window opens at least once a week; a change of the clock can take one of its days away."""
MIDNIGHT = "24:00"
_WEEKDAYS = tuple(Weekday)


@dataclass(frozen=True, slots=True)
class Opening:
    """One time during which releases may start, in UTC."""

    opens: datetime
    closes: datetime
    zone: str
    """IANA name of the time zone of the window."""

    def __str__(self) -> str:
        """Say when it opens, in the words of the window."""
        return f"{self.opens.astimezone(ZoneInfo(self.zone)):%A %Y-%m-%d %H:%M} {self.zone}"


def find_unknown_zone(windows: Iterable[ReleaseWindow]) -> str | None:
    """Return the first time zone that nobody knows."""
    return next((each.time_zone for each in windows if not _is_known(each.time_zone)), None)


def find_opening(windows: Iterable[ReleaseWindow], now: datetime) -> Opening | None:
    """Return the time in which a release may start: the present one, or the next; None without windows."""
    ahead = (each for window in windows for each in _openings(window, now) if each.closes > now)
    return min(ahead, key=lambda each: each.opens, default=None)


def _openings(window: ReleaseWindow, now: datetime) -> Iterator[Opening]:
    """Yield when a window opens, from the day before on: it may last over midnight."""
    zone = ZoneInfo(window.time_zone)
    today = now.astimezone(zone).date()
    for day in (today + number * DAY for number in range(-1, DAYS_AHEAD)):
        if window.days is not None and _WEEKDAYS[day.weekday()] not in window.days:
            continue
        last = day if window.start < window.end else day + DAY
        opens, closes = _moment(day, window.start, zone), _moment(last, window.end, zone)
        if opens < closes:
            yield Opening(opens, closes, window.time_zone)


def _moment(day: date, clock: str, zone: ZoneInfo) -> datetime:
    if clock == MIDNIGHT:
        return _moment(day + DAY, "00:00", zone)
    return datetime.combine(day, time.fromisoformat(clock), zone).astimezone(UTC)


def _is_known(zone: str) -> bool:
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):  # a folder of zones, for example Europe, is an OSError
        return False
    return True
