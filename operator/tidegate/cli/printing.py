"""How commands print: tables or JSON, colours only on a terminal, and the exit code that belongs to an ending."""

import json
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, NoReturn

import typer
from rich.console import Console, RenderableType

from tidegate.cli.exits import ExitCode, Problem
from tidegate.cli.verdicts import Ending

__all__ = ["Output", "end", "make_console", "note", "show"]

PIPE_WIDTH = 10_000
"""Lines for programs and files are not broken."""


class Output(StrEnum):
    """What is printed."""

    TABLE = "table"
    JSON = "json"


def show(output: Output, document: Mapping[str, Any], draw: Callable[[], RenderableType]) -> None:
    """Print the document for programs, or the drawing for people."""
    if output is Output.JSON:
        print(json.dumps(document, indent=2))
    else:
        make_console().print(draw())


def end(ending: Ending, document: Mapping[str, Any], output: Output) -> NoReturn:
    """Print how it ended and leave with its code."""
    if output is Output.JSON:
        print(json.dumps({**document, "exitCode": int(ending.code), "message": ending.message}, indent=2))
    elif ending.code is ExitCode.OK:
        print(ending.message)
    else:
        raise Problem(ending.message, ending.code)
    raise typer.Exit(ending.code)


def note(text: str) -> None:
    """Tell people something beside the result."""
    print(f"tidegate: {text}", file=sys.stderr)


def make_console() -> Console:
    """Return a console as wide as the terminal, or one that breaks no line."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
