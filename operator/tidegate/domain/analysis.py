"""What the metrics say about a release: five verdicts, five limits.

==============  ===================================  ==========================================================
verdict         what was measured                    what follows
==============  ===================================  ==========================================================
Pass            within the bounds                    the step may end
Fail            outside the (fail) bounds            more than ``failureLimit`` in one release: roll back
Inconclusive    between the bounds, or too few       hold; more than ``inconclusiveLimit`` in a row: a person
                samples                              decides
NoData          nothing, NaN or infinite             ``noData``: Hold, or count it as Fail or as Pass
Error           the source is down                   hold; more than ``errorLimit`` in a row: people are told.
                                                     It never rolls back and never promotes
==============  ===================================  ==========================================================

A dry-run metric is measured, counted and shown, and decides nothing.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from tidegate.api.deployment import Comparison, MetricResult, MetricSpec, NoDataPolicy, Verdict
from tidegate.domain.reasons import Reason
from tidegate.domain.release import Measurement

__all__ = [
    "Assessment",
    "Conclusion",
    "assess_measurement",
    "conclude",
    "forgive",
    "record_measurement",
]


@dataclass(frozen=True, slots=True)
class Assessment:
    """The verdict on one measurement, with the numbers in words."""

    verdict: Verdict
    message: str


class Say(StrEnum):
    """What all metrics together say."""

    GO = "Go"
    HOLD = "Hold"
    FAIL = "Fail"


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What all metrics together say, with the metric that decided."""

    say: Say
    reason: Reason
    message: str = ""
    stalled: bool = False
    """People have to be told now: a limit is exceeded."""
    needs_person: bool = False
    """It does not go on by itself, whatever is measured next."""
    evidence: Mapping[str, str] = field(default_factory=dict)


def assess_measurement(metric: MetricSpec, measured: Measurement, *, comparable: bool) -> Assessment:
    """Judge one measurement of one metric.

    Args:
        metric: The metric and its bounds.
        measured: What the source answered.
        comparable: Whether the stable version gets traffic to compare with.
    """
    if measured.error is not None:
        return Assessment(Verdict.ERROR, f"{metric.name}: the metric source failed: {measured.error}")
    if measured.value is None or not math.isfinite(measured.value):
        return Assessment(Verdict.NO_DATA, f"{metric.name}: no data")
    few = _too_few(metric, measured.samples)
    return few or _within(metric, measured.value, measured.stable_value, comparable=comparable)


def _too_few(metric: MetricSpec, samples: int | None) -> Assessment | None:
    if not metric.min_samples or (samples is not None and samples >= metric.min_samples):
        return None
    known = "an unknown number of" if samples is None else str(samples)
    message = f"{metric.name}: {known} samples of the {metric.min_samples} that minSamples asks for"
    return Assessment(Verdict.INCONCLUSIVE, message)


def _within(metric: MetricSpec, value: float, stable: float | None, *, comparable: bool) -> Assessment:
    """Compare with every bound; a failed one outweighs an inconclusive one, and that a passed one."""
    upper = metric.max if metric.max is not None else metric.max_milliseconds
    found = [
        _below_lower(metric, value),
        _above_upper(value, upper, metric.fail_above),
        _dropped(metric, value, stable) if comparable else None,
    ]
    problems = [each for each in found if each is not None]
    worst = next((each for each in problems if each.verdict is Verdict.FAIL), problems[0] if problems else None)
    if worst is None:
        return Assessment(Verdict.PASS, f"{metric.name} = {value:.6g} is within its bounds")
    return Assessment(worst.verdict, f"{metric.name} = {value:.6g} {worst.message}")


def _below_lower(metric: MetricSpec, value: float) -> Assessment | None:
    if metric.min is None:
        failed = metric.fail_below is not None and value < metric.fail_below
        return Assessment(Verdict.FAIL, f"is below failBelow {metric.fail_below:.6g}") if failed else None
    if value >= metric.min:
        return None
    if metric.fail_below is not None and value >= metric.fail_below:
        return Assessment(
            Verdict.INCONCLUSIVE, f"is between failBelow {metric.fail_below:.6g} and min {metric.min:.6g}"
        )
    return Assessment(Verdict.FAIL, f"is below min {metric.min:.6g}")


def _above_upper(value: float, upper: float | None, fail_above: float | None) -> Assessment | None:
    if upper is None:
        failed = fail_above is not None and value > fail_above
        return Assessment(Verdict.FAIL, f"is above failAbove {fail_above:.6g}") if failed else None
    if value <= upper:
        return None
    if fail_above is not None and value <= fail_above:
        return Assessment(Verdict.INCONCLUSIVE, f"is between max {upper:.6g} and failAbove {fail_above:.6g}")
    return Assessment(Verdict.FAIL, f"is above max {upper:.6g}")


def _dropped(metric: MetricSpec, value: float, stable: float | None) -> Assessment | None:
    if metric.max_drop is None:
        return None
    if stable is None or not math.isfinite(stable):
        return Assessment(Verdict.INCONCLUSIVE, "cannot be compared: no data of the stable version")
    if value >= stable - metric.max_drop:
        return None
    return Assessment(Verdict.FAIL, f"is more than maxDrop {metric.max_drop:.6g} below stable's {stable:.6g}")


def record_measurement(
    metric: MetricSpec,
    before: MetricResult | None,
    measured: Measurement,
    assessed: Assessment,
    now: datetime,
    comparison: Comparison | None = None,
) -> MetricResult:
    """Return the result of a metric after one more measurement, its counters moved on.

    The inconclusive counter stays beyond its limit once it got there: a person has been asked to decide.
    """
    old = before or MetricResult(name=metric.name, verdict=assessed.verdict)
    in_a_row = old.consecutive_inconclusive + 1 if assessed.verdict is Verdict.INCONCLUSIVE else 0
    if _asks_person(metric, old):
        in_a_row = max(in_a_row, old.consecutive_inconclusive)
    return MetricResult(
        name=metric.name,
        verdict=assessed.verdict,
        value=_finite(measured.value),
        stable_value=_finite(measured.stable_value),
        samples=measured.samples,
        interval=measured.interval,
        comparison=comparison,
        message=assessed.message,
        at=now,
        measurements=old.measurements + 1,
        passes=old.passes + (_effective(metric, assessed.verdict) is Verdict.PASS),
        failures=old.failures + (_effective(metric, assessed.verdict) is Verdict.FAIL),
        consecutive_errors=old.consecutive_errors + 1 if assessed.verdict is Verdict.ERROR else 0,
        consecutive_inconclusive=in_a_row,
        dry_run=metric.dry_run,
    )


def conclude(metrics: Sequence[MetricSpec], results: Iterable[MetricResult]) -> Conclusion:
    """Combine the last results of all metrics: the worst decides, in the order Fail, asks a person, hold, go."""
    last = {result.name: result for result in results}
    pairs = [(metric, last[metric.name]) for metric in metrics if metric.name in last and not metric.dry_run]
    for check in (_failed, _ask_person, _source_down, _hold):
        for metric, result in pairs:
            conclusion = check(metric, result)
            if conclusion is not None:
                return conclusion
    return Conclusion(Say.GO, Reason.ANALYSIS_PASSED, "every metric passed" if pairs else "")


def forgive(results: Iterable[MetricResult]) -> tuple[MetricResult, ...]:
    """Return the results with their limits unused again, and no evidence held against the canary: a person decided."""
    fresh = {"failures": 0, "consecutive_errors": 0, "consecutive_inconclusive": 0}
    return tuple(
        result.model_copy(update={**fresh, "comparison": _without_evidence(result.comparison)}) for result in results
    )


def _without_evidence(comparison: Comparison | None) -> Comparison | None:
    return comparison and comparison.model_copy(update={"e_value": 1.0, "bets": (), "looks": 0})


def _failed(metric: MetricSpec, result: MetricResult) -> Conclusion | None:
    if result.failures <= metric.failure_limit:
        return None
    return Conclusion(Say.FAIL, Reason.ANALYSIS_FAILED, result.message, evidence=_evidence(metric, result))


def _ask_person(metric: MetricSpec, result: MetricResult) -> Conclusion | None:
    if not _asks_person(metric, result):
        return None
    message = f"{result.consecutive_inconclusive} inconclusive measurements in a row; {result.message}"
    return Conclusion(
        Say.HOLD, Reason.INCONCLUSIVE_LIMIT, message, needs_person=True, evidence=_evidence(metric, result)
    )


def _source_down(metric: MetricSpec, result: MetricResult) -> Conclusion | None:
    if result.consecutive_errors <= metric.error_limit:
        return None
    message = f"{result.consecutive_errors} errors in a row; {result.message}"
    return Conclusion(Say.HOLD, Reason.METRIC_SOURCE_ERROR, message, stalled=True, evidence=_evidence(metric, result))


_HOLDS = {
    Verdict.FAIL: Reason.TOLERATED_FAILURE,
    Verdict.INCONCLUSIVE: Reason.INCONCLUSIVE,
    Verdict.NO_DATA: Reason.NO_DATA,
    Verdict.ERROR: Reason.METRIC_SOURCE_ERROR,
}


def _hold(metric: MetricSpec, result: MetricResult) -> Conclusion | None:
    if _effective(metric, result.verdict) is Verdict.PASS:
        return None
    return Conclusion(Say.HOLD, _HOLDS[result.verdict], result.message, evidence=_evidence(metric, result))


def _effective(metric: MetricSpec, verdict: Verdict) -> Verdict:
    """Replace NoData by what the metric's policy makes of it."""
    if verdict is not Verdict.NO_DATA or metric.no_data is NoDataPolicy.HOLD:
        return verdict
    return Verdict.FAIL if metric.no_data is NoDataPolicy.FAIL else Verdict.PASS


def _asks_person(metric: MetricSpec, result: MetricResult) -> bool:
    return metric.inconclusive_limit is not None and result.consecutive_inconclusive > metric.inconclusive_limit


def _evidence(metric: MetricSpec, result: MetricResult) -> dict[str, str]:
    numbers = {
        "metric": metric.name,
        "verdict": result.verdict.value,
        "value": _number(result.value),
        "stableValue": _number(result.stable_value),
        "samples": _number(result.samples),
        "interval": " to ".join(_number(each) for each in result.interval or ()),
        "failures": f"{result.failures} (limit {metric.failure_limit})",
        **_counts(metric, result.comparison),
    }
    return {key: value for key, value in numbers.items() if value}


def _counts(metric: MetricSpec, comparison: Comparison | None) -> dict[str, str]:
    if comparison is None or metric.compare is None:
        return {}
    return {
        "canary": f"{comparison.canary_bad} of {comparison.canary_samples}",
        "stable": f"{comparison.stable_bad} of {comparison.stable_samples}",
        "boundMilliseconds": _number(comparison.bound_milliseconds),
        "eValue": f"{comparison.e_value:.4g} (limit {1 / metric.compare.alpha:.4g})",
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
