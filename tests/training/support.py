"""Objects, fakes and a Job controller for the tests of TrainingJob and ModelVersion."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from dev.cluster.apiserver import ApiServer
from tests.fakes.world import FakeClock, FakeEvents, FakeObjects, FakeTelemetry, key_of
from tidegate.adapters.cache import ObjectCache
from tidegate.adapters.clock import SystemClock
from tidegate.adapters.connection import ApiConnection, path_of
from tidegate.adapters.credentials import load_credentials
from tidegate.adapters.kubernetes import KubernetesObjects, KubernetesTokenReviews
from tidegate.api.training_job import TrainingJob
from tidegate.domain.manifests import names
from tidegate.domain.manifests.training_job import TrainingConfig
from tidegate.domain.manifests.validation_job import ValidationConfig
from tidegate.domain.training_plan import Run
from tidegate.errors import Conflict, Unavailable
from tidegate.ports import JOB, MODEL_VERSION, POD, TRAINING_JOB, Key, Manifest, Reconciler, Requeue, kind_of
from tidegate.reconcilers.model_version import ModelVersionReconciler
from tidegate.reconcilers.training_job import TrainingJobReconciler

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHA = "a" * 64
ROOT = "mlflow-artifacts:/1/run-1/artifacts"
CONFIG = TrainingConfig(image="trainer:test", mlflow_url="http://mlflow:5000", gpu_runtime_class="nvidia")
VALIDATION = ValidationConfig(image="agent:test", mlflow_url="http://mlflow:5000")
SIGNATURE = {
    "inputs": [{"name": "board", "dataType": "FP32", "shape": [-1, 3, 6, 7]}],
    "outputs": [{"name": "policy", "dataType": "FP32", "shape": [-1, 7]}],
}


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def training_spec(**changes: Any) -> dict[str, Any]:
    """A spec as a user writes it."""
    return {
        "model": "connect4",
        "trainer": {"algorithm": "supervised", "config": {"blocks": 2, "epochs": 3}},
        "datasets": [{"name": "positions", "uri": "builtin://connect4-solved"}],
        "resources": {"cpu": "2", "memory": "4Gi"},
        **changes,
    }


def training_manifest(name: str = "connect4-policy", status: Any = None, **spec: Any) -> Manifest:
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name, "namespace": "default", "uid": "uid-1", "generation": 1},
        "spec": training_spec(**spec),
        "status": status or {},
    }


def training_job(name: str = "connect4-policy", status: Any = None, **spec: Any) -> TrainingJob:
    return TrainingJob.model_validate(training_manifest(name, status, **spec))


def version_manifest(name: str = "connect4-1.0.0", status: Any = None, **spec: Any) -> Manifest:
    model, _, version = name.partition("-")
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": name, "namespace": "default", "uid": "uid-mv", "generation": 1},
        "spec": {
            "model": model,
            "version": version,
            "artifact": {"uri": f"{ROOT}/model/model.onnx", "sha256": SHA, "format": "ONNX"},
            **spec,
        },
        "status": status or {},
    }


def deployment_manifest(wanted: str, stable: str | None = None, name: str = "connect4") -> Manifest:
    status = {"stable": {"modelVersion": stable, "digest": SHA, "percent": 100}} if stable else {}
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"modelVersion": wanted},
        "status": status,
    }


def result(**changes: Any) -> str:
    """The termination message of a trainer that succeeded."""
    return json.dumps(
        {
            "outcome": "Succeeded",
            "artifact": {"uri": f"{ROOT}/model/model.onnx", "sha256": SHA, "sizeBytes": 1234, "format": "ONNX"},
            "parity": {"uri": f"{ROOT}/model/parity.npz", "sha256": "b" * 64},
            "goldenSet": {"uri": f"{ROOT}/model/golden.npz", "sha256": "c" * 64},
            "signature": SIGNATURE,
            "metrics": {"moveAccuracy": 0.93, "randomMoveAccuracy": 0.62},
            "parityMaxAbsDifference": 1e-6,
            "mlflowRunID": "run-1",
            "code": "0.1.0",
            "datasets": [{"name": "positions", "sha256": "d" * 64}],
            "manifestURI": f"{ROOT}/model/manifest.json",
            **changes,
        }
    )


def failure(reason: str = "NaNLoss", *, retryable: bool = False) -> str:
    message = "the loss is not a number; lower learningRate"
    return json.dumps({"outcome": "Failed", "reason": reason, "message": message, "retryable": retryable})


def verdict(outcome: str = "Passed", failed: str | None = None, **changes: Any) -> str:
    """The termination message of a validation pod."""
    order = ("Checksum", "Loadable", "Signature", "FiniteOutputs", "Parity", "Latency", "GoldenSet")
    checks, seen = [], False
    for name in order:
        outcome_of_check = "Failed" if name == failed else "Skipped" if seen else "Passed"
        seen = seen or name == failed
        checks.append({"name": name, "outcome": outcome_of_check, "message": f"{name} said so", "measured": 1.5})
    metrics = {"moveAccuracy": 0.94, "latencyP99Milliseconds": 0.8}
    return json.dumps({"outcome": outcome, "checks": checks, "metrics": metrics, **changes})


def validation_error(reason: str = "ArtifactUnavailable", *, retryable: bool = True) -> str:
    said = {"reason": reason, "message": "the artifact cannot be had", "retryable": retryable}
    return json.dumps({"outcome": "Error", **said})


class Died(Exception):
    """The operator was killed."""


class FakeRegistry:
    """An MLflow in memory that can be away."""

    def __init__(self) -> None:
        self.away = False
        self.runs: dict[str, str] = {}
        """Run by the uid of its object."""
        self.ended: dict[str, str] = {}
        self.results: dict[str, str] = {}
        self.versions: dict[tuple[str, str], str] = {}
        self.aliases: dict[tuple[str, str], str] = {}

    async def ensure_run(self, experiment: str, uid: str, tags: Mapping[str, str]) -> Run:
        self._answer()
        run_id = self.runs.setdefault(uid, f"run-{len(self.runs) + 1}")
        return Run("1", run_id, f"mlflow-artifacts:/1/{run_id}/artifacts")

    async def recorded_result(self, run_id: str) -> str | None:
        self._answer()
        return self.results.get(run_id)

    async def end_run(self, run_id: str, outcome: str) -> None:
        self._answer()
        self.ended[run_id] = str(outcome)

    async def ensure_version(
        self, model: str, uid: str, source: str, run_id: str | None, tags: Mapping[str, str]
    ) -> str:
        self._answer()
        return self.versions.setdefault((model, uid), str(len(self.versions) + 1))

    async def set_stage(
        self, model: str, version: str, stage: str, aliases: Sequence[str], managed: Sequence[str]
    ) -> None:
        self._answer()
        for alias in managed:
            if alias in aliases:
                self.aliases[model, alias] = version
            elif self.aliases.get((model, alias)) == version:
                del self.aliases[model, alias]

    def _answer(self) -> None:
        if self.away:
            raise Unavailable("MLflowUnavailable", "connection refused")


class FakeJobController:
    """What kube-controller-manager, the scheduler and a kubelet do to one Job."""

    def __init__(self, world: FakeObjects, clock: FakeClock, job: Key, container: str) -> None:
        self.world = world
        self.clock = clock
        self.job = job
        self.container = container
        self._count = 0

    def step(self) -> None:
        """Bring status and pods of the Job to what its spec asks for."""
        manifest = self.world.get(self.job)
        if manifest is None or self._finished(manifest):
            return
        status = manifest.get("status") or {}
        if manifest["spec"].get("suspend"):
            self._suspend()
        elif not status.get("startTime"):
            self._set({"startTime": self._time(), "conditions": []})
        manifest = self.world.get(self.job)
        if manifest and not manifest["spec"].get("suspend") and not self.active_pods():
            self._create_pod(manifest)

    def run(self) -> None:
        """Let the newest pod run."""
        self._container_state({"running": {"startedAt": self._time()}}, "Running")

    def wait(self, reason: str, message: str = "") -> None:
        self._container_state({"waiting": {"reason": reason, "message": message}}, "Pending")

    def refuse_to_schedule(self, message: str) -> None:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self._change_pod(lambda pod: pod["status"].update(conditions=[condition]))

    def end(self, code: int, message: str = "", reason: str = "") -> None:
        """Let the newest pod end, and the Job with it if its policy says so."""
        state = {"exitCode": code, "message": message, "reason": reason or ("Completed" if code == 0 else "Error")}
        self._container_state({"terminated": state}, "Succeeded" if code == 0 else "Failed")
        manifest = self.world.get(self.job) or {}
        failed = (manifest.get("status") or {}).get("failed", 0)
        if code == 0:
            self._finish("Complete", "CompletionsReached", "")
        elif code == 3:
            self._finish("Failed", "PodFailurePolicy", "exit code 3")
        elif code != 143:
            self._set({"failed": failed + 1})
            if failed + 1 > manifest["spec"]["backoffLimit"]:
                self._finish("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    def exceed_deadline(self) -> None:
        for pod in self.active_pods():
            self.world.remove(key_of(pod))
        self._finish("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")

    def lose_pods(self) -> None:
        """The node is gone, and its pods with it."""
        for pod in self.pods():
            self.world.remove(key_of(pod))

    def delete_pod(self, gone_by: datetime) -> None:
        """The newest pod is being deleted, but its node does not answer."""
        self._change_pod(lambda pod: pod["metadata"].update(deletionTimestamp=gone_by.isoformat()))

    def pods(self) -> list[Manifest]:
        uid = (self.world.get(self.job) or {"metadata": {}})["metadata"].get("uid")
        found = self.world.list(POD, self.job.namespace)
        mine = [pod for pod in found if pod["metadata"]["ownerReferences"][0]["uid"] == uid]
        return sorted(mine, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def active_pods(self) -> list[Manifest]:
        return [pod for pod in self.pods() if pod["status"]["phase"] in ("Pending", "Running")]

    def _create_pod(self, job: Manifest) -> None:
        self._count += 1
        template = copy.deepcopy(job["spec"]["template"])
        owner = {"apiVersion": "batch/v1", "kind": "Job", "controller": True}
        metadata = template["metadata"] | {
            "name": f"{job['metadata']['name']}-{self._count:03d}",
            "namespace": self.job.namespace,
            "creationTimestamp": (self.clock.now() + timedelta(microseconds=self._count)).isoformat(),
            "ownerReferences": [owner | {"name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}],
        }
        status = {"phase": "Pending", "containerStatuses": []}
        self.world.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": status})

    def _suspend(self) -> None:
        for pod in self.active_pods():
            self.world.remove(key_of(pod))
        conditions = (self.world.status_of(self.job)).get("conditions") or []
        if not any(each["type"] == "Suspended" for each in conditions):
            suspended = {"type": "Suspended", "status": "True", "lastTransitionTime": self._time()}
            self._set({"startTime": None, "conditions": [suspended]})

    def _finish(self, kind: str, reason: str, message: str) -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        self._set({"conditions": [condition | {"lastTransitionTime": self._time()}]})

    def _finished(self, manifest: Manifest) -> bool:
        conditions = (manifest.get("status") or {}).get("conditions") or ()
        return any(each["type"] in ("Complete", "Failed") for each in conditions)

    def _container_state(self, state: dict[str, Any], phase: str) -> None:
        status = {"name": self.container, "state": state}
        self._change_pod(lambda pod: pod["status"].update(phase=phase, containerStatuses=[status], conditions=[]))

    def _change_pod(self, change: Any) -> None:
        pods = self.active_pods()
        if pods:
            self.world.change(key_of(pods[-1]), change)

    def _set(self, changes: dict[str, Any]) -> None:
        self.world.change(self.job, lambda job: job.update(status={**(job.get("status") or {}), **changes}))

    def _time(self) -> str:
        return self.clock.now().isoformat()


def training_key(name: str = "connect4-policy") -> Key:
    return Key(TRAINING_JOB, "default", name)


def version_key(name: str = "connect4-1.0.0") -> Key:
    return Key(MODEL_VERSION, "default", name)


def job_key(name: str = "connect4-policy") -> Key:
    return Key(JOB, "default", names.training_job(name))


def validation_key(name: str = "connect4-1.0.0") -> Key:
    return Key(JOB, "default", names.validation_job(name))


class Simulation:
    """A world with both reconcilers, as they are after a start of the operator, and the controllers around them."""

    def __init__(self, *manifests: Manifest, config: TrainingConfig = CONFIG) -> None:
        self.world = FakeObjects(*manifests)
        self.clock = FakeClock(NOW)
        self.registry = FakeRegistry()
        self.events = FakeEvents()
        self.telemetry = FakeTelemetry()
        self.config = config
        self.killed = False
        self.start()
        self.trainer = FakeJobController(self.world, self.clock, job_key(), "trainer")
        self.validator = FakeJobController(self.world, self.clock, validation_key(), "validate")

    def start(self) -> None:
        """(Re)start the operator: what it had in memory is gone."""
        rest = (self.registry, self.events, self.telemetry, self.clock)
        self.training = TrainingJobReconciler(self.world, self.world, *rest, self.config)
        self.promotion = ModelVersionReconciler(self.world, *rest, VALIDATION)

    def kill_at(self, number: int, when: str) -> None:
        """Kill the operator at its n-th write request: before it goes out, or before the answer is read."""

        def die(verb: str, key: Key) -> Exception | None:
            self.killed = self.killed or len(self.world.requests) == number
            return Died() if len(self.world.requests) == number else None

        if when == "before":
            self.world.fault = die
        else:
            self.world.lose_answer = die

    async def settle(self, kind: str, key: Key, controller: FakeJobController) -> Requeue | None:
        """Reconcile until nothing changes any more; return when to look again.

        As in the work queue: what the reconciler itself has written wakes nobody.
        """
        for _ in range(30):
            requeue = await self.reconcile(getattr(self, kind), key)
            before = self.world.serial
            controller.step()
            at_once = requeue is not None and requeue.after == timedelta(0)
            if self.world.serial == before and not at_once:
                return requeue
        raise AssertionError(f"no end in sight: {self.world.requests[-6:]}")

    async def reconcile(self, reconciler: Reconciler, key: Key) -> Requeue | None:
        """As the work queue does it; after a death the operator is started again."""
        try:
            return await reconciler.reconcile(key)
        except Conflict:
            return Requeue(timedelta(0))
        except Died:
            self.start()
            return Requeue(timedelta(0))

    async def train(self) -> Requeue | None:
        return await self.settle("training", training_key(), self.trainer)

    async def validate(self) -> Requeue | None:
        return await self.settle("promotion", version_key(), self.validator)

    @property
    def status(self) -> dict[str, Any]:
        return self.world.status_of(training_key())

    def versions(self) -> list[str]:
        return [each["metadata"]["name"] for each in self.world.list(MODEL_VERSION, "default")]

    def set_version_phase(self, name: str, phase: str, **status: Any) -> None:
        self.world.change(version_key(name), lambda found: found.update(status={"phase": phase, **status}))


def conditions(status: Mapping[str, Any]) -> set[str]:
    """Names of the conditions that are True."""
    return {each["type"] for each in status["conditions"] if each["status"] == "True"}


class Cluster:
    """The operator's own adapters on the API server that KUBECONFIG names, in one namespace."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.server = server
        self.namespace = namespace
        self.clock = SystemClock()
        self.api = ApiConnection(load_credentials())
        self.cache = ObjectCache()
        self.objects = KubernetesObjects(self.api, self.cache, self.clock)
        self.tokens = KubernetesTokenReviews(self.api)

    async def close(self) -> None:
        await self.api.close()

    async def create(self, manifest: Manifest) -> Manifest:
        """Create an object of whatever kind in this namespace."""
        metadata = {key: value for key, value in manifest["metadata"].items() if key not in ("uid", "generation")}
        whole = manifest | {"metadata": metadata | {"namespace": self.namespace}}
        return await self.objects.create({key: value for key, value in whole.items() if key != "status"})

    async def get(self, key: Key) -> Manifest | None:
        """Read what is really stored."""
        return await self.api.get(path_of(key.kind, key.namespace, key.name))

    async def try_create(self, manifest: Manifest) -> Manifest:
        """Ask whether the API server would take it: no unknown field, nothing that admission refuses."""
        kind = kind_of(manifest)
        path = path_of(kind, self.namespace)
        return await self.api.post(f"{path}?dryRun=All&fieldValidation=Strict", manifest)

    def token(self, *arguments: str) -> str:
        """A token of the default service account."""
        return self.server.kubectl("create", "token", "default", f"--namespace={self.namespace}", *arguments).strip()

    async def create_pod(self, job: Manifest, name: str) -> Manifest:
        """What the Job controller would do."""
        metadata = job["metadata"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
        template = copy.deepcopy(job["spec"]["template"])
        own = {"name": name, "namespace": self.namespace, "ownerReferences": [owner | {"controller": True}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"] | own, "spec": template["spec"]}
        return await self.objects.create(pod)
