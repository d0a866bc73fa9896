"""Route configurations: which share of an endpoint's requests goes to which cluster, and what is said when none can."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from datetime import timedelta
from functools import lru_cache
from typing import Any

from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC, RBACPerRoute
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate

from tidegate.router.names import Protocol, cluster_name
from tidegate.router.parts import Part, any_of, build_part
from tidegate.router.routes import BackendView, MirrorView, RouteView
from tidegate.router.splits import Segment

__all__ = ["ALLOWED_PATHS", "ALLOWED_PATTERNS", "PATH_FILTER", "build_route", "build_scopes"]

PATH_FILTER = "envoy.filters.http.rbac"
_MODEL = r"/v2/models/[^/]+(/versions/[^/]+)?"
_RPC = "/inference.GRPCInferenceService/"
ALLOWED_PATHS = (
    "/v2",
    "/v2/",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/stats",
    _RPC + "ServerLive",
    _RPC + "ServerReady",
    _RPC + "ServerMetadata",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
)
ALLOWED_PATTERNS = (
    _MODEL,
    _MODEL + "/(ready|infer)",
    _MODEL + "/(config|stats)",
    _MODEL + "/generate(_stream)?",
    re.escape(_RPC) + "Model(Ready|Infer|StreamInfer|Metadata|Config|Statistics)",
)
"""What a client may ask of a model server: loading and unloading of models, shared memory, logs and traces are not
offered to whoever reaches the endpoint. Several patterns, as Envoy limits the size of each."""

_RETRY_ON = "connect-failure,refused-stream,reset-before-request"
_PREVIOUS_HOSTS = "envoy.retry_host_predicates.previous_hosts"

ClusterOf = Callable[[BackendView | MirrorView, Protocol], str]


def build_route(view: RouteView, segments: Sequence[Segment], *, mirrored: Set[Protocol]) -> Part:
    """Build the route configuration of a Route: each has its own, so that a change is a small message.

    Args:
        view: What the Route asks for.
        segments: How its hash range is cut.
        mirrored: Protocols in which the mirror has ready endpoints.
    """
    mirrors = {each: view.mirror for each in mirrored if view.mirror and view.mirror.percent}
    routes = [_route(view, segments, mirrors.get(each), each) for each in (Protocol.GRPC, Protocol.HTTP)]
    host = VirtualHost(
        name=view.key,
        domains=["*"],
        routes=routes if segments else [_unavailable(view)],
        retry_policy=_retry_policy(),
        typed_per_filter_config={PATH_FILTER: _path_rules()},
    )
    requires = _required(view, segments, mirrors)
    return build_part(view.key, RouteConfiguration(name=view.key, virtual_hosts=[host]), requires)


def build_scopes(key: str, hosts: Iterable[str]) -> dict[str, Part]:
    """Build what leads from each host name to the route configuration."""
    return {host: _scope(key, host) for host in hosts}


def _scope(key: str, host: str) -> Part:
    scope = ScopedRouteConfiguration(name=host, route_configuration_name=key, key={"fragments": [{"string_key": host}]})
    return build_part(host, scope, frozenset({key}))


@lru_cache(maxsize=1)
def _path_rules() -> dict[str, Any]:
    matchers: list[dict[str, Any]] = [{"exact": path} for path in ALLOWED_PATHS]
    matchers += [{"safe_regex": {"regex": pattern}} for pattern in ALLOWED_PATTERNS]
    permissions = [{"url_path": {"path": matcher}} for matcher in matchers]
    policy = {"permissions": permissions, "principals": [{"any": True}]}
    rules = {"action": "ALLOW", "policies": {"inference-protocol": policy}}
    return any_of(RBACPerRoute(rbac=RBAC(rules=rules)))


def _required(view: RouteView, segments: Sequence[Segment], mirrors: Mapping[Protocol, MirrorView]) -> frozenset[str]:
    if not segments:
        return frozenset()
    used = [view.backends[index] for index in {piece.backend for piece in segments}]
    copies = {_cluster(view, mirror, protocol) for protocol, mirror in mirrors.items()}
    return frozenset(_cluster(view, target, protocol) for target in used for protocol in Protocol) | copies


def _cluster(view: RouteView, target: BackendView | MirrorView, protocol: Protocol) -> str:
    return cluster_name(
        view.namespace,
        view.deployment,
        target.model_version,
        target.workload,
        protocol,
        mirror=isinstance(target, MirrorView),
    )


def _route(
    view: RouteView, segments: Sequence[Segment], mirror: MirrorView | None, protocol: Protocol
) -> dict[str, Any]:
    action: dict[str, Any] = {
        "weighted_clusters": {
            "clusters": [_weighted(view, segment, protocol) for segment in segments],
            "use_hash_policy": {"value": True},
        },
        "timeout": _duration(view.timeout),
    }
    if view.sticky_header:
        action["hash_policy"] = [{"header": _hash_header(view.sticky_header, view.salt)}]
    if mirror:
        action["request_mirror_policies"] = [_mirror_policy(_cluster(view, mirror, protocol), mirror.percent)]
    match: dict[str, Any] = {"prefix": "/"}
    if protocol is Protocol.GRPC:
        match["grpc"] = {}
    return {"match": match, "route": action}


def _weighted(view: RouteView, segment: Segment, protocol: Protocol) -> dict[str, Any]:
    backend = view.backends[segment.backend]
    headers = [_header("x-tidegate-version", backend.model_version)]
    if backend.variant is not None:
        headers.append(_header("x-tidegate-variant", backend.variant))
    return {
        "name": _cluster(view, backend, protocol),
        "weight": {"value": segment.weight},
        "response_headers_to_add": headers,
    }


def _hash_header(header: str, salt: str | None) -> dict[str, Any]:
    """Hash the header's value, or ``<salt>:<value>``: with another salt the same users fall into other shares."""
    if not salt:
        return {"header_name": header}
    rewrite = {
        "pattern": {"regex": "^(.*)$"},
        "substitution": re.sub(r"\\", r"\\\\", salt) + r":\1",
    }
    return {"header_name": header, "regex_rewrite": rewrite}


def _mirror_policy(cluster: str, percent: float) -> dict[str, Any]:
    fraction = {"numerator": round(percent * 10_000), "denominator": "MILLION"}
    return {
        "cluster": cluster,
        "runtime_fraction": {"default_value": fraction},
        "disable_shadow_host_suffix_append": True,
    }


def _retry_policy() -> dict[str, Any]:
    """Retry only what no server has seen: a pod that went away costs no request, a version's own errors are shown.

    A dead pod has no requests in flight, so the least loaded of two random pods is most often the dead one: of two pods
    three times in four. Thirty draws find another one surely enough, and cost nothing when the first one does.
    """
    return {
        "retry_on": _RETRY_ON,
        "num_retries": {"value": 3},
        "retry_host_predicate": [{"name": _PREVIOUS_HOSTS, "typed_config": any_of(PreviousHostsPredicate())}],
        "host_selection_retry_max_attempts": 30,
        "retry_back_off": {"base_interval": {"nanos": 5_000_000}, "max_interval": {"nanos": 50_000_000}},
    }


def _unavailable(view: RouteView) -> dict[str, Any]:
    message = f"no version of {view.namespace}/{view.deployment} is ready to answer"
    return {
        "match": {"prefix": "/"},
        "direct_response": {"status": 503, "body": {"inline_string": message}},
        "response_headers_to_add": [_header("x-tidegate-reason", "NoReadyBackend")],
    }


def _header(key: str, value: str) -> dict[str, Any]:
    text = value.replace("%", "%%")
    return {"header": {"key": key, "value": text}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _duration(value: timedelta) -> dict[str, int]:
    return {"seconds": value.days * 86_400 + value.seconds, "nanos": value.microseconds * 1000}
