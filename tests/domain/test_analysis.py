"""Five verdicts, five limits."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.api.deployment import MetricResult, MetricSpec, Verdict
from tidegate.domain.analysis import Say, assess_measurement, conclude, forgive, record_measurement
from tidegate.domain.reasons import Reason
from tidegate.domain.release import Measurement

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD, BAD, BETWEEN = Measurement(0.01, samples=500), Measurement(0.2, samples=500), Measurement(0.07, samples=500)
EMPTY, BROKEN = Measurement(), Measurement(error="connection refused")


def metric(**fields: object) -> MetricSpec:
    return MetricSpec.model_validate({"name": "errorRate", "max": 0.05, "fail_above": 0.1} | fields)


def measure(spec: MetricSpec, *measured: Measurement) -> MetricResult:
    result = None
    for number, each in enumerate(measured):
        assessed = assess_measurement(spec, each, comparable=True)
        result = record_measurement(spec, result, each, assessed, NOW + timedelta(seconds=number))
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("spec", "measured", "verdict"),
    [
        (metric(), GOOD, Verdict.PASS),
        (metric(), BAD, Verdict.FAIL),
        (metric(), BETWEEN, Verdict.INCONCLUSIVE),
        (metric(), Measurement(0.05), Verdict.PASS),
        (metric(), Measurement(0.1), Verdict.INCONCLUSIVE),
        (metric(fail_above=None), BETWEEN, Verdict.FAIL),
        (metric(), EMPTY, Verdict.NO_DATA),
        (metric(), Measurement(math.nan, samples=5), Verdict.NO_DATA),
        (metric(), Measurement(math.inf, samples=5), Verdict.NO_DATA),
        (metric(), BROKEN, Verdict.ERROR),
        (metric(), Measurement(0.2, error="half an answer"), Verdict.ERROR),
        (metric(min_samples=501), GOOD, Verdict.INCONCLUSIVE),
        (metric(min_samples=501), BAD, Verdict.INCONCLUSIVE),
        (metric(min_samples=500), BAD, Verdict.FAIL),
        (metric(min_samples=1), Measurement(0.01), Verdict.INCONCLUSIVE),
        (metric(min=0.8, max=None, fail_above=None), Measurement(0.7), Verdict.FAIL),
        (metric(min=0.8, max=None, fail_above=None, fail_below=0.6), Measurement(0.7), Verdict.INCONCLUSIVE),
        (metric(min=0.8, max=None, fail_above=None, fail_below=0.6), Measurement(0.5), Verdict.FAIL),
        (metric(max=None, fail_above=None, max_milliseconds=50), Measurement(49.9), Verdict.PASS),
        (metric(max=None, fail_above=None, max_milliseconds=50), Measurement(50.1), Verdict.FAIL),
        (metric(max=None, fail_above=None, max_drop=0.1), Measurement(0.8, stable_value=0.85), Verdict.PASS),
        (metric(max=None, fail_above=None, max_drop=0.1), Measurement(0.7, stable_value=0.85), Verdict.FAIL),
        (metric(max=None, fail_above=None, max_drop=0.1), Measurement(0.7), Verdict.INCONCLUSIVE),
        (
            metric(max=None, fail_above=None, max_drop=0.1),
            Measurement(0.7, stable_value=math.nan),
            Verdict.INCONCLUSIVE,
        ),
        (metric(max_drop=0.1), Measurement(0.2), Verdict.FAIL),
        (metric(min=0.1, max=0.3, fail_above=0.5), Measurement(0.4), Verdict.INCONCLUSIVE),
    ],
)
def test_verdict(spec: MetricSpec, measured: Measurement, verdict: Verdict) -> None:
    assessed = assess_measurement(spec, measured, comparable=True)
    assert assessed.verdict is verdict
    assert assessed.message.startswith(spec.name)


def test_a_drop_is_not_compared_with_a_stable_version_without_traffic() -> None:
    spec = metric(max=None, fail_above=None, max_drop=0.1)
    assert assess_measurement(spec, Measurement(0.7), comparable=False).verdict is Verdict.PASS


def test_scenario_06_source_errors_count_only_in_a_row() -> None:
    """Four errors, one good answer, four errors: still running; five in a row (limit 4): people are told."""
    spec = metric()
    still = conclude([spec], [measure(spec, *[BROKEN] * 4, GOOD, *[BROKEN] * 4)])
    assert (still.say, still.stalled, still.reason) == (Say.HOLD, False, Reason.METRIC_SOURCE_ERROR)
    told = conclude([spec], [measure(spec, *[BROKEN] * 5)])
    assert (told.say, told.stalled, told.reason) == (Say.HOLD, True, Reason.METRIC_SOURCE_ERROR)
    again = conclude([spec], [measure(spec, *[BROKEN] * 5, GOOD)])
    assert again.say is Say.GO


@pytest.mark.parametrize(
    ("policy", "say", "reason"),
    [
        ("Hold", Say.HOLD, Reason.NO_DATA),
        ("Fail", Say.FAIL, Reason.ANALYSIS_FAILED),
        ("Pass", Say.GO, Reason.ANALYSIS_PASSED),
    ],
)
def test_scenario_04_no_data_means_what_the_policy_says(policy: str, say: Say, reason: Reason) -> None:
    spec = metric(no_data=policy)
    result = measure(spec, EMPTY)
    conclusion = conclude([spec], [result])
    assert (result.verdict, conclusion.say, conclusion.reason) == (Verdict.NO_DATA, say, reason)


def test_failures_within_the_limit_are_tolerated_and_hold() -> None:
    spec = metric(failure_limit=2)
    tolerated = conclude([spec], [measure(spec, BAD, GOOD, BAD)])
    assert (tolerated.say, tolerated.reason) == (Say.HOLD, Reason.TOLERATED_FAILURE)
    assert conclude([spec], [measure(spec, BAD, BAD, GOOD)]).say is Say.GO
    assert conclude([spec], [measure(spec, BAD, BAD, BAD)]).say is Say.FAIL


def test_the_inconclusive_limit_asks_a_person_and_keeps_asking() -> None:
    spec = metric(inconclusive_limit=2)
    assert not conclude([spec], [measure(spec, BETWEEN, BETWEEN)]).needs_person
    asked = measure(spec, BETWEEN, BETWEEN, BETWEEN, GOOD, GOOD)
    conclusion = conclude([spec], [asked])
    assert (conclusion.say, conclusion.needs_person) == (Say.HOLD, True)
    assert conclude([spec], forgive([asked])).say is Say.GO


def test_scenario_07_dry_run_decides_nothing() -> None:
    spec = metric(dry_run=True)
    result = measure(spec, BAD, BAD, BROKEN)
    assert (result.failures, result.measurements) == (2, 3)
    assert conclude([spec], [result]).say is Say.GO


def test_the_worst_metric_decides() -> None:
    specs = [metric(name=name) for name in ("a", "b", "c")]
    results = [measure(spec, each) for spec, each in zip(specs, (GOOD, EMPTY, BAD), strict=True)]
    assert conclude(specs, results).evidence["metric"] == "c"
    assert conclude(specs[:2], results).reason is Reason.NO_DATA
    assert conclude(specs[:1], results).say is Say.GO


def test_evidence_holds_the_numbers() -> None:
    spec = metric()
    evidence = conclude([spec], [measure(spec, BAD)]).evidence
    assert evidence == {
        "metric": "errorRate",
        "verdict": "Fail",
        "value": "0.2",
        "samples": "500",
        "failures": "1 (limit 0)",
    }


measurements = st.builds(
    Measurement,
    value=st.none() | st.floats(),
    stable_value=st.none() | st.floats(),
    samples=st.none() | st.integers(0, 10_000),
    error=st.none() | st.just("down"),
)
specs = st.builds(
    MetricSpec.model_construct,
    name=st.just("m"),
    min=st.none() | st.floats(-10, 10),
    max=st.none() | st.floats(-10, 10),
    max_drop=st.none() | st.floats(0, 10),
    fail_below=st.none() | st.floats(-20, 10),
    fail_above=st.none() | st.floats(-10, 20),
    min_samples=st.integers(0, 1000),
    failure_limit=st.integers(0, 3),
    error_limit=st.integers(0, 3),
    inconclusive_limit=st.none() | st.integers(0, 3),
)


@given(specs, st.lists(st.builds(Measurement, error=st.just("down")), min_size=1, max_size=20))
def test_an_outage_never_rolls_back_and_never_promotes(spec: MetricSpec, outage: list[Measurement]) -> None:
    assert conclude([spec], [measure(spec, *outage)]).say is Say.HOLD


@given(specs, st.lists(measurements, min_size=1, max_size=20), st.booleans())
def test_every_measurement_has_one_verdict(spec: MetricSpec, measured: list[Measurement], comparable: bool) -> None:
    for each in measured:
        assessed = assess_measurement(spec, each, comparable=comparable)
        if each.error is not None:
            assert assessed.verdict is Verdict.ERROR
        elif each.value is None or not math.isfinite(each.value):
            assert assessed.verdict is Verdict.NO_DATA
        else:
            assert assessed.verdict in (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE)
    result = measure(spec, *measured)
    assert result.measurements == len(measured)
    assert result.failures <= len(measured)
    assert result.value is None or math.isfinite(result.value)


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(0, 5))
def test_a_worse_value_never_gets_a_better_verdict(value: float, bound: float, slack: float) -> None:
    spec = MetricSpec.model_construct(name="m", max=bound, fail_above=bound + slack, min_samples=0)
    order = [Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL]
    better, worse = (assess_measurement(spec, Measurement(v), comparable=True).verdict for v in (value, value + 1))
    assert order.index(better) <= order.index(worse)
