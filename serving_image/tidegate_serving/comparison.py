"""What happens to a copied request, in whatever protocol: both versions are asked, their answers compared and counted.

::

    tidegate_shadow_comparisons_total     pairs of answers that were compared
    tidegate_shadow_disagreements_total   pairs that disagree; an answer of stable beside an error of the other is one
    tidegate_shadow_requests_total        questions, by version
    tidegate_shadow_failures_total        questions that the server failed or did not answer, by version
    tidegate_shadow_latency_milliseconds  time to an answer, by version
    tidegate_shadow_skipped_total         copies that nothing was learnt from, by reason

Copies beyond ``CONCURRENT`` at a time are skipped: what is compared is a sample, and the stable version, which answers
each question a second time, is never asked more at a time than that.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from prometheus_client import CollectorRegistry, Counter, Histogram

from tidegate_serving.answers import Criterion, IncomparableError, Outputs, agree
from tidegate_serving.contract import ComparatorDocument, ComparedVersion

__all__ = ["CONCURRENT", "LARGEST_BODY", "TIMEOUT_SECONDS", "Answer", "Ask", "Comparator", "Outcome", "Skipped"]

CONCURRENT = 32
LARGEST_BODY = 8 << 20
"""Bytes of a question."""
TIMEOUT_SECONDS = 60.0
"""How long an answer may take."""
BOUNDS = (0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000)
"""Of the latency histogram, in milliseconds: those of the proxies."""


class Skipped(StrEnum):
    """Why nothing was learnt from a copy."""

    BUSY = "Busy"
    NOT_INFERENCE = "NotInference"
    REFUSED_BY_STABLE = "RefusedByStable"
    """The question is wrong, or the stable version failed: there is nothing to compare with."""
    INCOMPARABLE = "Incomparable"
    TOO_LARGE = "TooLarge"


class Outcome(Enum):
    """What became of a question."""

    ANSWERED = auto()
    REFUSED = auto()
    """The question is wrong."""
    FAILED = auto()
    """The server failed, or there was no answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one version said."""

    outcome: Outcome
    read: Callable[[], Outputs] = dict
    """Returns the outputs of an answer, or raises IncomparableError."""


Ask = Callable[[ComparedVersion], Awaitable[Answer]]
"""Puts the copied question to one version; never raises."""


class Comparator:
    """The counters, and what happens to one copy."""

    def __init__(self, document: ComparatorDocument, registry: CollectorRegistry) -> None:
        """Compare as the document says."""
        self._document = document
        self._criterion = Criterion(document.agreement, document.tolerance or 0.0, document.outputs)
        self._registry = registry
        self._labels = {"tidegate_namespace": document.namespace, "tidegate_deployment": document.deployment}
        self._pairs = self._counter("comparisons", "Pairs of answers that were compared.")
        self._disagreements = self._counter("disagreements", "Pairs of answers that disagree.")
        self._requests = self._counter("requests", "Questions asked.")
        self._failures = self._counter("failures", "Questions that the server failed or did not answer.")
        self._skipped = self._counter("skipped", "Copies that nothing was learnt from.", "reason")
        labels = (*self._labels, "tidegate_version")
        about = "Time to an answer, in milliseconds."
        self._latency = Histogram(
            "tidegate_shadow_latency_milliseconds", about, labels, buckets=BOUNDS, registry=registry
        )
        self._begin_at_zero()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        """Whether no further question can be begun."""
        return len(self._tasks) >= CONCURRENT

    def begin(self, ask: Ask) -> None:
        """Ask both versions, later: who sent the copy waits for nothing."""
        task = asyncio.create_task(self._compare(ask))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def skip(self, reason: Skipped) -> None:
        """Count a copy that nothing is learnt from."""
        self._skipped.labels(**self._labels, reason=reason).inc()

    async def drain(self) -> None:
        """Wait until every question that was begun is answered and counted."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def close(self) -> None:
        """Drop the questions under way."""
        for task in self._tasks:
            task.cancel()

    async def _compare(self, ask: Ask) -> None:
        sides = (self._document.stable, self._document.shadow)
        stable, shadow = await asyncio.gather(*(self._time(side, ask) for side in sides))
        if stable.outcome is not Outcome.ANSWERED:
            self.skip(Skipped.REFUSED_BY_STABLE)
            return
        try:
            disagrees = shadow.outcome is not Outcome.ANSWERED or not self._agree(stable, shadow)
        except IncomparableError as error:
            print(f"nothing can be compared: {error}", file=sys.stderr, flush=True)
            self.skip(Skipped.INCOMPARABLE)
            return
        version = self._document.shadow.model_version
        self._pairs.labels(**self._labels, tidegate_version=version).inc()
        self._disagreements.labels(**self._labels, tidegate_version=version).inc(disagrees)

    def _agree(self, stable: Answer, shadow: Answer) -> bool:
        """An answer of the shadowed version that cannot be read is a disagreement; one of stable's tells nothing."""
        expected = stable.read()
        try:
            found = shadow.read()
        except IncomparableError:
            return False
        return agree(expected, found, self._criterion)

    async def _time(self, side: ComparedVersion, ask: Ask) -> Answer:
        labels = {**self._labels, "tidegate_version": side.model_version}
        began = time.perf_counter()
        answer = await ask(side)
        self._requests.labels(**labels).inc()
        if answer.outcome is Outcome.FAILED:
            self._failures.labels(**labels).inc()
        else:
            self._latency.labels(**labels).observe((time.perf_counter() - began) * 1000)
        return answer

    def _counter(self, name: str, about: str, label: str = "tidegate_version") -> Counter:
        return Counter(f"tidegate_shadow_{name}", about, (*self._labels, label), registry=self._registry)

    def _begin_at_zero(self) -> None:
        """Show every series from the first scrape on: a counter that begins later would lose its first counts."""
        stable, shadow = self._document.stable.model_version, self._document.shadow.model_version
        for family in (self._requests, self._failures, self._latency):
            for version in (stable, shadow):
                family.labels(**self._labels, tidegate_version=version)
        for family in (self._pairs, self._disagreements):
            family.labels(**self._labels, tidegate_version=shadow)
        for reason in Skipped:
            self._skipped.labels(**self._labels, reason=reason)
