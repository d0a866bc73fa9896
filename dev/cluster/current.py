"""The provider for a cluster that is already there: the one of the kubeconfig in force."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dev.cluster.errors import ClusterError
from dev.cluster.progress import say
from dev.cluster.shell import is_installed, run


class CurrentProvider:
    """Uses a cluster without ever changing the cluster itself."""

    def __init__(self, kubeconfig: Path) -> None:
        """Keep the kubeconfig."""
        self._kubeconfig = kubeconfig

    def up(self) -> None:
        """Check that the cluster answers."""
        self._reach()
        say(f"  up: the cluster of {self._kubeconfig} answers")

    def down(self) -> None:
        """Leave the cluster alone: it is not ours."""
        say("  CLUSTER=current: the cluster is yours and stays as it is")

    def load(self, names: Iterable[str]) -> None:
        """Say how images get there: only the cluster's owner knows a registry that it can reach."""
        raise ClusterError(
            "CLUSTER=current: this cluster pulls its images from a registry. Push them with\n"
            f"  python -m dev.cluster push REGISTRY {' '.join(names)}\n"
            "and give the references that it prints to the chart"
        )

    def status(self) -> bool:
        """Print whether the cluster answers."""
        try:
            self._reach()
        except ClusterError as error:
            print(error)
            return False
        print(f"the cluster of {self._kubeconfig} answers")
        return True

    def environment(self) -> dict[str, str]:
        """The kubeconfig in force."""
        return {"KUBECONFIG": str(self._kubeconfig), "PATH": os.environ.get("PATH", "")}

    def _reach(self) -> None:
        if not is_installed("kubectl"):
            raise ClusterError("CLUSTER=current needs the program `kubectl`")
        try:
            run(["kubectl", f"--kubeconfig={self._kubeconfig}", "get", "--raw=/readyz"], timeout=30)
        except ClusterError as error:
            raise ClusterError(f"the cluster of {self._kubeconfig} does not answer: {error}") from error
