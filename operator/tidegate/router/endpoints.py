"""Pods reduced to what traffic may use: addresses that are ready and not going away."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from tidegate.domain.manifests.names import WORKLOAD_LABEL

__all__ = ["Address", "EndpointTable", "ReadyPod", "WorkloadKey", "parse_pod"]

WorkloadKey = tuple[str, str]
"""Namespace and name of a workload."""
Address = tuple[str, int]
"""IP address and port."""
PodKey = tuple[str, str]
"""Namespace and name of a pod."""

_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class ReadyPod:
    """A pod that may get traffic."""

    workload: WorkloadKey
    address: str
    ports: tuple[tuple[str, int], ...] = ()
    """Name and number of each named port."""


def parse_pod(obj: Mapping[str, Any]) -> ReadyPod | None:
    """Read a pod; None while it is not ready, and from the moment when it is asked to end."""
    metadata, status = obj["metadata"], obj.get("status") or {}
    address = status.get("podIP", "")
    if metadata.get("deletionTimestamp") or not _is_ready(status) or not _is_ip(address):
        return None
    workload = (metadata["namespace"], (metadata.get("labels") or {}).get(WORKLOAD_LABEL, ""))
    ports = (port for container in obj["spec"]["containers"] for port in container.get("ports") or ())
    return ReadyPod(workload, address, tuple((port["name"], port["containerPort"]) for port in ports if "name" in port))


def _is_ready(status: Mapping[str, Any]) -> bool:
    """A pod that ended without its kubelet keeps its condition, and its address may be another pod's by now."""
    conditions = status.get("conditions") or ()
    is_ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return is_ready and status.get("phase") not in _ENDED


def _is_ip(address: str) -> bool:
    try:
        ip_address(address)
    except ValueError:
        return False
    return True


@dataclass(slots=True)
class EndpointTable:
    """The pods that are ready, by namespace and name, with an index by workload."""

    _pods: dict[PodKey, ReadyPod] = field(default_factory=dict)
    _by_workload: dict[WorkloadKey, set[PodKey]] = field(default_factory=dict)

    def put(self, key: PodKey, pod: ReadyPod | None) -> set[WorkloadKey]:
        """Store what is usable of one pod and return the workloads whose endpoints changed."""
        if self._pods.get(key) == pod:
            return set()
        changed = self.remove(key)
        if pod is None:
            return changed
        self._pods[key] = pod
        self._by_workload.setdefault(pod.workload, set()).add(key)
        return changed | {pod.workload}

    def remove(self, key: PodKey) -> set[WorkloadKey]:
        """Forget one pod and return the workloads whose endpoints changed."""
        old = self._pods.pop(key, None)
        if old is None:
            return set()
        keys = self._by_workload[old.workload]
        keys.discard(key)
        if not keys:
            del self._by_workload[old.workload]
        return {old.workload}

    def addresses(self, workload: WorkloadKey, port_name: str) -> tuple[Address, ...]:
        """Return the usable addresses of a workload's named port, sorted, each once."""
        found = {(pod.address, port) for pod in self._of(workload) for name, port in pod.ports if name == port_name}
        return tuple(sorted(found))

    def pods(self) -> frozenset[str]:
        """Return the names of all usable pods."""
        return frozenset(name for _, name in self._pods)

    def _of(self, workload: WorkloadKey) -> Iterable[ReadyPod]:
        return (self._pods[key] for key in self._by_workload.get(workload, ()))
