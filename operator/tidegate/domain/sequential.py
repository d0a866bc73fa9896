"""A sequential test of two proportions that may be looked at as often as one likes, exact at any counts. Pure.

The question is whether the canary's proportion of bad answers exceeds stable's by more than a margin. The null
hypothesis, in one look, is ``p_canary <= p_stable + margin``; the two rates may be others in every look, as they are
when the load changes, and so may the traffic's split. Between two looks n requests of each version are counted: a
block. Somebody who believes in the null hypothesis sells a bet on each block; the capital of who buys, 1 in the
beginning, is the **e-value**. If the null hypothesis is true it grows to 1/alpha with probability alpha at most, over
all looks together (Ville's inequality), so ``e_value >= 1 / alpha`` at any look rejects it.

The bet on one block that expects the rates b (canary) and a (stable) pays the likelihood ratio of (b, a) to the point
(b0, a0) of the null hypothesis that is nearest to it in the Kullback-Leibler divergence of the whole block: Turner,
Ly, Grünwald: *Generic E-variables for exact sequential k-sample tests that allow for optional stopping*, J. Statistical
Planning and Inference 230 (2024); with a margin: Turner, Grünwald: *Exact anytime-valid confidence intervals
for contingency tables and beyond*, Statistics & Probability Letters 198 (2023).
Why its mean is at most 1: for rates (p, q) in the null hypothesis it is ``(1 + x)^n_b (1 + y)^n_a`` with ``x = (p - b0)
(b - b0) / (b0 (1 - b0))`` and y alike, at most ``exp(n_b x + n_a y)``, and at the nearest point of a convex set that
exponent is at most 0. Nothing here is asymptotic: it holds with three requests and an error rate of 0, too.

What to bet on is learnt from former blocks alone. The capital lies on cash and on several bets; before each block a
small part is spread anew (fixed share: Herbster, Warmuth: *Tracking the best expert*, Machine Learning 32
(1998)), so that a canary that turns bad late is found nearly as fast as one that always was.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from tidegate.domain.statistics import Proportion

__all__ = ["BETS", "Idle", "Wealth", "begin_bets", "bet"]

ODDS = (1.25, 2.0, 5.0, 20.0)
"""What the bets expect: so many times the odds that the null hypothesis allows the canary at most."""
BETS = len(ODDS) + 2
"""Cash, one bet on what was measured so far, and those on multiples of the odds."""
PATIENCE = 50
"""Before block t the part 1 / (t + PATIENCE) of the capital is spread anew."""
MOST = 1e12
"""The capital is cut here; less of it never makes a false alarm more likely."""
LARGEST_LOG = 600.0
"""A payoff beyond this is cut before it overflows."""
NEWTON_STEPS = 100


class Idle(StrEnum):
    """Why nothing was bet on a block, by name."""

    EMPTY_ARM = "EmptyArm"
    """No request of one of the versions: nothing to compare."""


@dataclass(frozen=True, slots=True)
class Wealth:
    """The capital and where it lies."""

    e_value: float
    """Evidence that the canary is worse by more than the margin; 1 in the beginning, never negative."""
    bets: tuple[float, ...]
    """The part of the capital in cash, in the bet on what was measured, and in each of ``ODDS``; they sum to 1."""
    looks: int = 0
    """Blocks that were bet on."""
    idle: Idle | None = None
    """Why the last block changed nothing."""


def begin_bets() -> Wealth:
    """Return the capital before the first block."""
    return Wealth(1.0, (1 / BETS,) * BETS)


def bet(
    before: Wealth, block: tuple[Proportion, Proportion], past: tuple[Proportion, Proportion], margin: float
) -> Wealth:
    """Return the capital after one more block.

    Args:
        before: The capital before it.
        block: What was counted in it: bad of all, of the canary and of the stable version.
        past: What was counted before it, in the same order; the bets follow from this alone.
        margin: How much worse, as an absolute difference of proportions, the canary may be; from 0 to below 1.
    """
    canary, stable = block
    if canary.samples == 0 or stable.samples == 0:
        return replace(before, idle=Idle.EMPTY_ARM)
    base = _estimate(past[1])
    expectations = _expectations(base, _estimate(past[0]), margin)
    payoffs = [1.0, *(_payoff(canary, stable, expected, base, margin) for expected in expectations)]
    spread = 1 / (before.looks + PATIENCE)
    stakes = [(1 - spread) * part + spread / BETS for part in before.bets]
    capital = [before.e_value * stake * payoff for stake, payoff in zip(stakes, payoffs, strict=True)]
    total = math.fsum(capital)
    return Wealth(min(total, MOST), tuple(each / total for each in capital), before.looks + 1)


def _estimate(past: Proportion) -> float:
    """Return the expected proportion by Krichevsky and Trofimov: never 0 and never 1."""
    return (past.positive + 0.5) / (past.samples + 1)


def _expectations(base: float, measured: float, margin: float) -> list[float]:
    """Return what each bet expects of the canary; one within the null hypothesis stays cash."""
    most = base + margin
    if most >= 1:
        return [most] * (BETS - 1)
    odds = most / (1 - most)
    return [measured, *(odds * ratio / (1 + odds * ratio) for ratio in ODDS)]


def _payoff(canary: Proportion, stable: Proportion, expected: float, base: float, margin: float) -> float:
    if expected <= base + margin:
        return 1.0
    null = _nearest_null(canary.samples, stable.samples, expected, base, margin)
    logarithm = _log_ratio(canary, expected, null + margin) + _log_ratio(stable, base, null)
    return math.exp(min(logarithm, LARGEST_LOG))


def _nearest_null(n_canary: int, n_stable: int, expected: float, base: float, margin: float) -> float:
    """Return stable's rate at the point of the null hypothesis nearest to (`expected`, `base`).

    The point lies on the line ``canary = stable + margin``, between the two; the slope of the divergence along it grows
    from negative to positive. Newton's method, kept within the bracket by bisection.
    """
    low, high = base, expected - margin
    rate = (n_canary * high + n_stable * low) / (n_canary + n_stable)
    for _ in range(NEWTON_STEPS):
        slope, curvature = 0.0, 0.0
        for n, at, target in ((n_stable, rate, base), (n_canary, rate + margin, expected)):
            variance = at * (1 - at)
            slope += n * (at - target) / variance
            curvature += n * (target * (1 - at) ** 2 + (1 - target) * at**2) / variance**2
        low, high = (rate, high) if slope < 0 else (low, rate)
        following = rate - slope / curvature
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - rate) <= 1e-15 + 1e-13 * rate:
            return following
        rate = following
    return rate


def _log_ratio(counted: Proportion, rate: float, null: float) -> float:
    """Return the logarithm of the likelihood ratio of two rates."""
    good = counted.samples - counted.positive
    return counted.positive * math.log(rate / null) + good * (math.log1p(-rate) - math.log1p(-null))
