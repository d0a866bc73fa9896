"""Tests on proportions, from counts alone: pure, documented, every degenerate case by name, never NaN.

Sources: the pooled two-proportion z-test and the sample size as in Fleiss, Levin, Paik: *Statistical Methods for Rates
and Proportions*, 3rd edition (2003), chapters 3 and 4; the interval of the difference as in Newcombe, *Interval
estimation for the difference between independent proportions*, Statistics in Medicine 17 (1998) 873–890, method 10,
made of two Wilson intervals; the check of the sample ratio is Pearson's chi-squared test.

The distributions come from ``scipy.special``, which is imported only where it is used: it takes 43 MiB (``scipy.stats``
would take 89).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = [
    "Comparison",
    "Degenerate",
    "Guardrail",
    "Proportion",
    "assess_guardrail",
    "check_sample_ratio",
    "compare_proportions",
    "required_samples",
    "wilson_interval",
]


@dataclass(frozen=True, slots=True)
class Proportion:
    """How many of how many."""

    samples: int
    positive: int

    def __post_init__(self) -> None:
        """Refuse counts that cannot be."""
        if not 0 <= self.positive <= self.samples:
            raise ValueError(f"{self.positive} of {self.samples} is no proportion")

    @property
    def value(self) -> float | None:
        """The share; None without samples."""
        return self.positive / self.samples if self.samples else None


class Degenerate(StrEnum):
    """Data that allow no test, by name."""

    EMPTY_ARM = "EmptyArm"
    """An arm has no samples."""
    NO_EVENTS = "NoEvents"
    """Nothing positive in either arm."""
    ALL_EVENTS = "AllEvents"
    """Everything positive in both arms."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference between two proportions, treatment minus control."""

    effect: float | None
    """Absolute difference; None with an empty arm."""
    relative_effect: float | None
    """Difference relative to the control; None where the control is 0 or empty."""
    interval: tuple[float, float] | None
    """Interval of the absolute difference at the confidence asked for."""
    p_value: float | None
    """Two-sided probability of such a difference or a larger one, without a true one; None with an empty arm."""
    degenerate: Degenerate | None = None


class Guardrail(StrEnum):
    """What is known about a metric that must not become worse."""

    KEPT = "Kept"
    """It is worse by less than the margin, at the confidence asked for."""
    VIOLATED = "Violated"
    """It is worse by more than the margin, at the confidence asked for."""
    OPEN = "Open"
    """Neither is shown."""


def compare_proportions(control: Proportion, treatment: Proportion, confidence: float) -> Comparison:
    """Compare two proportions by the pooled z-test (two-sided) and Newcombe's interval.

    Args:
        control: Counts of the control.
        treatment: Counts of the arm.
        confidence: Of the interval, for example 0.95.
    """
    before, after = control.value, treatment.value
    if before is None or after is None:
        return Comparison(None, None, None, None, Degenerate.EMPTY_ARM)
    effect = after - before
    return Comparison(
        effect=effect,
        relative_effect=effect / before if before > 0 else None,
        interval=_newcombe(control, treatment, confidence),
        p_value=_pooled_z_test(control, treatment, effect),
        degenerate=_find_degenerate(control, treatment),
    )


def assess_guardrail(comparison: Comparison, margin: float, *, lower_is_better: bool) -> Guardrail:
    """Say whether a metric is worse by less than `margin` (a non-inferiority test by the interval)."""
    if comparison.interval is None:
        return Guardrail.OPEN
    lower, upper = comparison.interval
    least_harm, most_harm = (lower, upper) if lower_is_better else (-upper, -lower)
    if most_harm < margin:
        return Guardrail.KEPT
    return Guardrail.VIOLATED if least_harm > margin else Guardrail.OPEN


def required_samples(base: float, effect: float, confidence: float, power: float) -> int | None:
    """Return the samples of each arm that find a true difference of `effect` with probability `power`.

    Args:
        base: Proportion of the control.
        effect: Absolute difference; its sign says in which direction.
        confidence: 1 minus the probability of a false finding, two-sided.
        power: Probability of finding the difference.

    Returns:
        None if there is no such proportion: `base` + `effect` lies outside 0 to 1, or `effect` is 0.
    """
    other = base + effect
    if effect == 0 or not (0 <= base <= 1 and 0 <= other <= 1):
        return None
    mean = (base + other) / 2
    false = _quantile((1 + confidence) / 2) * math.sqrt(2 * mean * (1 - mean))
    found = _quantile(power) * math.sqrt(base * (1 - base) + other * (1 - other))
    return max(2, math.ceil(((false + found) / effect) ** 2))


def check_sample_ratio(counts: Sequence[int], weights: Sequence[float]) -> float | None:
    """Return the probability of such counts, or less likely ones, if the assignment has these weights.

    None without any sample. The counts have to be of independent units.
    """
    total, weight = sum(counts), sum(weights)
    if total == 0:
        return None
    expected = [total * each / weight for each in weights]
    statistic = sum((count - wanted) ** 2 / wanted for count, wanted in zip(counts, expected, strict=True))
    return _chi_squared_tail(len(counts) - 1, statistic)


def wilson_interval(proportion: Proportion, confidence: float) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion; the arm must not be empty."""
    n, z = proportion.samples, _quantile((1 + confidence) / 2)
    share = proportion.positive / n
    middle = share + z * z / (2 * n)
    width = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (middle - width) / scale), min(1.0, (middle + width) / scale)


def _newcombe(control: Proportion, treatment: Proportion, confidence: float) -> tuple[float, float]:
    p1, p2 = control.positive / control.samples, treatment.positive / treatment.samples
    low1, high1 = wilson_interval(control, confidence)
    low2, high2 = wilson_interval(treatment, confidence)
    lower = p2 - p1 - math.hypot(p2 - low2, high1 - p1)
    upper = p2 - p1 + math.hypot(high2 - p2, p1 - low1)
    return max(-1.0, lower), min(1.0, upper)


def _pooled_z_test(control: Proportion, treatment: Proportion, effect: float) -> float:
    """Without any variance there is no difference to be surprised at: 1."""
    pooled = (control.positive + treatment.positive) / (control.samples + treatment.samples)
    variance = pooled * (1 - pooled) * (1 / control.samples + 1 / treatment.samples)
    return _two_sided_tail(effect / math.sqrt(variance)) if variance > 0 else 1.0


def _find_degenerate(control: Proportion, treatment: Proportion) -> Degenerate | None:
    positive, samples = control.positive + treatment.positive, control.samples + treatment.samples
    if positive == 0:
        return Degenerate.NO_EVENTS
    return Degenerate.ALL_EVENTS if positive == samples else None


def _quantile(probability: float) -> float:
    return float(_functions().ndtri(probability))


def _two_sided_tail(z: float) -> float:
    return min(1.0, 2 * float(_functions().ndtr(-abs(z))))


def _chi_squared_tail(degrees: int, statistic: float) -> float:
    return float(_functions().chdtrc(degrees, statistic))


def _functions() -> Any:
    from scipy import special

    return special
