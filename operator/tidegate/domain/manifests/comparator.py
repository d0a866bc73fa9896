"""The Kubernetes objects of a comparator: the pod that takes copies, over HTTP and gRPC, and asks both versions.

::

    Envoy ──copy──► comparator ──┬──► its Service of the stable version's pods
                                 └──► its Service of the shadowed version's pods
"""

import json
from dataclasses import dataclass
from typing import Any

from tidegate.api.deployment import Shadow
from tidegate.domain.manifests import names
from tidegate.domain.manifests.security import container_security, pod_security
from tidegate.domain.manifests.serving import (
    DIGEST_ANNOTATION,
    GRPC,
    HTTP,
    MODEL_VERSION_ANNOTATION,
    TEMPLATE_ANNOTATION,
    Platform,
    content_hash,
)
from tidegate.domain.release import VersionID

__all__ = ["ComparatorObjects", "Shadowing", "build_comparator", "build_document"]

Manifest = dict[str, Any]

PORTS = {"http": 8095, "grpc": 8096}
"""By the name that the router looks for: where copies are taken. Health and metrics are at the first."""


@dataclass(frozen=True, slots=True)
class Shadowing:
    """One version that is shadowed, and what it is compared with."""

    namespace: str
    deployment: str
    deployment_uid: str
    version: VersionID
    stable: VersionID
    shadow: Shadow

    @property
    def owner(self) -> names.Owner:
        """The Deployment."""
        return names.Owner("Deployment", self.deployment, self.deployment_uid)

    @property
    def name(self) -> str:
        """Name of the workload."""
        return names.comparator(self.deployment, self.version.model_version, self.version.digest)

    def pods_of(self, version: VersionID) -> str:
        """Return the name of the workload that serves a version."""
        return names.serving(self.deployment, version.model_version, version.digest)

    def service_of(self, version: VersionID) -> str:
        """Return the name of the Service by which the comparator reaches a version."""
        return names.compared(self.pods_of(version), self.name)


@dataclass(frozen=True, slots=True)
class ComparatorObjects:
    """What belongs to a comparator, in the order in which it is applied."""

    services: tuple[Manifest, ...]
    """By which it reaches the two versions."""
    workload: Manifest


def build_comparator(shadowing: Shadowing, platform: Platform) -> ComparatorObjects:
    """Build the objects of one comparator."""
    services = tuple(_build_service(shadowing, version) for version in (shadowing.stable, shadowing.version))
    return ComparatorObjects(services, _build_workload(shadowing, platform))


def build_document(shadowing: Shadowing) -> Manifest:
    """Build what the comparator reads; its side of it is ``tidegate_serving.comparator``."""
    shadow = shadowing.shadow
    return {
        "contractVersion": "v1",
        "namespace": shadowing.namespace,
        "deployment": shadowing.deployment,
        "stable": _side(shadowing, shadowing.stable),
        "shadow": _side(shadowing, shadowing.version),
        "agreement": shadow.agreement.value,
        "tolerance": shadow.tolerance,
        "outputs": list(shadow.outputs) if shadow.outputs else None,
    }


def _side(shadowing: Shadowing, version: VersionID) -> Manifest:
    host = f"{shadowing.service_of(version)}.{shadowing.namespace}.svc"
    return {"modelVersion": version.model_version, "url": f"http://{host}:{HTTP}", "grpcAddress": f"{host}:{GRPC}"}


def _build_service(shadowing: Shadowing, version: VersionID) -> Manifest:
    ports = (("http", HTTP), ("grpc", GRPC))
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(shadowing, shadowing.service_of(version)),
        "spec": {
            "clusterIP": "None",
            "selector": {names.WORKLOAD_LABEL: shadowing.pods_of(version)},
            "ports": [{"name": name, "port": port, "protocol": "TCP", "targetPort": port} for name, port in ports],
        },
    }


def _build_workload(shadowing: Shadowing, platform: Platform) -> Manifest:
    template = {
        "metadata": {"labels": _labels(shadowing) | _selector(shadowing), "annotations": _pod_annotations(shadowing)},
        "spec": _build_pod(shadowing, platform),
    }
    spec = {
        "replicas": 1,
        "revisionHistoryLimit": 0,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": _selector(shadowing)},
        "template": template,
    }
    metadata = _metadata(shadowing, shadowing.name)
    metadata["annotations"][TEMPLATE_ANNOTATION] = content_hash(json.dumps(spec, sort_keys=True))
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def _build_pod(shadowing: Shadowing, platform: Platform) -> Manifest:
    probe = {"httpGet": {"path": "/healthz", "port": "http"}, "timeoutSeconds": 2}
    container = {
        "name": "comparator",
        "image": platform.agent_image,
        "imagePullPolicy": platform.image_pull_policy,
        "command": ["python", "-m", "tidegate_serving.comparator"],
        "env": [{"name": "TIDEGATE_COMPARATOR", "value": json.dumps(build_document(shadowing), sort_keys=True)}],
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in PORTS.items()],
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
        "readinessProbe": probe | {"periodSeconds": 1},
        "livenessProbe": probe | {"periodSeconds": 10},
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": pod_security(owns_volumes=False),
        "containers": [container],
    }


def _metadata(shadowing: Shadowing, name: str) -> Manifest:
    labels, annotations = _labels(shadowing), _annotations(shadowing)
    return names.child_metadata(name, shadowing.namespace, shadowing.owner, labels, annotations)


def _labels(shadowing: Shadowing) -> dict[str, str]:
    return names.child_labels("comparator", {names.DEPLOYMENT_LABEL: shadowing.deployment})


def _selector(shadowing: Shadowing) -> dict[str, str]:
    return {names.WORKLOAD_LABEL: shadowing.name}


def _annotations(shadowing: Shadowing) -> dict[str, str]:
    return names.owner_annotation(shadowing.owner) | {
        MODEL_VERSION_ANNOTATION: shadowing.version.model_version,
        DIGEST_ANNOTATION: shadowing.version.digest,
    }


def _pod_annotations(shadowing: Shadowing) -> dict[str, str]:
    scrape = {"scrape": "true", "port": str(PORTS["http"]), "path": "/metrics"}
    return _annotations(shadowing) | {f"prometheus.io/{key}": value for key, value in scrape.items()}
