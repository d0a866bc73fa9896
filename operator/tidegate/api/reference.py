"""``python -m tidegate.api.reference [--check]``: writes the reference page of every kind into ``docs/reference/``.

Fields, defaults and rules come from the models; what a person wants to read first is written by hand in
``docs/reference/intro/``. ``--check`` writes nothing and fails when a page is not what it would write.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tidegate.api.crd import KINDS, REPOSITORY, KindInfo, find_part, run
from tidegate.api.rules import RULES, JsonSchema
from tidegate.api.schema import build_schema

__all__ = ["render_page", "render_pages"]

FOLDER = REPOSITORY / "docs/reference"
CONDITIONS = {
    "Ready": "The object is what its specification asks for: see the first lines of this page.",
    "Reconciling": "The operator is at work or waits for something that comes by itself; the message says for what.",
    "Stalled": "Only a person can mend it; the message says what to do. It is tried again when the object changes.",
    "Complete": "The training ended well, and its ModelVersion exists.",
    "Failed": "The training ended without a ModelVersion; reason and message say why and what to do.",
    "Suspended": "The training is suspended; its state is saved and its resources are given back.",
}
Row = tuple[str, JsonSchema, bool]
"""Path, schema, and whether the field has to be written."""


def render_pages() -> dict[Path, str]:
    """Make the text of every page, by its path."""
    pages = {FOLDER / f"{kind.name.lower()}.md": render_page(kind) for kind in KINDS}
    return pages | {FOLDER / "README.md": _render_index()}


def render_page(kind: KindInfo) -> str:
    """Make the page of one kind."""
    spec = build_schema(find_part(kind, "spec"), every_default=True)
    status = build_schema(find_part(kind, "status"), status=True)
    intro = (FOLDER / "intro" / f"{kind.name.lower()}.md").read_text().strip()
    sections = [
        f"# {kind.name}",
        "<!-- Written by `make generate` from operator/tidegate/api and docs/reference/intro; change those. -->",
        intro,
        f"`kubectl get {kind.short}` · `kubectl explain {kind.plural}.spec --api-version=tidegate.dev/v1alpha1`",
        "## Specification",
        _render_table(("field", "type", "default", "what it is"), map(_spec_cells, _walk(spec))),
        "## Rules",
        "The API server refuses an object that breaks one of these, and says so in these words.",
        _render_rules(kind, spec),
        "## Status",
        _render_table(("field", "type", "what it is"), map(_status_cells, _walk(status))),
        "## Conditions",
        _render_table(("condition", "when it is True"), _conditions(status)),
    ]
    return "\n\n".join(sections) + "\n"


def _render_index() -> str:
    rows = [
        (f"[{kind.name}]({kind.name.lower()}.md)", f"`{kind.short}`", (kind.model.__doc__ or "").strip())
        for kind in KINDS
    ]
    return (
        "# Reference\n\n<!-- Written by `make generate`. -->\n\nThe kinds of `tidegate.dev/v1alpha1`; "
        "`kubectl get tidegate` shows all of them.\n\n"
        + _render_table(("kind", "short name", "what it does"), iter(rows))
        + "\n"
    )


def _walk(schema: JsonSchema, path: str = "") -> Iterator[Row]:
    """Visit every field, outer ones first."""
    for name, child in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield here, child, name in schema.get("required", ())
        yield from _walk(child, here)
        yield from _walk(child.get("items", {}), f"{here}[]")


def _spec_cells(row: Row) -> tuple[str, ...]:
    path, schema, required = row
    return f"`{path}`", _describe_type(schema), _describe_default(schema, required), schema.get("description", "")


def _status_cells(row: Row) -> tuple[str, ...]:
    path, schema, _ = row
    return f"`{path}`", _describe_type(schema), schema.get("description", "")


def _describe_default(schema: JsonSchema, required: bool) -> str:
    if required:
        return "**required**"
    default = schema.get("default")
    return "" if default in (None, {}) else f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _describe_type(schema: JsonSchema) -> str:
    """Say what may be written, in a few words."""
    if "enum" in schema:
        return " · ".join(f"`{value}`" for value in schema["enum"])
    if "x-kubernetes-int-or-string" in schema:
        return "quantity"
    if schema["type"] == "array":
        limit = f", at most {schema['maxItems']}" if "maxItems" in schema else ""
        return f"list of {_describe_type(schema['items'])}{limit}"
    if "additionalProperties" in schema:
        return f"map of {_describe_type(schema['additionalProperties'])}"
    return _name_type(schema) + _describe_bounds(schema)


def _name_type(schema: JsonSchema) -> str:
    if schema.get("format") == "date-time":
        return "time"
    if any("duration(self)" in each["rule"] for each in schema.get(RULES, ())):
        return "duration"
    name: str = schema["type"]
    return "true or false" if name == "boolean" else name


def _describe_bounds(schema: JsonSchema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    lower = "" if low is None else f"{'>' if schema.get('exclusiveMinimum') else '≥'} {low}"
    upper = "" if high is None else f"{'<' if schema.get('exclusiveMaximum') else '≤'} {high}"
    bounds = ", ".join(filter(None, (lower, upper)))
    return f", {bounds}" if bounds else ""


def _render_rules(kind: KindInfo, spec: JsonSchema) -> str:
    lines = [f"- {rule['message']}" for rule in _own_rules(kind)]
    for path, schema, _ in [("", spec, True), *_walk_items(spec)]:
        for each in schema.get(RULES, ()):
            if "oldSelf" not in each["rule"]:
                where = f"{path}{each.get('fieldPath', '')}".lstrip(".")
                lines.append(f"- `{where}`: {each['message']}" if where else f"- {each['message']}")
    immutable = _extra(find_part(kind, "spec")).get("x-tidegate-immutable")
    if immutable:
        names = ", ".join(f"`{name}`" for name in immutable["except"])
        lines.append(f"- Once the object exists, only {names} can change; otherwise {immutable['remedy']}.")
    return "\n".join(lines)


def _walk_items(schema: JsonSchema) -> Iterator[Row]:
    for path, child, required in _walk(schema):
        yield path, child, required
        if "items" in child:
            yield f"{path}[]", child["items"], False


def _own_rules(kind: KindInfo) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = _extra(kind.model).get(RULES, [])
    return rules


def _extra(model: type) -> dict[str, Any]:
    extra = getattr(model, "model_config", {}).get("json_schema_extra")
    return extra if isinstance(extra, dict) else {}


def _conditions(status: JsonSchema) -> Iterator[tuple[str, ...]]:
    named = status["properties"]["conditions"]["description"].rstrip(".").split(", ")
    for name in named:
        yield f"`{name}`", CONDITIONS[name]


def _render_table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in cells) + " |" for cells in lines)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    run(render_pages(), sys.argv[1:])
