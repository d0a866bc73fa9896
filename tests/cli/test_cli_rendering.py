"""What people read: trees, tables and sentences, drawn without a cluster."""

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from tests.cli.views import NOW, active, ago, canary, healthy, manifest, rejected, releasing, retreat, rolled_back, view
from tidegate.api.deployment import DeploymentPhase, Verdict
from tidegate.api.model_version import ModelVersionStatus
from tidegate.cli import rendering
from tidegate.cli.explaining import NEXT, OTHERWISE, explain
from tidegate.cli.rendering import (
    render_chain,
    render_decisions,
    render_history,
    render_line,
    render_overview,
)
from tidegate.cli.view import Version, View, read_version, read_view
from tidegate.domain.reasons import Reason


def draw(what: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=10_000)
    console.print(what)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def version(name: str, model: str = "m", **status: Any) -> Version:
    return Version(name, model, "None", ModelVersionStatus.model_validate({"phase": "Ready"} | status))


ANALYSIS = [
    {"name": "errorRate", "verdict": "Fail", "value": 0.4, "samples": 5200, "message": "0.4 is above 0.05"},
    {"name": "accuracy", "verdict": "NoData", "dryRun": True},
]


def test_the_chain_in_a_tree() -> None:
    text = draw(
        render_chain(
            releasing(analysis=ANALYSIS), [version("m-1.1.0"), version("m-1.0.0"), version("x-1", "other")], NOW
        )
    )
    assert text == "\n".join(
        [
            "m (shop)  Progressing",
            "├── sentence about Holding",
            "├── versions",
            "│   └── m-1.1.0  Ready    asked for, canary",
            "│       m-1.0.0  Ready    stable",
            "├── release",
            "│   └── stable  m-1.0.0  70 %  2 pods ready",
            "│       canary  m-1.1.0  30 %  1 pod ready   step 2 of 4, for 12s of 1m",
            "├── metrics",
            "│   └── errorRate  Fail    0.4  5200 samples  0.4 is above 0.05",
            "│       accuracy   NoData                                        dry run",
            "└── conditions",
            "    └── Ready        False  Holding  for 1m",
            "        Reconciling  True   Holding  for 1m",
            "        Stalled      False  Holding  for 1m",
        ]
    )


def test_many_versions_are_cut_but_those_in_use_are_shown() -> None:
    names = [f"m-2.{number}.0" for number in range(9)] + ["m-1.1.0", "m-1.0.0", "m-0.9.0"]
    text = draw(render_chain(releasing(), [version(name) for name in names], NOW))
    assert ["m-1.0.0", "Ready", "stable"] in [line.split()[-3:] for line in text.splitlines()]
    assert "m-2.8.0" not in text
    assert "and 4 older" in text


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "step 2 of 4, for 12s of 1m"),
        ({"step": 3}, "step 3 of 4, for 12s, waits for a person"),
        ({"stepStartedAt": None}, "step 2 of 4, on its way to 30 %"),
        ({"bakingSince": ago(30)}, "watched at 100 %, for 30s"),
        ({"retreat": retreat()}, "on its way back: Aborted"),
        ({"fast": True, "step": 0, "steps": 1}, "step 0 of 1, for 12s"),
    ],
)
def test_where_a_canary_is(fields: dict[str, Any], expected: str) -> None:
    seen = releasing(canary=canary(**({"step": 2} | fields)))
    assert seen.status.canary is not None
    assert rendering.describe_canary(seen, seen.status.canary, NOW) == expected


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"gate": {"url": "https://gates.example/go"}}, "step 1 of 4, for 12s, waits for its gate"),
        ({"analysis": {}}, "step 1 of 4, for 12s, waits for measurements"),
    ],
)
def test_what_a_step_waits_for(step: dict[str, Any], expected: str) -> None:
    strategy = {"canary": {"steps": [{"setPercent": 30}, step]}}
    seen = releasing(spec={"strategy": strategy}, canary=canary(step=1))
    assert seen.status.canary is not None
    assert rendering.describe_canary(seen, seen.status.canary, NOW) == expected


def test_a_fresh_object_without_status_is_drawn() -> None:
    fresh = manifest()
    fresh["status"] = {}
    text = draw(render_chain(read_view(fresh), [], NOW))
    assert "has not seen the last change" in text


def test_the_overview_has_a_line_each() -> None:
    lines = draw(render_overview([healthy(), releasing()])).splitlines()
    assert lines[0].split()[:2] == ["deployment", "phase"]
    assert "m-1.1.0 30 %" in lines[2]


def test_history_and_decisions() -> None:
    entry = {"modelVersion": "m-1.1.0", "digest": "b" * 64, "outcome": "RolledBack", "from": "m-1.0.0"}
    decision = {"at": ago(9), "action": "SetPercent", "modelVersion": "m-1.1.0", "from": 5, "to": 30.5}
    seen = view(
        history=[entry | {"reason": "AnalysisFailed", "startedAt": ago(70), "at": ago(10)}],
        decisions=[decision | {"reason": "StepStarted", "message": "step 1", "evidence": {"errorRate": "0.1 Pass"}}],
    )
    assert "m-1.1.0  RolledBack  AnalysisFailed  m-1.0.0  1m" in draw(render_history(seen))
    assert "5 → 30.5 %  StepStarted  step 1 (errorRate 0.1 Pass)" in draw(render_decisions(seen))


def test_one_line_for_logs() -> None:
    assert render_line(rolled_back(), NOW) == "2026-01-02 03:04:05Z  RolledBack   sentence about RolledBack"


def test_every_phase_and_verdict_has_a_colour() -> None:
    assert set(rendering.PHASE_STYLES) == set(DeploymentPhase)
    assert set(rendering.VERDICT_STYLES) == set(Verdict)


def test_a_model_version_of_another_release_is_listed() -> None:
    found = read_version({"metadata": {"name": "m-1"}, "spec": {"model": "m"}, "status": {"phase": "Sublime"}})
    assert "another release" in found.status.message


# Explanations


def test_a_release_under_way_is_explained() -> None:
    found = explain(releasing(analysis=ANALYSIS), NOW)
    assert found.sentences == (
        "m-1.0.0 serves 70 % of the traffic; m-1.1.0 has 30 % (step 2 of 4, for 12s of 1m).",
        "Holding: sentence about Holding.",
        "errorRate is Fail: 0.4 is above 0.05.",
        "It goes on by itself; end the step now, or take the release back:",
    )
    assert found.commands == ("tidegate promote m -n shop", "tidegate abort m -n shop")


@pytest.mark.parametrize(
    ("seen", "said", "commands"),
    [
        (healthy(), "Nothing to do", ()),
        (rolled_back(), "good version", ("tidegate retry m -n shop",)),
        (view("Aborted", stable=active("m-1.0.0", 100)), "A person ended it", ("tidegate retry m -n shop",)),
        (releasing(canary=canary(retreat=retreat())), "while the traffic goes back", ()),
        (view("PodsNotReady", canary=canary()), "pods", ("kubectl get pods -n shop -l tidegate.dev/deployment=m",)),
        (view("Holding", canary=canary()), "by itself", ("tidegate promote m -n shop",)),
        (view("ModelVersionMissing"), "Nothing serves yet; the spec asks for m-1.1.0", ("kubectl get mv -n shop",)),
        (
            view("GateClosed", stable=active("m-1.0.0", 70), canary=canary()),
            "when the gate opens",
            ("tidegate promote m -n shop", "tidegate abort m -n shop"),
        ),
        (view("SomethingNew"), "troubleshooting", ("kubectl describe mdep m -n shop",)),
        (
            view("ModelVersionRejected", stable=active("m-1.0.0", 100), rejected=[rejected()]),
            "Set spec.modelVersion",
            ("kubectl describe mv m-1.1.0 -n shop",),
        ),
    ],
)
def test_the_next_thing_to_do(seen: View, said: str, commands: tuple[str, ...]) -> None:
    found = explain(seen, NOW)
    assert said in " ".join(found.sentences)
    assert found.commands == commands


def test_an_operator_that_is_away_is_suspected() -> None:
    found = explain(view(stable=active("m-1.0.0", 100), observedGeneration=2), NOW)
    assert found.reason == "NotSeen"
    assert "component=operator" in found.commands[0]


def test_every_reason_that_a_release_waits_for_has_advice() -> None:
    """The reasons of conditions that do not fall back on the manual."""
    without = {
        Reason.FIRST_RELEASE,
        Reason.NEW_VERSION,
        Reason.ROLLBACK_WINDOW,
        Reason.RETRY,
        Reason.STATUS_LOST,
        Reason.SHADOW_STARTED,
        Reason.SHADOW_PASSED,
        Reason.STEP_STARTED,
        Reason.RAMP_TICK,
        Reason.STEP_PASSED,
        Reason.STEPS_PASSED,
        Reason.STEPS_CHANGED,
        Reason.BAKE_PASSED,
        Reason.COMMANDED,
        Reason.GATE_OPENED,
        Reason.ROLLBACK_GATE,
        Reason.TOLERATED_FAILURE,
        Reason.ANALYSIS_PASSED,
        Reason.SUPERSEDED,
        Reason.PROMOTED,
        Reason.NOT_KNOWN,
        Reason.UNKNOWN_COMMAND,
        Reason.NOTHING_TO_DO,
    }
    assert set(Reason) - without == {Reason(each) for each in NEXT}
    assert OTHERWISE[1] == ("describe",)
