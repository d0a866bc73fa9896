"""The Route of a Deployment: which share each version gets."""

from typing import Any

from tidegate.domain.manifests import names
from tidegate.domain.release import Backend, Mirror, SetRoute

__all__ = ["build_route"]


def build_route(namespace: str, deployment: str, uid: str, wanted: SetRoute) -> dict[str, Any]:
    """Build the Route; the whole list of backends is applied, so a share can never be left behind."""
    backends = [_backend(deployment, each) for each in wanted.backends]
    spec: dict[str, Any] = {"deployment": deployment, "backends": backends}
    sticky = wanted.sticky
    if sticky is not None:
        spec["sticky"] = {"header": sticky.header} | ({"salt": sticky.salt} if sticky.salt else {})
    if wanted.mirror is not None:
        spec["mirror"] = _mirror(deployment, wanted.mirror)
    owner = names.Owner("Deployment", deployment, uid)
    labels = names.child_labels("route", {names.DEPLOYMENT_LABEL: deployment})
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "Route",
        "metadata": names.child_metadata(names.route(deployment), namespace, owner, labels),
        "spec": spec,
    }


def _mirror(deployment: str, mirror: Mirror) -> dict[str, Any]:
    version = mirror.version
    return {
        "modelVersion": version.model_version,
        "workload": names.comparator(deployment, version.model_version, version.digest),
        "percent": mirror.percent,
    }


def _backend(deployment: str, backend: Backend) -> dict[str, Any]:
    version = backend.version
    built: dict[str, Any] = {
        "modelVersion": version.model_version,
        "workload": names.serving(deployment, version.model_version, version.digest),
        "percent": backend.percent,
        "role": str(backend.role),
    }
    return built | ({"variant": backend.variant} if backend.variant else {})
