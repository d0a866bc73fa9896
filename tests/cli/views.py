"""Deployments as the API server would return them, for tests without one."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tidegate.cli.view import View, read_view

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DIGESTS = {"m-1.0.0": "a" * 64, "m-1.1.0": "b" * 64}


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat()


def condition(kind: str, value: str, reason: str) -> dict[str, Any]:
    return {"type": kind, "status": value, "reason": reason, "message": "", "lastTransitionTime": ago(60)}


def conditions(reason: str) -> list[dict[str, Any]]:
    known = dict.fromkeys(("RolledBack", "Aborted", "AnalysisFailed"), "FFT") | {"Healthy": "TFF"}
    health = known.get(reason, "FTF")
    words = {"T": "True", "F": "False"}
    kinds = ("Ready", "Reconciling", "Stalled")
    return [condition(kind, words[letter], reason) for kind, letter in zip(kinds, health, strict=True)]


def active(name: str, percent: float, **fields: Any) -> dict[str, Any]:
    return {"modelVersion": name, "digest": DIGESTS[name], "percent": percent, "readyReplicas": 2} | fields


def canary(**fields: Any) -> dict[str, Any]:
    times = {"step": 1, "steps": 4, "targetPercent": 30, "startedAt": ago(100), "stepStartedAt": ago(12)}
    return active("m-1.1.0", 30, readyReplicas=1, **(times | fields))


def retreat() -> dict[str, Any]:
    return {"outcome": "Aborted", "reason": "Aborted", "message": "aborted by ann", "at": ago(1)}


def rejected(**fields: Any) -> dict[str, Any]:
    entry = {"modelVersion": "m-1.1.0", "digest": DIGESTS["m-1.1.0"], "reason": "AnalysisFailed", "at": ago(5)}
    return entry | {"message": "errorRate is 0.4"} | fields


def held(reason: str) -> dict[str, Any]:
    return {"modelVersion": "m-1.1.0", "digest": DIGESTS["m-1.1.0"], "reason": reason, "since": ago(600)}


def promoted(name: str) -> dict[str, Any]:
    return {"modelVersion": name, "digest": DIGESTS[name], "outcome": "Promoted", "reason": "Promoted", "at": ago(300)}


def manifest(
    reason: str = "Healthy",
    *,
    asked_for: str = "m-1.1.0",
    annotations: dict[str, str] | None = None,
    spec: dict[str, Any] | None = None,
    **status: Any,
) -> dict[str, Any]:
    phases = {"Healthy": "Healthy", "RolledBack": "RolledBack", "Aborted": "RolledBack", "PauseStep": "Paused"}
    base = {
        "observedGeneration": 3,
        "phase": phases.get(reason, "Progressing"),
        "message": f"sentence about {reason}",
        "conditions": conditions(reason),
    }
    return {
        "metadata": {"name": "m", "namespace": "shop", "generation": 3, "annotations": annotations or {}},
        "spec": {"modelVersion": asked_for} | (spec or {}),
        "status": base | status,
    }


def view(reason: str = "Healthy", **fields: Any) -> View:
    return read_view(manifest(reason, **fields))


def healthy() -> View:
    return view("Healthy", stable=active("m-1.1.0", 100))


def releasing(**fields: Any) -> View:
    """30 % for the canary, step 1 of 4."""
    steps = [{"setPercent": 5}, {"setPercent": 30}, {"hold": "1m"}, {"pause": {}}]
    spec = {"strategy": {"canary": {"steps": steps}}} | fields.pop("spec", {})
    status = {"stable": active("m-1.0.0", 70), "canary": canary(step=2)} | fields
    return view("Holding", spec=spec, **status)


def rolled_back() -> View:
    return view("RolledBack", stable=active("m-1.0.0", 100), rejected=[rejected()])
