"""Who may release when only so many may: first come, first served, and no place is left empty."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from tidegate.domain.admission import Limits, Releases, Ticket, admit, may_start

START = datetime(2026, 1, 1, tzinfo=UTC)


def ticket(seconds: float, name: str, namespace: str = "a") -> Ticket:
    return Ticket(START + timedelta(seconds=seconds), namespace, name)


def test_the_one_that_waits_longest_is_first() -> None:
    waiting = (ticket(3, "late"), ticket(1, "early"), ticket(2, "middle"))
    assert [each.name for each in admit([("a", "other")], waiting, Limits(in_cluster=3))] == ["early", "middle"]


def test_names_decide_between_equal_times() -> None:
    assert [each.name for each in admit([], (ticket(1, "y"), ticket(1, "x")), Limits(in_cluster=1))] == ["x"]


def test_a_full_namespace_does_not_block_the_cluster() -> None:
    waiting = (ticket(1, "x"), ticket(2, "y"), ticket(3, "z", namespace="b"))
    admitted = admit([("a", "busy")], waiting, Limits(per_namespace=1, in_cluster=2))
    assert [each.name for each in admitted] == ["z"]


def test_a_release_asked_for_earlier_goes_before_those_that_have_joined_meanwhile() -> None:
    """One that its window held until now is behind nobody who was asked for after it."""
    others = Releases(("a", "me"), Limits(per_namespace=1), frozenset(), (ticket(5, "other"),))
    assert may_start(others, START + timedelta(seconds=4))
    assert not may_start(others, START + timedelta(seconds=6))


places = st.tuples(st.sampled_from("ab"), st.sampled_from("uvwxyz"))
tickets = st.builds(lambda place, seconds: ticket(seconds, place[1], place[0]), places, st.integers(0, 5))


@given(
    under_way=st.sets(places),
    waiting=st.lists(tickets, unique_by=lambda each: each.place),
    per_namespace=st.integers(0, 3),
    in_cluster=st.integers(0, 4),
)
def test_no_limit_is_exceeded_and_nobody_waits_for_an_empty_place(
    under_way: set[tuple[str, str]], waiting: list[Ticket], per_namespace: int, in_cluster: int
) -> None:
    limits = Limits(per_namespace, in_cluster)
    admitted = admit(under_way, waiting, limits)
    after = Counter(namespace for namespace, _ in [*under_way, *(each.place for each in admitted)])
    for each in admitted:
        assert not in_cluster or after.total() <= in_cluster
        assert not per_namespace or after[each.namespace] <= per_namespace
    for each in set(waiting) - set(admitted):
        is_full = (in_cluster and after.total() >= in_cluster) or (
            per_namespace and after[each.namespace] >= per_namespace
        )
        assert is_full
        assert all(other < each for other in admitted if other.namespace == each.namespace)
