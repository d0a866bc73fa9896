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
        missing = (error.name or "").partition(".")[0]
        if missing not in ("rich", "typer"):
            raise
        sys.exit(f"{missing} is missing; in a checkout of Tidegate: pip install '.[cli]'")
    app.run(arguments)


if __name__ == "__main__":
    main()
