"""Pieces of configuration that are versioned by their content."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

__all__ = ["Kind", "Part", "any_of", "build_part", "version_of"]

_TYPE = "type.googleapis.com/"


class Kind(StrEnum):
    """The kinds of xDS resources; the order is the order in which a proxy must get them."""

    CLUSTERS = _TYPE + "envoy.config.cluster.v3.Cluster"
    ENDPOINTS = _TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENERS = _TYPE + "envoy.config.listener.v3.Listener"
    SCOPES = _TYPE + "envoy.config.route.v3.ScopedRouteConfiguration"
    ROUTES = _TYPE + "envoy.config.route.v3.RouteConfiguration"

    @property
    def label(self) -> str:
        """Short name for logs and metrics."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Part:
    """A serialised message with the digest of its content; ``requires`` names the parts that it refers to."""

    name: str
    version: str
    body: bytes
    requires: frozenset[str] = frozenset()


def build_part(name: str, message: Message, requires: frozenset[str] = frozenset()) -> Part:
    """Serialise a message so that equal content gives equal bytes, in this process and in the next."""
    body = message.SerializeToString(deterministic=True)
    return Part(name, hashlib.blake2b(body, digest_size=12).hexdigest(), body, requires)


def version_of(parts: Mapping[str, Part]) -> str:
    """Return the version of a set of parts: the same content has the same version after a restart."""
    digest = hashlib.blake2b(digest_size=12)
    for name in sorted(parts):
        digest.update(f"{name}\0{parts[name].version}\0".encode())
    return digest.hexdigest()


def any_of(message: Message) -> dict[str, Any]:
    """Wrap a message for a field of type ``google.protobuf.Any``."""
    wrapped = AnyMessage()
    wrapped.Pack(message, deterministic=True)
    return {"type_url": wrapped.type_url, "value": wrapped.value}
