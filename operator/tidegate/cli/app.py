"""``tidegate``: the commands and their options; what they decide, draw and wait for is in the modules beside."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from tidegate.api.deployment import CommandName
from tidegate.cli.cluster import Cluster, connect
from tidegate.cli.exits import ExitCode, Problem
from tidegate.cli.explaining import explain as explain_view
from tidegate.cli.following import draw_chain, wait_for_end
from tidegate.cli.following import watch as follow
from tidegate.cli.linting import Linted
from tidegate.cli.linting import lint as lint_files
from tidegate.cli.options import (
    AnswerTimeout,
    Context,
    EndTimeout,
    Files,
    FormerVersion,
    Kubeconfig,
    Name,
    Namespace,
    OptionalName,
    OutputOption,
)
from tidegate.cli.printing import Output, note, show
from tidegate.cli.rendering import render_decisions, render_history, render_overview
from tidegate.cli.steering import give, set_paused
from tidegate.cli.view import Manifest, read_view

__all__ = ["app", "run"]

EXIT_CODES = (
    "Exit codes: 0 done (with --wait: healthy on the version that the spec names),"
    " 1 rolled back or stalled, or a manifest is wrong, 2 wrong use, 3 timed out,"
    " 4 no such Deployment or no access to the cluster, 5 the command makes no sense now."
)

app = typer.Typer(
    name="tidegate",
    help="Watch and steer the releases of models.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and end the process with its exit code."""
    try:
        app(args=arguments)
    except Problem as problem:
        note(problem.message)
        sys.exit(problem.code)
    sys.exit(ExitCode.OK)


@app.command(epilog=EXIT_CODES)
def status(
    deployment: OptionalName = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and show every change.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the release has ended; for CI.")] = False,
    timeout: EndTimeout = timedelta(minutes=30),
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show versions, release, metrics and conditions of a Deployment, or one line for each."""
    if deployment is None and (watch or wait):
        raise typer.BadParameter("--watch and --wait need the name of a Deployment")
    if watch and output is Output.JSON:
        raise typer.BadParameter("--watch draws; use -o json alone or with --wait")
    cluster = connect(kubeconfig, context, namespace)
    if deployment is None:
        found = cluster.list_deployments()
        show(output, {"items": [_shorten(each) for each in found]}, lambda: _overview(found, cluster))
    elif watch:
        follow(cluster, deployment, timeout if wait else None)
    elif wait:
        wait_for_end(cluster, deployment, timeout, output)
    else:
        manifest = cluster.get_deployment(deployment)
        show(output, _shorten(manifest), lambda: draw_chain(cluster, read_view(manifest)))


@app.command(epilog=EXIT_CODES)
def promote(
    deployment: Name,
    *,
    full: Annotated[bool, typer.Option("--full", help="No more steps, no analysis, no bake: 100 % now.")] = False,
    timeout: AnswerTimeout = timedelta(seconds=10),
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """End the step in progress now, whatever its time and its analysis say; with --full all of them."""
    name = CommandName.PROMOTE_FULLY if full else CommandName.PROMOTE
    give(connect(kubeconfig, context, namespace), deployment, name, timeout, output)


@app.command(epilog=EXIT_CODES)
def abort(
    deployment: Name,
    *,
    timeout: AnswerTimeout = timedelta(seconds=10),
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take all traffic back to the stable version; the new one is rejected until the spec changes or you retry."""
    give(connect(kubeconfig, context, namespace), deployment, CommandName.ABORT, timeout, output)


@app.command(epilog=EXIT_CODES)
def retry(
    deployment: Name,
    *,
    timeout: AnswerTimeout = timedelta(seconds=10),
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Try the version that was rolled back or aborted again, from its first step."""
    give(connect(kubeconfig, context, namespace), deployment, CommandName.RETRY, timeout, output)


@app.command(epilog=EXIT_CODES)
def rollback(
    deployment: Name,
    *,
    to: FormerVersion = None,
    timeout: AnswerTimeout = timedelta(seconds=10),
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Go back to a version that was healthy, without steps, until the spec changes or you retry; the spec stays."""
    cluster = connect(kubeconfig, context, namespace)
    give(cluster, deployment, CommandName.ROLLBACK, timeout, output, to=to)


@app.command(epilog=EXIT_CODES)
def pause(
    deployment: Name,
    *,
    timeout: AnswerTimeout = timedelta(seconds=10),
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Hold a release where it is (spec.paused); analysis and rollback go on."""
    set_paused(connect(kubeconfig, context, namespace), deployment, timeout, output, paused=True)


@app.command(epilog=EXIT_CODES)
def resume(
    deployment: Name,
    *,
    timeout: AnswerTimeout = timedelta(seconds=10),
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a paused release go on (spec.paused)."""
    set_paused(connect(kubeconfig, context, namespace), deployment, timeout, output, paused=False)


@app.command(epilog=EXIT_CODES)
def history(
    deployment: Name,
    *,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the releases that ended and the decisions of the operator, newest first."""
    manifest = connect(kubeconfig, context, namespace).get_deployment(deployment)
    view = read_view(manifest)
    document = {key: manifest.get("status", {}).get(key, []) for key in ("history", "decisions")}
    show(output, document, lambda: Group(render_history(view), Text(), render_decisions(view)))


@app.command(epilog=EXIT_CODES)
def explain(
    deployment: Name,
    *,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what a Deployment waits for and why, and what you can do next."""
    view = read_view(connect(kubeconfig, context, namespace).get_deployment(deployment))
    found = explain_view(view, datetime.now(UTC))
    document = {"reason": found.reason, "sentences": found.sentences, "commands": found.commands}
    show(output, document, lambda: Text("\n".join([*found.sentences, *(f"  {each}" for each in found.commands)])))


@app.command(epilog=EXIT_CODES)
def lint(files: Files, *, output: OutputOption = Output.TABLE) -> None:
    """Check manifests before they are applied: fields, values and queries; asks no cluster."""
    found = lint_files(files)
    document = {"objects": found.objects, "findings": [asdict(each) for each in found.findings]}
    show(output, document, lambda: _list(found))
    if found.findings:
        raise typer.Exit(ExitCode.ENDED_BADLY)


def _list(found: Linted) -> RenderableType:
    count, objects = len(found.findings), f"{found.objects} object{'' if found.objects == 1 else 's'}"
    summary = f"{objects}, {count or 'nothing'} to correct"
    return Text("\n".join([*map(str, found.findings), summary]), overflow="ignore", no_wrap=True)


def _overview(found: Sequence[Manifest], cluster: Cluster) -> RenderableType:
    if not found:
        return Text(f"no Deployments in namespace {cluster.namespace}; name another with -n")
    return render_overview([read_view(each) for each in found])


def _shorten(manifest: Manifest) -> dict[str, Any]:
    """Leave out who manages which field, as kubectl does."""
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "managedFields"}
    return {**manifest, "metadata": metadata}
