"""When a release has ended, which commands make sense, and what became of one."""

import json

import pytest

from tests.cli import views
from tests.cli.views import active, canary, healthy, held, promoted, rejected, releasing, retreat, rolled_back, view
from tidegate.api.deployment import CommandName
from tidegate.cli.exits import ExitCode, Problem
from tidegate.cli.verdicts import describe_missing_answer, find_answer, find_objection, judge_release
from tidegate.cli.view import View, read_view

ON_ITS_WAY = releasing(canary=canary(retreat=retreat()), rejected=[rejected()])
FIRST = view("PodsNotReady", canary=canary())
BOTH = [promoted("m-1.1.0"), promoted("m-1.0.0")]
SECOND = view("Healthy", stable=active("m-1.1.0", 100), history=BOTH)
GONE_BACK = view("RolledBack", stable=active("m-1.0.0", 100), history=BOTH, rejected=[rejected(reason="Commanded")])


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (healthy(), ExitCode.OK),
        (rolled_back(), ExitCode.ENDED_BADLY),
        (view("AnalysisFailed", stable=active("m-1.0.0", 70), canary=canary()), ExitCode.ENDED_BADLY),
        (releasing(), None),
        (ON_ITS_WAY, None),
        (FIRST, None),
        (view("ModelVersionMissing", stable=active("m-1.0.0", 100)), None),
        (view("Healthy", stable=active("m-1.0.0", 100)), None),
        (view("Healthy", stable=active("m-1.1.0", 100), observedGeneration=2), None),
        (view("RolledBack", stable=active("m-1.0.0", 100), observedGeneration=2), None),
        (read_view({**views.manifest(), "status": {}}), None),
    ],
)
def test_a_release_has_ended_only_for_the_spec_that_the_operator_saw(seen: View, code: ExitCode | None) -> None:
    ending = judge_release(seen)
    assert (ending and ending.code) == code


NONE = "no release is under way"
BACK = "back"
NOWHERE = "no other version was healthy"
TABLE = {
    # situation: objections to Promote (and PromoteFully), Abort, Retry, Rollback
    "healthy": (healthy(), NONE, NONE, "not rejected", NOWHERE),
    "releasing": (releasing(), None, None, "not rejected", NOWHERE),
    "paused": (releasing(spec={"paused": True}), "paused", None, "not rejected", NOWHERE),
    "on its way back": (ON_ITS_WAY, BACK, BACK, None, NOWHERE),
    "rolled back": (rolled_back(), NONE, NONE, None, NOWHERE),
    "rejection lifted": (
        view("Holding", stable=active("m-1.0.0", 100), rejected=[rejected(lifted=True)]),
        NONE,
        NONE,
        "not rejected",
        NOWHERE,
    ),
    "first release": (FIRST, None, "nothing to go back to", "not rejected", NOWHERE),
    "held before it starts": (
        view("OutsideReleaseWindow", stable=active("m-1.0.0", 100), held=held("OutsideReleaseWindow")),
        None,
        NONE,
        "not rejected",
        NOWHERE,
    ),
    "second version": (SECOND, NONE, NONE, "not rejected", None),
    "gone back to the first": (GONE_BACK, NONE, NONE, None, NOWHERE),
    "spec not seen": (view("Healthy", stable=active("m-1.1.0", 100), observedGeneration=2), None, None, None, None),
}


@pytest.mark.parametrize("situation", TABLE)
def test_which_commands_make_sense(situation: str) -> None:
    seen, promotion, abort, retry, rollback = TABLE[situation]
    expected = {
        CommandName.PROMOTE: promotion,
        CommandName.PROMOTE_FULLY: promotion,
        CommandName.ABORT: abort,
        CommandName.RETRY: retry,
        CommandName.ROLLBACK: rollback,
    }
    for command, part in expected.items():
        objection = find_objection(command, seen)
        assert (objection is None) == (part is None), command
        assert part is None or part in str(objection)


def test_every_command_of_the_operator_has_a_rule() -> None:
    assert all(find_objection(command, healthy()) for command in CommandName)


@pytest.mark.parametrize(
    ("last", "annotated", "code"),
    [
        (None, "7", None),
        ({"id": "6", "command": "Abort", "result": "x"}, "7", None),
        ({"id": "7", "command": "Abort", "result": "aborted by ann"}, "7", ExitCode.OK),
        ({"id": "7", "command": "Abort", "result": "aborted by ann"}, "8", ExitCode.OK),
        ({"id": "7", "command": "Abort", "result": "refused: no release is under way"}, "7", ExitCode.REFUSED),
        (None, "8", ExitCode.REFUSED),
    ],
)
def test_what_became_of_command_seven(last: dict[str, str] | None, annotated: str, code: ExitCode | None) -> None:
    text = json.dumps({"id": annotated, "command": "Abort"})
    status = {"lastCommand": last} if last else {}
    answer = find_answer(view(annotations={"tidegate.dev/command": text}, **status), "7")
    assert (answer and answer.code) == code


def test_a_missing_answer_says_what_it_waits_for() -> None:
    unconfirmed = releasing(canary=canary(stepStartedAt=None))
    assert "proxies" in describe_missing_answer(CommandName.PROMOTE, unconfirmed)
    assert "the way back has ended" in describe_missing_answer(CommandName.RETRY, ON_ITS_WAY)
    assert "is it running?" in describe_missing_answer(CommandName.ABORT, releasing())


@pytest.mark.parametrize(
    ("annotation", "is_open"), [(None, False), ("no JSON", False), ("[]", False), ('{"id": "7"}', True)]
)
def test_an_open_command_is_seen(annotation: str | None, is_open: bool) -> None:
    annotations = {"tidegate.dev/command": annotation} if annotation else {}
    assert view(annotations=annotations).has_open_command is is_open


def test_a_status_of_another_release_of_the_operator_is_named() -> None:
    with pytest.raises(Problem, match=r"status\.phase of Deployment m"):
        view(phase="Sublime")


def test_a_spec_of_another_release_costs_the_step_times_only() -> None:
    seen = releasing(spec={"fromTheFuture": 1})
    assert seen.spec is None
    assert seen.step is None
    assert seen.bake is None
    assert judge_release(seen) is None
