"""The real Triton as a process of this machine, on loopback."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.serving.file_server import free_port

SERVING_IMAGE = Path(__file__).parents[2] / "serving_image"
INSTALLER = SERVING_IMAGE / "triton" / "install.py"
BACKEND = SERVING_IMAGE / "backends" / "onnxruntime" / "model.py"


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Poll until the condition gives something true; return that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def install_triton() -> Path:
    """The layout that the image has, made once for each content of the lock and kept in the user's cache folder."""
    content = (SERVING_IMAGE / "requirements-triton.txt").read_bytes() + INSTALLER.read_bytes()
    content += f"{sys.version} {sys.base_prefix}".encode()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidegate" / "triton"
    cache.mkdir(parents=True, exist_ok=True)
    home = cache / hashlib.sha256(content).hexdigest()[:16]
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            remove_all_but(cache, "lock")
            unfinished = home.with_suffix(".new")
            subprocess.run([sys.executable, str(INSTALLER), str(unfinished)], check=True)
            unfinished.rename(home)
        shutil.copy(BACKEND, home / "backends" / "onnxruntime")
    return home


def remove_all_but(cache: Path, kept: str) -> None:
    """Older layouts are a quarter of a gigabyte each."""
    for entry in cache.iterdir():
        if entry.name != kept:
            shutil.rmtree(entry)


def request(method: str, url: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON of one answer; status 0 when there is none."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=30) as answer:
            content = answer.read()
            return answer.status, json.loads(content) if content else None
    except urllib.error.HTTPError as error:
        content = error.read()
        return error.code, json.loads(content) if content else None
    except OSError:
        return 0, None


@dataclass
class Triton:
    """A server with its own model repository; started, killed and started again by tests."""

    home: Path
    repository: Path
    log: Path
    model: str = "connect4"
    options: tuple[str, ...] = ()
    environment: dict[str, str] | None = None
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.http, self.grpc, self.metrics = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http}"

    def start(self) -> None:
        """Start as the pod does; returns before the server answers."""
        command = [
            str(self.home / "bin" / "tritonserver"),
            f"--model-repository={self.repository}",
            "--model-control-mode=explicit",
            "--exit-on-error=false",
            "--http-address=127.0.0.1",
            "--grpc-address=127.0.0.1",
            "--metrics-address=127.0.0.1",
            f"--http-port={self.http}",
            f"--grpc-port={self.grpc}",
            f"--metrics-port={self.metrics}",
            *self.options,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=self.environment
            )

    def wait_for_answer(self) -> None:
        wait_until(lambda: request("GET", f"{self.url}/v2/health/live")[0] == 200, f"Triton answers\n{self.tail()}")

    def kill(self) -> None:
        """No farewell, as a crash or the kernel would do it; then the leftovers in shared memory go."""
        if self.process is not None:
            stubs = self.stubs()
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
            wait_until(lambda: not any(is_alive(pid) for pid in stubs), "stubs end with their server")
            for region in stubs.values():
                region.unlink(missing_ok=True)

    def stubs(self) -> dict[int, Path]:
        """The python backend's stubs, children of the server: process id and shared memory of each."""
        assert self.process is not None
        found = {}
        for task in Path(f"/proc/{self.process.pid}/task").glob("*"):
            for child in (task / "children").read_text().split():
                words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
                regions = [Path("/dev/shm", word) for word in words if "_backend_shm_region_" in word]
                if regions:
                    found[int(child)] = regions[0]
        return found

    def index_state(self) -> str:
        """What the repository index says of the model, or nothing."""
        entries = request("POST", f"{self.url}/v2/repository/index", {})[1] or []
        return next((entry.get("state", "") for entry in entries if entry["name"] == self.model), "")

    def unload(self) -> None:
        """Behind everybody's back."""
        assert request("POST", f"{self.url}/v2/repository/models/{self.model}/unload", {})[0] == 200

    def tail(self) -> str:
        return self.log.read_text()[-3000:] if self.log.exists() else ""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
