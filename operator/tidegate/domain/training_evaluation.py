"""From the end of a training to its release: the result, its gates, the ModelVersion, the handover."""

from typing import Any

from tidegate.api.model_version import ModelPhase
from tidegate.api.training_job import Artifact, HandoverResult, Progress, TrainingPhase
from tidegate.domain.conditions import Health
from tidegate.domain.jobs import JobOutcome, Note
from tidegate.domain.training_failure import Failure
from tidegate.domain.training_plan import CreateVersion, HandOver, Intent, TrainingPlan, VersionState
from tidegate.domain.training_result import (
    BrokenResultError,
    TrainerFailure,
    TrainerResult,
    explain_gate,
    parse_result,
)
from tidegate.domain.training_scene import AT_ONCE, REGISTRY_RETRY, Scene, assess, fail, make_plan, stop_clock, wait
from tidegate.domain.versions import is_newer, next_name

__all__ = ["plan_evaluation"]


def plan_evaluation(scene: Scene) -> TrainingPlan | None:
    """Decide once a version or a result is there; then nothing that happens to the Job matters any more."""
    job, version = scene.observed.job, scene.own_version
    if version is not None:
        return _follow_version(scene, version)
    if scene.status.model_version is not None:
        name = scene.status.model_version
        message = f"ModelVersion {name} was deleted; create the TrainingJob again to train it anew"
        return fail(scene, Failure("ModelVersionDeleted", message))
    if job is None or job.outcome is not JobOutcome.COMPLETE:
        return None
    return _judge(scene, _find_result(scene))


# ---- The result ------------------------------------------------------------------------------------------------------


def _find_result(scene: Scene) -> TrainerResult | Failure | None:
    """Return the result, or why there is none; None while MLflow cannot be asked for a lost one."""
    messages = [pod.termination_message for pod in scene.observed.pods if pod.exit_code == 0]
    text = next(filter(None, reversed(messages)), None) or scene.observed.recorded_result
    if text is None and scene.observed.registry_problem:
        return None
    if text is None:
        message = "the trainer ended well but left no result; write it to /dev/termination-log as the contract says"
        return Failure("ResultMissing", message)
    try:
        result = parse_result(text)
    except BrokenResultError as error:
        return Failure("InvalidResult", f"the trainer's result breaks the contract: {error}")
    if isinstance(result, TrainerFailure):
        return Failure(result.reason, result.message)
    return result


def _judge(scene: Scene, result: TrainerResult | Failure | None) -> TrainingPlan:
    """Measure a result against the gates; make a version of it if it passes."""
    if result is None:
        return _await_result(scene)
    if isinstance(result, Failure):
        return fail(scene, result)
    missed = tuple(filter(None, (explain_gate(gate, result.metrics) for gate in scene.job.spec.evaluation.gates)))
    if missed:
        message = f"{'; '.join(missed)}. No ModelVersion was made; train longer or lower the gate"
        return fail(scene, Failure("GateFailed", message), **_record(result))
    return _create_version(scene, result)


def _await_result(scene: Scene) -> TrainingPlan:
    problem = scene.observed.registry_problem
    message = f"the pod with the result is gone, and MLflow, which has a copy, does not answer ({problem})"
    return wait(scene, "MLflowUnavailable", message, REGISTRY_RETRY, TrainingPhase.EVALUATING)


def _create_version(scene: Scene, result: TrainerResult) -> TrainingPlan:
    spec, versions = scene.job.spec, scene.observed.versions
    existing = [each.version for each in versions if each.model == spec.model]
    name, version = next_name(spec.model, existing, {each.name for each in versions}, spec.output.version_bump)
    made = _record(result) | {"model_version": name}
    return _await_checks(scene, name, made, (CreateVersion(name, version, result),))


def _await_checks(scene: Scene, name: str, made: dict[str, Any], intents: tuple[Intent, ...] = ()) -> TrainingPlan:
    """The training is over; what is left is up to the ModelVersion, and takes none of the training's time."""
    message = f"ModelVersion {name} was made; waiting for its checks"
    status = assess(scene, TrainingPhase.EVALUATING, Health.RECONCILING, "Validating", message)
    status = stop_clock(scene, status.model_copy(update=made))
    return make_plan(scene, status, intents, Note("ModelVersionCreated", message))


def _record(result: TrainerResult) -> dict[str, Any]:
    artifact = result.artifact
    return {
        "artifact": Artifact(uri=artifact.uri, sha256=artifact.sha256, size_bytes=artifact.size_bytes),
        "signature": result.signature,
        "metrics": result.metrics,
    }


# ---- The version -----------------------------------------------------------------------------------------------------


def _follow_version(scene: Scene, version: VersionState) -> TrainingPlan:
    """Wait for the checks of the version, then hand it over if that was asked for."""
    made = _adopt(scene, version)
    if made is None:
        return _await_result(scene)
    if version.phase is ModelPhase.REJECTED:
        message = f"ModelVersion {version.name} was rejected: {version.message}"
        return fail(scene, Failure("ModelVersionRejected", message), **made)
    if version.phase is ModelPhase.READY:
        return _succeed(scene, version, made)
    return _await_checks(scene, version.name, made)


def _adopt(scene: Scene, version: VersionState) -> dict[str, Any] | None:
    """Take a version over whose making was not recorded, because the operator was stopped in between.

    None while the result that it was made from cannot be had.
    """
    if scene.status.model_version == version.name:
        return {}
    made: dict[str, Any] = {"model_version": version.name}
    job = scene.observed.job
    if job is None or job.outcome is not JobOutcome.COMPLETE:
        return made
    result = _find_result(scene)
    if result is None:
        return None
    return made | (_record(result) if isinstance(result, TrainerResult) else {})


def _succeed(scene: Scene, version: VersionState, made: dict[str, Any]) -> TrainingPlan:
    result, intents = _hand_over(scene, version)
    message = f"ModelVersion {version.name} is Ready{f'; {result.message}' if result else ''}"
    status = assess(scene, TrainingPhase.SUCCEEDED, Health.READY, "Succeeded", message)
    changes = made | {"finished_at": scene.now, "handover": result, "progress": _finish(status.progress)}
    note = Note(result.reason if result else "Succeeded", message)
    return make_plan(scene, stop_clock(scene, status.model_copy(update=changes)), intents, note, AT_ONCE)


def _finish(progress: Progress | None) -> Progress | None:
    if progress is None:
        return None
    return progress.model_copy(update={"percent": 100.0, "estimated_seconds_left": 0.0})


# ---- The handover ----------------------------------------------------------------------------------------------------


def _hand_over(scene: Scene, version: VersionState) -> tuple[HandoverResult | None, tuple[Intent, ...]]:
    handover, target = scene.job.spec.output.deploy, scene.observed.target
    if handover is None:
        return None, ()
    refusal = _refuse(scene, version)
    if refusal is not None:
        reason, why = refusal
        said = f"not handed over to Deployment {handover.name}: {why}"
        return HandoverResult(deployment=handover.name, handed_over=False, reason=reason, message=said), ()
    said = f"handed over to Deployment {handover.name}"
    result = HandoverResult(deployment=handover.name, handed_over=True, reason="HandedOver", message=said)
    if target is None or target.wanted == version.name:
        return result, ()
    return result, (HandOver(target, version.name),)


def _refuse(scene: Scene, version: VersionState) -> tuple[str, str] | None:
    """Return reason and message for not handing over, or None."""
    target = scene.observed.target
    if target is None:
        return "DeploymentNotFound", f"it does not exist; create it with spec.modelVersion: {version.name}"
    if target.wanted == version.name:
        return None
    wanted = scene.version(target.wanted)
    if wanted is not None and wanted.model == version.model and is_newer(wanted.version, version.version):
        return "Superseded", f"it already has the newer {wanted.name}"
    return _refuse_unless_improved(scene, version)


def _refuse_unless_improved(scene: Scene, version: VersionState) -> tuple[str, str] | None:
    handover, target = scene.job.spec.output.deploy, scene.observed.target
    condition = handover.only_if_improved if handover else None
    if condition is None or target is None or target.stable is None or target.stable == version.name:
        return None
    metric, stable = condition.metric, scene.version(target.stable)
    new, old = version.metrics.get(metric), stable.metrics.get(metric) if stable else None
    if new is None or old is None:
        unmeasured = version.name if new is None else target.stable
        return "NotComparable", f"{metric} of {unmeasured} is not known; set spec.modelVersion by hand if you want it"
    if new <= old:
        return "NotImproved", f"{metric} is {new:.6g}, that of {target.stable} is {old:.6g}"
    return None
