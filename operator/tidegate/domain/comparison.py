"""A compare metric: what each look adds to the evidence against the canary, and what the evidence says.

Every look counts what came since the last one, of both versions, and adds it up in the status, from where the next
one goes on. A look that is not recorded is repeated from the same start, and one that cannot count leaves the start
where it is: so no request is counted twice, and neither a restart nor an outage of the metric source loses any::

    first traffic          until                     now
         │  in the status    │  this look: one block   │
         ├───────────────────┼─────────────────────────┤

A slow answer is one beyond stable's own quantile. That bound comes from a block of its own, the first one in which
stable has enough answers: a bound that is chosen after seeing what it shall judge would not be fair.
"""

from dataclasses import replace
from datetime import timedelta

from tidegate.api.deployment import Compare, Comparison, MetricResult, MetricSpec, Verdict
from tidegate.domain.analysis import Assessment, assess_measurement, record_measurement
from tidegate.domain.release import Counted, Measurement, Query
from tidegate.domain.sequential import BETS, Wealth, begin_bets, bet
from tidegate.domain.statistics import Proportion

__all__ = ["find_comparison", "record_comparison"]

BOUND_SAMPLES = 100
"""Answers of the stable version that its quantile is taken from, at least."""


def record_comparison(
    metric: MetricSpec, before: MetricResult | None, query: Query, measured: Measurement, window: timedelta
) -> MetricResult:
    """Return the result of a compare metric after one more look.

    Args:
        metric: The metric; it has ``compare``.
        before: Its last result in this release.
        query: What was asked.
        measured: What the source answered.
        window: So long without anything to compare is no data.
    """
    compare = metric.compare
    if compare is None:
        raise AssertionError("not a compare metric")
    old = find_comparison(metric, before) or Comparison(question=_question(metric), until=query.start)
    new = old if measured.error or measured.counted is None else _take_in(old, measured.counted, query, compare)
    assessed = _assess(metric, compare, new, query, measured, window)
    shown = measured if query.stable is None else _show(new, measured)
    return record_measurement(metric, before, shown, assessed, query.end, new)


def find_comparison(metric: MetricSpec, before: MetricResult | None) -> Comparison | None:
    """Return what was counted so far; None if nothing was, or the spec has asked another question then."""
    found = before.comparison if before else None
    return found if found and found.question == _question(metric) else None


def _question(metric: MetricSpec) -> str:
    compare = metric.compare
    return f"{metric.source} {compare.metric}, margin {compare.margin:g}" if compare else ""


def _take_in(old: Comparison, counted: Counted, query: Query, compare: Compare) -> Comparison:
    """Add one block; one that cannot be compared stays open, and the next look counts it, too."""
    if counted.bound is not None and query.bound is None:
        if counted.stable.samples < BOUND_SAMPLES:
            return old
        return old.model_copy(update={"until": query.end, "bound_milliseconds": counted.bound})
    past = _past(old)
    after = bet(_wealth(old), (counted.canary, counted.stable), past, compare.margin)
    if after.idle is not None:
        return old
    return Comparison(
        question=old.question,
        until=query.end,
        canary_samples=past[0].samples + counted.canary.samples,
        canary_bad=past[0].positive + counted.canary.positive,
        stable_samples=past[1].samples + counted.stable.samples,
        stable_bad=past[1].positive + counted.stable.positive,
        bound_milliseconds=old.bound_milliseconds,
        e_value=after.e_value,
        bets=after.bets,
        looks=after.looks,
    )


def _past(old: Comparison) -> tuple[Proportion, Proportion]:
    return Proportion(old.canary_samples, old.canary_bad), Proportion(old.stable_samples, old.stable_bad)


def _wealth(old: Comparison) -> Wealth:
    """Return the capital as it was recorded; one of another release of the operator is spread anew, which is fair."""
    bets = old.bets if len(old.bets) == BETS else begin_bets().bets
    return Wealth(old.e_value, bets, old.looks)


def _assess(
    metric: MetricSpec, compare: Compare, new: Comparison, query: Query, measured: Measurement, window: timedelta
) -> Assessment:
    if query.stable is None or measured.error:
        plain = assess_measurement(metric, measured, comparable=False)
        if plain.verdict is not Verdict.PASS:
            return plain
        return Assessment(Verdict.PASS, f"{metric.name}: not compared, the stable version gets no traffic")
    if measured.counted is None:
        return Assessment(Verdict.NO_DATA, f"{metric.name}: no data of one of the two versions")
    if new.until < query.end and query.end - query.start >= window:
        return Assessment(Verdict.NO_DATA, f"{metric.name}: nothing to compare since {query.start:%H:%M:%SZ}")
    return _judge(metric, compare, new)


def _judge(metric: MetricSpec, compare: Compare, new: Comparison) -> Assessment:
    """Judge the evidence of all looks."""
    counts = (
        f"{metric.name}: {new.canary_bad} bad of {new.canary_samples}, stable {new.stable_bad} of {new.stable_samples}"
    )
    if min(new.canary_samples, new.stable_samples) < compare.min_samples:
        message = f"{counts}; minSamples asks for {compare.min_samples} of each"
        return Assessment(Verdict.INCONCLUSIVE, message)
    evidence = f"e-value {new.e_value:.4g}, limit {1 / compare.alpha:.4g}"
    margin = f"worse by more than margin {compare.margin:.6g}"
    if new.e_value >= 1 / compare.alpha:
        return Assessment(Verdict.FAIL, f"{counts}: {margin} ({evidence})")
    return Assessment(Verdict.PASS, f"{counts}: not shown to be {margin} ({evidence})")


def _show(new: Comparison, measured: Measurement) -> Measurement:
    """Return the shares of bad ones of all looks together."""
    canary, stable = _past(new)
    return replace(measured, value=canary.value, stable_value=stable.value, samples=canary.samples)
