"""Checks the settings of a built-in trainer before anything is started, so that a mistake never takes a GPU.

The JSON schemas are copies of those that the trainer publishes in docs/contracts; a test compares the two. What a
schema cannot say (one field's bound that depends on another field) the trainer itself refuses within its first second.
"""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

__all__ = ["explain_config"]


def explain_config(algorithm: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Say what is wrong with a trainer's settings, each with the path of its field; empty when nothing is."""
    errors = sorted(_validator(algorithm).iter_errors(config), key=lambda error: list(map(str, error.absolute_path)))
    return tuple(_explain(error) for error in errors)


@lru_cache
def _validator(algorithm: str) -> Draft202012Validator:
    text = files("tidegate.domain").joinpath("schemas", f"{algorithm}.schema.json").read_text()
    return Draft202012Validator(json.loads(text))


def _explain(error: ValidationError) -> str:
    path = ".".join(["spec.trainer.config", *(str(part) for part in error.absolute_path)])
    if error.validator == "additionalProperties":
        return _explain_unknown(error, path)
    return f"{path}: {error.message}"


def _explain_unknown(error: ValidationError, path: str) -> str:
    schema, given = cast("Mapping[str, Any]", error.schema), cast("Mapping[str, Any]", error.instance)
    known = list(schema.get("properties", {}))
    unknown = sorted(set(given) - set(known))
    return "; ".join(f"{path}.{name}: unknown field{_suggest(name, known)}" for name in unknown)


def _suggest(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f", did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"
