"""Counting from raw samples: births, resets, gaps, staleness, quantiles."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.domain.release import Measurement
from tidegate.domain.requests import measure_error_rate, measure_request_rate
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


def growing(version: str, value: float, **labels: str) -> Series:
    """A series that grows by this in the window."""
    steps = [(float(at), value * (at - START) / (END - START)) for at in range(int(START), int(END) + 1)]
    return series(version, *steps, **labels)


def answers(version: str, good: float, bad: float, protocol: str = "http") -> list[Series]:
    """What Envoy counts by the class of the HTTP status."""
    counts = {"2": good, "5": bad}
    return [
        growing(version, count, envoy_response_code_class=code, tidegate_protocol=protocol)
        for code, count in counts.items()
    ]


def statuses(version: str, **counts: float) -> list[Series]:
    """What Envoy counts by gRPC status: s0=90 are 90 calls that ended well."""
    return [
        growing(version, count, envoy_grpc_status=status[1:], tidegate_protocol="grpc")
        for status, count in counts.items()
    ]


def test_share_of_errors() -> None:
    look = window(*answers("v1", 100, 0), *answers("v2", 90, 10))
    assert measure_error_rate(look, "v2") == Measurement(value=pytest.approx(0.1), samples=100)
    assert measure_error_rate(look, "v1") == Measurement(value=0.0, samples=100)


@pytest.mark.parametrize("status", [2, 4, 12, 13, 14, 15])
def test_grpc_failures_of_the_server_are_errors_although_they_are_200(status: int) -> None:
    look = window(*answers("v2", 100, 0, "grpc"), *statuses("v2", s0=80, **{f"s{status}": 20}))
    assert measure_error_rate(look, "v2") == Measurement(value=pytest.approx(0.2), samples=100)


@pytest.mark.parametrize("status", [1, 3, 5, 6, 7, 8, 9, 10, 11, 16])
def test_what_the_client_did_wrong_over_grpc_is_no_error(status: int) -> None:
    look = window(*answers("v2", 100, 0, "grpc"), *statuses("v2", s0=80, **{f"s{status}": 20}))
    assert measure_error_rate(look, "v2") == Measurement(value=0.0, samples=100)


def test_an_answer_of_envoy_itself_is_one_failure_although_it_is_counted_as_5xx_and_as_status() -> None:
    """10 calls found no server (503 and status 14), 20 ended with INTERNAL (200 and status 13)."""
    look = window(*answers("v2", 90, 10, "grpc"), *statuses("v2", s0=70, s13=20, s14=10))
    assert measure_error_rate(look, "v2") == Measurement(value=pytest.approx(0.3), samples=100)


def test_a_5xx_on_the_grpc_port_counts_without_a_status() -> None:
    look = window(*answers("v2", 90, 10, "grpc"), *statuses("v2", s0=90))
    assert measure_error_rate(look, "v2") == Measurement(value=pytest.approx(0.1), samples=100)


def test_failures_of_both_protocols_are_added_up_and_requests_are_counted_once() -> None:
    look = window(*answers("v2", 90, 10), *answers("v2", 100, 0, "grpc"), *statuses("v2", s0=70, s13=30))
    assert measure_error_rate(look, "v2") == Measurement(value=pytest.approx(0.2), samples=200)
    assert measure_request_rate(look, "v2") == Measurement(value=pytest.approx(20.0), samples=200)


def test_the_first_grpc_failure_of_all_counts_because_requests_were_counted_before() -> None:
    requests = steady("v1", 100, envoy_response_code_class="2", tidegate_protocol="grpc")
    born = series("v2", (105.0, 10.0), (110.0, 10.0), envoy_response_code_class="2", tidegate_protocol="grpc")
    failed = series("v2", (105.0, 4.0), (110.0, 5.0), envoy_grpc_status="13", tidegate_protocol="grpc")
    assert measure_error_rate(window(requests, born, failed), "v2").value == 0.5


def test_statuses_alone_are_no_requests() -> None:
    """A stream that ended in the window but began before it."""
    look = window(*statuses("v2", s13=1), *answers("v1", 5, 0))
    assert measure_error_rate(look, "v2") == Measurement()


def test_no_series_and_stale_series_are_no_data_and_no_traffic_is_no_value() -> None:
    look = window(steady("v1"), steady("idle"), steady("stale", until=101))
    assert measure_share(look, look, "unknown") == Measurement()
    assert measure_share(look, look, "stale") == Measurement()
    assert measure_rate(look, "stale") == Measurement()
    assert measure_share(look, look, "idle") == Measurement(samples=0)
    assert measure_rate(look, "idle") == Measurement(value=0.0, samples=0)


def test_slow_scrapes_are_not_stale() -> None:
    slow = series("v2", (60.0, 0.0), (75.0, 10.0), (90.0, 20.0), (105.0, 30.0))
    assert measure_rate(window(slow), "v2") == Measurement(value=1.0, samples=10)


def test_share_never_leaves_its_range() -> None:
    """Two counters of one producer may be scraped in the middle of an update."""
    total = window(series("v2", (99.0, 0.0), (110.0, 10.0)))
    positive = window(series("v2", (99.0, 0.0), (110.0, 11.0)))
    assert measure_share(positive, total, "v2").value == 1.0


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
