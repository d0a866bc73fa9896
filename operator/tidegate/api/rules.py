"""Validation rules that one place states for both sides: the API server (CEL) and the pydantic models.

A rule says which field is wrong and what to write instead; the API server puts the field's path in front.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

__all__ = [
    "DURATION_SCHEMA",
    "MODEL_DEFAULT",
    "OPAQUE",
    "RULES",
    "Between",
    "JsonSchema",
    "Matches",
    "immutable_except",
    "parse_duration",
    "rule",
    "ruled",
    "unique",
]

JsonSchema = dict[str, Any]

RULES = "x-kubernetes-validations"
MODEL_DEFAULT: JsonSchema = {"x-tidegate-model-default": True}
"""Extra of a field whose default the operator fills in, not the API server: a rule can tell whether it was written."""
OPAQUE: JsonSchema = {"x-kubernetes-preserve-unknown-fields": True}
"""Extra of a free-form object: the API server keeps whatever is in it."""

_DURATION = re.compile(r"^(?:(\d{1,5})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?$")
_DURATION_TEXT = r"^([0-9]{1,5}h([0-9]{1,6}m)?([0-9]{1,8}s)?|[0-9]{1,6}m([0-9]{1,8}s)?|[0-9]{1,8}s)$"


def rule(expression: str, message: str, *, field: str = "") -> JsonSchema:
    """Make one CEL rule; `field` is the path below the ruled object that the API server shall name."""
    made = {"rule": expression, "message": message}
    return made | {"fieldPath": f".{field}"} if field else made


def ruled(*rules: JsonSchema, immutable: JsonSchema | None = None) -> ConfigDict:
    """Make the configuration of a model with rules across its fields."""
    return ConfigDict(json_schema_extra={RULES: list(rules), **(immutable or {})})


def unique(field: str, message: str, *, key: str = "name") -> JsonSchema:
    """Make the rule that no two items of a list have the same key."""
    once = f"self.{field}.all(x, self.{field}.exists_one(y, y.{key} == x.{key}))"
    return rule(f"!has(self.{field}) || {once}", message, field=field)


def immutable_except(*fields: str, remedy: str) -> JsonSchema:
    """Say that, once the object exists, only these fields of the specification can change."""
    return {"x-tidegate-immutable": {"except": list(fields), "remedy": remedy}}


DURATION_SCHEMA: JsonSchema = {
    "type": "string",
    "maxLength": 16,
    RULES: [rule(f'self.matches(r"{_DURATION_TEXT}")', "write a duration such as 30s, 5m or 1h30m")],
}


def parse_duration(value: object) -> timedelta:
    """Read ``1h30m``, ``5m`` or ``30s``.

    Raises:
        ValueError: The text is empty or has another form.
    """
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(str(value))
    if not match or not str(value):
        raise ValueError(f"{value!r} is no duration; write for example 30s, 5m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


@dataclass(frozen=True, slots=True)
class Matches:
    """A text has to match `pattern` (RE2, anchored); `hint` says in words how to write it."""

    pattern: str
    hint: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Refuse other texts in the model."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Refuse other texts in the API server."""
        found = handler(schema)
        text = "self" if found.get("type") == "string" else "string(self)"
        return found | {RULES: [rule(f'{text}.matches(r"{self.pattern}")', self.hint)]}

    def _check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise ValueError(self.hint)
        return value


@dataclass(frozen=True, slots=True)
class Between:
    """A duration has to be at least `least` and at most `most`."""

    least: str
    most: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Refuse other durations in the model."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Refuse other durations in the API server."""
        inside = f"duration(self) >= duration('{self.least}') && duration(self) <= duration('{self.most}')"
        form = DURATION_SCHEMA[RULES][0]["rule"]
        return handler(schema) | {RULES: [rule(f"{form} && {inside}", self._remedy())]}

    def _check(self, value: timedelta) -> timedelta:
        if not parse_duration(self.least) <= value <= parse_duration(self.most):
            raise ValueError(self._remedy())
        return value

    def _remedy(self) -> str:
        return f"write a duration from {self.least} to {self.most}, for example 30s, 5m or 1h30m"
