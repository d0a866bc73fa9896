"""Which cluster the commands are for: a node of our own, kind, or the one of the kubeconfig in force."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from dev.cluster.errors import ClusterError
from dev.cluster.shell import is_installed

VARIABLE = "CLUSTER"


class Kind(StrEnum):
    """The values of the variable CLUSTER."""

    NODE = "node"
    KIND = "kind"
    CURRENT = "current"


class Provider(Protocol):
    """What the commands can ask of any cluster."""

    def up(self) -> None:
        """Bring the cluster up, or find that it is."""

    def down(self) -> None:
        """Take the cluster down."""

    def load(self, names: Iterable[str]) -> None:
        """Make images available to pods."""

    def status(self) -> bool:
        """Print what runs; whether the cluster is up."""

    def environment(self) -> dict[str, str]:
        """Variables that let other programs use the cluster."""


def choose_provider(
    environ: Mapping[str, str],
    *,
    is_root: bool,
    has: Callable[[str], bool] = is_installed,
) -> Kind:
    """Decide by the variable CLUSTER, and without it by what this machine can do.

    Root gets a node of our own, which needs nothing but Debian packages and Go. Other people get
    kind, if they have it.
    """
    wanted = environ.get(VARIABLE, "")
    if wanted:
        return _parse(wanted, is_root=is_root, has=has)
    if is_root:
        return Kind.NODE
    if has("docker") and has("kind"):
        return Kind.KIND
    raise ClusterError(
        "a node of our own needs root, and kind needs `docker` and `kind`, which are not both here: "
        "run as root, install them, or set CLUSTER=current to use the cluster of your kubeconfig"
    )


def _parse(wanted: str, *, is_root: bool, has: Callable[[str], bool]) -> Kind:
    if wanted not in set(Kind):
        raise ClusterError(f"CLUSTER={wanted}: choose {', '.join(Kind)}, or leave it unset")
    kind = Kind(wanted)
    if kind is Kind.NODE and not is_root:
        raise ClusterError("CLUSTER=node needs root; without it, use CLUSTER=kind or CLUSTER=current")
    if kind is Kind.KIND and not (has("docker") and has("kind")):
        raise ClusterError("CLUSTER=kind needs the programs `docker` and `kind`, which are not both here")
    return kind


def kubeconfig_in_force(environ: Mapping[str, str] = os.environ) -> Path:
    """The kubeconfig that kubectl would use."""
    named = environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    return Path(named) if named else Path.home() / ".kube" / "config"
