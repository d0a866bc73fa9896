"""One small store for every address a document can name: read bytes, write bytes.

`file:` is written beside its final name and renamed; `mlflow-artifacts:` goes through the tracking server's artifact
proxy; `http(s):` is GET and PUT; `s3:` and `gs:` go through fsspec. Every call has a time-out. A place that cannot be
reached is tried again, with growing pauses, until the store's patience ends.
"""

from __future__ import annotations

import hashlib
import logging
import mimetypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import httpx

from tidegate_trainer.errors import Reason, TrainingError, disk_full

__all__ = ["ArtifactMissingError", "ArtifactStore", "join", "sha256_of"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_CALL_SECONDS = 60.0
_CONNECT_SECONDS = 5.0
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
_LONGEST_ANSWER = 200


class ArtifactMissingError(Exception):
    """The place was reached, and nothing is there."""


@dataclass(frozen=True, slots=True)
class ArtifactStore:
    """Reads and writes whole files by address."""

    tracking_uri: str | None = None
    """MLflow server that `mlflow-artifacts:/…` addresses go through; None: the variable MLFLOW_TRACKING_URI."""
    patience: float = 120.0
    """Seconds for which a place that cannot be reached is tried again."""
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def read(self, uri: str) -> bytes:
        """Return the file at `uri`.

        Raises:
            ArtifactMissingError: the place answers, and has no such file.
            TrainingError: StorageUnavailable after the store's patience.
        """
        return self._insist(uri, lambda: self._read_once(uri))

    def write(self, uri: str, content: bytes, *, patience: float | None = None) -> None:
        """Store `content` at `uri`, replacing what was there.

        Raises:
            TrainingError: StorageUnavailable after `patience` seconds (default: the store's), DiskFull at once.
        """
        self._insist(uri, lambda: self._write_once(uri, content), patience)

    def _insist(self, uri: str, attempt: Callable[[], T], patience: float | None = None) -> T:
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        pause = _FIRST_PAUSE
        while True:
            try:
                return attempt()
            except ArtifactMissingError:
                raise
            except Exception as error:
                failure = _failure(uri, error)
                if failure.reason is Reason.DISK_FULL or time.monotonic() + pause > deadline:
                    raise failure from error
                log.warning("%s; trying again in %.1f s", failure.message, pause)
                self.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _read_once(self, uri: str) -> bytes:
        scheme = urlsplit(uri).scheme
        if scheme in ("s3", "gs"):
            return _read_bucket(uri)
        if scheme == "file":
            return _read_file(_path(uri))
        response = httpx.get(self._web_address(uri), timeout=_timeout(), follow_redirects=True, **_credentials(scheme))
        if response.status_code in (404, 410):
            raise ArtifactMissingError(uri)
        return response.raise_for_status().content

    def _write_once(self, uri: str, content: bytes) -> None:
        scheme = urlsplit(uri).scheme
        if scheme in ("s3", "gs"):
            _write_bucket(uri, content)
        elif scheme == "file":
            _write_file(_path(uri), content)
        else:
            self._put(uri, content)

    def _put(self, uri: str, content: bytes) -> None:
        kind = mimetypes.guess_type(uri)[0] or "application/octet-stream"
        credentials = _credentials(urlsplit(uri).scheme)
        headers = credentials.pop("headers", {}) | {"content-type": kind}
        address = self._web_address(uri)
        httpx.put(address, content=content, timeout=_timeout(), headers=headers, **credentials).raise_for_status()

    def _web_address(self, uri: str) -> str:
        parts = urlsplit(uri)
        if parts.scheme != "mlflow-artifacts":
            return uri
        server = (
            f"http://{parts.netloc}" if parts.netloc else self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        )
        if not server:
            message = f"{uri} needs the address of the MLflow server; set MLFLOW_TRACKING_URI"
            raise TrainingError(Reason.INVALID_CONFIG, message)
        return f"{server.rstrip('/')}/api/2.0/mlflow-artifacts/artifacts/{quote(parts.path.lstrip('/'))}"


def join(folder: str, name: str) -> str:
    """Return the address of `name` inside `folder`."""
    return f"{folder.rstrip('/')}/{name}"


def sha256_of(content: bytes) -> str:
    """Return the hex digest of `content`."""
    return hashlib.sha256(content).hexdigest()


def _failure(uri: str, error: Exception) -> TrainingError:
    if isinstance(error, TrainingError):
        return error
    full = disk_full(error, uri) if isinstance(error, OSError) else None
    if full is not None:
        return full
    message = f"cannot reach {uri} ({_cause(error)}); check its address, credentials and server"
    return TrainingError(Reason.STORAGE_UNAVAILABLE, message, retryable=True)


def _cause(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code} {error.response.text[:_LONGEST_ANSWER]}".strip()
    return str(error) or type(error).__name__


def _timeout() -> httpx.Timeout:
    return httpx.Timeout(_CALL_SECONDS, connect=_CONNECT_SECONDS)


def _credentials(scheme: str) -> dict[str, Any]:
    """Return the credentials MLflow's own client would use; other servers get none."""
    if scheme != "mlflow-artifacts":
        return {}
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"headers": {"authorization": f"Bearer {token}"}}
    if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return {"auth": (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))}
    return {}


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ArtifactMissingError(str(path)) from error


def _write_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _read_bucket(uri: str) -> bytes:
    import fsspec

    try:
        with fsspec.open(uri, "rb") as file:
            return bytes(file.read())
    except FileNotFoundError as error:
        raise ArtifactMissingError(uri) from error


def _write_bucket(uri: str, content: bytes) -> None:
    import fsspec

    with fsspec.open(uri, "wb") as file:
        file.write(content)
