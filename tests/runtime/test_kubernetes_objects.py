"""Writes: nothing is sent twice, drift is mended, own writes are seen at once, and answers may be lost."""

import copy
from typing import Any

import pytest

from tests.fakes.api import FakeApi, unavailable
from tests.fakes.world import FakeClock
from tidegate.adapters.cache import ObjectCache
from tidegate.adapters.kubernetes import (
    APPLIED_ANNOTATION,
    KubernetesObjects,
    KubernetesTokenReviews,
    check_kinds,
    merge_patch,
)
from tidegate.errors import Conflict, Stalled, Unavailable, Waiting
from tidegate.ports import CONFIG_MAP, DEPLOYMENT, OWN_KINDS, WORKLOAD, Key, PodIdentity

KEY = Key(WORKLOAD, "ns", "w")
PATH = "/apis/apps/v1/namespaces/ns/deployments/w"
MINE = Key(DEPLOYMENT, "ns", "d")
MY_PATH = "/apis/tidegate.dev/v1alpha1/namespaces/ns/deployments/d"


class World:
    def __init__(self) -> None:
        self.api = FakeApi()
        self.cache = ObjectCache()
        self.clock = FakeClock()
        self.objects = KubernetesObjects(self.api, self.cache, self.clock)  # type: ignore[arg-type]

    def watch(self, path: str = PATH) -> None:
        """The watch delivers the present object."""
        self.cache.put(copy.deepcopy(self.api.objects[path]))

    def change(self, path: str = PATH, **spec: Any) -> None:
        """Somebody else changes the object."""
        changed = copy.deepcopy(self.api.objects[path])
        changed["spec"] |= spec
        self.api._store(path, changed)


@pytest.fixture
def world() -> World:
    return World()


def workload(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "w", "namespace": "ns", "labels": {"a": "b"}},
        "spec": {"replicas": 1} | spec,
    }


def deployment() -> dict[str, Any]:
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "ns"},
        "spec": {},
        "status": {"phase": "Progressing", "decisions": [1, 2], "canary": {"percent": 5}},
    }


async def test_what_is_there_is_not_sent_again(world: World) -> None:
    for _ in range(5):
        await world.objects.apply(workload())
    assert world.api.writes() == [("PATCH", PATH)]
    assert world.objects.get(KEY) is not None, "seen before any watch event"


async def test_after_a_restart_nothing_is_sent_either(world: World) -> None:
    await world.objects.apply(workload())
    again = World()
    again.api = world.api
    again.objects = KubernetesObjects(world.api, again.cache, again.clock)  # type: ignore[arg-type]
    again.watch()
    await again.objects.apply(workload())
    assert len(world.api.writes()) == 1


async def test_changed_and_taken_back_fields_are_sent(world: World) -> None:
    await world.objects.apply(workload(paused=True))
    await world.objects.apply(workload())
    assert world.api.objects[PATH]["spec"] == {"replicas": 1}


async def test_drift_is_mended_and_foreign_fields_stay(world: World) -> None:
    await world.objects.apply(workload())
    world.change(replicas=7, minReadySeconds=3)
    world.watch()
    await world.objects.apply(workload())
    assert world.api.objects[PATH]["spec"] == {"replicas": 1, "minReadySeconds": 3}


async def test_what_the_api_server_writes_in_other_words_is_not_sent_forever(world: World) -> None:
    original = world.api._store

    def normalise(path: str, manifest: dict[str, Any]) -> dict[str, Any]:
        changed = copy.deepcopy(manifest)
        if changed["spec"].get("cpu") == "1000m":
            changed["spec"]["cpu"] = "1"
        return original(path, changed)

    world.api._store = normalise  # type: ignore[method-assign]
    for _ in range(4):
        await world.objects.apply(workload(cpu="1000m"))
    assert len(world.api.writes()) == 1
    world.change(cpu="7")
    world.watch()
    await world.objects.apply(workload(cpu="1000m"))
    assert world.api.objects[PATH]["spec"]["cpu"] == "1"


async def test_status_changes_of_a_child_are_no_drift(world: World) -> None:
    await world.objects.apply(workload())
    child = copy.deepcopy(world.api.objects[PATH]) | {"status": {"readyReplicas": 1}}
    world.api._store(PATH, child)
    world.watch()
    await world.objects.apply(workload())
    assert len(world.api.writes()) == 1


async def test_unwatched_kinds_are_believed_for_a_while(world: World) -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", "namespace": "ns"},
        "data": {"a": "1"},
    }
    for _ in range(3):
        await world.objects.apply(manifest)
    assert len(world.api.writes()) == 1
    await world.objects.apply(manifest | {"data": {"a": "2"}})
    assert len(world.api.writes()) == 2
    world.clock.advance(minutes=11)
    await world.objects.apply(manifest | {"data": {"a": "2"}})
    assert len(world.api.writes()) == 3
    assert world.objects.get(Key(CONFIG_MAP, "ns", "c")) is None


async def test_another_field_manager_leaves_our_mark_alone(world: World) -> None:
    await world.objects.apply(workload(paused=True))
    scale = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "w", "namespace": "ns"},
        "spec": {"replicas": 4},
    }
    await world.objects.apply(scale, field_manager="tidegate-scale")
    live = world.api.objects[PATH]
    assert live["spec"] == {"replicas": 4, "paused": True}
    assert APPLIED_ANNOTATION in live["metadata"]["annotations"]


async def test_child_that_is_being_deleted_is_waited_for(world: World) -> None:
    await world.objects.apply(workload())
    world.api.objects[PATH]["metadata"]["finalizers"] = ["x"]
    await world.objects.delete(KEY)
    with pytest.raises(Waiting, match="deleted"):
        await world.objects.apply(workload())


async def test_late_events_do_not_bring_deleted_objects_back(world: World) -> None:
    await world.objects.apply(workload())
    late = copy.deepcopy(world.api.objects[PATH])
    late["metadata"]["resourceVersion"] = "9999"
    await world.objects.delete(KEY)
    world.cache.put(late)
    assert world.objects.get(KEY) is None
    await world.objects.delete(KEY)
    await world.objects.apply(workload())
    assert world.objects.get(KEY) is not None


async def test_create_says_when_the_name_is_taken(world: World) -> None:
    await world.objects.create(workload())
    with pytest.raises(Conflict):
        await world.objects.create(workload())


async def test_status_is_patched_by_difference_and_only_if_there_is_one(world: World) -> None:
    observed = await world.objects.create(deployment())
    await world.objects.patch_status(observed, observed["status"])
    assert len(world.api.writes()) == 1
    await world.objects.patch_status(observed, {"phase": "Healthy", "decisions": [3]})
    assert world.api.objects[MY_PATH]["status"] == {"phase": "Healthy", "decisions": [3]}
    seen = world.objects.get(MINE)
    assert seen is not None
    assert seen["status"]["phase"] == "Healthy"


async def test_status_made_from_an_old_state_is_refused(world: World) -> None:
    observed = await world.objects.create(deployment())
    world.change(MY_PATH, modelVersion="m-2")
    with pytest.raises(Conflict):
        await world.objects.patch_status(observed, {"phase": "Healthy"})
    del world.api.objects[MY_PATH]
    with pytest.raises(Conflict, match="gone"):
        await world.objects.patch_status(observed, {"phase": "Healthy"})


async def test_lost_answers_are_repeated_without_harm(world: World) -> None:
    world.api.lose_answer = unavailable
    with pytest.raises(Unavailable):
        await world.objects.apply(workload())
    with pytest.raises(Unavailable):
        await world.objects.delete(KEY)
    world.api.lose_answer = None
    await world.objects.apply(workload())
    await world.objects.delete(KEY)
    assert not world.api.objects
    assert world.objects.get(KEY) is None


async def test_nothing_is_remembered_of_what_is_gone(world: World) -> None:
    world.cache.subscribe(world.objects.forget)
    await world.objects.apply(workload())
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "w", "namespace": "ns"}, "data": {}}
    await world.objects.apply(config)
    world.cache.remove(world.api.objects[PATH])
    assert not world.objects._applied


async def test_missing_kinds_are_named_with_the_remedy() -> None:
    api = FakeApi()
    known = [{"name": kind.plural} for kind in OWN_KINDS]
    api.objects["/apis/tidegate.dev/v1alpha1"] = {"resources": known}
    await check_kinds(api, OWN_KINDS)  # type: ignore[arg-type]
    api.objects["/apis/tidegate.dev/v1alpha1"] = {"resources": known[:-1]}
    with pytest.raises(Stalled, match=r"does not know routes .*install the CRDs"):
        await check_kinds(api, OWN_KINDS)  # type: ignore[arg-type]
    del api.objects["/apis/tidegate.dev/v1alpha1"]
    with pytest.raises(Stalled, match="abtests, deployments"):
        await check_kinds(api, OWN_KINDS)  # type: ignore[arg-type]


def review(**status: Any) -> dict[str, Any]:
    extra = {"authentication.kubernetes.io/pod-name": ["p"], "authentication.kubernetes.io/pod-uid": ["u"]}
    user = {"username": "system:serviceaccount:ns:default", "extra": extra}
    return {"authenticated": True, "audiences": ["progress"], "user": user} | status


@pytest.mark.parametrize(
    ("status", "identity"),
    [
        (review(), PodIdentity("ns", "p", "u")),
        (review(authenticated=False), None),
        (review(audiences=["other"]), None),
        (review(user={"username": "system:serviceaccount:ns:default"}), None),
        (review(user={"username": "admin"} | {"extra": review()["user"]["extra"]}), None),
        ({}, None),
    ],
)
async def test_tokens_lead_to_pods(status: dict[str, Any], identity: PodIdentity | None) -> None:
    class Api:
        async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
            assert body["spec"] == {"token": "t", "audiences": ["progress"]}
            return {"status": status}

    assert await KubernetesTokenReviews(Api()).review("t", "progress") == identity  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 1.0}, {}),
        ({"a": 1}, {}, {"a": None}),
        ({"a": {"b": 1}}, {"a": {}}, {"a": {"b": None}}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"a": 2}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": [1, {"x": 1}]}, {"a": [1, {"x": 2}]}, {"a": [1, {"x": 2}]}),
        ({}, {"a": {}}, {"a": {}}),
        ({"a": False}, {"a": None}, {"a": None}),
    ],
)
def test_merge_patch(old: dict[str, Any], new: dict[str, Any], patch: dict[str, Any]) -> None:
    assert merge_patch(old, new) == patch


async def test_what_became_of_a_write_without_an_answer_is_read_before_the_next_look(world: World) -> None:
    """The watch may be silent for as long."""
    await world.objects.apply(workload())
    for lost in (world.objects.apply(workload(paused=True)), world.objects.delete(KEY)):
        world.api.lose_answer = unavailable
        with pytest.raises(Unavailable):
            await lost
        assert world.objects.get(KEY) is not None
        with pytest.raises(Unavailable):
            await world.objects.read_again()
        world.api.lose_answer = None
        await world.objects.read_again()
        assert world.objects.get(KEY) == world.api.objects.get(PATH)
    assert world.objects.get(KEY) is None


async def test_nothing_is_deleted_on_the_word_of_an_old_list(world: World) -> None:
    """Rule 11: an operator that begins with an old list would remove a version that serves again."""
    await world.objects.apply(workload())
    old = await world.objects.create(deployment())
    world.change(MY_PATH, paused=True)
    with pytest.raises(Conflict, match="has changed since it was read"):
        await world.objects.delete(KEY, decided_on=old)
    assert PATH in world.api.objects
    now = world.objects.get(MINE)
    assert now is not None
    assert now["spec"]["paused"], "the next look sees what is there"
    await world.objects.delete(KEY, decided_on=now)
    assert PATH not in world.api.objects
    del world.api.objects[MY_PATH]
    with pytest.raises(Conflict, match="is gone"):
        await world.objects.delete(KEY, decided_on=now)
    assert world.objects.get(MINE) is None


async def test_nothing_is_applied_on_the_word_of_an_old_list(world: World) -> None:
    """Rule 11: an operator that begins with an old list would send users to a version whose pods are gone."""
    old = await world.objects.create(deployment())
    world.change(MY_PATH, paused=True)
    with pytest.raises(Conflict, match="has changed since it was read"):
        await world.objects.apply(workload(), decided_on=old)
    assert PATH not in world.api.objects
    now = world.objects.get(MINE)
    await world.objects.apply(workload(), decided_on=now)
    sent = len(world.api.requests)
    await world.objects.apply(workload(), decided_on=old)
    assert len(world.api.requests) == sent, "what is so already is not asked about"


async def test_no_share_leads_to_pods_that_an_old_list_told_of(world: World) -> None:
    """Rule 11: the list is from before the deletion; the watch that tells of it may be late."""
    await world.objects.apply(workload())
    gone = world.objects.get(KEY)
    restarted = KubernetesObjects(world.api, world.cache, world.clock)  # type: ignore[arg-type]
    del world.api.objects[PATH]
    assert gone is not None
    with pytest.raises(Conflict, match="is gone"):
        await restarted.apply(deployment(), resting_on=[gone])
    assert MY_PATH not in world.api.objects
    assert restarted.get(KEY) is None, "the next look sees what is there"


async def test_an_answer_that_tells_more_than_the_write_starts_another_look(world: World) -> None:
    """Rule 11: pods became ready, and an answer says so before the watch does: then nobody would be woken."""
    await world.objects.apply(workload())
    world.api.objects[PATH]["status"] = {"observedGeneration": 1, "readyReplicas": 1}
    with pytest.raises(Conflict, match="had changed since it was read"):
        await world.objects.apply(workload(replicas=2))
    seen = world.objects.get(KEY)
    assert seen is not None
    assert (seen["spec"]["replicas"], seen["status"]["readyReplicas"]) == (2, 1), "the next look sees what is there"
    await world.objects.apply(workload(replicas=3))

    restarted = KubernetesObjects(world.api, ObjectCache(), world.clock)  # type: ignore[arg-type]
    with pytest.raises(Conflict, match="had changed since it was read"):
        await restarted.apply(workload(replicas=3))
    assert restarted.get(KEY) is not None


async def test_a_share_waits_for_a_look_at_pods_that_have_changed(world: World) -> None:
    """Rule 11: what is read once more before a share leads to it may have stopped to be ready."""
    await world.objects.apply(workload())
    old = world.objects.get(KEY)
    assert old is not None
    restarted = KubernetesObjects(world.api, world.cache, world.clock)  # type: ignore[arg-type]
    world.change(paused=True)
    with pytest.raises(Conflict, match="has changed since it was read"):
        await restarted.apply(deployment(), resting_on=[old])
    assert MY_PATH not in world.api.objects
    now = restarted.get(KEY)
    assert now is not None
    await restarted.apply(deployment(), resting_on=[now])


async def test_what_this_process_made_or_has_read_once_is_not_read_again(world: World) -> None:
    await world.objects.apply(workload())
    present = world.objects.get(KEY)
    assert present is not None

    async def reads(objects: KubernetesObjects, name: str) -> int:
        before = len(world.api.requests)
        await objects.apply(deployment() | {"metadata": {"name": name, "namespace": "ns"}}, resting_on=[present])
        return len(world.api.requests) - before - 1

    assert await reads(world.objects, "a") == 0
    restarted = KubernetesObjects(world.api, world.cache, world.clock)  # type: ignore[arg-type]
    assert [await reads(restarted, name) for name in ("b", "c")] == [1, 0]


async def test_nothing_is_read_again_where_every_write_was_answered(world: World) -> None:
    await world.objects.apply(workload())
    world.api.fault = lambda *_: Conflict("Conflict", "newer")
    with pytest.raises(Conflict):
        await world.objects.apply(workload(paused=True))
    sent = len(world.api.requests)
    await world.objects.read_again()
    assert len(world.api.requests) == sent
