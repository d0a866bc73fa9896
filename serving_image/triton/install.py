"""Lay out a runnable Triton with the ONNX Runtime backend from Python wheels, for machines without the vendor image.

    python3.11 serving_image/triton/install.py /opt/triton

makes, with nothing but the hashed lock beside this folder and pip::

    bin/tritonserver            takes the vendor's arguments
    packages/                   the wheels: server, numpy (< 2: the stub was built for it), onnxruntime
    backends/python/            the python backend with the stub for this Python
    backends/onnxruntime/       model.py and, as links, the packages that it imports

The stub of the python backend loads ``libpython``: where the interpreter has no shared library of its own, the package
``libpython3.11`` (or the one of the version in use) must be installed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SERVING_IMAGE = Path(__file__).resolve().parent.parent
REQUIREMENTS = SERVING_IMAGE / "requirements-triton.txt"
BACKEND = SERVING_IMAGE / "backends" / "onnxruntime" / "model.py"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SERVER_PACKAGES = ("pytriton", "nvidia_pytriton.libs")
WRAPPER = """#!/bin/sh
home=$(dirname "$(dirname "$(readlink -f "$0")")")
packages="$home/packages"
export LD_LIBRARY_PATH="$packages/nvidia_pytriton.libs:@LIBDIR@${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
set -- "$packages/pytriton/tritonserver/bin/tritonserver" --backend-directory="$home/backends" "$@"
[ $$ -eq 1 ] || exec "$@"
# The first process of a container cannot be killed from inside, and the guard in model.py must be able to kill the
# server: stay in front of it.
# What a killed server left in the pod's shared memory is of no use to anyone.
rm -f /dev/shm/triton_*_backend_shm_region_*
"$@" &
server=$!
trap 'kill -TERM $server' TERM INT
while :; do
  wait $server
  status=$?
  kill -0 $server 2>/dev/null || exit $status
done
"""


def install_packages(target: Path) -> None:
    """Install the locked wheels into a folder of their own; pip checks every hash."""
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), "-r", str(REQUIREMENTS)]
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit("pip could not install the wheels; see its message above (a venv made by uv needs --seed)")


def lay_out_python_backend(packages: Path, backends: Path) -> None:
    """Put the stub for this Python beside the backend's library, where Triton looks for it."""
    server = packages / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    if not stub.exists():
        raise SystemExit(f"nvidia-pytriton has no stub for Python {PYTHON}; use one of 3.8 to 3.13")
    shutil.copytree(server / "backends" / "python", backends / "python")
    shutil.copy(stub, backends / "python")
    (backends / "python" / stub.name).chmod(0o755)


def lay_out_onnxruntime_backend(packages: Path, backends: Path) -> None:
    """Put the packages beside model.py, because the stub's isolated interpreter looks there and ignores PYTHONPATH."""
    folder = backends / "onnxruntime"
    folder.mkdir()
    shutil.copy(BACKEND, folder)
    for entry in packages.iterdir():
        if entry.name not in SERVER_PACKAGES and entry.suffix != ".dist-info" and entry.name != "bin":
            (folder / entry.name).symlink_to(Path("..", "..", "packages", entry.name))


def remove_unused(packages: Path) -> None:
    """Drop a seventh of the size: stubs and the shared libpython of other Pythons, and start scripts."""
    shutil.rmtree(packages / "pytriton" / "tritonserver" / "python_backend_stubs")
    shutil.rmtree(packages / "bin", ignore_errors=True)
    for library in (packages / "nvidia_pytriton.libs").glob("libpython3-*"):
        if PYTHON.split(".")[1] not in library.name.split(".")[1:2]:
            library.unlink()


def write_wrapper(prefix: Path) -> None:
    """A `tritonserver` that finds its libraries and backends, and lets later arguments win over its own."""
    wrapper = prefix / "bin" / "tritonserver"
    wrapper.parent.mkdir()
    wrapper.write_text(WRAPPER.replace("@LIBDIR@", sysconfig.get_config_var("LIBDIR")))
    wrapper.chmod(0o755)


def install(prefix: Path) -> None:
    """Make the whole layout under a prefix that is empty or missing."""
    packages, backends = prefix / "packages", prefix / "backends"
    backends.mkdir(parents=True)
    install_packages(packages)
    lay_out_python_backend(packages, backends)
    lay_out_onnxruntime_backend(packages, backends)
    remove_unused(packages)
    (packages / "pytriton" / "tritonserver" / "bin" / "tritonserver").chmod(0o755)
    write_wrapper(prefix)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Lay out Triton with the ONNX Runtime backend from wheels.")
    parser.add_argument("prefix", type=Path, help="folder to make, for example /opt/triton")
    install(parser.parse_args().prefix.absolute())
