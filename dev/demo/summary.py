"""What happened, when, and how many requests it cost."""

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dev.demo.recorder import Recording


@dataclass(frozen=True, slots=True)
class Closing:
    """How the gate closed on one version."""

    version: str
    seconds_to_zero: float
    """From the first second with traffic, whose answers are the first bad ones, to the confirmed weight 0."""
    reason: str


def closings(recording: Recording) -> list[Closing]:
    """Find each rollback: when the version first had traffic, and when its share was confirmed to be 0."""
    found = []
    for decision in recording.decisions.values():
        if decision["action"] != "RollBack":
            continue
        version = decision.get("modelVersion") or ""
        begin = next((s.at for s in recording.samples if s.weights.get(version, 0) > 0), None)
        end = next((s.at for s in recording.samples if begin and s.at > begin and not s.weights.get(version)), None)
        if begin is not None and end is not None:
            found.append(Closing(version, end - begin, decision.get("message") or decision["reason"]))
    return found


def show(recording: Recording, telling: list[str], console: Console) -> None:
    """Print the story, the requests by version and the closings of the gate."""
    console.rule("What happened")
    for line in telling:
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    latest = recording.latest
    requests = latest.series["requests"] if latest else {}
    failed = latest.series["failed"] if latest else {}
    table = Table(title="Requests by the version that answered", title_justify="left")
    for column in ("version", "requests", "failed"):
        table.add_column(column, justify="left" if column == "version" else "right")
    for version in sorted(requests):
        table.add_row(version, f"{requests[version]:.0f}", f"{failed.get(version, 0):.0f}")
    table.add_row("all", f"{sum(requests.values()):.0f}", f"{sum(failed.values()):.0f}", style="bold")
    console.print(table)
    gate = Table(title="The gate", title_justify="left")
    for column in ("version", "first traffic to weight 0", "why"):
        gate.add_column(column)
    for closing in closings(recording):
        gate.add_row(closing.version, f"{closing.seconds_to_zero:.0f} s", closing.reason)
    console.print(gate)


def save(recording: Recording, telling: list[str], path: Path) -> None:
    """Write the recording as JSON, so that the picture can be drawn anew and tests can read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "story": telling,
        "decisions": list(recording.decisions.values()),
        "samples": [{"at": s.at, "weights": s.weights, **s.series} for s in recording.samples],
    }
    path.write_text(json.dumps(document, indent=1))
