"""Who is woken by what."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tidegate.domain.manifests import names
from tidegate.domain.manifests.serving import Platform
from tidegate.domain.release import VersionID
from tidegate.ports import (
    ABTEST,
    DEPLOYMENT,
    JOB,
    MODEL_VERSION,
    POD,
    ROUTE,
    TRAINING_JOB,
    WORKLOAD,
    Key,
    Kind,
    Manifest,
)
from tidegate.reconcilers.observation import read_child, read_comparator, read_workload
from tidegate.wakeups import Wakeups


def make(kind: Kind, name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {"name": name, "namespace": "ns"}} | more


def key(kind: Kind, name: str) -> Key:
    return Key(kind, "ns", name)


class World:
    def __init__(self) -> None:
        self.woken: set[Key] = set()
        self.soon: set[Key] = set()
        self._wakeups = Wakeups(self.woken.add, self.soon.add)
        self._known: dict[Key, dict[str, Any]] = {}

    def put(self, kind: Kind, name: str, **more: Any) -> set[Key]:
        after = make(kind, name, **more)
        return self._notice(kind, name, after)

    def remove(self, kind: Kind, name: str) -> set[Key]:
        return self._notice(kind, name, None)

    def _notice(self, kind: Kind, name: str, after: dict[str, Any] | None) -> set[Key]:
        self.woken.clear()
        self.soon.clear()
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
    """Soon: 200 releases of one version at once are not 200 writes of its servedBy."""
    world = World()
    spec, mine = {"modelVersion": "m-1"}, {key(DEPLOYMENT, "d")}
    first, second = key(MODEL_VERSION, "m-1"), key(MODEL_VERSION, "m-2")
    assert world.put(DEPLOYMENT, "d", spec=spec, status={"stable": {"modelVersion": "m-1", "percent": 100}}) == mine
    assert world.soon == {first}
    same = {"stable": {"modelVersion": "m-1", "percent": 100, "readyReplicas": 2}, "message": "new"}
    assert world.put(DEPLOYMENT, "d", spec=spec, status=same) == mine
    assert world.soon == set()
    moved = {"stable": {"modelVersion": "m-2", "percent": 100}}
    assert world.put(DEPLOYMENT, "d", spec={"modelVersion": "m-2"}, status=moved) == mine
    assert world.soon == {first, second}
    assert world.remove(DEPLOYMENT, "d") == mine
    assert world.soon == {second}


def test_a_child_wakes_its_deployment_only_with_news() -> None:
    """Of nine changes of a pod and its workload on the way to readiness, the operator has to act on three."""
    world = World()
    owner = names.owner_annotation(names.Owner("Deployment", "d", "uid"))
    mine = {key(DEPLOYMENT, "d")}

    def put(kind: Kind, status: dict[str, Any], **metadata: Any) -> set[Key]:
        more = {"name": "child", "namespace": "ns", "generation": 1} | metadata
        more["annotations"] = owner | metadata.get("annotations", {})
        return world.put(kind, "child", metadata=more, status=status)

    assert put(WORKLOAD, {}) == mine
    assert put(WORKLOAD, {}, annotations={"deployment.kubernetes.io/revision": "1"}) == set()
    progressing = {"type": "Progressing", "status": "True"}
    started = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "conditions": [progressing]}
    assert put(WORKLOAD, started) == mine
    assert put(WORKLOAD, started | {"unavailableReplicas": 1}) == set()
    assert put(WORKLOAD, started | {"readyReplicas": 1}) == mine
    assert put(WORKLOAD, started | {"readyReplicas": 1, "availableReplicas": 1, "conditions": []}) == set()
    refused = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    assert put(WORKLOAD, started | {"readyReplicas": 1, "conditions": [refused]}) == mine
    assert put(WORKLOAD, started, generation=2) == mine
    assert put(WORKLOAD, started, generation=2, deletionTimestamp="2026-01-01T00:00:00Z") == mine
    assert put(POD, {"phase": "Pending"}) == set()
    assert put(POD, {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}) == set()
    assert put(POD, {"phase": "Running", "containerStatuses": [{"name": "triton", "ready": True}]}) == set()
    unschedulable = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}
    assert put(POD, {"phase": "Pending", "conditions": [unschedulable]}) == mine
    assert world.remove(POD, "child") == mine
    assert put(POD, {"phase": "Running"}) == set()
    assert world.remove(POD, "child") == set()
    assert world.remove(WORKLOAD, "child") == mine


COUNTS = st.integers(0, 2)
CONDITIONS = st.lists(
    st.sampled_from(
        [
            {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"},
            {"type": "PodScheduled", "status": "False", "message": "Insufficient cpu"},
            {"type": "PodScheduled", "status": "False", "message": "Insufficient memory"},
            {"type": "Ready", "status": "True"},
        ]
    ),
    max_size=2,
)
WORKLOADS = st.fixed_dictionaries(
    {},
    optional={
        "observedGeneration": COUNTS, "replicas": COUNTS, "updatedReplicas": COUNTS, "readyReplicas": COUNTS,
        "availableReplicas": COUNTS, "unavailableReplicas": COUNTS, "conditions": CONDITIONS,
    },
)  # fmt: skip
ENDED = {"exitCode": 1, "finishedAt": "2026-01-01T00:00:00Z"}
CONTAINERS = st.sampled_from(
    [
        {"name": "triton", "ready": True},
        {"name": "triton", "ready": False, "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
        {"name": "agent", "ready": False, "image": "a", "state": {"waiting": {"reason": "ErrImagePull"}}},
        {"name": "puller", "state": {"terminated": ENDED}},
        {
            "name": "puller",
            "state": {"terminated": ENDED | {"message": '{"reason": "DigestMismatch", "retryable": false}'}},
        },
    ]
)
PODS = st.fixed_dictionaries(
    {"phase": st.sampled_from(["Pending", "Running", "Failed"])},
    optional={
        "conditions": CONDITIONS,
        "containerStatuses": st.lists(CONTAINERS, max_size=2),
        "initContainerStatuses": st.lists(CONTAINERS, max_size=1),
    },
)
VERSION = VersionID("m-1", "d" * 64)
PLATFORM = Platform(agent_image="agent", triton_image="triton")


@given(
    old=st.tuples(WORKLOADS, PODS),
    new=st.tuples(WORKLOADS, PODS),
    others=st.lists(PODS, max_size=2),
    generation=st.integers(1, 2),
    replicas=st.integers(0, 2),
)
def test_what_wakes_nobody_changes_nothing(
    old: tuple[Any, Any], new: tuple[Any, Any], others: list[Any], generation: int, replicas: int
) -> None:
    """A change that nobody is woken for must lead to the same observation, or a release would wait for good."""

    def build(kind: Kind, name: str, status: Any) -> Manifest:
        return make(kind, name, spec={"replicas": replicas}, status=status) | {
            "metadata": {"name": name, "namespace": "ns", "generation": generation}
        }

    def observe(workload: Manifest, pod: Manifest) -> object:
        pods = [build(POD, "a", each) for each in others] + [pod]
        comparing = read_comparator(workload, None, pods)
        return read_workload(workload, VERSION, None, PLATFORM, pods), comparing

    workload, pod = old
    seen = observe(build(WORKLOAD, "w", workload), build(POD, "p", pod))
    for field, value in new[0].items():
        after = build(WORKLOAD, "w", workload | {field: value})
        if read_child(WORKLOAD, after) == read_child(WORKLOAD, build(WORKLOAD, "w", workload)):
            assert observe(after, build(POD, "p", pod)) == seen, field
    for field, value in new[1].items():
        after = build(POD, "p", pod | {field: value})
        if read_child(POD, after) == read_child(POD, build(POD, "p", pod)):
            assert observe(build(WORKLOAD, "w", workload), after) == seen, field


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
