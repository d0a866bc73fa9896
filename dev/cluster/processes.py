"""Daemons: started detached, recorded, recognised later, and never mistaken for another process."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dev.cluster.errors import ClusterError
from dev.cluster.progress import wait_until
from dev.cluster.settings import Folders
from dev.cluster.shell import tail

STOP_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Daemon:
    """What is to run. Two daemons with the same digest are interchangeable."""

    name: str
    command: tuple[str, ...]
    inputs: tuple[Path, ...] = field(default=())
    """Configuration files; another content is another daemon."""

    @property
    def digest(self) -> str:
        """Hash of the command line and of the content of its configuration files."""
        digest = hashlib.sha256("\0".join(self.command).encode())
        for path in self.inputs:
            digest.update(path.read_bytes())
        return digest.hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of a started daemon.

    A process number alone is reused by the kernel; together with the start time, counted since a
    boot that has a name of its own, it means one process for ever.
    """

    name: str
    pid: int
    started: int
    boot: str
    digest: str

    def is_alive(self) -> bool:
        """Whether exactly this process still runs."""
        return self.boot == boot_id() and start_time(self.pid) == self.started


def boot_id() -> str:
    """The kernel's name for the time since the machine was started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot; None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name, in parentheses, may itself hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


class Supervisor:
    """Starts, finds and stops the daemons of one state folder."""

    def __init__(self, folders: Folders) -> None:
        """Keep the folders; nothing is read or started yet."""
        self._folders = folders

    def records(self) -> dict[str, Record]:
        """Every daemon that was started and not stopped since, dead or alive."""
        found = {}
        for path in sorted(self._folders.daemons.glob("*.json")):
            try:
                found[path.stem] = Record(**json.loads(path.read_text()))
            except (ValueError, TypeError):
                path.unlink()
        return found

    def alive(self) -> dict[str, Record]:
        """The daemons that run now."""
        return {name: record for name, record in self.records().items() if record.is_alive()}

    def log(self, name: str) -> Path:
        """The log file of a daemon."""
        return self._folders.logs / f"{name}.log"

    def ensure(self, daemon: Daemon) -> bool:
        """Let exactly this daemon run; whether it had to be started."""
        running = self.alive().get(daemon.name)
        if running is not None and running.digest == daemon.digest:
            return False
        self.stop(daemon.name)
        self._start(daemon)
        return True

    def _start(self, daemon: Daemon) -> None:
        log = self.log(daemon.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                self._enter_namespace() + list(daemon.command),
                cwd=self._folders.node,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        started = start_time(process.pid)
        record = Record(daemon.name, process.pid, started or 0, boot_id(), daemon.digest)
        self._folders.daemons.mkdir(parents=True, exist_ok=True)
        path = self._folders.daemons / f"{daemon.name}.json"
        path.write_text(json.dumps(asdict(record)))

    def _enter_namespace(self) -> list[str]:
        return ["nsenter", f"--net={self._folders.network_namespace}", "--"]

    def stop(self, *names: str, timeout: float = STOP_TIMEOUT) -> None:
        """Stop those of the daemons that run, gently at first, and forget them all."""
        alive = self.alive()
        stop_processes((alive[name].pid for name in names if name in alive), timeout)
        for name in names:
            (self._folders.daemons / f"{name}.json").unlink(missing_ok=True)

    def check_alive(self, names: Iterable[str]) -> None:
        """Raise with the end of the log when one of the daemons has ended."""
        alive = self.alive()
        for name in names:
            if name not in alive:
                end = tail(self.log(name).read_text(errors="replace"))
                raise ClusterError(f"{name} has ended; the end of {self.log(name)}:\n{end}")


def stop_processes(pids: Iterable[int], timeout: float = STOP_TIMEOUT) -> None:
    """Send SIGTERM, and SIGKILL to those that still run when the time is over."""
    targets = {pid: start_time(pid) for pid in pids}
    _signal(targets, signal.SIGTERM)
    if not wait_until(lambda: not _running(targets), timeout=timeout):
        kill_processes(_running(targets))


def kill_processes(pids: Iterable[int]) -> None:
    """Send SIGKILL and wait until the processes are gone."""
    targets = {pid: start_time(pid) for pid in pids}
    _signal(targets, signal.SIGKILL)
    if not wait_until(lambda: not _running(targets), timeout=STOP_TIMEOUT):
        raise ClusterError(f"processes {_running(targets)} do not end, even after SIGKILL")


def _running(targets: dict[int, int | None]) -> list[int]:
    return [pid for pid, started in targets.items() if started and start_time(pid) == started]


def _signal(targets: dict[int, int | None], number: signal.Signals) -> None:
    for pid in _running(targets):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def age(record: Record) -> float:
    """For how many seconds a daemon has been running."""
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return max(0.0, uptime - record.started / os.sysconf("SC_CLK_TCK"))


def resident_bytes(pid: int) -> int:
    """Memory that a process holds, in bytes; 0 when it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
