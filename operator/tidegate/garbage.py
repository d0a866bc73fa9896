"""How often the process looks for reference cycles. Called once, after the imports."""

import gc

__all__ = ["collect_seldom"]

CONTAINERS = 20_000
"""New containers between two looks at the youngest; Python's own 700 are less than one object of the API server."""


def collect_seldom() -> None:
    """Look for reference cycles seldom, and not among what was imported.

    Objects of the API server are many nested containers and no cycles: with Python's defaults a third of the time in
    which they are decoded and kept goes into looking at them.
    """
    gc.freeze()
    gc.set_threshold(CONTAINERS)
