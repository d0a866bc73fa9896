"""Images taken layer by layer from podman's store, so that what the node already has is not moved again.

`podman save` can only write an image whole, which takes minutes for one of five gigabytes of which
a person has changed one file. The store keeps, for every layer, its files and a record of everything
between them in the layer's archive; together they are the archive again, byte for byte. Containerd
checks the digests of all that it is given, so a mistake here cannot go unnoticed.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dev.cluster.errors import ClusterError

CHUNK = 1 << 20
SEGMENT = 2
"""Type of an entry of the record that holds bytes of the archive; the other type names a file."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image, in podman's store."""

    digest: str
    """Of the archive, uncompressed."""
    size: int
    files: Path
    record: Path
    """What lies between the files in the archive, as compressed JSON lines."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image in podman's store."""

    reference: str
    manifest: bytes
    config: bytes
    layers: tuple[Layer, ...]
    """The lowest first."""


def read_image(store: Path, reference: str) -> StoredImage:
    """Find an image and its layers in the store."""
    try:
        images = json.loads((store / "overlay-images" / "images.json").read_text())
        image = next(each for each in images if reference in each.get("names", []))
        folder = store / "overlay-images" / image["id"]
        manifest = (folder / "manifest").read_bytes()
        config = json.loads(manifest)["config"]["digest"]
        key = base64.b64encode(config.encode()).decode()
        layers = tuple(_read_layers(store, image["layer"]))
        return StoredImage(reference, manifest, (folder / f"={key}").read_bytes(), layers)
    except (OSError, KeyError, ValueError, StopIteration) as error:
        raise ClusterError(f"podman's store cannot be read: {error!r}") from error


def _read_layers(store: Path, top: str) -> list[Layer]:
    rows = json.loads((store / "overlay-layers" / "layers.json").read_text())
    known: dict[str, dict[str, Any]] = {row["id"]: row for row in rows}
    found: list[Layer] = []
    name = top
    while name:
        row = known[name]
        record = store / "overlay-layers" / f"{name}.tar-split.gz"
        files = store / "overlay" / name / "diff"
        found.append(Layer(row["diff-digest"], row["diff-size"], files, record))
        name = row.get("parent", "")
    return found[::-1]


def chain_digests(digests: Iterable[str]) -> list[str]:
    """Names under which containerd keeps the unpacked layers: each stands for all below it as well."""
    chain: list[str] = []
    for digest in digests:
        both = f"{chain[-1]} {digest}" if chain else ""
        chain.append(_digest(both.encode()) if both else digest)
    return chain


def missing_layers(image: StoredImage, unpacked: Iterable[str]) -> list[Layer]:
    """The layers that are not unpacked yet."""
    present = set(unpacked)
    chain = chain_digests(layer.digest for layer in image.layers)
    return [layer for layer, name in zip(image.layers, chain, strict=True) if name not in present]


def write_archive(image: StoredImage, layers: Iterable[Layer], target: IO[bytes]) -> None:
    """Write an image, with the given layers only, in the form that containerd imports."""
    index = json.dumps(build_index(image)).encode()
    layout = json.dumps({"imageLayoutVersion": "1.0.0"}).encode()
    small = {"oci-layout": layout, "index.json": index}
    small |= {_blob(_digest(content)): content for content in (image.manifest, image.config)}
    for name, content in small.items():
        _write_member(target, name, len(content), [content])
    for layer in layers:
        _write_member(target, _blob(layer.digest), layer.size, restore_layer(layer))
    target.write(bytes(2 * tarfile.BLOCKSIZE))


def _write_member(target: IO[bytes], name: str, size: int, chunks: Iterable[bytes]) -> None:
    header = tarfile.TarInfo(name)
    header.size = size
    target.write(header.tobuf())
    for chunk in chunks:
        target.write(chunk)
    target.write(bytes(-size % tarfile.BLOCKSIZE))


def build_index(image: StoredImage) -> dict[str, Any]:
    """The archive's table of contents, with the name that the image gets."""
    manifest = json.loads(image.manifest)
    entry = {
        "mediaType": manifest.get("mediaType", "application/vnd.oci.image.manifest.v1+json"),
        "digest": _digest(image.manifest),
        "size": len(image.manifest),
        "annotations": {"io.containerd.image.name": image.reference},
    }
    return {"schemaVersion": 2, "manifests": [entry]}


def restore_layer(layer: Layer) -> Iterator[bytes]:
    """The bytes of a layer's archive, from its record and its files."""
    with gzip.open(layer.record) as record:
        for line in record:
            entry = json.loads(line)
            if entry["type"] == SEGMENT:
                yield base64.b64decode(entry["payload"])
            elif entry.get("size"):
                yield from _read_chunks(layer.files / _name(entry))


def _name(entry: dict[str, Any]) -> str:
    """The name of a file; one that is not valid UTF-8 is kept apart."""
    raw = entry.get("name_raw")
    name = base64.b64decode(raw).decode(errors="surrogateescape") if raw else entry["name"]
    return str(name).lstrip("/")


def _read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
