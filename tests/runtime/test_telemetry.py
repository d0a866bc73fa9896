"""The operator's own series and log lines."""

import json
import logging

import pytest

from tidegate.adapters import telemetry
from tidegate.adapters.telemetry import JsonFormatter, PrometheusTelemetry, QueueTelemetry, render_metrics
from tidegate.ports import DEPLOYMENT, Key


def series(name: str) -> dict[str, float]:
    lines = render_metrics().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if line.startswith(name))
    return {labels: float(value) for labels, _, value in pairs}


def test_shares_follow_the_release_and_go_with_the_deployment() -> None:
    shown = PrometheusTelemetry()
    shown.show_weights("ns", "d", {("m-1", "Stable"): 80.0, ("m-2", "Canary"): 20.0})
    assert sorted(series("tidegate_release_weight_percent").values()) == [20.0, 80.0]
    shown.show_weights("ns", "d", {("m-2", "Stable"): 100.0})
    assert list(series("tidegate_release_weight_percent").values()) == [100.0]
    shown.show_analysis("ns", "d", {"errorRate": 0.01}, {("errorRate", "Pass"): 1.0, ("errorRate", "Fail"): 0.0})
    assert len(series("tidegate_analysis_verdict")) == 2
    shown.forget("ns", "d")
    assert not series("tidegate_release_weight_percent")
    assert not series("tidegate_analysis")


def test_decisions_and_reconciles_are_counted() -> None:
    PrometheusTelemetry().count_decision("Deployment", "RollBack", "AnalysisFailed")
    found = series("tidegate_decisions_total")
    assert found['tidegate_decisions_total{action="RollBack",kind="Deployment",reason="AnalysisFailed"}'] >= 1
    queue = QueueTelemetry()
    queue.started(3, 0.01)
    queue.finished(Key(DEPLOYMENT, "ns", "d"), 0.02)
    queue.failed(Key(DEPLOYMENT, "ns", "d"), "ApiServerUnavailable")
    assert series("tidegate_queue_depth") == {"tidegate_queue_depth": 3.0}
    assert series('tidegate_reconcile_seconds_count{kind="Deployment"}')
    assert series("tidegate_reconcile_errors_total")


def test_log_lines_are_json_with_the_numbers_beside_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("tidegate", logging.WARNING, "x.py", 1, "rolled %s", ("back",), None)
    record.fields = {"reason": "AnalysisFailed", "to": 0}
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["level"], line["reason"], line["to"]) == (
        "rolled back",
        "warning",
        "AnalysisFailed",
        0,
    )
    before = logging.getLogger().handlers[:]
    telemetry.configure_logging("INFO")
    try:
        logging.getLogger("tidegate").info("hello\nworld")
        logging.getLogger("kopf.x").info("not this")
        (only,) = capsys.readouterr().err.splitlines()
        assert json.loads(only)["message"] == "hello\nworld"
    finally:
        logging.getLogger().handlers[:] = before
