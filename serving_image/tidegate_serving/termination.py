"""The termination message: how a container that ends tells the operator why, without a connection."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["LIMIT", "shorten", "write_termination"]

LIMIT = 4096
"""Kubernetes keeps this many bytes."""
DEFAULT_LOG = "/dev/termination-log"


def shorten(text: str, limit: int) -> str:
    """The text with its middle left out where it is too long: what happened stands first and the remedy last."""
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    return f"{text[:head]} … {text[len(text) - (limit - head - 3) :]}"


def write_termination(message: str, environment: Mapping[str, str], quiet: bool = False) -> None:
    """Write the message where the kubelet reads it, and unless `quiet` to the log for people.

    A missing or unwritable file is no reason to fail: outside a pod there is none.
    """
    if not quiet:
        print(message, file=sys.stderr, flush=True)
    try:
        Path(environment.get("TIDEGATE_TERMINATION_LOG", DEFAULT_LOG)).write_text(message)
    except OSError as error:
        print(f"cannot write the termination message: {error}", file=sys.stderr)
