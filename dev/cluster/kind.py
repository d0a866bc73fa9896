"""The provider for machines with Docker and kind."""

from __future__ import annotations

import os
from collections.abc import Iterable

from dev.cluster.engines import Docker, ensure_built, require_images
from dev.cluster.images import order_for_build, reference, superseded
from dev.cluster.progress import say, step
from dev.cluster.settings import REPOSITORY, Folders
from dev.cluster.shell import run, succeeds

NAME = "tidegate"
CONFIG = REPOSITORY / "kind-config.yaml"
NODE_ADDRESS = "127.0.0.1"
"""kind-config.yaml maps the NodePorts of the demo to the machine's loopback address."""


def create_arguments(folders: Folders) -> list[str]:
    """The command that makes the cluster."""
    words = ["kind", "create", "cluster", f"--name={NAME}", f"--config={CONFIG}"]
    return [*words, f"--kubeconfig={folders.kubeconfig}", "--wait=180s"]


def delete_arguments(folders: Folders) -> list[str]:
    """The command that removes the cluster."""
    return ["kind", "delete", "cluster", f"--name={NAME}", f"--kubeconfig={folders.kubeconfig}"]


def load_arguments(references: Iterable[str]) -> list[str]:
    """The command that copies images from Docker into the node."""
    return ["kind", "load", "docker-image", f"--name={NAME}", *references]


def list_arguments() -> list[str]:
    """The command that lists the images that the node has."""
    node = f"{NAME}-control-plane"
    return ["docker", "exec", node, "ctr", "--namespace=k8s.io", "images", "list", "-q"]


class KindProvider:
    """A single-node cluster in a Docker container."""

    def __init__(self, folders: Folders) -> None:
        """Keep the folders, for the kubeconfig."""
        self._folders = folders

    def up(self) -> None:
        """Create the cluster unless it exists."""
        self._folders.state.mkdir(parents=True, exist_ok=True)
        if self._exists():
            words = f"--name={NAME} --kubeconfig={self._folders.kubeconfig}".split()
            run(["kind", "export", "kubeconfig", *words])
        else:
            with step("creating a cluster with kind"):
                run(create_arguments(self._folders), timeout=900)
        say(f"  up: KUBECONFIG={self._folders.kubeconfig}")

    def down(self) -> None:
        """Delete the cluster."""
        with step("deleting the cluster"):
            run(delete_arguments(self._folders), timeout=300)

    def load(self, names: Iterable[str]) -> None:
        """Build images with Docker, and copy those that the node lacks."""
        images = require_images(names)
        docker = Docker(self._folders)
        present = set(run(list_arguments()).split())
        missing = [image.name for image in images if reference(image.name) not in present]
        ensure_built(docker, order_for_build(missing))
        for name in missing:
            with step(f"loading image {reference(name)}"):
                run(load_arguments([reference(name)]), timeout=900)
        docker.remove(superseded(docker.images(), missing))

    def status(self) -> bool:
        """Print whether the cluster exists and its node answers."""
        is_up = self._exists() and succeeds(
            ["kubectl", f"--kubeconfig={self._folders.kubeconfig}", "get", "--raw=/readyz"]
        )
        print(f"kind cluster {NAME}: {'up' if is_up else 'not up'}")
        return is_up

    def environment(self) -> dict[str, str]:
        """Variables for kubectl, helm and programs that open NodePorts."""
        return {
            "KUBECONFIG": str(self._folders.kubeconfig),
            "PATH": os.environ.get("PATH", ""),
            "TIDEGATE_NODE_ADDRESS": NODE_ADDRESS,
        }

    def _exists(self) -> bool:
        return NAME in run(["kind", "get", "clusters"]).split()
