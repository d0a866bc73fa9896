"""Running other programs, with errors that say what was run and what it answered."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from dev.cluster.errors import ClusterError

TAIL_LINES = 15


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float | None = 120,
) -> str:
    """Run a program to its end and return what it printed."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, cwd=cwd, env=env, input=stdin, timeout=timeout, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ClusterError(f"{words[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"no end after {timeout:.0f} s: {shlex.join(words)}") from error
    if done.returncode != 0:
        raise ClusterError(f"exit status {done.returncode}: {shlex.join(words)}\n{tail(done.stderr or done.stdout)}")
    return done.stdout


def succeeds(command: Sequence[str | Path], *, timeout: float = 30) -> bool:
    """Whether a program ends with status 0; what it prints is dropped."""
    try:
        run(command, timeout=timeout)
    except ClusterError:
        return False
    return True


def run_logged(
    command: Sequence[str | Path],
    log: Path,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a long command with its output in a file; on failure the end of it is shown."""
    words = [str(word) for word in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        output.write(f"$ {shlex.join(words)}\n")
        output.flush()
        done = subprocess.run(words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    if done.returncode != 0:
        raise ClusterError(f"{words[0]} failed, see {log}:\n{tail(log.read_text())}")


def is_installed(program: str) -> bool:
    """Whether a program is on the PATH (the folders of the superuser included)."""
    return find_program(program) is not None


def find_program(program: str) -> str | None:
    """The path of a program; a plain user's PATH often lacks the `sbin` folders."""
    return shutil.which(program) or shutil.which(program, path="/usr/local/sbin:/usr/sbin:/sbin")


def is_mounted(path: Path) -> bool:
    """Whether something is mounted exactly there."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == str(path) for line in mounts)


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """The last lines of a program's output."""
    return "\n".join(text.strip().splitlines()[-lines:])
