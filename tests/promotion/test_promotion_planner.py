"""Tables of single decisions about a ModelVersion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.training.support import NOW, seconds, validation_error, verdict, version_manifest
from tidegate.api.model_version import ModelPhase, ModelVersion, Role, ServedBy, Stage
from tidegate.domain.conditions import find_condition, is_true
from tidegate.domain.jobs import JobOutcome, JobState, PodState
from tidegate.domain.promotion import (
    DeleteValidation,
    ExpireValidation,
    Intent,
    Mirror,
    MirrorProblem,
    Observed,
    StartValidation,
    VersionPlan,
    conclude_mirror,
    plan_model_version,
)

JOB = JobState(name="v", uid="j", owner_uid="uid-mv", created=NOW, suspended=False)
POD = PodState(name="pod-1", uid="p", owner_uid="j", created=NOW, phase="Running")
COMPLETE = replace(JOB, outcome=JobOutcome.COMPLETE)
FAILED = replace(JOB, outcome=JobOutcome.FAILED)


def version(status: Any = None, **spec: Any) -> ModelVersion:
    return ModelVersion.model_validate(version_manifest(status=status, **spec))


def plan(of: ModelVersion, now: Any = NOW, **observed: Any) -> VersionPlan:
    return plan_model_version(of, Observed(**observed), now)


def reason(made: VersionPlan) -> str:
    ready = find_condition(made.status.conditions, "Ready")
    assert ready is not None
    return ready.reason


def aspects(made: VersionPlan) -> set[str]:
    return {each.type for each in made.status.conditions if is_true(made.status.conditions, each.type)}


def said(code: int, text: str = "", **changes: Any) -> PodState:
    phase = "Succeeded" if code == 0 else "Failed"
    return replace(POD, phase=phase, exit_code=code, termination_message=text, **changes)


def let_go(tried: VersionPlan) -> tuple[Intent, ...]:
    """Return what is done with the Job of an attempt once it is written down that it came to nothing."""
    assert tried.recheck_after == seconds(0)
    return plan(version(tried.status.to_json()), job=FAILED).intents


# ---- the checks ------------------------------------------------------------------------------------------------------


def test_first_plan_starts_the_checks() -> None:
    made = plan(version())
    assert made.intents == (StartValidation(),)
    assert {each.type for each in made.status.conditions} == {"Ready", "Reconciling", "Stalled"}
    assert (made.status.phase, aspects(made)) == (ModelPhase.VALIDATING, {"Reconciling"})


@pytest.mark.parametrize(
    ("pod", "expected", "told"),
    [
        (POD, "Validating", "pod-1"),
        (
            replace(POD, phase="Pending", unschedulable="1 Insufficient memory"),
            "Unschedulable",
            "spec.validation.resources",
        ),
        (replace(POD, phase="Pending", waiting_reason="ErrImagePull"), "ErrImagePull", "agent image"),
    ],
)
def test_what_the_checks_wait_for(pod: PodState, expected: str, told: str) -> None:
    made = plan(version(), job=JOB, pods=(pod,))
    assert reason(made) == expected
    assert told in made.status.message
    assert aspects(made) == {"Reconciling"}


def test_job_whose_pod_is_refused() -> None:
    assert plan(version(), job=JOB).recheck_after == seconds(20)
    assert reason(plan(version(), now=NOW + seconds(20), job=JOB)) == "PodRefused"


def test_pod_on_a_lost_node_is_given_up() -> None:
    dying = replace(POD, gone_by=NOW)
    assert plan(version(), job=JOB, pods=(dying,)).recheck_after == seconds(60)
    made = plan(version(), now=NOW + seconds(61), job=JOB, pods=(dying,))
    assert (reason(made), made.intents) == ("NodeLost", ())
    assert let_go(made) == (DeleteValidation(),)


def test_passed() -> None:
    made = plan(
        version(), job=COMPLETE, pods=(said(0, verdict()),), training_metrics={"moveAccuracy": 0.9, "loss": 1.0}
    )
    assert (made.status.phase, aspects(made)) == (ModelPhase.READY, {"Ready"})
    assert made.status.metrics == {"moveAccuracy": 0.94, "loss": 1.0, "latencyP99Milliseconds": 0.8}
    assert (len(made.status.checks), made.status.validated_at) == (7, NOW)


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        ("Checksum", "ChecksumMismatch"),
        ("Loadable", "NotLoadable"),
        ("Signature", "SignatureMismatch"),
        ("FiniteOutputs", "OutputsNotFinite"),
        ("Parity", "ParityFailed"),
        ("Latency", "TooSlow"),
        ("GoldenSet", "GoldenSetFailed"),
    ],
)
def test_each_failed_check_has_its_reason(check: str, expected: str) -> None:
    made = plan(version(), job=COMPLETE, pods=(said(0, verdict("Failed", check)),))
    assert (reason(made), made.status.phase) == (expected, ModelPhase.REJECTED)
    assert aspects(made) == {"Stalled"}
    assert f"{check} said so" in made.status.message
    assert len(made.status.checks) == 7


def test_out_of_memory_names_the_field() -> None:
    killed = said(137, ended_reason="OOMKilled")
    made = plan(version(validation={"resources": {"memory": "64Mi"}}), job=FAILED, pods=(killed,))
    assert (reason(made), made.status.phase) == ("OutOfMemory", ModelPhase.REJECTED)
    assert "64Mi" in made.status.message
    assert "spec.validation.resources.memory" in made.status.message


def test_artifact_that_is_not_there_is_rejected() -> None:
    pod = said(3, validation_error("ArtifactNotFound", retryable=False))
    made = plan(version(), job=FAILED, pods=(pod,))
    assert (reason(made), made.status.phase) == ("ArtifactNotFound", ModelPhase.REJECTED)


# ---- another try -----------------------------------------------------------------------------------------------------


def try_again(*pods: PodState | None) -> Iterator[VersionPlan]:
    """Yield the verdict on each attempt in a row; None: the pod is gone."""
    status: dict[str, Any] | None = None
    for pod in pods:
        made = plan(version(status), job=FAILED, pods=(pod,) if pod else ())
        yield made
        status = made.status.to_json()
        status.pop("retryAt", None)


def test_source_that_is_away_is_tried_again_ever_more_slowly() -> None:
    pauses = []
    for made in try_again(*[said(1, validation_error())] * 6):
        assert let_go(made) == (DeleteValidation(),)
        assert (reason(made), aspects(made)) == ("ArtifactUnavailable", {"Reconciling"})
        assert made.status.retry_at is not None
        pauses.append((made.status.retry_at - NOW).total_seconds())
    assert pauses == [5, 10, 20, 40, 60, 60]


def test_status_rests_until_the_next_try() -> None:
    tried = plan(version(), job=FAILED, pods=(said(1, validation_error()),)).status
    waiting = plan(version(tried.to_json()), now=NOW + seconds(2))
    assert (waiting.status, waiting.intents, waiting.recheck_after) == (tried, (), seconds(3))
    again = plan(version(tried.to_json()), now=NOW + seconds(5))
    assert (again.intents, again.recheck_after) == ((), seconds(0))
    assert "attempt 2" in again.status.message
    assert plan(version(again.status.to_json()), now=NOW + seconds(5)).intents == (StartValidation(),)


def test_an_attempt_counts_once() -> None:
    """Rule 11: its Job may stay for a while, and the operator may be killed before it is gone."""
    tried = plan(version(), job=FAILED, pods=(said(1, validation_error()),)).status
    for late in (0, 2, 7):
        again = plan(version(tried.to_json()), now=NOW + seconds(late), job=FAILED, pods=(said(1, validation_error()),))
        assert (again.status, again.intents, again.notes) == (tried, (DeleteValidation(),), ())
        assert again.recheck_after is not None
        assert again.recheck_after >= seconds(1)


def test_lost_pod_is_tried_again_for_ever() -> None:
    for made in try_again(*[None] * 8):
        assert (reason(made), let_go(made)) == ("ValidationLost", (DeleteValidation(),))


def test_model_that_brings_the_checks_down_is_rejected_at_the_third_try() -> None:
    reasons = [reason(made) for made in try_again(*[said(139, ended_reason="Error")] * 3)]
    assert reasons == ["ValidationLost", "ValidationLost", "ValidationCrashed"]


def test_crashes_count_only_in_a_row() -> None:
    crash, away = said(139), said(1, validation_error())
    for made in try_again(crash, crash, away, crash, crash):
        assert made.status.phase is ModelPhase.PENDING


def test_result_of_a_complete_job_that_is_gone_is_made_again() -> None:
    assert reason(plan(version(), job=COMPLETE)) == "ValidationLost"
    assert let_go(plan(version(), job=COMPLETE, pods=(said(0, "garbage"),))) == (DeleteValidation(),)


# ---- after the verdict -----------------------------------------------------------------------------------------------

READY = {"phase": "Ready", "registryVersion": "3", "registryStage": "None"}


@pytest.mark.parametrize("phase", ["Ready", "Rejected"])
def test_verdict_stays_whatever_the_job_says(phase: str) -> None:
    for pod in (said(0, verdict()), said(0, verdict("Failed", "Parity")), said(137, ended_reason="OOMKilled")):
        made = plan(version(READY | {"phase": phase}), job=replace(FAILED, ttl=600), pods=(pod,))
        assert (made.status.phase, made.intents) == (phase, ())


def test_pod_goes_only_after_the_verdict() -> None:
    assert plan(version(READY), job=COMPLETE).intents == (ExpireValidation(600),)
    assert plan(version(READY), job=replace(COMPLETE, ttl=600)).intents == ()


@pytest.mark.parametrize(
    ("status", "stage", "registry", "aliases"),
    [
        ({"phase": "Ready"}, "None", True, ()),
        (READY, "None", True, None),
        (READY, "Production", True, ("champion",)),
        (READY, "Staging", True, ("challenger",)),
        (READY | {"registryStage": "Production"}, "Archived", True, ()),
        (READY, "Production", False, None),
        (READY | {"phase": "Rejected"}, "Production", True, None),
    ],
)
def test_aliases_follow_the_stage(status: Any, stage: str, registry: bool, aliases: tuple[str, ...] | None) -> None:
    made = plan(version(status, stage=stage), registry=registry)
    assert made.intents == (() if aliases is None else (Mirror(Stage(stage), aliases),))


def test_registry_that_is_away_does_not_touch_ready() -> None:
    ready = plan(version(), job=COMPLETE, pods=(said(0, verdict()),)).status
    mirroring = plan(version(ready.to_json()))
    problem = MirrorProblem("MLflowUnavailable", "connection refused", is_passing=True)
    away = conclude_mirror(mirroring, problem, NOW)
    assert (away.status.phase, aspects(away)) == (ModelPhase.READY, {"Ready"})
    registered = find_condition(away.status.conditions, "Registered")
    assert registered is not None
    assert (registered.reason, registered.status) == ("MLflowUnavailable", "False")
    assert "serving is not affected" in registered.message
    assert (away.recheck_after, len(away.notes)) == (seconds(30), 1)
    again = conclude_mirror(plan(version(away.status.to_json())), problem, NOW + seconds(30))
    assert (again.status, again.notes) == (away.status, ())
    back = conclude_mirror(plan(version(away.status.to_json())), "4", NOW)
    assert (back.status.registry_version, back.status.registry_stage) == ("4", Stage.NONE)
    assert (aspects(back), back.recheck_after) == ({"Ready", "Registered"}, None)


def test_registry_that_refuses_is_not_asked_again_and_again() -> None:
    problem = MirrorProblem("MLflowRefused", "the source lies in no run", is_passing=False)
    made = conclude_mirror(plan(version({"phase": "Ready"})), problem, NOW)
    assert (made.recheck_after, aspects(made) & {"Registered"}) == (None, set())
    assert "the source lies in no run" in made.notes[0].message
    refused = version(made.status.to_json())
    assert plan(refused).intents == (), "neither a look nor a restart of the operator asks again"
    changed = refused.model_copy(update={"metadata": refused.metadata.model_copy(update={"generation": 2})})
    assert plan(changed).intents == (Mirror(Stage.NONE, ()),)


def test_who_serves_it_is_told_in_every_phase() -> None:
    users = (ServedBy(deployment="connect4", role=Role.CANARY, percent=5),)
    for status in ({}, READY, READY | {"phase": "Rejected"}):
        assert plan(version(status), served_by=users).status.served_by == users
    assert plan(version(READY | {"servedBy": [users[0].to_json()]})).status.served_by == ()


def test_job_of_a_deleted_predecessor_is_in_the_way() -> None:
    made = plan(version(), foreign_job="v")
    assert (reason(made), made.intents) == ("NameTaken", ())
    assert made.recheck_after is not None
