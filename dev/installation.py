"""``python -m dev.installation``: Tidegate on the local cluster, for the demo, the end-to-end tests and by hand."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from dev.cluster.images import references
from dev.cluster.providers import Kind, choose_provider
from dev.cluster.settings import find_folders

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "tidegate"
NAMESPACE = "tidegate-system"
RELEASE = "tidegate"
NON_ROOT = 65532


@dataclass(frozen=True, slots=True)
class Installed:
    """A cluster with Tidegate on it."""

    kubeconfig: Path
    environment: dict[str, str]
    """KUBECONFIG and PATH for kubectl and helm."""
    images: dict[str, str]
    """Full image reference by name."""
    values: tuple[dict[str, Any], ...] = ()
    """Values of the chart beside those of a small cluster; each goes over those before it."""


def cluster(*arguments: str) -> str:
    """Run the tool of the local cluster; its progress goes to the terminal, its answer is returned."""
    done = subprocess.run(
        [sys.executable, "-m", "dev.cluster", *arguments],
        cwd=ROOT,
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"`python -m dev.cluster {' '.join(arguments)}` failed, see above")
    return done.stdout.strip()


def is_running() -> bool:
    """Tell whether the local cluster is up."""
    command = [sys.executable, "-m", "dev.cluster", "status"]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0


def environment() -> dict[str, str]:
    """Read the variables that kubectl and helm need."""
    lines = [line.removeprefix("export ") for line in cluster("env").splitlines()]
    return {name: shlex.split(value)[0] for name, _, value in (line.partition("=") for line in lines)}


def values(images: dict[str, str], volume: Path | None) -> dict[str, Any]:
    """Return the chart's values for a small cluster: local images, a scrape every second, little memory."""
    storage = {"hostPath": str(volume), "storage": ""} if volume else {"storage": "5Gi"}
    return {
        "crds": {"keep": False},
        "operator": {
            "image": images["operator"],
            "images": {"trainer": images["trainer"], "modelAgent": images["model-agent"], "triton": images["triton"]},
            "leaseSeconds": 5,
        },
        "envoy": {"image": images["envoy"], "replicas": 1},
        "prometheus": {"image": images["prometheus"], "scrapeInterval": "1s", "retention": "6h"},
        "mlflow": {"image": images["mlflow"], **storage},
    }


def make_volume() -> Path | None:
    """Make the folder of MLflow's volume on a node of our own; kind has a storage class."""
    if choose_provider(os.environ, is_root=os.geteuid() == 0) is not Kind.NODE:
        return None
    folder = find_folders().node / "volumes" / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, NON_ROOT, NON_ROOT)
    return folder


@contextmanager
def step(console: Console, text: str) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    begin = time.monotonic()
    console.print(f"  {text} …", highlight=False)
    yield
    console.print(f"  {text}: {time.monotonic() - begin:.1f} s", highlight=False)


def install(console: Console, *further: dict[str, Any]) -> Installed:
    """Bring the cluster up, load the images and install the chart; what is there already is left alone."""
    console.print("==> local cluster", highlight=False)
    cluster("up")
    cluster("load")
    found = environment()
    installed = Installed(Path(found["KUBECONFIG"]), found, references(), further)
    console.print("==> Tidegate, by its Helm chart", highlight=False)
    with step(console, "helm upgrade --install tidegate charts/tidegate"):
        upgrade(installed)
    return installed


def upgrade(installed: Installed, *further: dict[str, Any]) -> None:
    """Install the chart or change its values, and wait until all is ready; without further ones it is as at first."""
    merged = {**os.environ, **installed.environment}
    helm = shutil.which("helm", path=merged["PATH"])
    if helm is None:
        raise SystemExit("helm is not there; `python -m dev.cluster up` builds it")
    command = [helm, "upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace"]
    with tempfile.TemporaryDirectory() as folder:
        for number, each in enumerate((values(installed.images, make_volume()), *installed.values, *further)):
            file = Path(folder) / f"{number}.yaml"
            file.write_text(yaml.safe_dump(each))
            command += ["--values", str(file)]
        command += ["--wait", "--timeout", "5m"]
        done = subprocess.run(command, env=merged, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"helm failed:\n{done.stderr}\nLook at: kubectl get pods -n {NAMESPACE}")


@contextmanager
def forward(installed: Installed, service: str, port: int) -> Iterator[str]:
    """Reach a Service of Tidegate from this machine, as ``kubectl port-forward`` does; the address is yielded."""
    command = ["kubectl", "port-forward", "-n", NAMESPACE, f"service/{service}", f":{port}"]
    variables = {**os.environ, **installed.environment}
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield f"http://127.0.0.1:{line.split('127.0.0.1:')[1].split()[0]}"
    finally:
        process.terminate()
        process.wait(timeout=10)


def main() -> None:
    """Install and say how to go on."""
    installed = install(Console())
    print('Use it: eval "$(python3 -m dev.cluster env)"; kubectl get tidegate')
    print(f"Kubeconfig: {installed.kubeconfig}")


if __name__ == "__main__":
    main()
