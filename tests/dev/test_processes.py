import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster.errors import ClusterError
from dev.cluster.processes import Daemon, Record, Supervisor, boot_id, kill_processes, start_time, stop_processes
from dev.cluster.settings import Folders

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)


class HostSupervisor(Supervisor):
    """Starts daemons without a network namespace, which would need root."""

    def _enter_namespace(self) -> list[str]:
        return []


@pytest.fixture
def supervisor(folders: Folders) -> Iterator[Supervisor]:
    folders.node.mkdir(parents=True)
    supervisor = HostSupervisor(folders)
    yield supervisor
    kill_processes(record.pid for record in supervisor.alive().values())


def sleeper(seconds: int = 60, inputs: tuple[Path, ...] = ()) -> Daemon:
    return Daemon("sleeper", ("sleep", str(seconds)), inputs)


def test_daemon_is_started_once_and_detached(supervisor: Supervisor):
    assert supervisor.ensure(sleeper()) is True
    assert supervisor.ensure(sleeper()) is False
    pid = supervisor.alive()["sleeper"].pid
    assert os.getsid(pid) == pid


def test_another_command_line_replaces_the_daemon(supervisor: Supervisor):
    supervisor.ensure(sleeper(60))
    before = supervisor.alive()["sleeper"].pid
    assert supervisor.ensure(sleeper(61)) is True
    assert supervisor.alive()["sleeper"].pid != before
    assert start_time(before) is None


def test_another_configuration_replaces_the_daemon(supervisor: Supervisor, tmp_path: Path):
    path = tmp_path / "config"
    path.write_text("a")
    supervisor.ensure(sleeper(inputs=(path,)))
    assert supervisor.ensure(sleeper(inputs=(path,))) is False
    path.write_text("b")
    assert supervisor.ensure(sleeper(inputs=(path,))) is True


def test_killed_daemon_is_found_dead_and_started_again(supervisor: Supervisor):
    supervisor.ensure(sleeper())
    kill_processes([supervisor.alive()["sleeper"].pid])
    assert supervisor.alive() == {}
    assert set(supervisor.records()) == {"sleeper"}
    assert supervisor.ensure(sleeper()) is True


def test_stop_ends_the_daemon_and_forgets_it(supervisor: Supervisor):
    supervisor.ensure(sleeper())
    pid = supervisor.alive()["sleeper"].pid
    supervisor.stop("sleeper")
    assert start_time(pid) is None
    assert supervisor.records() == {}
    supervisor.stop("sleeper")


def test_a_process_that_took_over_the_number_is_never_stopped(supervisor: Supervisor, folders: Folders):
    other = subprocess.Popen(["sleep", "60"])
    try:
        record = Record("sleeper", other.pid, (start_time(other.pid) or 0) - 1, boot_id(), "x")
        folders.daemons.mkdir(parents=True)
        (folders.daemons / "sleeper.json").write_text(json.dumps(dataclasses.asdict(record)))
        assert not record.is_alive()
        supervisor.stop("sleeper")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_record_of_an_earlier_boot_means_nothing():
    me = Record("me", os.getpid(), start_time(os.getpid()) or 0, boot_id(), "x")
    assert me.is_alive()
    assert not dataclasses.replace(me, boot="another boot").is_alive()


def test_damaged_records_are_dropped(supervisor: Supervisor, folders: Folders):
    folders.daemons.mkdir(parents=True)
    (folders.daemons / "half.json").write_text('{"name": "ha')
    (folders.daemons / "older.json").write_text('{"pid": 1}')
    assert supervisor.records() == {}


def test_a_process_that_ignores_the_request_is_killed():
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    started = time.monotonic()
    stop_processes([process.pid], timeout=0.3)
    assert process.wait(1) == -9
    assert time.monotonic() - started < 5
    process.stdout.close()


def test_an_ended_daemon_is_reported_with_the_end_of_its_log(supervisor: Supervisor):
    supervisor.ensure(Daemon("broken", ("sh", "-c", "echo bad flag --colour >&2; exit 3")))
    deadline = time.monotonic() + 5
    while supervisor.alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(ClusterError, match=r"(?s)broken has ended.*bad flag --colour"):
        supervisor.check_alive(["broken"])
