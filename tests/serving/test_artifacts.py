"""Fetching under every fault that the network, the storage and the disk can bring."""

from __future__ import annotations

import base64
import errno
import hashlib
import itertools
import os
import subprocess
import threading
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.serving.file_server import FileServer, free_port, send
from tidegate_serving import artifacts
from tidegate_serving.artifacts import (
    ArtifactError,
    ArtifactForbidden,
    ArtifactNotFound,
    ArtifactUnavailable,
    ChecksumMismatch,
    DiskFull,
    Fetcher,
    InvalidAddress,
    Patience,
    Truncated,
)

CONTENT = b"model" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(attempts=3, first_delay=0.0, timeout=0.3)


def fetcher(**changes: Any) -> Fetcher:
    return Fetcher(**{"patience": QUICK, "environment": {}} | changes)


def assert_nothing_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []


def test_a_good_file_is_fetched_and_verified(files: FileServer, tmp_path: Path) -> None:
    files.answers = [send(CONTENT)]
    fetched = fetcher().fetch(f"{files.url}/model.onnx", tmp_path / "model.onnx", SHA256, len(CONTENT))
    assert (fetched.path.read_bytes(), fetched.sha256, fetched.size) == (CONTENT, SHA256, len(CONTENT))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_without_a_digest_only_the_length_counts(files: FileServer, tmp_path: Path) -> None:
    files.answers = [send(CONTENT)]
    assert fetcher().fetch(f"{files.url}/set.npz", tmp_path / "set.npz", None).sha256 == SHA256


@pytest.mark.parametrize(
    "first",
    [send(b"down", 500), send(b"later", 503), send(b"slower", 429), send(CONTENT[:99], promised=len(CONTENT))],
    ids=["500", "503", "429", "cut off"],
)
def test_what_passes_is_tried_again(files: FileServer, tmp_path: Path, first: Any) -> None:
    files.answers = [first, first, send(CONTENT)]
    fetcher().fetch(f"{files.url}/model.onnx", tmp_path / "model.onnx", SHA256)
    assert len(files.paths) == 3


@pytest.mark.parametrize(
    ("answer", "error", "words", "tries"),
    [
        (send(b"", 500), ArtifactUnavailable, "answers 500", 3),
        (send(CONTENT[:99], promised=len(CONTENT)), Truncated, "after 99 of 5000 bytes", 3),
        (send(b"", 404), ArtifactNotFound, "upload the file or correct the address", 1),
        (send(b"", 410), ArtifactNotFound, "410", 1),
        (send(b"", 401), ArtifactForbidden, "credentials", 1),
        (send(b"", 403), ArtifactForbidden, "credentials", 1),
        (send(b"other" * 1000), ChecksumMismatch, "the file was changed", 1),
        (send(CONTENT[:99]), ChecksumMismatch, "only a part of the file was uploaded", 1),
        (send(CONTENT + b"x"), ChecksumMismatch, "the file was replaced", 1),
    ],
    ids=["500", "cut off", "404", "410", "401", "403", "other content", "short", "long"],
)
def test_what_stays_has_a_name_and_a_remedy(
    files: FileServer, tmp_path: Path, answer: Any, error: type[ArtifactError], words: str, tries: int
) -> None:
    files.answers = [answer]
    with pytest.raises(error, match=words) as raised:
        fetcher().fetch(f"{files.url}/model.onnx", tmp_path / "model.onnx", SHA256, len(CONTENT))
    assert raised.value.reason == error.__name__
    assert len(files.paths) == tries
    assert_nothing_left(tmp_path)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(ArtifactUnavailable, match="refused"):
        fetcher().fetch(f"http://127.0.0.1:{free_port()}/m", tmp_path / "m", SHA256)


def test_silence_ends_with_the_time_out(files: FileServer, tmp_path: Path) -> None:
    silent = threading.Event()
    files.answers = [lambda _: silent.wait(5)]
    with pytest.raises(ArtifactUnavailable, match="timed out"):
        fetcher(patience=Patience(attempts=1, timeout=0.1)).fetch(f"{files.url}/m", tmp_path / "m", SHA256)
    silent.set()


def test_a_source_that_trickles_meets_the_deadline(files: FileServer, tmp_path: Path) -> None:
    files.answers = [send(CONTENT)]
    times = itertools.count(0.0, 11.0)
    slow = fetcher(patience=Patience(attempts=5, deadline=10.0), clock=lambda: next(times))
    with pytest.raises(ArtifactUnavailable, match="not complete after 10 s"):
        slow.fetch(f"{files.url}/m", tmp_path / "m", SHA256)
    assert_nothing_left(tmp_path)


def test_pauses_grow_to_a_bound() -> None:
    assert [Patience().delay(attempt) for attempt in range(1, 7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]


def test_pauses_are_kept(files: FileServer, tmp_path: Path) -> None:
    files.answers = [send(b"", 500)]
    pauses: list[float] = []
    with pytest.raises(ArtifactUnavailable):
        fetcher(patience=Patience(attempts=4), sleep=pauses.append).fetch(f"{files.url}/m", tmp_path / "m", SHA256)
    assert pauses == [0.5, 1.0, 2.0]


def test_a_file_of_the_pod(tmp_path: Path) -> None:
    source = tmp_path / "my model.onnx"
    source.write_bytes(CONTENT)
    fetcher().fetch(source.as_uri(), tmp_path / "copy", SHA256)
    with pytest.raises(ArtifactNotFound, match="mount its volume"):
        fetcher().fetch("file:///nowhere/model.onnx", tmp_path / "copy", SHA256)
    with pytest.raises(ArtifactNotFound):
        fetcher().fetch(tmp_path.as_uri(), tmp_path / "copy2", SHA256)


def test_mlflow_is_asked_through_its_proxy(files: FileServer, tmp_path: Path) -> None:
    files.answers = [send(CONTENT)]
    fetch = fetcher(mlflow_url=files.url + "/", environment={"MLFLOW_TRACKING_TOKEN": "secret"}).fetch
    fetch("mlflow-artifacts:/1/abc/artifacts/model/model.onnx", tmp_path / "m", SHA256)
    assert files.paths == ["GET /api/2.0/mlflow-artifacts/artifacts/1/abc/artifacts/model/model.onnx"]
    assert files.headers[0]["Authorization"] == "Bearer secret"


def test_mlflow_in_the_address_wins_and_may_want_a_password(files: FileServer, tmp_path: Path) -> None:
    files.answers = [send(CONTENT)]
    address = files.url.replace("http://", "mlflow-artifacts://")
    user = {"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"}
    fetcher(mlflow_url="http://elsewhere", environment=user).fetch(f"{address}/1/m", tmp_path / "m", SHA256)
    assert files.headers[0]["Authorization"] == "Basic " + base64.b64encode(b"u:p").decode()


@pytest.mark.parametrize(
    "uri", ["mlflow-artifacts:/1/m", "ftp://host/m", "model.onnx", "http://[bad/m", "http://host:x/m"]
)
def test_an_address_that_nobody_can_fetch(uri: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidAddress):
        fetcher().fetch(uri, tmp_path / "m", SHA256)


def test_secrets_of_an_address_stay_secret(files: FileServer, tmp_path: Path) -> None:
    files.answers = [send(b"", 404)]
    with pytest.raises(ArtifactNotFound) as raised:
        fetcher().fetch(f"{files.url}/m?X-Signature=secret", tmp_path / "m", SHA256)
    assert "secret" not in str(raised.value)
    assert artifacts.shown("https://user:secret@host/m?q=secret#secret") == "https://host/m"


def test_no_room_is_seen_before_the_download(files: FileServer, tmp_path: Path) -> None:
    files.answers = [send(b"", promised=1 << 60)]
    with pytest.raises(DiskFull, match="are free; free the node's disk or raise"):
        fetcher().fetch(f"{files.url}/m", tmp_path / "m", SHA256)


def test_a_disk_that_fills_while_writing(files: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files.answers = [send(CONTENT)]
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        fetcher().fetch(f"{files.url}/m", tmp_path / "m", SHA256)
    assert_nothing_left(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system with room for 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True, check=False)
    if mount.returncode != 0:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_really_fills(files: FileServer, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.answers = [send(b"x" * 200_000)]
    monkeypatch.setattr(artifacts, "assess_room", lambda *_: None)
    with pytest.raises(DiskFull):
        fetcher().fetch(f"{files.url}/m", small_disk / "m", SHA256)
    assert_nothing_left(small_disk)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> type[MemoryFileSystem]:
    """An object store in memory behind s3:// and gs://, which records its options."""

    class Store(MemoryFileSystem):
        protocol = ("s3", "gs")
        store: ClassVar[dict[str, Any]] = {}
        options: ClassVar[dict[str, Any]] = {}
        failure: ClassVar[Exception | None] = None

        def __init__(self, **options: Any) -> None:
            super().__init__()
            type(self).options = options

        def info(self, path: str, **kwargs: Any) -> Any:
            if self.failure:
                raise self.failure
            return super().info(path, **kwargs)

    monkeypatch.setattr(fsspec, "filesystem", lambda _, skip_instance_cache, **options: Store(**options))
    return Store


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_an_object_store(scheme: str, bucket: type[MemoryFileSystem], tmp_path: Path) -> None:
    bucket().pipe_file(f"{scheme}://bucket/m.onnx", CONTENT)
    assert fetcher().fetch(f"{scheme}://bucket/m.onnx", tmp_path / "m", SHA256, len(CONTENT)).size == len(CONTENT)
    assert "timeout" in str(bucket.options)


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (FileNotFoundError("x"), ArtifactNotFound),
        (PermissionError("x"), ArtifactForbidden),
        (ImportError("s3fs"), InvalidAddress),
        (RuntimeError("Unable to locate credentials"), ArtifactUnavailable),
    ],
)
def test_an_object_store_that_fails(
    failure: Exception, error: type[ArtifactError], bucket: Any, tmp_path: Path
) -> None:
    bucket.failure = failure
    with pytest.raises(error):
        fetcher(sleep=lambda _: None).fetch("s3://bucket/m.onnx", tmp_path / "m", SHA256)


def test_the_real_s3_client(files: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """s3fs against the file server: the address, the time-outs and the errors of the real client."""
    settings = {
        "AWS_ENDPOINT_URL": files.url,
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    def answer(request: Any) -> None:
        request.send_response(206 if request.headers.get("Range") else 200)
        request.send_header("Content-Length", str(len(CONTENT)))
        request.send_header("ETag", '"1"')
        request.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(CONTENT)

    files.answers = [answer]
    fetcher().fetch("s3://bucket/m.onnx", tmp_path / "m", SHA256, len(CONTENT))
    files.answers = [send(b"", 404)]
    with pytest.raises(ArtifactNotFound):
        fetcher().fetch("s3://bucket/none.onnx", tmp_path / "n", SHA256)
