"""Pods: only what is ready and stays counts."""

from typing import Any

import pytest

from tests.router.support import pod_object
from tidegate.router.endpoints import EndpointTable, parse_pod

WORKLOAD = ("default", "stable")


def table_of(*pods: dict[str, Any]) -> EndpointTable:
    table = EndpointTable()
    for pod in pods:
        table.put((pod["metadata"]["namespace"], pod["metadata"]["name"]), parse_pod(pod))
    return table


def with_status(**status: Any) -> dict[str, Any]:
    pod = pod_object("stable")
    return {**pod, "status": {**pod["status"], **status}}


def test_a_ready_pod_is_found_by_the_workload_of_its_label() -> None:
    table = table_of(pod_object("stable", http=1, grpc=2, address="10.0.0.7"))
    assert table.addresses(WORKLOAD, "http") == (("10.0.0.7", 1),)
    assert table.addresses(WORKLOAD, "grpc") == (("10.0.0.7", 2),)
    assert table.addresses(("default", "canary"), "http") == ()
    assert table.addresses(("other", "stable"), "http") == ()
    assert table.pods() == {"stable-a"}


@pytest.mark.parametrize(
    "pod",
    [
        pod_object("stable", ready=False),
        pod_object("stable", terminating=True),
        pod_object("stable", ready=False, terminating=True),
        with_status(conditions=[{"type": "Ready", "status": "Unknown"}]),
        with_status(conditions=[{"type": "ContainersReady", "status": "True"}]),
        with_status(conditions=None),
        with_status(phase="Failed"),
        with_status(phase="Succeeded"),
        {**pod_object("stable"), "status": None},
    ],
    ids=[
        "not ready",
        "terminating",
        "neither",
        "nobody knows",
        "another condition",
        "no condition",
        "failed where no kubelet sees it",
        "ended",
        "no status",
    ],
)
def test_who_gets_no_traffic(pod: dict[str, Any]) -> None:
    table = table_of(pod)
    assert table.addresses(WORKLOAD, "http") == ()
    assert table.pods() == frozenset()


@pytest.mark.parametrize("address", ["", "example.com", None])
def test_without_an_ip_address_there_is_no_endpoint(address: str | None) -> None:
    assert table_of(with_status(podIP=address)).addresses(WORKLOAD, "http") == ()
    pod = pod_object("stable")
    del pod["status"]["podIP"]
    assert table_of(pod).addresses(WORKLOAD, "http") == ()


def test_an_address_may_be_of_either_family() -> None:
    assert table_of(pod_object("stable", address="fd00::7")).addresses(WORKLOAD, "http") == (("fd00::7", 8000),)


def test_addresses_of_several_pods_are_sorted_and_unique() -> None:
    addresses = ("10.0.0.9", "10.0.0.10", "10.0.0.2", "10.0.0.9")
    table = table_of(*(pod_object("stable", name=f"p{n}", address=each) for n, each in enumerate(addresses)))
    assert table.addresses(WORKLOAD, "grpc") == (("10.0.0.10", 8001), ("10.0.0.2", 8001), ("10.0.0.9", 8001))


def test_ports_are_those_with_a_name_in_any_container() -> None:
    pod = pod_object("stable")
    pod["spec"]["containers"] = [
        {"name": "sidecar", "ports": [{"containerPort": 9}]},
        {"name": "silent", "ports": None},
        {"name": "web", "ports": [{"name": "http", "containerPort": 1}, {"containerPort": 2}]},
        {"name": "grpc", "ports": [{"name": "grpc", "containerPort": 3}]},
        {"name": "none"},
    ]
    table = table_of(pod)
    assert table.addresses(WORKLOAD, "http") == (("127.0.0.1", 1),)
    assert table.addresses(WORKLOAD, "grpc") == (("127.0.0.1", 3),)
    assert table.addresses(WORKLOAD, "") == ()


def test_changes_name_the_workloads_that_they_touch() -> None:
    table = EndpointTable()
    key = ("default", "x")
    assert table.put(key, parse_pod(pod_object("stable", ready=False))) == set(), "a pod that starts touches nobody"
    assert table.put(key, parse_pod(pod_object("stable"))) == {WORKLOAD}
    assert table.put(key, parse_pod(pod_object("stable"))) == set()
    assert table.put(key, parse_pod(pod_object("stable", address="10.0.0.2"))) == {WORKLOAD}
    assert table.put(key, parse_pod(pod_object("other"))) == {WORKLOAD, ("default", "other")}
    assert table.put(key, parse_pod(pod_object("other", terminating=True))) == {("default", "other")}
    assert table.remove(key) == set(), "it had gone before"
    assert table.put(key, parse_pod(pod_object("other"))) == {("default", "other")}
    assert table.remove(key) == {("default", "other")}
    assert table.addresses(WORKLOAD, "http") == ()
