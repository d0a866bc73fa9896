"""The memory: newest version wins, own deletions hold, complete lists cure gaps."""

import random
from typing import Any

from tidegate.adapters.cache import ObjectCache
from tidegate.domain.manifests import names
from tidegate.ports import DEPLOYMENT, POD, ROUTE, WORKLOAD, Key


def make(version: int, *, name: str = "a", uid: str = "u1", kind: Any = DEPLOYMENT, **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "uid": uid, "resourceVersion": str(version)} | more
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata}


KEY = Key(DEPLOYMENT, "default", "a")


def version_in(cache: ObjectCache) -> str | None:
    found = cache.get(KEY)
    return found["metadata"]["resourceVersion"] if found else None


def test_older_events_do_not_undo_newer_ones() -> None:
    cache = ObjectCache()
    assert cache.put(make(5))
    assert not cache.put(make(4))
    assert not cache.put(make(5))
    assert cache.put(make(10))
    assert version_in(cache) == "10"


def test_event_of_an_object_that_the_operator_deleted_does_not_bring_it_back() -> None:
    cache = ObjectCache()
    cache.put(make(5))
    cache.remove(make(5), own=True)
    assert not cache.put(make(7))
    assert version_in(cache) is None
    assert cache.put(make(9, uid="u2"))


def test_deletion_event_of_a_former_object_does_not_remove_its_successor() -> None:
    cache = ObjectCache()
    cache.put(make(9, uid="u2"))
    assert not cache.remove(make(8, uid="u1"))
    assert version_in(cache) == "9"


def test_complete_list_adds_updates_and_removes_but_keeps_what_is_newer_than_itself() -> None:
    cache = ObjectCache()
    cache.put(make(5, name="gone", uid="u5"))
    cache.put(make(6, name="kept", uid="u6"))
    cache.put(make(30, name="young", uid="u30"))
    cache.put(
        make(7, name="elsewhere", uid="u7")
        | {"metadata": make(7, name="elsewhere")["metadata"] | {"namespace": "other"}}
    )
    news = cache.replace(DEPLOYMENT, "default", [make(6, name="kept", uid="u6"), make(8, name="new", uid="u8")], "20")
    assert news == 2
    found = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in cache.all(DEPLOYMENT)}
    assert found == {("default", "kept"), ("default", "young"), ("default", "new"), ("other", "elsewhere")}


def test_labels_are_found_by_index_and_without() -> None:
    cache = ObjectCache()
    labels = {names.DEPLOYMENT_LABEL: "connect4", "x": "1"}
    cache.put(make(1, kind=WORKLOAD, labels=labels))
    cache.put(make(2, kind=WORKLOAD, name="b", uid="u2", labels=labels | {"x": "2"}))
    assert [each["metadata"]["name"] for each in cache.list(WORKLOAD, "default", labels)] == ["a"]
    assert len(cache.list(WORKLOAD, "default", {"x": "2"})) == 1
    assert len(cache.list(WORKLOAD, "default")) == 2
    cache.put(make(3, kind=WORKLOAD, labels={"x": "1"}))
    assert [
        each["metadata"]["name"] for each in cache.list(WORKLOAD, "default", {names.DEPLOYMENT_LABEL: "connect4"})
    ] == ["b"]
    assert cache.list(WORKLOAD, "other", labels) == []


def test_pods_are_trimmed_and_field_ownership_is_dropped() -> None:
    cache = ObjectCache()
    pod = make(
        1, kind=POD, managedFields=[{"huge": 1}], annotations={names.OWNER_ANNOTATION: "Deployment/a", "big": "x"}
    )
    pod |= {"spec": {"nodeName": "n", "containers": [{"huge": 1}]}, "status": {"phase": "Running", "podIPs": ["x"]}}
    cache.put(pod)
    kept = cache.get(Key(POD, "default", "a"))
    assert kept is not None
    assert kept["spec"] == {"nodeName": "n"}
    assert kept["status"] == {"phase": "Running"}
    assert kept["metadata"]["annotations"] == {names.OWNER_ANNOTATION: "Deployment/a"}
    assert "managedFields" not in kept["metadata"]


def test_listeners_hear_every_change_once() -> None:
    cache = ObjectCache()
    heard: list[tuple[bool, bool]] = []
    cache.subscribe(lambda _, before, after: heard.append((before is not None, after is not None)))
    cache.put(make(1, kind=ROUTE))
    cache.put(make(1, kind=ROUTE))
    cache.put(make(2, kind=ROUTE))
    cache.remove(make(2, kind=ROUTE))
    cache.remove(make(2, kind=ROUTE))
    assert heard == [(False, True), (True, True), (True, False)]


def test_any_order_of_delivery_ends_with_the_newest() -> None:
    events = [make(version) for version in range(1, 30)]
    for seed in range(20):
        shuffled = events.copy()
        random.Random(seed).shuffle(shuffled)
        cache = ObjectCache()
        for event in shuffled:
            cache.put(event)
        assert version_in(cache) == "29"


def test_index_is_empty_when_everything_is_gone() -> None:
    cache = ObjectCache()
    for number in range(50):
        cache.put(
            make(number + 1, name=str(number), uid=str(number), kind=WORKLOAD, labels={names.DEPLOYMENT_LABEL: "d"})
        )
    cache.replace(WORKLOAD, None, [], "100")
    assert len(cache) == 0
    assert not cache._index
