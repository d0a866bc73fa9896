"""The cluster of a TrainingJob and of ModelVersions in memory.

Jobs, their pods, the garbage collector and MLflow's server are made up; the operator's adapter of MLflow is real, as
is the writer of progress. Every write to the API server and every request to MLflow is checked the moment it is made;
see `TrainingCluster.check` and `TrainingCluster.look`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tests.fakes.api import duplicate
from tests.faults.mlflow_store import InMemory, Json, Store, tags_of
from tests.faults.process import InvariantError, Journal, KilledError, World, live
from tests.training.support import CONFIG, VALIDATION, FakeJobController, result, verdict
from tidegate.adapters.connection import path_of
from tidegate.adapters.kubernetes import KubernetesObjects
from tidegate.adapters.progress import Pending, ProgressWriter
from tidegate.domain.manifests.training_job import MAKER_LABEL
from tidegate.domain.mlflow_names import RESULT_TAG, UID_TAG
from tidegate.domain.progress import ProgressReport
from tidegate.ports import (
    CONFIG_MAP,
    DEPLOYMENT,
    JOB,
    MODEL_VERSION,
    POD,
    TRAINING_JOB,
    Key,
    Kind,
    Manifest,
    Reconciler,
    kind_of,
)
from tidegate.reconcilers.model_version import ModelVersionReconciler
from tidegate.reconcilers.training_job import TrainingJobReconciler

LASTS = 3
"""Seconds that a pod runs."""
FINAL = frozenset({"Succeeded", "Failed", "Ready", "Rejected"})
OUTCOMES = {"Succeeded": "FINISHED", "Failed": "FAILED", None: "KILLED"}
"""How the operator ends a run, by the phase of the TrainingJob; None: it is gone."""
SET_ONCE = ("startedAt", "jobName", "artifact", "modelVersion", "finishedAt", "registryVersion", "validatedAt")


@dataclass(frozen=True)
class Ending:
    """How a pod ends."""

    code: int = 0
    text: str = ""
    reason: str = ""
    lost: bool = False
    """Its node goes with it."""


@dataclass
class Endings:
    """How the pods of one Job end, in their order; every later one ends well."""

    well: Ending
    first: list[Ending] = field(default_factory=list)

    def take(self) -> Ending:
        return self.first.pop(0) if self.first else self.well


class ByKey:
    """The API server as the Job controller of the tests sees it."""

    def __init__(self, api: Journal) -> None:
        self._api = api

    def get(self, key: Key) -> Manifest | None:
        return self._api.objects.get(_path(key))

    def list(self, kind: Kind, namespace: str) -> list[Manifest]:
        return [each for each in self._api.of_kind(kind) if each["metadata"]["namespace"] == namespace]

    def put(self, manifest: Manifest) -> None:
        self._api.put(_path(_key(manifest)), manifest)

    def change(self, key: Key, change: Callable[[Manifest], object]) -> None:
        self._api.change(_path(key), change)

    def remove(self, key: Key) -> None:
        self._api.remove(_path(key))

    def status_of(self, key: Key) -> Json:
        return (self.get(key) or {}).get("status") or {}


class TrainingCluster(World):
    """Everything that survives the operator."""

    def __init__(self, main: Key, *manifests: Manifest) -> None:
        super().__init__(main)
        self.store = Store()
        self.objects = ByKey(self.api)
        self.trainer_ends = Endings(Ending(0, result()))
        self.checks_end = Endings(Ending(0, verdict()))
        self.made: Counter[tuple[str, str]] = Counter()
        """How often an object was made, by kind and name."""
        self._controllers: dict[Key, FakeJobController] = {}
        self._at_work: dict[str, str] = {}
        """Runs in MLflow of trainers that run, by pod."""
        self._reported: dict[str, datetime] = {}
        """When a pod has reported last."""
        for each in manifests:
            self.objects.put(each)
        self.start()

    def build(self, objects: KubernetesObjects) -> Mapping[Kind, Reconciler]:
        rest = (InMemory(self.store, self.look), self.events, self.telemetry, self.clock)
        return {
            TRAINING_JOB: TrainingJobReconciler(objects, objects, *rest, CONFIG),
            MODEL_VERSION: ModelVersionReconciler(objects, *rest, VALIDATION),
        }

    # What people and nodes do

    def delete(self) -> None:
        self.objects.remove(self.main)

    def lose_node(self) -> None:
        """The node of the running pod does not answer; the pod is there until it is given up."""
        (pod,) = self._at_work
        self._at_work.clear()
        gone_by = self.clock.now() - timedelta(seconds=59)
        stamp = {"deletionTimestamp": gone_by.isoformat()}
        self.objects.change(Key(POD, "default", pod), lambda each: each["metadata"].update(stamp))

    # What the cluster does

    def play(self) -> None:
        self._collect_garbage()
        for manifest in self.api.of_kind(JOB):
            self._run_job(manifest)
        self._tell_trainers()
        self._report()

    def _collect_garbage(self) -> None:
        while orphans := self._orphans():
            for path in orphans:
                self.api.remove(path)

    def _orphans(self) -> list[str]:
        alive = {each["metadata"]["uid"] for each in self.api.objects.values()}
        return [path for path, each in self.api.objects.items() if _owners(each) - alive]

    def _run_job(self, manifest: Manifest) -> None:
        key = _key(manifest)
        (container,) = manifest["spec"]["template"]["spec"]["containers"]
        made = FakeJobController(self.objects, self.clock, key, container["name"])  # type: ignore[arg-type]
        controller = self._controllers.setdefault(key, made)
        controller.step()
        for pod in controller.active_pods():
            self._run_pod(controller, pod)

    def _run_pod(self, controller: FakeJobController, pod: Manifest) -> None:
        """A pod runs a second after it was made, and ends in its time."""
        metadata, phase, age = pod["metadata"], pod["status"]["phase"], self._age(pod)
        if "deletionTimestamp" in metadata:
            return
        trains = controller.container == "trainer"
        if phase == "Pending" and age >= 1:
            controller.run()
            if trains:
                self._at_work[metadata["name"]] = self._run_of(controller.job)
                self.store.show(self._at_work[metadata["name"]], "RUNNING")
        elif phase == "Running" and age >= LASTS:
            self._end_pod(controller, metadata["name"], (self.trainer_ends if trains else self.checks_end).take())

    def _end_pod(self, controller: FakeJobController, pod: str, ending: Ending) -> None:
        run = self._at_work.pop(pod, None)
        if run is not None:
            self.store.show(run, "FAILED" if ending.code else "FINISHED")
            if not ending.code:
                self.store.runs[run]["data"]["tags"].append({"key": RESULT_TAG, "value": ending.text})
        controller.end(ending.code, ending.text, ending.reason)
        if ending.lost:
            controller.lose_pods()

    def _run_of(self, job: Key) -> str:
        """What the contract document says."""
        document = self.objects.get(Key(CONFIG_MAP, job.namespace, job.name))
        assert document is not None
        return str(json.loads(document["data"]["job.json"])["mlflow"]["runID"])

    def _tell_trainers(self) -> None:
        """A trainer whose pod is taken away is told to stop, and closes its run."""
        there = {each["metadata"]["name"] for each in self.api.of_kind(POD)}
        for pod in self._at_work.keys() - there:
            self.store.show(self._at_work.pop(pod), "KILLED")

    def _report(self) -> None:
        """Every trainer reports once a second; when the operator dies meanwhile, to the next one.

        It waits until the operator is at rest: which of two things comes first does not depend on who died.
        """
        self.operator.hear()
        for pod in self._at_work:
            if self.operator.is_awake or self._reported.get(pod) == self.clock.now():
                continue
            writer = ProgressWriter(self.operator.objects, self.clock, 2.0)
            age = self._age(self.api.objects[_path(Key(POD, "default", pod))])
            pending = Pending(ProgressReport(percent=25 * age, epoch=age), pod)
            try:
                live(writer._patch(self.main, pending), self.death)
            except KilledError:
                self.kill_operator()
            else:
                self._reported[pod] = self.clock.now()

    def _age(self, pod: Manifest) -> int:
        """In seconds; the Job controller makes no two pods at the same moment."""
        return round((self.clock.now() - datetime.fromisoformat(pod["metadata"]["creationTimestamp"])).total_seconds())

    # What is looked at

    @property
    def versions(self) -> list[str]:
        return sorted(each["metadata"]["name"] for each in self.api.of_kind(MODEL_VERSION))

    def remains(self) -> Json:
        """Return everything as it is in the end; versions count writes, which may be more."""
        left = duplicate(self.api.objects)
        for each in left.values():
            for counted in ("resourceVersion", "generation"):
                each["metadata"].pop(counted, None)
        return left | vars(self.store)

    # Invariants

    def check(self, kind: Kind, before: Manifest | None, after: Manifest | None) -> None:
        """Look at one write to the API server."""
        if after is None:
            return
        if before is None:
            self.made[kind.name, after["metadata"]["name"]] += 1
        if kind in (TRAINING_JOB, MODEL_VERSION):
            _check_status((before or {}).get("status") or {}, after.get("status") or {})
        if kind == JOB:
            self._check_job(before, after)
        if kind == MODEL_VERSION and before is None:
            self._check_maker(after)
        if kind == DEPLOYMENT and before is not None and before["spec"] != after["spec"]:
            self._check_handover(after["spec"]["modelVersion"])

    def _check_job(self, before: Manifest | None, after: Manifest) -> None:
        """A Job is made when its run is written down, and goes by itself when the verdict is."""
        (uid,) = _owners(after)
        owner = self._by_uid(uid)
        status = owner.get("status") or {}
        trains = owner.get("kind") == TRAINING_JOB.name
        if before is None and trains and "runID" not in status.get("mlflow", {}):
            raise InvariantError("a Job is made, and its run is not written down")
        if after["spec"].get("ttlSecondsAfterFinished") is not None and status.get("phase") not in FINAL:
            raise InvariantError("a Job may go, and what it found is not written down")

    def _check_maker(self, version: Manifest) -> None:
        maker = version["metadata"].get("labels", {}).get(MAKER_LABEL)
        made = [each for each in self.api.of_kind(MODEL_VERSION) if maker and maker == _maker(each)]
        if len(made) > 1:
            raise InvariantError(f"one TrainingJob made {len(made)} ModelVersions")

    def _check_handover(self, version: str) -> None:
        found = self.api.objects[path_of(MODEL_VERSION, "default", version)]
        if found.get("status", {}).get("phase") != "Ready":
            raise InvariantError(f"{version} is handed over and is not Ready")

    def look(self, path: str, body: Json) -> None:
        """Look at one request of the operator to MLflow, before it is carried out."""
        if path == "runs/create" and _uid(body) in {_uid(each["data"]) for each in self.store.runs.values()}:
            raise InvariantError(f"{body} gets a second run")
        if path == "runs/update":
            self._check_end(self.store.runs[body["run_id"]], body["status"])
        if path == "model-versions/create":
            known = [each for model in self.store.models.values() for each in model["versions"]]
            if _uid(body) in {_uid(each) for each in known}:
                raise InvariantError(f"{body} gets a second number")
        if path == "registered-models/alias" and body.get("alias") == "champion" and "version" in body:
            self._check_champion(self.store.models[body["name"]]["versions"][int(body["version"]) - 1])

    def _check_end(self, run: Json, outcome: str) -> None:
        job = self._by_uid(_uid(run["data"]))
        phase = (job.get("status") or {}).get("phase") if job else None
        if OUTCOMES.get(phase) != outcome:
            raise InvariantError(f"a run ends as {outcome} while its TrainingJob is {phase}")

    def _check_champion(self, registered: Json) -> None:
        version = self._by_uid(_uid(registered))
        if version["spec"].get("stage") != "Production" or version["status"]["phase"] != "Ready":
            raise InvariantError(f"{version['metadata']['name']} becomes the champion")

    def _by_uid(self, uid: str) -> Manifest:
        return next((each for each in self.api.objects.values() if each["metadata"]["uid"] == uid), {})


def _check_status(before: Json, after: Json) -> None:
    """What was said once holds; nothing goes back."""
    for name in SET_ONCE:
        if name in before and after.get(name) != before[name]:
            raise InvariantError(f"{name} was {before[name]} and is {after.get(name)}")
    if before.get("phase") in FINAL and after["phase"] != before["phase"]:
        raise InvariantError(f"{before['phase']} becomes {after['phase']}")
    if after.get("activeSeconds", 0) < before.get("activeSeconds", 0):
        raise InvariantError("time that was used up comes back")
    true = [each["type"] for each in after.get("conditions", ()) if each["status"] == "True"]
    if len({"Ready", "Reconciling", "Stalled"}.intersection(true)) > 1:
        raise InvariantError(f"{true} hold at once")
    old, new = before.get("progress", {}), after.get("progress", {})
    if old.get("pod") == new.get("pod") and new.get("percent", 0) < old.get("percent", 0):
        raise InvariantError(f"progress goes back from {old} to {new}")


def _path(key: Key) -> str:
    return path_of(key.kind, key.namespace, key.name)


def _key(manifest: Manifest) -> Key:
    return Key(kind_of(manifest), manifest["metadata"]["namespace"], manifest["metadata"]["name"])


def _owners(manifest: Manifest) -> set[str]:
    return {each["uid"] for each in manifest["metadata"].get("ownerReferences", ())}


def _maker(version: Manifest) -> str | None:
    return version["metadata"].get("labels", {}).get(MAKER_LABEL)


def _uid(carrier: Json) -> str:
    return tags_of(carrier)[UID_TAG]
