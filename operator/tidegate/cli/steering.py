"""Giving a command and waiting until the operator has taken it."""

import uuid
from datetime import UTC, datetime, timedelta

from tidegate.api.base import format_duration
from tidegate.api.deployment import CommandName
from tidegate.cli.cluster import FIELD_MANAGER, Cluster
from tidegate.cli.exits import ExitCode, Problem
from tidegate.cli.printing import Output, end, note
from tidegate.cli.verdicts import OPERATOR_PODS, Ending, describe_missing_answer, find_answer, find_objection
from tidegate.cli.view import View, read_view
from tidegate.cli.waiting import wait_until

__all__ = ["give", "set_paused"]


def give(
    cluster: Cluster, name: str, command: CommandName, timeout: timedelta, output: Output, *, to: str | None = None
) -> None:
    """Write a command down for the operator, once it makes sense, and print what the operator did with it.

    Args:
        cluster: Where the Deployment is.
        name: Name of the Deployment.
        command: What the operator is to do.
        timeout: How long to wait for its answer.
        output: For people or for programs.
        to: The version that a rollback goes back to, where somebody names one.
    """
    view = read_view(cluster.get_deployment(name))
    objection = find_objection(command, view)
    if objection is not None:
        raise Problem(f"{command.value} makes no sense now: {objection}", ExitCode.REFUSED)
    if view.has_open_command:
        note("a command that the operator has not taken yet is replaced by this one")
    order = {
        "id": uuid.uuid4().hex,
        "command": command.value,
        "by": cluster.whoami(),
        "at": datetime.now(UTC).isoformat(),
    }
    if to is not None:
        order["to"] = to
    cluster.give_command(name, order)
    seen = [view]
    answer = wait_until(
        lambda: read_view(cluster.get_deployment(name)),
        lambda now: find_answer(now, order["id"]),
        timeout.total_seconds(),
        show=seen.append,
    )
    end(answer or _not_taken(command, seen[-1], timeout), order, output)


def set_paused(cluster: Cluster, name: str, timeout: timedelta, output: Output, *, paused: bool) -> None:
    """Write ``spec.paused`` and print what the operator makes of it."""
    others = [each for each in read_view(cluster.get_deployment(name)).paused_by if each != FIELD_MANAGER]
    if others:
        note(f"spec.paused was last set by {', '.join(others)}; if that is a GitOps tool, change it in Git, too")
    generation = read_view(cluster.set_paused(name, paused=paused)).generation

    def find_status(view: View) -> View | None:
        return view if (view.status.observed_generation or 0) >= generation else None

    seen = wait_until(lambda: read_view(cluster.get_deployment(name)), find_status, timeout.total_seconds())
    did = f"spec.paused of {name} is {str(paused).lower()}"
    late = f"{did}; the operator has not seen it within {format_duration(timeout)}; is it running? {OPERATOR_PODS}"
    ending = Ending(ExitCode.OK, f"{did}: {seen.status.message}") if seen else Ending(ExitCode.TIMED_OUT, late)
    end(ending, {"deployment": name, "paused": paused}, output)


def _not_taken(command: CommandName, view: View, timeout: timedelta) -> Ending:
    why = describe_missing_answer(command, view)
    return Ending(ExitCode.TIMED_OUT, f"{command.value}: not taken within {format_duration(timeout)}; {why}")
