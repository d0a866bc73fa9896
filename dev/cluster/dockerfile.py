"""Reads from a Dockerfile what a build of one of its targets depends on."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

FROM = re.compile(r"FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE)
STAGE_USE = re.compile(r"(?:--from=|[,=]from=)([^\s,]+)")
BIND_SOURCE = re.compile(r"--mount=(?=\S*type=bind)(?!\S*from=)\S*?(?:source|src)=([^\s,]+)")


@dataclass(frozen=True, slots=True)
class Stage:
    """One `FROM` and the instructions that follow it."""

    name: str
    parent: str
    instructions: tuple[str, ...]


def split_instructions(text: str) -> list[str]:
    """Instructions on one line each, without comments and continuation marks."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\s*\n", " ", "\n".join(lines))
    return [line.strip() for line in joined.splitlines() if line.strip()]


def parse_stages(text: str) -> tuple[list[str], list[Stage]]:
    """The instructions before the first `FROM`, and the stages."""
    preamble: list[str] = []
    stages: list[Stage] = []
    for instruction in split_instructions(text):
        start = FROM.match(instruction)
        if start:
            name = start.group(2) or str(len(stages))
            stages.append(Stage(name, start.group(1), (instruction,)))
        elif stages:
            last = stages.pop()
            stages.append(Stage(last.name, last.parent, (*last.instructions, instruction)))
        else:
            preamble.append(instruction)
    return preamble, stages


def find_needed(text: str, target: str = "") -> list[str]:
    """The instructions that take part in building a target: its stage and those it is made from."""
    preamble, stages = parse_stages(text)
    by_name = {stage.name: stage for stage in stages}
    last = stages[-1].name if stages else ""
    needed: set[str] = set()
    waiting = [target or last]
    while waiting:
        name = waiting.pop()
        if name in by_name and name not in needed:
            needed.add(name)
            waiting += _used_stages(by_name[name])
    chosen = [line for stage in stages if stage.name in needed for line in stage.instructions]
    return preamble + chosen


def _used_stages(stage: Stage) -> list[str]:
    return [stage.parent, *(name for line in stage.instructions for name in STAGE_USE.findall(line))]


def find_sources(instructions: list[str]) -> list[str]:
    """Paths of the build context that the instructions read, relative to its root."""
    found: list[str] = []
    for instruction in instructions:
        word, _, rest = instruction.partition(" ")
        if word.upper() in {"COPY", "ADD"} and "--from=" not in rest:
            found += _copied(rest)
        elif word.upper() == "RUN":
            found += BIND_SOURCE.findall(rest)
    return [_normalize(path) for path in found]


def _copied(rest: str) -> list[str]:
    words = rest.split()
    while words and words[0].startswith("--"):
        words.pop(0)
    if words and words[0].startswith("["):
        words = json.loads(" ".join(words))
    return [word for word in words[:-1] if "://" not in word]


def _normalize(path: str) -> str:
    """Make a path relative; one with a variable in it may be anything, so it stands for everything."""
    if "$" in path:
        return "."
    return str(PurePosixPath(path.lstrip("/") or "."))
