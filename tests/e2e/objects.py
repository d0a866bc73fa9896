"""Objects of the end-to-end tests."""

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
