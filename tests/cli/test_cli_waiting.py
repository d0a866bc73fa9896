"""Waiting ends when there is something to find or the time is up, and survives a cluster that is away for a while."""

from collections.abc import Callable

import pytest

from tests.cli.views import healthy, releasing
from tidegate.cli.exits import Unreachable
from tidegate.cli.verdicts import judge_release
from tidegate.cli.view import View
from tidegate.cli.waiting import wait_until


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def play(*scenes: View | None) -> Callable[[], View]:
    """Show one scene after another, the last one for ever; None is a cluster that does not answer."""
    left = list(scenes)

    def look() -> View:
        scene = left.pop(0) if len(left) > 1 else left[0]
        if scene is None:
            raise Unreachable("away")
        return scene

    return look


def test_it_ends_with_what_is_found() -> None:
    shown: list[View] = []
    ending = wait_until(
        play(releasing(), releasing(), healthy()), judge_release, 60, show=shown.append, clock=FakeClock()
    )
    assert ending is not None
    assert len(shown) == 3


def test_it_ends_when_the_time_is_up() -> None:
    clock = FakeClock()
    assert wait_until(play(releasing()), judge_release, 60, clock=clock) is None
    assert clock.now == 60


def test_no_time_at_all_looks_once() -> None:
    assert wait_until(play(healthy()), judge_release, 0, clock=FakeClock()) is not None


def test_a_cluster_that_answered_once_may_be_away() -> None:
    assert wait_until(play(releasing(), None, None, healthy()), judge_release, 60, clock=FakeClock()) is not None
    assert wait_until(play(releasing(), None), judge_release, 60, clock=FakeClock()) is None


def test_a_cluster_that_never_answers_ends_it_at_once() -> None:
    with pytest.raises(Unreachable):
        wait_until(play(None), judge_release, 60, clock=FakeClock())
