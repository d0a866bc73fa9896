"""What the Jobs of trainings and validations have in common: a pod that fits the `restricted` security level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate.api.base import ComputeResources
from tidegate.domain.manifests import names
from tidegate.domain.manifests.placement import GPU
from tidegate.domain.manifests.security import container_security, pod_security

__all__ = ["DOCUMENT_FOLDER", "JobFrame", "build_config_map", "build_container", "build_job", "scratch"]

DOCUMENT_FOLDER = "/etc/tidegate"
LOST_NODE_SECONDS = 30
"""How long a pod stays bound to a node that does not answer; the default of Kubernetes is five minutes."""
EXIT_USELESS_TO_RETRY = 3
EXIT_STOPPED = 143

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class JobFrame:
    """Whose child a Job is."""

    name: str
    namespace: str
    owner: names.Owner
    labels: Mapping[str, str]

    @property
    def metadata(self) -> Json:
        """Metadata of the Job and the ConfigMap."""
        return names.child_metadata(self.name, self.namespace, self.owner, self.labels)


def build_config_map(frame: JobFrame, file: str, document: str) -> Json:
    """Return the ConfigMap with the contract document."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": frame.metadata, "data": {file: document}}


def build_container(
    name: str, image: str, pull_policy: str, resources: ComputeResources, *, read_only: bool = True
) -> Json:
    """Return a container without rights, that is limited to what it asks for."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": pull_policy,
        "resources": _resources(resources),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "securityContext": container_security(read_only=read_only),
    }


def build_job(
    frame: JobFrame,
    container: Json,
    volumes: Sequence[Json],
    *,
    backoff_limit: int,
    grace_seconds: int,
    pod: Mapping[str, Any] | None = None,
    job: Mapping[str, Any] | None = None,
) -> Json:
    """Return a Job of one pod at a time. `pod` and `job` add to the specs of the pod and of the Job.

    A pod that is evicted, preempted or loses its node is replaced and does not count as a failure; neither does one
    that was told to stop and says that it did (exit code 143). Exit code 3 ends the Job: another try is useless.
    """
    pod_spec: Json = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds,
        "securityContext": pod_security(),
        "tolerations": [_tolerate(taint) for taint in ("not-ready", "unreachable")],
        "containers": [container],
        "volumes": list(volumes),
    }
    pod_spec["tolerations"] = [*pod_spec["tolerations"], *(pod or {}).get("tolerations", ())]
    template = {
        "metadata": {"labels": dict(frame.labels), "annotations": names.owner_annotation(frame.owner)},
        "spec": pod_spec | {key: value for key, value in (pod or {}).items() if key != "tolerations"},
    }
    spec = {
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": backoff_limit,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _failure_policy(container["name"]),
        "template": template,
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": frame.metadata, "spec": spec | dict(job or {})}


def scratch(name: str, path: str) -> tuple[Json, Json]:
    """Return the volume and the mount of an empty folder."""
    return {"name": name, "emptyDir": {}}, {"name": name, "mountPath": path}


def _resources(wanted: ComputeResources) -> Json:
    # The processor is reserved, not capped: idle cores are used, and a throttled container is slow for no gain.
    bounded = {"memory": wanted.memory, GPU: str(wanted.gpus) if wanted.gpus else None}
    limits = {name: amount for name, amount in bounded.items() if amount is not None}
    requests = limits | ({"cpu": wanted.cpu} if wanted.cpu else {})
    return {"requests": requests} | ({"limits": limits} if limits else {}) if requests else {}


def _tolerate(taint: str) -> Json:
    return {
        "key": f"node.kubernetes.io/{taint}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": LOST_NODE_SECONDS,
    }


def _failure_policy(container: str) -> Json:
    def on_exit(code: int, action: str) -> Json:
        return {"action": action, "onExitCodes": {"containerName": container, "operator": "In", "values": [code]}}

    disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    return {"rules": [disrupted, on_exit(EXIT_STOPPED, "Ignore"), on_exit(EXIT_USELESS_TO_RETRY, "FailJob")]}
