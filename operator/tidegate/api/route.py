"""Route: the share of the traffic that each version gets; written by the operator, confirmed by the router."""

from typing import Annotated, Literal

from pydantic import Field

from tidegate.api.base import (
    Condition,
    Duration,
    HttpHeaderName,
    Model,
    ObjectName,
    Percent,
    Resource,
    Salt,
    StatusModel,
)
from tidegate.api.model_version import Role
from tidegate.api.rules import Between, Matches, rule, ruled, unique

__all__ = [
    "Backend",
    "BackendWeight",
    "Mirror",
    "Proxies",
    "Route",
    "RouteSpec",
    "RouteStatus",
    "RouteSticky",
    "Sticky",
]


class Sticky(Model):
    """Keeps one user on one version while the shares do not change, and in the canary while its share grows."""

    header: HttpHeaderName
    """Request header that names the user."""


class RouteSticky(Sticky):
    """Keeps one user on one version, and says how users are drawn."""

    salt: Salt | None = None
    """Hashed together with the header's value: with another salt other users fall into the same share."""


WorkloadName = Annotated[
    str,
    Field(max_length=63),
    Matches(
        r"^[a-z]([a-z0-9-]*[a-z0-9])?$",
        "write the name of a workload: a lower-case letter, then letters, digits and '-'",
    ),
]


class Backend(Model):
    """One version and its share."""

    model_version: ObjectName
    """The ModelVersion that answers."""
    workload: WorkloadName
    """The workload of its pods, as their label tidegate.dev/workload says."""
    percent: Percent
    """Its share of the traffic."""
    role: Role
    """Stable, Canary or Variant."""
    variant: Annotated[str, Field(max_length=63)] | None = None
    """Name of the variant in a test; sent as x-tidegate-variant."""


class Mirror(Model):
    """A copy of the traffic whose answers nobody sees."""

    model_version: ObjectName
    """The ModelVersion that gets the copy."""
    workload: WorkloadName
    """The workload of the pods that take the copies: a comparator."""
    percent: Percent
    """Share of the requests that is copied."""


class RouteSpec(Model):
    """Shares of one endpoint."""

    model_config = ruled(
        rule(
            "!has(self.backends) || size(self.backends) == 0 || (self.backends.map(b, b.percent).sum() >= 99.999"
            " && self.backends.map(b, b.percent).sum() <= 100.001)",
            "the shares have to sum to 100; change percent, or leave backends empty",
            field="backends",
        ),
        unique("backends", "two backends name one workload; merge them", key="workload"),
    )

    deployment: ObjectName
    """The Deployment (tidegate.dev) whose endpoint this is."""
    backends: Annotated[tuple[Backend, ...], Field(max_length=16)] = ()
    """Versions and shares; the shares sum to 100."""
    sticky: RouteSticky | None = None
    """Keeps a user on one version."""
    mirror: Mirror | None = None
    """A copy of the traffic for a version that no user sees."""
    timeout: Annotated[Duration, Between("1s", "1h")] = Field(default="60s", validate_default=True)
    """Longest time of one request."""


class BackendWeight(StatusModel):
    """A share that is live."""

    model_version: str
    """The ModelVersion."""
    percent: Percent
    """Its live share."""


class Proxies(StatusModel):
    """The Envoy proxies and which of them run the current configuration."""

    connected: int = 0
    """Proxies connected to the control plane."""
    acknowledged: int = 0
    """Proxies that run the current shares."""
    missing: Annotated[tuple[str, ...], Field(max_length=32)] = ()
    """Proxies that do not yet."""


class RouteStatus(StatusModel):
    """What the proxies really do."""

    observed_generation: int | None = None
    """The generation that this status is about."""
    weights: tuple[BackendWeight, ...] = ()
    """The shares that every proxy has confirmed last."""
    proxies: Proxies = Proxies()
    """Proxies connected and up to date."""
    version: str | None = None
    """Version of the configuration that was sent."""
    conditions: tuple[Condition, ...] = ()
    """Ready, Reconciling, Stalled."""


class Route(Resource):
    """The shares of an endpoint: written by the operator, confirmed by the proxies, not meant to be edited."""

    kind: Literal["Route"] = "Route"
    spec: RouteSpec
    status: RouteStatus = RouteStatus()
