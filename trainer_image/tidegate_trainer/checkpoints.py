"""Checkpoints that survive the pod: checksummed, in slots that are overwritten in turn, kept in two places.

A checkpoint goes to the pod's work folder and, from a background thread, to the folder in the document. Slots need
neither a listing nor a deletion, so they work on any store. The newest whole checkpoint of either place is resumed; one
that is torn, or that belongs to another job or configuration, is passed over.

A place that cannot take a checkpoint never stops the training: the older one stays, the fault is told once and shown
with the progress, and the next checkpoint tries again. A full disk is such a fault.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from dataclasses import dataclass
from typing import Any

from tidegate_trainer.artifacts import ArtifactMissingError, ArtifactStore, join
from tidegate_trainer.contract import TrainingJob
from tidegate_trainer.errors import TrainingError

__all__ = ["Checkpoint", "Checkpoints", "fingerprint", "pack", "unpack"]

log = logging.getLogger(__name__)

_MAGIC = b"TIDEGATE-CHECKPOINT-1\n"
_DIGEST = hashlib.sha256().digest_size
_LENGTH = 4
_FLUSH_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a training at one moment."""

    fingerprint: str
    """What the training is; see `fingerprint`."""
    sequence: int
    """Number of the checkpoint, counted from 1 over all pods of the job."""
    percent: float
    """Progress at that moment, so that a resumed job does not report less."""
    payload: bytes
    """The algorithm's own state."""


def fingerprint(job: TrainingJob, config: dict[str, Any]) -> str:
    """Return the hash of everything that decides a training's course: job, settings, data, base model, seed."""
    parts = {
        "uid": job.uid,
        "algorithm": job.trainer.algorithm,
        "config": config,
        "datasets": [dataset.model_dump() for dataset in job.datasets],
        "base": job.base_model.sha256 if job.base_model else None,
        "seed": job.seed,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def pack(checkpoint: Checkpoint) -> bytes:
    """Return the file: magic, SHA-256 of the rest, length of the header, header, payload."""
    fields = {"fingerprint": checkpoint.fingerprint, "sequence": checkpoint.sequence, "percent": checkpoint.percent}
    header = json.dumps(fields).encode()
    body = len(header).to_bytes(_LENGTH, "big") + header + checkpoint.payload
    return _MAGIC + hashlib.sha256(body).digest() + body


def unpack(content: bytes) -> Checkpoint | None:
    """Return the checkpoint in a file, or None when the file is torn or is something else."""
    start = len(_MAGIC) + _DIGEST
    digest, body = content[len(_MAGIC) : start], content[start:]
    if not content.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
        return None
    end = _LENGTH + int.from_bytes(body[:_LENGTH], "big")
    return Checkpoint(**json.loads(body[_LENGTH:end]), payload=body[end:])


@dataclass(slots=True)
class Slots:
    """The checkpoint files of one folder, overwritten in turn; the newest whole one is never the next to go."""

    store: ArtifactStore
    folder: str
    count: int
    problem: str | None = None
    """Why the last checkpoint could not be kept here; None when it was."""
    _next: int = 0

    def read(self, fingerprint: str) -> Checkpoint | None:
        """Return the newest whole checkpoint of the training; raises StorageUnavailable."""
        newest = None
        for number in range(self.count):
            checkpoint = self._read_slot(number, fingerprint)
            if checkpoint and (newest is None or checkpoint.sequence > newest.sequence):
                newest, self._next = checkpoint, (number + 1) % self.count
        return newest

    def write(self, content: bytes) -> None:
        """Keep a file in the next slot; a fault is told once and kept in `problem`."""
        try:
            self.store.write(self._uri(self._next), content, patience=0)
        except TrainingError as error:
            self._tell(f"{error.reason}: {error.message}")
        else:
            self._next = (self._next + 1) % self.count
            self._tell(None)

    def _uri(self, number: int) -> str:
        return join(self.folder, f"slot-{number}.ckpt")

    def _read_slot(self, number: int, fingerprint: str) -> Checkpoint | None:
        uri = self._uri(number)
        try:
            checkpoint = unpack(self.store.read(uri))
        except ArtifactMissingError:
            return None
        if checkpoint is None:
            log.warning("checkpoint %s is torn; passed over", uri)
        elif checkpoint.fingerprint != fingerprint:
            log.info("checkpoint %s belongs to another training; passed over", uri)
        else:
            return checkpoint
        return None

    def _tell(self, problem: str | None) -> None:
        if problem and not self.problem:
            log.warning("no checkpoint kept, the training goes on: %s", problem)
        elif self.problem and not problem:
            log.info("checkpoints in %s are kept again", self.folder)
        self.problem = problem


class Checkpoints:
    """Saves and finds the checkpoints of one training."""

    def __init__(
        self, store: ArtifactStore, fingerprint: str, local: str, remote: str | None = None, keep: int = 2
    ) -> None:
        """Take the folder in the pod and the one that outlives it, both as addresses.

        Two slots at least: while one is overwritten, the other holds a whole checkpoint.
        """
        slots = max(keep, 2)
        self.fingerprint = fingerprint
        self._local = Slots(store, local, slots)
        self._remote = Slots(store, remote, slots) if remote else None
        self._sequence = 0
        self._pending: bytes | None = None
        self._lock = threading.Lock()
        self._uploader: threading.Thread | None = None

    @property
    def problem(self) -> str | None:
        """Why the last checkpoint could not be kept everywhere; None when it was."""
        return self._local.problem or (self._remote.problem if self._remote else None)

    def latest(self) -> Checkpoint | None:
        """Return the newest whole checkpoint of this training.

        Raises:
            TrainingError: StorageUnavailable; going on without it would throw away what another pod has done.
        """
        places = [self._local, *([self._remote] if self._remote else [])]
        found = [one for place in places if (one := place.read(self.fingerprint))]
        newest = max(found, key=lambda one: one.sequence, default=None)
        self._sequence = newest.sequence if newest else 0
        return newest

    def save(self, payload: bytes, percent: float) -> None:
        """Keep a checkpoint in the pod now and in the remote folder soon; a place that fails stops nothing."""
        self._sequence += 1
        content = pack(Checkpoint(self.fingerprint, self._sequence, percent, payload))
        self._local.write(content)
        if self._remote:
            self._upload_soon(content)

    def flush(self, seconds: float = _FLUSH_SECONDS) -> bool:
        """Wait until the last checkpoint is uploaded; tell whether it was within the time."""
        uploader = self._uploader
        if uploader is not None:
            uploader.join(seconds)
        return uploader is None or not uploader.is_alive()

    def _upload_soon(self, content: bytes) -> None:
        """Upload in the background; while an upload runs, only the newest of the waiting ones is kept."""
        with self._lock:
            self._pending = content
            if self._uploader is None:
                self._uploader = threading.Thread(target=self._upload, name="checkpoints", daemon=True)
                self._uploader.start()

    def _upload(self) -> None:
        while True:
            with self._lock:
                content, self._pending = self._pending, None
                if content is None:
                    self._uploader = None
                    return
            if self._remote:
                self._remote.write(content)
