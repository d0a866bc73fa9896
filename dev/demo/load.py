"""Load generator: plays real Connect Four positions against an endpoint and knows the right moves.

Runs in the cluster. Every answer is judged by perfect play and counted by the version that gave it
(``x-tidegate-version``), in the counters that the analysis reads as ``source: Outcomes``. It asks over
HTTP or gRPC.
"""

import argparse
import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from dev.demo.protocols import PROTOCOLS, Infer, Protocol
from tidegate_trainer import connect4

LABELS = ["tidegate_namespace", "tidegate_deployment", "tidegate_version", "metric"]
OUTCOMES = Counter("tidegate_outcomes", "Answers that were judged.", LABELS)
POSITIVE = Counter("tidegate_outcomes_positive", "Answers that were right.", LABELS)
REQUESTS = Counter("demo_requests", "Requests sent, by the version that answered.", ["tidegate_version", "result"])
SECONDS = Histogram(
    "demo_request_seconds",
    "Time of a request as the client sees it.",
    ["tidegate_version"],
    buckets=(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5, 5, 10),
)
FIRST_FAILURE = Gauge(
    "demo_first_failure_timestamp_seconds",
    "Unix time of the first error answer of a version.",
    ["tidegate_version"],
)
log = logging.getLogger("load")
_failed: set[str] = set()


@dataclass(frozen=True, slots=True)
class Question:
    """A position as a ready request body, with the moves that keep its game-theoretic result."""

    body: bytes
    legal: tuple[bool, ...]
    right: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """The Deployment under load."""

    namespace: str
    deployment: str


def questions(count: int, model: str, protocol: Protocol) -> list[Question]:
    """Make requests of held-out positions; no trainer has seen them or their mirror images."""
    held_out = connect4.held_out_positions(count)
    planes, legal = held_out.boards, held_out.legal
    return [
        Question(
            protocol.encode(planes[row], model), tuple(map(bool, legal[row])), tuple(map(bool, held_out.optimal[row]))
        )
        for row in range(len(planes))
    ]


def chosen_move(policy: Sequence[float], legal: Sequence[bool]) -> int:
    """Return the legal column with the largest logit."""
    return max((column for column in range(len(policy)) if legal[column]), key=lambda column: policy[column])


async def ask(infer: Infer, target: Target, question: Question, user: str) -> None:
    """Send one request, judge the answer, count it; never raise."""
    begin = time.perf_counter()
    answer = await infer(question.body, user)
    result = "ok"
    if answer.error is not None:
        result = "unanswered" if answer.is_missing else "error"
        log.warning("%s from %s: %.200s", result, answer.version, answer.error)
        if answer.version not in _failed:
            _failed.add(answer.version)
            FIRST_FAILURE.labels(answer.version).set_to_current_time()
    else:
        _judge(target, answer.version, question, answer.policy)
    REQUESTS.labels(answer.version, result).inc()
    SECONDS.labels(answer.version).observe(time.perf_counter() - begin)


def _judge(target: Target, version: str, question: Question, policy: Sequence[float]) -> None:
    labels = (target.namespace, target.deployment, version, "accuracy")
    OUTCOMES.labels(*labels).inc()
    if question.right[chosen_move(policy, question.legal)]:
        POSITIVE.labels(*labels).inc()
    else:
        POSITIVE.labels(*labels).inc(0)


async def play(
    infer: Infer, target: Target, stock: list[Question], rate: float, users: int, seconds: float | None
) -> None:
    """Send ``rate`` requests a second at even distances until ``seconds`` have passed, or for ever."""
    choose = random.Random(0)
    running: set[asyncio.Task[None]] = set()
    begin = time.monotonic()
    sent = 0
    while seconds is None or time.monotonic() - begin < seconds:
        task = asyncio.create_task(ask(infer, target, choose.choice(stock), f"user-{choose.randrange(users)}"))
        running.add(task)
        task.add_done_callback(running.discard)
        sent += 1
        await asyncio.sleep(max(0.0, begin + sent / rate - time.monotonic()))
    await asyncio.gather(*running)


async def main() -> None:
    """Read the arguments and play."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", required=True, help="for example connect4.default:8000")
    parser.add_argument("--protocol", choices=sorted(PROTOCOLS), default="http")
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--deployment", default="connect4")
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--users", type=int, default=2000, help="different values of x-user-id")
    parser.add_argument("--positions", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=None, help="stop after this long")
    parser.add_argument("--metrics-port", type=int, default=9100)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    start_http_server(arguments.metrics_port)
    protocol, model = PROTOCOLS[arguments.protocol], arguments.deployment
    stock = questions(arguments.positions, model, protocol)
    log.info("playing %d held-out positions, %s requests a second", len(stock), arguments.rate)
    target = Target(arguments.namespace, arguments.deployment)
    async with protocol.connect(arguments.endpoint, model) as infer:
        await play(infer, target, stock, arguments.rate, arguments.users, arguments.seconds)


if __name__ == "__main__":
    asyncio.run(main())
