"""What is wrong with manifests, found without a cluster: fields and values, trainer settings, time zones and queries.

Rules across several fields, and what must not change, are the API server's to check: they are written in its own
language, and ``kubectl apply --dry-run=server`` asks it.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tidegate.api.base import GROUP, VERSION
from tidegate.api.crd import KINDS
from tidegate.api.deployment import Deployment
from tidegate.api.schema import build_schema
from tidegate.api.training_job import TrainingJob
from tidegate.cli.exits import ExitCode, Problem
from tidegate.domain.promql import find_fault
from tidegate.domain.trainer_config import explain_config
from tidegate.domain.windows import find_unknown_zone

__all__ = ["Finding", "Linted", "lint"]

KIND_NAMES = [each.name for each in KINDS]
MODELS = {each.name: each.model for each in KINDS}
SUFFIXES = (".yaml", ".yml", ".json")
STANDARD_INPUT = Path("-")

Place = tuple[str | int, ...]
"""Names of fields and numbers of items, from the top of an object."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to correct."""

    file: str
    line: int
    """From 1: of the field, or of what it is missing in."""
    object: str
    """Kind and name; empty where the text is no YAML."""
    field: str
    """As the API server writes it, for example ``spec.analysis.metrics[0].query``."""
    message: str
    """What is wrong, and what to write."""

    def __str__(self) -> str:
        about = ": ".join(each for each in (self.object, self.field, self.message) if each)
        return f"{self.file}:{self.line}: {about}"


@dataclass(frozen=True, slots=True)
class Linted:
    """What came of all files."""

    objects: int
    """Objects of this project that were looked at; those of others are not."""
    findings: tuple[Finding, ...]


def lint(paths: Sequence[Path]) -> Linted:
    """Look at all objects in these files; a folder stands for those in it, and ``-`` for the standard input.

    Raises:
        Problem: A file cannot be read, or a folder has none.
    """
    objects, findings = 0, list[Finding]()
    for path, text in _read(paths):
        try:
            for node, document in _parse(text):
                if _is_own(document):
                    objects += 1
                    findings += _check(path, node, document)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            said = getattr(error, "problem", None) or str(error)
            findings.append(Finding(path, mark.line + 1 if mark else 1, "", "", f"this is no YAML: {said}"))
    return Linted(objects, tuple(findings))


def _read(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        if path == STANDARD_INPUT:
            yield "stdin", sys.stdin.read()
            continue
        try:
            found = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES) if path.is_dir() else [path]
            if not found:
                raise Problem(f"{path} has no {', '.join(SUFFIXES)}", ExitCode.USAGE)
            yield from ((str(each), each.read_text()) for each in found)
        except (OSError, UnicodeDecodeError) as error:
            raise Problem(f"{path} cannot be read: {error}", ExitCode.USAGE) from error


def _parse(text: str) -> Iterator[tuple[yaml.Node, Any]]:
    """Return the documents, each with the nodes that know its lines."""
    loader = yaml.SafeLoader(text)
    while loader.check_node():
        node = loader.get_node()
        if node is not None:
            yield node, loader.construct_document(node)


def _is_own(document: Any) -> bool:
    return isinstance(document, dict) and str(document.get("apiVersion")).partition("/")[0] == GROUP


def _check(file: str, node: yaml.Node, document: Mapping[str, Any]) -> Iterator[Finding]:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    about = f"{document.get('kind')}/{name or '?'}"
    for place, message in _find(document):
        yield Finding(file, _line(node, place), about, _path(place), message)


def _find(document: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    kind, version = str(document.get("kind")), f"{GROUP}/{VERSION}"
    if document["apiVersion"] != version:
        yield ("apiVersion",), f"write {version}"
    if kind not in MODELS:
        yield ("kind",), f"there is no such kind{_suggest(kind, KIND_NAMES)}; there are {', '.join(KIND_NAMES)}"
        return
    written = {key: value for key, value in _without_nulls(document).items() if key != "status"}
    try:
        # Strict, as the API server is: "2" is no number, and no field has a second name.
        found = MODELS[kind].model_validate_json(json.dumps(written, default=str), strict=True, by_name=False)
    except ValidationError as error:
        yield from _explain(kind, error.errors(include_url=False))
    else:
        yield from _find_unknown_names(found)
    yield from _find_bad_queries(written)


def _explain(kind: str, errors: Sequence[ErrorDetails]) -> Iterator[tuple[Place, str]]:
    places = [each["loc"] for each in errors]
    for each in errors:
        place = each["loc"]
        # A list whose items are wrong counts as empty: that follows from the others.
        if each["type"] == "too_short" and any(other[: len(place)] == place != other for other in places):
            continue
        yield place, _reword(kind, each)


def _reword(kind: str, error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return "is required"
    if error["type"] == "extra_forbidden":
        *parents, name = error["loc"]
        return f"there is no such field{_suggest(str(name), _fields(kind, parents))}"
    return error["msg"].removeprefix("Value error, ")


def _fields(kind: str, place: Sequence[str | int]) -> list[str]:
    schema = build_schema(MODELS[kind])
    for part in place:
        schema = schema.get("items", {}) if isinstance(part, int) else schema.get("properties", {}).get(part, {})
    return list(schema.get("properties", {}))


def _suggest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _find_unknown_names(found: object) -> Iterator[tuple[Place, str]]:
    """Find what the operator would say after the API server accepted it."""
    if isinstance(found, TrainingJob) and found.spec.trainer.algorithm is not None:
        for fault in explain_config(found.spec.trainer.algorithm, found.spec.trainer.config):
            path, _, said = fault.partition(": ")
            yield tuple(path.split(".")), said
    if isinstance(found, Deployment):
        zone = find_unknown_zone(found.spec.release_windows)
        if zone is not None:
            yield ("spec", "releaseWindows"), f"there is no time zone {zone}; write a name such as Europe/Berlin"


def _find_bad_queries(written: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Find queries that cannot be asked, also beside other faults."""
    metrics: Any = written
    for part in ("spec", "analysis", "metrics"):
        metrics = metrics.get(part) if isinstance(metrics, dict) else None
    for number, metric in enumerate(metrics if isinstance(metrics, list) else ()):
        query = metric.get("query") if isinstance(metric, dict) else None
        fault = find_fault(query) if isinstance(query, str) else None
        if fault is not None:
            yield ("spec", "analysis", "metrics", number, "query"), f"cannot be asked: {fault}"


def _without_nulls(value: Any) -> Any:
    """Drop what the API server takes as not written."""
    if isinstance(value, dict):
        return {str(key): _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _path(place: Place) -> str:
    """Write a place as the API server does.

    >>> _path(("spec", "steps", 0, "gate"))
    'spec.steps[0].gate'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _line(node: yaml.Node, place: Place) -> int:
    """Return the line of a field, from 1; that of what it is missing in, if it is not there."""
    line = node.start_mark.line
    for part in place:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line
            continue
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        found = next(((key, value) for key, value in pairs if key.value == part), None)
        if found is None:
            break
        line, node = found[0].start_mark.line, found[1]
    return int(line) + 1
