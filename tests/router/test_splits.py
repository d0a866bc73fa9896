"""Percentages become weights: exact totals, monotone borders, keys that stay where they are."""

from hypothesis import assume, given
from hypothesis import strategies as st

from tidegate.router.splits import TOTAL_WEIGHT, Segment, Share, effective_percents, plan_split

percents = st.integers(0, 10_000).map(lambda number: number / 100)


def owners(segments: tuple[Segment, ...]) -> list[int]:
    return [segment.backend for segment in segments for _ in range(segment.weight)]


def test_canary_and_stable() -> None:
    assert plan_split([Share(5, True), Share(95, True)]) == (Segment(0, 500), Segment(1, 9500))
    assert plan_split([Share(0.01, True), Share(99.99, True)]) == (Segment(0, 1), Segment(1, 9999))


def test_zero_percent_is_never_chosen() -> None:
    assert plan_split([Share(0, True), Share(100, True)]) == (Segment(1, TOTAL_WEIGHT),)


def test_unready_share_goes_to_the_ready() -> None:
    assert plan_split([Share(30, False), Share(70, True)]) == (Segment(1, TOTAL_WEIGHT),)


def test_a_backend_at_zero_does_not_stand_in() -> None:
    """It may be a version that was rejected."""
    assert plan_split([Share(0, True), Share(100, False)]) == ()


def test_nobody() -> None:
    assert plan_split([]) == ()
    assert effective_percents((), 2) == (0, 0)


def test_units_of_ready_variants_do_not_move() -> None:
    """Three variants, the middle one unready: its range is divided in place, 1:3 as the others' shares."""
    segments = plan_split([Share(20, True), Share(20, False), Share(60, True)])
    assert segments == (Segment(0, 2500), Segment(2, 7500))
    assert effective_percents(segments, 3) == (25, 0, 75)


@given(st.lists(st.tuples(percents, st.booleans()), min_size=1, max_size=6))
def test_totals_and_places(raw: list[tuple[float, bool]]) -> None:
    whole = sum(percent for percent, _ in raw)
    assume(whole > 1)
    shares = [Share(percent * 100 / whole, ready) for percent, ready in raw]
    real = owners(plan_split(shares))
    full = owners(plan_split([Share(share.percent, True) for share in shares]))
    assert len(full) == TOTAL_WEIGHT
    assert len(real) in (0, TOTAL_WEIGHT)
    assert all(shares[index].ready for index in real)
    assert all(now == before for now, before in zip(real, full, strict=False) if shares[before].ready)


@given(percents, percents)
def test_a_larger_share_only_adds_keys(one: float, other: float) -> None:
    small, large = sorted((one, other))
    before, after = (owners(plan_split([Share(p, True), Share(100 - p, True)])) for p in (small, large))
    assert all(later == 0 for earlier, later in zip(before, after, strict=True) if earlier == 0)
    assert abs(after.count(0) - large * 100) <= 1
