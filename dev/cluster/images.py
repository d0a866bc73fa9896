"""The project's images: what each is made of, and a reference that changes with its content.

`references()` tells other tools the full reference of each image; `Image.key` is a hash over the
instructions that build it, the files they copy, and the image that it starts from.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from dev.cluster.dockerfile import find_needed, find_sources
from dev.cluster.errors import ClusterError
from dev.cluster.golang import COREDNS, MODULES, PAUSE, PROMETHEUS, compute_key, ensure_program
from dev.cluster.settings import REPOSITORY, Folders

REGISTRY = "tidegate.local"
BASE = "base"


@dataclass(frozen=True, slots=True)
class Image:
    """One row of the table of images."""

    name: str
    dockerfile: str
    """Path in the repository."""
    context: str = "."
    """Folder that the Dockerfile's COPY paths are relative to."""
    target: str = ""
    base: str = BASE
    """The image whose reference is given as the build argument BASE; empty for none."""
    programs: tuple[tuple[str, str], ...] = field(default=())
    """Go programs to put into the context, as pairs of module and program."""
    bootstrap: str = ""
    """Script that makes the same image without a registry, in place of the Dockerfile."""

    def exists(self) -> bool:
        """Whether the repository has its Dockerfile."""
        return (REPOSITORY / self.dockerfile).exists()


IMAGES = {
    image.name: image
    for image in (
        Image(
            BASE,
            "dev/images/base/Dockerfile",
            "dev/images/base",
            base="",
            bootstrap="dev/images/base/bootstrap.sh",
        ),
        Image("pause", "dev/images/pause/Dockerfile", "dev/images/pause", base="", programs=((PAUSE.name, "pause"),)),
        Image(
            "coredns",
            "dev/images/coredns/Dockerfile",
            "dev/images/coredns",
            base="",
            programs=((COREDNS.name, "coredns"),),
        ),
        Image("operator", "operator/Dockerfile"),
        Image("trainer", "trainer_image/Dockerfile"),
        Image("model-agent", "serving_image/Dockerfile", target="agent"),
        Image("triton", "serving_image/Dockerfile", target="triton"),
        Image("envoy", "dev/images/envoy/Dockerfile"),
        Image(
            "prometheus",
            "dev/images/prometheus/Dockerfile",
            "dev/images/prometheus",
            base="",
            programs=((PROMETHEUS.name, "prometheus"),),
        ),
        Image("mlflow", "dev/images/mlflow/Dockerfile"),
        Image("loadgen", "dev/images/loadgen/Dockerfile"),
    )
}
NODE_IMAGES = ("pause", "coredns")
"""Needed by the node itself."""
PROJECT_IMAGES = tuple(name for name in IMAGES if name not in {BASE, *NODE_IMAGES})


def get_image(name: str) -> Image:
    """The row of a name; an unknown one is refused with the list of those there are."""
    try:
        return IMAGES[name]
    except KeyError:
        raise ClusterError(f"there is no image {name!r}; there are: {', '.join(IMAGES)}") from None


def reference(name: str) -> str:
    """The full reference of an image as it would be built now."""
    return f"{REGISTRY}/{name}:{_key(get_image(name))}"


def references() -> dict[str, str]:
    """Name → full reference of every image whose Dockerfile exists."""
    return {name: reference(name) for name, image in IMAGES.items() if image.exists()}


@cache
def _key(image: Image) -> str:
    digest = hashlib.sha256()
    for instruction in _instructions(image):
        digest.update(f"{instruction}\n".encode())
    for module, program in image.programs:
        digest.update(f"{program}\0{compute_key(MODULES[module])}\0".encode())
    scripts = [REPOSITORY / image.bootstrap] if image.bootstrap else []
    for path in list_files(image) + scripts:
        _add_file(digest, path)
    if image.base:
        digest.update(_key(get_image(image.base)).encode())
    return digest.hexdigest()[:12]


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    content = path.read_bytes()
    runs = bool(path.stat().st_mode & 0o100)
    digest.update(f"{path.relative_to(REPOSITORY)}\0{runs}\0{len(content)}\0".encode())
    digest.update(content)


def _instructions(image: Image) -> list[str]:
    path = REPOSITORY / image.dockerfile
    if not path.exists():
        raise ClusterError(f"image {image.name}: {image.dockerfile} does not exist")
    return find_needed(path.read_text(), image.target)


def list_files(image: Image) -> list[Path]:
    """The files that a build copies: tracked by git, or new and not ignored."""
    programs = {program for _, program in image.programs}
    sources = [path for path in find_sources(_instructions(image)) if path not in programs]
    if not sources:
        return []
    context = REPOSITORY / image.context
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *sources]
    done = subprocess.run(command, cwd=context, capture_output=True, text=True)
    if done.returncode != 0:
        raise ClusterError(f"image {image.name}: git ls-files failed: {done.stderr.strip()}")
    found = {context / name for name in done.stdout.split("\0") if name}
    return sorted(path for path in found if path.is_file())


def stage_context(image: Image, folders: Folders, target: Path) -> None:
    """Copy exactly the hashed files to a folder, so that nothing else can get into the image."""
    target.mkdir(parents=True)
    for path in list_files(image):
        copy = target / path.relative_to(REPOSITORY / image.context)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    for module, program in image.programs:
        shutil.copy2(ensure_program(folders, MODULES[module], program), target / program)


def order_for_build(names: Iterable[str]) -> list[Image]:
    """The images and those they start from, each after its base."""
    ordered: dict[str, Image] = {}
    for name in names:
        for image in _with_bases(get_image(name)):
            ordered.setdefault(image.name, image)
    return list(ordered.values())


def _with_bases(image: Image) -> Iterator[Image]:
    if image.base:
        yield from _with_bases(get_image(image.base))
    yield image


def superseded(present: Iterable[str], names: Iterable[str], keep: Iterable[str] = ()) -> set[str]:
    """References of older builds of the named images, less those to keep."""
    current = {name: reference(name) for name in names}
    older = set()
    for each in present:
        repository, _, _ = each.partition(":")
        name = repository.removeprefix(f"{REGISTRY}/")
        if repository.startswith(f"{REGISTRY}/") and name in current and each != current[name]:
            older.add(each)
    return older - set(keep)
