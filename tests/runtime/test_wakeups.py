"""Who is woken by what."""

from typing import Any

from tidegate.domain.manifests import names
from tidegate.ports import ABTEST, DEPLOYMENT, JOB, MODEL_VERSION, POD, ROUTE, TRAINING_JOB, WORKLOAD, Key, Kind
from tidegate.wakeups import Wakeups


def make(kind: Kind, name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {"name": name, "namespace": "ns"}} | more


def key(kind: Kind, name: str) -> Key:
    return Key(kind, "ns", name)


class World:
    def __init__(self) -> None:
        self.woken: set[Key] = set()
        self._wakeups = Wakeups(self.woken.add)
        self._known: dict[Key, dict[str, Any]] = {}

    def put(self, kind: Kind, name: str, **more: Any) -> set[Key]:
        after = make(kind, name, **more)
        return self._notice(kind, name, after)

    def remove(self, kind: Kind, name: str) -> set[Key]:
        return self._notice(kind, name, None)

    def _notice(self, kind: Kind, name: str, after: dict[str, Any] | None) -> set[Key]:
        self.woken.clear()
        before = self._known.pop(key(kind, name), None)
        if after is not None:
            self._known[key(kind, name)] = after
        self._wakeups.notice(kind, before, after)
        return set(self.woken)


def test_an_object_wakes_itself_also_when_it_is_deleted() -> None:
    world = World()
    for kind in (TRAINING_JOB, MODEL_VERSION, DEPLOYMENT, ABTEST):
        assert world.put(kind, "a", spec={}) == {key(kind, "a")}
        assert world.remove(kind, "a") == {key(kind, "a")}


def test_children_wake_the_owner_that_they_name() -> None:
    world = World()
    metadata = {
        "name": "child",
        "namespace": "ns",
        "annotations": names.owner_annotation(names.Owner("TrainingJob", "t", "uid")),
    }
    for kind in (JOB, POD, WORKLOAD):
        assert world.put(kind, "child", metadata=metadata) == {key(TRAINING_JOB, "t")}
        assert world.remove(kind, "child") == {key(TRAINING_JOB, "t")}
    assert world.put(WORKLOAD, "foreign") == set()
    unknown = metadata | {"annotations": {names.OWNER_ANNOTATION: "Nonsense/x"}}
    assert world.put(WORKLOAD, "odd", metadata=unknown) == set()


def test_a_model_version_wakes_whoever_refers_to_it() -> None:
    world = World()
    world.put(DEPLOYMENT, "d", spec={"modelVersion": "m-2"}, status={"stable": {"modelVersion": "m-1"}})
    world.put(ABTEST, "t", spec={"deployment": "d", "variants": [{"name": "c"}, {"name": "v", "modelVersion": "m-3"}]})
    world.put(TRAINING_JOB, "j", spec={"baseModelVersion": "m-1"})
    assert world.put(MODEL_VERSION, "m-1") == {key(MODEL_VERSION, "m-1"), key(DEPLOYMENT, "d"), key(TRAINING_JOB, "j")}
    assert world.put(MODEL_VERSION, "m-2") == {key(MODEL_VERSION, "m-2"), key(DEPLOYMENT, "d")}
    assert world.put(MODEL_VERSION, "m-3") == {key(MODEL_VERSION, "m-3"), key(ABTEST, "t")}
    world.put(DEPLOYMENT, "d", spec={"modelVersion": "m-2"}, status={"stable": {"modelVersion": "m-2"}})
    assert world.put(MODEL_VERSION, "m-1", status={"phase": "Ready"}) == {
        key(MODEL_VERSION, "m-1"),
        key(TRAINING_JOB, "j"),
    }
    world.remove(TRAINING_JOB, "j")
    assert world.remove(MODEL_VERSION, "m-1") == {key(MODEL_VERSION, "m-1")}


def test_a_route_wakes_its_deployment_and_is_woken_by_nothing() -> None:
    """It refers to its versions, but nobody reconciles it: its key must never get into the queue."""
    world = World()
    metadata = {
        "name": "d",
        "namespace": "ns",
        "annotations": names.owner_annotation(names.Owner("Deployment", "d", "uid")),
    }
    backends = [{"modelVersion": "m-1", "role": "Variant"}]
    assert world.put(ROUTE, "d", metadata=metadata, spec={"backends": backends}) == {key(DEPLOYMENT, "d")}
    assert world.put(MODEL_VERSION, "m-1") == {key(MODEL_VERSION, "m-1")}


def test_a_thousand_users_of_one_version_do_not_wake_each_other() -> None:
    world = World()
    world.put(DEPLOYMENT, "m", spec={"modelVersion": "v"})
    world.put(MODEL_VERSION, "v", status={"phase": "Validating"})
    assert world.put(MODEL_VERSION, "v", status={"phase": "Ready"}) >= {key(DEPLOYMENT, "m")}
    served = [{"deployment": "other", "role": "Stable", "percent": 100}]
    assert world.put(MODEL_VERSION, "v", status={"phase": "Ready", "servedBy": served}) == {key(MODEL_VERSION, "v")}


def test_a_deployment_wakes_the_versions_that_it_serves_and_served_but_only_when_that_changes() -> None:
    world = World()
    spec = {"modelVersion": "m-1"}
    both = {key(DEPLOYMENT, "d"), key(MODEL_VERSION, "m-1")}
    assert world.put(DEPLOYMENT, "d", spec=spec, status={"stable": {"modelVersion": "m-1", "percent": 100}}) == both
    same = {"stable": {"modelVersion": "m-1", "percent": 100, "readyReplicas": 2}, "message": "new"}
    assert world.put(DEPLOYMENT, "d", spec=spec, status=same) == {key(DEPLOYMENT, "d")}
    moved = {"stable": {"modelVersion": "m-2", "percent": 100}}
    assert world.put(DEPLOYMENT, "d", spec={"modelVersion": "m-2"}, status=moved) == both | {key(MODEL_VERSION, "m-2")}
    assert world.remove(DEPLOYMENT, "d") == {key(DEPLOYMENT, "d"), key(MODEL_VERSION, "m-2")}


def test_tests_and_trainings_hear_of_their_deployment_and_the_other_way_round() -> None:
    world = World()
    assert world.put(ABTEST, "t", spec={"deployment": "d"}) == {key(ABTEST, "t"), key(DEPLOYMENT, "d")}
    world.put(TRAINING_JOB, "j", spec={"output": {"deploy": {"name": "d"}}})
    everyone = {key(DEPLOYMENT, "d"), key(ABTEST, "t"), key(TRAINING_JOB, "j")}
    assert world.put(DEPLOYMENT, "d", spec={}) == everyone
    metadata = {
        "name": "d",
        "namespace": "ns",
        "annotations": names.owner_annotation(names.Owner("Deployment", "d", "uid")),
    }
    assert world.put(ROUTE, "d", metadata=metadata) == everyone


def test_the_maker_of_a_version_is_woken() -> None:
    world = World()
    labels = {names.TRAINING_JOB_LABEL: "j"}
    metadata = {"name": "m-1", "namespace": "ns", "labels": labels}
    assert world.put(MODEL_VERSION, "m-1", metadata=metadata) == {key(MODEL_VERSION, "m-1"), key(TRAINING_JOB, "j")}


def test_nothing_is_remembered_of_what_is_gone() -> None:
    world = World()
    for number in range(20):
        world.put(DEPLOYMENT, f"d{number}", spec={"modelVersion": f"m-{number}"})
        world.remove(DEPLOYMENT, f"d{number}")
    assert not world._wakeups._referrers
