"""Bring a file from where it is stored, verify it and put it in place whole or not at all.

Addresses: ``mlflow-artifacts:/`` (through an MLflow server), ``http(s)://``, ``file://``, and ``s3://`` and ``gs://``
through fsspec. Errors::

    ArtifactError
      ArtifactUnavailable   the storage is away or answers with an error of its own   retryable
      Truncated             the connection ended before the file did                  retryable
      DiskFull              no room at the destination                                retryable
      ArtifactNotFound      nothing lies at the address
      ArtifactForbidden     the storage refuses these credentials
      ChecksumMismatch      another file than the one that was asked for
      InvalidAddress        no address that can be fetched
"""

from __future__ import annotations

import base64
import errno
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

__all__ = [
    "ArtifactError",
    "ArtifactForbidden",
    "ArtifactNotFound",
    "ArtifactUnavailable",
    "ChecksumMismatch",
    "DiskFull",
    "Fetched",
    "Fetcher",
    "InvalidAddress",
    "Patience",
    "Truncated",
    "digest_of",
]

CHUNK = 1 << 20
MLFLOW_ROUTE = "/api/2.0/mlflow-artifacts/artifacts/"
TEMPORARY_STATUS = frozenset({408, 425, 429})
OBJECT_STORES = frozenset({"s3", "gs"})
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class ArtifactError(Exception):
    """A file could not be brought; `reason` is for machines, the message ends with the remedy."""

    reason: ClassVar[str] = "ArtifactError"
    retryable: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """The name of the class is the reason that conditions show."""
        cls.reason = cls.__name__


class ArtifactUnavailable(ArtifactError):
    """The storage is away, slow, or answers with an error of its own."""

    retryable = True


class Truncated(ArtifactError):
    """The connection ended before the file did."""

    retryable = True


class DiskFull(ArtifactError):
    """No room at the destination. Another try may meet a node with more, or a disk that was cleaned."""

    retryable = True


class ArtifactNotFound(ArtifactError):
    """Nothing lies at the address."""


class ArtifactForbidden(ArtifactError):
    """The storage refuses the credentials of this pod."""


class ChecksumMismatch(ArtifactError):
    """The file is another one than the one that was asked for."""


class InvalidAddress(ArtifactError):
    """The address has a form that nobody here can fetch."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try; all times in seconds."""

    attempts: int = 5
    first_delay: float = 0.5
    longest_delay: float = 8.0
    timeout: float = 30.0
    """Longest silence on a connection."""
    deadline: float = 900.0
    """For all attempts together, so that a source that trickles cannot hold a pod for ever."""

    def delay(self, attempt: int) -> float:
        """The pause after a failed attempt, counted from 1: doubled each time up to the longest."""
        return float(min(self.longest_delay, self.first_delay * 2 ** (attempt - 1)))


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is in place."""

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Source:
    """An open file of which `length` bytes are promised, where the storage says so."""

    stream: IO[bytes]
    length: int | None


def shown(uri: str) -> str:
    """The address without what may be secret: user, password and a signed query."""
    parts = split(uri)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def split(uri: str) -> urllib.parse.SplitResult:
    """The parts of an address."""
    try:
        return urllib.parse.urlsplit(uri)
    except ValueError as error:
        raise InvalidAddress(f"not an address: {error}; correct it") from error


def digest_of(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches files; holds what all fetches of one pod share."""

    mlflow_url: str | None = None
    patience: Patience = Patience()
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def fetch(self, uri: str, destination: Path, sha256: str | None, size: int | None = None) -> Fetched:
        """Bring the file and rename it to `destination`, which so is never half a file.

        What the network or the storage did is tried again within the patience; the last error is raised. Without a
        digest nothing but the length is verified.
        """
        end = self.clock() + self.patience.deadline
        for attempt in range(1, self.patience.attempts + 1):
            try:
                return self._attempt(uri, destination, sha256, size, end)
            except (ArtifactUnavailable, Truncated):
                delay = self.patience.delay(attempt)
                if attempt == self.patience.attempts or self.clock() + delay > end:
                    raise
                self.sleep(delay)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, uri: str, destination: Path, sha256: str | None, size: int | None, end: float) -> Fetched:
        """One download into a temporary neighbour of the destination, which is gone afterwards whatever happens."""
        partial = destination.with_name(f".{destination.name}.part")
        try:
            with self._open(uri) as source:
                assess_length(uri, source.length, size)
                assess_room(destination, source.length or size)
                fetched = self._copy(uri, source, partial, end)
            assess_digest(uri, fetched, sha256, size)
            partial.replace(destination)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise disk_full(destination, os.strerror(error.errno)) from error
            raise
        finally:
            partial.unlink(missing_ok=True)
        return Fetched(destination, fetched.sha256, fetched.size)

    def _copy(self, uri: str, source: Source, partial: Path, end: float) -> Fetched:
        """Stream into the temporary file, counting and hashing on the way."""
        digest, received = hashlib.sha256(), 0
        with partial.open("wb") as target:
            while chunk := read_chunk(uri, source.stream):
                if self.clock() > end:
                    raise ArtifactUnavailable(
                        f"{shown(uri)} was not complete after {self.patience.deadline:g} s; make the storage faster"
                    )
                digest.update(chunk)
                target.write(chunk)
                received += len(chunk)
            target.flush()
            os.fsync(target.fileno())
        if source.length is not None and received < source.length:
            raise Truncated(
                f"{shown(uri)} ended after {received} of {source.length} bytes; it is tried again, look at the storage "
                "and the network if it stays"
            )
        return Fetched(partial, digest.hexdigest(), received)

    @contextmanager
    def _open(self, uri: str) -> Iterator[Source]:
        """Open the address with the client of its scheme."""
        parts = split(uri)
        if parts.scheme in ("http", "https"):
            opened = self._open_http(urllib.request.Request(uri), uri)
        elif parts.scheme == "mlflow-artifacts":
            opened = self._open_http(self._mlflow_request(parts), uri)
        elif parts.scheme == "file":
            opened = open_file(Path(urllib.parse.unquote(parts.path)), uri)
        elif parts.scheme in OBJECT_STORES:
            opened = open_object(uri, parts.scheme, self.patience)
        else:
            known = "mlflow-artifacts:/, http://, https://, file://, s3:// or gs://"
            raise InvalidAddress(f"cannot fetch {shown(uri)!r}: use an address that starts with {known}")
        try:
            yield opened
        finally:
            opened.stream.close()

    def _mlflow_request(self, parts: urllib.parse.SplitResult) -> urllib.request.Request:
        """The request to the artifact proxy of MLflow, with the credentials that MLflow's own client would send."""
        base = f"http://{parts.netloc}" if parts.netloc else self.mlflow_url
        if not base:
            raise InvalidAddress(
                f"{shown(parts.geturl())} needs an MLflow server: set its address in the chart (mlflow.url) or as "
                "MLFLOW_TRACKING_URI"
            )
        request = urllib.request.Request(base.rstrip("/") + MLFLOW_ROUTE + parts.path.lstrip("/"))
        if authorization := self._mlflow_authorization():
            # Not repeated after a redirect: another host must not see it.
            request.add_unredirected_header("Authorization", authorization)
        return request

    def _mlflow_authorization(self) -> str | None:
        """The Authorization header for MLflow, or None where the environment has no credentials."""
        if token := self.environment.get("MLFLOW_TRACKING_TOKEN"):
            return f"Bearer {token}"
        user = self.environment.get("MLFLOW_TRACKING_USERNAME")
        password = self.environment.get("MLFLOW_TRACKING_PASSWORD", "")
        return user and "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def _open_http(self, request: urllib.request.Request, uri: str) -> Source:
        """Send the request; errors of the transport and of the server become ours."""
        try:
            response = urllib.request.urlopen(request, timeout=self.patience.timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise translate_status(error.code, uri) from error
        except (ValueError, http.client.InvalidURL) as error:
            raise InvalidAddress(f"cannot fetch {shown(uri)!r}: {error}; correct the address") from error
        except (OSError, http.client.HTTPException) as error:
            raise unavailable(uri, error) from error
        length = response.headers.get("Content-Length")
        return Source(response, int(length) if length and length.isdigit() else None)


def open_file(path: Path, uri: str) -> Source:
    """Open a file of the pod, for example on a volume."""
    try:
        return Source(path.open("rb"), path.stat().st_size)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ArtifactNotFound(
            f"{shown(uri)} is no file in this pod; mount its volume or correct the address"
        ) from error
    except PermissionError as error:
        raise ArtifactForbidden(f"{shown(uri)} may not be read; give user {os.getuid()} access") from error
    except OSError as error:
        raise unavailable(uri, error) from error


def open_object(uri: str, scheme: str, patience: Patience) -> Source:
    """Open an object of an object store; fsspec and the store's client are imported only here, for they are heavy."""
    import fsspec  # type: ignore[import-untyped,unused-ignore]

    try:
        filesystem = fsspec.filesystem(scheme, skip_instance_cache=True, **object_store_options(scheme, patience))
        size = filesystem.info(uri)["size"]
        return Source(filesystem.open(uri, "rb", block_size=8 * CHUNK, cache_type="readahead"), size)
    except FileNotFoundError as error:
        raise translate_status(404, uri) from error
    except PermissionError as error:
        raise translate_status(403, uri) from error
    except ImportError as error:
        raise InvalidAddress(f"cannot fetch {shown(uri)}: this image has no client for {scheme}://; {error}") from error
    except Exception as error:  # every store's client has errors of its own
        raise unavailable(uri, error) from error


def object_store_options(scheme: str, patience: Patience) -> dict[str, Any]:
    """Time-outs in the words of the store's client; its own retries are off because we have ours."""
    if scheme == "s3":
        seconds = {"connect_timeout": patience.timeout, "read_timeout": patience.timeout}
        return {"config_kwargs": {**seconds, "retries": {"max_attempts": 1}}}
    return {"timeout": patience.timeout}


def read_chunk(uri: str, stream: IO[bytes]) -> bytes:
    """The next piece of a source; whatever goes wrong while reading is the storage's or the network's fault.

    `read1` returns what has arrived: `read` would wait for a whole piece, which a trickling source never completes.
    """
    try:
        piece: bytes = getattr(stream, "read1", stream.read)(CHUNK)
        return piece
    except http.client.IncompleteRead as error:
        raise Truncated(f"{shown(uri)} ended too early; it is tried again, look at the storage if it stays") from error
    except Exception as error:  # sockets, TLS and the clients of object stores have errors of their own
        raise unavailable(uri, error) from error


def assess_length(uri: str, length: int | None, size: int | None) -> None:
    """Refuse a file of another length before its download."""
    if length is not None and size is not None and length != size:
        what = "only a part of the file was uploaded" if length < size else "the file was replaced"
        raise ChecksumMismatch(
            f"{shown(uri)} has {length} bytes and should have {size}: {what}; upload the file again or make a new "
            "ModelVersion for it"
        )


def assess_room(destination: Path, needed: int | None) -> None:
    """Refuse a file that does not fit before its download."""
    free = shutil.disk_usage(destination.parent).free
    if needed is not None and needed > free:
        raise disk_full(destination, f"the file needs {needed} bytes and {free} are free")


def assess_digest(uri: str, fetched: Fetched, sha256: str | None, size: int | None) -> None:
    """Refuse a file that is not the one that was asked for."""
    assess_length(uri, fetched.size, size)
    if sha256 is not None and fetched.sha256 != sha256:
        raise ChecksumMismatch(
            f"{shown(uri)} has sha256 {fetched.sha256} and should have {sha256}: the file was changed after its digest "
            "was written down; upload the right file or make a new ModelVersion with this digest"
        )


def disk_full(destination: Path, detail: str) -> DiskFull:
    """DiskFull with its remedy."""
    return DiskFull(f"no room in {destination.parent}: {detail}; free the node's disk or raise the volume's size limit")


def translate_status(status: int, uri: str) -> ArtifactError:
    """A status code of the storage as one of our errors."""
    if status in (401, 403):
        return ArtifactForbidden(f"{shown(uri)} is forbidden ({status}); give this pod credentials for the storage")
    if status >= 500 or status in TEMPORARY_STATUS:
        return ArtifactUnavailable(
            f"the storage of {shown(uri)} answers {status}; it is tried again, look at the storage"
        )
    return ArtifactNotFound(f"nothing at {shown(uri)} ({status}); upload the file or correct the address")


def unavailable(uri: str, error: Exception) -> ArtifactUnavailable:
    """ArtifactUnavailable with what the transport says and the remedy."""
    detail = str(getattr(error, "reason", "") or error) or type(error).__name__
    return ArtifactUnavailable(
        f"cannot read {shown(uri)}: {detail}; it is tried again, check the address, the network policy and the storage"
    )
