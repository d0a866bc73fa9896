"""The node's containerd, by way of its `ctr` program."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import IO, cast

from dev.cluster.errors import ClusterError
from dev.cluster.progress import wait_until
from dev.cluster.settings import CONTAINERD_NAMESPACE, Folders
from dev.cluster.shell import run, succeeds, tail

ALIAS = "sha256:"
UNPACKED_LABEL = "containerd.io/uncompressed="


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
        return set(self._targets())

    def _targets(self) -> dict[str, str]:
        """Reference → digest of the manifest. Images have aliases that begin with `sha256:`."""
        rows = [line.split() for line in run(self._ctr("images", "list")).splitlines()[1:]]
        return {row[0]: row[2] for row in rows}

    def unpacked(self) -> set[str]:
        """Names of the layers that are unpacked."""
        rows = run(self._ctr("snapshots", "list")).splitlines()[1:]
        return {row.split()[0] for row in rows if row}

    def import_archive(self, write: Callable[[IO[bytes]], None]) -> None:
        """Import the archive that a function writes, without a file between."""
        with tempfile.TemporaryFile("w+") as output:
            words = self._ctr("images", "import", "-")
            ctr = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=output, stderr=output)
            # When ctr gives up, the pipe breaks; what it says then tells more than the pipe.
            with ctr, suppress(BrokenPipeError), cast("IO[bytes]", ctr.stdin) as target:
                write(target)
            output.seek(0)
            if ctr.returncode:
                raise ClusterError(f"the image could not be imported:\n{tail(output.read())}")

    def drop_archives(self) -> None:
        """Drop the archives of unpacked layers: nothing reads them again, and they are half of the disk."""
        rows = [line.split() for line in run(self._ctr("content", "list")).splitlines()[1:]]
        unpacked = [row[0] for row in rows if UNPACKED_LABEL in row[-1]]
        if unpacked:
            run(self._ctr("content", "remove", *unpacked))

    def remove_images(self, references: Iterable[str]) -> None:
        """Remove images with their aliases, and wait for their layers to be dropped."""
        removed = set(references)
        targets = self._targets()
        kept = {digest for name, digest in targets.items() if not name.startswith(ALIAS) and name not in removed}
        aliases = {name for name, digest in targets.items() if name.startswith(ALIAS) and digest not in kept}
        if removed | aliases:
            run(self._ctr("images", "remove", "--sync", *sorted(removed | aliases)), timeout=600)

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
