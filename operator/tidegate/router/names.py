"""Names that the router gives: clusters (which carry the labels of Envoy's series) and host names of an endpoint."""

from enum import StrEnum

__all__ = ["DNS_SUFFIXES", "Protocol", "cluster_name", "domains", "route_key"]

DNS_SUFFIXES = ("", ".svc", ".svc.cluster.local")


class Protocol(StrEnum):
    """A protocol of the model servers; its value is also the name of the port of their pods."""

    HTTP = "http"
    GRPC = "grpc"


def cluster_name(
    namespace: str, deployment: str, model_version: str, workload: str, protocol: Protocol, *, mirror: bool = False
) -> str:
    """Name the Envoy cluster of one backend and protocol.

    ``|`` occurs in no Kubernetes name, so the bootstrap's ``stats_tags`` can cut labels out of the name although a
    version has dots in it. A mirror has another prefix and therefore other labels: its requests count for no user.

    >>> cluster_name("default", "connect4", "connect4-1.1.0", "connect4-9f86d081", Protocol.HTTP)
    'tidegate|default|connect4|connect4-1.1.0|connect4-9f86d081|http'
    """
    prefix = "tidegate-mirror" if mirror else "tidegate"
    return "|".join((prefix, namespace, deployment, model_version, workload, protocol))


def domains(namespace: str, deployment: str) -> tuple[str, ...]:
    """List the host names of an endpoint, without ports, which the listener ignores."""
    return tuple(f"{deployment}.{namespace}{suffix}" for suffix in DNS_SUFFIXES)


def route_key(namespace: str, name: str) -> str:
    """Name the route configuration of a Route."""
    return f"{namespace}/{name}"
