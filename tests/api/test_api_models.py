"""The models read what the API server stores, and refuse what it would refuse."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tidegate.api.ab_test import ExperimentMetric
from tidegate.api.base import ComputeResources, Condition, format_duration, parse_duration
from tidegate.api.deployment import Analysis, Canary, DeploymentSpec, Step
from tidegate.api.training_job import Dataset, TrainingJobSpec

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1h30m", 5400), ("24h", 86400), ("0s", 0), ("1h1s", 3601)]
)
def test_a_duration_is_read(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "30", "1d", "-5s", "1.5h", "5 m", "30s5m", "500ms", "5m\n"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="write for example"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**8))
def test_a_duration_survives_writing_and_reading(seconds):
    assert parse_duration(format_duration(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


@pytest.mark.parametrize("value", ["2", "500m", "4Gi", "1.5", "0.5Gi", ".5", "100"])
def test_a_quantity_is_read(value):
    assert ComputeResources(cpu=value).cpu == value


@pytest.mark.parametrize("value", ["0", "-1", "0m", "4gb", "1e3", "", "0.0"])
def test_what_is_no_quantity_above_zero_is_refused(value):
    with pytest.raises(ValidationError, match="write a quantity above 0"):
        ComputeResources(cpu=value)


def test_a_whole_number_is_read_as_a_quantity():
    assert ComputeResources.model_validate({"cpu": 2}).cpu == "2"


def test_a_duration_out_of_range_is_refused():
    with pytest.raises(ValidationError, match="from 1s to 24h"):
        Analysis.model_validate({"interval": "0s"})


def test_an_unknown_field_of_a_spec_is_refused_with_its_path():
    with pytest.raises(ValidationError, match=r"serving\.replica\b"):
        DeploymentSpec.model_validate({"modelVersion": "a", "serving": {"replica": 1}})


def test_an_unknown_field_of_a_status_is_ignored():
    written = {"type": "Ready", "status": "True", "reason": "Ok", "lastTransitionTime": NOW, "newer": 1}
    assert Condition.model_validate(written).reason == "Ok"


def test_a_dataset_without_a_scheme_is_refused():
    with pytest.raises(ValidationError, match="begins with builtin://"):
        Dataset(name="positions", uri="positions.npz")


def test_the_defaults_that_the_server_leaves_to_the_model():
    spec = DeploymentSpec.model_validate({"modelVersion": "a"})
    assert spec.strategy.canary == Canary(initial_percent=5, increment_percent=10, interval="30m", bake="0s")
    assert spec.strategy.immediate.bake == timedelta(minutes=10)


def test_error_rate_comes_from_envoy_and_everything_else_from_outcomes():
    fields = {"role": "Goal", "direction": "Decrease"}
    assert ExperimentMetric.model_validate({"name": "errorRate", **fields}).source == "Envoy"
    assert ExperimentMetric.model_validate({"name": "win", **fields}).source == "Outcomes"


def test_what_is_written_is_camel_case_without_empty_fields():
    assert Step.model_validate({"setPercent": 5}).to_json() == {"setPercent": 5.0}
    assert Step.model_validate({"pause": {}}).to_json() == {"pause": {}}


def test_a_timestamp_keeps_its_microseconds():
    condition = Condition(type="Ready", status="True", reason="Ok", last_transition_time=NOW)
    assert condition.to_json()["lastTransitionTime"] == "2026-01-02T03:04:05.678901Z"


def test_a_free_configuration_is_kept_as_it_is():
    config = {"blocks": 3, "nested": {"list": [1, 2.5, "x", None]}}
    spec = TrainingJobSpec.model_validate(
        {
            "model": "m",
            "trainer": {"algorithm": "supervised", "config": config},
            "datasets": [{"name": "d", "uri": "builtin://d"}],
        }
    )
    assert spec.to_json()["trainer"]["config"] == config
