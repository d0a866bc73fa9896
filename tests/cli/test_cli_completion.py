"""What the shell offers for the version to go back to."""

from pathlib import Path
from typing import Any

import click
import pytest
import typer

from tests.cli.views import active, manifest, promoted
from tidegate.cli import options
from tidegate.cli.exits import ExitCode, Problem


class OneDeployment:
    """A cluster with the Deployment m on its second version."""

    def get_deployment(self, name: str) -> dict[str, Any]:
        if name != "m":
            raise Problem("there is none", ExitCode.NO_ACCESS)
        return manifest(stable=active("m-1.1.0", 100), history=[promoted("m-1.1.0"), promoted("m-1.0.0")])


@pytest.mark.parametrize(
    ("deployment", "incomplete", "offered"),
    [("m", "", ["m-1.0.0"]), ("m", "m-1.0", ["m-1.0.0"]), ("m", "x", []), ("other", "", []), (None, "", [])],
)
def test_former_healthy_versions_are_offered(
    monkeypatch: pytest.MonkeyPatch, deployment: str | None, incomplete: str, offered: list[str]
) -> None:
    def connect(kubeconfig: Path | None, context: str | None, namespace: str | None) -> OneDeployment:
        return OneDeployment()

    monkeypatch.setattr(options, "connect", connect)
    context = typer.Context(click.Command("rollback"))
    context.params = {"deployment": deployment}
    assert options._complete_version(context, incomplete) == offered
