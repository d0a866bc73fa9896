"""The one listener of the data plane: HTTP/1.1 and HTTP/2, the paths of the inference protocol, errors as JSON."""

from functools import lru_cache
from typing import Any

from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.grpc_stats.v3.config_pb2 import FilterConfig
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from tidegate.router.clusters import ADS
from tidegate.router.parts import Part, any_of, build_part
from tidegate.router.route_configurations import PATH_FILTER

__all__ = ["LISTENER", "build_listener"]

LISTENER = "inference"
_FLAG_REASONS = {
    "UH": "NoReadyBackend",
    "UF": "ConnectionFailed",
    "UC": "ConnectionClosed",
    "UT": "Timeout",
    "UO": "Overloaded",
    "UR": "ConnectionReset",
}
"""Envoy's response flags and the reason that a client reads in ``x-tidegate-reason``."""


@lru_cache(maxsize=4)
def build_listener(port: int) -> Part:
    """Build the listener on all addresses of the proxy."""
    listener = Listener(
        name=LISTENER,
        address={"socket_address": {"address": "0.0.0.0", "port_value": port}},
        filter_chains=[
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": any_of(_manager())}]}
        ],
    )
    return build_part(LISTENER, listener)


def _manager() -> HttpConnectionManager:
    return HttpConnectionManager(
        stat_prefix=LISTENER,
        codec_type="AUTO",
        scoped_routes=_scoped_routes(),
        http_filters=[
            {"name": PATH_FILTER, "typed_config": any_of(RBAC())},
            # A failed gRPC call is an HTTP 200: without this, a version's errors would not be seen.
            {"name": "envoy.filters.http.grpc_stats", "typed_config": any_of(_grpc_statuses())},
            {"name": "envoy.filters.http.router", "typed_config": any_of(Router())},
        ],
        local_reply_config=_local_replies(),
        use_remote_address={"value": True},
        server_header_transformation="PASS_THROUGH",
        normalize_path={"value": True},
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        request_headers_timeout={"seconds": 10},
        http2_protocol_options={"max_concurrent_streams": {"value": 1000}},
    )


def _grpc_statuses() -> FilterConfig:
    return FilterConfig(stats_for_all_methods={"value": False})


def _scoped_routes() -> dict[str, Any]:
    """Choose the route configuration by the host name in front of the port."""
    extractor = {"name": ":authority", "element_separator": ":", "index": 0}
    return {
        "name": "hosts",
        "scope_key_builder": {"fragments": [{"header_value_extractor": extractor}]},
        "rds_config_source": ADS,
        "scoped_rds": {"scoped_rds_config_source": ADS},
    }


def _local_replies() -> dict[str, Any]:
    """Answers that Envoy makes itself have the error form of the v2 protocol and say why in a header."""
    unknown = {
        "filter": {"response_flag_filter": {"flags": ["NR"]}},
        "body": {"inline_string": "no model endpoint has this host name; ask for <deployment>.<namespace>"},
        "headers_to_add": [_reason("UnknownHost")],
    }
    refused = {
        "filter": {
            "status_code_filter": {
                "comparison": {"op": "EQ", "value": {"default_value": 403, "runtime_key": "tidegate.refused"}}
            }
        },
        "body": {"inline_string": "this path is not part of the inference protocol"},
        "headers_to_add": [_reason("PathRefused")],
    }
    return {
        "mappers": [unknown, refused, *(_flagged(flag, reason) for flag, reason in _FLAG_REASONS.items())],
        "body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}},
    }


def _flagged(flag: str, reason: str) -> dict[str, Any]:
    return {"filter": {"response_flag_filter": {"flags": [flag]}}, "headers_to_add": [_reason(reason)]}


def _reason(reason: str) -> dict[str, Any]:
    return {"header": {"key": "x-tidegate-reason", "value": reason}, "append_action": "ADD_IF_ABSENT"}
