"""Scenario rule 11: a write was carried out and nobody said so, and the watch that would tell is silent.

The operator has to find out what became of its write before it decides anything else: it is not as it was before.
"""

from datetime import timedelta

from tests.faults.cluster import Cluster
from tests.faults.test_killed_at_every_await import SPEC, healthy_on
from tidegate.errors import Unavailable
from tidegate.ports import ROUTE


def test_pods_stay_while_traffic_that_nobody_confirmed_may_go_there() -> None:
    """The canary's share is written, the answer is lost, and a person aborts before it is written again."""
    cluster = Cluster(**SPEC)
    assert cluster.run(30, healthy_on("1.0.0"))
    lost: list[str] = []

    def is_it(method: str, path: str) -> bool:
        return not lost and method == "PATCH" and path.endswith("/routes/connect4")

    def fall_silent(method: str, path: str) -> None:
        if is_it(method, path):
            cluster.operator.lose_watch(ROUTE, cluster.clock.now() + timedelta(seconds=60))

    def lose(method: str, path: str) -> Exception | None:
        if not is_it(method, path):
            return None
        lost.append(path)
        return Unavailable("ApiServerUnavailable", "the answer is lost")

    cluster.api.fault, cluster.api.lose_answer = fall_silent, lose
    cluster.release("2.0.0")
    assert cluster.run(30, lambda _: bool(lost))
    cluster.command("Abort", "1")
    assert cluster.run(120, lambda each: each.operator.is_settled), cluster.status
    assert cluster.status["phase"] == "RolledBack"
    assert cluster.serving == ["connect4-1.0.0"]
    cluster.check_narration()
