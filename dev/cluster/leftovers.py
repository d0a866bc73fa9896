"""What a node leaves behind when its daemons are killed, found and removed without their help."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dev.cluster import cgroups
from dev.cluster.network import NodeNetwork, link_exists
from dev.cluster.processes import Supervisor, kill_processes
from dev.cluster.settings import Folders, Network
from dev.cluster.shell import run
from dev.cluster.strays import remove_strays


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Everything of a node that is still on the machine."""

    daemons: frozenset[int] = field(default=frozenset())
    """Processes in the node's network namespace: the daemons and the shims of containers."""
    pods: frozenset[int] = field(default=frozenset())
    mounts: tuple[Path, ...] = field(default=())
    """In the order in which they can be unmounted."""
    link: bool = False
    groups: bool = False

    def __bool__(self) -> bool:
        """Whether there is anything to remove."""
        return bool(self.daemons or self.pods or self.mounts or self.link or self.groups)

    def describe(self) -> str:
        """A few words for the terminal."""
        counts = [
            (len(self.daemons | self.pods), "processes"),
            (len(self.mounts), "mounts"),
            (int(self.link), "network link"),
            (int(self.groups), "control group"),
        ]
        return ", ".join(f"{count} {name}" for count, name in counts if count)


def find_leftovers(folders: Folders, network: Network) -> Leftovers:
    """Look for everything that `remove_leftovers` can remove."""
    recorded = {record.pid for record in Supervisor(folders).alive().values()}
    mounts = Path("/proc/self/mountinfo").read_text()
    return Leftovers(
        daemons=frozenset(recorded | pids_in_namespace(folders.network_namespace)),
        pods=frozenset(cgroups.find_pids(folders.name)),
        mounts=tuple(mounts_below(mounts, [folders.node, folders.containerd_root])),
        link=link_exists(network.host_link),
        groups=any(root.exists() for root in cgroups.roots(folders.name)),
    )


def remove_leftovers(folders: Folders, network: Network) -> None:
    """Kill, unmount and delete, until nothing of the node is left.

    The daemons go first, because they would start new processes in place of those of the pods.
    """
    found = find_leftovers(folders, network)
    kill_processes(found.daemons)
    kill_processes(cgroups.find_pids(folders.name))
    for path in found.mounts:
        if path != folders.network_namespace:
            run(["umount", "--lazy", path])
    NodeNetwork(folders, network).remove()
    cgroups.remove(folders.name)
    remove_strays(folders)


def pids_in_namespace(namespace: Path) -> set[int]:
    """Processes whose network namespace is the one bound to a file.

    No other process ever enters it, so this finds the daemons even when their records are lost.
    """
    if not namespace.exists():
        return set()
    wanted = (namespace.stat().st_dev, namespace.stat().st_ino)
    return {pid for pid in _all_pids() if _namespace_of(pid) == wanted}


def _all_pids() -> list[int]:
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if pid != os.getpid()]


def _namespace_of(pid: int) -> tuple[int, int] | None:
    try:
        found = Path(f"/proc/{pid}/ns/net").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def mounts_below(mountinfo: str, folders: Iterable[Path]) -> list[Path]:
    """Mount points at or under the given folders, the innermost and latest first."""
    roots = list(folders)
    points = [Path(_unescape(line.split()[4])) for line in mountinfo.splitlines()]
    return [point for point in reversed(points) if any(point.is_relative_to(root) for root in roots)]


def _unescape(text: str) -> str:
    """Undo the octal escapes of spaces and the like in `/proc/self/mountinfo`."""
    return text.encode().decode("unicode_escape").encode("latin-1").decode()
