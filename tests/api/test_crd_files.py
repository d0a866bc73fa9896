"""The generated files are those that the models describe, and keep the promises of the API."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate.api.crd import KINDS, build_crd, render_files, run
from tidegate.api.reference import render_pages
from tidegate.api.rules import RULES

ROOT = Path(__file__).parents[2]
STRUCTURE = {"type", "properties", "items", "additionalProperties", "required", "description", "default", "enum"}
BOUNDS = {"format", "anyOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
SIZES = {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}


def schema_of(kind: Any) -> dict[str, Any]:
    return build_crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def walk(schema: dict[str, Any], path: str) -> Any:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from walk(schema["additionalProperties"], f"{path}{{}}")


def fields_of(kind: Any) -> Any:
    for part in ("spec", "status"):
        yield from walk(schema_of(kind)["properties"][part], part)


@pytest.mark.parametrize(
    ("path", "text"), [pytest.param(*item, id=str(item[0].relative_to(ROOT))) for item in render_files().items()]
)
def test_a_definition_is_what_the_models_say(path, text):
    assert path.read_text() == text, "run `make generate`"


@pytest.mark.parametrize(
    ("path", "text"), [pytest.param(*item, id=str(item[0].relative_to(ROOT))) for item in render_pages().items()]
)
def test_a_reference_page_is_what_the_models_say(path, text):
    assert path.read_text() == text, "run `make generate`"


def test_no_other_definition_lies_around():
    written = {path for path in render_files() if path.parent.name == "crds"}
    assert set(ROOT.glob("crds/*")) | set(ROOT.glob("charts/tidegate/templates/crds/*")) == written


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_schema_is_structural(kind):
    for path, schema in fields_of(kind):
        extensions = {key for key in schema if key.startswith("x-kubernetes-")}
        assert set(schema) - extensions <= STRUCTURE | BOUNDS | SIZES, path
        assert "type" in schema or schema.get("x-kubernetes-int-or-string"), path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_specification_is_bounded_so_that_rules_have_a_price(kind):
    for path, schema in walk(schema_of(kind)["properties"]["spec"], "spec"):
        if schema.get("type") == "string":
            assert schema.keys() & {"maxLength", "enum", "format"}, path
        if schema.get("type") == "array":
            assert "maxItems" in schema, path
        if "additionalProperties" in schema:
            assert "maxProperties" in schema, path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_status_is_stored_as_it_is_written(kind):
    for path, schema in walk(schema_of(kind)["properties"]["status"], "status"):
        assert "default" not in schema, path
        assert RULES not in schema, path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_field_has_a_description(kind):
    for path, schema in fields_of(kind):
        if not path.endswith(("[]", "{}")):
            assert schema.get("description"), path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_rule_has_a_message_and_names_a_field_that_exists(kind):
    for path, schema in walk(schema_of(kind), ""):
        for rule in schema.get(RULES, ()):
            assert len(rule["message"]) > 20, path
            assert rule.get("fieldPath", "").removeprefix(".") in {"", *schema.get("properties", {})}, path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_conditions_are_a_map_by_type(kind):
    conditions = schema_of(kind)["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_columns_lead_to_fields_that_exist(kind):
    known = {path for path, _ in walk(schema_of(kind), "")} | {".metadata.creationTimestamp"}
    for column in kind.columns:
        field, _, rest = column.path.partition("[?(")
        names = [field] if not rest else [f"{field}[]{rest.partition(')]')[2]}"]
        assert names[0].replace("[*]", "[]") in known, column


def test_the_copy_in_the_chart_differs_only_in_its_switches():
    for kind in KINDS:
        text = (ROOT / f"charts/tidegate/templates/crds/{kind.plural}.yaml").read_text()
        lines = [line for line in text.splitlines() if not line.lstrip().startswith(("{{-", "labels: {{-"))]
        plain = "\n".join(lines).replace('{{ "{{" }}', "{{")
        plain = plain.replace("  annotations:\n    helm.sh/resource-policy: keep\n", "")
        assert yaml.safe_load(plain) == build_crd(kind)


def test_check_fails_on_a_difference_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tidegate.api.crd.REPOSITORY", tmp_path)
    path = tmp_path / "crds" / "x.yaml"
    with pytest.raises(SystemExit, match="make generate"):
        run({path: "new"}, ["--check"])
    assert not path.exists()
    run({path: "new"}, [])
    assert path.read_text() == "new"
    run({path: "new"}, ["--check"])
    assert "crds/x.yaml" in capsys.readouterr().out
