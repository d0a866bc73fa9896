"""Fake nodes: kwok answers for them, so that thousands of pods, and GPUs, cost next to nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dev.cluster.errors import ClusterError
from dev.cluster.golang import KWOK, ensure_program, source_folder
from dev.cluster.node import Node
from dev.cluster.processes import Daemon
from dev.cluster.progress import step

NAME = "kwok"
ANNOTATION = "kwok.x-k8s.io/node"
LABEL = "type=kwok"
POD_ADDRESSES = "10.214.0.1/16"
STAGES = ("pod-ready", "pod-delete")
"""Of kwok's own stages those that pods go through; the third one would complete the pods of Jobs at once."""


class FakeNodes:
    """The kwok controller and the nodes that it plays."""

    def __init__(self, node: Node) -> None:
        """Keep the real node, which must be up."""
        self._node = node

    def up(self, count: int, gpus: int) -> None:
        """Start kwok and make `count` fake nodes, each with the given number of GPUs."""
        if not self._node.is_complete():
            raise ClusterError("the cluster is not up: run `python -m dev.cluster up` first")
        program = ensure_program(self._node.folders, KWOK, "kwok")
        command = (str(program), *kwok_arguments(str(self._node.folders.kubeconfig), str(self._write_stages())))
        with step(f"kwok and {count} fake nodes"):
            self._node.supervisor.ensure(Daemon(NAME, command))
            documents = yaml.safe_dump_all([build_fake_node(index, gpus) for index in range(count)])
            apply = ("apply", "--server-side", "--force-conflicts", "-f", "-")
            self._node.kubectl(*apply, stdin=documents)
            words = ("wait", "--for=condition=Ready", "node", "-l", LABEL, "--timeout=60s")
            self._node.kubectl(*words)

    def down(self) -> None:
        """Remove the fake nodes and stop kwok; what ran on them is deleted."""
        with step("removing fake nodes"):
            for name in self._names():
                selector = f"--field-selector=spec.nodeName={name}"
                self._node.kubectl("delete", "pods", "--all-namespaces", "--force", selector)
            self._node.kubectl("delete", "nodes", "-l", LABEL)
            self._node.supervisor.stop(NAME)

    def _write_stages(self) -> Path:
        """Keep pods Running until they are deleted."""
        source = source_folder(KWOK, "sigs.k8s.io/kwok") / "kustomize/stage/pod/fast"
        path = self._node.folders.config / "kwok-stages.yaml"
        path.write_text("---\n".join((source / f"{stage}.yaml").read_text() for stage in STAGES))
        return path

    def _names(self) -> list[str]:
        listed = self._node.kubectl("get", "nodes", "-l", LABEL, "-o", "name")
        return [line.removeprefix("node/") for line in listed.split()]


def kwok_arguments(kubeconfig: str, stages: str) -> list[str]:
    """Let kwok play exactly the nodes that carry its annotation, by these stages."""
    return [
        f"--config={stages}",
        f"--kubeconfig={kubeconfig}",
        f"--manage-nodes-with-annotation-selector={ANNOTATION}=fake",
        "--node-lease-duration-seconds=40",
        f"--cidr={POD_ADDRESSES}",
    ]


def build_fake_node(index: int, gpus: int) -> dict[str, Any]:
    """Build a fake node. Its taint keeps away the pods that do not ask for it."""
    name = f"fake-{index}"
    size = {"cpu": "256", "memory": "1Ti", "pods": "2000", "ephemeral-storage": "4Ti"}
    labels = {"type": "kwok", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    if gpus:
        size["nvidia.com/gpu"] = str(gpus)
        labels["nvidia.com/gpu.present"] = "true"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": {ANNOTATION: "fake"}, "labels": labels},
        "spec": {"taints": [{"key": ANNOTATION, "value": "fake", "effect": "NoSchedule"}]},
        "status": {"capacity": size, "allocatable": size, "phase": "Running"},
    }
