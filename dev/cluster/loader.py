"""Brings images into the node: builds what is missing, imports it, and clears older builds away."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dev.cluster.containerd import Containerd
from dev.cluster.engines import Podman, ensure_built, require_images
from dev.cluster.images import order_for_build, reference, superseded
from dev.cluster.lock import IMAGES, exclusive
from dev.cluster.progress import step
from dev.cluster.settings import Folders
from dev.cluster.store import missing_layers, read_image, write_archive


class Loader:
    """Moves images from podman's store to containerd's."""

    def __init__(self, folders: Folders, containerd: Containerd, in_use: Callable[[], set[str]]) -> None:
        """Keep both stores, and a way to ask which images the pods of the cluster name."""
        self._folders = folders
        self._podman = Podman(folders)
        self._containerd = containerd
        self._in_use = in_use

    def load(self, names: Iterable[str]) -> None:
        """Make the named images available to pods."""
        wanted = {image.name: reference(image.name) for image in require_images(names)}
        if set(wanted.values()) <= self._containerd.images():
            return
        with exclusive(self._folders, "load", name=IMAGES):
            present = self._containerd.images()
            for name in wanted:
                if wanted[name] not in present:
                    self._load(name)
            self._clear(wanted)
            self._podman.unmount()

    def _load(self, name: str) -> None:
        """Build an image if need be, and move the layers that the node does not have yet."""
        ensure_built(self._podman, order_for_build([name]))
        with step(f"loading image {reference(name)}"):
            image = read_image(self._podman.store, reference(name))
            layers = missing_layers(image, self._containerd.unpacked())
            self._containerd.import_archive(lambda target: write_archive(image, layers, target))
            self._containerd.drop_archives()

    def _clear(self, names: Iterable[str]) -> None:
        """Remove older builds, but for those that a pod still names: it may have to start again."""
        chosen = list(names)
        old = superseded(self._containerd.images(), chosen, keep=self._in_use())
        self._containerd.remove_images(old)
        self._podman.remove(superseded(self._podman.images(), chosen))
        self._podman.prune()
