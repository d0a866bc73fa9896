"""Release windows: open by the wall clock of their zone, also where a change of the clock skips or repeats a time."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tidegate.api.deployment import ReleaseWindow, Weekday
from tidegate.domain.windows import find_opening, find_unknown_zone

BERLIN = "Europe/Berlin"


def window(start: str, end: str, *days: Weekday, zone: str = "UTC") -> ReleaseWindow:
    fields: dict[str, Any] = {"days": days} if days else {}
    return ReleaseWindow(start=start, end=end, time_zone=zone, **fields)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def opening(now: str, *windows: ReleaseWindow) -> tuple[datetime, datetime]:
    found = find_opening(windows, at(now))
    assert found is not None
    return found.opens, found.closes


def test_without_windows_there_is_nothing_to_wait_for() -> None:
    assert find_opening((), at("2026-01-01T00:00")) is None


@pytest.mark.parametrize(
    ("now", "opens", "closes"),
    [
        ("2026-01-01T08:59:59.999999", "2026-01-01T09:00", "2026-01-01T16:30"),
        ("2026-01-01T09:00", "2026-01-01T09:00", "2026-01-01T16:30"),
        ("2026-01-01T16:29:59.999999", "2026-01-01T09:00", "2026-01-01T16:30"),
        ("2026-01-01T16:30", "2026-01-02T09:00", "2026-01-02T16:30"),
    ],
)
def test_start_belongs_to_a_window_and_end_does_not(now: str, opens: str, closes: str) -> None:
    assert opening(now, window("09:00", "16:30")) == (at(opens), at(closes))


def test_days_are_days_of_the_zone() -> None:
    """It is Monday in Auckland while it is Sunday in UTC."""
    monday = window("00:00", "24:00", Weekday.MONDAY, zone="Pacific/Auckland")
    assert opening("2026-01-04T12:00", monday) == (at("2026-01-04T11:00"), at("2026-01-05T11:00"))


def test_an_end_before_the_start_is_on_the_next_day() -> None:
    """The day is the one on which it opens: early on Saturday the window of Friday is still open."""
    night = window("22:00", "04:00", Weekday.FRIDAY)
    assert opening("2026-01-03T03:59", night) == (at("2026-01-02T22:00"), at("2026-01-03T04:00"))
    assert opening("2026-01-03T04:00", night) == (at("2026-01-09T22:00"), at("2026-01-10T04:00"))


def test_of_several_windows_the_next_one_counts() -> None:
    windows = (window("20:00", "21:00"), window("10:00", "11:00", Weekday.WEDNESDAY))
    assert opening("2026-01-07T09:00", *windows)[0] == at("2026-01-07T10:00")
    assert opening("2026-01-07T11:00", *windows)[0] == at("2026-01-07T20:00")


@pytest.mark.parametrize(
    ("now", "opens", "closes"),
    [
        ("2026-03-28T12:00", "2026-03-29T07:00", "2026-03-29T08:00"),
        ("2026-03-27T12:00", "2026-03-28T08:00", "2026-03-28T09:00"),
        ("2026-10-24T12:00", "2026-10-25T08:00", "2026-10-25T09:00"),
        ("2026-10-23T12:00", "2026-10-24T07:00", "2026-10-24T08:00"),
    ],
)
def test_nine_o_clock_stays_nine_o_clock_when_the_clock_changes(now: str, opens: str, closes: str) -> None:
    assert opening(now, window("09:00", "10:00", zone=BERLIN)) == (at(opens), at(closes))


def test_a_skipped_time_counts_by_the_offset_before_the_change() -> None:
    """RFC 5545, 3.3.5: on 2026-03-29 the clock goes from 02:00 to 03:00, so 02:30 means 03:30 (01:30 UTC)."""
    assert opening("2026-03-29T00:00", window("02:30", "05:00", zone=BERLIN)) == (
        at("2026-03-29T01:30"),
        at("2026-03-29T03:00"),
    )


def test_a_window_of_which_the_change_leaves_nothing_waits_for_its_next_day() -> None:
    assert opening("2026-03-29T00:00", window("02:30", "03:00", Weekday.SUNDAY, zone=BERLIN)) == (
        at("2026-04-05T00:30"),
        at("2026-04-05T01:00"),
    )


def test_a_repeated_time_is_the_first_of_the_two() -> None:
    """On 2026-10-25 the clock goes from 03:00 back to 02:00: the window is open once, and is not opened again."""
    twice = window("02:15", "02:45", zone=BERLIN)
    assert opening("2026-10-25T00:00", twice) == (at("2026-10-25T00:15"), at("2026-10-25T00:45"))
    assert opening("2026-10-25T01:20", twice)[0] == at("2026-10-26T01:15")


ZONES = (BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC")
CLOCKS = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))


@given(
    now=st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)),
    start=CLOCKS,
    end=CLOCKS,
    days=st.sets(st.sampled_from(Weekday), min_size=1),
    zone=st.sampled_from(ZONES),
)
def test_any_window_opens_within_two_weeks_and_looks_the_same_until_it_closes(
    now: datetime, start: str, end: str, days: set[Weekday], zone: str
) -> None:
    """The time that is told stays the same up to the moment itself: nobody has to look again before."""
    if start == end:
        return
    windows = (ReleaseWindow(start=start, end=end, time_zone=zone, days=tuple(sorted(days))),)
    moment = now.replace(tzinfo=UTC)
    found = find_opening(windows, moment)
    assert found is not None
    assert moment < found.closes
    assert found.opens - moment <= timedelta(days=15)
    assert timedelta() < found.closes - found.opens <= timedelta(hours=25)
    for later in (found.opens, found.closes - timedelta(microseconds=1)):
        assert later < moment or find_opening(windows, later) == found


@given(
    now=st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)),
    start=CLOCKS,
    end=CLOCKS | st.just("24:00"),
    days=st.sets(st.sampled_from(Weekday), min_size=1),
    zone=st.sampled_from(ZONES),
)
def test_it_is_open_when_the_wall_clock_of_its_zone_says_so(
    now: datetime, start: str, end: str, days: set[Weekday], zone: str
) -> None:
    """Over midnight, too; days on which the clock changes have tests of their own."""
    local = now.replace(tzinfo=UTC).astimezone(ZoneInfo(zone))
    around = {(local + timedelta(days=number)).utcoffset() for number in (-2, 2)}
    assume(start != end and around == {local.utcoffset()})
    clock, today, yesterday = (f"{local:%H:%M}", *(tuple(Weekday)[local.weekday() - number] for number in (0, 1)))
    if start < end:
        is_open = today in days and start <= clock < end
    else:
        is_open = (today in days and clock >= start) or (yesterday in days and clock < end)
    found = find_opening([window(start, end, *sorted(days), zone=zone)], local)
    assert found is not None
    assert (found.opens <= local < found.closes) is is_open


@given(
    now=st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)),
    shorter=st.timedeltas(timedelta(), timedelta(days=20)),
    zone=st.sampled_from(ZONES),
)
def test_time_alone_never_brings_an_opening_nearer_than_it_was(now: datetime, shorter: timedelta, zone: str) -> None:
    """Also across changes of the clock, and for a time that they skip or repeat: what comes next only moves on."""
    windows = [window("02:15", "02:45", zone=zone), window("23:30", "01:30", Weekday.SATURDAY, zone=zone)]
    first, later = (find_opening(windows, each.replace(tzinfo=UTC)) for each in (now, now + shorter))
    assert first is not None
    assert later is not None
    assert first.opens <= later.opens


@pytest.mark.parametrize("zone", ["Europe/Berlln", "Europe", "Mars/Phobos", "UTC/..", "CEST+2"])
def test_a_zone_that_does_not_exist_is_found(zone: str) -> None:
    bad = ReleaseWindow.model_construct(days=None, start="09:00", end="10:00", time_zone=zone)
    assert find_unknown_zone((window("09:00", "10:00", zone=BERLIN), bad)) == zone


def test_zones_that_exist_are_known() -> None:
    assert find_unknown_zone([window("09:00", "10:00", zone=zone) for zone in ZONES]) is None
