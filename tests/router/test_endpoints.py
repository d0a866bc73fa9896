"""EndpointSlices: only what is ready and stays counts."""

from typing import Any

import pytest

from tests.router.support import slice_object
from tidegate.router.endpoints import EndpointTable, parse_slice

SERVICE = ("default", "stable")


def table_of(*slices: dict[str, Any]) -> EndpointTable:
    table = EndpointTable()
    for item in slices:
        table.put((item["metadata"]["namespace"], item["metadata"]["name"]), parse_slice(item))
    return table


@pytest.mark.parametrize(
    ("conditions", "usable"),
    [
        ({"ready": True}, True),
        ({"ready": True, "serving": True, "terminating": False}, True),
        ({"ready": False}, False),
        ({"ready": True, "terminating": True}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),
    ],
)
def test_conditions(conditions: dict[str, bool], usable: bool) -> None:
    table = table_of(slice_object("stable", **conditions))
    assert bool(table.addresses(SERVICE, "http")) is usable
    assert bool(table.pods(SERVICE)) is usable


def test_unset_ready_means_ready() -> None:
    item = slice_object("stable")
    item["endpoints"][0]["conditions"] = {}
    assert table_of(item).addresses(SERVICE, "http") == (("127.0.0.1", 8000),)


def test_addresses_of_several_slices_are_sorted_and_unique() -> None:
    table = table_of(
        slice_object("stable", name="b", addresses=["10.0.0.9", "10.0.0.10"]),
        slice_object("stable", name="a", addresses=["10.0.0.2", "10.0.0.9"]),
    )
    assert table.addresses(SERVICE, "grpc") == (("10.0.0.10", 8001), ("10.0.0.2", 8001), ("10.0.0.9", 8001))


def test_names_instead_of_addresses_are_left_out() -> None:
    assert table_of(slice_object("stable", addresses=["example.com"])).addresses(SERVICE, "http") == ()


def test_missing_lists_are_empty() -> None:
    item = {**slice_object("stable"), "endpoints": None, "ports": None}
    assert table_of(item).addresses(SERVICE, "http") == ()


def test_changes_name_the_services_that_they_touch() -> None:
    table = EndpointTable()
    key = ("default", "x")
    assert table.put(key, parse_slice(slice_object("stable"))) == {SERVICE}
    assert table.put(key, parse_slice(slice_object("stable"))) == set()
    assert table.put(key, parse_slice(slice_object("other"))) == {SERVICE, ("default", "other")}
    assert table.remove(key) == {("default", "other")}
    assert table.remove(key) == set()
    assert table.addresses(SERVICE, "http") == ()
