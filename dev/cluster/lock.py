"""One command at a time, and one checkout at a time: the machine has room for one cluster."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dev.cluster.errors import ClusterError
from dev.cluster.processes import boot_id
from dev.cluster.progress import say, wait_until
from dev.cluster.settings import REPOSITORY, Folders

WAIT = 1800.0
CLUSTER = "cluster"
"""Held while the node is brought up or down."""
IMAGES = "images"
"""Held while images are built and imported, which takes long and needs nothing of the node's life."""


@contextmanager
def exclusive(folders: Folders, command: str, *, name: str = CLUSTER, wait: float = WAIT) -> Iterator[None]:
    """Hold a lock; wait for another command that holds it, saying whose it is.

    The kernel drops the lock when its holder ends, however it ends.
    """
    with (_lock_folder(folders, name) / f"{name}.lock").open("a+") as handle:
        if not _try_lock(handle):
            say(f"  another command is at work ({_read_holder(handle)}); waiting for it")
            if not wait_until(lambda: _try_lock(handle), timeout=wait, interval=0.5):
                raise ClusterError(f"another command is still at work: {_read_holder(handle)}")
        handle.truncate(0)
        handle.write(f"{command}, process {os.getpid()}, checkout {REPOSITORY}")
        handle.flush()
        yield
        handle.truncate(0)


def _lock_folder(folders: Folders, name: str) -> Path:
    """Images are shared by all clusters of a person, the rest is not."""
    folder = folders.cache if name == IMAGES else folders.state
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _try_lock(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(handle: IO[str]) -> str:
    handle.seek(0)
    return handle.read() or "just started"


def write_owner(folders: Folders) -> None:
    """Remember which checkout the cluster belongs to."""
    text = json.dumps({"checkout": str(REPOSITORY), "boot": boot_id()})
    (folders.node / "owner.json").write_text(text)


def find_other_owner(folders: Folders) -> Path | None:
    """The checkout that the cluster belongs to, when it is another one that still exists."""
    path = folders.node / "owner.json"
    if not path.exists():
        return None
    owner = json.loads(path.read_text())
    checkout = Path(owner["checkout"])
    is_stale = owner["boot"] != boot_id() or not checkout.exists()
    return None if is_stale or checkout == REPOSITORY else checkout


def check_owner(folders: Folders, *, force: bool) -> None:
    """Refuse to touch the cluster of another checkout, unless asked to."""
    other = find_other_owner(folders)
    if other is not None and not force:
        raise ClusterError(
            f"the cluster belongs to the checkout {other}: run `python -m dev.cluster down` there, "
            "or add --force to take it over"
        )
