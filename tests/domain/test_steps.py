"""The steps of a release, derived from the spec."""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tidegate.api.deployment import DeploymentSpec
from tidegate.domain.steps import bake_time, fingerprint, pods_for, release_steps


def spec(**strategy: object) -> DeploymentSpec:
    return DeploymentSpec.model_validate({"model_version": "v1", "strategy": strategy})


def percents(of: DeploymentSpec) -> list[float]:
    return [step.percent for step in release_steps(of)]


def test_the_example_of_the_api_has_eleven_steps() -> None:
    steps = release_steps(spec(canary={"initial_percent": 5, "increment_percent": 10, "interval": "30m"}))
    assert [step.percent for step in steps] == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95, 100]
    assert {step.hold for step in steps[:-1]} == {timedelta(minutes=30)}
    assert steps[-1].hold == timedelta()


@pytest.mark.parametrize(
    ("initial", "increment", "expected"),
    [(10, 45, [10, 55, 100]), (100, 1, [100]), (0.1, 33.3, [0.1, 33.4, 66.7, 100]), (50, 100, [50, 100])],
)
def test_a_ramp_ends_at_100(initial: float, increment: float, expected: list[float]) -> None:
    assert percents(spec(canary={"initial_percent": initial, "increment_percent": increment})) == expected


def test_explicit_steps_are_translated_one_to_one_and_end_at_100() -> None:
    steps = [{"hold": "1m"}, {"set_percent": 20}, {"pause": {}}, {"set_percent": 60}, {"hold": "2m"}]
    assert percents(spec(canary={"steps": steps})) == [0, 20, 20, 60, 60, 100]
    ended = [{"set_percent": 100}, {"hold": "2m"}]
    assert percents(spec(canary={"steps": ended})) == [100, 100]


def test_immediate_has_one_step_and_its_own_bake() -> None:
    immediate = spec(type="Immediate", immediate={"bake": "3m"})
    assert percents(immediate) == [100]
    assert bake_time(immediate, fast=False) == timedelta(minutes=3)
    assert bake_time(immediate, fast=True) == timedelta()


@given(st.integers(1, 7200), st.integers(1, 600))
def test_a_gradual_release_grows_evenly_for_its_duration(duration: int, tick: int) -> None:
    assume(tick <= duration <= 1000 * tick)
    made = release_steps(spec(type="Gradual", gradual={"duration": f"{duration}s", "tick": f"{tick}s"}))
    shares = [0.0, *(step.percent for step in made)]
    growth = [later - earlier for earlier, later in pairwise(shares)]
    assert shares[-1] == 100
    assert max(growth) - min(growth) < 0.001
    assert {step.hold for step in made} == {timedelta(seconds=tick)}
    assert timedelta() <= len(made) * timedelta(seconds=tick) - timedelta(seconds=duration) < timedelta(seconds=tick)


def test_the_example_of_a_gradual_release_has_120_ticks() -> None:
    gradual = spec(type="Gradual", gradual={"duration": "2h", "tick": "1m", "bake": "5m"})
    assert len(release_steps(gradual)) == 120
    assert percents(gradual)[59] == 50
    assert bake_time(gradual, fast=False) == timedelta(minutes=5)


@given(st.floats(0.1, 100), st.floats(0.1, 100))
def test_any_ramp_grows_and_stays_within_0_and_100(initial: float, increment: float) -> None:
    shares = percents(spec(canary={"initial_percent": initial, "increment_percent": increment}))
    assert shares[-1] == 100
    assert all(0 < share <= 100 for share in shares)
    assert shares == sorted(set(shares))


@given(st.floats(0, 100), st.integers(1, 1000))
def test_a_share_gets_its_share_of_the_pods(percent: float, replicas: int) -> None:
    pods = pods_for(percent, replicas)
    assert 1 <= pods <= replicas
    assert pods >= replicas * percent / 100 - 1e-6
    assert pods_for(100, replicas) == replicas


def test_the_fingerprint_changes_with_the_steps_only() -> None:
    one = spec(canary={"initial_percent": 5, "bake": "1m"})
    other = spec(canary={"initial_percent": 6})
    assert fingerprint(release_steps(one)) == fingerprint(release_steps(spec(canary={"initial_percent": 5})))
    assert fingerprint(release_steps(one)) != fingerprint(release_steps(other))
