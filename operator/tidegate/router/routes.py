"""A Route object as the router sees it: the fields that decide where traffic goes, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from tidegate.api.model_version import Role
from tidegate.api.route import Backend, Route, RouteStatus
from tidegate.router.names import route_key

__all__ = ["BackendView", "InvalidRouteError", "MirrorView", "RouteRecord", "RouteView", "parse_route"]

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class BackendView:
    """One version and its share in percent."""

    model_version: str
    workload: str
    percent: float
    canary: bool = False
    variant: str | None = None


@dataclass(frozen=True, slots=True)
class MirrorView:
    """A version that gets a copy of ``percent`` of the requests."""

    model_version: str
    workload: str
    percent: float


@dataclass(frozen=True, slots=True)
class RouteView:
    """What one Route asks of the proxies; equal views need no new configuration."""

    namespace: str
    name: str
    deployment: str
    backends: tuple[BackendView, ...]
    mirror: MirrorView | None = None
    sticky_header: str | None = None
    salt: str | None = None
    timeout: timedelta = timedelta(seconds=60)

    @property
    def key(self) -> str:
        """Name of the route configuration."""
        return route_key(self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class RouteRecord:
    """A Route object: its identity, its wish (``None`` when it cannot be read) and its status as last seen."""

    namespace: str
    name: str
    uid: str
    generation: int
    created: datetime
    view: RouteView | None
    problem: str
    status: RouteStatus

    @property
    def key(self) -> str:
        """Name of the route configuration."""
        return route_key(self.namespace, self.name)


class InvalidRouteError(ValueError):
    """A Route whose spec no proxy could follow; the message says which field and why."""


def parse_route(obj: Mapping[str, Any]) -> RouteRecord:
    """Read a Route as the API server returned it; a spec that makes no sense yields a record without a view."""
    metadata = obj["metadata"]
    view, problem = None, ""
    try:
        view = _view(Route.model_validate({**obj, "status": {}}))
    except ValidationError as error:
        problem = _first_problem(error)
    except InvalidRouteError as error:
        problem = str(error)
    return RouteRecord(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 1),
        created=_created(metadata),
        view=view,
        problem=problem,
        status=_status(obj),
    )


def _view(route: Route) -> RouteView:
    spec = route.spec
    backends = tuple(_backend(backend) for backend in spec.backends)
    _check(backends)
    mirror = spec.mirror
    return RouteView(
        namespace=route.metadata.namespace,
        name=route.metadata.name,
        deployment=spec.deployment,
        # The canary owns the lowest part of the hash range: a larger share only ever adds keys to it.
        backends=tuple(sorted(backends, key=lambda backend: not backend.canary)),
        mirror=MirrorView(mirror.model_version, mirror.workload, mirror.percent) if mirror else None,
        sticky_header=spec.sticky.header.lower() if spec.sticky else None,
        salt=spec.sticky.salt if spec.sticky else None,
        timeout=spec.timeout,
    )


def _backend(backend: Backend) -> BackendView:
    return BackendView(
        model_version=backend.model_version,
        workload=backend.workload,
        percent=backend.percent,
        canary=backend.role is Role.CANARY,
        variant=backend.variant,
    )


def _check(backends: tuple[BackendView, ...]) -> None:
    total = sum(backend.percent for backend in backends)
    if backends and abs(total - 100) > 0.01:
        raise InvalidRouteError(f"spec.backends: the percentages sum to {total:g}; they must sum to 100")
    seen = [(backend.model_version, backend.workload) for backend in backends]
    if len(set(seen)) != len(seen):
        raise InvalidRouteError("spec.backends: a version and its workload are listed twice")
    for backend in backends:
        if backend.variant is not None and not (backend.variant.isascii() and backend.variant.isprintable()):
            raise InvalidRouteError(
                f"spec.backends: variant {backend.variant!r} cannot be sent as a header; use plain text"
            )


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def _created(metadata: Mapping[str, Any]) -> datetime:
    text = metadata.get("creationTimestamp")
    return datetime.fromisoformat(text) if text else _EPOCH


def _status(obj: Mapping[str, Any]) -> RouteStatus:
    try:
        return RouteStatus.model_validate(obj.get("status") or {})
    except ValidationError:
        return RouteStatus()
