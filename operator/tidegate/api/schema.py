"""From the models to structural OpenAPI v3 schemas, as a CustomResourceDefinition wants them."""

from typing import Any

from tidegate.api.base import Model
from tidegate.api.rules import RULES, JsonSchema, rule

__all__ = ["build_schema"]

KEPT = (
    "description",
    "type",
    "format",
    "enum",
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
)
MAP_LISTS = {"conditions": ["type"]}
"""Lists that are merged by a key, by the name of the field; every other list is replaced as a whole."""


def build_schema(model: type[Model], *, status: bool = False, every_default: bool = False) -> JsonSchema:
    """Make the schema of a specification, or of a status.

    A status has neither defaults nor rules: the API server stores what the operator writes. `every_default` adds
    the defaults that the operator fills in, which is right for people and wrong for the API server.
    """
    whole = model.model_json_schema(by_alias=True, mode="validation")
    return _Builder(whole.get("$defs", {}), status=status, every_default=every_default).build(whole)


class _Builder:
    def __init__(self, definitions: JsonSchema, *, status: bool, every_default: bool) -> None:
        self._definitions = definitions
        self._status = status
        self._every_default = every_default

    def build(self, source: JsonSchema, name: str = "") -> JsonSchema:
        found = self._resolve(source)
        made = {key: found[key] for key in KEPT if key in found}
        made |= _bounds(found) | self._children(found) | _list_kind(found, name)
        if "description" in made:
            made["description"] = made["description"].replace("``", "`")
        made |= {key: value for key, value in found.items() if key.startswith("x-kubernetes-") and key != RULES}
        if "x-kubernetes-int-or-string" in found:
            made["anyOf"] = found["anyOf"]
        return made | self._default(found) | self._rules(found)

    def _resolve(self, source: JsonSchema) -> JsonSchema:
        """Put what is referred to in its place; "or null" is said by not being required."""
        if "$ref" in source:
            target = self._definitions[source["$ref"].rpartition("/")[2]]
            return self._resolve(target | {key: value for key, value in source.items() if key != "$ref"})
        arms = [arm for arm in source.get("anyOf", ()) if arm != {"type": "null"}]
        if len(arms) == 1:
            rest = {key: value for key, value in source.items() if key != "anyOf"}
            return self._resolve(arms[0]) | rest
        if "const" in source:
            return source | {"enum": [source["const"]]}
        return source

    def _children(self, found: JsonSchema) -> JsonSchema:
        if "properties" in found:
            return {"properties": {key: self.build(value, key) for key, value in found["properties"].items()}}
        if "items" in found:
            return {"items": self.build(found["items"])}
        if isinstance(found.get("additionalProperties"), dict):
            return {"additionalProperties": self.build(found["additionalProperties"])}
        return {}

    def _default(self, found: JsonSchema) -> JsonSchema:
        default = found.get("default")
        by_operator = "x-tidegate-model-default" in found and not self._every_default
        if default in (None, []) or self._status or by_operator:
            return {}
        return {"default": self._shorten(default, found)}

    def _shorten(self, default: Any, found: JsonSchema) -> Any:
        """Leave out of an object's default what the defaults of its fields say again."""
        if not isinstance(default, dict):
            return default
        fields = {key: self._resolve(value) for key, value in found.get("properties", {}).items()}
        said = {key: value for key, value in default.items() if value is not None}
        return {
            key: self._shorten(value, fields[key]) for key, value in said.items() if value != fields[key].get("default")
        }

    def _rules(self, found: JsonSchema) -> JsonSchema:
        rules = list(found.get(RULES, ()))
        immutable = found.get("x-tidegate-immutable")
        if immutable:
            names = [key for key in found["properties"] if key not in immutable["except"]]
            rules += [_unchanged(key, immutable["remedy"]) for key in names]
        return {RULES: rules} if rules and not self._status else {}


def _bounds(found: JsonSchema) -> JsonSchema:
    """OpenAPI v3 says that a bound is exclusive beside the bound; whole numbers are of 64 bits."""
    made: JsonSchema = {}
    for side in ("Minimum", "Maximum"):
        bound = found.get(f"exclusive{side}")
        if bound is not None:
            made |= {side.lower(): bound, f"exclusive{side}": True}
    if found.get("type") == "integer":
        made["format"] = "int64"
    return made


def _list_kind(found: JsonSchema, name: str) -> JsonSchema:
    if found.get("type") != "array":
        return {}
    if name in MAP_LISTS:
        return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": MAP_LISTS[name]}
    return {"x-kubernetes-list-type": "atomic"}


def _unchanged(name: str, remedy: str) -> JsonSchema:
    same = f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"
    return rule(same, f"{name} cannot change; {remedy}", field=name)
