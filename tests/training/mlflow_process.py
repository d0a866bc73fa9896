"""The real MLflow server as a process of this machine, on loopback."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from dev.cluster.apiserver import find_free_ports

LOCK = Path(__file__).parents[2] / "dev" / "images" / "mlflow" / "requirements.txt"
READY_TIMEOUT = 90.0


def install_mlflow() -> Path:
    """A virtual environment with the packages of the MLflow image, made once for each lock, in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidegate" / "mlflow"
    cache.mkdir(parents=True, exist_ok=True)
    content = LOCK.read_bytes() + f"{sys.version} {sys.base_prefix}".encode()
    home = cache / hashlib.sha256(content).hexdigest()[:16]
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            for older in cache.iterdir():
                if older.is_dir():
                    shutil.rmtree(older)
            subprocess.run([sys.executable, "-m", "venv", home], check=True)
            install = ["-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", LOCK]
            subprocess.run([home / "bin" / "python", *install], check=True)
            (home / "complete").touch()
    return home


class MLflowProcess:
    """A server with its own database and artifact folder; can be stopped and started again at the same address."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        """`arguments` follow those that the chart gives."""
        self._folder = folder
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        (self._port,) = find_free_ports(1)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        command = [install_mlflow() / "bin" / "python", "-m", "mlflow", "server", "--host=127.0.0.1", "--workers=1"]
        store = [f"--backend-store-uri=sqlite:///{self._folder}/mlflow.db", f"--port={self._port}"]
        artifacts = self._arguments or ("--serve-artifacts", f"--artifacts-destination={self._folder}/artifacts")
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._folder), **quiet}
        with (self._folder / "mlflow.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *store, *artifacts],
                cwd=self._folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait()

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, 15)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, 9)
                self._process.wait()
            self._process = None

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT
        while not self._is_ready():
            if time.monotonic() > deadline or self._process is None or self._process.poll() is not None:
                self.stop()
                raise AssertionError(f"MLflow is not ready:\n{(self._folder / 'mlflow.log').read_text()[-3000:]}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
