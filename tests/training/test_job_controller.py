"""A TrainingJob with the real Job controller: only the node's part is played by the test.

What is held against the real thing here: suspend and resume, the deadline of one run, the pod failure policy, the
back-off limit, disruptions, the loss of a node, and what is left at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dev.cluster.apiserver import ApiServer
from tests.fakes.world import FakeEvents, FakeTelemetry
from tests.training.controller_manager import ControllerManager
from tests.training.support import (
    CONFIG,
    VALIDATION,
    Cluster,
    FakeRegistry,
    conditions,
    failure,
    result,
    training_manifest,
    validation_error,
    verdict,
    version_manifest,
)
from tidegate.adapters.connection import MERGE_PATCH, path_of
from tidegate.errors import Conflict
from tidegate.ports import JOB, MODEL_VERSION, POD, TRAINING_JOB, Key, Kind, Manifest, Reconciler
from tidegate.reconcilers.model_version import ModelVersionReconciler
from tidegate.reconcilers.training_job import TrainingJobReconciler

pytestmark = pytest.mark.apiserver

TIMEOUT = 40.0
NAME = "connect4-policy"


@pytest.fixture(scope="module")
def controllers(server: ApiServer) -> Iterator[None]:
    with ControllerManager(server):
        yield


@pytest.fixture
async def scene(cluster: Cluster, controllers: None) -> Scene:
    return Scene(cluster)


class ShiftedClock:
    """The real time, moved on by a test."""

    def __init__(self, cluster: Cluster) -> None:
        self._clock = cluster.clock
        self.shift = timedelta(0)

    def now(self) -> Any:
        return self._clock.now() + self.shift


class Scene:
    """Operator and node around one namespace."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.clock = ShiftedClock(cluster)
        self.registry = FakeRegistry()
        objects, rest = cluster.objects, (self.registry, FakeEvents(), FakeTelemetry(), self.clock)
        self.training: Reconciler = TrainingJobReconciler(objects, objects, *rest, CONFIG)
        self.promotion: Reconciler = ModelVersionReconciler(objects, *rest, VALIDATION)

    def key(self, kind: Kind, name: str = NAME) -> Key:
        return Key(kind, self.cluster.namespace, name)

    async def create(self, manifest: Manifest) -> Manifest:
        return await self.cluster.create(manifest)

    async def until(self, condition: Callable[[], Any], what: str = "") -> Any:
        """Let the operator work until something holds."""
        try:
            async with asyncio.timeout(TIMEOUT):
                while True:
                    await self.work()
                    if found := condition():
                        return found
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"never {what or condition}: {self.status}") from None

    async def work(self) -> None:
        """See what there is, as the watches would, and reconcile every object once."""
        for kind in (TRAINING_JOB, MODEL_VERSION, JOB, POD):
            found = await self.cluster.api.get(path_of(kind, self.cluster.namespace)) or {}
            typed = [{"apiVersion": kind.api_version, "kind": kind.name, **item} for item in found["items"]]
            version = found["metadata"]["resourceVersion"]
            self.cluster.cache.replace(kind, self.cluster.namespace, typed, version)
        for kind, reconciler in ((TRAINING_JOB, self.training), (MODEL_VERSION, self.promotion)):
            for each in self.cluster.objects.list(kind, self.cluster.namespace):
                await self._reconcile(reconciler, self.key(kind, each["metadata"]["name"]))

    async def _reconcile(self, reconciler: Reconciler, key: Key) -> None:
        try:
            await reconciler.reconcile(key)
        except Conflict:
            return

    @property
    def status(self) -> dict[str, Any]:
        found = self.cluster.objects.get(self.key(TRAINING_JOB)) or {}
        return found.get("status") or {}

    def status_of(self, version: str) -> dict[str, Any]:
        found = self.cluster.objects.get(self.key(MODEL_VERSION, version)) or {}
        return found.get("status") or {}

    def pods(self) -> list[Manifest]:
        """Pods that have not ended, oldest first."""
        found = self.cluster.objects.list(POD, self.cluster.namespace)
        alive = [pod for pod in found if pod["status"].get("phase", "Pending") in ("Pending", "Running")]
        return sorted(alive, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    def jobs(self) -> list[Manifest]:
        return list(self.cluster.objects.list(JOB, self.cluster.namespace))

    async def run(self) -> Manifest:
        """The node starts the pod."""
        pod: Manifest = (await self.until(self.pods, "a pod"))[-1]
        await self._set_status(pod, "Running", {"running": {"startedAt": _now()}})
        return pod

    async def end(self, code: int, message: str = "", reason: str = "", **status: Any) -> None:
        """The pod ends."""
        pod = (await self.until(self.pods, "a pod"))[-1]
        state = {"exitCode": code, "reason": reason or ("Completed" if code == 0 else "Error"), "message": message}
        times = {"startedAt": _now(), "finishedAt": _now()}
        await self._set_status(pod, "Succeeded" if code == 0 else "Failed", {"terminated": state | times}, **status)

    async def _set_status(self, pod: Manifest, phase: str, state: dict[str, Any], **more: Any) -> None:
        found = await self.cluster.get(self.key(POD, pod["metadata"]["name"]))
        assert found is not None
        container = found["spec"]["containers"][0]
        status = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
        whole = {"phase": phase, "containerStatuses": [status | {"ready": phase == "Running", "state": state}], **more}
        path = path_of(POD, self.cluster.namespace, pod["metadata"]["name"], "status")
        await self.cluster.api.patch(path, {"status": whole}, MERGE_PATCH)

    async def change_spec(self, **changes: Any) -> None:
        path = path_of(TRAINING_JOB, self.cluster.namespace, NAME)
        await self.cluster.api.patch(path, {"spec": changes}, MERGE_PATCH)

    async def bind(self, pod: Manifest, node: str) -> None:
        """Put the pod on a node, so that a deletion waits for it."""
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod["metadata"]["name"]}}
        path = path_of(POD, self.cluster.namespace, pod["metadata"]["name"], "binding")
        await self.cluster.api.post(path, binding | {"target": {"kind": "Node", "name": node}})

    def reason(self) -> str:
        return str((self.status.get("conditions") or [{"reason": ""}])[0]["reason"])


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def test_from_spec_to_a_version_that_is_ready(scene: Scene) -> None:
    await scene.create(training_manifest(ttlSecondsAfterFinished=3600))
    await scene.run()
    await scene.until(lambda: scene.status.get("phase") == "Running")
    await scene.end(0, result())
    await scene.until(lambda: scene.status_of("connect4-1.0.0").get("phase") == "Validating")
    await scene.run()
    await scene.end(0, verdict())
    await scene.until(lambda: conditions(scene.status) == {"Ready", "Complete"})
    await scene.until(lambda: scene.registry.ended == {"run-1": "FINISHED"})
    await scene.until(lambda: conditions(scene.status_of("connect4-1.0.0")) == {"Ready", "Registered"})
    limits = {job["metadata"]["name"]: job["spec"].get("ttlSecondsAfterFinished") for job in scene.jobs()}
    assert sorted(limits.values()) == [600, 3600]


async def test_suspend_and_resume(scene: Scene) -> None:
    await scene.create(training_manifest(activeDeadlineSeconds=1000))
    first = await scene.run()
    await scene.until(lambda: scene.status.get("resumedAt"))
    await scene.change_spec(suspend=True)
    await scene.until(lambda: scene.status.get("phase") == "Suspended" and not scene.pods())
    assert "resumedAt" not in scene.status
    scene.clock.shift += timedelta(hours=2)
    await scene.change_spec(suspend=False)
    second = await scene.run()
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    await scene.until(lambda: scene.status.get("phase") == "Running")
    (job,) = scene.jobs()
    assert 980 <= job["spec"]["activeDeadlineSeconds"] <= 1000
    assert (job["status"].get("failed") or 0) == 0


async def test_deadline_of_one_run(scene: Scene) -> None:
    await scene.create(training_manifest(activeDeadlineSeconds=2))
    await scene.run()
    await scene.until(lambda: scene.status.get("phase") == "Failed")
    assert scene.reason() == "DeadlineExceeded"
    assert scene.pods() == []


async def test_failure_that_is_useless_to_retry(scene: Scene) -> None:
    await scene.create(training_manifest(backoffLimit=5))
    await scene.run()
    await scene.end(3, failure("DatasetMissing"))
    await scene.until(lambda: scene.status.get("phase") == "Failed")
    assert (scene.reason(), scene.pods()) == ("DatasetMissing", [])


async def test_stopped_pod_does_not_count(scene: Scene) -> None:
    await scene.create(training_manifest(backoffLimit=0))
    await scene.run()
    await scene.end(143)
    await scene.run()
    await scene.until(lambda: scene.status.get("phase") == "Running")
    await scene.end(137, reason="OOMKilled")
    await scene.until(lambda: scene.status.get("phase") == "Failed")
    assert scene.reason() == "OutOfMemory"


async def test_pod_on_a_node_that_does_not_answer(scene: Scene) -> None:
    await scene.create(training_manifest())
    pod = (await scene.until(scene.pods))[-1]
    await scene.bind(pod, "gone")
    await scene.run()
    await scene.cluster.objects.delete(scene.key(POD, pod["metadata"]["name"]))
    await scene.work()
    assert [each["metadata"]["uid"] for each in scene.pods()] == [pod["metadata"]["uid"]]
    scene.clock.shift = timedelta(seconds=130)
    await scene.until(lambda: [each for each in scene.pods() if each["metadata"]["uid"] != pod["metadata"]["uid"]])
    await scene.run()
    await scene.until(lambda: scene.status.get("phase") == "Running")


async def test_job_that_somebody_deleted_comes_back(scene: Scene) -> None:
    await scene.create(training_manifest())
    await scene.run()
    (job,) = await scene.until(scene.jobs)
    await scene.cluster.objects.delete(scene.key(JOB, job["metadata"]["name"]))
    await scene.until(lambda: scene.jobs() and scene.jobs()[0]["metadata"]["uid"] != job["metadata"]["uid"])


async def test_deletion_takes_everything_along(scene: Scene) -> None:
    await scene.create(training_manifest())
    await scene.run()
    await scene.cluster.objects.delete(scene.key(TRAINING_JOB))
    await scene.until(lambda: not scene.jobs() and not scene.pods())


async def test_validation_that_finds_no_source_is_tried_again(scene: Scene) -> None:
    await scene.create(version_manifest())
    await scene.run()
    await scene.end(1, validation_error())
    await scene.until(lambda: scene.status_of("connect4-1.0.0").get("attempts") == 1 and not scene.jobs())
    scene.clock.shift = timedelta(seconds=10)
    await scene.run()
    await scene.end(0, verdict())
    await scene.until(lambda: scene.status_of("connect4-1.0.0").get("phase") == "Ready")
