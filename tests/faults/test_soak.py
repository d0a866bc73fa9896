"""Scenario rule 11: two hundred random releases with random faults keep every invariant and end as they should.

In each release people change the spec and give commands while requests fail before or after they are carried out
(409, 429, 500, no answer), watches fall silent or lag behind, the operator is killed at random awaits, proxies
confirm late, pods die, and Prometheus is down or knows nothing. Then the faults end, a version that is fine is asked
for, and it has to serve, alone, with nothing of the others left.

A failure names its seed; ``run_release(seed)`` is that release again.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from tests.faults.cluster import VERSIONS, Cluster
from tidegate.domain.release import GateAnswer, Measurement
from tidegate.errors import Conflict, TidegateError, Unavailable
from tidegate.ports import WATCHED_KINDS

RELEASES = 200
SECONDS = 40
LAST = "4.0.0"
GATE = "http://approvals.example/release"
METRICS = {
    "interval": "1s",
    "metrics": [{"name": "errorRate", "max": 0.05}, {"name": "errors", "compare": {"metric": "errorRate"}}],
}
STRATEGIES = (
    {"type": "Canary", "canary": {"initialPercent": 10, "incrementPercent": 40, "interval": "2s"}},
    {"type": "Canary", "canary": {"steps": [{"setPercent": 20}, {"hold": "1s"}, {"setPercent": 60}], "bake": "3s"}},
    {"type": "Canary", "canary": {"steps": [{"setPercent": 30}, {"gate": {"url": GATE, "interval": "1s"}}]}},
    {"type": "Immediate", "immediate": {"bake": "3s"}},
    {
        "type": "Shadow",
        "shadow": {"percent": 60, "duration": "3s", "then": "Canary"},
        "canary": {"initialPercent": 30, "incrementPercent": 40, "interval": "1s"},
    },
    {"type": "Shadow", "shadow": {"duration": "2s"}},
    {"type": "Gradual", "gradual": {"duration": "8s", "tick": "1s"}},
)
MEASURED = ("errorRate", "errorRate", "disagreement")
ANSWERS = (Measurement(0.01, samples=500), Measurement(0.4, samples=500), Measurement())
SAID = (GateAnswer(200), GateAnswer(403), GateAnswer(None, "connection refused"))
REFUSALS: Sequence[Callable[[], TidegateError]] = (
    lambda: Conflict("Conflict", "the object has been modified"),
    lambda: Unavailable("TooManyRequests", "too many requests"),
    lambda: Unavailable("InternalError", "etcdserver: leader changed"),
    lambda: Unavailable("ApiServerUnavailable", "timeout"),
)
Act = Callable[[Cluster, random.Random], object]


class Weather:
    """Faults that come and go: each second some begin."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self._cluster = cluster
        self._chance = chance
        self._refusals = chance.choice((0.0, 0.05, 0.3))
        self._losses = chance.choice((0.0, 0.05, 0.2))
        self._deaths = chance.choice((0.0, 0.2, 0.5))
        cluster.api.fault = lambda *_: self._fail(self._refusals)
        cluster.api.lose_answer = lambda *_: self._lose()

    def change(self) -> None:
        chance, cluster = self._chance, self._cluster
        until = cluster.clock.now() + timedelta(seconds=chance.randint(1, 12))
        if chance.random() < 0.08:
            for kind in chance.sample(WATCHED_KINDS, chance.choice((1, 3, len(WATCHED_KINDS)))):
                cluster.operator.lose_watch(kind, until)
        if chance.random() < 0.1:
            chance.choice(cluster.proxies).frozen_until = until
        if chance.random() < 0.05:
            cluster.kill_pods(chance.choice(VERSIONS))
        if chance.random() < 0.05:
            cluster.broken ^= {f"connect4-{chance.choice(VERSIONS)}"}
        if chance.random() < 0.08:
            cluster.prometheus.down = not cluster.prometheus.down
        if chance.random() < 0.1:
            cluster.prometheus.answers[f"connect4-{chance.choice(VERSIONS)}", chance.choice(MEASURED)] = chance.choice(
                ANSWERS
            )
        if chance.random() < 0.05:
            cluster.prometheus.worse ^= {f"connect4-{chance.choice(VERSIONS)}"}
        if chance.random() < 0.1:
            cluster.gates.answers[GATE] = chance.choice(SAID)

    def plan_death(self) -> None:
        """Let the operator die at one of the next awaits, now and then."""
        death = self._cluster.death
        death.at = death.awaits + self._chance.randint(1, 6) if self._chance.random() < self._deaths else None

    def clear(self) -> None:
        cluster = self._cluster
        cluster.api.fault = cluster.api.lose_answer = cluster.death.at = None
        cluster.broken.clear()
        cluster.prometheus.down = False
        cluster.prometheus.answers.clear()
        cluster.prometheus.worse.clear()
        for proxy in cluster.proxies:
            proxy.frozen_until = None

    def _fail(self, share: float) -> TidegateError | None:
        return self._chance.choice(REFUSALS)() if self._chance.random() < share else None

    def _lose(self) -> TidegateError | None:
        lost = self._chance.random() < self._losses
        return Unavailable("ApiServerUnavailable", "the answer is lost") if lost else None


def ask(cluster: Cluster, chance: random.Random) -> None:
    cluster.release(chance.choice(VERSIONS))


def change_strategy(cluster: Cluster, chance: random.Random) -> None:
    cluster.change(strategy=copy.deepcopy(chance.choice(STRATEGIES)))


def scale(cluster: Cluster, chance: random.Random) -> None:
    cluster.change(serving={"replicas": chance.randint(1, 4)})


def pause(cluster: Cluster, chance: random.Random) -> None:
    cluster.change(paused=chance.random() < 0.5)


def command(cluster: Cluster, chance: random.Random) -> None:
    name = chance.choice(("Promote", "PromoteFully", "Abort", "Retry", "Rollback"))
    cluster.command(name, f"{chance.randrange(2**32):x}")


ACTS: Sequence[Act] = (ask, ask, ask, command, command, change_strategy, scale, pause)


def live_a_second(cluster: Cluster, chance: random.Random) -> None:
    """Let everybody take turns in a random order; some do not get theirs."""
    cluster.pass_time()
    for _ in range(chance.randint(1, 4)):
        turns = [cluster.run_kubelet, cluster.run_router, lambda: cluster.operator.hear(chance.choice((None, 1, 2)))]
        chance.shuffle(turns)
        for turn in turns[: chance.randint(1, 3)]:
            turn()
        if cluster.operator.is_awake or chance.random() < 0.1:
            cluster.work()


def run_release(seed: int) -> Cluster:
    """Live through one release with everything that goes wrong, and through the calm afterwards."""
    chance = random.Random(seed)
    drain = {"drainDelay": chance.choice(("0s", "1s", "4s"))}
    strategy = copy.deepcopy(chance.choice(STRATEGIES))
    spec = {"serving": {"replicas": 2}, "strategy": strategy, "analysis": METRICS, "rollback": drain}
    cluster = Cluster(progressDeadline="8s", **copy.deepcopy(spec))
    cluster.run(6)
    weather = Weather(cluster, chance)
    cluster.release("2.0.0")
    for _ in range(SECONDS):
        weather.change()
        weather.plan_death()
        live_a_second(cluster, chance)
        if chance.random() < 0.1:
            chance.choice(ACTS)(cluster, chance)
    weather.clear()
    cluster.change(modelVersion=f"connect4-{LAST}", strategy=copy.deepcopy(STRATEGIES[0]), paused=False)
    cluster.command("Promote", "last")
    check_calm(cluster)
    return cluster


def check_calm(cluster: Cluster) -> None:
    """A command that is still open may take the wanted version back: then a person has to say retry."""
    for number in range(3):
        assert cluster.run(90, lambda each: each.operator.is_settled), cluster.status
        if cluster.status["phase"] == "RolledBack":
            cluster.command("Retry", f"retry-{number}")
    assert cluster.status["phase"] == "Healthy", cluster.status
    assert cluster.serving == [f"connect4-{LAST}"]
    assert cluster.comparators == []
    kinds = [path.split("/")[-2] for path in cluster.api.objects]
    assert {kind: kinds.count(kind) for kind in ("services", "routes")} == {"services": 1, "routes": 1}
    cluster.check_narration()


@pytest.mark.slow
def test_random_releases_with_random_faults() -> None:
    ends: set[str] = set()
    deaths = errors = 0
    for seed in range(RELEASES):
        try:
            cluster = run_release(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        ends |= {str(each["action"]) for each in cluster.told}
        deaths, errors = deaths + cluster.deaths, errors + len(cluster.errors)
    assert {"Promote", "RollBack", "Abort", "Supersede", "Hold", "RestartSteps", "Bake", "Mirror", "OpenGate"} <= ends
    assert deaths > RELEASES / 2
    assert errors > RELEASES
