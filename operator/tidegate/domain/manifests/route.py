"""The Route of a Deployment: which share each version gets."""

from collections.abc import Sequence
from typing import Any

from tidegate.domain.manifests import names
from tidegate.domain.release import Backend, Stickiness

__all__ = ["build_route"]


def build_route(
    namespace: str, deployment: str, uid: str, backends: Sequence[Backend], sticky: Stickiness | None
) -> dict[str, Any]:
    """Build the Route; the whole list of backends is applied, so a share can never be left behind."""
    spec: dict[str, Any] = {"deployment": deployment, "backends": [_backend(deployment, each) for each in backends]}
    if sticky is not None:
        spec["sticky"] = {"header": sticky.header} | ({"salt": sticky.salt} if sticky.salt else {})
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "Route",
        "metadata": {
            "name": names.route(deployment),
            "namespace": namespace,
            "labels": names.child_labels("route", {names.DEPLOYMENT_LABEL: deployment}),
            "annotations": names.owner_annotation("Deployment", deployment),
            "ownerReferences": [names.owner_reference("Deployment", deployment, uid)],
        },
        "spec": spec,
    }


def _backend(deployment: str, backend: Backend) -> dict[str, Any]:
    version = backend.version
    built: dict[str, Any] = {
        "modelVersion": version.model_version,
        "service": names.serving(deployment, version.model_version, version.digest),
        "percent": backend.percent,
        "role": str(backend.role),
    }
    return built | ({"variant": backend.variant} if backend.variant else {})
