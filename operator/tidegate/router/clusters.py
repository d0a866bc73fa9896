"""Envoy clusters and their endpoints: one cluster per backend and protocol."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from tidegate.router.endpoints import Address
from tidegate.router.names import Protocol
from tidegate.router.parts import Part, any_of, build_part

__all__ = ["ADS", "build_cluster", "build_endpoints"]

ADS: dict[str, Any] = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": {}}
"""Configuration source; a fetch time of 0 means that a proxy without configuration waits and does not become ready."""

_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_UNLIMITED = 100_000


@lru_cache(maxsize=16_384)
def build_cluster(name: str, protocol: Protocol, *, mirror: bool = False) -> Part:
    """Build the cluster of one backend and protocol."""
    limit = 256 if mirror else _UNLIMITED
    cluster = Cluster(
        name=name,
        type="EDS",
        eds_cluster_config={"eds_config": ADS},
        connect_timeout={"seconds": 1},
        lb_policy="LEAST_REQUEST",
        common_lb_config={"healthy_panic_threshold": {"value": 0}},
        circuit_breakers={"thresholds": [_thresholds(limit)]},
        upstream_connection_options={"tcp_keepalive": {"keepalive_time": {"value": 30}}},
        typed_extension_protocol_options={_PROTOCOL_OPTIONS: any_of(_protocol_options(protocol))},
    )
    return build_part(name, cluster)


@lru_cache(maxsize=16_384)
def build_endpoints(name: str, addresses: Sequence[Address]) -> Part:
    """Build the endpoints of one cluster; none is a valid answer."""
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}}
        for address, port in addresses
    ]
    assignment = ClusterLoadAssignment(cluster_name=name, endpoints=[{"lb_endpoints": endpoints}] if endpoints else [])
    return build_part(name, assignment)


def _thresholds(limit: int) -> dict[str, Any]:
    """Envoy's defaults (1,024 connections, 3 retries at a time) would refuse requests that the servers could answer."""
    fields = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {field: {"value": limit} for field in fields}


def _protocol_options(protocol: Protocol) -> HttpProtocolOptions:
    if protocol is Protocol.GRPC:
        keepalive = {"interval": {"seconds": 10}, "timeout": {"seconds": 5}}
        explicit: dict[str, Any] = {"http2_protocol_options": {"connection_keepalive": keepalive}}
    else:
        explicit = {"http_protocol_options": {}}
    # An idle connection is closed here before a server closes it: a request sent at that moment would be lost.
    return HttpProtocolOptions(
        common_http_protocol_options={"idle_timeout": {"seconds": 60}}, explicit_http_config=explicit
    )
