"""The real Job controller, garbage collector and TTL controller beside a test's API server."""

from __future__ import annotations

import shutil
import subprocess
from types import TracebackType
from typing import Self

from dev.cluster.apiserver import ApiServer, find_free_ports
from dev.cluster.golang import KUBERNETES, ensure_program
from dev.cluster.settings import find_folders

CONTROLLERS = "job-controller,garbage-collector-controller,ttl-after-finished-controller"


class ControllerManager:
    """A context manager around one kube-controller-manager; it ends with the process that started it."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        program = ensure_program(find_folders(), KUBERNETES, "kube-controller-manager")
        kubeconfig = self._server.kubeconfig
        (port,) = find_free_ports(1)
        arguments = [
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            "--leader-elect=false",
            f"--controllers={CONTROLLERS}",
        ]
        setpriv = shutil.which("setpriv")
        prefix = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        with (self._server.folder / "controller-manager.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*prefix, program, *arguments], stdout=log, stderr=log, start_new_session=True
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
