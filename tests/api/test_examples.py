"""The examples fit the models, the trainer's own schema, and each other."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tidegate.api.crd import KINDS
from tidegate.domain.commands import parse_command

ROOT = Path(__file__).parents[2]
MODELS = {kind.name: kind.model for kind in KINDS}
SCHEMAS = ROOT / "operator" / "tidegate" / "domain" / "schemas"
EXAMPLES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(ROOT.glob("examples/*.yaml"))}
PAGES = [*ROOT.glob("docs/reference/intro/*.md"), ROOT / "README.md"]


def blocks(page: Path) -> Any:
    """Find the manifests in a page."""
    for part in page.read_text().split("```yaml\n")[1:]:
        yield yaml.safe_load(part.partition("```")[0])


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_fits_its_model(name):
    manifest = EXAMPLES[name]
    MODELS[manifest["kind"]].model_validate(manifest)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_first_what_it_is_for(name):
    assert (ROOT / "examples" / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_manifests_in_a_page_fit_their_models(page):
    for manifest in blocks(page):
        MODELS[manifest["kind"]].model_validate(manifest)


@pytest.mark.parametrize("name", [name for name, each in EXAMPLES.items() if each["kind"] == "TrainingJob"])
def test_the_configuration_of_a_built_in_trainer_fits_its_schema(name):
    trainer = EXAMPLES[name]["spec"]["trainer"]
    if "algorithm" in trainer:
        schema = json.loads((SCHEMAS / f"{trainer['algorithm']}.schema.json").read_text())
        jsonschema.validate(trainer["config"], schema)


def test_the_command_in_the_comment_is_one_that_the_operator_knows():
    (line,) = [
        line
        for line in (ROOT / "examples" / "deployment-steps.yaml").read_text().splitlines()
        if "tidegate.dev/command=" in line
    ]
    command = parse_command(line.partition("tidegate.dev/command='")[2].partition("'")[0])
    assert command is not None
    assert command.command == "Promote"


def test_links_of_the_reference_lead_somewhere():
    for page in ROOT.glob("docs/reference/*.md"):
        for target in [part.partition(")")[0] for part in page.read_text().split("](")[1:]]:
            path = (page.parent / target.partition("#")[0]).resolve()
            assert path.exists() or path.name == "troubleshooting.md", target
