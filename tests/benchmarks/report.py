"""Tables of figures, in the terminal and in ``docs/benchmarks.md``."""

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


@dataclass(frozen=True, slots=True)
class Table:
    """What one benchmark measured."""

    name: str
    """Name of the benchmark: ``python -m tests.benchmarks NAME`` measures it again."""
    title: str
    about: str
    """What is measured, from when to when, and what stands beside it."""
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_markdown(self) -> str:
        """Return the table with its title, the command and the text about it."""
        lines = [f"## {self.title}", "", f"`python -m tests.benchmarks {self.name}`", "", self.about, ""]
        lines += [_row(self.columns), _row(["---"] * len(self.columns)), *map(_row, self.rows)]
        return "\n".join(lines)


def describe_machine() -> str:
    """Return date, processor count, memory and kernel."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"Linux {platform.release().split('-')[0]}"
    return f"{datetime.now(UTC):%Y-%m-%d} · {os.cpu_count()} cores · {memory:.0f} GiB · {system}"


def replace_section(page: str, table: Table, measured: str) -> str:
    """Return the page with the section of the table written anew, or added at the end."""
    begin, end = f"<!-- {table.name} -->", f"<!-- /{table.name} -->"
    section = f"{begin}\n{table.to_markdown()}\n\nMeasured: {measured}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if pattern.search(page):
        return pattern.sub(lambda _: section, page)
    return f"{page.rstrip()}\n\n{section}\n"


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest measured value that is not less than `share` of all."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def milliseconds(seconds: float) -> str:
    """Write a short time."""
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
