"""`python -m tidegate_trainer`: train as the document says. `… check`: only look at the document, without torch."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from tidegate_trainer.runner import check, run
from tidegate_trainer.settings import read_settings
from tidegate_trainer.training import StopSignal


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tidegate_trainer", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", "check"), default="run")
    command = parser.parse_args(arguments).command
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Waiting threads must not spin: a pod with a CPU limit, or beside others, pays for it several times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings = read_settings(os.environ)
    if command == "check":
        return check(settings)
    stop = StopSignal()
    stop.listen()
    return run(settings, stop)


if __name__ == "__main__":
    sys.exit(main())
