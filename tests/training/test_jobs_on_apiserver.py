"""What the operator makes, asked for at a real API server under the `restricted` pod security level."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from tests.training.support import (
    CONFIG,
    NOW,
    ROOT,
    SHA,
    SIGNATURE,
    VALIDATION,
    Cluster,
    deployment_manifest,
    result,
    training_job,
    training_manifest,
    verdict,
    version_manifest,
)
from tidegate.api.base import ResourceMeta
from tidegate.api.deployment import Serving
from tidegate.api.model_version import ArtifactReference, ModelPhase, ModelVersion
from tidegate.api.training_job import TrainingJob
from tidegate.domain.jobs import JobOutcome, JobState, PodState, read_job
from tidegate.domain.manifests.serving import Platform, Served, build_serving
from tidegate.domain.manifests.training_job import (
    CONTROL_MANAGER,
    MAKER_LABEL,
    TrainingConfig,
    build_handover,
    build_model_version,
    build_steering,
    build_training,
)
from tidegate.domain.manifests.validation_job import build_expiry, build_validation
from tidegate.domain.promotion import Observed as VersionObserved
from tidegate.domain.promotion import conclude_mirror, plan_model_version
from tidegate.domain.training import NO_DEADLINE, plan_training
from tidegate.domain.training_plan import (
    CreateVersion,
    HandOver,
    Observed,
    Run,
    StartJob,
    SteerJob,
    Target,
    VersionState,
)
from tidegate.domain.training_result import TrainerResult, parse_result
from tidegate.errors import Conflict, TidegateError
from tidegate.ports import DEPLOYMENT, MODEL_VERSION, TRAINING_JOB, Key, Manifest

pytestmark = pytest.mark.apiserver

RUN = Run("1", "run-1", ROOT)
LONGEST = "t" * 240 + ".with.dots"


def in_namespace(job: TrainingJob, cluster: Cluster) -> TrainingJob:
    """The same job as if it were stored there."""
    return job.model_copy(update={"metadata": job.metadata.model_copy(update={"namespace": cluster.namespace})})


def as_pod(job: Manifest, namespace: str) -> Manifest:
    """The pod that the Job controller would make."""
    template = copy.deepcopy(job["spec"]["template"])
    metadata = template["metadata"] | {"name": "trial", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


@pytest.mark.parametrize(
    ("job", "deadline"),
    [
        (training_job(), None),
        (training_job(LONGEST), 100),
        (training_job(resources={"cpu": "500m", "memory": "1Gi", "gpus": 2}), None),
        (training_job(resources={}), None),
        (training_job(trainer={"image": "mine:1", "command": ["train"], "args": ["-v"], "config": {}}), 5),
        (training_job(trainer={"image": "mine:1", "env": [{"name": "HOME", "value": "/nowhere"}]}), None),
    ],
    ids=["plain", "longest name", "gpu", "no resources", "own command", "own environment"],
)
async def test_training_is_accepted(cluster: Cluster, job: TrainingJob, deadline: int | None) -> None:
    placed = in_namespace(job, cluster)
    for config in (CONFIG, TrainingConfig(image="t", artifact_root="s3://b")):
        config_map, made = build_training(placed, StartJob(RUN, deadline), config)
        for manifest in (config_map, made, as_pod(made, cluster.namespace)):
            await cluster.try_create(manifest)


@pytest.mark.parametrize("name", ["connect4-1.0.0", f"connect4-{'9' * 240}"])
async def test_validation_is_accepted(cluster: Cluster, name: str) -> None:
    manifest = version_manifest(
        name, version="1.0.0", validation={"resources": {"cpu": "1", "memory": "1Gi", "gpus": 1}}
    )
    version = ModelVersion.model_validate(manifest)
    metadata = ResourceMeta(name=name, namespace=cluster.namespace, uid="u")
    config_map, job = build_validation(version.model_copy(update={"metadata": metadata}), VALIDATION)
    for each in (config_map, job, as_pod(job, cluster.namespace)):
        await cluster.try_create(each)
    assert "nvidia.com/gpu" not in str(job)


async def test_pods_get_the_pull_secrets_of_the_namespaces_account(cluster: Cluster) -> None:
    """What docs/troubleshooting.md and the chart's values promise."""
    account = {"imagePullSecrets": [{"name": "registry"}]}
    cluster.server.kubectl("patch", "serviceaccount", "default", f"-n={cluster.namespace}", f"-p={json.dumps(account)}")
    _, training = build_training(in_namespace(training_job(), cluster), StartJob(RUN, None), CONFIG)
    placed = ResourceMeta(name="connect4-1.0.0", namespace=cluster.namespace, uid="u")
    version = ModelVersion.model_validate(version_manifest()).model_copy(update={"metadata": placed})
    _, validation = build_validation(version, VALIDATION)
    artifact = ArtifactReference(uri="s3://b/m.onnx", sha256=SHA)
    served = Served(cluster.namespace, "connect4", "u", "connect4-1.0.0", artifact, None, Serving())
    workload = build_serving(served, Platform("agent:1", "triton:1"), 1)
    for made in (training, validation, workload):
        pod = await cluster.try_create(as_pod(made, cluster.namespace))
        assert pod["spec"]["serviceAccountName"] == "default"
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
        assert pod["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "tidegate"


async def test_pod_of_a_gpu_job(cluster: Cluster) -> None:
    job = in_namespace(training_job(resources={"gpus": 2}), cluster)
    pod = await cluster.try_create(as_pod(build_training(job, StartJob(RUN, None), CONFIG)[1], cluster.namespace))
    (container,) = pod["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert pod["spec"]["runtimeClassName"] == "nvidia"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["spec"]["tolerations"]


async def test_pod_runs_where_it_is_wanted(cluster: Cluster) -> None:
    wishes = {"nodeSelector": {"pool": "training"}, "tolerations": [{"key": "pool", "operator": "Exists"}]}
    job = in_namespace(training_job(scheduling=wishes), cluster)
    pod = await cluster.try_create(as_pod(build_training(job, StartJob(RUN, None), CONFIG)[1], cluster.namespace))
    assert pod["spec"]["nodeSelector"] == {"pool": "training"}
    assert wishes["tolerations"][0] in pod["spec"]["tolerations"]


async def test_pod_has_one_token_and_no_rights(cluster: Cluster) -> None:
    job = in_namespace(training_job(), cluster)
    pod = await cluster.try_create(as_pod(build_training(job, StartJob(RUN, None), CONFIG)[1], cluster.namespace))
    tokens = [
        source["serviceAccountToken"]
        for volume in pod["spec"]["volumes"]
        for source in (volume.get("projected") or {}).get("sources", ())
        if "serviceAccountToken" in source
    ]
    assert [token["audience"] for token in tokens] == ["tidegate-progress"]
    assert pod["spec"]["automountServiceAccountToken"] is False


async def stored_job(cluster: Cluster, **spec: Any) -> tuple[TrainingJob, Manifest]:
    """A TrainingJob and its Job as they are stored."""
    job = TrainingJob.model_validate(await cluster.create(training_manifest(**spec)))
    start = StartJob(RUN, job.spec.active_deadline_seconds)
    config_map, made = build_training(job, start, CONFIG)
    await cluster.objects.apply(config_map)
    return job, await cluster.objects.apply(made)


async def test_job_is_steered_without_touching_its_template(cluster: Cluster) -> None:
    job, before = await stored_job(cluster, activeDeadlineSeconds=100)
    steps = [
        (SteerJob(suspend=True, deadline=100), (True, 100, None)),
        (SteerJob(suspend=False, deadline=60), (False, 60, None)),
        (SteerJob(suspend=False, deadline=NO_DEADLINE), (False, NO_DEADLINE, None)),
        (SteerJob(suspend=False, deadline=NO_DEADLINE, ttl=7), (False, NO_DEADLINE, 7)),
    ]
    for steer, expected in steps:
        live = await cluster.objects.apply(build_steering(job, steer), field_manager=CONTROL_MANAGER)
        state = read_job(live)
        assert (state.suspended, state.deadline, state.ttl) == expected
        assert live["spec"]["template"] == before["spec"]["template"]
    assert read_job(live).owner_uid == job.metadata.uid


async def test_expiry_of_a_validation(cluster: Cluster) -> None:
    version = ModelVersion.model_validate(await cluster.create(version_manifest()))
    for manifest in build_validation(version, VALIDATION):
        await cluster.objects.apply(manifest)
    live = await cluster.objects.apply(build_expiry(version, 600), field_manager=CONTROL_MANAGER)
    assert read_job(live).ttl == 600


async def test_made_version_is_accepted_and_made_once(cluster: Cluster) -> None:
    base = {"baseModelVersion": "connect4-0.1.0", "evaluation": {"gates": [{"metric": "moveAccuracy", "min": 0.8}]}}
    job = TrainingJob.model_validate(await cluster.create(training_manifest(**base)))
    parsed = parse_result(result())
    assert isinstance(parsed, TrainerResult)
    manifest = build_model_version(job, CreateVersion("connect4-1.0.0", "1.0.0", parsed))
    made = ModelVersion.model_validate(await cluster.objects.create(manifest))
    assert made.spec == ModelVersion.model_validate(manifest).spec
    with pytest.raises(Conflict):
        await cluster.objects.create(manifest)


async def test_handover_sets_one_field(cluster: Cluster) -> None:
    manifest = deployment_manifest("connect4-1.0.0")
    manifest["spec"] |= {"serving": {"replicas": 2}, "strategy": {"type": "Immediate"}}
    before = await cluster.create(manifest)
    target = Target("connect4", before["metadata"]["uid"], "connect4-1.0.0", None)
    handover = build_handover(cluster.namespace, HandOver(target, "connect4-1.1.0"))
    after = await cluster.objects.apply(handover, field_manager="tidegate-handover")
    assert after["spec"] == before["spec"] | {"modelVersion": "connect4-1.1.0"}


async def test_handover_never_makes_a_deployment(cluster: Cluster) -> None:
    gone = Target("connect4", "00000000-0000-0000-0000-000000000000", "connect4-1.0.0", None)
    handover = build_handover(cluster.namespace, HandOver(gone, "connect4-1.1.0"))
    with pytest.raises(TidegateError):
        await cluster.objects.apply(handover, field_manager="tidegate-handover")
    assert await cluster.get(Key(DEPLOYMENT, cluster.namespace, "connect4")) is None
    await cluster.create(deployment_manifest("connect4-1.0.0"))
    with pytest.raises(TidegateError):
        await cluster.objects.apply(handover, field_manager="tidegate-handover")


def without_absent(status: Any) -> Any:
    """A status as the API server returns it: empty defaults may be there or not."""
    return {key: value for key, value in status.items() if value not in ({}, [], "")}


async def test_whole_training_status_is_stored(cluster: Cluster) -> None:
    """No field of the status is unknown to the CRD."""
    manifest = await cluster.create(training_manifest(output={"deploy": {"name": "nothing"}}))
    status = {
        "progress": {"percent": 42.5, "epoch": 4, "metrics": {"loss": 1.02}, "pod": "p", "updatedAt": NOW.isoformat()},
        "mlflow": {"experimentID": "1", "runID": "r", "artifactURI": ROOT, "endedAs": "FINISHED"},
        "startedAt": NOW.isoformat(),
        "modelVersion": "connect4-1.0.0",
        "signature": SIGNATURE,
        "artifact": {"uri": "s3://b/m", "sha256": "a" * 64, "sizeBytes": 5},
    }
    job = TrainingJob.model_validate(manifest | {"status": status})
    made = build_model_version(job, CreateVersion("connect4-1.0.0", "1.0.0", parse_result(result())))  # type: ignore[arg-type]
    version = await cluster.objects.create(made)
    ready = _version_state(version)
    plan = plan_training(job, Observed(versions=(ready,)), NOW)
    assert plan.status.handover is not None
    await _check_status(
        cluster, Key(TRAINING_JOB, cluster.namespace, job.metadata.name), manifest, plan.status.to_json()
    )


async def test_whole_version_status_is_stored(cluster: Cluster) -> None:
    manifest = await cluster.create(version_manifest(stage="Production"))
    version = ModelVersion.model_validate(manifest)
    pod = _finished_validation()
    plan = plan_model_version(version, VersionObserved(job=_complete(), pods=(pod,)), NOW)
    status = plan.status.model_copy(update={"attempts": 2, "crashes": 1, "retry_at": NOW})
    plan = conclude_mirror(replace(plan, status=status), "7", NOW)
    await _check_status(
        cluster, Key(MODEL_VERSION, cluster.namespace, "connect4-1.0.0"), manifest, plan.status.to_json()
    )


async def _check_status(cluster: Cluster, key: Key, manifest: Manifest, status: dict[str, Any]) -> None:
    await cluster.objects.patch_status(manifest, status)
    stored = await cluster.get(key)
    assert stored is not None
    assert without_absent(stored["status"]) == without_absent(status)


def _version_state(manifest: Manifest) -> VersionState:
    """The version as the reconciler of the TrainingJob sees it once it is Ready."""
    maker = manifest["metadata"]["labels"][MAKER_LABEL]
    spec = manifest["spec"]
    return VersionState(manifest["metadata"]["name"], spec["model"], spec["version"], ModelPhase.READY, maker=maker)


def _complete() -> JobState:
    return JobState("v", "j", "u", NOW, suspended=False, outcome=JobOutcome.COMPLETE)


def _finished_validation() -> PodState:
    return PodState("p", "u", "j", NOW, phase="Succeeded", exit_code=0, termination_message=verdict())
