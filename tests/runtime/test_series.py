"""Counting from raw samples: births, resets, gaps, staleness, quantiles."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.domain.release import Measurement
from tidegate.domain.series import Series, Window, increase, measure_quantile, measure_rate, measure_share, quantile

START, END = 100.0, 110.0


def series(version: str, *samples: tuple[float, float], **labels: str) -> Series:
    return Series({"tidegate_version": version} | labels, samples)


def steady(version: str, value: float = 0, *, until: float = END, **labels: str) -> Series:
    """A series that was always there and does not change."""
    return series(version, *((float(at), value) for at in range(80, int(until) + 1)), **labels)


def window(*found: Series) -> Window:
    return Window(found, START, END)


def test_known_series_count_from_their_last_sample_before_the_window() -> None:
    grows = series("v2", *((float(at), float(at)) for at in range(80, 111)))
    assert window(grows).count([grows]) == 10


def test_series_born_in_the_window_count_from_zero_because_others_were_scraped_before() -> None:
    born = series("v2", (105.0, 7.0), (106.0, 9.0), (110.0, 12.0))
    assert window(steady("v1"), born).count([born]) == 12
    one_sample = series("v2", (110.0, 5.0))
    assert window(steady("v1"), one_sample).count([one_sample]) == 5


def test_after_an_outage_of_prometheus_nobody_is_taken_for_newborn() -> None:
    first, second = (series(version, *((float(at), 1e6 + at) for at in range(104, 111))) for version in ("v1", "v2"))
    look = window(first, second)
    assert look.count([second]) == 6


def test_restarted_proxy_counts_on() -> None:
    reset = series("v2", (99.0, 1000.0), (104.0, 1004.0), (105.0, 2.0), (110.0, 5.0))
    assert window(reset).count([reset]) == 4 + 2 + 3


def test_several_proxies_are_added_up() -> None:
    found = [series("v2", (99.0, 0.0), (110.0, n), pod=str(n)) for n in (1.0, 2.0, 3.0)]
    assert window(*found).count(found) == 6


def errors(version: str, good: float, bad: float) -> list[Series]:
    def one(value: float, code: str) -> Series:
        steps = [(float(at), value * (at - START) / (END - START)) for at in range(int(START), int(END) + 1)]
        return series(version, *steps, envoy_response_code_class=code)

    return [one(good, "2"), one(bad, "5")]


def is_error(each: Series) -> bool:
    return each.labels.get("envoy_response_code_class") == "5"


def test_share_of_errors() -> None:
    look = window(*errors("v1", 100, 0), *errors("v2", 90, 10))
    assert measure_share(look, look, "v2", is_error) == Measurement(value=pytest.approx(0.1), samples=100)
    assert measure_share(look, look, "v1", is_error) == Measurement(value=0.0, samples=100)


def test_no_series_and_stale_series_are_no_data_and_no_traffic_is_no_value() -> None:
    look = window(steady("v1"), steady("idle"), steady("stale", until=101))
    assert measure_share(look, look, "unknown", is_error) == Measurement()
    assert measure_share(look, look, "stale", is_error) == Measurement()
    assert measure_rate(look, "stale") == Measurement()
    assert measure_share(look, look, "idle", is_error) == Measurement(samples=0)
    assert measure_rate(look, "idle") == Measurement(value=0.0, samples=0)


def test_slow_scrapes_are_not_stale() -> None:
    slow = series("v2", (60.0, 0.0), (75.0, 10.0), (90.0, 20.0), (105.0, 30.0))
    assert measure_rate(window(slow), "v2") == Measurement(value=1.0, samples=10)


def test_share_never_leaves_its_range() -> None:
    """Two counters of one producer may be scraped in the middle of an update."""
    total = window(series("v2", (99.0, 0.0), (110.0, 10.0)))
    positive = window(series("v2", (99.0, 0.0), (110.0, 11.0)))
    assert measure_share(positive, total, "v2", lambda _: True).value == 1.0


def buckets(version: str, *counts: tuple[str, float], pod: str = "a") -> list[Series]:
    return [series(version, (99.0, 0.0), (110.0, count), le=bound, pod=pod) for bound, count in counts]


def test_quantile_over_all_proxies() -> None:
    one = buckets("v2", ("1", 10), ("5", 90), ("+Inf", 100))
    two = buckets("v2", ("1", 90), ("5", 100), ("+Inf", 100), pod="b")
    look = window(*one, *two)
    assert measure_quantile(look, "v2", 0.5) == Measurement(value=1.0, samples=200)
    assert measure_quantile(look, "v2", 0.95).value == pytest.approx(5.0)
    assert measure_quantile(look, "v2", 0.99).value == 5.0, "beyond the last bound, nothing more is known"
    assert measure_quantile(look, "other", 0.5) == Measurement()


@pytest.mark.parametrize(
    ("share", "counts", "value"),
    [
        (0.5, [], None),
        (0.5, [(1, 0), (float("inf"), 0)], None),
        (0.5, [(1, 10), (float("inf"), 10)], 0.5),
        (0.0, [(1, 0), (2, 10), (float("inf"), 10)], 1.0),
        (1.0, [(1, 0), (2, 10), (float("inf"), 10)], 2.0),
        (0.99, [(1, 0), (2, 0), (float("inf"), 10)], 2.0),
        (0.5, [(1, 5), (2, 4), (3, 10), (float("inf"), 10)], 1.0),
    ],
)
def test_quantiles(share: float, counts: list[tuple[float, float]], value: float | None) -> None:
    assert quantile(share, counts) == (None if value is None else pytest.approx(value))


values = st.lists(st.floats(min_value=0, max_value=1e9), min_size=1, max_size=30)


@given(values)
def test_increase_is_never_negative_and_at_least_the_difference(found: list[float]) -> None:
    counted = increase(list(enumerate(found)))
    assert counted >= 0
    assert counted >= found[-1] - found[0] - 1e-6 * max(found)


@given(st.lists(st.integers(min_value=0, max_value=1000), min_size=1, max_size=20), st.floats(min_value=0, max_value=1))
def test_quantiles_lie_within_the_bounds(counts: list[int], share: float) -> None:
    total, cumulative = 0, []
    for bound, count in enumerate(counts):
        total += count
        cumulative.append((float(bound + 1), float(total)))
    found: Any = quantile(share, [*cumulative, (float("inf"), float(total))])
    assert (found is None) == (total == 0)
    if found is not None:
        assert 0 <= found <= len(counts)
