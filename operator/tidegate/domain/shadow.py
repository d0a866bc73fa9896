"""Shadow: what is measured while a version answers copies of requests, and what the share of disagreements says. Pure.

A comparator asks the stable version and the shadowed one the same question and counts the pairs of answers that
disagree. A pair is one request, however many predictions it holds: requests are independent, predictions of one are
not. The share of disagreements comes with an interval that holds whenever one looks: ``{p: M(p) < 1 / alpha}`` with
the mixture martingale ``M(p) = ∫ q^s (1-q)^f dBeta(1/2, 1/2)(q) / (p^s (1-p)^f)`` of s disagreements and f agreements.
For the true p its mean is 1, so it ever reaches 1 / alpha with probability alpha at most: Robbins: *Statistical methods
related to the law of the iterated logarithm*, Annals of Mathematical Statistics 41 (1970), section 3; with the prior of
Krichevsky and Trofimov (1981). Nothing is asymptotic, and no state is kept but the counts.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from tidegate.api.deployment import DeploymentSpec, MetricSpec, Shadow, Verdict
from tidegate.domain.analysis import Assessment
from tidegate.domain.release import Measurement
from tidegate.domain.statistics import Proportion

__all__ = ["DISAGREEMENT", "assess_disagreement", "disagreement_interval", "shadow_metrics"]

DISAGREEMENT = "disagreement"
COMPARED = frozenset({"errorRate", "latencyP50", "latencyP95", "latencyP99"})
"""Metrics that the comparator counts of both versions; the others need users' traffic."""
SHOWN = ("errorRate", "latencyP99")
ALPHA = 0.05
"""The interval misses the true share with this probability at most, over all looks together."""
HALVINGS = 60


def shadow_metrics(spec: DeploymentSpec) -> tuple[MetricSpec, ...]:
    """Return what is measured while the version is shadowed.

    The disagreements decide, and so do those of the user's metrics that can be told from copies; error rate and latency
    are shown in any case.
    """
    shadow = spec.strategy.shadow
    decides = MetricSpec(name=DISAGREEMENT, max=shadow.max_disagreement, min_samples=shadow.min_samples)
    own = tuple(each for each in spec.analysis.metrics if _is_compared(each))
    names = {each.name for each in own}
    shown = (MetricSpec(name=name, dry_run=True) for name in SHOWN if name not in names)
    return (decides, *own, *shown)


def _is_compared(metric: MetricSpec) -> bool:
    name = metric.compare.metric if metric.compare else metric.name
    return metric.query is None and metric.source == "Envoy" and name in COMPARED


def assess_disagreement(shadow: Shadow, measured: Measurement) -> tuple[Measurement, Assessment]:
    """Judge the share of answers that disagree, and return it with its interval.

    It fails as soon as the interval lies above the bound, and passes while the share itself is within it.
    """
    if measured.error is not None:
        return measured, Assessment(Verdict.ERROR, f"{DISAGREEMENT}: the metric source failed: {measured.error}")
    if measured.value is None or not measured.samples:
        copied = "copies are made of inference requests over HTTP and of ModelInfer calls over gRPC"
        message = f"{DISAGREEMENT}: no answer was compared yet; {copied}"
        return measured, Assessment(Verdict.NO_DATA, message)
    counted = Proportion(measured.samples, round(measured.value * measured.samples))
    low, high = disagreement_interval(counted)
    shown = replace(measured, interval=(low, high))
    said = (
        f"{DISAGREEMENT} = {measured.value:.4g} of {measured.samples} answers (95 % interval {low:.4g} to {high:.4g})"
    )
    if measured.samples < shadow.min_samples:
        few = f"{said}; minSamples asks for {shadow.min_samples}"
        return shown, Assessment(Verdict.INCONCLUSIVE, few)
    bound = f"maxDisagreement {shadow.max_disagreement:.4g}"
    if low > shadow.max_disagreement:
        return shown, Assessment(Verdict.FAIL, f"{said} is above {bound}")
    if measured.value <= shadow.max_disagreement:
        return shown, Assessment(Verdict.PASS, f"{said} is within {bound}")
    return shown, Assessment(Verdict.INCONCLUSIVE, f"{said} is not yet shown to be above {bound}")


def disagreement_interval(counted: Proportion, alpha: float = ALPHA) -> tuple[float, float]:
    """Return the interval of a proportion that misses it with probability `alpha` at most, over any number of looks.

    >>> disagreement_interval(Proportion(0, 0))
    (0.0, 1.0)
    """
    positive, negative = counted.positive, counted.samples - counted.positive
    limit = _log_mixture(positive, negative) + math.log(alpha)

    def is_inside(share: float) -> bool:
        return _log_likelihood(positive, negative, share) > limit

    centre = counted.value
    if centre is None:
        return 0.0, 1.0
    return _find_edge(is_inside, centre, 0.0), _find_edge(is_inside, centre, 1.0)


def _log_mixture(positive: int, negative: int) -> float:
    """Return the logarithm of B(positive + 1/2, negative + 1/2) / B(1/2, 1/2)."""
    total = positive + negative + 1
    return math.lgamma(positive + 0.5) + math.lgamma(negative + 0.5) - math.lgamma(total) - math.log(math.pi)


def _log_likelihood(positive: int, negative: int, share: float) -> float:
    if (share <= 0 and positive) or (share >= 1 and negative):
        return -math.inf
    return (positive * math.log(share) if positive else 0.0) + (negative * math.log1p(-share) if negative else 0.0)


def _find_edge(is_inside: Callable[[float], bool], inside: float, outside: float) -> float:
    """Halve the way to the edge of the interval; the likelihood falls from the measured share to either side."""
    if is_inside(outside):
        return outside
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if is_inside(middle) else (inside, middle)
    return outside
