"""Gates: who is asked when, what is told, and what an answer means. The asking itself is the adapter's.

=================  =============================  ==============================  ================================
gate               is asked                       answer 200                      anything else
=================  =============================  ==============================  ================================
of a step          at once when the proxies       the step may end, for one       held, nothing counted; without
                   confirmed its share, then      ``interval``; then the gate is  any answer more often in a row
                   every ``interval``             asked again                     than ``errorLimit``, or with a
                                                                                  useless Secret: people are told.
                                                                                  It never rolls back
``rollback.gate``  from the first traffic on,     the release is taken back       nothing happens; without any
                   with every look of the         at once                         answer the status says so
                   analysis
=================  =============================  ==============================  ================================
"""

from datetime import datetime

from tidegate.api.deployment import Gate, GateRecord, Webhook
from tidegate.domain.measuring import find_queries
from tidegate.domain.reasons import Action, Reason
from tidegate.domain.release import GateAnswer, GateQuestion, GateRole
from tidegate.domain.situation import Situation, identify

__all__ = [
    "describe_answer",
    "find_gate_fault",
    "find_questions",
    "has_said_yes",
    "is_gate_open",
    "next_question",
    "shown_url",
    "take_answers",
]

YES = 200


def find_questions(s: Situation) -> tuple[GateQuestion, ...]:
    """Return the gates that are to be asked now."""
    found = []
    gate, rollback = _step_gate(s), _rollback_gate(s)
    if gate is not None and s.now >= _next(s, s.canary.gate, gate):
        found.append(_question(s, GateRole.STEP, gate))
    if rollback is not None and (s.now >= _next(s, s.canary.rollback_gate, rollback) or find_queries(s)):
        found.append(_question(s, GateRole.ROLLBACK, rollback))
    return tuple(found)


def next_question(s: Situation) -> datetime | None:
    """Return when to ask next, whether or not anything is measured by then."""
    gate, rollback = _step_gate(s), _rollback_gate(s)
    moments = [_next(s, s.canary.gate, gate)] if gate is not None else []
    if rollback is not None:
        moments.append(_next(s, s.canary.rollback_gate, rollback))
    return min(moments, default=None)


def take_answers(s: Situation) -> Situation:
    """Take in the answers to what was due; what a step's gate says is told when it changes."""
    asked = {question.role for question in find_questions(s)}
    for role, answer in s.observed.answers.items():
        if role not in asked:
            continue
        field = "gate" if role is GateRole.STEP else "rollback_gate"
        before: GateRecord | None = getattr(s.canary, field)
        after = _record(s, before, answer)
        s = s.update_canary(**{field: after})
        if role is GateRole.STEP and s.step.gate is not None:
            s = _tell(s, s.step.gate, before, after)
    return s


def is_gate_open(s: Situation) -> bool:
    """Tell whether the gate of the step in progress said yes when it was asked last, and is not due again."""
    gate = s.step.gate
    return gate is not None and has_said_yes(s.canary.gate) and s.now < _next(s, s.canary.gate, gate)


def has_said_yes(record: GateRecord | None) -> bool:
    """Tell whether a gate answered 200 when it was asked last."""
    return record is not None and record.code == YES and record.consecutive_errors == 0


def find_gate_fault(gate: Gate, record: GateRecord | None) -> Reason | None:
    """Return why people have to be told of the gate of a step: it does not answer, or cannot even be asked."""
    if record is None or record.consecutive_errors == 0:
        return None
    if record.misconfigured:
        return Reason.BAD_GATE_CREDENTIALS
    return Reason.GATE_UNREACHABLE if record.consecutive_errors > gate.error_limit else None


def describe_answer(record: GateRecord | None) -> str:
    """Say what a gate said last, after its name."""
    if record is None:
        return "is about to be asked"
    if record.consecutive_errors:
        return f"{'cannot be asked' if record.misconfigured else 'does not answer'} ({record.message})"
    return f"answered {record.code}" + (f" ({record.message})" if record.message else "")


def shown_url(gate: Webhook) -> str:
    """Return the address for messages, which more people read than the spec: without its query."""
    return gate.url.partition("?")[0]


def _step_gate(s: Situation) -> Gate | None:
    """Return the gate of the step in progress, while the step stands and may be left."""
    canary = s.status.canary
    if canary is None or canary.retreat is not None or s.is_paused or not s.is_asked_for(identify(canary)):
        return None
    if canary.step_started_at is None or canary.baking_since is not None or canary.steps_hash != s.steps_hash:
        return None
    return s.step.gate


def _rollback_gate(s: Situation) -> Webhook | None:
    return s.spec.rollback.gate if s.is_analysed and s.is_asked_for(identify(s.canary)) else None


def _next(s: Situation, record: GateRecord | None, gate: Webhook) -> datetime:
    interval = gate.interval if isinstance(gate, Gate) else s.spec.analysis.interval
    return record.at + interval if record is not None else s.now


def _question(s: Situation, role: GateRole, gate: Webhook) -> GateQuestion:
    canary = s.canary
    document = {
        "ask": role.value,
        "deployment": s.observed.name,
        "modelVersion": canary.model_version,
        "digest": canary.digest,
        "stableVersion": s.stable_id.model_version if s.stable_id else None,
        "step": canary.step,
        "steps": canary.steps,
        "percent": s.step.percent,
        "attempt": canary.attempt,
    }
    return GateQuestion(role, gate.url, gate.timeout, document, gate.secret)


def _record(s: Situation, before: GateRecord | None, answer: GateAnswer) -> GateRecord:
    """Return what is known now; a try without an answer leaves the code of the last one."""
    if answer.code is not None:
        return GateRecord(at=s.now, code=answer.code, message=answer.message)
    code, errors = (before.code, before.consecutive_errors) if before else (None, 0)
    return GateRecord(
        at=s.now,
        code=code,
        message=answer.message,
        consecutive_errors=errors + 1,
        misconfigured=answer.is_misconfigured,
    )


def _tell(s: Situation, gate: Gate, before: GateRecord | None, after: GateRecord) -> Situation:
    fault, former = find_gate_fault(gate, after), find_gate_fault(gate, before)
    if fault is not None:
        return _decide(s, Action.HOLD, fault, gate, after) if fault is not former else s
    if after.consecutive_errors:
        return s
    is_known = before is not None and before.code is not None and former is None
    if is_known and before is not None and (before.code == YES) == (after.code == YES):
        return s
    if after.code == YES:
        return _decide(s, Action.OPEN_GATE, Reason.GATE_OPENED, gate, after)
    return _decide(s, Action.WAIT, Reason.GATE_CLOSED, gate, after)


def _decide(s: Situation, action: Action, reason: Reason, gate: Gate, record: GateRecord) -> Situation:
    message = f"the gate {shown_url(gate)} {describe_answer(record)}"
    return s.decide(action, reason, message, version=s.canary_id)
