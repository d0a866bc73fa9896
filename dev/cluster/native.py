"""The provider that runs a node of our own."""

from __future__ import annotations

import os
from collections.abc import Iterable

from dev.cluster.daemons import DAEMONS
from dev.cluster.errors import ClusterError
from dev.cluster.leftovers import find_leftovers
from dev.cluster.lock import check_owner, exclusive, write_owner
from dev.cluster.node import Node
from dev.cluster.packages import install_missing
from dev.cluster.processes import Record, age, resident_bytes
from dev.cluster.progress import say, step
from dev.cluster.settings import check_socket_path


class NativeProvider:
    """Guards a node with the lock, and tells the person at the terminal about it."""

    def __init__(self, node: Node, *, force: bool = False) -> None:
        """Keep the node; `force` takes over the cluster of another checkout."""
        self._node = node
        self._folders = node.folders
        self._force = force

    def up(self) -> None:
        """Bring the node up and say how to use it."""
        with exclusive(self._folders, "up"):
            check_owner(self._folders, force=self._force)
            check_socket_path(self._folders)
            install_missing(self._folders)
            self._node.up()
            write_owner(self._folders)
        say(f"  up: {self._node.network.api_url}, KUBECONFIG={self._folders.kubeconfig}")

    def down(self) -> None:
        """Take the node down; say what, if anything, stayed."""
        with exclusive(self._folders, "down"):
            check_owner(self._folders, force=self._force)
            with step("stopping the cluster"):
                self._node.down()
            left = find_leftovers(self._folders, self._node.network)
        if left:
            raise ClusterError(f"not everything could be removed: {left.describe()}")

    def load(self, names: Iterable[str]) -> None:
        """Build and import images."""
        self._require_up()
        check_owner(self._folders, force=self._force)
        self._node.loader.load(names)

    def status(self) -> bool:
        """Print each daemon with its process, age and memory."""
        records = self._node.supervisor.records()
        for name in (*DAEMONS, *(each for each in records if each not in DAEMONS)):
            print(describe_daemon(name, records.get(name)))
        left = find_leftovers(self._folders, self._node.network)
        is_up = self._node.is_complete()
        if left and not is_up:
            print(f"\nleft by an earlier run: {left.describe()}; `up` repairs it, `down` removes it")
        return is_up

    def environment(self) -> dict[str, str]:
        """Variables for kubectl, helm and programs that open NodePorts."""
        return {
            "KUBECONFIG": str(self._folders.kubeconfig),
            "PATH": f"{self._folders.bin}{os.pathsep}{os.environ.get('PATH', '')}",
            "TIDEGATE_NODE_ADDRESS": self._node.network.node_address,
        }

    def _require_up(self) -> None:
        if not self._node.is_complete():
            raise ClusterError("the cluster is not up: run `python -m dev.cluster up` first")


def describe_daemon(name: str, record: Record | None) -> str:
    """One line of the status."""
    if record is None:
        return f"{name:24} not started"
    if not record.is_alive():
        return f"{name:24} dead (was process {record.pid})"
    memory = resident_bytes(record.pid) / 2**20
    return f"{name:24} running  process {record.pid:<8} {age(record):8.0f} s {memory:6.0f} MiB"
