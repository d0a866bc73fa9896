"""Programs that build images: podman for the node of our own, docker where kind is used."""

from __future__ import annotations

import configparser
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from dev.cluster.errors import ClusterError
from dev.cluster.images import REGISTRY, Image, get_image, order_for_build, reference, stage_context
from dev.cluster.lock import IMAGES, exclusive
from dev.cluster.progress import step
from dev.cluster.settings import REPOSITORY, Folders
from dev.cluster.shell import find_program, is_mounted, run, run_logged, succeeds

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
UNUSED_FOR = "336h"
TURN_SECONDS = 1.0
"""Longer than the time between two looks at the lock of a command that waits for it."""
PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host")


class Engine(Protocol):
    """Builds images and says which there are."""

    def has(self, reference: str) -> bool:
        """Whether an image is in the engine's store."""

    def build(self, image: Image) -> None:
        """Build an image under its current reference."""

    def images(self) -> set[str]:
        """References of all images of this project in the store."""

    def remove(self, references: Iterable[str]) -> None:
        """Remove images that nothing needs any more."""

    def push(self, reference: str, destination: str) -> None:
        """Copy an image to a registry under another reference."""


def build_arguments(image: Image, dockerfile: Path, context: Path) -> list[str]:
    """The words that every engine's `build` understands."""
    words = [f"--tag={reference(image.name)}", f"--file={dockerfile}"]
    if image.target:
        words.append(f"--target={image.target}")
    if image.base:
        words.append(f"--build-arg=BASE={reference(image.base)}")
    return [*words, str(context)]


class Podman:
    """Podman with a store of its own in the cache folder: it never touches the user's images.

    `runc` is asked for because crun refuses hybrid control groups; `cgroupfs` because there may be
    no systemd.
    """

    def __init__(self, folders: Folders) -> None:
        """Keep the folders."""
        self._folders = folders

    @property
    def store(self) -> Path:
        """Where the images lie."""
        return self._folders.cache / "podman" / "root"

    def command(self, *arguments: str) -> list[str]:
        """A podman command line on our store."""
        return [
            "podman",
            f"--root={self.store}",
            f"--runroot={self.store.with_name('run')}",
            f"--tmpdir={self.store.with_name('tmp')}",
            "--storage-driver=overlay",
            f"--runtime={find_program('runc') or 'runc'}",
            "--cgroup-manager=cgroupfs",
            "--events-backend=none",
            *arguments,
        ]

    def has(self, reference: str) -> bool:
        """Whether an image is in the store."""
        return succeeds(self.command("image", "exists", reference))

    def images(self) -> set[str]:
        """References of all images of this project in the store."""
        listed = run(self.command("images", "--format={{.Repository}}:{{.Tag}}"))
        return {each for each in listed.split() if each.startswith(f"{REGISTRY}/")}

    def remove(self, references: Iterable[str]) -> None:
        """Remove images together with the layers that no other image shares."""
        words = sorted(references)
        if words:
            run(self.command("rmi", "--force", *words), timeout=600)

    def push(self, reference: str, destination: str) -> None:
        """Copy an image to a registry under another reference."""
        run(self.command("push", reference, destination), timeout=3600)

    def prune(self) -> None:
        """Remove layers that no image has and no build has made for a while."""
        run(self.command("image", "prune", "--force", f"--filter=until={UNUSED_FOR}"), timeout=600)

    def unmount(self) -> None:
        """Undo podman's bind mount of its store; while another podman is at work it stays."""
        mount = self.store / "overlay"
        if is_mounted(mount):
            succeeds(["umount", mount])

    def build(self, image: Image) -> None:
        """Build an image; the base comes from Debian's packages, so that no registry is needed."""
        log = self._folders.cache / "logs" / f"image-{image.name}.log"
        with step(f"building image {image.name} (log {log})"):
            if image.bootstrap:
                self._bootstrap(image, log)
            else:
                self._build(image, log)

    def _build(self, image: Image, log: Path) -> None:
        with staged(image, self._folders) as context:
            dockerfile = REPOSITORY / image.dockerfile
            words = build_arguments(image, dockerfile, context)
            options = ["--network=host", "--layers", "--security-opt=label=disable"]
            run_logged(self.command("build", *options, *self._volumes(), *words), log)

    def _bootstrap(self, image: Image, log: Path) -> None:
        with tempfile.TemporaryDirectory(dir=work_folder(self._folders)) as folder:
            archive = Path(folder) / "base.tar"
            script = f'"$0" "$1/root" > "{archive}"'
            run_logged(["sh", "-c", script, REPOSITORY / image.bootstrap, folder], log)
            run(self.command("import", str(archive), reference(image.name)), timeout=600)

    def _volumes(self) -> list[str]:
        """Lend the build the machine's certificates and package settings, and caches for downloads.

        They are mounts, so none of it gets into an image.
        """
        caches = {"pip": "/var/cache/pip", "apt": "/var/cache/apt/archives"}
        words = []
        for name, target in caches.items():
            folder = self._folders.cache / "downloads" / name
            (folder / "partial").mkdir(parents=True, exist_ok=True)
            words.append(f"--volume={folder}:{target}")
        settings = self._folders.cache / "downloads" / "pip.conf"
        settings.write_text(render_pip_settings(os.environ, pip_files()))
        words.append(f"--volume={settings}:/etc/pip.conf:ro")
        if CERTIFICATES.exists():
            words.append(f"--volume={CERTIFICATES}:{CERTIFICATES}:ro")
        return words


class Docker:
    """A Docker engine that the user already has."""

    def __init__(self, folders: Folders) -> None:
        """Keep the folders, for the staged build contexts."""
        self._folders = folders

    def has(self, reference: str) -> bool:
        """Whether an image is in the engine."""
        return succeeds(["docker", "image", "inspect", reference])

    def images(self) -> set[str]:
        """References of all images of this project in the engine."""
        listed = run(["docker", "images", "--format={{.Repository}}:{{.Tag}}"])
        return {each for each in listed.split() if each.startswith(f"{REGISTRY}/")}

    def remove(self, references: Iterable[str]) -> None:
        """Remove images; those that a container still uses stay."""
        for each in sorted(references):
            succeeds(["docker", "rmi", each])

    def push(self, reference: str, destination: str) -> None:
        """Copy an image to a registry under another reference."""
        run(["docker", "tag", reference, destination])
        run(["docker", "push", destination], timeout=3600)

    def build(self, image: Image) -> None:
        """Build an image with BuildKit."""
        log = self._folders.cache / "logs" / f"image-{image.name}.log"
        with step(f"building image {image.name} (log {log})"), staged(image, self._folders) as context:
            words = build_arguments(image, REPOSITORY / image.dockerfile, context)
            run_logged(["docker", "build", *words], log, env={**os.environ, "DOCKER_BUILDKIT": "1"})


def ensure_built(engine: Engine, images: Sequence[Image]) -> None:
    """Build the images that the engine lacks."""
    for image in images:
        if not engine.has(reference(image.name)):
            engine.build(image)


def order_ahead(names: Iterable[str]) -> list[str]:
    """The images that hold no Go program first: they need not wait for it."""
    return sorted(names, key=lambda name: bool(get_image(name).programs))


def build_ahead(folders: Folders, names: Iterable[str]) -> None:
    """Build images before a node needs them; between two, a node that is loading gets its turn."""
    podman = Podman(folders)
    for image in order_for_build(names):
        with exclusive(folders, "build", name=IMAGES):
            try:
                ensure_built(podman, [image])
            finally:
                podman.unmount()
        time.sleep(TURN_SECONDS)


@contextmanager
def staged(image: Image, folders: Folders) -> Iterator[Path]:
    """A temporary folder with the build context of an image."""
    with tempfile.TemporaryDirectory(dir=work_folder(folders)) as folder:
        context = Path(folder) / "context"
        stage_context(image, folders, context)
        yield context


def work_folder(folders: Folders) -> Path:
    """Where temporary files of builds lie; /tmp may be too small for them."""
    folder = folders.cache / "work"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def pip_files() -> list[Path]:
    """Where this machine's pip settings may be."""
    home = Path.home()
    named = os.environ.get("PIP_CONFIG_FILE")
    places = [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", home / ".config" / "pip" / "pip.conf"]
    return [*places, *([Path(named)] if named else [])]


def render_pip_settings(environ: Mapping[str, str], files: Iterable[Path]) -> str:
    """Render pip's settings inside a build: this machine's package index, certificates and cache."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(files)
    values = dict(parser["global"]) if parser.has_section("global") else {}
    for name in PIP_SETTINGS:
        variable = f"PIP_{name.upper().replace('-', '_')}"
        if environ.get(variable):
            values[name] = environ[variable]
    lines = [f"{name} = {values[name]}" for name in PIP_SETTINGS if values.get(name)]
    lines += [f"cert = {CERTIFICATES}", "cache-dir = /var/cache/pip", "disable-pip-version-check = true"]
    return "\n".join(["[global]", *lines]) + "\n"


def require_images(names: Iterable[str]) -> list[Image]:
    """The named images, each of which must have its Dockerfile."""
    images = [get_image(name) for name in names]
    for image in images:
        if not image.exists():
            raise ClusterError(f"image {image.name}: {image.dockerfile} does not exist")
    return images


def push_images(engine: Engine, names: Iterable[str], registry: str) -> list[str]:
    """Build images and copy them to a registry; return the references to give to a cluster."""
    images = require_images(names)
    ensure_built(engine, order_for_build(image.name for image in images))
    pushed = []
    for image in images:
        destination = reference(image.name).replace(REGISTRY, registry.rstrip("/"), 1)
        with step(f"pushing {destination}"):
            engine.push(reference(image.name), destination)
        pushed.append(destination)
    return pushed
