"""The memory: newest version wins, own deletions hold, complete lists cure gaps."""

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tidegate.adapters.cache import ObjectCache
from tidegate.domain.manifests import names
from tidegate.ports import ABTEST, DEPLOYMENT, MODEL_VERSION, POD, ROUTE, TRAINING_JOB, WORKLOAD, Key, Kind
from tidegate.references import references, referring_to


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


VERSIONS = st.sampled_from(("v1", "v2", "v3"))
PARTS = VERSIONS.map(lambda version: {"modelVersion": version})
TARGETS = [Key(MODEL_VERSION, "default", name) for name in ("v1", "v2", "v3")]
TARGETS += [Key(DEPLOYMENT, "default", name) for name in ("a", "b")]


@st.composite
def referring(draw: st.DrawFn) -> dict[str, Any]:
    """Any kind that refers to others, with any of its references set or not; uid and version come later."""
    kind = draw(st.sampled_from((DEPLOYMENT, ROUTE, ABTEST, TRAINING_JOB)))
    spec = {
        "modelVersion": VERSIONS,
        "backends": st.lists(PARTS, max_size=3),
        "variants": st.lists(PARTS, max_size=2),
        "deployment": st.sampled_from(("a", "b")),
        "baseModelVersion": VERSIONS,
    }
    status = {place: st.none() | PARTS for place in ("stable", "canary", "rollback", "experiment")}
    status |= {"draining": st.lists(PARTS, max_size=2)}
    made = make(0, kind=kind, name=draw(st.sampled_from("ab")))
    given_spec = draw(st.fixed_dictionaries({}, optional=spec))
    return made | {"spec": given_spec, "status": draw(st.none() | st.fixed_dictionaries({}, optional=status))}


def put_or_remove(cache: ObjectCache, manifest: dict[str, Any], version: int, *, is_there: bool) -> None:
    known = cache.get(Key(kind_in(manifest), "default", manifest["metadata"]["name"]))
    uid = known["metadata"]["uid"] if known else f"u{version}"
    changed = manifest | {"metadata": manifest["metadata"] | {"uid": uid, "resourceVersion": str(version)}}
    if is_there:
        cache.put(changed)
    else:
        cache.remove(changed)


def kind_in(manifest: dict[str, Any]) -> Kind:
    return next(kind for kind in (DEPLOYMENT, ROUTE, ABTEST, TRAINING_JOB) if kind.name == manifest["kind"])


@given(st.lists(st.tuples(referring(), st.booleans()), max_size=20))
def test_what_refers_to_an_object_is_found_as_if_all_were_looked_at(
    changes: list[tuple[dict[str, Any], bool]],
) -> None:
    cache = ObjectCache()
    for version, (manifest, is_there) in enumerate(changes, 1):
        put_or_remove(cache, manifest, version, is_there=is_there)
    for kind in (DEPLOYMENT, ROUTE, ABTEST, TRAINING_JOB):
        for target in TARGETS:
            found = cache.list(kind, "default", referring_to(target))
            assert found == [each for each in cache.list(kind, "default") if target in references(kind, each)]
            assert not cache.list(kind, "other", referring_to(target))
        cache.replace(kind, None, [], "100")
    assert not cache._index


def test_several_indexed_labels_and_others_all_count() -> None:
    cache = ObjectCache()
    both = {names.DEPLOYMENT_LABEL: "d", names.MODEL_VERSION_LABEL: "v1", "x": "1"}
    cache.put(make(1, kind=WORKLOAD, labels=both))
    cache.put(make(2, kind=WORKLOAD, name="b", uid="u2", labels=both | {names.MODEL_VERSION_LABEL: "v2"}))
    cache.put(make(3, kind=WORKLOAD, name="c", uid="u3", labels=both | {"x": "2"}))
    assert [each["metadata"]["name"] for each in cache.list(WORKLOAD, "default", both)] == ["a"]
