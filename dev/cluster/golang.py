"""Programs built from Go modules, cached by the content that decides what comes out."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dev.cluster.errors import ClusterError
from dev.cluster.progress import say, step
from dev.cluster.settings import KUBERNETES_VERSION, REPOSITORY, Folders
from dev.cluster.shell import is_installed, run, run_logged

SOURCES = REPOSITORY / "dev" / "go"


def _kubernetes_flags(version: str) -> tuple[str, ...]:
    """Linker flags that let the programs report the version they are, as a release build does."""
    major, minor, _ = version.removeprefix("v").split(".")
    package = "k8s.io/component-base/version"
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return tuple(f"-X {package}.{name}={value}" for name, value in values.items())


@dataclass(frozen=True, slots=True)
class GoModule:
    """A folder under `dev/go` with a pinned `go.mod`, and the programs to build from it."""

    name: str
    programs: Mapping[str, str]
    """Name of the program → Go package."""
    linker_flags: tuple[str, ...] = field(default=())
    tags: tuple[str, ...] = field(default=())
    """Build tags."""

    @property
    def folder(self) -> Path:
        """Where the module's `go.mod` lies."""
        return SOURCES / self.name


KUBERNETES = GoModule(
    "kubernetes",
    {
        name: f"k8s.io/kubernetes/cmd/{name}"
        for name in (
            "kube-apiserver",
            "kubectl",
            "kubelet",
            "kube-controller-manager",
            "kube-scheduler",
            "kube-proxy",
        )
    },
    _kubernetes_flags(KUBERNETES_VERSION),
)
ETCD = GoModule("etcd", {"etcd": "go.etcd.io/etcd/server/v3"})
HELM = GoModule("helm", {"helm": "helm.sh/helm/v3/cmd/helm"})
COREDNS = GoModule("coredns", {"coredns": "."})
PAUSE = GoModule("pause", {"pause": "."})
VOLUMES = GoModule("volumes", {"volumes": "."})
KWOK = GoModule("kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"})
PROMETHEUS = GoModule(
    "prometheus",
    {name: f"github.com/prometheus/prometheus/cmd/{name}" for name in ("prometheus", "promtool")},
    tags=("remove_all_sd", "enable_kubernetes_sd"),
)
"""Debian's cannot discover pods; the discoveries of the clouds are left out because they are most of the build."""
MODULES = {module.name: module for module in (KUBERNETES, ETCD, HELM, VOLUMES, COREDNS, PAUSE, KWOK, PROMETHEUS)}
"""What the cluster and the tests need."""
ARGO_ROLLOUTS = GoModule(
    "argo-rollouts", {"rollouts-controller": "github.com/argoproj/argo-rollouts/cmd/rollouts-controller"}
)
FLAGGER = GoModule("flagger", {"flagger": "github.com/fluxcd/flagger/cmd/flagger"})
PEERS = {module.name: module for module in (ARGO_ROLLOUTS, FLAGGER)}
"""What the benchmarks compare with."""


def compute_key(module: GoModule) -> str:
    """Hash everything of this repository that decides what the build makes.

    Go's own version is left out on purpose: an update of the compiler is no reason for a person to
    wait six minutes.
    """
    digest = hashlib.sha256()
    for path in sorted(module.folder.iterdir()):
        if path.name in {"go.mod", "go.sum"} or path.suffix == ".go":
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    digest.update(repr((sorted(module.programs.items()), module.linker_flags)).encode())
    digest.update("".join(module.tags).encode())
    return digest.hexdigest()[:12]


def program_path(folders: Folders, module: GoModule, program: str) -> Path:
    """Where a built program lies, or will lie."""
    return folders.cache / "go" / f"{module.name}-{compute_key(module)}" / program


def ensure_program(folders: Folders, module: GoModule, program: str) -> Path:
    """Return the path of a program, building it when the cache does not have it."""
    path = program_path(folders, module, program)
    if path.exists():
        return path
    with _build_lock(folders, module):
        if not path.exists():
            _build(folders, module, program, path)
    return path


def ensure_programs(folders: Folders, module: GoModule) -> dict[str, Path]:
    """Return the paths of all programs of a module, building the missing ones."""
    return {name: ensure_program(folders, module, name) for name in module.programs}


def source_folder(module: GoModule, path: str) -> Path:
    """Return the folder with the source of a Go module that a module needs; it is fetched if it is not there.

    Raises:
        ClusterError: if the module does not need it.
    """
    check_go(module)
    found = run(["go", "mod", "download", "-json", path], cwd=module.folder, timeout=600)
    return Path(json.loads(found)["Dir"])


def needed_version(module: GoModule, path: str) -> str:
    """Return the version of a Go module that a module's `go.mod` pins."""
    found = re.search(rf"\b{re.escape(path)} (v\S+)", (module.folder / "go.mod").read_text())
    if found is None:
        raise ClusterError(f"the go.mod of {module.name} does not need {path}")
    return found.group(1)


def _build(folders: Folders, module: GoModule, program: str, path: Path) -> None:
    check_go(module)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    flags = " ".join(("-s", "-w", *module.linker_flags))
    # The linker drops what debuggers need; not making it in the first place saves an eighth of the time.
    command = ["go", "build", "-mod=readonly", "-trimpath", "-gcflags=all=-dwarf=false"]
    command += ["-tags", ",".join(module.tags), "-ldflags", flags]
    log = folders.cache / "go" / "logs" / f"{program}.log"
    with step(f"building {program} from its Go module (once; log {log})"):
        run_logged(
            [*command, "-o", unfinished, module.programs[program]],
            log,
            cwd=module.folder,
            env={**os.environ, "CGO_ENABLED": "0"},
        )
        unfinished.rename(path)


@contextmanager
def _build_lock(folders: Folders, module: GoModule) -> Iterator[None]:
    """Let one process build a module at a time; a second one waits and finds the result."""
    lock = folders.cache / "go" / f"{module.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"  another command is building {module.name}; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def check_go(module: GoModule) -> None:
    """Say what to do when Go is missing or older than the module needs."""
    needed = required_go((module.folder / "go.mod").read_text())
    remedy = f"install Go {needed} or newer and put it on the PATH"
    if not is_installed("go"):
        raise ClusterError(f"Go is needed to build {module.name}: {remedy}")
    found, toolchain = run(["go", "env", "GOVERSION", "GOTOOLCHAIN"], cwd=Path("/")).splitlines()
    if toolchain == "local" and parse_version(found) < parse_version(needed):
        raise ClusterError(
            f"{found} is installed, {module.name} needs Go {needed}: {remedy}, "
            "or set GOTOOLCHAIN=auto so that Go fetches it"
        )


def required_go(go_mod: str) -> str:
    """The version that the `go` line of a `go.mod` asks for."""
    found = re.search(r"^go (\S+)$", go_mod, re.MULTILINE)
    if found is None:
        raise ClusterError("go.mod has no `go` line")
    return found.group(1)


def parse_version(text: str) -> tuple[int, ...]:
    """Turn `go1.24.3` or `1.24` into numbers that compare."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])
