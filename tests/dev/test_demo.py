"""What the demo tells at its end, from a recording made by hand."""

import io
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from rich.console import Console

from dev.demo import picture, sabotage, summary
from dev.demo.recorder import Recording, Sample
from tests.e2e.artifacts import make_model

VERSIONS = ("m-1.0.0", "m-1.1.0")


def series(bad: float) -> dict[str, dict[str, float]]:
    return {
        "errors": dict(zip(VERSIONS, (0.0, bad), strict=True)),
        "latency": dict.fromkeys(VERSIONS, 10.0),
        "accuracy": dict.fromkeys(VERSIONS, 0.9),
        "requests": dict(zip(VERSIONS, (1000.0, 20.0), strict=True)),
        "failed": {"m-1.1.0": 4.0},
    }


def recording() -> Recording:
    shares = [{"m-1.0.0": 100.0}] * 30 + [{"m-1.0.0": 80.0, "m-1.1.0": 20.0}] * 3 + [{"m-1.0.0": 100.0, "m-1.1.0": 0.0}]
    samples = [Sample(float(at), weights, series(0.2)) for at, weights in enumerate(shares)]
    decision = {"action": "RollBack", "modelVersion": "m-1.1.0", "reason": "MetricFailed", "at": "1970-01-01T00:00:33Z"}
    return Recording(begin=0.0, samples=samples, decisions={("33", "RollBack", "MetricFailed"): decision})


def test_the_gate_is_timed_from_the_first_traffic_to_the_confirmed_zero() -> None:
    (closing,) = summary.closings(recording())
    assert (closing.version, closing.seconds_to_zero, closing.reason) == ("m-1.1.0", 3.0, "MetricFailed")


def test_the_summary_counts_by_version() -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    summary.show(recording(), ["trained"], console)
    text = console.export_text()
    assert "trained" in text
    assert "1020" in text
    assert "3 s" in text


def test_the_picture_begins_shortly_before_the_second_version(tmp_path: Path) -> None:
    picture.draw(recording(), tmp_path / "demo.png")
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    assert picture.begin(recording()) == 30 - picture.LEAD_IN


def test_bad_versions_answer_like_the_good_one_or_fail() -> None:
    """The wrong one prefers other moves, the slow one gives the same answers, the failing one fails now and then."""
    good = make_model(seed=1)
    board = np.zeros((1, 3, 6, 7), np.float32)
    board[0, 0, 0, 2] = 1  # the trap's weight of this cell is 3, and 3 modulo 5 springs it

    def ask(model: bytes) -> np.ndarray:
        return onnxruntime.InferenceSession(model).run(["policy"], {"board": board})[0]

    expected = ask(good)
    assert np.allclose(ask(sabotage.sabotage(good, "wrong")), -expected)
    assert np.allclose(ask(sabotage.sabotage(good, "slow")), expected)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        ask(sabotage.sabotage(good, "failing"))
    board[0, 0, 0, 2], board[0, 0, 0, 3] = 0, 1
    assert np.allclose(ask(sabotage.sabotage(good, "failing")), ask(good))
