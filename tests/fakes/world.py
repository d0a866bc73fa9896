"""In-memory stand-ins for the ports: objects with resourceVersions and faults on demand, events, a clock."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tidegate.domain.release import GateAnswer, GateQuestion, GateRole, Measurement, Period, Query
from tidegate.errors import Conflict
from tidegate.ports import Key, Kind, Manifest, kind_of
from tidegate.references import reference_labels

Fault = Callable[[str, Key], Exception | None]
"""Called before every request with the verb and the object; what it returns is raised instead."""


class FakeClock:
    """A clock that moves only when told."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    def advance(self, **step: float) -> datetime:
        """Move on, for example `advance(seconds=5)`."""
        self._now += timedelta(**step)
        return self._now


class FakeEvents:
    """Remembers what was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str, bool]] = []
        """Name of the object, reason, message, and whether it is a warning."""

    def emit(self, about: Manifest, reason: str, message: str, *, warning: bool = False) -> None:
        self.told.append((about["metadata"]["name"], reason, message, warning))

    def clear(self) -> None:
        self.told.clear()

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason, _, _ in self.told]


class FakeTelemetry:
    """Remembers the decisions and the last weights."""

    def __init__(self) -> None:
        self.decisions: list[tuple[str, str, str]] = []
        self.weights: dict[tuple[str, str], Mapping[tuple[str, str], float]] = {}
        self.verdicts: dict[tuple[str, str], Mapping[tuple[str, str], float]] = {}

    def count_decision(self, kind: str, action: str, reason: str) -> None:
        self.decisions.append((kind, action, reason))

    def show_weights(self, namespace: str, deployment: str, weights: Mapping[tuple[str, str], float]) -> None:
        self.weights[namespace, deployment] = weights

    def show_analysis(
        self,
        namespace: str,
        deployment: str,
        values: Mapping[str, float],
        verdicts: Mapping[tuple[str, str], float],
    ) -> None:
        self.verdicts[namespace, deployment] = verdicts

    def forget(self, namespace: str, deployment: str) -> None:
        self.weights.pop((namespace, deployment), None)
        self.verdicts.pop((namespace, deployment), None)


class FakeMetrics:
    """Answers what a test says, by version and metric; otherwise there is no data."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Measurement] = {}
        self.rounds = 0
        self.failures = Measurement(0.0, samples=1000)
        """Share of all requests of the endpoint that failed."""
        self.budgets = 0
        """How often that was asked."""

    async def measure_failures(
        self, namespace: str, deployment: str, period: Period, patience: timedelta
    ) -> Measurement:
        self.budgets += 1
        return self.failures

    async def measure(
        self, namespace: str, deployment: str, queries: Sequence[Query], patience: timedelta
    ) -> Mapping[str, Measurement]:
        self.rounds += bool(queries)
        return {
            query.metric.name: self.answers.get((query.version.model_version, query.metric.name), Measurement())
            for query in queries
        }


class FakeGates:
    """Answers what a test says, by address; otherwise 200."""

    def __init__(self) -> None:
        self.answers: dict[str, GateAnswer] = {}
        self.asked: list[tuple[str, GateQuestion]] = []
        """Namespace and question, in order."""

    async def ask(
        self, namespace: str, questions: Sequence[GateQuestion], patience: timedelta
    ) -> Mapping[GateRole, GateAnswer]:
        self.asked += [(namespace, question) for question in questions]
        return {question.role: self.answers.get(question.url, GateAnswer(200)) for question in questions}


class FakeObjects:
    """A tiny API server: generation, resourceVersion and uid behave as in the real one; owner references collect."""

    def __init__(self, *manifests: Manifest, fault: Fault | None = None, lose_answer: Fault | None = None) -> None:
        self._objects: dict[Key, Manifest] = {}
        self._version = 0
        self.fault = fault
        self.lose_answer = lose_answer
        """Like `fault`, but the request is carried out before the exception is raised."""
        self.requests: list[tuple[str, Key]] = []
        """Every write request that would have gone out, in order."""
        self.listed: list[Key] = []
        """Every object that a list has handed out, in order."""
        for manifest in manifests:
            self.put(manifest)

    # What a test does from outside.

    def put(self, manifest: Manifest) -> Manifest:
        """Create or replace an object, as a person or another controller would; bumps generation on a changed spec."""
        key = key_of(manifest)
        before = self._objects.get(key)
        stored = copy.deepcopy(manifest)
        metadata = stored["metadata"]
        metadata.setdefault("namespace", key.namespace)
        metadata["uid"] = before["metadata"]["uid"] if before else f"uid-{self._next()}"
        metadata["generation"] = self._generation(before, stored)
        metadata["resourceVersion"] = str(self._next())
        metadata.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        self._objects[key] = stored
        return stored

    def change(self, key: Key, change: Callable[[Manifest], None]) -> Manifest:
        """Apply a change to a copy of a stored object and put it back."""
        manifest = copy.deepcopy(self._objects[key])
        change(manifest)
        return self.put(manifest)

    def remove(self, key: Key) -> None:
        """Delete an object and everything that it owns."""
        gone = self._objects.pop(key, None)
        if gone is None:
            return
        uid = gone["metadata"]["uid"]
        for child, manifest in list(self._objects.items()):
            if any(owner.get("uid") == uid for owner in manifest["metadata"].get("ownerReferences", ())):
                self.remove(child)

    @property
    def serial(self) -> int:
        """Grows with every change of any object."""
        return self._version

    def status_of(self, key: Key) -> dict[str, Any]:
        return self._objects[key].get("status") or {}

    def __iter__(self) -> Any:
        return iter(sorted(self._objects, key=str))

    # The port.

    def get(self, key: Key) -> Manifest | None:
        return self._objects.get(key)

    def list(self, kind: Kind, namespace: str, labels: Mapping[str, str] | None = None) -> Sequence[Manifest]:
        wanted = set((labels or {}).items())
        found = {
            key: manifest
            for key, manifest in sorted(self._objects.items(), key=lambda item: item[0].name)
            if key.kind == kind
            and key.namespace == namespace
            and wanted <= manifest["metadata"].get("labels", {}).items() | reference_labels(kind, manifest)
        }
        self.listed += found
        return list(found.values())

    async def apply(
        self,
        manifest: Manifest,
        *,
        field_manager: str = "tidegate",
        decided_on: Manifest | None = None,
        resting_on: Sequence[Manifest] = (),
    ) -> Manifest:
        key = key_of(manifest)
        json.dumps(manifest)  # a manifest is JSON, or the real API server could not take it
        before = self._objects.get(key)
        replaced = ("spec", "data") if field_manager == "tidegate" else ()
        after = _merge(copy.deepcopy(before or {}), manifest, replaced)
        if after == before:
            return before
        self._check(decided_on)
        if any(key_of(each) not in self._objects for each in resting_on):
            raise Conflict("Outdated", "gone since it was read")
        self._request("apply", key)
        return self._answer("apply", key, self.put(after))

    async def create(self, manifest: Manifest) -> Manifest:
        key = key_of(manifest)
        json.dumps(manifest)
        self._request("create", key)
        if key in self._objects:
            raise Conflict("AlreadyExists", f"{key} already exists")
        return self._answer("create", key, self.put(manifest))

    async def delete(self, key: Key, *, decided_on: Manifest | None = None) -> None:
        self._check(decided_on)
        self._request("delete", key)
        self.remove(key)
        self._answer("delete", key, {})

    async def patch_status(self, observed: Manifest, status: Mapping[str, Any]) -> Manifest:
        key = key_of(observed)
        json.dumps(status)
        if (observed.get("status") or {}) == dict(status):
            return observed
        self._request("patch_status", key)
        current = self._objects.get(key)
        if current is None or current["metadata"]["resourceVersion"] != observed["metadata"]["resourceVersion"]:
            raise Conflict("Conflict", f"{key} was changed meanwhile")
        return self._answer(
            "patch_status", key, self.change(key, lambda manifest: manifest.update(status=dict(status)))
        )

    async def read_again(self) -> None:
        """Nothing is cached here: every read is fresh."""

    def _check(self, decided_on: Manifest | None) -> None:
        if decided_on is not None and self._objects.get(key_of(decided_on)) != decided_on:
            raise Conflict("Outdated", "changed since it was read")

    def _request(self, verb: str, key: Key) -> None:
        self.requests.append((verb, key))
        error = self.fault(verb, key) if self.fault else None
        if error is not None:
            raise error

    def _answer(self, verb: str, key: Key, answer: Manifest) -> Manifest:
        error = self.lose_answer(verb, key) if self.lose_answer else None
        if error is not None:
            raise error
        return answer

    def _next(self) -> int:
        self._version += 1
        return self._version

    def _generation(self, before: Manifest | None, stored: Manifest) -> int:
        if before is None:
            return int(stored["metadata"].get("generation", 1))
        return int(before["metadata"]["generation"]) + (before.get("spec") != stored.get("spec"))


def key_of(manifest: Mapping[str, Any]) -> Key:
    """The identity of a manifest."""
    metadata = manifest["metadata"]
    return Key(kind_of(manifest), metadata.get("namespace", "default"), metadata["name"])


def _merge(live: Manifest, wanted: Mapping[str, Any], replaced: Sequence[str] = ()) -> Manifest:
    for key, value in wanted.items():
        if isinstance(value, Mapping) and isinstance(live.get(key), dict) and key not in replaced:
            _merge(live[key], value)
        else:
            live[key] = copy.deepcopy(value)
    return live
