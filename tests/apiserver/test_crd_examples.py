"""Every example is accepted by the API server, and what it stores reads back as the same object."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate.api.crd import KINDS

pytestmark = pytest.mark.apiserver

ROOT = Path(__file__).parents[2]
MODELS = {kind.name: kind.model for kind in KINDS}
SOURCES = sorted([*ROOT.glob("examples/*.yaml"), *ROOT.glob("dev/demo/manifests/*.yaml")])
EXAMPLES = [
    pytest.param(manifest, id=f"{path.parent.name}-{path.stem}")
    for path in SOURCES
    for manifest in yaml.safe_load_all(path.read_text())
    if manifest["apiVersion"].startswith("tidegate.dev/")
]


@pytest.mark.parametrize("manifest", EXAMPLES)
def test_an_example_is_accepted_and_reads_back_the_same(api, manifest):
    answer = api.try_create(manifest)
    assert answer.status_code == 201, answer.text
    model = MODELS[manifest["kind"]]
    stored = model.model_validate(answer.json())
    assert stored.spec == model.model_validate(manifest).spec


@pytest.mark.parametrize("manifest", EXAMPLES)
def test_the_defaults_of_the_server_are_those_of_the_model(api, manifest):
    stored = api.try_create(manifest).json()["spec"]
    written = MODELS[manifest["kind"]].model_validate(manifest).spec.to_json()
    for path, value in _leaves(stored):
        assert _look_up(written, path) == value, path


def test_there_is_an_example_of_every_kind_that_people_write():
    written = {parameter.values[0]["kind"] for parameter in EXAMPLES}
    assert written == set(MODELS) - {"Route"}


def test_a_created_object_has_no_status_yet(api):
    stored = api.create(EXAMPLES[0].values[0] | {"metadata": {"name": "without-status"}})
    assert "status" not in stored


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Any:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        yield path, value
        return
    for key, child in pairs:
        yield from _leaves(child, (*path, key))


def _look_up(value: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        value = value[key]
    return value
