"""Programs that come from Debian packages, installed when they are missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from dev.cluster.errors import ClusterError
from dev.cluster.progress import step
from dev.cluster.settings import CNI_PLUGINS, Folders
from dev.cluster.shell import find_program, is_installed, run_logged

PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "git": "git",
    "podman": "podman",
    "debootstrap": "debootstrap",
    str(CNI_PLUGINS / "ptp"): "containernetworking-plugins",
}
"""Program, or path of a file → the package that has it."""


def find_missing(has: Callable[[str], bool] | None = None) -> list[str]:
    """Packages that have to be installed first."""
    check = has or _is_there
    return sorted({package for program, package in PACKAGES.items() if not check(program)})


def _is_there(program: str) -> bool:
    return Path(program).exists() if program.startswith("/") else is_installed(program)


def install_missing(folders: Folders) -> None:
    """Install what is missing with apt-get, saying so; elsewhere say what is needed."""
    missing = find_missing()
    if not missing:
        return
    names = " ".join(missing)
    if find_program("apt-get") is None:
        raise ClusterError(f"these programs are missing, named as Debian's packages: {names}")
    log = folders.cache / "logs" / "apt-get.log"
    with step(f"installing Debian packages: {names} (log {log})"):
        _apt_get(["update"], log)
        _apt_get(["install", "--yes", "--no-install-recommends", *missing], log)


def _apt_get(words: Iterable[str], log: Path) -> None:
    run_logged(["apt-get", *words], log, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
