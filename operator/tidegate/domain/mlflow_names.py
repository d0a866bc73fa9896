"""Names and tags in MLflow, which is shared by all namespaces."""

import re

from tidegate.api.model_version import ModelVersion
from tidegate.api.training_job import TrainingJob

__all__ = ["RESULT_TAG", "UID_TAG", "experiment_name", "find_run", "registered_name", "run_tags", "version_tags"]

UID_TAG = "tidegate.dev/uid"
"""Identity of the Kubernetes object: what makes every call repeatable."""
RESULT_TAG = "tidegate.dev/result"
"""The trainer's result, in case that its pod is gone before the operator has read it."""


_IN_RUN = re.compile(r"^mlflow-artifacts:/+(?:[^/]+:\d+/)?\d+/([0-9a-f]{32})/artifacts/")


def find_run(version: ModelVersion) -> str | None:
    """Return the run that the artifact belongs to: MLflow registers what lies in its own store only with its run."""
    inside = _IN_RUN.match(version.spec.artifact.uri)
    return version.spec.lineage.mlflow_run_id or (inside.group(1) if inside else None)


def registered_name(namespace: str, model: str) -> str:
    """Name of a registered model: equal names in two namespaces are two models, with aliases of their own."""
    return f"{namespace}.{model}"


def experiment_name(namespace: str, model: str) -> str:
    """Name of the experiment that holds the trainings of a model."""
    return registered_name(namespace, model)


def run_tags(job: TrainingJob) -> dict[str, str]:
    """Tags of the run of a TrainingJob."""
    metadata = job.metadata
    return {
        "mlflow.runName": metadata.name,
        "tidegate.dev/namespace": metadata.namespace,
        "tidegate.dev/training-job": metadata.name,
        "tidegate.dev/model": job.spec.model,
    }


def version_tags(version: ModelVersion) -> dict[str, str]:
    """Tags of a registered version; empty ones are left out."""
    spec, metadata = version.spec, version.metadata
    tags = {
        "tidegate.dev/namespace": metadata.namespace,
        "tidegate.dev/model-version": metadata.name,
        "tidegate.dev/version": spec.version,
        "tidegate.dev/sha256": spec.artifact.sha256,
        "tidegate.dev/training-job": spec.lineage.training_job,
        "tidegate.dev/parent": spec.lineage.parent,
    }
    return {name: value for name, value in tags.items() if value}
