"""The children of a ModelVersion: the contract document of the checks, and the Job that does them."""

import json
from dataclasses import dataclass
from typing import Any

from tidegate.api.base import ComputeResources, Model
from tidegate.api.model_version import ModelVersion
from tidegate.domain.manifests import names
from tidegate.domain.manifests.job import (
    DOCUMENT_FOLDER,
    JobFrame,
    build_config_map,
    build_container,
    build_job,
    scratch,
)
from tidegate.domain.manifests.training_job import MODEL_LABEL

__all__ = ["CONTAINER", "ValidationConfig", "build_expiry", "build_validation", "build_validation_document"]

CONTAINER = "validate"
DOCUMENT = "validation.json"
GRACE_SECONDS = 5
LONGEST_SECONDS = 900
"""A validation pod that runs longer is stopped: the model hangs."""


@dataclass(frozen=True, slots=True)
class ValidationConfig:
    """What the installation says about validations."""

    image: str
    """Image of the model agent."""
    image_pull_policy: str = "IfNotPresent"
    mlflow_url: str | None = None


def build_validation(version: ModelVersion, config: ValidationConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return ConfigMap and Job.

    The Job tries once: what to do after a failure depends on its reason, so the operator decides on the next try.
    """
    frame = _frame(version)
    temporary = scratch("tmp", "/tmp")
    resources = version.spec.validation.resources
    container = build_container(CONTAINER, config.image, config.image_pull_policy, _without_gpus(resources))
    container |= {
        "command": ["python", "-m", "tidegate_serving.validate"],
        "env": [{"name": "TIDEGATE_VALIDATION", "value": f"{DOCUMENT_FOLDER}/{DOCUMENT}"}],
        "volumeMounts": [{"name": "document", "mountPath": DOCUMENT_FOLDER, "readOnly": True}, temporary[1]],
    }
    volumes = [{"name": "document", "configMap": {"name": frame.name}}, temporary[0]]
    pod = {"activeDeadlineSeconds": LONGEST_SECONDS}
    job = build_job(frame, container, volumes, backoff_limit=0, grace_seconds=GRACE_SECONDS, pod=pod)
    document = json.dumps(build_validation_document(version, config), indent=1)
    return build_config_map(frame, DOCUMENT, document), job


def build_validation_document(version: ModelVersion, config: ValidationConfig) -> dict[str, Any]:
    """Return the contract document: which file, and which checks. Null stands for a check that nobody asked for."""
    spec = version.spec
    return {
        "contractVersion": "v1",
        "namespace": version.metadata.namespace,
        "name": version.metadata.name,
        "modelVersion": spec.version,
        "artifact": spec.artifact.to_json(),
        "signature": _optional(spec.signature),
        "parity": _optional(spec.validation.parity),
        "latency": _optional(spec.validation.latency),
        "goldenSet": _optional(spec.validation.golden_set),
        "mlflowURL": config.mlflow_url,
    }


def build_expiry(version: ModelVersion, ttl: int) -> dict[str, Any]:
    """Return the one field of the Job that makes it go away after `ttl` seconds, for another field manager."""
    name = {"name": names.validation_job(version.metadata.name), "namespace": version.metadata.namespace}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": name, "spec": {"ttlSecondsAfterFinished": ttl}}


def _frame(version: ModelVersion) -> JobFrame:
    metadata = version.metadata
    given = {names.MODEL_VERSION_LABEL: metadata.name, MODEL_LABEL: version.spec.model}
    labels = names.child_labels("validation", given)
    name = names.validation_job(metadata.name)
    return JobFrame(name, metadata.namespace, names.Owner("ModelVersion", metadata.name, metadata.uid), labels)


def _without_gpus(resources: ComputeResources) -> ComputeResources:
    """The checks run on the CPU."""
    return resources.model_copy(update={"gpus": 0})


def _optional(part: Model | None) -> dict[str, Any] | None:
    return part.to_json() if part is not None else None
