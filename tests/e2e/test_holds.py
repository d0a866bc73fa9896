"""What keeps a release from going on, or from starting: gates, analysis steps, limits, windows, the error budget."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dev import installation
from dev.demo.kube import Kube, Object, condition, is_true
from tests.e2e import gate as webhook
from tests.e2e.artifacts import Stored
from tests.e2e.gate import Gate
from tests.e2e.load import Load
from tests.e2e.objects import deployment, model_version
from tests.e2e.releases import (
    canary_percent,
    command,
    healthy_on,
    ready_version,
    release,
    rolled_back,
    serve,
    serve_then_release,
    until,
)

pytestmark = pytest.mark.cluster


@pytest.fixture
def gate(kube: Kube, installed: installation.Installed, namespace: str) -> Gate:
    """A webhook in the test's namespace."""
    return Gate(kube, installed.images["model-agent"], namespace).start()


def held(reason: str) -> Callable[[Object], bool]:
    """Return a check: the release that is asked for waits for this."""
    return lambda found: (found["status"].get("held") or {}).get("reason") == reason


def says(reason: str) -> Callable[[Object], bool]:
    """Return a check: this is why the Deployment is not as it should be."""
    return lambda found: condition(found, "Ready").get("reason") == reason


def gate_code(code: int) -> Callable[[Object], bool]:
    """Return a check: the gate of the step has answered this."""
    return lambda found: (canary(found).get("gate") or {}).get("code") == code


def canary(found: Object) -> dict[str, Any]:
    """Return the status of the version that is being released."""
    return found["status"].get("canary") or {}


def test_gates_and_an_analysis_step_decide(
    kube: Kube, namespace: str, store: dict[str, Stored], load: Callable[..., Load], gate: Gate
) -> None:
    """No traffic before the gate's 200, none more before the metric has passed; the rollback gate takes it back."""
    steps = [
        {"gate": {"url": gate.url("/start"), "interval": "1s"}},
        {"setPercent": 40},
        {"analysis": {"count": 2, "metrics": ["errorRate"]}},
        {"setPercent": 80},
        {"hold": "2s"},
    ]
    spec = {
        "strategy": {"canary": {"steps": steps}},
        "rollback": {"drainDelay": "1s", "gate": {"url": gate.url("/alert")}},
    }
    users = serve_then_release(kube, namespace, load, (store["good"], store["better"]), **spec)
    found = until(kube, namespace, gate_code(403), "asked and shut")
    assert (canary_percent(found), canary(found)["step"]) == (0, 0)
    asked = gate.asked("/start")
    assert (asked["ask"], asked["modelVersion"], asked["stableVersion"]) == ("Gate", "m-1.1.0", "m-1.0.0")
    gate.answer("/start", 200)
    until(kube, namespace, healthy_on("1.1.0"), "promoted")
    asked = gate.asked("/alert")
    assert (asked["ask"], asked["modelVersion"]) == ("RollbackGate", "m-1.1.0")

    gate.answer("/alert", 200)
    ready_version(kube, namespace, "1.2.0", store["best"])
    release(kube, namespace, "1.2.0")
    found = until(kube, namespace, rolled_back, "rolled back")
    assert "/alert as told" in found["status"]["rejected"][0]["message"]
    assert users.stop().failed == {}


def test_a_gate_behind_a_login_holds_one_release_and_the_limit_the_next(
    kube: Kube, installed: installation.Installed, namespace: str, store: dict[str, Stored]
) -> None:
    """Scenario 12 and ``operator.limits`` of the chart, which is 1 here: whoever is held at a gate keeps its place.

    The gate demands a token. Without its Secret nobody is asked; with a wrong token nobody is let in; each says so.
    """
    gate = Gate(kube, installed.images["model-agent"], namespace, token="open-sesame").start()
    kube.apply(model_version(namespace, "1.1.0", store["better"]))  # checked while the other one is served
    steps = [{"gate": {"url": gate.url("/start"), "interval": "1s", "secret": webhook.SECRET}}, {"setPercent": 50}]
    serve(kube, namespace, "1.0.0", store["good"], strategy={"canary": {"steps": steps}}, analysis={"interval": "1s"})
    quick = {"type": "Immediate", "immediate": {"bake": "0s"}}
    kube.apply(deployment(namespace, "1.0.0", name="n", strategy=quick, analysis={"interval": "1s"}))
    until(kube, namespace, is_true("Ready"), "Ready", name="n")
    ready_version(kube, namespace, "1.1.0", store["better"])

    release(kube, namespace, "1.1.0")
    found = until(kube, namespace, says("BadGateCredentials"), "without the gate's credentials")
    assert is_true("Stalled")(found), found["status"]["conditions"]
    assert f"Secret {webhook.SECRET}: is missing" in found["status"]["message"], found["status"]["message"]
    release(kube, namespace, "1.1.0", name="n")
    found = until(kube, namespace, says("ReleaseLimit"), "waiting for its turn", name="n")
    assert "at most 1 in a namespace" in found["status"]["message"], found["status"]["message"]
    assert (canary(found), held("ReleaseLimit")(found)) == ({}, True), found["status"]

    kube.apply(gate.credentials("close-sesame"))
    found = until(kube, namespace, gate_code(401), "refused by the gate")
    assert f"check token in Secret {webhook.SECRET}" in canary(found)["gate"]["message"], canary(found)
    assert gate.asked("/start") == {}, "who has not shown the token is not listened to"
    kube.apply(gate.credentials("open-sesame"))
    found = until(kube, namespace, gate_code(403), "let in, and told to wait")
    assert canary_percent(found) == 0, canary(found)
    assert gate.asked("/start")["deployment"] == "m"
    waiting = until(kube, namespace, says("ReleaseLimit"), "still waiting for its turn", name="n")
    assert "sesame" not in json.dumps([found["status"], waiting["status"]]), "no status shows what is in the Secret"

    gate.answer("/start", 200)
    first = until(kube, namespace, healthy_on("1.1.0"), "promoted")["status"]["history"][0]
    second = until(kube, namespace, healthy_on("1.1.0"), "promoted in its turn", name="n")["status"]["history"][0]
    assert first["at"] <= second["startedAt"], (first, second)


def test_a_release_waits_for_its_window_and_for_the_error_budget(
    kube: Kube, namespace: str, store: dict[str, Stored], load: Callable[..., Load]
) -> None:
    """A failing release spends the budget; the next one waits, first for the window, then for people to overrule."""
    users = serve_then_release(kube, namespace, load, (store["good"], store["failing"]))
    until(kube, namespace, rolled_back, "rolled back")
    ready_version(kube, namespace, "1.2.0", store["better"])
    far = datetime.now(UTC) + timedelta(days=3)
    windows = [{"days": [f"{far:%A}"], "start": "09:00", "end": "10:00", "timeZone": "UTC"}]
    budget = {"objective": 99.9, "window": "1h"}
    wanted = {"modelVersion": "m-1.2.0", "releaseWindows": windows, "errorBudget": budget}
    kube.merge("Deployment", "m", {"spec": wanted}, namespace)
    found = until(kube, namespace, held("OutsideReleaseWindow"), "held by its window")
    assert f"{far:%A}" in found["status"]["message"] or f"{far:%Y-%m-%d}" in found["status"]["message"]
    assert found["status"]["stable"]["modelVersion"] == "m-1.0.0"

    kube.merge("Deployment", "m", {"spec": {"releaseWindows": None}}, namespace)
    found = until(kube, namespace, held("ErrorBudgetSpent"), "held by the error budget")
    assert found["status"]["errorBudget"]["remainingPercent"] <= 0
    assert canary(found) == {}

    command(kube, namespace, "Promote")
    until(kube, namespace, healthy_on("1.2.0"), "promoted")
    assert set(users.stop().failed) == {"m-1.1.0"}
