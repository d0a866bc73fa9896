"""Tables of single decisions about a TrainingJob."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.training.support import NOW, ROOT, failure, result, seconds, training_job
from tidegate.api.model_version import ModelPhase
from tidegate.api.training_job import RunOutcome, TrainingJob, TrainingPhase
from tidegate.domain.conditions import find_condition, is_true
from tidegate.domain.jobs import JobOutcome, JobState, PodState
from tidegate.domain.training import NO_DEADLINE, needs_recorded_result, needs_run, plan_training
from tidegate.domain.training_plan import (
    BaseVersion,
    CreateVersion,
    DeleteJob,
    EndRun,
    HandOver,
    Observed,
    Run,
    StartJob,
    SteerJob,
    Target,
    TrainingPlan,
    VersionState,
)

RUN = Run("1", "run-1", ROOT)
JOB = JobState(
    name="connect4-policy-training", uid="j", owner_uid="uid-1", created=NOW, started_at=NOW, suspended=False
)
POD = PodState(name="pod-1", uid="p", owner_uid="j", created=NOW)
RUNNING = replace(POD, phase="Running", node="node-1")
DONE = replace(POD, phase="Succeeded", exit_code=0, termination_message=result())
COMPLETE = replace(JOB, outcome=JobOutcome.COMPLETE)
ACTIVE = {
    "phase": "Running",
    "jobName": JOB.name,
    "mlflow": {"experimentID": "1", "runID": "run-1", "artifactURI": ROOT},
}


def plan(training: TrainingJob, now: Any = NOW, **observed: Any) -> TrainingPlan:
    return plan_training(training, Observed(**{"run": RUN, **observed}), now)


def reason(made: TrainingPlan) -> str:
    ready = find_condition(made.status.conditions, "Ready")
    assert ready is not None
    return ready.reason


def aspects(made: TrainingPlan) -> set[str]:
    return {each.type for each in made.status.conditions if is_true(made.status.conditions, each.type)}


def version(name: str = "connect4-1.0.0", phase: ModelPhase = ModelPhase.READY, **changes: Any) -> VersionState:
    return VersionState(name, "connect4", name.removeprefix("connect4-"), phase, **changes)


OWN = {"maker": "uid-1"}


# ---- before the Job --------------------------------------------------------------------------------------------------


def test_all_conditions_are_there_from_the_first_plan_on() -> None:
    made = plan(training_job())
    assert {each.type for each in made.status.conditions} == {
        *("Ready", "Reconciling", "Stalled", "Complete", "Failed", "Suspended"),
    }
    assert aspects(made) == {"Reconciling"}
    assert made.status.observed_generation == 1


def test_names_and_run_are_written_down_before_the_job_is_made() -> None:
    first = plan(training_job())
    assert first.intents == ()
    assert first.recheck_after == seconds(0)
    assert first.status.mlflow is not None
    assert first.status.mlflow.run_id == "run-1"
    second = plan(training_job(status=first.status.to_json()))
    assert second.intents == (StartJob(RUN, None),)
    assert second.status.started_at == NOW


def test_mlflow_away() -> None:
    made = plan(training_job(), run=None, registry_problem="connection refused")
    assert (reason(made), made.status.phase, made.intents) == ("MLflowUnavailable", TrainingPhase.PENDING, ())
    assert made.recheck_after is not None
    assert "connection refused" in made.status.message


def test_run_is_only_asked_for_when_everything_else_is_there() -> None:
    def asks(training: TrainingJob, **observed: Any) -> bool:
        return needs_run(training, Observed(**observed), NOW)

    assert asks(training_job())
    assert not asks(training_job(), run=RUN)
    assert not asks(training_job(), job=JOB)
    assert not asks(training_job(suspend=True))
    assert not asks(training_job(trainer={"algorithm": "supervised", "config": {"nope": 1}}))
    assert not asks(training_job(baseModelVersion="connect4-1.0.0"))
    assert not asks(training_job(status={"phase": "Failed"}))


def test_wrong_config_takes_no_pod() -> None:
    made = plan(training_job(trainer={"algorithm": "supervised", "config": {"blokcs": 1}}))
    assert (reason(made), made.status.phase, made.intents) == ("InvalidConfig", TrainingPhase.FAILED, ())
    assert "spec.trainer.config.blokcs" in made.status.message


def test_config_of_an_own_image_is_its_own_business() -> None:
    job = training_job(trainer={"image": "mine:1", "config": {"anything": 1}})
    assert reason(plan(job)) == "Starting"


BASE = BaseVersion(ModelPhase.READY, "s3://b/m.onnx", "e" * 64)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (None, "BaseModelVersionNotFound"),
        (replace(BASE, phase=ModelPhase.PENDING), "BaseModelVersionNotReady"),
        (replace(BASE, phase=ModelPhase.VALIDATING), "BaseModelVersionNotReady"),
        (replace(BASE, phase=ModelPhase.REJECTED), "BaseModelVersionRejected"),
        (BASE, "Starting"),
    ],
)
def test_base_version(base: BaseVersion | None, expected: str) -> None:
    made = plan(training_job(baseModelVersion="connect4-0.9.0"), base=base)
    assert reason(made) == expected
    assert (made.status.phase is TrainingPhase.FAILED) == (expected == "BaseModelVersionRejected")


def test_name_of_a_deleted_predecessor() -> None:
    made = plan(training_job(), foreign_job=JOB.name)
    assert (reason(made), made.intents) == ("NameTaken", ())
    assert made.recheck_after is not None


# ---- the Job runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pod", "phase", "expected", "said"),
    [
        (POD, TrainingPhase.PENDING, "PodStarting", "pod-1"),
        (RUNNING, TrainingPhase.RUNNING, "Training", "pod-1"),
        (
            replace(POD, unschedulable="0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
            TrainingPhase.PENDING,
            "Unschedulable",
            "add a GPU node with the NVIDIA device plugin, or lower spec.resources.gpus",
        ),
        (
            replace(POD, unschedulable="0/1 nodes are available: 1 Insufficient cpu."),
            TrainingPhase.PENDING,
            "Unschedulable",
            "no node has room for spec.resources: free or add capacity",
        ),
        (
            replace(POD, waiting_reason="ImagePullBackOff", waiting_message='Back-off pulling image "trainer:x"'),
            TrainingPhase.PENDING,
            "ImagePullBackOff",
            'Back-off pulling image "trainer:x". Check the chart\'s trainer image and the rights to pull it',
        ),
        (
            replace(POD, waiting_reason="ErrImagePull", waiting_message="pull access denied"),
            TrainingPhase.PENDING,
            "ErrImagePull",
            "pull access denied. Check the chart's trainer image and the rights to pull it",
        ),
        (
            replace(POD, waiting_reason="CreateContainerError", waiting_message="no such device: nvidia0"),
            TrainingPhase.PENDING,
            "CreateContainerError",
            "no such device: nvidia0. Mend what it names",
        ),
    ],
)
def test_what_a_running_job_waits_for(pod: PodState, phase: TrainingPhase, expected: str, said: str) -> None:
    job = training_job(status=ACTIVE, resources={"gpus": 2})
    made = plan(job, job=JOB, pods=(pod,))
    assert (reason(made), made.status.phase) == (expected, phase)
    assert said in made.status.message
    assert aspects(made) == {"Reconciling"}


def test_an_own_image_that_cannot_be_pulled_is_the_users_to_check() -> None:
    job = training_job(status=ACTIVE, trainer={"image": "mine:1", "config": {}})
    made = plan(job, job=JOB, pods=(replace(POD, waiting_reason="ErrImagePull", waiting_message="not found"),))
    assert "not found. Check spec.trainer.image and the rights to pull it" in made.status.message


def test_job_whose_pods_are_refused() -> None:
    job = training_job(status=ACTIVE)
    assert plan(job, job=JOB, now=NOW + seconds(5)).recheck_after == seconds(15)
    made = plan(job, job=JOB, now=NOW + seconds(20))
    assert (reason(made), made.recheck_after) == ("PodRefused", None)
    assert f"kubectl describe job {JOB.name}" in made.status.message


def test_retry_says_why() -> None:
    killed = replace(POD, phase="Failed", exit_code=137, ended_reason="OOMKilled")
    again = replace(RUNNING, name="pod-2")
    job = replace(JOB, failed=1, backoff_limit=2)
    made = plan(training_job(status=ACTIVE), job=job, pods=(killed, again))
    assert "attempt 2 of 3" in made.status.message
    assert "OutOfMemory" in made.status.message
    assert made.status.phase is TrainingPhase.RUNNING


def test_pod_on_a_lost_node_is_given_up() -> None:
    dying = replace(RUNNING, gone_by=NOW)
    job = training_job(status=ACTIVE)
    waiting = plan(job, now=NOW + seconds(30), job=JOB, pods=(dying,))
    assert (waiting.intents, waiting.recheck_after) == ((), seconds(30))
    made = plan(job, now=NOW + seconds(60), job=JOB, pods=(dying,))
    assert (reason(made), made.intents, made.recheck_after) == ("NodeLost", (DeleteJob(),), seconds(0))
    assert "node-1" in made.status.message


# ---- suspend, resume, deadline ---------------------------------------------------------------------------------------


def test_suspend_stops_pod_and_clock() -> None:
    job = training_job(status=ACTIVE | {"resumedAt": NOW.isoformat()}, suspend=True, activeDeadlineSeconds=100)
    made = plan(job, now=NOW + seconds(40), job=replace(JOB, deadline=100), pods=(RUNNING,))
    assert made.intents == (SteerJob(suspend=True, deadline=100),)
    assert (made.status.active_seconds, made.status.resumed_at) == (40, None)
    assert (made.status.phase, aspects(made)) == (TrainingPhase.SUSPENDED, {"Suspended"})


def test_suspended_status_does_not_change_by_itself() -> None:
    job = training_job(status=ACTIVE | {"resumedAt": NOW.isoformat()}, suspend=True)
    stopped = replace(JOB, suspended=True, suspended_since=NOW + seconds(40), started_at=None)
    first = plan(job, now=NOW + seconds(50), job=stopped)
    assert first.status.active_seconds == 40
    second = plan(training_job(status=first.status.to_json(), suspend=True), now=NOW + seconds(90), job=stopped)
    assert second.status == first.status
    assert (second.intents, second.recheck_after) == ((), None)


def test_suspended_before_it_started() -> None:
    made = plan(training_job(suspend=True), run=None)
    assert (made.intents, made.status.phase) == ((), TrainingPhase.SUSPENDED)


def test_resume_takes_what_is_left_of_the_deadline() -> None:
    status = ACTIVE | {"phase": "Suspended", "activeSeconds": 40.5}
    stopped = replace(JOB, suspended=True, suspended_since=NOW, started_at=None, deadline=100)
    job = training_job(status=status, activeDeadlineSeconds=100)
    assert plan(job, job=stopped).intents == (SteerJob(suspend=False, deadline=60),)
    assert reason(plan(job, job=replace(stopped, suspended_since=None))) == "Suspending"
    used_up = training_job(status=status, activeDeadlineSeconds=40)
    assert reason(plan(used_up, job=stopped)) == "DeadlineExceeded"


def test_deadline_that_changes_while_it_runs() -> None:
    limited = replace(JOB, deadline=100)
    assert plan(training_job(status=ACTIVE, activeDeadlineSeconds=100), job=limited, pods=(RUNNING,)).intents == ()
    raised = plan(training_job(status=ACTIVE, activeDeadlineSeconds=900), job=limited, pods=(RUNNING,))
    assert raised.intents == (SteerJob(suspend=False, deadline=900),)
    removed = plan(training_job(status=ACTIVE), job=limited, pods=(RUNNING,))
    assert removed.intents == (SteerJob(suspend=False, deadline=NO_DEADLINE),)


def test_job_that_somebody_deleted_is_made_again_with_what_is_left() -> None:
    status = ACTIVE | {"resumedAt": NOW.isoformat(), "startedAt": NOW.isoformat()}
    made = plan(training_job(status=status, activeDeadlineSeconds=100), now=NOW + seconds(30))
    assert made.intents == (StartJob(RUN, 70),)


# ---- the end ---------------------------------------------------------------------------------------------------------


FAILED = replace(JOB, outcome=JobOutcome.FAILED, reason="BackoffLimitExceeded", failed=3)
DEAD = replace(POD, phase="Failed", exit_code=1, ended_reason="Error")


@pytest.mark.parametrize(
    ("job", "pods", "expected", "said"),
    [
        (
            FAILED,
            (DEAD,),
            "BackoffLimitExceeded",
            "3 pods failed (spec.backoffLimit is 2); the last one: the trainer ended",
        ),
        (FAILED, (replace(DEAD, ended_reason="OOMKilled"),), "OutOfMemory", "limit of 4Gi (spec.resources.memory)"),
        (
            FAILED,
            (replace(DEAD, ended_reason="StartError", termination_message="container init was OOM-killed"),),
            "OutOfMemory",
            "4Gi",
        ),
        (FAILED, (replace(DEAD, termination_message=failure("StorageUnavailable")),), "StorageUnavailable", "the loss"),
        (
            replace(FAILED, reason="PodFailurePolicy"),
            (replace(DEAD, exit_code=3, termination_message=failure()),),
            "NaNLoss",
            "lower learningRate",
        ),
        (replace(FAILED, reason="DeadlineExceeded"), (), "DeadlineExceeded", "spec.activeDeadlineSeconds"),
        (replace(FAILED, message="gone"), (), "BackoffLimitExceeded", "gone"),
        (FAILED, (replace(DEAD, exit_code=None, reason="Evicted", message="low on disk"),), "Evicted", "low on disk"),
    ],
)
def test_reasons_of_a_failure(job: JobState, pods: tuple[PodState, ...], expected: str, said: str) -> None:
    made = plan(training_job(status=ACTIVE), job=job, pods=pods)
    assert (reason(made), made.status.phase) == (expected, TrainingPhase.FAILED)
    assert said in made.status.message
    assert aspects(made) == {"Stalled", "Failed"}
    assert made.notes[0].warning


def test_result_becomes_a_version() -> None:
    others = (version("connect4-1.0.0"), version("connect4-1.1.0", ModelPhase.REJECTED))
    made = plan(training_job(status=ACTIVE), job=COMPLETE, pods=(DONE,), versions=others)
    (intent,) = made.intents
    assert isinstance(intent, CreateVersion)
    assert (intent.name, intent.version) == ("connect4-1.2.0", "1.2.0")
    assert (made.status.phase, made.status.model_version) == (TrainingPhase.EVALUATING, "connect4-1.2.0")
    assert made.status.artifact is not None
    assert made.status.metrics["moveAccuracy"] == 0.93


def test_missed_gate_says_by_how_much() -> None:
    gates = [{"metric": "moveAccuracy", "min": 0.95}, {"metric": "speed", "min": 1}]
    job = training_job(status=ACTIVE, evaluation={"gates": gates})
    made = plan(job, job=COMPLETE, pods=(DONE,))
    assert (made.intents, reason(made)) == ((), "GateFailed")
    assert "moveAccuracy is 0.93, 0.02 below its minimum of 0.95; speed was not reported" in made.status.message
    assert made.status.artifact is not None


@pytest.mark.parametrize(
    ("message", "expected"),
    [("", "ResultMissing"), ("not JSON", "InvalidResult"), (failure("ParityFailed"), "ParityFailed")],
)
def test_job_that_ends_well_without_a_result(message: str, expected: str) -> None:
    pod = replace(DONE, termination_message=message)
    made = plan(training_job(status=ACTIVE), job=COMPLETE, pods=(pod,))
    assert (reason(made), made.status.phase) == (expected, TrainingPhase.FAILED)


def test_result_of_a_pod_that_is_gone() -> None:
    job = training_job(status=ACTIVE)
    assert needs_recorded_result(job, Observed(job=COMPLETE, run=RUN), NOW)
    assert not needs_recorded_result(job, Observed(job=COMPLETE, pods=(DONE,)), NOW)
    assert not needs_recorded_result(job, Observed(job=JOB), NOW)
    away = plan(job, job=COMPLETE, registry_problem="away")
    assert (reason(away), away.status.phase) == ("MLflowUnavailable", TrainingPhase.EVALUATING)
    assert isinstance(plan(job, job=COMPLETE, recorded_result=result()).intents[0], CreateVersion)
    assert reason(plan(job, job=COMPLETE)) == "ResultMissing"


def test_version_made_before_a_crash_is_found_again() -> None:
    own = version("connect4-1.0.0", ModelPhase.PENDING, **OWN)
    made = plan(training_job(status=ACTIVE), job=COMPLETE, pods=(DONE,), versions=(own,))
    assert (made.intents, made.status.model_version) == ((), "connect4-1.0.0")
    assert made.status.artifact is not None


def test_checks_take_none_of_the_trainings_time_when_the_operator_was_stopped_before_them() -> None:
    """Rule 11: the version is there, and nothing is written down."""
    own = version("connect4-1.0.0", ModelPhase.PENDING, **OWN)
    job = training_job(status=ACTIVE | {"resumedAt": (NOW - seconds(60)).isoformat()})
    made = plan(job, job=COMPLETE, pods=(DONE,), versions=(own,))
    assert (made.status.active_seconds, made.status.resumed_at) == (60, None)


def test_version_made_before_a_crash_whose_pod_is_gone_gets_its_result_from_mlflow() -> None:
    """Rule 11: pod and operator end together; MLflow may be away for a while."""
    own, job = version("connect4-1.0.0", **OWN), training_job(status=ACTIVE)
    assert needs_recorded_result(job, Observed(job=COMPLETE, run=RUN, versions=(own,)), NOW)
    away = plan(job, job=COMPLETE, versions=(own,), registry_problem="away")
    assert (reason(away), away.status.model_version) == ("MLflowUnavailable", None)
    found = plan(job, job=COMPLETE, versions=(own,), recorded_result=result()).status
    assert (found.model_version, found.artifact is not None, found.metrics != {}) == ("connect4-1.0.0", True, True)


def test_version_that_was_deleted_is_not_made_again() -> None:
    made = plan(training_job(status=ACTIVE | {"modelVersion": "connect4-1.0.0"}), job=COMPLETE, pods=(DONE,))
    assert (made.intents, reason(made)) == ((), "ModelVersionDeleted")


EVALUATING = ACTIVE | {"phase": "Evaluating", "modelVersion": "connect4-1.1.0"}


def test_rejected_version_fails_the_training() -> None:
    own = version("connect4-1.1.0", ModelPhase.REJECTED, message="Parity: too far off", **OWN)
    made = plan(training_job(status=EVALUATING), job=COMPLETE, pods=(DONE,), versions=(own,))
    assert (reason(made), made.status.phase) == ("ModelVersionRejected", TrainingPhase.FAILED)
    assert "too far off" in made.status.message


def test_ready_version_completes_the_training() -> None:
    progress = {"percent": 97.0, "estimatedSecondsLeft": 4}
    job = training_job(status=EVALUATING | {"progress": progress})
    made = plan(job, job=COMPLETE, pods=(DONE,), versions=(version("connect4-1.1.0", **OWN),))
    assert (made.status.phase, aspects(made)) == (TrainingPhase.SUCCEEDED, {"Ready", "Complete"})
    assert made.status.progress is not None
    assert made.status.progress.percent == 100


# ---- handover --------------------------------------------------------------------------------------------------------

TARGET = Target("connect4", "uid-d", wanted="connect4-1.0.0", stable="connect4-1.0.0")
DEPLOY = {"deploy": {"name": "connect4"}}
IMPROVED = {"deploy": {"name": "connect4", "onlyIfImproved": {"metric": "moveAccuracy"}}}


def measured(name: str, value: float | None, **changes: Any) -> VersionState:
    return version(name, metrics={"moveAccuracy": value} if value is not None else {}, **changes)


@pytest.mark.parametrize(
    ("output", "target", "old", "new", "expected"),
    [
        (DEPLOY, TARGET, 0.9, 0.8, "HandedOver"),
        (IMPROVED, TARGET, 0.9, 0.91, "HandedOver"),
        (IMPROVED, TARGET, 0.9, 0.9, "NotImproved"),
        (IMPROVED, TARGET, 0.9, 0.8, "NotImproved"),
        (IMPROVED, TARGET, None, 0.9, "NotComparable"),
        (IMPROVED, TARGET, 0.9, None, "NotComparable"),
        (IMPROVED, replace(TARGET, stable=None), 0.9, 0.1, "HandedOver"),
        (IMPROVED, replace(TARGET, stable="connect4-0.0.1"), 0.9, 0.95, "NotComparable"),
        (IMPROVED, replace(TARGET, wanted="connect4-1.2.0"), 0.9, 0.95, "Superseded"),
        (DEPLOY, None, 0.9, 0.95, "DeploymentNotFound"),
    ],
)
def test_handover(
    output: dict[str, Any], target: Target | None, old: float | None, new: float | None, expected: str
) -> None:
    versions = (measured("connect4-1.0.0", old), measured("connect4-1.1.0", new, **OWN), version("connect4-1.2.0"))
    job = training_job(status=EVALUATING, output=output)
    made = plan(job, job=COMPLETE, versions=versions, target=target)
    handover = made.status.handover
    assert handover is not None
    assert (handover.reason, handover.handed_over) == (expected, expected == "HandedOver")
    handed = (HandOver(target, "connect4-1.1.0"),) if target and expected == "HandedOver" else ()
    assert made.intents == handed
    assert made.status.phase is TrainingPhase.SUCCEEDED
    assert handover.message in made.status.message


def test_handover_that_was_done_before_a_crash() -> None:
    target = replace(TARGET, wanted="connect4-1.1.0")
    own = measured("connect4-1.1.0", 0.1, **OWN)
    made = plan(training_job(status=EVALUATING, output=IMPROVED), versions=(own,), target=target)
    assert made.intents == ()
    assert made.status.handover is not None
    assert made.status.handover.handed_over


# ---- after the end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("phase", "outcome"), [("Succeeded", RunOutcome.FINISHED), ("Failed", RunOutcome.FAILED)])
def test_leftovers_are_tidied_up_only_after_the_verdict(phase: str, outcome: RunOutcome) -> None:
    job = training_job(status=ACTIVE | {"phase": phase}, ttlSecondsAfterFinished=7)
    made = plan(job, job=COMPLETE)
    assert made.intents == (SteerJob(suspend=False, deadline=None, ttl=7), EndRun("run-1", outcome))
    settled = training_job(status=made.status.to_json(), ttlSecondsAfterFinished=7)
    again = plan(settled, job=replace(COMPLETE, ttl=7))
    assert (again.intents, again.status, again.recheck_after) == ((), settled.status, None)


def test_job_that_still_runs_is_stopped_after_the_verdict() -> None:
    made = plan(training_job(status={"phase": "Failed"}), job=replace(JOB, suspended=True))
    assert made.intents == (DeleteJob(),)
