"""Shadow: what is measured, and what the share of disagreements says (requirement 0.40)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.api.deployment import DeploymentSpec, Shadow, Verdict
from tidegate.domain.release import Measurement
from tidegate.domain.shadow import assess_disagreement, disagreement_interval, shadow_metrics
from tidegate.domain.statistics import Proportion
from tidegate.domain.steps import ReleaseStep, bake_time, fingerprint, release_steps

SHADOW = Shadow(max_disagreement=0.02, min_samples=100)


def assess(positive: int, samples: int) -> Verdict:
    return assess_disagreement(SHADOW, Measurement(positive / samples, samples=samples))[1].verdict


@pytest.mark.parametrize(
    ("positive", "samples", "verdict"),
    [
        (5, 50, Verdict.INCONCLUSIVE),  # fewer than minSamples, however many disagree
        (0, 100, Verdict.PASS),
        (2, 100, Verdict.PASS),  # exactly the bound
        (3, 100, Verdict.INCONCLUSIVE),  # above it, and not shown to be
        (60, 1000, Verdict.FAIL),
        (100, 100, Verdict.FAIL),
    ],
)
def test_verdicts(positive: int, samples: int, verdict: Verdict) -> None:
    assert assess(positive, samples) is verdict


def test_no_answer_is_no_data_and_a_dead_source_an_error() -> None:
    for measured in (Measurement(), Measurement(samples=0)):
        said = assess_disagreement(SHADOW, measured)[1]
        assert said.verdict is Verdict.NO_DATA
        assert "over HTTP and of ModelInfer calls over gRPC" in said.message, "what may be missing is named"
    assert assess_disagreement(SHADOW, Measurement(error="refused"))[1].verdict is Verdict.ERROR


def test_the_result_has_its_interval() -> None:
    shown, said = assess_disagreement(SHADOW, Measurement(0.06, samples=1000))
    assert shown.interval is not None
    assert 0.02 < shown.interval[0] < 0.06 < shown.interval[1]
    assert "95 % interval" in said.message


@given(st.integers(0, 5000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_the_interval_holds_the_measured_share(counts: tuple[int, int]) -> None:
    samples, positive = counts
    low, high = disagreement_interval(Proportion(samples, positive))
    assert 0 <= low <= (positive / samples if samples else 0) <= high <= 1


@given(st.integers(0, 3000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_agreements_and_disagreements_mirror_each_other(counts: tuple[int, int]) -> None:
    samples, positive = counts
    low, high = disagreement_interval(Proportion(samples, positive))
    mirrored = disagreement_interval(Proportion(samples, samples - positive))
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.002, 0.02, 0.3])
def test_the_interval_misses_the_truth_in_at_most_one_release_of_twenty_looked_at_200_times(rate: float) -> None:
    """What a plain 95 % interval does not hold: it misses about one in two when it is looked at so often."""
    random, runs, looks = np.random.default_rng(7), 200, 200
    missed = 0
    for _ in range(runs):
        found = np.cumsum(random.binomial(20, rate, looks))
        intervals = (disagreement_interval(Proportion(20 * (n + 1), int(k))) for n, k in enumerate(found))
        missed += any(not low <= rate <= high for low, high in intervals)
    assert missed / runs <= 0.05 + 2 * (0.05 * 0.95 / runs) ** 0.5


def make_spec(**strategy: object) -> DeploymentSpec:
    metrics = [
        {"name": "errorRate", "max": 0.05},
        {"name": "requestRate", "min": 1},
        {"name": "accuracy", "source": "Outcomes", "min": 0.8},
        {"name": "own", "query": "up", "max": 1},
        {"name": "slower", "compare": {"metric": "latencyP95"}},
    ]
    return DeploymentSpec.model_validate(
        {"model_version": "v1", "strategy": {"type": "Shadow"} | strategy, "analysis": {"metrics": metrics}}
    )


def test_only_what_copies_can_tell_is_measured_of_them() -> None:
    metrics = shadow_metrics(make_spec())
    assert [each.name for each in metrics] == ["disagreement", "errorRate", "slower", "latencyP99"]
    assert [each.name for each in metrics if each.dry_run] == ["latencyP99"]


def test_steps_of_a_shadow_lead_into_those_of_the_strategy_that_follows() -> None:
    spec = make_spec(shadow={"duration": "10m", "percent": 25, "then": "Gradual"}, gradual={"bake": "5m"})
    copies, first, *_ = release_steps(spec)
    assert (copies.percent, copies.mirror, copies.load, copies.hold.total_seconds()) == (0, 25, 25, 600)
    assert first.percent > 0
    assert bake_time(spec, fast=False).total_seconds() == 300


def test_without_then_a_person_decides() -> None:
    steps = release_steps(make_spec())
    assert steps[1:] == (ReleaseStep(0.0, pause=True), ReleaseStep(100.0))
    assert bake_time(make_spec(), fast=False).total_seconds() == 0


def test_other_copies_are_other_steps() -> None:
    one, other = (release_steps(make_spec(shadow={"percent": percent})) for percent in (25, 50))
    assert fingerprint(one) != fingerprint(other)
