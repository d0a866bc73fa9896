"""The error budget of an endpoint: how much of it is left, and when it is measured. Pure.

With an objective of 99.9 % one request in a thousand may fail; that is the budget of the window. Every request that a
user made counts, whichever version answered it: a canary that was taken back has spent from it, too.
"""

import math
from datetime import datetime, timedelta

from tidegate.api.base import format_duration
from tidegate.api.deployment import BudgetResult, ErrorBudget
from tidegate.domain.release import Measurement
from tidegate.domain.requests import GRPC_STATUSES, REQUESTS

__all__ = ["BUDGET_INTERVAL", "describe_budget", "is_fresh", "is_spent", "is_unknown", "record_budget"]

BUDGET_INTERVAL = timedelta(minutes=1)
"""A budget of days does not change within seconds, and reading it is no small question."""


def record_budget(budget: ErrorBudget, measured: Measurement, now: datetime) -> BudgetResult:
    """Return what is left: 100 % where nobody asked anything, nothing known where the source gave no number."""
    if measured.error is not None:
        return BudgetResult(at=now, message=measured.error)
    failed = measured.value or 0.0
    if not math.isfinite(failed):
        return BudgetResult(at=now, message=_say_no_number(failed))
    left = round(100 * (1 - failed / _allowed(budget)), 6)
    result = BudgetResult(at=now, remaining_percent=left, requests=measured.samples or 0, failed_percent=100 * failed)
    return result.model_copy(update={"message": _say(budget, result)})


def is_fresh(result: BudgetResult | None, now: datetime) -> bool:
    """Tell whether a release may rest on this result."""
    return result is not None and now < result.at + BUDGET_INTERVAL


def is_unknown(result: BudgetResult) -> bool:
    """Tell whether the source gave no number."""
    return result.remaining_percent is None


def is_spent(result: BudgetResult) -> bool:
    """Tell whether nothing is left."""
    return result.remaining_percent is not None and result.remaining_percent <= 0


def describe_budget(result: BudgetResult) -> dict[str, str]:
    """Return the numbers behind a decision."""
    if result.remaining_percent is None:
        return {"error": result.message}
    return {
        "remaining": f"{result.remaining_percent:.4g} %",
        "failed": f"{result.failed_percent or 0:.4g} %",
        "requests": str(result.requests),
    }


def _allowed(budget: ErrorBudget) -> float:
    """Return the share of requests that may fail."""
    return (100 - budget.objective) / 100


def _say_no_number(failed: float) -> str:
    said = f"the metric source gave {failed} for the share of requests that failed, which is no number"
    return f"{said}; look in Prometheus for samples of {REQUESTS} and {GRPC_STATUSES} that are NaN or infinite"


def _say(budget: ErrorBudget, result: BudgetResult) -> str:
    window = format_duration(budget.window)
    said = f"{result.failed_percent or 0:.4g} % of {result.requests} requests of the last {window} failed"
    return f"{said}, {100 * _allowed(budget):.4g} % may"
