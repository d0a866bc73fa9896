"""The generated configuration, compared with committed files. UPDATE_GOLDEN=1 writes them anew."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from tests.router.support import backend, pod_object, route_object
from tidegate.router.endpoints import EndpointTable, parse_pod
from tidegate.router.parts import version_of
from tidegate.router.routes import parse_route
from tidegate.router.snapshot import Snapshot, assemble_snapshot, compile_route

GOLDEN = Path(__file__).parent / "golden"
STABLE = backend("connect4-1.0.0", "connect4-aaaa", 95)
CANARY = backend("connect4-1.1.0", "connect4-bbbb", 5, "Canary")
STICKY = {"header": "X-User-Id"}
MIRROR = {"modelVersion": "connect4-2.0.0", "workload": "connect4-cccc", "percent": 12.5}
ALL = ("connect4-aaaa", "connect4-bbbb", "connect4-cccc")


def build(*objects: dict[str, Any], ready: tuple[str, ...] = ALL) -> Snapshot:
    table = EndpointTable()
    for number, workload in enumerate(ALL):
        for host in (2, 1):
            pod = pod_object(workload, address=f"10.0.{number}.{host}", ready=workload in ready)
            table.put(("default", f"{workload}-{host}"), parse_pod(pod))
    records = [parse_route(obj) for obj in objects]
    compiled = {record.key: compile_route(record.view, table) for record in records if record.view}
    return assemble_snapshot(records, compiled, 8000)


def plain(message: Message) -> Any:
    return json.loads(MessageToJson(message))


def readable(snapshot: Snapshot, *names: str) -> dict[str, Any]:
    kinds = {
        "clusters": Cluster,
        "endpoints": ClusterLoadAssignment,
        "listeners": Listener,
        "routes": RouteConfiguration,
        "scopes": ScopedRouteConfiguration,
    }
    return {
        name: [plain(kinds[name].FromString(part.body)) for _, part in sorted(getattr(snapshot, name).items())]
        for name in names
    }


SCENARIOS: dict[str, Snapshot] = {
    "canary-sticky-mirror": build(route_object(backends=[STABLE, CANARY], sticky=STICKY, mirror=MIRROR)),
    "canary-not-ready": build(route_object(backends=[STABLE, CANARY], mirror=MIRROR), ready=("connect4-aaaa",)),
    "nobody-ready": build(route_object(backends=[STABLE, CANARY], sticky=STICKY), ready=()),
    "no-backends": build(route_object(backends=[])),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_golden(name: str) -> None:
    everything = ("clusters", "endpoints", "listeners", "scopes", "routes")
    names = everything if name == "canary-sticky-mirror" else ("endpoints", "routes")
    text = yaml.safe_dump(readable(SCENARIOS[name], *names), sort_keys=True, width=118)
    file = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text(), "if the change is meant, run again with UPDATE_GOLDEN=1"


def test_versions_follow_from_content_alone() -> None:
    one = build(route_object(backends=[STABLE, CANARY]))
    again = build(route_object(backends=[CANARY, STABLE]))
    other = build(route_object(backends=[{**STABLE, "percent": 94}, {**CANARY, "percent": 6}]))
    assert version_of(one.routes) == version_of(again.routes) != version_of(other.routes)
    assert version_of(one.clusters) == version_of(other.clusters)
    assert version_of(one.endpoints) == version_of(other.endpoints)


def test_a_backend_at_zero_keeps_its_clusters() -> None:
    snapshot = build(route_object(backends=[{**STABLE, "percent": 100}, {**CANARY, "percent": 0}]))
    assert len(snapshot.clusters) == 4
    assert len(snapshot.required) == 2


def test_of_two_routes_with_one_host_the_older_one_keeps_it() -> None:
    old, new = (route_object("b", deployment="same"), route_object("a", deployment="same"))
    new["metadata"]["creationTimestamp"] = "2026-02-01T00:00:00Z"
    old["spec"]["backends"] = new["spec"]["backends"] = [{**STABLE, "percent": 100}]
    snapshot = build(new, old)
    assert list(snapshot.routes) == ["default/b"]
    assert snapshot.conflicts == {"default/a": "the host name same.default already belongs to Route default/b"}


def test_the_same_name_in_two_namespaces_is_two_endpoints() -> None:
    snapshot = build(*(route_object(namespace=name, backends=[{**STABLE, "percent": 100}]) for name in ("a", "b")))
    assert set(snapshot.routes) == {"a/connect4", "b/connect4"}
    assert len(snapshot.clusters) == 4
    assert not snapshot.conflicts
