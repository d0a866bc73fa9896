"""Releases with gates through the reconciler: asked in time, crash-safe, beside the metrics, and never when settled."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from tests.runtime.release_world import ReleaseWorld
from tests.runtime.test_deployment_reconciler import GOOD, RELEASE, WATCHED, world
from tidegate.domain.release import GateAnswer, GateQuestion, GateRole, Measurement, Query

GO, BACK = "https://gates.example/go", "https://gates.example/back"
GATED = {
    "strategy": {"type": "Canary", "canary": {"steps": [{"setPercent": 20}, {"gate": {"url": GO, "interval": "5s"}}]}},
}
REVOCABLE = WATCHED | {"rollback": {"gate": {"url": BACK}, "drainDelay": "1s"}}


async def start(**spec: Any) -> ReleaseWorld:
    made = world(**spec)
    made.gates.answers = {GO: GateAnswer(503, "closed"), BACK: GateAnswer(404)}
    made.say("2.0.0", "errorRate", GOOD)
    await made.settle(3)
    assert made.gates.asked == []
    made.release("2.0.0")
    return made


async def test_scenario_12_a_gate_holds_a_release_until_it_answers_200() -> None:
    made = await start(**GATED)
    await made.settle(60)
    assert made.shares == RELEASE[:2]
    assert made.status["message"] == (
        f"step 1 of 3 (20 % to connect4-2.0.0): waits for the gate {GO}, which answered 503 (closed)"
    )
    assert made.condition("Ready")["reason"] == "GateClosed"
    assert made.status["canary"]["gate"]["code"] == 503
    asked = len(made.gates.asked)
    assert 11 <= asked <= 13, "every 5 s"
    namespace, question = made.gates.asked[-1]
    assert (namespace, question.document["deployment"]) == ("default", "connect4")
    assert made.events.reasons.count("GateClosed") == 1
    made.gates.answers[GO] = GateAnswer(200)
    await made.settle(20)
    assert made.shares[-1] == {"connect4-2.0.0": 100}
    assert made.status["phase"] == "Healthy"


async def test_no_gate_is_asked_about_a_settled_deployment() -> None:
    made = await start(**REVOCABLE)
    await made.settle(60)
    assert made.status["phase"] == "Healthy"
    assert {question.role for _, question in made.gates.asked} == {GateRole.ROLLBACK}
    made.gates.asked.clear()
    assert await made.reconcile() is None
    await made.settle(100, step=10)
    assert made.gates.asked == []


async def test_scenario_12_a_rollback_gate_takes_a_release_back_at_once() -> None:
    made = await start(**REVOCABLE)
    await made.settle(6)
    made.gates.answers[BACK] = GateAnswer(200, "incident 7")
    await made.settle(3)
    assert made.shares == [*RELEASE[:2], RELEASE[0]]
    assert made.status["phase"] == "RolledBack"
    assert made.status["rejected"][0]["reason"] == "RollbackGate"
    told = next(each for each in made.events.told if each[1] == "RollbackGate")
    assert told == ("connect4", "RollbackGate", f"RollBack: the rollback gate {BACK} answered 200 (incident 7)", True)


async def test_an_operator_that_is_killed_asks_the_gate_at_the_same_times() -> None:
    """Scenario 16: the time of the last question is in the status."""
    undisturbed, killed = await start(**GATED), await start(**GATED)
    await undisturbed.settle(39)
    for _ in range(20):
        await killed.settle(1)
        killed.restart()
        killed.clock.advance(seconds=1)
    assert len(undisturbed.gates.asked) == len(killed.gates.asked)


async def test_gates_and_metrics_are_asked_at_once_so_none_delays_the_other() -> None:
    """Each side answers only when the other has been asked, too."""
    made = await start(**REVOCABLE)
    both = asyncio.Barrier(2)
    measure, ask = made.metrics.measure, made.gates.ask

    async def measure_beside(
        namespace: str, deployment: str, queries: Sequence[Query], patience: timedelta
    ) -> Mapping[str, Measurement]:
        await asyncio.wait_for(both.wait(), 5)
        return await measure(namespace, deployment, queries, patience)

    async def ask_beside(
        namespace: str, questions: Sequence[GateQuestion], patience: timedelta
    ) -> Mapping[GateRole, GateAnswer]:
        assert patience == timedelta(seconds=1.6), "80 % of the interval"
        await asyncio.wait_for(both.wait(), 5)
        return await ask(namespace, questions, patience)

    made.metrics.measure = measure_beside  # type: ignore[method-assign]
    made.gates.ask = ask_beside  # type: ignore[method-assign]
    await made.settle(60)
    assert made.status["phase"] == "Healthy"
    assert made.metrics.rounds > 5
