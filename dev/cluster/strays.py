"""Files that the daemons put in places where they cannot be told not to."""

from __future__ import annotations

import shutil
from pathlib import Path

from dev.cluster.settings import Folders

SHIM_SOCKETS = Path("/run/containerd/s")
CNI_RESULTS = Path("/var/lib/cni/results")
LOG_LINKS = Path("/var/log/containers")
DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
NESTED = (SHIM_SOCKETS, CNI_RESULTS, DEVICE_PLUGINS)


def remove_strays(folders: Folders) -> None:
    """Remove our files, and the folders that held nothing else; the daemons must have ended."""
    for sandbox in _forget_sandboxes(folders):
        for result in CNI_RESULTS.glob(f"*-{sandbox}-*"):
            result.unlink(missing_ok=True)
    for link in LOG_LINKS.glob("*"):
        if link.is_symlink() and link.readlink().is_relative_to(folders.node):
            link.unlink()
    _remove_dead_sockets(SHIM_SOCKETS)
    if _remove_dead_sockets(DEVICE_PLUGINS):
        (DEVICE_PLUGINS / "kubelet_internal_checkpoint").unlink(missing_ok=True)
    for folder in (*NESTED, *(each.parent for each in NESTED), LOG_LINKS):
        _remove_if_empty(folder)


def _forget_sandboxes(folders: Folders) -> list[str]:
    """Remove what containerd's CRI plugin keeps of pods beside the containers; return their names."""
    plugin = folders.containerd_root / "io.containerd.grpc.v1.cri"
    sandboxes = [path.name for path in plugin.glob("sandboxes/*")]
    for name in ("sandboxes", "containers"):
        shutil.rmtree(plugin / name, ignore_errors=True)
    return sandboxes


def _remove_dead_sockets(folder: Path) -> bool:
    """Remove sockets that nobody listens on; whether none is left.

    Nobody can ever connect to one of those again, so it does not matter who made it.
    """
    listening = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()}
    sockets = [path for path in folder.glob("*") if path.is_socket()]
    for socket in sockets:
        if str(socket) not in listening:
            socket.unlink(missing_ok=True)
    return not any(str(socket) in listening for socket in sockets)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return
