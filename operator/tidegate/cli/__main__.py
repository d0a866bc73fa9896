"""Starts the program: ``tidegate``, ``kubectl tidegate`` or ``python -m tidegate.cli``."""

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and end the process with its exit code."""
    try:
        from tidegate.cli import app
    except ModuleNotFoundError as error:
        if error.name not in ("rich", "typer"):
            raise
        sys.exit(f"{error.name} is missing; install the commands with: pip install 'tidegate[cli]'")
    app.run(arguments)


if __name__ == "__main__":
    main()
