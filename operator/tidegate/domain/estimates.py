"""What an A/B test knows: counts, estimates with their intervals, and the verdict of its one look."""

from collections.abc import Mapping
from datetime import datetime

from tidegate.api.ab_test import (
    ABTestSpec,
    ABTestStatus,
    Direction,
    ExperimentMetric,
    MetricEstimate,
    MetricRole,
    Recommendation,
    RecommendationAction,
    SampleRatio,
    VariantCount,
)
from tidegate.domain.release import Measurement
from tidegate.domain.statistics import (
    Comparison,
    Guardrail,
    Proportion,
    assess_guardrail,
    check_sample_ratio,
    compare_proportions,
    required_samples,
)

__all__ = ["REQUESTS", "Arms", "estimate_arms", "fewest_samples", "has_samples", "judge"]

REQUESTS = "requestRate"
"""The built-in metric whose samples are the requests of an arm."""

Arms = Mapping[str, Mapping[str, Measurement]]
"""Measurements by arm and metric."""


def estimate_arms(spec: ABTestSpec, status: ABTestStatus, measured: Arms, now: datetime) -> ABTestStatus:
    """Return the status with fresh counts and estimates, if both arms were measured.

    Counts never shrink: what was counted once stays, when the metric source forgets it or nobody counts for a while.
    """
    control, treatment = (measured.get(variant.name) for variant in spec.variants)
    if control is None or treatment is None:
        return status
    counts = _count(spec, status, (control, treatment))
    ratio = check_sample_ratio([each.requests for each in counts], [each.weight for each in spec.variants])
    before = {each.metric: each for each in status.analysis}
    fresh = (_compare(spec, metric, control, treatment) for metric in spec.metrics)
    analysis = tuple(_larger(before.get(each.metric), each) for each in fresh)
    ok = SampleRatio(p_value=ratio, ok=True)
    seen = status.model_copy(
        update={"counts": counts, "sample_ratio": ok, "analysis": analysis, "looked_at": now},
    )
    return seen.model_copy(update={"required_samples_per_variant": _required(spec, seen)})


def _count(
    spec: ABTestSpec, status: ABTestStatus, arms: tuple[Mapping[str, Measurement], ...]
) -> tuple[VariantCount, ...]:
    before = {each.variant: each.requests for each in status.counts}
    return tuple(
        VariantCount(variant=variant.name, requests=max(before.get(variant.name, 0), _requests(arm)))
        for variant, arm in zip(spec.variants, arms, strict=True)
    )


def _larger(before: MetricEstimate | None, after: MetricEstimate) -> MetricEstimate:
    if before is None:
        return after
    has_shrunk = after.samples < before.samples or after.control_samples < before.control_samples
    return before if has_shrunk else after


def _compare(
    spec: ABTestSpec, metric: ExperimentMetric, control: Mapping[str, Measurement], arm: Mapping[str, Measurement]
) -> MetricEstimate:
    before, after = _proportion(control.get(metric.name)), _proportion(arm.get(metric.name))
    found = compare_proportions(before, after, spec.analysis.confidence)
    significant = found.p_value is not None and found.p_value < 1 - spec.analysis.confidence
    return MetricEstimate(
        metric=metric.name,
        variant=spec.variants[1].name,
        control_samples=before.samples,
        samples=after.samples,
        control=before.value,
        treatment=after.value,
        effect=found.effect,
        relative_effect=found.relative_effect,
        confidence_interval=found.interval,
        p_value=found.p_value,
        significant=significant,
        note=found.degenerate or "",
    )


def _required(spec: ABTestSpec, seen: ABTestStatus) -> int | None:
    """Return the samples that every arm needs; None while the control's rate is not known well enough.

    Once known it stays, so that it does not follow the data.
    """
    analysis, goal = spec.analysis, _goal(spec)
    least = analysis.min_samples_per_variant
    if seen.required_samples_per_variant is not None or goal.minimum_detectable_effect is None:
        return seen.required_samples_per_variant or least
    found = next(each for each in seen.analysis if each.metric == goal.name)
    if found.control is None or found.control_samples < least:
        return None
    wanted = goal.minimum_detectable_effect * _sign(goal)
    needed = required_samples(found.control, wanted, analysis.confidence, analysis.power)
    return max(least, needed or least)


def has_samples(spec: ABTestSpec, seen: ABTestStatus) -> bool:
    """Tell whether every arm has its samples: the one look is due."""
    required = seen.required_samples_per_variant
    return required is not None and fewest_samples(spec, seen) >= required


def fewest_samples(spec: ABTestSpec, seen: ABTestStatus) -> int:
    """Return the samples of the goal in the arm that has fewer."""
    goal = _goal(spec).name
    return next((min(each.control_samples, each.samples) for each in seen.analysis if each.metric == goal), 0)


def _proportion(measured: Measurement | None) -> Proportion:
    if measured is None or measured.value is None or not measured.samples:
        return Proportion(0, 0)
    return Proportion(measured.samples, min(measured.samples, max(0, round(measured.value * measured.samples))))


def _requests(arm: Mapping[str, Measurement]) -> int:
    measured = arm.get(REQUESTS)
    return measured.samples or 0 if measured else 0


def judge(spec: ABTestSpec, seen: ABTestStatus) -> tuple[Recommendation, str | None]:
    """Return the verdict of the one look: what to do and why, and the arm that won."""
    control, arm = (each.name for each in spec.variants)
    goal = _goal(spec)
    found = next(each for each in seen.analysis if each.metric == goal.name)
    said = _say(found, spec.analysis.confidence)
    if not found.significant or found.effect is None:
        return _keep("NoDifference", f"{said}: no significant difference"), None
    if found.effect * _sign(goal) < 0:
        return _keep("ControlIsBetter", f"{said}: {control} is better"), control
    guardrails = _assess_guardrails(spec, seen)
    if Guardrail.VIOLATED in guardrails:
        message = f"{said}, but {guardrails[Guardrail.VIOLATED]} is worse by more than its margin"
        return _keep("GuardrailViolated", message), control
    if Guardrail.OPEN in guardrails:
        message = f"{said}, but {guardrails[Guardrail.OPEN]} is not shown to stay within its margin"
        return _keep("GuardrailNotShown", message), None
    message = f"{said}: {arm} is better and every guardrail is kept"
    return Recommendation(action=RecommendationAction.ADOPT, reason="ArmIsBetter", message=message), arm


def _keep(reason: str, message: str) -> Recommendation:
    return Recommendation(action=RecommendationAction.KEEP, reason=reason, message=message)


def _assess_guardrails(spec: ABTestSpec, seen: ABTestStatus) -> dict[Guardrail, str]:
    """Return, by what is known about them, the names of guardrails."""
    estimates = {each.metric: each for each in seen.analysis}
    guardrails = (metric for metric in spec.metrics if metric.role is MetricRole.GUARDRAIL)
    return {_guard(metric, estimates[metric.name]): metric.name for metric in guardrails}


def _guard(metric: ExperimentMetric, found: MetricEstimate) -> Guardrail:
    interval = found.confidence_interval
    pair = (interval[0], interval[1]) if interval else None
    comparison = Comparison(found.effect, found.relative_effect, pair, found.p_value)
    return assess_guardrail(comparison, metric.margin, lower_is_better=metric.direction is Direction.DECREASE)


def _say(found: MetricEstimate, confidence: float) -> str:
    """Write the effect with its interval."""
    if found.effect is None or not found.confidence_interval:
        return f"{found.metric} has no data"
    low, high = found.confidence_interval
    interval = f"{confidence:.0%} interval {low:+.4f} to {high:+.4f}"
    return f"{found.metric} {found.control:.4f} → {found.treatment:.4f} ({found.effect:+.4f}, {interval})"


def _goal(spec: ABTestSpec) -> ExperimentMetric:
    return next(metric for metric in spec.metrics if metric.role is MetricRole.GOAL)


def _sign(metric: ExperimentMetric) -> int:
    return 1 if metric.direction is Direction.INCREASE else -1
