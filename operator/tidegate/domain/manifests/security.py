"""What every pod of ours may do: what the pod security level `restricted` allows, and no more."""

from typing import Any

__all__ = ["USER", "container_security", "pod_security"]

USER = 65532


def pod_security(*, owns_volumes: bool = True) -> dict[str, Any]:
    """Return the security context of a pod; one that owns its volumes can write into them without root."""
    security = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return security | ({"fsGroup": USER} if owns_volumes else {})


def container_security(*, read_only: bool = True) -> dict[str, Any]:
    """Return the security context of a container; its root file system is read-only unless a user's image needs it."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": read_only,
        "capabilities": {"drop": ["ALL"]},
    }
