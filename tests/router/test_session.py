"""The protocol with one proxy, against a model of a proxy that notices every mistake.

The model checks what users would feel: a route never refers to a cluster that is not there or has no endpoint.
"""

from collections import deque
from collections.abc import Iterable

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.router.support import backend, pod_object, route_object
from tidegate.router.endpoints import EndpointTable, parse_pod
from tidegate.router.parts import Kind
from tidegate.router.routes import parse_route
from tidegate.router.session import ProxySession, Request, Response
from tidegate.router.snapshot import Snapshot, assemble_snapshot, compile_route


class ModelProxy:
    """Accepts everything but routes called ``bad``; answers when told to."""

    def __init__(self) -> None:
        self.versions: dict[Kind, str] = {}
        self.nonces: dict[Kind, str] = {}
        self.clusters: set[str] = set()
        self.endpoints: dict[str, int] = {}
        self.scopes: set[str] = set()
        self.routes: dict[str, frozenset[str]] = {}
        self.inbox: deque[Response] = deque()
        self.outbox: deque[Request] = deque()
        self.received: list[Kind] = []

    def connect(self) -> ProxySession:
        self.inbox.clear()
        self.outbox.clear()
        self.nonces.clear()
        for kind in Kind:
            if self._names(kind) or kind not in (Kind.ENDPOINTS, Kind.ROUTES):
                self._request(kind)
        return ProxySession("model")

    def take_one(self) -> None:
        """Process one response."""
        if not self.inbox:
            return
        response = self.inbox.popleft()
        self.received.append(response.kind)
        self.nonces[response.kind] = response.nonce
        if error := self._apply(response):
            self._request(response.kind, error)
        else:
            self.versions[response.kind] = response.version
            self._request(response.kind)
        self.check()

    def check(self) -> None:
        for route, needed in self.routes.items():
            for name in needed:
                assert name in self.clusters, f"{route} sends requests to the unknown cluster {name}"
                assert self.endpoints.get(name), f"{route} sends requests to {name}, which has no endpoint"

    def _apply(self, response: Response) -> str | None:
        if response.kind is Kind.CLUSTERS:
            self._set_clusters(Cluster.FromString(body).name for body in response.bodies)
        elif response.kind is Kind.ENDPOINTS:
            for body in response.bodies:
                assignment = ClusterLoadAssignment.FromString(body)
                if assignment.cluster_name in self.clusters:
                    count = sum(len(item.lb_endpoints) for item in assignment.endpoints)
                    self.endpoints[assignment.cluster_name] = count
        elif response.kind is Kind.SCOPES:
            scopes = [ScopedRouteConfiguration.FromString(body) for body in response.bodies]
            self._set_scopes(scope.route_configuration_name for scope in scopes)
        elif response.kind is Kind.ROUTES:
            return self._set_routes(RouteConfiguration.FromString(body) for body in response.bodies)
        return None

    def _set_clusters(self, names: Iterable[str]) -> None:
        old, self.clusters = self.clusters, set(names)
        self.endpoints = {name: count for name, count in self.endpoints.items() if name in self.clusters}
        if old != self.clusters:
            self._request(Kind.ENDPOINTS)

    def _set_scopes(self, names: Iterable[str]) -> None:
        old, self.scopes = self.scopes, set(names)
        self.routes = {name: needed for name, needed in self.routes.items() if name in self.scopes}
        if old != self.scopes:
            self._request(Kind.ROUTES)

    def _set_routes(self, configurations: Iterable[RouteConfiguration]) -> str | None:
        """As Envoy does: what came before the bad one is in force."""
        for configuration in configurations:
            if configuration.name == "default/bad":
                return "bad route"
            if configuration.name not in self.scopes:
                continue
            self.routes[configuration.name] = frozenset(
                item.name
                for host in configuration.virtual_hosts
                for route in host.routes
                for item in route.route.weighted_clusters.clusters
            )
        return None

    def _names(self, kind: Kind) -> frozenset[str]:
        return frozenset({Kind.ENDPOINTS: self.clusters, Kind.ROUTES: self.scopes}.get(kind, ()))

    def _request(self, kind: Kind, error: str | None = None) -> None:
        nonce, version = self.nonces.get(kind, ""), self.versions.get(kind, "")
        self.outbox.append(Request(kind, version, nonce, self._names(kind), error))


class Line:
    """Proxy, session and the network between them."""

    def __init__(self) -> None:
        self.proxy = ModelProxy()
        self.session = self.proxy.connect()

    def reconnect(self) -> None:
        self.session = self.proxy.connect()

    def step(self, snapshot: Snapshot, choice: int) -> None:
        """One small thing happens: a request arrives, a response arrives, or the server looks what it can send."""
        if choice == 0 and self.proxy.outbox:
            self.session.receive(self.proxy.outbox.popleft())
        elif choice == 1:
            self.proxy.take_one()
        self.proxy.inbox.extend(self.session.respond(snapshot))

    def settle(self, snapshot: Snapshot) -> None:
        for _ in range(500):
            self.step(snapshot, 0)
            self.step(snapshot, 1)
            if not self.proxy.inbox and not self.proxy.outbox:
                return
        raise AssertionError("the proxy and the server never come to rest")


Shape = dict[str, tuple[tuple[int, int], tuple[bool, bool]]]
"""Route name -> workloads (old, new) and whether each has a ready endpoint."""


def snapshot_of(shape: Shape) -> Snapshot:
    table = EndpointTable()
    records = []
    for name, (workloads, ready) in shape.items():
        versions = dict.fromkeys(workloads)
        backends = [backend(f"v{n}", f"{name}-{n}", 100 / len(versions)) for n in versions]
        records.append(parse_route(route_object(name, backends=backends)))
        for workload, is_ready in zip(workloads, ready, strict=True):
            pod = pod_object(f"{name}-{workload}", ready=is_ready)
            table.put(("default", pod["metadata"]["name"]), parse_pod(pod))
    compiled = {record.key: compile_route(record.view, table) for record in records if record.view}
    return assemble_snapshot(records, compiled, 8000)


shapes = st.dictionaries(
    st.sampled_from(["one", "two", "bad"]),
    st.tuples(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.tuples(st.booleans(), st.booleans())),
)
changes = st.lists(st.tuples(shapes, st.lists(st.integers(0, 2), max_size=12), st.booleans()), min_size=1, max_size=6)


def step(choices: list[int], reconnect: bool, **routes: str) -> tuple[Shape, list[int], bool]:
    """Write a step shortly: a route's value is the number of its workload, with ! when that has no ready endpoint."""
    shape = {name: ((int(text[0]),) * 2, (not text.endswith("!"),) * 2) for name, text in routes.items()}
    return shape, choices, reconnect


@example(
    [step([], False, one="0", two="0!"), step([], False), step([0, 1, 0, 0, 1, 0], True), step([], False, one="0")]
)
@example([step([], False, two="0", bad="0!"), step([0], True, two="0"), step([], False, two="0!", bad="0!")])
@example(
    [
        step([], False, one="0!"),
        step([0, 1, 0, 0, 1], True, one="0!", two="0!", bad="0!"),
        step([0], False, one="0!", two="0!", bad="0!"),
        step([0], False, one="0!", bad="0!"),
        step([], False, one="0!", two="0!", bad="0"),
    ]
)
@settings(max_examples=80, deadline=None, derandomize=True)
@given(changes)
def test_no_request_ever_meets_a_missing_cluster(steps: list[tuple[Shape, list[int], bool]]) -> None:
    """Whatever changes while messages are under way, in whatever order they arrive, also with a refused route."""
    line = Line()
    snapshot = snapshot_of({})
    for shape, choices, reconnect in steps:
        if reconnect:
            line.settle(snapshot)
            line.reconnect()
            line.settle(snapshot)
        snapshot = snapshot_of(shape)
        for choice in choices:
            line.step(snapshot, choice)
    line.settle(snapshot)
    good = {key: route for key, route in snapshot.routes.items() if key != "default/bad"}
    assert set(line.proxy.routes) == set(good)
    assert all(line.session.runs(route) for route in good.values())
    assert line.proxy.clusters == set(snapshot.clusters)
    line.proxy.check()


def ready(*workloads: int) -> tuple[tuple[int, int], tuple[bool, bool]]:
    first, last = workloads[0], workloads[-1]
    return (first, last), (True, True)


def test_order_of_the_first_configuration() -> None:
    line = Line()
    line.settle(snapshot_of({"one": ready(0)}))
    order = list(dict.fromkeys(line.proxy.received))
    assert order.index(Kind.CLUSTERS) < order.index(Kind.ENDPOINTS) < order.index(Kind.ROUTES)


def test_a_weight_change_sends_its_route_only() -> None:
    line = Line()
    line.settle(snapshot_of({"one": ready(0, 1), "two": ready(0)}))
    line.proxy.received.clear()
    table = EndpointTable()
    for workload in ("one-0", "one-1", "two-0"):
        table.put(("default", f"{workload}-a"), parse_pod(pod_object(workload)))
    specs = {"one": [backend("v0", "one-0", 30), backend("v1", "one-1", 70)], "two": [backend("v0", "two-0", 100)]}
    records = [parse_route(route_object(name, backends=backends)) for name, backends in specs.items()]
    compiled = {record.key: compile_route(record.view, table) for record in records if record.view}
    responses = line.session.respond(assemble_snapshot(records, compiled, 8000))
    assert [(response.kind, len(response.bodies)) for response in responses] == [(Kind.ROUTES, 1)]


def test_a_changed_endpoint_is_sent_alone() -> None:
    line = Line()
    line.settle(snapshot_of({"one": ready(0), "two": ready(0)}))
    table = EndpointTable()
    for workload, address in (("one-0", "127.0.0.1"), ("two-0", "127.0.0.9")):
        table.put(("default", f"{workload}-a"), parse_pod(pod_object(workload, address=address)))
    records = [parse_route(route_object(name, backends=[backend("v0", f"{name}-0", 100)])) for name in ("one", "two")]
    compiled = {record.key: compile_route(record.view, table) for record in records if record.view}
    responses = line.session.respond(assemble_snapshot(records, compiled, 8000))
    assert [(response.kind, len(response.bodies)) for response in responses] == [(Kind.ENDPOINTS, 2)]


def test_reconnecting_to_the_same_configuration_repeats_endpoints_and_routes_only() -> None:
    line = Line()
    snapshot = snapshot_of({"one": ready(0, 1), "two": ready(2)})
    line.settle(snapshot)
    line.proxy.received.clear()
    line.reconnect()
    line.settle(snapshot)
    assert set(line.proxy.received) == {Kind.ENDPOINTS, Kind.ROUTES}
    assert all(line.session.runs(route) for route in snapshot.routes.values())


def test_a_refused_route_is_found_among_many_and_left_out() -> None:
    line = Line()
    line.settle(snapshot_of({"one": ready(0)}))
    snapshot = snapshot_of({"one": ready(1), "two": ready(0), "bad": ready(0), "three": ready(1)})
    line.settle(snapshot)
    assert set(line.proxy.routes) == {"default/one", "default/two", "default/three"}
    assert {key: line.session.refusal(route) for key, route in snapshot.routes.items()} == {
        "default/one": None,
        "default/two": None,
        "default/three": None,
        "default/bad": "bad route",
    }
    later = snapshot_of({"one": ready(2), "two": ready(0), "bad": ready(0), "three": ready(1)})
    line.proxy.received.clear()
    line.settle(later)
    assert line.session.runs(later.routes["default/one"])
    assert line.proxy.received.count(Kind.ROUTES) == 1


def test_answers_to_older_responses_are_ignored() -> None:
    line = Line()
    snapshot = snapshot_of({"one": ready(0)})
    while line.proxy.outbox:
        line.session.receive(line.proxy.outbox.popleft())
    line.session.respond(snapshot)
    receipt = line.session.receive(Request(Kind.CLUSTERS, nonce="999", error="too late"))
    assert receipt.refused is None
    assert not receipt.accepted
