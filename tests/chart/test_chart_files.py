"""What can be said of the chart without Helm."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import tidegate

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "tidegate"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def leaves(values: Any, path: tuple[str, ...] = ()) -> Any:
    if not isinstance(values, dict) or not values:
        yield path
        return
    for key, child in values.items():
        yield from leaves(child, (*path, key))


def test_the_chart_has_the_version_of_the_operator():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == tidegate.__version__


def test_the_default_values_fit_their_schema():
    jsonschema.validate(VALUES, SCHEMA)


def test_every_value_of_the_schema_has_a_default_and_the_other_way_round():
    def known(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Any:
        if "$ref" in schema:
            schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
        if not schema.get("properties"):
            yield path
            return
        for key, child in schema["properties"].items():
            yield from known(child, (*path, key))

    defaults = set(leaves(VALUES))
    described = set(known(SCHEMA)) - {("global",)}
    resources = {path for path in defaults | described if "resources" in path}
    optional = {("prometheus", "service", "annotations"), ("mlflow", "service", "annotations")}
    assert defaults - resources == described - resources - optional


def test_every_part_of_the_values_is_commented():
    lines = (CHART / "values.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith((" ", "#")) and line.rstrip().endswith(":"):
            near = [lines[number - 1], *lines[number + 1 : number + 3]]
            assert any(other.lstrip().startswith("#") for other in near), line


@pytest.mark.parametrize("path", sorted(CHART.glob("templates/*.yaml")), ids=lambda path: path.stem)
def test_a_template_names_no_namespace_but_its_own(path):
    assert "tidegate-system" not in path.read_text()


def test_the_example_for_argo_cd_parses_and_its_values_fit():
    application = yaml.safe_load((ROOT / "examples" / "argocd" / "application.yaml").read_text())
    source = application["spec"]["source"]
    assert application["kind"] == "Application"
    assert source["path"] == "charts/tidegate"
    assert (ROOT / source["path"] / "Chart.yaml").exists()
    jsonschema.validate(source["helm"]["valuesObject"], SCHEMA)


def test_the_health_check_for_argo_cd_parses():
    config = yaml.safe_load((ROOT / "examples" / "argocd" / "health.yaml").read_text())
    customizations = yaml.safe_load(config["data"]["resource.customizations"])
    script = customizations["tidegate.dev/*"]["health.lua"]
    for status in ("Progressing", "Degraded", "Suspended", "Healthy"):
        assert f'"{status}"' in script
