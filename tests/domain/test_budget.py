"""The error budget, whatever the objective and the share of requests that failed; single values: test_permission.py."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tidegate.api.deployment import BudgetResult, ErrorBudget
from tidegate.domain.budget import BUDGET_INTERVAL, is_fresh, is_spent, is_unknown, record_budget
from tidegate.domain.release import Measurement

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OBJECTIVES = st.floats(0, 100, exclude_min=True, exclude_max=True)
SHARES = st.floats(0, 1)


def record(objective: float, failed: float | None) -> BudgetResult:
    return record_budget(ErrorBudget(objective=objective), Measurement(failed, samples=1000), NOW)


def left(objective: float, failed: float | None) -> float:
    found = record(objective, failed).remaining_percent
    assert found is not None
    return found


@given(OBJECTIVES, SHARES, SHARES)
def test_more_failures_never_leave_more(objective: float, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert left(objective, less) >= left(objective, more)
    assert is_spent(record(objective, more)) >= is_spent(record(objective, less))


@given(OBJECTIVES, OBJECTIVES, SHARES)
def test_a_stricter_objective_never_leaves_more(one: float, other: float, failed: float) -> None:
    lax, strict = sorted((one, other))
    assert left(lax, failed) >= left(strict, failed)


@given(OBJECTIVES, SHARES)
def test_it_is_spent_when_as_many_failed_as_may(objective: float, failed: float) -> None:
    """The bound is the objective in percent, of which a share is left to fail; 1e-8 of it is lost in rounding."""
    spent = 100 * failed / (100 - objective)
    assume(abs(spent - 1) > 1e-8)
    assert is_spent(record(objective, failed)) is (spent > 1)


@given(OBJECTIVES, st.none() | SHARES)
def test_what_is_left_is_a_number_that_json_knows(objective: float, failed: float | None) -> None:
    found = record(objective, failed)
    assert not is_unknown(found)
    assert found.remaining_percent is not None
    assert math.isfinite(found.remaining_percent)
    assert found.remaining_percent <= 100
    assert BudgetResult.model_validate_json(found.model_dump_json(by_alias=True)) == found


@given(OBJECTIVES)
def test_where_nobody_asked_anything_all_of_it_is_left(objective: float) -> None:
    assert left(objective, None) == left(objective, 0.0) == 100


@pytest.mark.parametrize("failed", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_leaves_nothing_known_and_says_where_to_look(failed: float) -> None:
    """Prometheus may hold NaN and infinities; a budget that JSON does not know would never be written."""
    found = record(99.9, failed)
    assert is_unknown(found)
    assert not is_spent(found)
    assert (found.failed_percent, found.requests) == (None, None)
    assert f"gave {failed}" in found.message
    assert "look in Prometheus for samples of envoy_cluster_upstream_rq_xx" in found.message
    assert BudgetResult.model_validate_json(found.model_dump_json(by_alias=True)) == found


@given(st.timedeltas(timedelta(), timedelta(days=1)))
def test_a_result_holds_for_its_interval(later: timedelta) -> None:
    assert is_fresh(record(99.9, 0.0), NOW + later) is (later < BUDGET_INTERVAL)
    assert not is_fresh(None, NOW + later)
