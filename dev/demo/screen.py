"""The live table in the terminal."""

import time

from rich.console import Group
from rich.table import Table
from rich.text import Text

from dev.demo.recorder import Recording, Sample

COLUMNS = ("version", "share", "requests/s", "failed", "p99", "right moves")


def render(recording: Recording, telling: list[str]) -> Group:
    """Draw the newest sample and the last lines of the story."""
    latest = recording.latest
    table = Table(title=f"Tidegate demo, {time.time() - recording.begin:.0f} s", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "version" else "right")
    for version in _versions(latest) if latest else []:
        table.add_row(version, *_cells(latest, version))
    return Group(table, *(Text(f"  {line}") for line in telling[-8:]))


def _versions(latest: Sample | None) -> list[str]:
    if latest is None:
        return []
    seen = set(latest.weights) | {version for version, rate in latest.series["rate"].items() if rate > 0}
    return sorted(seen)


def _cells(latest: Sample | None, version: str) -> list[str]:
    if latest is None:
        return []
    formats = {"rate": "{:.0f}", "errors": "{:.1%}", "latency": "{:.0f} ms", "accuracy": "{:.1%}"}
    values = [
        text.format(latest.series[name][version]) if version in latest.series[name] else "–"
        for name, text in formats.items()
    ]
    return [f"{latest.weights.get(version, 0):.0f} %", *values]
