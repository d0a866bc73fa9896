"""Names, labels and annotations of everything the operator makes: one function per kind.

Names of ModelVersions contain dots and may have 253 characters, names of Services are DNS labels of at most 63:
what does not fit is shortened and keeps a hash of the whole, so two different objects never share a name.
"""

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

__all__ = [
    "COMMAND_ANNOTATION",
    "COMPONENT_LABEL",
    "DEPLOYMENT_LABEL",
    "MANAGED_BY",
    "MODEL_VERSION_LABEL",
    "OWNER_ANNOTATION",
    "TRAINING_JOB_LABEL",
    "WORKLOAD_LABEL",
    "Owner",
    "child_labels",
    "child_metadata",
    "comparator",
    "compared",
    "dns_label",
    "endpoint",
    "label_value",
    "owner_annotation",
    "parse_owner",
    "route",
    "serving",
    "training_job",
    "validation_job",
]

MANAGED_BY = {"app.kubernetes.io/managed-by": "tidegate"}
DEPLOYMENT_LABEL = "tidegate.dev/deployment"
MODEL_VERSION_LABEL = "tidegate.dev/model-version"
TRAINING_JOB_LABEL = "tidegate.dev/training-job"
WORKLOAD_LABEL = "tidegate.dev/workload"
"""On pods: the workload that they belong to; a Route leads to the pods with this label."""
COMPONENT_LABEL = "tidegate.dev/component"
OWNER_ANNOTATION = "tidegate.dev/owner"
COMMAND_ANNOTATION = "tidegate.dev/command"

_DNS_LABEL = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
_LABEL_VALUE = re.compile(r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
LIMIT = 63


def dns_label(text: str, suffix: str = "", *, limit: int = LIMIT) -> str:
    """Return a DNS-1035 label made of `text` and `suffix`: unchanged if it is one, else shortened with 8 hex of a hash.

    >>> dns_label("connect4")
    'connect4'
    >>> dns_label("connect4-1.1.0", "-validation")
    'connect4-1-1-0-064f6ff1-validation'
    """
    whole = text + suffix
    if _DNS_LABEL.match(whole) and len(whole) <= limit:
        return whole
    tail = f"-{_hash(text)}{suffix}"
    head = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not head[:1].isalpha():
        head = f"x-{head}".rstrip("-")
    return head[: limit - len(tail)].rstrip("-") + tail


def label_value(text: str) -> str:
    """Return a valid label value: unchanged if it is one, else shortened with 8 hex of a hash."""
    if _LABEL_VALUE.match(text) and len(text) <= LIMIT:
        return text
    head = re.sub(r"[^-A-Za-z0-9_.]", "-", text).strip("-_.")
    return f"{head[: LIMIT - 9].rstrip('-_.')}-{_hash(text)}"


@lru_cache(maxsize=4096)
def serving(deployment: str, model_version: str, digest: str) -> str:
    """Name of the workload of one version with one digest, as one Deployment serves it."""
    tail = f"-{_hash(model_version + digest)}"
    return dns_label(deployment, limit=LIMIT - len(tail)) + tail


@lru_cache(maxsize=4096)
def comparator(deployment: str, model_version: str, digest: str) -> str:
    """Name of the workload that compares the answers of one shadowed version with the stable one's."""
    tail = f"-shadow-{_hash(model_version + digest)}"
    return dns_label(deployment, limit=LIMIT - len(tail)) + tail


def compared(workload: str, comparator: str) -> str:
    """Name of the Service by which a comparator reaches the pods of a workload; no two comparators share one."""
    return dns_label(workload, f"-for-{_hash(comparator)}")


def endpoint(deployment: str) -> str:
    """Name of the Service that is a Deployment's stable address."""
    return dns_label(deployment)


def route(deployment: str) -> str:
    """Name of the Route of a Deployment."""
    return deployment


def training_job(training_job: str) -> str:
    """Name of the Job and ConfigMap of a TrainingJob."""
    return dns_label(training_job, "-training")


def validation_job(model_version: str) -> str:
    """Name of the Job and ConfigMap that check a ModelVersion."""
    return dns_label(model_version, "-validation")


def child_labels(component: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Labels of a child and of its pods: who manages it, its component, and `labels` made safe."""
    return MANAGED_BY | {COMPONENT_LABEL: component} | {key: label_value(value) for key, value in labels.items()}


class Owner(NamedTuple):
    """Whose child an object is: an object of a kind of tidegate.dev/v1alpha1 in the same namespace."""

    kind: str
    name: str
    uid: str


def child_metadata(
    name: str, namespace: str, owner: Owner, labels: Mapping[str, str], annotations: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Metadata of a child: it goes when its owner goes, and wakes its owner's reconcile.

    It does not block the owner's deletion: that would need the right to update finalizers.
    """
    reference = {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": owner.kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {
        "name": name,
        "namespace": namespace,
        "labels": dict(labels),
        "annotations": owner_annotation(owner) | dict(annotations or {}),
        "ownerReferences": [reference],
    }


def owner_annotation(owner: Owner) -> dict[str, str]:
    """Annotation of every child, pods included, that says which object's reconcile an event of the child wakes."""
    return {OWNER_ANNOTATION: f"{owner.kind}/{owner.name}"}


def parse_owner(annotations: Mapping[str, str]) -> tuple[str, str] | None:
    """Read kind and name back from the annotation."""
    kind, _, name = annotations.get(OWNER_ANNOTATION, "").partition("/")
    return (kind, name) if name else None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
