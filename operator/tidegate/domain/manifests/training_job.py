"""The children of a TrainingJob: the contract document in a ConfigMap, the Job, and at the end the ModelVersion."""

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from tidegate.api.model_version import (
    GoldenSet,
    Lineage,
    ModelVersionSpec,
    ParityRecord,
    Validation,
)
from tidegate.api.training_job import TrainingJob
from tidegate.domain.manifests import names
from tidegate.domain.manifests.job import (
    DOCUMENT_FOLDER,
    JobFrame,
    build_config_map,
    build_container,
    build_job,
    scratch,
)
from tidegate.domain.manifests.placement import place_pod
from tidegate.domain.training_plan import BaseVersion, CreateVersion, HandOver, Run, StartJob, SteerJob
from tidegate.domain.training_result import TrainerResult

__all__ = [
    "AUDIENCE",
    "CONTAINER",
    "CONTROL_MANAGER",
    "MAKER_LABEL",
    "MODEL_LABEL",
    "TrainingConfig",
    "build_document",
    "build_handover",
    "build_model_version",
    "build_steering",
    "build_training",
]

CONTAINER = "trainer"
AUDIENCE = "tidegate-progress"
"""Audience of the pod's token: the progress API takes it, and nothing else does."""
MAKER_LABEL = "tidegate.dev/training-job-uid"
MODEL_LABEL = "tidegate.dev/model"
CONTROL_MANAGER = "tidegate-control"
"""Field manager of what changes in a running Job, so that its template need not be built again."""
DOCUMENT = "job.json"
TOKEN_FOLDER = "/var/run/secrets/tidegate"
TOKEN_SECONDS = 3600
GRACE_SECONDS = 60
"""Time to write a checkpoint after SIGTERM."""
CUSTOM = "custom"
"""Name of the algorithm in the document of a user's own image."""
SMALLEST_TOLERANCE, LARGEST_TOLERANCE = 1e-4, 1e-3
TOLERATED_GROWTH = 10
"""How much larger than in the trainer the difference may be on another machine."""


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """What the installation says about trainings."""

    image: str
    """Image of the built-in trainer."""
    image_pull_policy: str = "IfNotPresent"
    mlflow_url: str | None = None
    progress_url: str = "http://tidegate-operator.tidegate-system:8081"
    gpu_runtime_class: str | None = None
    artifact_root: str | None = None
    """Where files go when there is no MLflow."""


def build_training(job: TrainingJob, start: StartJob, config: TrainingConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return ConfigMap and Job."""
    frame = _frame(job)
    document = build_document(job, start.run, start.base, config)
    folder = _document_volume(frame)
    work, temporary = scratch("work", "/work"), scratch("tmp", "/tmp")
    container = _container(job, config, [folder[1], _TOKEN_MOUNT, work[1], temporary[1]])
    limits = {"activeDeadlineSeconds": start.deadline} if start.deadline is not None else {}
    made = build_job(
        frame,
        container,
        [folder[0], _TOKEN_VOLUME, work[0], temporary[0]],
        backoff_limit=job.spec.backoff_limit,
        grace_seconds=GRACE_SECONDS,
        pod=place_pod(job.spec.scheduling, job.spec.resources.gpus, config.gpu_runtime_class),
        job={"suspend": False} | limits,
    )
    return build_config_map(frame, DOCUMENT, json.dumps(document, indent=1)), made


def build_document(job: TrainingJob, run: Run, base: BaseVersion | None, config: TrainingConfig) -> dict[str, Any]:
    """Return the contract document: everything that a trainer is told."""
    spec, metadata = job.spec, job.metadata
    root = run.artifact_uri.rstrip("/")
    return {
        "contractVersion": "v1",
        "namespace": metadata.namespace,
        "name": metadata.name,
        "uid": metadata.uid,
        "model": spec.model,
        "trainer": {"algorithm": spec.trainer.algorithm or CUSTOM, "config": spec.trainer.config},
        "datasets": [{"name": each.name, "uri": each.uri, "sha256": each.sha256} for each in spec.datasets],
        "baseModel": {"uri": base.uri, "sha256": base.sha256} if base else None,
        "checkpoint": {
            "intervalSeconds": spec.checkpoint.interval.total_seconds(),
            "keep": spec.checkpoint.keep,
            "uri": f"{root}/checkpoints",
        },
        "artifact": {"uri": f"{root}/model"},
        "mlflow": _describe_run(run, config),
        "progress": _describe_progress(job, config),
        "seed": spec.seed,
        "resources": _describe_resources(job),
        "distributed": {"nodes": 1, "processesPerNode": 1},
    }


def build_steering(job: TrainingJob, steer: SteerJob) -> dict[str, Any]:
    """Return the few fields of the Job that change while it runs, for the field manager CONTROL_MANAGER."""
    fields = {
        "suspend": steer.suspend,
        "activeDeadlineSeconds": steer.deadline,
        "ttlSecondsAfterFinished": steer.ttl,
    }
    name = {"name": names.training_job(job.metadata.name), "namespace": job.metadata.namespace}
    spec = {field: value for field, value in fields.items() if value is not None}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": name, "spec": spec}


def build_model_version(job: TrainingJob, create: CreateVersion) -> dict[str, Any]:
    """Return the ModelVersion of a result. It has no owner: it outlives its TrainingJob."""
    spec = ModelVersionSpec(
        model=job.spec.model,
        version=create.version,
        artifact=create.result.artifact,
        lineage=_lineage(job, create.result),
        signature=create.result.signature,
        validation=_validation(job, create.result),
    )
    labels = names.MANAGED_BY | {
        names.TRAINING_JOB_LABEL: names.label_value(job.metadata.name),
        MAKER_LABEL: job.metadata.uid,
        MODEL_LABEL: job.spec.model,
    }
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": create.name, "namespace": job.metadata.namespace, "labels": labels},
        "spec": spec.to_json(),
    }


def build_handover(namespace: str, handover: HandOver) -> dict[str, Any]:
    """Return the one field of the Deployment that is set; the uid makes sure that it is not made anew if it is gone."""
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "Deployment",
        "metadata": {"name": handover.target.name, "namespace": namespace, "uid": handover.target.uid},
        "spec": {"modelVersion": handover.model_version},
    }


# ---- Parts of the Job ------------------------------------------------------------------------------------------------


_TOKEN_VOLUME: dict[str, Any] = {
    "name": "token",
    "projected": {
        "sources": [
            {"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"}}
        ]
    },
}
_TOKEN_MOUNT: dict[str, Any] = {"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True}


def _frame(job: TrainingJob) -> JobFrame:
    metadata = job.metadata
    labels = names.child_labels("training", {names.TRAINING_JOB_LABEL: metadata.name})
    name = names.training_job(metadata.name)
    return JobFrame(name, metadata.namespace, names.Owner("TrainingJob", metadata.name, metadata.uid), labels)


def _document_volume(frame: JobFrame) -> tuple[dict[str, Any], dict[str, Any]]:
    volume = {"name": "document", "configMap": {"name": frame.name}}
    return volume, {"name": "document", "mountPath": DOCUMENT_FOLDER, "readOnly": True}


def _container(job: TrainingJob, config: TrainingConfig, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    trainer = job.spec.trainer
    image, own = trainer.image or config.image, trainer.image is not None
    container = build_container(CONTAINER, image, config.image_pull_policy, job.spec.resources, read_only=not own)
    container |= {"env": _environment(job, config), "volumeMounts": mounts}
    if not own:
        return container | {"command": ["python", "-m", "tidegate_trainer"]}
    given = {"command": trainer.command, "args": trainer.args}
    return container | {key: list(value) for key, value in given.items() if value is not None}


def _environment(job: TrainingJob, config: TrainingConfig) -> list[dict[str, str]]:
    """The contract's own variables come last: the user's cannot hide them."""
    ours = {
        "TIDEGATE_JOB": f"{DOCUMENT_FOLDER}/{DOCUMENT}",
        "TIDEGATE_WORK": "/work",
        "HOME": "/work",
        "TMPDIR": "/tmp",
    }
    if config.mlflow_url:
        ours["MLFLOW_TRACKING_URI"] = config.mlflow_url
    theirs = {each.name: each.value for each in job.spec.trainer.env}
    return [{"name": name, "value": value} for name, value in (theirs | ours).items()]


# ---- Parts of the document -------------------------------------------------------------------------------------------


def _describe_run(run: Run, config: TrainingConfig) -> dict[str, str] | None:
    if not run.run_id or not config.mlflow_url:
        return None
    return {"trackingURI": config.mlflow_url, "experimentID": run.experiment_id, "runID": run.run_id}


def _describe_progress(job: TrainingJob, config: TrainingConfig) -> dict[str, Any]:
    path = f"v1/namespaces/{job.metadata.namespace}/trainingjobs/{job.metadata.name}/progress"
    url = f"{config.progress_url.rstrip('/')}/{path}"
    return {"url": url, "tokenFile": f"{TOKEN_FOLDER}/token", "intervalSeconds": 2}


def _describe_resources(job: TrainingJob) -> dict[str, Any]:
    cpu = job.spec.resources.cpu
    return ({"cpu": _cores(cpu)} if cpu else {}) | {"gpus": job.spec.resources.gpus}


def _cores(quantity: str) -> float:
    return float(Decimal(quantity[:-1]) / 1000 if quantity.endswith("m") else Decimal(quantity))


# ---- Parts of the ModelVersion ---------------------------------------------------------------------------------------


def _lineage(job: TrainingJob, result: TrainerResult) -> Lineage:
    run = job.status.mlflow
    return Lineage(
        training_job=job.metadata.name,
        mlflow_run_id=run.run_id if run else None,
        parent=job.spec.base_model_version,
        datasets=result.datasets,
        code=result.code,
    )


def _validation(job: TrainingJob, result: TrainerResult) -> Validation:
    parity = result.parity
    record = ParityRecord(uri=parity.uri, sha256=parity.sha256, tolerance=_tolerance(result)) if parity else None
    return Validation(parity=record, golden_set=_golden_set(job, result))


def _tolerance(result: TrainerResult) -> float:
    seen = TOLERATED_GROWTH * (result.parity_max_abs_difference or 0)
    return min(max(SMALLEST_TOLERANCE, seen), LARGEST_TOLERANCE)


def _golden_set(job: TrainingJob, result: TrainerResult) -> GoldenSet | None:
    """The gate on the same metric holds for the golden set as well; without one it is only measured."""
    golden = result.golden_set
    if golden is None:
        return None
    metric = golden.metric or next((name for name in _GOLDEN_METRICS if name in result.metrics), None)
    if metric is None:
        return None
    bounds = [gate.min for gate in job.spec.evaluation.gates if gate.metric == metric and gate.min is not None]
    smallest = min(max([0.0, *bounds]), 1.0)
    return GoldenSet(uri=golden.uri, sha256=golden.sha256, metric=metric, min=smallest)


_GOLDEN_METRICS: tuple[Literal["moveAccuracy", "accuracy"], ...] = ("moveAccuracy", "accuracy")
