import base64
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from dev.cluster.containerd import Containerd
from dev.cluster.errors import ClusterError
from dev.cluster.settings import Folders
from dev.cluster.store import chain_digests, missing_layers, read_image, restore_layer, write_archive

REFERENCE = "tidegate.local/demo:1"


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def make_archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def put_layer(store: Path, name: str, parent: str, files: dict[str, bytes]) -> dict[str, object]:
    """Store a layer as podman does: its files, and a record of the bytes between them."""
    archive = make_archive(files)
    lines: list[dict[str, object]] = []
    position = 0
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        for member in members:
            segment = archive[position : member.offset_data]
            lines.append({"type": 2, "payload": base64.b64encode(segment).decode()})
            lines.append(
                {"type": 1, "name": member.name, "size": member.size}
                if member.size
                else {"type": 1, "name": member.name}
            )
            path = store / "overlay" / name / "diff" / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[member.name])
            position = member.offset_data + member.size
    lines.append({"type": 2, "payload": base64.b64encode(archive[position:]).decode()})
    record = store / "overlay-layers" / f"{name}.tar-split.gz"
    record.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(record, "wt") as output:
        output.writelines(json.dumps(line) + "\n" for line in lines)
    return {"id": name, "parent": parent, "diff-digest": digest(archive), "diff-size": len(archive)}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    rows = [
        put_layer(store, "low", "", {"etc/a": b"a" * 1000, "etc/empty": b""}),
        put_layer(store, "top", "low", {"srv/b": b"b" * 700}),
    ]
    (store / "overlay-layers" / "layers.json").write_text(json.dumps(rows))
    config = b'{"rootfs": {}}'
    manifest = json.dumps({"config": {"digest": digest(config)}, "layers": []}).encode()
    folder = store / "overlay-images" / "img"
    folder.mkdir(parents=True)
    (folder / "manifest").write_bytes(manifest)
    (folder / f"={base64.b64encode(digest(config).encode()).decode()}").write_bytes(config)
    images = [{"id": "other"}, {"id": "img", "names": [REFERENCE], "layer": "top"}]
    (store / "overlay-images" / "images.json").write_text(json.dumps(images))
    return store


def test_layers_come_back_byte_for_byte_and_lowest_first(store: Path):
    image = read_image(store, REFERENCE)
    assert [layer.files.parent.name for layer in image.layers] == ["low", "top"]
    for layer in image.layers:
        content = b"".join(restore_layer(layer))
        assert digest(content) == layer.digest
        assert len(content) == layer.size


def test_an_unpacked_layer_stands_for_all_below_it(store: Path):
    image = read_image(store, REFERENCE)
    chain = chain_digests(layer.digest for layer in image.layers)
    assert chain[0] == image.layers[0].digest
    assert chain[1] == digest(f"{chain[0]} {image.layers[1].digest}".encode())
    assert missing_layers(image, []) == list(image.layers)
    assert missing_layers(image, [chain[0]]) == [image.layers[1]]
    assert missing_layers(image, chain) == []


def test_archive_has_the_name_the_manifest_and_only_the_missing_layers(store: Path):
    image = read_image(store, REFERENCE)
    buffer = io.BytesIO()
    write_archive(image, [image.layers[1]], buffer)
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as archive:
        contents = {name: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]
    (entry,) = json.loads(contents["index.json"])["manifests"]
    assert entry["annotations"] == {"io.containerd.image.name": REFERENCE}
    blobs = {name.rpartition("/")[2]: content for name, content in contents.items() if name.startswith("blobs/")}
    assert all(digest(content) == f"sha256:{name}" for name, content in blobs.items())
    assert entry["digest"].removeprefix("sha256:") in blobs
    assert image.layers[1].digest.removeprefix("sha256:") in blobs
    assert image.layers[0].digest.removeprefix("sha256:") not in blobs


def test_an_image_that_is_not_there_is_an_error_and_no_traceback(store: Path, tmp_path: Path):
    with pytest.raises(ClusterError, match="store cannot be read"):
        read_image(store, "tidegate.local/other:1")
    with pytest.raises(ClusterError, match="store cannot be read"):
        read_image(tmp_path / "nowhere", REFERENCE)


def test_removing_an_image_removes_the_aliases_that_nothing_else_needs(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
):
    rows = ["REF TYPE DIGEST SIZE", "a:old t sha256:1 x", "sha256:aa t sha256:1 x", "a:new t sha256:2 x"]
    listing = "\n".join([*rows, "sha256:bb t sha256:2 x", "sha256:cc t sha256:3 x"])
    commands: list[list[str]] = []

    def run(words: list[str], **_: object) -> str:
        commands.append(words)
        return listing

    monkeypatch.setattr("dev.cluster.containerd.run", run)
    Containerd(folders).remove_images(["a:old"])
    assert commands[-1][-3:] == ["a:old", "sha256:aa", "sha256:cc"]
