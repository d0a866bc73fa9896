"""EndpointSlices reduced to what traffic may use: addresses that are ready and not going away."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

__all__ = ["Address", "EndpointSlice", "EndpointTable", "ServiceKey", "parse_slice"]

SERVICE_LABEL = "kubernetes.io/service-name"

ServiceKey = tuple[str, str]
"""Namespace and name of a Service."""
Address = tuple[str, int]
"""IP address and port."""


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """The usable part of one EndpointSlice."""

    service: ServiceKey
    ports: tuple[tuple[str, int], ...] = ()
    addresses: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()


def parse_slice(obj: Mapping[str, Any]) -> EndpointSlice:
    """Read an EndpointSlice; an endpoint counts when it is ready (unset means yes) and not terminating."""
    metadata = obj["metadata"]
    service = (metadata["namespace"], metadata.get("labels", {}).get(SERVICE_LABEL, ""))
    usable = [endpoint for endpoint in obj.get("endpoints") or () if _usable(endpoint)]
    return EndpointSlice(
        service=service,
        ports=tuple((port.get("name") or "", port["port"]) for port in obj.get("ports") or () if port.get("port")),
        addresses=tuple(sorted(endpoint["addresses"][0] for endpoint in usable if _is_ip(endpoint["addresses"]))),
        pods=tuple(sorted(pod for endpoint in usable if (pod := (endpoint.get("targetRef") or {}).get("name")))),
    )


def _usable(endpoint: Mapping[str, Any]) -> bool:
    conditions = endpoint.get("conditions") or {}
    return conditions.get("ready") is not False and not conditions.get("terminating")


def _is_ip(addresses: list[str]) -> bool:
    """All addresses of one endpoint are the same pod; slices of type FQDN carry names, which traffic cannot use."""
    try:
        ip_address(addresses[0])
    except (IndexError, ValueError):
        return False
    return True


@dataclass(slots=True)
class EndpointTable:
    """All watched slices, by namespace and name, with an index by Service."""

    _slices: dict[tuple[str, str], EndpointSlice] = field(default_factory=dict)
    _by_service: dict[ServiceKey, set[tuple[str, str]]] = field(default_factory=dict)

    def put(self, key: tuple[str, str], item: EndpointSlice) -> set[ServiceKey]:
        """Store one slice and return the Services whose endpoints changed."""
        old = self._slices.get(key)
        if old == item:
            return set()
        changed = self.remove(key)
        self._slices[key] = item
        self._by_service.setdefault(item.service, set()).add(key)
        return changed | {item.service}

    def remove(self, key: tuple[str, str]) -> set[ServiceKey]:
        """Forget one slice and return the Services whose endpoints changed."""
        old = self._slices.pop(key, None)
        if old is None:
            return set()
        keys = self._by_service[old.service]
        keys.discard(key)
        if not keys:
            del self._by_service[old.service]
        return {old.service}

    def keys(self) -> set[tuple[str, str]]:
        """Return the namespace and name of every slice."""
        return set(self._slices)

    def addresses(self, service: ServiceKey, port_name: str) -> tuple[Address, ...]:
        """Return the usable addresses of a Service's named port, sorted, each once."""
        found = {
            (address, port)
            for item in self._of(service)
            for name, port in item.ports
            if name == port_name
            for address in item.addresses
        }
        return tuple(sorted(found))

    def pods(self, service: ServiceKey) -> frozenset[str]:
        """Return the names of the usable pods behind a Service."""
        return frozenset(pod for item in self._of(service) for pod in item.pods)

    def _of(self, service: ServiceKey) -> Iterable[EndpointSlice]:
        return (self._slices[key] for key in self._by_service.get(service, ()))
