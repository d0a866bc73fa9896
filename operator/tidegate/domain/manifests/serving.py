"""The workload that serves one version, and the stable address.

::

    annotation ──mounted──► puller (init): fetch, verify sha256, write config, rename
                            triton: load the one model, also after every restart
    router ────watches────► agent: ready only while Triton lists the model READY with the right digest

What puller and agent are told is an annotation of their pod, so nobody can take it from under a pod that restarts.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tidegate.api.base import ComputeResources
from tidegate.api.deployment import Serving
from tidegate.api.model_version import ArtifactReference, Signature
from tidegate.domain.manifests import names
from tidegate.domain.manifests.placement import GPU, place_pod
from tidegate.domain.manifests.security import container_security, pod_security

__all__ = [
    "DIGEST_ANNOTATION",
    "DOCUMENT_ANNOTATION",
    "MODEL_VERSION_ANNOTATION",
    "TEMPLATE_ANNOTATION",
    "Platform",
    "Served",
    "build_document",
    "build_endpoint",
    "build_scale",
    "build_serving",
    "content_hash",
    "template_hash",
]

Manifest = dict[str, Any]

DIGEST_ANNOTATION = "tidegate.dev/digest"
MODEL_VERSION_ANNOTATION = "tidegate.dev/model-version"
DOCUMENT_ANNOTATION = "tidegate.dev/document"
"""The document that puller and agent read, on the pod."""
TEMPLATE_ANNOTATION = "tidegate.dev/template-hash"
"""Hash of the workload without its replicas: tells whether the live one is what the builder makes now."""

REPOSITORY = "/models"
DOCUMENT_FOLDER = "/etc/tidegate"
DOCUMENT = "serving.json"
HTTP, GRPC, METRICS, AGENT = 8000, 8001, 8002, 8090
DRAIN_SECONDS = 5
"""Time between the pod leaving the endpoints and Triton closing its port: the proxies learn of it meanwhile."""
EXIT_SECONDS = 20
GRACE_SECONDS = DRAIN_SECONDS + EXIT_SECONDS + 10
LONGEST_LOAD_SECONDS = 600
SHARED_MEMORY = "256Mi"


@dataclass(frozen=True, slots=True)
class Platform:
    """What all serving pods of this installation have in common."""

    agent_image: str
    triton_image: str
    image_pull_policy: str = "IfNotPresent"
    mlflow_url: str | None = None
    gpu_runtime_class: str | None = None
    """Runtime class of pods with GPUs."""
    envoy_service: str = "tidegate-envoy.tidegate-system.svc.cluster.local"
    """DNS name behind every endpoint."""
    envoy_port: int = 8000


@dataclass(frozen=True, slots=True)
class Served:
    """One version as one Deployment serves it."""

    namespace: str
    deployment: str
    deployment_uid: str
    model_version: str
    artifact: ArtifactReference
    signature: Signature | None
    serving: Serving

    @property
    def owner(self) -> names.Owner:
        """The Deployment."""
        return names.Owner("Deployment", self.deployment, self.deployment_uid)

    @property
    def name(self) -> str:
        """Name of the workload."""
        return names.serving(self.deployment, self.model_version, self.artifact.sha256)


def build_serving(served: Served, platform: Platform, replicas: int) -> Manifest:
    """Build the workload that serves one version with so many pods."""
    spec = {
        "selector": {"matchLabels": {names.WORKLOAD_LABEL: served.name}},
        "revisionHistoryLimit": 1,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": _build_template(served, platform),
    }
    metadata = _metadata(served)
    metadata["annotations"][TEMPLATE_ANNOTATION] = content_hash(json.dumps(spec, sort_keys=True))
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": spec | {"replicas": replicas},
    }


@lru_cache(maxsize=4096)
def template_hash(served: Served, platform: Platform) -> str:
    """Return what the workload that is built now carries as its TEMPLATE_ANNOTATION."""
    return str(build_serving(served, platform, 0)["metadata"]["annotations"][TEMPLATE_ANNOTATION])


def build_document(served: Served, platform: Platform) -> Manifest:
    """Build the document that puller and agent read; their side of it is ``tidegate_serving.contract``."""
    triton = served.serving.triton
    return {
        "contractVersion": "v1",
        "modelName": served.deployment,
        "modelVersion": served.model_version,
        "namespace": served.namespace,
        "deployment": served.deployment,
        "artifact": {
            "uri": served.artifact.uri,
            "sha256": served.artifact.sha256,
            "sizeBytes": served.artifact.size_bytes,
        },
        "signature": served.signature.to_json() if served.signature else None,
        "triton": {
            "maxBatchSize": triton.max_batch_size,
            "maxQueueDelayMicroseconds": triton.max_queue_delay_microseconds,
            "instances": triton.instances,
            "gpus": served.serving.resources.gpus,
            "warmup": triton.warmup,
        },
        "repository": REPOSITORY,
        "mlflowURL": platform.mlflow_url,
    }


def build_scale(namespace: str, name: str, replicas: int) -> Manifest:
    """Build a manifest that says only how many pods a workload has."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": replicas},
    }


def build_endpoint(namespace: str, deployment: str, uid: str, platform: Platform) -> Manifest:
    """Build the Service that is the stable address of a Deployment: an alias of the proxies."""
    owner = names.Owner("Deployment", deployment, uid)
    labels = names.child_labels("endpoint", {names.DEPLOYMENT_LABEL: deployment})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": names.child_metadata(names.endpoint(deployment), namespace, owner, labels),
        "spec": {
            "type": "ExternalName",
            "externalName": platform.envoy_service,
            "ports": [{"name": "http", "port": platform.envoy_port, "protocol": "TCP", "targetPort": HTTP}],
        },
    }


def _metadata(served: Served) -> Manifest:
    return names.child_metadata(served.name, served.namespace, served.owner, _labels(served), _annotations(served))


def _labels(served: Served) -> dict[str, str]:
    known = {names.DEPLOYMENT_LABEL: served.deployment, names.MODEL_VERSION_LABEL: served.model_version}
    return names.child_labels("serving", known) | {names.WORKLOAD_LABEL: served.name}


def _annotations(served: Served) -> dict[str, str]:
    return names.owner_annotation(served.owner) | {
        MODEL_VERSION_ANNOTATION: served.model_version,
        DIGEST_ANNOTATION: served.artifact.sha256,
    }


def _build_template(served: Served, platform: Platform) -> Manifest:
    document = json.dumps(build_document(served, platform), sort_keys=True)
    annotations = _annotations(served) | {DOCUMENT_ANNOTATION: document}
    return {
        "metadata": {"labels": _labels(served), "annotations": annotations},
        "spec": _build_pod(served, platform),
    }


def _build_pod(served: Served, platform: Platform) -> Manifest:
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": pod_security(),
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {names.WORKLOAD_LABEL: served.name}},
            }
        ],
        "initContainers": [_build_puller(served, platform)],
        "containers": [_build_triton(served, platform), _build_agent(platform)],
        "volumes": [
            {"name": "document", "downwardAPI": {"items": [{"path": DOCUMENT, "fieldRef": _annotation_reference()}]}},
            {"name": "models", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY}},
        ],
    }
    serving = served.serving
    return pod | place_pod(serving.scheduling, serving.resources.gpus, platform.gpu_runtime_class)


def _build_puller(served: Served, platform: Platform) -> Manifest:
    environment: list[Manifest] = [_document_variable()]
    if served.serving.resources.cpu:
        reserved = {"containerName": "triton", "resource": "requests.cpu", "divisor": "1"}
        environment.append({"name": "TIDEGATE_THREADS", "valueFrom": {"resourceFieldRef": reserved}})
    return {
        "name": "puller",
        "image": platform.agent_image,
        "imagePullPolicy": platform.image_pull_policy,
        "command": ["python", "-m", "tidegate_serving.puller"],
        "env": environment,
        "resources": _resources("50m", "64Mi", "256Mi"),
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [_document_mount(), _mount("models", REPOSITORY), _mount("tmp", "/tmp")],
    }


def _build_triton(served: Served, platform: Platform) -> Manifest:
    alive = {"httpGet": {"path": "/v2/health/live", "port": "http"}}
    return {
        "name": "triton",
        "image": platform.triton_image,
        "imagePullPolicy": platform.image_pull_policy,
        "command": ["tritonserver"],
        "args": _triton_arguments(served),
        "ports": [
            {"name": "http", "containerPort": HTTP, "protocol": "TCP"},
            {"name": "grpc", "containerPort": GRPC, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS, "protocol": "TCP"},
        ],
        "resources": _triton_resources(served.serving.resources),
        "securityContext": container_security(),
        "startupProbe": alive | {"periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": LONGEST_LOAD_SECONDS},
        "livenessProbe": alive | {"periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 6},
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
        "volumeMounts": [
            _mount("models", REPOSITORY, read_only=True),
            _mount("shm", "/dev/shm"),
            _mount("tmp", "/tmp"),
        ],
    }


def _triton_arguments(served: Served) -> list[str]:
    arguments = [
        f"--model-repository={REPOSITORY}",
        "--model-control-mode=explicit",
        f"--load-model={served.deployment}",
        "--exit-on-error=false",
        f"--http-port={HTTP}",
        f"--grpc-port={GRPC}",
        f"--metrics-port={METRICS}",
        f"--exit-timeout-secs={EXIT_SECONDS}",
        f"--allow-gpu-metrics={str(bool(served.serving.resources.gpus)).lower()}",
    ]
    return [*arguments, "--disable-auto-complete-config"] if served.signature else arguments


def _build_agent(platform: Platform) -> Manifest:
    return {
        "name": "agent",
        "image": platform.agent_image,
        "imagePullPolicy": platform.image_pull_policy,
        "command": ["python", "-m", "tidegate_serving.agent"],
        "env": [_document_variable()],
        "ports": [{"name": "agent", "containerPort": AGENT, "protocol": "TCP"}],
        "resources": _resources("5m", "24Mi", "64Mi"),
        "securityContext": container_security(),
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": "agent"},
            "periodSeconds": 1,
            "timeoutSeconds": 1,
            "failureThreshold": 1,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "agent"},
            "periodSeconds": 10,
            "timeoutSeconds": 3,
            "failureThreshold": 3,
        },
        "volumeMounts": [_document_mount()],
    }


def _triton_resources(asked: ComputeResources) -> Manifest:
    """Memory and GPUs are request and limit; the processor is reserved, not capped, so that no answer is throttled."""
    bounded = {"memory": asked.memory, GPU: str(asked.gpus) if asked.gpus else None}
    limits = {name: value for name, value in bounded.items() if value}
    requests = {"cpu": asked.cpu or "100m", "memory": "192Mi"} | limits
    return {"requests": requests} | ({"limits": limits} if limits else {})


def _resources(cpu: str, memory: str, memory_limit: str) -> Manifest:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory_limit}}


def _annotation_reference() -> Manifest:
    return {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{DOCUMENT_ANNOTATION}']"}


def _document_variable() -> Manifest:
    return {"name": "TIDEGATE_SERVING", "value": f"{DOCUMENT_FOLDER}/{DOCUMENT}"}


def _document_mount() -> Manifest:
    return _mount("document", DOCUMENT_FOLDER, read_only=True)


def _mount(name: str, path: str, *, read_only: bool = False) -> Manifest:
    return {"name": name, "mountPath": path} | ({"readOnly": True} if read_only else {})


def content_hash(text: str) -> str:
    """Return a short text that changes when this one does."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
