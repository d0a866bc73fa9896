"""The node's containerd, by way of its `ctr` program."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence

from dev.cluster.errors import ClusterError
from dev.cluster.progress import wait_until
from dev.cluster.settings import CONTAINERD_NAMESPACE, Folders
from dev.cluster.shell import run, succeeds, tail


class Containerd:
    """Lists and imports images and clears away containers."""

    def __init__(self, folders: Folders) -> None:
        """Keep the folders; containerd may not run yet."""
        self._folders = folders

    def _ctr(self, *arguments: str) -> list[str]:
        address = f"--address={self._folders.containerd_socket}"
        return ["ctr", address, f"--namespace={CONTAINERD_NAMESPACE}", *arguments]

    def wait(self, timeout: float = 30) -> None:
        """Return when containerd answers."""
        if not wait_until(lambda: succeeds(self._ctr("version"), timeout=5), timeout=timeout):
            raise ClusterError(f"containerd does not answer; see {self._folders.logs / 'containerd.log'}")

    def images(self) -> set[str]:
        """References of all images."""
        return set(run(self._ctr("images", "list", "-q")).split())

    def import_from(self, source: Sequence[str]) -> None:
        """Import the archive that a command writes to its standard output, without a file between."""
        with subprocess.Popen(source, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as producer:
            done = subprocess.run(
                self._ctr("images", "import", "-"),
                stdin=producer.stdout,
                capture_output=True,
                text=True,
            )
            complaint = producer.stderr.read().decode(errors="replace") if producer.stderr else ""
        if producer.returncode or done.returncode:
            raise ClusterError(f"the image could not be imported:\n{tail(complaint + done.stderr)}")

    def remove_images(self, references: Iterable[str]) -> None:
        """Remove images, and wait for their layers to be dropped."""
        words = sorted(references)
        if words:
            run(self._ctr("images", "remove", "--sync", *words), timeout=600)

    def purge(self) -> bool:
        """Remove every container and its layer; whether there was one.

        Containerd's root outlives the cluster, and with it the containers of a node that was
        killed; to a new API server they are strangers.
        """
        tasks = run(self._ctr("tasks", "list", "-q")).split()
        if tasks:
            succeeds(self._ctr("tasks", "delete", "--force", *tasks))
        containers = run(self._ctr("containers", "list", "-q")).split()
        if containers:
            run(self._ctr("containers", "delete", *containers))
        return bool(containers)
