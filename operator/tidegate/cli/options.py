"""The options that the commands share."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate.api.base import parse_duration
from tidegate.cli.cluster import Cluster, connect
from tidegate.cli.exits import Problem
from tidegate.cli.printing import Output
from tidegate.cli.view import read_view
from tidegate.domain.rollback import healthy_versions

__all__ = [
    "AnswerTimeout",
    "Context",
    "EndTimeout",
    "Files",
    "FormerVersion",
    "Kubeconfig",
    "Name",
    "Namespace",
    "OptionalName",
    "OutputOption",
]

KINDS = ("deployment", "deployments", "deployments.tidegate.dev", "mdep")


def _read_name(text: str) -> str:
    """Read ``connect4`` or ``deployment/connect4``."""
    kind, slash, name = text.rpartition("/")
    if slash and kind not in KINDS:
        raise typer.BadParameter(f"{kind} is no Deployment; write NAME or deployment/NAME")
    return name


def _read_duration(text: str | timedelta) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _complete(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the names of the Deployments."""
    return _offer(ctx, incomplete, lambda cluster: [each["metadata"]["name"] for each in cluster.list_deployments()])


def _complete_version(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offer the versions that were healthy."""

    def find(cluster: Cluster) -> list[str]:
        status = read_view(cluster.get_deployment(ctx.params.get("deployment") or "")).status
        return [each.model_version for each in healthy_versions(status)]

    return _offer(ctx, incomplete, find)


def _offer(ctx: typer.Context, incomplete: str, find: Callable[[Cluster], list[str]]) -> list[str]:
    """Return what begins like that; nothing where the cluster cannot be asked."""
    given = ctx.params
    try:
        names = find(connect(given.get("kubeconfig"), given.get("context"), given.get("namespace")))
    except Problem:
        return []
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


Name = Annotated[
    str,
    typer.Argument(metavar="DEPLOYMENT", help="Its name.", parser=_read_name, autocompletion=_complete),
]
OptionalName = Annotated[
    str | None,
    typer.Argument(
        metavar="DEPLOYMENT",
        help="Its name; without it all of the namespace.",
        parser=_read_name,
        autocompletion=_complete,
    ),
]
FormerVersion = Annotated[
    str | None,
    typer.Option(
        metavar="VERSION",
        help="The ModelVersion to go back to; without it the newest healthy one before.",
        autocompletion=_complete_version,
    ),
]
Files = Annotated[
    list[Path],
    typer.Option("-f", "--filename", help="A file, a folder, or - for the standard input; may be given again."),
]
Namespace = Annotated[
    str | None, typer.Option("-n", "--namespace", help="Namespace; without it the one of the context.")
]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig; without it the current one.")]
Kubeconfig = Annotated[
    Path | None, typer.Option(dir_okay=False, help="The kubeconfig; without it KUBECONFIG or ~/.kube/config.")
]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="For people or for programs.")]


def _duration_option(help_text: str) -> Any:
    return typer.Option(metavar="DURATION", parser=_read_duration, show_default=False, help=help_text)


EndTimeout = Annotated[timedelta, _duration_option("How long --wait waits, for example 5m or 1h30m; 30m without it.")]
AnswerTimeout = Annotated[
    timedelta, _duration_option("How long to wait for the operator's answer, for example 1m; 10s without it.")
]
