"""What the commands decide: whether a release has ended, whether a command makes sense, what became of it. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tidegate.api.deployment import CommandName
from tidegate.cli.exits import ExitCode
from tidegate.cli.view import View
from tidegate.domain.rollback import healthy_versions

__all__ = ["Ending", "describe_missing_answer", "find_answer", "find_objection", "judge_release"]

OPERATOR_PODS = "kubectl get pods -A -l app.kubernetes.io/name=tidegate,app.kubernetes.io/component=operator"


@dataclass(frozen=True, slots=True)
class Ending:
    """How something ended: for scripts and for people."""

    code: ExitCode
    message: str


def judge_release(view: View) -> Ending | None:
    """Tell how the release has ended; None while it goes on, or while the operator has not seen the spec."""
    if not view.is_seen:
        return None
    status = view.status
    if view.condition("Stalled")[0]:
        return Ending(ExitCode.ENDED_BADLY, f"{view.name}: {view.condition('Stalled')[1]}: {status.message}")
    is_on_target = status.canary is None and status.stable is not None and status.stable.model_version == view.asked_for
    if is_on_target and view.condition("Ready")[0]:
        return Ending(ExitCode.OK, f"{view.name} is healthy on {view.asked_for}")
    return None


def find_objection(command: CommandName, view: View) -> str | None:
    """Say why the command makes no sense now; None if it does.

    While the operator has not seen the present spec, this status is about another one, and the operator decides.
    """
    return _OBJECTIONS[command](view) if view.is_seen else None


def find_answer(view: View, command_id: str) -> Ending | None:
    """Tell what became of a command; None while the operator has not taken it."""
    last = view.status.last_command
    if last is not None and last.id == command_id:
        refused = last.result.startswith("refused: ")
        return Ending(ExitCode.REFUSED if refused else ExitCode.OK, f"{last.command}: {last.result}")
    if view.command_id != command_id:
        return Ending(ExitCode.REFUSED, "another command was given before the operator took this one; it is lost")
    return None


def describe_missing_answer(command: CommandName, view: View) -> str:
    """Say why a command that was sent has no answer yet."""
    canary = view.status.canary
    if command is CommandName.RETRY and (canary is not None or view.status.rollback is not None):
        return "it is written down and takes effect once the way back has ended"
    if command is CommandName.PROMOTE and canary is not None and canary.step_started_at is None:
        return f"it is written down and takes effect once the proxies confirm the share: {view.status.message}"
    return f"it is written down and takes effect when the operator is back; is it running? {OPERATOR_PODS}"


def _object_to_promotion(view: View) -> str | None:
    canary = view.status.canary
    if canary is None:
        return None if view.status.held else _no_release(view)
    if canary.retreat is not None:
        return f"the traffic of {canary.model_version} is on its way back ({canary.retreat.message})"
    return f"spec.paused is true; resume {view.name} first" if view.paused else None


def _object_to_abort(view: View) -> str | None:
    canary = view.status.canary
    if canary is None:
        return _no_release(view)
    if canary.retreat is not None:
        return f"the traffic of {canary.model_version} goes back already ({canary.retreat.message})"
    if view.status.stable is None:
        return "the first release has nothing to go back to; set spec.modelVersion to another version instead"
    return None


def _object_to_retry(view: View) -> str | None:
    if view.rejection is not None or view.status.rollback is not None:
        return None
    return f"{view.asked_for}, the version that the spec asks for, is not rejected: {view.status.message}"


def _object_to_rollback(view: View) -> str | None:
    """Leave the choice of the version to the operator, which knows its ModelVersion, too."""
    if healthy_versions(view.status):
        return None
    return f"no other version was healthy before: {view.status.message}"


def _no_release(view: View) -> str:
    return f"no release is under way: {view.status.message}"


_OBJECTIONS: Mapping[CommandName, Callable[[View], str | None]] = {
    CommandName.PROMOTE: _object_to_promotion,
    CommandName.PROMOTE_FULLY: _object_to_promotion,
    CommandName.ABORT: _object_to_abort,
    CommandName.RETRY: _object_to_retry,
    CommandName.ROLLBACK: _object_to_rollback,
}
