"""The sequential test: exact by enumeration, false alarms and power by simulation.

The figures of docs/comparisons.md: `TIDEGATE_RUNS=1000 python -m pytest tests/domain/test_sequential.py -s`.
"""

import itertools
import math
import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tidegate.domain.sequential import BETS, MOST, Idle, Wealth, begin_bets, bet
from tidegate.domain.statistics import Proportion

RUNS = int(os.environ.get("TIDEGATE_RUNS", "100"))
LOOKS = 200
ALPHA = 0.01
NOTHING = (Proportion(0, 0), Proportion(0, 0))
SPLITS = [(5, 95), (50, 50)]
"""Requests of canary and stable in one look."""

counts = st.integers(0, 2000).flatmap(lambda n: st.integers(0, n).map(lambda k: Proportion(n, k)))
margins = st.sampled_from([0.0, 0.005, 0.3, 0.95])


def release(
    random: np.random.Generator,
    rates: Callable[[int], tuple[float, float]],
    requests: Callable[[int], tuple[int, int]],
    margin: float,
) -> tuple[float, int | None]:
    """Run one release: the highest e-value, and the look that rejected, if any."""
    wealth, past, highest = begin_bets(), NOTHING, 0.0
    for look in range(LOOKS):
        pairs = zip(requests(look), rates(look), strict=True)
        block = tuple(Proportion(n, int(random.binomial(n, rate))) for n, rate in pairs)
        wealth = bet(wealth, (block[0], block[1]), past, margin)
        past = tuple(
            Proportion(a.samples + b.samples, a.positive + b.positive) for a, b in zip(past, block, strict=True)
        )
        highest = max(highest, wealth.e_value)
        if highest >= 1 / ALPHA:
            return highest, look + 1
    return highest, None


def binomial(n: int, rate: float) -> np.ndarray:
    return stats.binom.pmf(np.arange(n + 1), n, rate)


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("sizes", [(1, 1), (2, 7), (6, 3)])
@pytest.mark.parametrize(
    "past", [NOTHING, (Proportion(40, 9), Proportion(60, 2)), (Proportion(9, 9), Proportion(9, 0))]
)
def test_no_bet_gains_on_average_whatever_the_null_hypothesis_allows(
    margin: float, sizes: tuple[int, int], past: tuple[Proportion, Proportion]
) -> None:
    """Exact: the mean over every possible block is at most 1, for every pair of rates that is not worse."""
    shape = (sizes[0] + 1, sizes[1] + 1)
    grown = np.zeros(shape)
    for canary, stable in itertools.product(range(shape[0]), range(shape[1])):
        block = (Proportion(sizes[0], canary), Proportion(sizes[1], stable))
        grown[canary, stable] = bet(begin_bets(), block, past, margin).e_value
    for base in (0.0, 1e-4, 0.01, 0.3, 0.7, 0.99, 1.0):
        for rate in {*np.linspace(0, min(base + margin, 1), 6), min(base + margin, 1)}:
            assert binomial(sizes[0], rate) @ grown @ binomial(sizes[1], base) <= 1 + 1e-9


@given(counts, counts, counts, counts, margins)
def test_any_counts_give_a_finite_capital(
    canary: Proportion, stable: Proportion, former: Proportion, past: Proportion, margin: float
) -> None:
    wealth = bet(bet(begin_bets(), (canary, stable), (former, past), margin), (stable, canary), (past, former), margin)
    assert 0 <= wealth.e_value <= MOST
    assert math.isclose(sum(wealth.bets), 1)
    assert len(wealth.bets) == BETS


@given(counts)
@settings(max_examples=10)
def test_an_empty_arm_changes_nothing(counted: Proportion) -> None:
    begun = begin_bets()
    expected = Wealth(begun.e_value, begun.bets, 0, Idle.EMPTY_ARM)
    assert bet(begun, (counted, Proportion(0, 0)), NOTHING, 0.0) == expected
    assert bet(begun, (Proportion(0, 0), counted), NOTHING, 0.0) == expected


def test_total_failure_is_found_in_two_looks() -> None:
    first = bet(begin_bets(), (Proportion(10, 10), Proportion(90, 0)), NOTHING, 0.005)
    second = bet(first, (Proportion(10, 10), Proportion(90, 0)), (Proportion(10, 10), Proportion(90, 0)), 0.005)
    assert second.e_value > 1e6


@pytest.mark.slow
@pytest.mark.parametrize("requests", SPLITS)
@pytest.mark.parametrize("rate", [0, 0.001, 0.01, 0.2])
def test_false_alarms_over_two_hundred_looks_stay_below_alpha(rate: float, requests: tuple[int, int]) -> None:
    random = np.random.default_rng(7)
    highest = [release(random, lambda _: (rate, rate), lambda _: requests, 0.0)[0] for _ in range(RUNS)]
    found = {alpha: float(np.mean([each >= 1 / alpha for each in highest])) for alpha in (0.05, 0.01)}
    print(f"false alarms at rate {rate}, {requests[0]}/{requests[1]} requests a look: {found}")
    assert all(share <= alpha for alpha, share in found.items())


@pytest.mark.slow
def test_a_rising_rate_and_a_growing_share_are_no_evidence() -> None:
    """Added up, the canary looks four times worse: most of its requests came when both versions failed more."""
    random = np.random.default_rng(7)

    def rates(look: int) -> tuple[float, float]:
        rate = 0.01 if look < LOOKS / 2 else 0.1
        return rate, rate

    def requests(look: int) -> tuple[int, int]:
        return (5, 95) if look < LOOKS / 2 else (50, 50)

    found = [release(random, rates, requests, 0.0)[1] for _ in range(RUNS)]
    assert sum(each is not None for each in found) <= ALPHA * RUNS


POWER = [
    # requests a look (canary, stable), rate of the canary, of stable, margin: share found within 200 looks
    ((5, 95), 0.02, 0.01, 0.0, 0.25),
    ((50, 50), 0.02, 0.01, 0.0, 0.99),
    ((50, 950), 0.02, 0.01, 0.0, 1.0),
    ((50, 950), 0.02, 0.01, 0.005, 0.57),
    ((5, 95), 0.4, 0.2, 0.005, 1.0),
    ((50, 950), 0.002, 0.001, 0.0, 0.17),
]


@pytest.mark.slow
@pytest.mark.parametrize(("requests", "canary", "stable", "margin", "power"), POWER)
def test_power_at_twice_the_error_rate(
    requests: tuple[int, int], canary: float, stable: float, margin: float, power: float
) -> None:
    random = np.random.default_rng(7)
    runs = RUNS // 2
    looks = [release(random, lambda _: (canary, stable), lambda _: requests, margin)[1] for _ in range(runs)]
    found = [each for each in looks if each is not None]
    share, median = len(found) / runs, np.median(found) if found else math.nan
    print(
        f"{requests[0]}/{requests[1]}, {canary} against {stable}, margin {margin}: {share:.3f}, median look {median:g}"
    )
    assert share == pytest.approx(power, abs=0.12)
