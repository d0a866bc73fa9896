"""What every Tidegate kind shares: naming rules, scalar types, metadata and conditions.

Attribute docstrings become the descriptions in the CRDs and in the reference documentation.
"""

import json
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

from tidegate.api.rules import DURATION_SCHEMA, Matches, parse_duration, rule, ruled

__all__ = [
    "GROUP",
    "VERSION",
    "ComputeResources",
    "Condition",
    "ConditionStatus",
    "Digest",
    "Duration",
    "HttpHeaderName",
    "Label",
    "Labels",
    "MetricName",
    "Model",
    "ModelName",
    "ObjectName",
    "Percent",
    "Quantity",
    "Resource",
    "ResourceMeta",
    "Salt",
    "Scheduling",
    "SemanticVersion",
    "StatusModel",
    "Timestamp",
    "Toleration",
    "WebhookURL",
    "format_duration",
    "parse_duration",
]

GROUP = "tidegate.dev"
VERSION = "v1alpha1"


def format_duration(value: timedelta) -> str:
    """Write a duration the way ``parse_duration`` reads it; fractions of a second are dropped."""
    minutes, seconds = divmod(int(value.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (seconds, "s")) if n]
    return "".join(parts) or "0s"


def _format_timestamp(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(DURATION_SCHEMA),
]
"""A duration such as ``30s``, ``5m`` or ``1h30m``."""

Timestamp = Annotated[
    datetime,
    PlainSerializer(_format_timestamp, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An RFC 3339 time with microseconds: steps and rollbacks are timed to less than a second."""

Percent = Annotated[float, Field(ge=0, le=100)]
Quantity = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int) else value),
    WithJsonSchema(
        {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}], "maxLength": 32},
    ),
    Matches(
        r"^([0-9]*[1-9][0-9]*(\.[0-9]+)?|0?\.[0-9]*[1-9][0-9]*)(m|k|Ki|M|Mi|G|Gi|T|Ti)?$",
        'write a quantity above 0, for example "2", 500m or 4Gi',
    ),
]
ObjectName = Annotated[
    str,
    Field(max_length=253),
    Matches(
        r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        "write the name of an object in this namespace: lower-case letters, digits, '-' and '.'",
    ),
]
PriorityClassName = Annotated[
    str,
    Field(max_length=253),
    Matches(
        r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", "write the name of a PriorityClass, see `kubectl get priorityclasses`"
    ),
]
Label = Annotated[
    str,
    Field(max_length=63),
    Matches(r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "write lower-case letters, digits and '-', for example positions-2"),
]
"""A short name without dots."""
ModelName = Annotated[
    str,
    Field(max_length=40),
    Matches(r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "write lower-case letters, digits and '-', for example connect4"),
]
MetricName = Annotated[
    str,
    Field(max_length=63),
    Matches(r"^[A-Za-z][A-Za-z0-9_-]*$", "write a letter, then letters, digits, '_' and '-', for example moveAccuracy"),
]
Digest = Annotated[
    str,
    Field(max_length=64),
    Matches(r"^[a-f0-9]{64}$", "write the 64 lower-case hexadecimal digits that sha256sum prints"),
]
SemanticVersion = Annotated[
    str,
    Field(max_length=64),
    Matches(
        r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?$",
        "write a semantic version such as 1.2.0 or 1.2.0-wide",
    ),
]
HttpHeaderName = Annotated[
    str,
    Field(max_length=128),
    Matches(r"^[A-Za-z0-9!#$%&*+.^_`|~-]+$", "write the name of an HTTP header, for example x-user-id"),
]
WebhookURL = Annotated[
    str,
    Field(max_length=1024),
    Matches(
        r"^https?://[A-Za-z0-9.:\[\]_-]+([/?][!$-~]*)?$",
        "write an address that begins with http:// or https://, without a password, '#' or spaces",
    ),
]
Salt = Annotated[
    str,
    Field(min_length=1, max_length=63),
    Matches(r"^[ -~]+$", "write printable ASCII characters"),
]
Labels = dict[str, str]


class Model(BaseModel):
    """Base of every specification: camelCase outside, snake_case inside, nothing unknown, nothing changed later."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    def to_json(self) -> dict[str, Any]:
        """Return the object as the API server stores it: camelCase, without empty fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class StatusModel(Model):
    """Base of every status: fields of an older or newer release of the operator are ignored, not refused."""

    model_config = ConfigDict(extra="ignore")


class ConditionStatus(StrEnum):
    """The three values of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(StatusModel):
    """One aspect of an object's state, as Kubernetes API conventions define it."""

    type: Annotated[str, Field(max_length=316)]
    """Name of the aspect, for example Ready."""
    status: ConditionStatus
    """Whether it holds: True, False or Unknown."""
    reason: Annotated[str, Field(max_length=1024)]
    """Why, in one CamelCase word for programs."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, in a sentence for people, with what to do about it."""
    last_transition_time: Timestamp
    """When the status last changed."""
    observed_generation: int | None = None
    """The generation of the object that this condition is about."""


class ResourceMeta(StatusModel):
    """The part of ObjectMeta that Tidegate reads."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: Timestamp | None = None
    deletion_timestamp: Timestamp | None = None
    labels: Labels = Field(default_factory=dict)
    annotations: Labels = Field(default_factory=dict)


class ComputeResources(Model):
    """Computing resources of one container: what it reserves, and for memory and GPUs also its limit."""

    cpu: Quantity | None = None
    """CPU cores that are reserved, for example "2" or 500m; idle ones are used as well, nothing is throttled."""
    memory: Quantity | None = None
    """Memory, for example 4Gi; more than this ends the container."""
    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    """Number of GPUs (nvidia.com/gpu)."""


class Toleration(Model):
    """A taint of nodes that the pods put up with, as in a pod's own tolerations."""

    model_config = ruled(
        rule("has(self.key) || self.operator == 'Exists'", "without key, write operator Exists", field="key"),
        rule(
            "!has(self.value) || self.operator == 'Equal'",
            "Exists takes no value; remove it or write operator Equal",
            field="value",
        ),
        rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerationSeconds needs effect NoExecute",
            field="tolerationSeconds",
        ),
    )

    key: Annotated[str, Field(min_length=1, max_length=316)] | None = None
    """Key of the taint; without it every key is meant."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Whether the taint's value has to be equal, or the key is enough."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; without it every effect is meant."""
    toleration_seconds: Annotated[int, Field(ge=0)] | None = None
    """How long a running pod stays after the taint appeared."""


class Scheduling(Model):
    """On which nodes pods may run, and what they may push aside."""

    node_selector: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)] | None = None
    """Labels that the node must carry, for example nvidia.com/gpu.product."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32)] = ()
    """Taints that do not keep the pods away; nvidia.com/gpu is tolerated anyway by pods with GPUs."""
    priority_class_name: PriorityClassName | None = None
    """PriorityClass of the pods."""

    def __hash__(self) -> int:
        """Hash by content: what is built from a spec is cached by the spec, and a map has no hash of its own."""
        return hash(json.dumps(self.to_json(), sort_keys=True))


class Resource(StatusModel):
    """An object as the API server returns it; each kind adds its spec and status."""

    api_version: str = f"{GROUP}/{VERSION}"
    kind: str
    metadata: ResourceMeta
