"""Commands of people: one annotation, consumed once, recorded with who and when.

``tidegate.dev/command: {"id": "…", "command": "Promote", "by": "ada", "at": "2026-01-02T03:04:05Z"}``

============  =======================================================================================
command       what it does
============  =======================================================================================
Promote       leave the step in progress now, whatever its time and its analysis say; waits only for
              a share that the proxies have not confirmed yet; start a release that is held
PromoteFully  no more steps, no analysis, no bake: 100 % as soon as the pods are there; the same for a
              release that is held
Abort         all traffic back to the stable version; the version is rejected
Retry         try the rejected version again from step 0; waits for the way back to end
Rollback      all traffic back to a version that was healthy, without steps, though the spec asks for
              another one: ``"to"`` names it, otherwise it is the newest; ends like an automatic rollback
============  =======================================================================================
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from tidegate.api.deployment import Command, CommandName, Outcome
from tidegate.domain.advance import begin_release, pass_step
from tidegate.domain.analysis import forgive
from tidegate.domain.permission import find_hold
from tidegate.domain.reasons import Action, Reason
from tidegate.domain.release import CommandRequest
from tidegate.domain.retreat import retreat
from tidegate.domain.rollback import begin_rollback, choose_version, object_to_rollback
from tidegate.domain.situation import Situation, identify
from tidegate.domain.steps import FAST_STEPS, fingerprint

__all__ = ["obey", "parse_command"]


def parse_command(text: str | None) -> CommandRequest | None:
    """Read the annotation; whatever cannot be read becomes a command that is refused by name, never an exception.

    A command without an id gets one from its text, so that it, too, is consumed once.
    """
    if not text:
        return None
    fields = _read_object(text)
    return CommandRequest(
        id=str(fields.get("id") or hashlib.sha256(text.encode()).hexdigest()[:16])[:64],
        command=str(fields.get("command") or text)[:64],
        to=str(fields.get("to") or "")[:253],
        by=str(fields.get("by") or "")[:253],
        at=_read_time(fields.get("at")),
    )


def _read_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _read_time(value: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def obey(s: Situation) -> Situation:
    """Carry out the command, once; one that has to wait for something stays unconsumed."""
    request, last = s.observed.command, s.status.last_command
    if request is None or (last is not None and last.id == request.id):
        return s
    handler = _HANDLERS.get(request.command)
    if handler is None:
        known = ", ".join(_HANDLERS)
        return _refuse(s, request, f"{request.command!r} is no command; there are {known}", Reason.UNKNOWN_COMMAND)
    return handler(s, request)


def _promote(s: Situation, request: CommandRequest) -> Situation:
    hold = find_hold(s)
    if hold is not None:
        return begin_release(_accept(s, request, f"the release starts now, in spite of {hold.reason}"))
    refusal = _no_release(s)
    if refusal:
        return _refuse(s, request, refusal)
    if s.canary.step_started_at is None or not s.is_confirmed(identify(s.canary), s.step.percent):
        return s
    accepted = _accept(s, request, f"step {s.canary.step} of {s.canary.steps} ends now")
    return pass_step(accepted.update(analysis=forgive(s.status.analysis)))


def _promote_fully(s: Situation, request: CommandRequest) -> Situation:
    hold = find_hold(s)
    if hold is not None:
        message = f"the release starts now, in spite of {hold.reason}: no steps, no analysis, no bake"
        return _skip_steps(begin_release(_accept(s, request, message)))
    refusal = _no_release(s)
    if refusal:
        return _refuse(s, request, refusal)
    return _skip_steps(_accept(s, request, "no more steps, no analysis, no bake"))


def _skip_steps(s: Situation) -> Situation:
    return s.rest().update_canary(
        fast=True,
        step=0,
        steps=len(FAST_STEPS),
        steps_hash=fingerprint(FAST_STEPS),
        step_started_at=None,
        baking_since=None,
        gate=None,
    )


def _abort(s: Situation, request: CommandRequest) -> Situation:
    canary = s.status.canary
    if canary is None:
        return _refuse(s, request, "no release is under way")
    if canary.retreat is not None:
        return _refuse(s, request, "the traffic goes back to the stable version already")
    if s.status.stable is None:
        return _refuse(s, request, "the first release has nothing to go back to; change spec.modelVersion instead")
    message = f"aborted by {request.by or 'a person'}"
    return retreat(_accept(s, request, message), Outcome.ABORTED, Reason.ABORTED, message)


def _retry(s: Situation, request: CommandRequest) -> Situation:
    if s.status.rollback is not None:  # only its end tells what is rejected
        return s
    if s.rejection is None:
        return _refuse(s, request, "the version asked for is not rejected")
    if s.status.canary is not None:
        return s
    lifted = tuple(
        each.model_copy(update={"lifted": True}) if each is s.rejection else each for each in s.status.rejected
    )
    return _accept(s.update(rejected=lifted), request, f"{s.spec.model_version} is tried again")


def _roll_back(s: Situation, request: CommandRequest) -> Situation:
    version, refusal = choose_version(s, request.to), object_to_rollback(s, request.to)
    if version is None or refusal is not None:
        return _refuse(s, request, refusal or "there is no other healthy version")
    message = f"rolled back to {version} by {request.by or 'a person'}"
    return begin_rollback(_accept(s, request, message), version, message)


_HANDLERS: Mapping[str, Callable[[Situation, CommandRequest], Situation]] = {
    CommandName.PROMOTE.value: _promote,
    CommandName.PROMOTE_FULLY.value: _promote_fully,
    CommandName.ABORT.value: _abort,
    CommandName.RETRY.value: _retry,
    CommandName.ROLLBACK.value: _roll_back,
}


def _no_release(s: Situation) -> str | None:
    canary = s.status.canary
    if canary is None:
        return "no release is under way"
    if canary.retreat is not None:
        return "the release is on its way back"
    return "spec.paused is true; set it to false first" if s.spec.paused else None


def _accept(s: Situation, request: CommandRequest, message: str) -> Situation:
    return _consume(s, request, message, Action.ACCEPT_COMMAND, Reason.COMMANDED)


def _refuse(s: Situation, request: CommandRequest, message: str, reason: Reason = Reason.NOTHING_TO_DO) -> Situation:
    return _consume(s, request, message, Action.REFUSE_COMMAND, reason)


def _consume(s: Situation, request: CommandRequest, message: str, action: Action, reason: Reason) -> Situation:
    """Record the command; the release that it is about may change in the same pass."""
    result = message if action is Action.ACCEPT_COMMAND else f"refused: {message}"
    done = Command(id=request.id, command=request.command, by=request.by, at=request.at, result=result)
    who = {"command": request.command, "by": request.by, "id": request.id}
    about = s.canary_id or s.target
    return s.update(last_command=done).decide(
        action, reason, f"{request.command}: {message}", version=about, evidence=who
    )
