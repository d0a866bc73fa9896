"""Objects of the end-to-end tests."""

from base64 import b64encode
from typing import Any

from dev.demo.kube import TIDEGATE, Object
from tests.e2e.artifacts import SIGNATURE, Stored

FAST = {
    "interval": "1s",
    "window": "5s",
    "metrics": [{"name": "errorRate", "max": 0.05, "minSamples": 5}],
}

TINY = {"model": "resnet", "blocks": 1, "channels": 8, "epochs": 2, "batchSize": 512, "maxExamples": 20000}
"""Configuration of a net that is trained in seconds."""


def model_version(namespace: str, version: str, stored: Stored, **spec: Any) -> Object:
    """Make a ModelVersion of the model ``m``."""
    return {
        "apiVersion": TIDEGATE,
        "kind": "ModelVersion",
        "metadata": {"name": f"m-{version}", "namespace": namespace},
        "spec": {
            "model": "m",
            "version": version,
            "artifact": stored.reference(),
            "signature": SIGNATURE,
            "validation": {"resources": {"cpu": "200m", "memory": "512Mi"}},
            **spec,
        },
    }


def pod(namespace: str, name: str, container: Object, **spec: Any) -> Object:
    """Make a pod of one container at the restricted level, that does not linger."""
    security = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{"name": name, "imagePullPolicy": "IfNotPresent", "securityContext": security, **container}],
            **spec,
        },
    }


def service(namespace: str, name: str, port: int) -> Object:
    """Make the Service of such a pod."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"port": port}]},
    }


def secret(namespace: str, name: str, **keys: str) -> Object:
    """Make a Secret."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "data": {key: b64encode(value.encode()).decode() for key, value in keys.items()},
    }


def deployment(namespace: str, version: str, name: str = "m", **spec: Any) -> Object:
    """Make a Deployment with steps of a few seconds."""
    return {
        "apiVersion": TIDEGATE,
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "modelVersion": f"m-{version}",
            "serving": {"replicas": 1, "resources": {"cpu": "100m", "memory": "512Mi"}},
            "strategy": {"canary": {"steps": [{"setPercent": 30}, {"hold": "3s"}, {"setPercent": 60}, {"hold": "3s"}]}},
            "analysis": FAST,
            "traffic": {"sticky": {"header": "x-user-id"}},
            "rollback": {"drainDelay": "2s"},
            **spec,
        },
    }


def training_job(namespace: str, name: str = "tiny", config: dict[str, Any] | None = None, **spec: Any) -> Object:
    """Make a TrainingJob of a tiny net."""
    return {
        "apiVersion": TIDEGATE,
        "kind": "TrainingJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": "m",
            "trainer": {"algorithm": "supervised", "config": config or TINY},
            "datasets": [{"name": "positions", "uri": "builtin://connect4-solved"}],
            "resources": {"cpu": "1", "memory": "3Gi"},
            "checkpoint": {"interval": "3s"},
            **spec,
        },
    }
