"""When metrics are measured, and whether a step has the evidence to end."""

from dataclasses import replace
from datetime import datetime, timedelta

from tidegate.api.deployment import AnalysisStep, MetricResult, MetricSpec
from tidegate.domain.analysis import Conclusion, Say, assess_measurement, conclude, record_measurement
from tidegate.domain.comparison import find_comparison, record_comparison
from tidegate.domain.promql import find_fault
from tidegate.domain.reasons import Reason
from tidegate.domain.release import Query
from tidegate.domain.shadow import DISAGREEMENT, assess_disagreement
from tidegate.domain.situation import Situation, identify

__all__ = ["assess_passes", "assess_time", "find_queries", "find_query_fault", "measure", "next_measurement"]

WINDOW_INTERVALS = 10


def find_queries(s: Situation) -> tuple[Query, ...]:
    """Return the metrics that are due now."""
    due = next_measurement(s)
    if due is None or s.now < due:
        return ()
    looked_at = (metric for metric in s.metrics if s.now >= _first_look(s, metric))
    return tuple(_query(s, metric) for metric in looked_at if not _fault(metric))


def find_query_fault(s: Situation) -> str | None:
    """Return what a person has to correct in the first query that cannot be asked; None while there is none."""
    for metric in s.spec.analysis.metrics:
        fault = _fault(metric)
        if fault is not None:
            return f"the query of {metric.name} cannot be asked: {fault}; correct analysis.metrics[].query"
    return None


def _fault(metric: MetricSpec) -> str | None:
    return find_fault(metric.query) if metric.query is not None else None


def next_measurement(s: Situation) -> datetime | None:
    """Return when to measure next: every interval, and at the latest when the step's time is over."""
    metrics = s.metrics
    if not metrics or not s.is_analysed or not s.is_asked_for(identify(s.canary)):
        return None
    due = (s.status.analysed_at or _first_traffic(s)) + s.spec.analysis.interval
    end = _unmeasured_end(s)
    return max(due if end is None else min(due, end), min(_first_look(s, metric) for metric in metrics))


def measure(s: Situation) -> Situation:
    """Take in the measurements that were due and fetched."""
    taken = {query.metric.name: query for query in find_queries(s) if query.metric.name in s.observed.measurements}
    if not taken:
        return s
    before = {result.name: result for result in s.status.analysis}
    results = []
    for metric in s.metrics:
        result = before.get(metric.name)
        if metric.name in taken:
            result = _record(s, result, taken[metric.name])
        if result is not None:
            results.append(result)
    return s.update(analysis=tuple(results), analysed_at=s.now)


def _record(s: Situation, before: MetricResult | None, query: Query) -> MetricResult:
    metric = query.metric
    measured = s.observed.measurements[metric.name]
    if metric.compare is not None:
        return record_comparison(metric, before, query, measured, _window(s))
    if query.mirrored and metric.name == DISAGREEMENT:
        shown, said = assess_disagreement(s.spec.strategy.shadow, measured)
        return record_measurement(metric, before, shown, said, s.now)
    assessed = assess_measurement(metric, measured, comparable=query.stable is not None)
    return record_measurement(metric, before, measured, assessed, s.now)


def assess_time(s: Situation, began: datetime) -> Conclusion:
    """Say whether the evidence since `began` lets the step, or the bake time, end."""
    if not s.is_analysed:
        return Conclusion(Say.GO, Reason.ANALYSIS_PASSED)
    conclusion = s.conclusion
    if conclusion.say is not Say.GO:
        return conclusion
    measured = {result.name: result.at for result in s.status.analysis}
    for metric in s.metrics:
        at = measured.get(metric.name)
        if _is_required(s, metric) and (at is None or at < began):
            return Conclusion(Say.HOLD, Reason.WAITING_FOR_MEASUREMENT, f"{metric.name} is measured next")
    return conclusion


def assess_passes(s: Situation, wanted: AnalysisStep) -> Conclusion:
    """Say whether the metrics of an analysis step have passed so often that it may end; the others need not."""
    names = wanted.metrics or tuple(metric.name for metric in s.spec.analysis.metrics)
    metrics = [metric for metric in s.spec.analysis.metrics if metric.name in names and not metric.dry_run]
    conclusion = conclude(metrics, s.status.analysis)
    if conclusion.say is not Say.GO:
        return conclusion
    passes = {result.name: result.passes for result in s.status.analysis}
    open_ones = [metric.name for metric in metrics if passes.get(metric.name, 0) < wanted.count]
    if not open_ones:
        return conclusion
    message = ", ".join(f"{name} has passed {passes.get(name, 0)} of {wanted.count} times" for name in open_ones)
    return Conclusion(Say.HOLD, Reason.WAITING_FOR_MEASUREMENT, message)


def _is_required(s: Situation, metric: MetricSpec) -> bool:
    """Tell whether a step may not end without this metric: a delayed one counts from its delay on, and before 100 %."""
    if metric.dry_run:
        return False
    leads_to_all = s.is_last_step or s.steps[s.canary.step + 1].percent >= 100
    return leads_to_all or s.now >= _first_look(s, metric)


def _query(s: Situation, metric: MetricSpec) -> Query:
    stable, mirrored = s.stable_id, s.mirror is not None
    wanted = metric.max_drop is not None or metric.compare is not None or mirrored
    compared = wanted and stable is not None and s.live_share(stable) > 0
    counts_all = mirrored and metric.name == DISAGREEMENT
    query = Query(
        metric=metric,
        version=identify(s.canary),
        stable=stable if compared else None,
        start=_first_traffic(s) if counts_all else max(s.now - _window(s), _first_traffic(s)),
        end=s.now,
        mirrored=mirrored,
    )
    return _since_last_look(s, query) if metric.compare is not None and compared else query


def _since_last_look(s: Situation, query: Query) -> Query:
    """Return the query for everything that was not counted yet; at first, from the metric's delay on."""
    before = next((each for each in s.status.analysis if each.name == query.metric.name), None)
    last = find_comparison(query.metric, before)
    if last is None:
        return replace(query, start=_first_look(s, query.metric))
    return replace(query, start=last.until, bound=last.bound_milliseconds)


def _window(s: Situation) -> timedelta:
    return s.spec.analysis.window or s.spec.analysis.interval * WINDOW_INTERVALS


def _unmeasured_end(s: Situation) -> datetime | None:
    """Return when the step's (or the bake) time is over, if nothing was measured in it so far."""
    canary = s.canary
    began, lasts = canary.step_started_at, s.step.hold
    if canary.baking_since is not None:
        began, lasts = canary.baking_since, s.bake
    if began is None or lasts == timedelta() or (s.status.analysed_at and s.status.analysed_at >= began):
        return None
    return began + lasts


def _first_look(s: Situation, metric: MetricSpec) -> datetime:
    return _first_traffic(s) + metric.initial_delay


def _first_traffic(s: Situation) -> datetime:
    """Return when the canary got its first request, or its first copy of one."""
    began = s.canary.first_traffic_at if s.mirror is None else s.canary.step_started_at
    return began or s.now
