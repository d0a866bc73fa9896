"""Wrong settings of a built-in trainer are refused before anything is started."""

import pytest

from dev.schemas import FOLDER, build_schemas
from tidegate.domain.trainer_config import explain_config


@pytest.mark.parametrize("name", sorted(build_schemas()))
def test_operator_has_the_trainers_schema(name: str) -> None:
    assert (FOLDER / name).read_text() == build_schemas()[name], "run: python -m dev.schemas"


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model": "resnet", "blocks": 5, "channels": 64, "epochs": 8, "batchSize": 1024, "optimizer": "adamw"},
        {"learningRate": 0.001, "earlyStoppingPatience": None},
    ],
)
def test_good_settings(config: dict[str, object]) -> None:
    assert explain_config("supervised", config) == ()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"blokcs": 3}, "spec.trainer.config.blokcs: unknown field, did you mean blocks?"),
        ({"xyz": 1}, "spec.trainer.config.xyz: unknown field; known are "),
        ({"blocks": 0}, "spec.trainer.config.blocks: 0 is less than the minimum of 1"),
        ({"blocks": "five"}, "spec.trainer.config.blocks: 'five' is not of type 'integer'"),
        ({"optimizer": "sgd"}, "spec.trainer.config.optimizer: 'adamw' was expected"),
        ({"learningRate": 0}, "spec.trainer.config.learningRate: 0 is less than or equal to the minimum of 0"),
    ],
)
def test_wrong_settings_name_their_field(config: dict[str, object], said: str) -> None:
    (message,) = explain_config("supervised", config)
    assert message.startswith(said)


def test_all_mistakes_are_told_at_once() -> None:
    assert len(explain_config("supervised", {"blocks": 0, "epochs": "many", "foo": 1})) == 3
