"""A compare metric: what is counted when, and what the evidence says."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tidegate.api.deployment import MetricResult, MetricSpec, Verdict
from tidegate.domain.analysis import Say, conclude, forgive
from tidegate.domain.comparison import find_comparison, record_comparison
from tidegate.domain.release import Counted, Measurement, Query, VersionID
from tidegate.domain.statistics import Proportion

START = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW = timedelta(minutes=5)
CANARY, STABLE = VersionID("v2", "b" * 64), VersionID("v1", "a" * 64)
GOOD = Measurement(counted=Counted(Proportion(100, 1), Proportion(900, 9)))
BAD = Measurement(counted=Counted(Proportion(100, 50), Proportion(900, 9)))
QUIET = Measurement(counted=Counted(Proportion(0, 0), Proportion(900, 9)))


def metric(**compare: object) -> MetricSpec:
    fields: dict[str, object] = {"metric": "errorRate", "margin": 0.005, "min_samples": 150}
    return MetricSpec.model_validate({"name": "errorRateVsStable", "compare": fields | compare})


def look(spec: MetricSpec, *answers: Measurement, seconds: int = 30) -> list[MetricResult]:
    """Look once for each answer, every 30 seconds, from where the last look ended."""
    results: list[MetricResult] = []
    for number, answer in enumerate(answers, start=1):
        last = find_comparison(spec, results[-1]) if results else None
        start, bound = (last.until, last.bound_milliseconds) if last else (START, None)
        query = Query(spec, CANARY, STABLE, start, START + timedelta(seconds=seconds * number), bound)
        results.append(record_comparison(spec, results[-1] if results else None, query, answer, WINDOW))
    return results


def test_verdicts_follow_the_evidence() -> None:
    few, passed, failed = look(metric(), GOOD, GOOD, BAD)
    assert [each.verdict for each in (few, passed, failed)] == [Verdict.INCONCLUSIVE, Verdict.PASS, Verdict.FAIL]
    assert "minSamples asks for 150 of each" in few.message
    assert "not shown to be worse by more than margin 0.005" in passed.message
    assert failed.message.startswith("errorRateVsStable: 52 bad of 300, stable 27 of 2700: worse by more than margin")
    assert (failed.value, failed.stable_value, failed.samples) == (52 / 300, 0.01, 300)


def test_bad_before_the_minimum_is_inconclusive_and_not_forgotten() -> None:
    first, second = look(metric(), BAD, GOOD)
    assert (first.verdict, second.verdict) == (Verdict.INCONCLUSIVE, Verdict.FAIL)


def test_counts_and_evidence_stand_in_the_decision() -> None:
    spec = metric()
    conclusion = conclude([spec], [look(spec, BAD, BAD)[-1]])
    assert conclusion.say is Say.FAIL
    assert conclusion.evidence["canary"] == "100 of 200"
    assert conclusion.evidence["stable"] == "18 of 1800"
    assert conclusion.evidence["eValue"].endswith("(limit 100)")


def test_a_look_that_cannot_count_loses_nothing() -> None:
    looks = look(metric(), GOOD, Measurement(error="connection refused"), Measurement(), QUIET, GOOD)
    verdicts = [Verdict.INCONCLUSIVE, Verdict.ERROR, Verdict.NO_DATA, Verdict.INCONCLUSIVE, Verdict.PASS]
    assert [each.verdict for each in looks] == verdicts
    kept = [each.comparison.until for each in looks if each.comparison]
    assert kept == [START + timedelta(seconds=30)] * 4 + [START + timedelta(seconds=150)]


def test_a_canary_without_requests_for_a_window_is_no_data() -> None:
    looks = look(metric(), *[GOOD] * 2, *[QUIET] * 4, seconds=90)
    assert [each.verdict for each in looks[2:]] == [Verdict.PASS] * 3 + [Verdict.NO_DATA]


def test_without_traffic_on_stable_nothing_is_compared() -> None:
    spec = metric()
    (before,) = look(spec, GOOD)
    query = Query(spec, CANARY, None, START, START + timedelta(seconds=60))
    alone = record_comparison(spec, before, query, Measurement(value=0.4, samples=50), WINDOW)
    assert (alone.verdict, alone.comparison) == (Verdict.PASS, before.comparison)
    assert "the stable version gets no traffic" in alone.message
    silent = record_comparison(spec, before, query, Measurement(), WINDOW)
    assert silent.verdict is Verdict.NO_DATA


def test_the_bound_of_slow_answers_comes_from_a_block_of_its_own() -> None:
    spec = metric(metric="latencyP99")
    few = Measurement(counted=Counted(Proportion(10, 10), Proportion(99, 1), 25.0))
    enough = replace(few, counted=Counted(Proportion(20, 20), Proportion(200, 2), 10.0))
    judged = replace(few, counted=Counted(Proportion(200, 2), Proportion(900, 9), 10.0))
    first, second, third = (each.comparison for each in look(spec, few, enough, judged))
    assert first
    assert second
    assert third
    assert (first.bound_milliseconds, first.until) == (None, START)
    assert (second.bound_milliseconds, second.canary_samples, second.e_value) == (10.0, 0, 1.0)
    assert (third.bound_milliseconds, third.canary_samples, third.canary_bad) == (10.0, 200, 2)


@pytest.mark.parametrize("changed", [{"metric": "latencyP95"}, {"margin": 0.01}])
def test_another_question_begins_anew(changed: dict[str, object]) -> None:
    (before,) = look(metric(), GOOD)
    assert find_comparison(metric(), before) == before.comparison
    assert find_comparison(metric(alpha=0.05), before) == before.comparison
    assert find_comparison(metric(**changed), before) is None


def test_who_overrules_the_evidence_does_not_meet_it_again() -> None:
    spec = metric()
    result = look(spec, BAD, BAD)[-1]
    (fresh,) = forgive([result])
    assert result.comparison
    assert fresh.comparison
    assert (fresh.comparison.e_value, fresh.comparison.looks) == (1.0, 0)
    assert fresh.comparison.until == result.comparison.until
    query = Query(spec, CANARY, STABLE, fresh.comparison.until, START + timedelta(seconds=90))
    assert record_comparison(spec, fresh, query, GOOD, WINDOW).verdict is Verdict.PASS
