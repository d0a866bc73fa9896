"""A Deployment as trees and tables. Pure: from views and a time to what rich prints."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from tidegate.api.base import format_duration
from tidegate.api.deployment import ActiveCanary, ActiveStable, Decision, DeploymentPhase, MetricResult, Verdict
from tidegate.cli.view import Version, View
from tidegate.domain.steps import ReleaseStep

__all__ = ["describe_canary", "render_chain", "render_decisions", "render_history", "render_line", "render_overview"]

MAX_VERSIONS = 6
SAID = ("command", "id")
"""Evidence that the message says already, or that is for programs."""
PHASE_STYLES = {
    DeploymentPhase.PROGRESSING: "cyan",
    DeploymentPhase.PAUSED: "yellow",
    DeploymentPhase.HEALTHY: "green",
    DeploymentPhase.ROLLED_BACK: "red",
    DeploymentPhase.DEGRADED: "red",
}
VERDICT_STYLES = {
    Verdict.PASS: "green",
    Verdict.FAIL: "red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.NO_DATA: "yellow",
    Verdict.ERROR: "magenta",
}


def render_overview(views: Sequence[View]) -> RenderableType:
    """Show all Deployments of a namespace, one line each."""
    table = _table("deployment", "phase", "asked for", "stable", "canary", "message")
    for view in views:
        status = view.status
        canary = f"{status.canary.model_version} {_canary_share(status.canary)}" if status.canary else ""
        stable = status.stable.model_version if status.stable else ""
        table.add_row(view.name, _phase(view), view.asked_for, stable, canary, _message(view))
    return table


def render_chain(view: View, versions: Sequence[Version], now: datetime) -> RenderableType:
    """Show one Deployment from its versions to the last metric."""
    tree = Tree(Text.assemble((view.name, "bold"), f" ({view.namespace})  ", _phase(view)))
    tree.add(Text(_message(view)))
    _add(tree, "versions", _versions(view, versions))
    _add(tree, "release", _release(view, now))
    _add(tree, "metrics", _metrics(view.status.analysis))
    _add(tree, "conditions", _conditions(view, now))
    return tree


def render_history(view: View) -> RenderableType:
    """Show the releases that ended, newest first."""
    table = _table("ended", "version", "outcome", "reason", "before", "took")
    for each in view.status.history:
        took = format_duration(each.at - each.started_at) if each.started_at else ""
        outcome = Text(each.outcome.value, "green" if each.outcome == "Promoted" else "yellow")
        table.add_row(_time(each.at), each.model_version, outcome, each.reason, each.from_ or "", took)
    return table


def render_decisions(view: View) -> RenderableType:
    """Show what the operator decided, newest first, with the numbers behind it."""
    table = _table("at", "action", "version", "share", "reason", "why")
    for each in view.status.decisions:
        evidence = ", ".join(f"{name} {value}" for name, value in each.evidence.items() if name not in SAID)
        why = f"{each.message} ({evidence})" if evidence else each.message
        table.add_row(_time(each.at), each.action, each.model_version or "", _share(each), each.reason, why)
    return table


def render_line(view: View, now: datetime) -> str:
    """Show where a release is, in one line for logs."""
    return f"{_time(now)}  {view.status.phase.value:<11}  {_message(view)}"


def describe_canary(view: View, canary: ActiveCanary, now: datetime) -> str:
    """Say where a canary is: step, time in it, or the way back."""
    if canary.retreat is not None:
        return f"on its way back: {canary.retreat.reason}"
    if canary.baking_since is not None:
        return f"watched at 100 %, {_elapsed(canary.baking_since, now, view.bake)}"
    step = f"step {canary.step} of {canary.steps}"
    if canary.step_started_at is None:
        copies = view.step.mirror if view.step else 0
        return f"{step}, on its way to " + (f"copies of {copies:g} %" if copies else f"{canary.target_percent:g} %")
    if view.step is None:
        return f"{step}, {_elapsed(canary.step_started_at, now, None)}"
    return f"{step}, {_elapsed(canary.step_started_at, now, view.step.hold)}{_wait(view.step)}"


def _wait(step: ReleaseStep) -> str:
    """Say what a step waits for, unless it is time."""
    if step.pause:
        return ", waits for a person"
    if step.gate is not None:
        return ", waits for its gate"
    return ", waits for measurements" if step.analysis is not None else ""


def _versions(view: View, versions: Sequence[Version]) -> Table:
    """Show the newest versions of the model, and those in use however old they are."""
    model = next((each.model for each in versions if each.name == view.asked_for), None)
    in_use = {name for name, _ in _roles(view)}
    related = [each for each in versions if each.model == model or each.name in in_use]
    shown = [each for place, each in enumerate(related) if place < MAX_VERSIONS or each.name in in_use]
    grid = _grid()
    for each in shown:
        roles = ", ".join(role for name, role in _roles(view) if name == each.name)
        stage = "" if each.stage == "None" else each.stage
        problem = "" if each.status.phase == "Ready" else each.status.message
        grid.add_row(each.name, each.status.phase.value, stage, roles, problem)
    if len(shown) < len(related):
        grid.add_row(f"and {len(related) - len(shown)} older")
    return grid


def _roles(view: View) -> Iterable[tuple[str, str]]:
    status = view.status
    yield view.asked_for, "asked for"
    if status.stable:
        yield status.stable.model_version, "stable"
    if status.canary:
        yield status.canary.model_version, "canary"
    if status.experiment:
        yield status.experiment.model_version, f"ABTest {status.experiment.test}"
    yield from ((each.model_version, f"rejected: {each.reason}") for each in status.rejected if not each.lifted)


def _release(view: View, now: datetime) -> Table:
    grid = _grid()
    status = view.status
    if status.stable:
        grid.add_row("stable", *_active(status.stable))
    if status.canary:
        grid.add_row("canary", *_active(status.canary), describe_canary(view, status.canary, now))
    if status.experiment:
        pods = _pods(status.experiment.ready_replicas)
        grid.add_row("test", status.experiment.model_version, f"{status.experiment.percent:g} %", pods)
    for each in status.draining:
        grid.add_row("draining", each.model_version, "0 %")
    return grid


def _active(active: ActiveStable | ActiveCanary) -> tuple[str, str, str]:
    share = _canary_share(active) if isinstance(active, ActiveCanary) else f"{active.percent:g} %"
    return active.model_version, share, _pods(active.ready_replicas)


def _canary_share(canary: ActiveCanary) -> str:
    copies = f", copies of {canary.mirror_percent:g} %" if canary.mirror_percent else ""
    return f"{canary.percent:g} %{copies}"


def _pods(count: int) -> str:
    return f"{count} {'pod' if count == 1 else 'pods'} ready"


def _metrics(results: Sequence[MetricResult]) -> Table:
    grid = _grid()
    for each in results:
        verdict = Text(each.verdict.value, VERDICT_STYLES[each.verdict])
        value = "" if each.value is None else f"{each.value:.4g}"
        samples = "" if each.samples is None else f"{each.samples} samples"
        dry = "dry run" if each.dry_run else ""
        grid.add_row(each.name, verdict, value, samples, each.message, dry)
    return grid


def _conditions(view: View, now: datetime) -> Table:
    grid = _grid()
    for each in view.status.conditions:
        bad = (each.type == "Ready" and each.status == "False") or (each.type == "Stalled" and each.status == "True")
        since = f"for {format_duration(now - each.last_transition_time)}"
        grid.add_row(each.type, Text(each.status.value, "yellow" if bad else ""), each.reason, since)
    return grid


def _add(tree: Tree, title: str, grid: Table) -> None:
    if grid.row_count:
        tree.add(Text(title, "bold")).add(grid)


def _phase(view: View) -> Text:
    return Text(view.status.phase.value, PHASE_STYLES[view.status.phase])


def _message(view: View) -> str:
    """Return the operator's sentence, with a word of warning where it is about a former spec."""
    if view.is_seen:
        return view.status.message
    return f"the operator has not seen the last change of the spec yet; before it: {view.status.message or 'nothing'}"


def _elapsed(since: datetime, now: datetime, limit: timedelta | None) -> str:
    passed = format_duration(max(now - since, timedelta()))
    return f"for {passed} of {format_duration(limit)}" if limit else f"for {passed}"


def _share(decision: Decision) -> str:
    if decision.from_ is None or decision.to is None:
        return ""
    return f"{decision.from_:g} → {decision.to:g} %"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _grid() -> Table:
    return Table.grid(padding=(0, 2, 0, 0))
