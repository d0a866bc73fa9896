"""Staying with a release: every change as a line for logs, or drawn live on a terminal."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from rich.console import Console, RenderableType
from rich.live import Live

from tidegate.api.base import format_duration
from tidegate.cli.cluster import Cluster
from tidegate.cli.exits import ExitCode
from tidegate.cli.printing import Output, end, make_console
from tidegate.cli.rendering import render_chain, render_line
from tidegate.cli.verdicts import Ending, judge_release
from tidegate.cli.view import View, read_version, read_view
from tidegate.cli.waiting import wait_until

__all__ = ["draw_chain", "wait_for_end", "watch"]


def draw_chain(cluster: Cluster, view: View) -> RenderableType:
    """Draw a Deployment together with the versions of its model."""
    versions = [read_version(each) for each in cluster.list_model_versions()]
    return render_chain(view, versions, datetime.now(UTC))


def watch(cluster: Cluster, name: str, timeout: timedelta | None) -> None:
    """Show every change: until the release has ended, or for ever without a time-out."""
    console = make_console()
    if not console.is_terminal:
        _follow(cluster, name, timeout, _Lines(console))
        return
    with Live(console=console, auto_refresh=False) as live:
        _follow(cluster, name, timeout, lambda view: live.update(draw_chain(cluster, view), refresh=True))


def wait_for_end(cluster: Cluster, name: str, timeout: timedelta, output: Output) -> None:
    """Tell each change in a line, for the log of a pipeline, until the release has ended."""
    show = _Lines(make_console()) if output is Output.TABLE else _show_nothing
    _follow(cluster, name, timeout, show, output)


def _follow(
    cluster: Cluster,
    name: str,
    timeout: timedelta | None,
    show: Callable[[View], object],
    output: Output = Output.TABLE,
) -> None:
    ending = wait_until(
        lambda: read_view(cluster.get_deployment(name)),
        lambda view: judge_release(view) if timeout is not None else None,
        float("inf") if timeout is None else timeout.total_seconds(),
        show=show,
    )
    end(ending or _late(cluster, name, timeout or timedelta()), {"deployment": name}, output)


def _late(cluster: Cluster, name: str, timeout: timedelta) -> Ending:
    after = format_duration(timeout)
    message = f"the release of {name} has not ended within {after}; why: tidegate explain {name} -n {cluster.namespace}"
    return Ending(ExitCode.TIMED_OUT, message)


class _Lines:
    """Prints a line whenever the operator's sentence changes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""

    def __call__(self, view: View) -> None:
        now = datetime.now(UTC)
        line = render_line(view, now)
        if (told := f"{view.is_seen} {view.status.message}") != self._last:
            self._console.print(line, highlight=False, markup=False)
        self._last = told


def _show_nothing(view: View) -> None:
    """Programs want the end only."""
