"""Only etcd and kube-apiserver, in a temporary folder: a real API server for tests of CRDs.

    with ApiServer() as server:
        server.kubectl("apply", "-f", "crds/")
        client = load(server.kubeconfig)

Needs no root. Nothing schedules or runs pods, and no controller creates service accounts. The two
processes end with the process that started them, even when that one is killed.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from dev.cluster.arguments import ControlPlane, apiserver_arguments, etcd_arguments
from dev.cluster.errors import ClusterError
from dev.cluster.golang import ETCD, KUBERNETES, ensure_program
from dev.cluster.kubeconfig import render_kubeconfig, write_private
from dev.cluster.pki import create_pki
from dev.cluster.progress import wait_until
from dev.cluster.settings import Folders, find_folders
from dev.cluster.shell import find_program, run, tail

LOOPBACK = "127.0.0.1"
READY_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0


class ApiServer:
    """A context manager around one etcd and one API server on free loopback ports."""

    def __init__(self, folders: Folders | None = None, *, extra_arguments: tuple[str, ...] = ()) -> None:
        """Remember what to start; `extra_arguments` go to kube-apiserver."""
        self._folders = folders or find_folders()
        self._extra_arguments = extra_arguments
        self._processes: list[subprocess.Popen[bytes]] = []
        self.folder = Path()
        """The temporary folder; `apiserver.log` and `etcd.log` lie in it."""
        self.url = ""
        """Address of the API server."""

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of a cluster administrator."""
        return self.folder / "kubeconfig"

    def __enter__(self) -> Self:
        """Start both programs and return when the API server says that it is ready."""
        self.folder = Path(tempfile.mkdtemp(prefix="tidegate-apiserver-"))
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop both programs and remove the folder."""
        self._stop()

    def kubectl(self, *arguments: str | Path, stdin: str | None = None) -> str:
        """Run kubectl as the administrator and return what it prints."""
        program = ensure_program(self._folders, KUBERNETES, "kubectl")
        return run([program, f"--kubeconfig={self.kubeconfig}", *arguments], stdin=stdin)

    def install_crds(self, folder: Path) -> None:
        """Install every CRD of a folder and return when the API server has taken them over."""
        self.kubectl("apply", "--server-side", "-f", folder)
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")

    def _start(self) -> None:
        etcd = ensure_program(self._folders, ETCD, "etcd")
        apiserver = ensure_program(self._folders, KUBERNETES, "kube-apiserver")
        plan = self._plan()
        create_pki(plan.pki, [])
        write_private(self.kubeconfig, render_kubeconfig(plan.url, plan.pki, "admin"))
        self.url = plan.url
        self._spawn("etcd", [str(etcd), *etcd_arguments(plan)])
        arguments = [*apiserver_arguments(plan), *self._extra_arguments]
        self._spawn("apiserver", [str(apiserver), *arguments])
        self._wait(plan)

    def _plan(self) -> ControlPlane:
        api, etcd, peer = find_free_ports(3)
        return ControlPlane(
            address=LOOPBACK,
            api_port=api,
            etcd_port=etcd,
            etcd_peer_port=peer,
            folder=self.folder,
            service_range="10.0.0.0/24",
            advertised=False,
        )

    def _spawn(self, name: str, command: list[str]) -> None:
        setpriv = find_program("setpriv")
        prefix = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*prefix, *command],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)

    def _wait(self, plan: ControlPlane) -> None:
        probe = ReadyProbe(plan.url, plan.pki)
        wait_until(lambda: probe.is_ready() or self._has_ended(), timeout=READY_TIMEOUT)
        if self._has_ended() or not probe.is_ready():
            logs = {path.name: tail(path.read_text()) for path in self.folder.glob("*.log")}
            text = "\n".join(f"--- {name}\n{end}" for name, end in logs.items())
            raise ClusterError(f"the API server did not become ready:\n{text}")

    def _has_ended(self) -> bool:
        return any(process.poll() is not None for process in self._processes)

    def _stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


class ReadyProbe:
    """Asks an API server, as its administrator, whether it is ready."""

    def __init__(self, url: str, pki: Path) -> None:
        """Load the certificates once."""
        self._url = f"{url}/readyz"
        self._context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._context.load_cert_chain(pki / "admin.crt", pki / "admin.key")

    def is_ready(self) -> bool:
        """Whether it answers 200 just now."""
        try:
            with urllib.request.urlopen(self._url, timeout=2, context=self._context) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def find_free_ports(count: int) -> list[int]:
    """Ask the kernel for loopback ports that nobody uses."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
