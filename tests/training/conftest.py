"""One real kube-apiserver with the project's CRDs for the tests of this folder that are marked so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest

from dev.cluster.apiserver import ApiServer
from tests.training.support import Cluster

CRDS = Path(__file__).parents[2] / "crds"
GPU_RUNTIME = "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: nvidia}\nhandler: nvidia\n"
NAMESPACE = """
apiVersion: v1
kind: Namespace
metadata: {{name: {0}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: default, namespace: {0}}}
"""
_numbers = count()


@pytest.fixture(scope="session")
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        running.install_crds(CRDS)
        running.kubectl("get", "trainingjobs,modelversions,deployments.tidegate.dev")  # waits until they are served
        running.kubectl("create", "-f", "-", stdin=GPU_RUNTIME)
        yield running


@pytest.fixture
async def cluster(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    """A namespace of its own under the `restricted` pod security level, and the operator's adapters on it."""
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    namespace = f"test-{next(_numbers)}"
    server.kubectl("create", "-f", "-", stdin=NAMESPACE.format(namespace))
    made = Cluster(server, namespace)
    yield made
    await made.close()
