"""Route objects: what the router reads of them, and what it says about those that make no sense."""

from datetime import timedelta

import pytest

from tests.router.support import backend, route_object
from tidegate.router.names import Protocol, cluster_name, domains
from tidegate.router.routes import parse_route

STABLE = backend("connect4-1.0.0", "stable", 90)
CANARY = backend("connect4-1.1.0", "canary", 10, "Canary")


def test_canary_comes_first_whatever_the_order() -> None:
    sticky = {"header": "X-User-Id", "salt": "uid-1"}
    view = parse_route(route_object(backends=[STABLE, CANARY], sticky=sticky, timeout="1m30s")).view
    assert view
    assert [item.model_version for item in view.backends] == ["connect4-1.1.0", "connect4-1.0.0"]
    assert (view.sticky_header, view.salt) == ("x-user-id", "uid-1")
    assert view.timeout == timedelta(seconds=90)


def test_status_and_metadata_do_not_change_the_view() -> None:
    one = route_object(backends=[{**STABLE, "percent": 100}])
    other = {**one, "metadata": {**one["metadata"], "generation": 7, "labels": {"a": "b"}}, "status": {"version": "x"}}
    assert parse_route(one).view == parse_route(other).view
    assert parse_route(other).generation == 7
    assert parse_route(other).status.version == "x"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"backends": [STABLE]}, "sum to 90; they must sum to 100"),
        ({"backends": [{**STABLE, "percent": 50}, {**STABLE, "percent": 50}]}, "listed twice"),
        ({"backends": [{**STABLE, "percent": 100, "variant": "a\nb"}]}, "cannot be sent as a header"),
        ({"backends": [{**STABLE, "percent": 101}]}, "spec.backends.0.percent"),
        ({"backends": [{**STABLE, "percent": 100}], "sticky": {"header": "a b"}}, "spec.sticky.header"),
        ({"backends": [{**STABLE, "percent": 100}], "what": 1}, "spec.what"),
    ],
)
def test_bad_specs_are_explained(spec: dict[str, object], words: str) -> None:
    record = parse_route(route_object(**spec))
    assert record.view is None
    assert words in record.problem


def test_unreadable_status_is_forgotten() -> None:
    record = parse_route({**route_object(backends=[]), "status": {"weights": "nonsense"}})
    assert record.status.weights == ()


def test_names() -> None:
    name = cluster_name("default", "connect4", "connect4-1.1.0", "connect4-9f86d081", Protocol.GRPC)
    assert name == "tidegate|default|connect4|connect4-1.1.0|connect4-9f86d081|grpc"
    assert domains("default", "connect4") == (
        "connect4.default",
        "connect4.default.svc",
        "connect4.default.svc.cluster.local",
    )
