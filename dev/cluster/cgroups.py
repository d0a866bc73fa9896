"""The control groups of the node's pods, under one root of their own in every hierarchy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dev.cluster.progress import wait_until

NEEDED_CONTROLLERS = "+cpu +cpuset +memory +pids"


def hierarchies(mounts: str) -> list[Path]:
    """Mount points of cgroup file systems, from the text of `/proc/self/mounts`.

    With version 1 there is one for each controller, and often a version 2 tree without controllers
    beside them, in which runc makes groups all the same.
    """
    rows = [line.split() for line in mounts.splitlines()]
    return [Path(row[1]) for row in rows if row[2] in {"cgroup", "cgroup2"}]


def roots(name: str) -> list[Path]:
    """The cluster's folder in each hierarchy."""
    mounts = Path("/proc/self/mounts").read_text()
    return [hierarchy / name for hierarchy in hierarchies(mounts)]


def create(name: str) -> None:
    """Make the root group in each hierarchy, which the kubelet expects to find."""
    for root in roots(name):
        control = root.parent / "cgroup.subtree_control"
        if len(roots(name)) == 1 and control.exists():
            control.write_text(NEEDED_CONTROLLERS)
        root.mkdir(exist_ok=True)


def find_pids(name: str) -> set[int]:
    """All processes of pods, whatever became of the daemons that started them."""
    return {pid for root in roots(name) for group in _groups(root) for pid in _members(group)}


def remove(name: str) -> bool:
    """Remove the groups, innermost first; whether all are gone."""
    return wait_until(lambda: _try_remove(name), timeout=5)


def _try_remove(name: str) -> bool:
    for root in roots(name):
        for group in _groups(root):
            try:
                group.rmdir()
            except OSError:
                continue
    return not any(root.exists() for root in roots(name))


def _groups(root: Path) -> Iterator[Path]:
    for folder, _, _ in os.walk(root, topdown=False):
        yield Path(folder)


def _members(group: Path) -> set[int]:
    try:
        return {int(line) for line in (group / "cgroup.procs").read_text().split()}
    except OSError:
        return set()
