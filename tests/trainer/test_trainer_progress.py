"""Progress against a real server, and MLflow that is away."""

import contextlib
import threading

import pytest

from tidegate_trainer.contract import RESULT_TAG, Progress
from tidegate_trainer.errors import Reason, TrainingError
from tidegate_trainer.progress import Phase, ProgressReporter
from tidegate_trainer.tracking import Tracker


@pytest.fixture
def target(server, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret\n")
    return Progress(url=f"{server.url}/progress", token_file=str(token), interval_seconds=0.02)


def train(reporter, done, total=100):
    reporter.train(done, total, epoch=1, epochs=4, metrics={"loss": 1.5})


def test_reports_carry_the_token_and_the_contract_s_fields(server, target):
    with ProgressReporter(target) as reporter:
        reporter.enter(Phase.TRAINING, "training")
        train(reporter, 0)
        train(reporter, 50)
        server.wait_for_posts(len(server.posts) + 2)
    path, authorization, body = server.posts[-1]
    assert (path, authorization) == ("/progress", "Bearer secret")
    assert body == {
        "percent": 49.0, "epoch": 1, "epochs": 4, "step": 50, "estimatedSecondsLeft": 0, "metrics": {"loss": 1.5},
    }  # fmt: skip


def test_a_renewed_token_is_used(server, target, tmp_path):
    with ProgressReporter(target) as reporter:
        server.wait_for_posts(1)
        (tmp_path / "token").write_text("renewed")
        server.wait_for_posts(len(server.posts) + 2)
    assert server.posts[-1][1] == "Bearer renewed"
    assert reporter.state.percent == 0


def test_the_last_report_is_sent_when_the_job_ends(server, target):
    slow = target.model_copy(update={"interval_seconds": 3600})
    with ProgressReporter(slow) as reporter:
        reporter.enter(Phase.DONE, "done")
    assert [post[2] for post in server.posts] == [{"percent": 100.0, "metrics": {}, "message": "done"}]


def test_percent_never_falls(target):
    reporter = ProgressReporter(None)
    seen = []
    reporter.resume_at(40)
    for action in (
        lambda: reporter.enter(Phase.PREPARING, "again"),
        lambda: train(reporter, 10),
        lambda: train(reporter, 60),
        lambda: train(reporter, 20),
        lambda: reporter.enter(Phase.EVALUATING, "evaluating"),
        lambda: reporter.enter(Phase.DONE, "done"),
    ):
        action()
        seen.append(reporter.state.percent)
    assert seen == sorted(seen)
    assert seen == [40, 40, 58, 58, 94, 100]


def test_time_left_follows_the_speed_of_this_pod():
    now = [0.0]
    reporter = ProgressReporter(None, clock=lambda: now[0])
    reporter.enter(Phase.TRAINING, "training")
    train(reporter, 40)
    assert reporter.state.estimated_seconds_left is None
    now[0] = 10.0
    train(reporter, 60)
    assert reporter.state.estimated_seconds_left == pytest.approx(20.0)


@pytest.mark.parametrize("cause", ["403", "no server", "no token"])
def test_a_failing_report_is_told_once_and_stops_nothing(server, target, tmp_path, caplog, cause):
    if cause == "403":
        server.failures += [403] * 1000
    elif cause == "no server":
        target = target.model_copy(update={"url": "http://127.0.0.1:9/"})
    else:
        (tmp_path / "token").unlink()
    tried = threading.Event()
    with ProgressReporter(target) as reporter:
        report, count = reporter._report, [0]

        def counted(*arguments):
            report(*arguments)
            count[0] += 1
            if count[0] == 5:
                tried.set()

        reporter._report = counted
        assert tried.wait(10)
        train(reporter, 50)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "the training goes on" in warnings[0].message


class Sink:
    def __init__(self, failures=0):
        self.failures, self.tries, self.batches = failures, 0, []
        self.taken = threading.Event()

    def log(self, batch):
        self.tries += 1
        if self.tries <= self.failures:
            raise ConnectionError("refused")
        self.batches.append(batch)
        self.taken.set()


def test_metrics_wait_while_mlflow_is_away_and_keep_their_order(caplog):
    sink = Sink(failures=3)
    with Tracker(sink, pause_seconds=0.01) as tracker:
        tracker.log_parameters({"blocks": "3"})
        tracker.log_metrics({"loss": 1.0}, 10)
        tracker.log_metrics({"loss": 0.5}, 20)
    assert [batch.step for batch in sink.batches[1:-1]] == [0, 10, 20]
    assert sink.batches[1].parameters == {"blocks": "3"}
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_mlflow_that_stays_away_costs_a_bounded_time(caplog):
    sink = Sink(failures=10**9)
    with Tracker(sink, pause_seconds=0.01, last_seconds=0.05) as tracker:
        tracker.log_metrics({"loss": 1.0}, 10)
    assert "the termination message and the manifest have it" in caplog.text


def test_the_result_goes_last_and_whole():
    sink = Sink(failures=2)
    with Tracker(sink, pause_seconds=0.01) as tracker:
        tracker.log_metrics({"loss": 1.0}, 10)
        tracker.record_result("x" * 5000)
    assert [batch.tags for batch in sink.batches[1:-1]] == [{}, {RESULT_TAG: "x" * 5000}]


def test_a_result_that_mlflow_would_cut_off_is_left_out(caplog):
    sink = Sink()
    with Tracker(sink) as tracker:
        tracker.record_result("x" * 5001)
    assert not any(batch.tags for batch in sink.batches)
    assert "5001 characters, 5000 fit into an MLflow tag" in caplog.text


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "FINISHED"),
        (TrainingError(Reason.STOPPED, "told to stop"), "KILLED"),
        (TrainingError(Reason.NAN_LOSS, "not a number"), "FAILED"),
        (MemoryError(), "FAILED"),
    ],
)
def test_the_run_says_whether_a_trainer_is_at_work(error, state):
    sink = Sink()
    with contextlib.suppress(TrainingError, MemoryError), Tracker(sink) as tracker:
        tracker.log_metrics({"loss": 1.0}, 10)
        if error:
            raise error
    assert [batch.state for batch in sink.batches] == ["RUNNING", None, state]


def test_no_run_logs_nothing():
    with Tracker(None) as tracker:
        tracker.log_metrics({"loss": 1.0}, 10)
        tracker.record_result("{}")
