"""The release planner: from a spec, a status and one observation to a plan. Pure.

A release moves through these states. Each arrow is one function, tried in the order of ``TRANSITIONS`` until none
applies any more, so one pass goes as far as what was observed allows.

=================  ==========================================  =====================================================
state              seen in the status                          leaves it by
=================  ==========================================  =====================================================
nothing            no stable, no canary                        ``adopt`` (status lost), ``start`` (first release)
settled            stable is what the spec asks for            ``start`` when the spec asks for another one
held               held                                        ``start`` when nothing holds it (``permission.py``),
                                                               ``obey`` (Promote, PromoteFully)
going back         rollback                                    promotion of its version, ``retreat`` from it,
                                                               ``end_rollback``; began by ``obey`` (Rollback)
blocked            the version asked for is rejected           ``lift_rejections`` (spec changed), ``obey`` (Retry)
waiting for pods   canary.targetPercent != its step's          ``set_share``; ``give_up`` after the progress deadline
waiting for        canary.targetPercent == its step's,         ``confirm_step``
proxies            no stepStartedAt
held               stepStartedAt                               ``advance`` (time over or gate open, analysis passed,
                                                               confirmed),
                                                               ``obey`` (Promote, PromoteFully)
baking             bakingSince                                 ``advance``: the promotion
any of these       canary without retreat                      ``fail_analysis``, ``heed_rollback_gate``,
                                                               ``supersede``, ``reject``, ``give_up``, ``obey``
                                                               (Abort): begin the retreat
retreating         canary.retreat                              ``set_share`` (stable has its pods), then
                                                               ``finish_retreat`` (every proxy confirmed 0)
draining           an entry in draining                        ``mark_free``, then the workload is deleted, then
                                                               ``forget_gone``
=================  ==========================================  =====================================================

What is kept where: the status keeps the step, its start and the share that was decided last; the real shares are
read back from the Route each time, and everything to be done is derived from both (``acts.py``). So a crash at any
moment is mended by planning again. A plan with decisions says ``record_first``: what was decided is written down
before it is carried out, so no decision is taken twice and none is taken back.
"""

from collections.abc import Callable
from datetime import datetime

from tidegate.api.deployment import DeploymentSpec, DeploymentStatus
from tidegate.domain.acts import (
    collect_strays,
    forget_gone,
    keep_variant,
    mark_free,
    plan_applies,
    plan_deletes,
    plan_route,
)
from tidegate.domain.advance import adopt, advance, confirm_step, mark_holding, restart_steps, set_share, start
from tidegate.domain.commands import obey
from tidegate.domain.explain import describe, find_recheck
from tidegate.domain.gates import find_questions, take_answers
from tidegate.domain.measuring import find_queries, measure
from tidegate.domain.permission import find_budget_start, mark_held, take_budget
from tidegate.domain.release import GateQuestion, Observed, Plan, Query
from tidegate.domain.retreat import (
    fail_analysis,
    finish_retreat,
    give_up,
    heed_rollback_gate,
    lift_rejections,
    reject,
    supersede,
)
from tidegate.domain.rollback import end_rollback
from tidegate.domain.situation import Situation

__all__ = ["budget_due", "measurements_due", "plan_rollout", "questions_due"]

Transition = Callable[[Situation], Situation]

TRANSITIONS: tuple[Transition, ...] = (
    adopt,
    forget_gone,
    keep_variant,
    end_rollback,
    lift_rejections,
    supersede,
    reject,
    fail_analysis,
    heed_rollback_gate,
    obey,
    give_up,
    finish_retreat,
    start,
    mark_held,
    restart_steps,
    set_share,
    confirm_step,
    advance,
    mark_holding,
)
MAX_TRANSITIONS = 500


def measurements_due(
    spec: DeploymentSpec, status: DeploymentStatus, observed: Observed, now: datetime
) -> tuple[Query, ...]:
    """Return the metrics to fetch before planning; empty while none is due.

    Args:
        spec: What the user asks for.
        status: The status as it is written.
        observed: Everything gathered, without measurements.
        now: The time, the same that ``plan_rollout`` gets.
    """
    return find_queries(Situation.begin(spec, status, observed, now))


def questions_due(
    spec: DeploymentSpec, status: DeploymentStatus, observed: Observed, now: datetime
) -> tuple[GateQuestion, ...]:
    """Return the gates to ask before planning; empty while none is due.

    Args:
        spec: What the user asks for.
        status: The status as it is written.
        observed: Everything gathered, without answers.
        now: The time, the same that ``plan_rollout`` gets.
    """
    return find_questions(Situation.begin(spec, status, observed, now))


def budget_due(spec: DeploymentSpec, status: DeploymentStatus, observed: Observed, now: datetime) -> datetime | None:
    """Return since when requests and failures are to be counted before planning; None while no release depends on it.

    Args:
        spec: What the user asks for.
        status: The status as it is written.
        observed: Everything gathered, without the budget.
        now: The time, the same that ``plan_rollout`` gets.
    """
    return find_budget_start(Situation.begin(spec, status, observed, now))


def plan_rollout(spec: DeploymentSpec, status: DeploymentStatus, observed: Observed, now: datetime) -> Plan:
    """Plan the next acts of one Deployment.

    Args:
        spec: What the user asks for.
        status: The status as it is written.
        observed: Everything gathered; measurements and answers that were not due are ignored.
        now: The time.
    """
    settled = _settle(take_budget(measure(take_answers(Situation.begin(spec, status, observed, now)))))
    described = describe(mark_free(collect_strays(settled)))
    return Plan(
        status=described.status,
        apply=plan_applies(described),
        route=plan_route(described),
        delete=plan_deletes(described),
        decisions=described.decisions,
        recheck_after=find_recheck(described),
    )


def _settle(s: Situation) -> Situation:
    """Apply the first transition that changes something, until none does."""
    for _ in range(MAX_TRANSITIONS):
        after = next((new for new in (transition(s) for transition in TRANSITIONS) if new is not s), None)
        if after is None:
            return s
        s = after
    return s
