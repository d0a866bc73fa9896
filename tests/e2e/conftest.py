"""End to end: a real node, Tidegate installed by its chart, small models, short intervals."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dev import installation
from dev.demo.kube import SYSTEM, Kube, Object, TookTooLongError
from tests.e2e import artifacts
from tests.e2e.artifacts import Stored
from tests.e2e.load import Load


@pytest.fixture(scope="session")
def namespaces(kube: Kube) -> Iterator[dict[str, str]]:
    """Namespaces of this run and their tests; each must go away again (behaviour rule 12), while other tests run."""
    made: dict[str, str] = {}
    yield made
    for name, test in made.items():
        try:
            kube.wait_gone("Namespace", name, timeout=120, api_version="v1")
        except TookTooLongError as error:
            error.add_note(f"made by {test}")
            raise


@pytest.fixture
def namespace(kube: Kube, namespaces: dict[str, str], request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    kube.delete("Namespace", name, api_version="v1")
    namespaces[name] = request.node.name


@pytest.fixture(scope="session")
def store(installed: installation.Installed) -> dict[str, Stored]:
    """The test files in MLflow's artifact store."""
    return artifacts.store(installed, artifacts.all_files())


@pytest.fixture
def load(kube: Kube, installed: installation.Installed, namespace: str) -> Callable[..., Load]:
    """Starts users of a Deployment in the test's namespace."""

    def start(deployment: str, **how: Any) -> Load:
        return Load(kube, installed.images["loadgen"], namespace, deployment, **how).start()

    return start


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Poll a check until it is true."""

    def wait(check: Callable[[], object], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while not check():
            assert time.monotonic() < deadline, f"not after {timeout:.0f} s: {what}"
            time.sleep(0.2)

    return wait


@pytest.fixture
def restart(kube: Kube) -> Callable[[str], None]:
    """Kill the pods of a component of Tidegate without grace, as a lost node would."""

    def kill(component: str) -> None:
        pods = kube.pods(f"app.kubernetes.io/component={component}", SYSTEM)
        assert pods, f"no pods of {component}"
        for pod in pods:
            kube.delete("Pod", pod["metadata"]["name"], SYSTEM, "v1", gracePeriodSeconds=0)

    return kill


@pytest.fixture
def without(kube: Kube, eventually: Callable[..., None]) -> Callable[..., object]:
    """Take a component of Tidegate away for a while: ``with without("prometheus"): …``."""

    @contextmanager
    def away(component: str) -> Iterator[None]:
        name = f"tidegate-{component}"
        kube.merge("Deployment", name, {"spec": {"replicas": 0}}, SYSTEM, "apps/v1")
        kube.wait("Deployment", name, _has(0), timeout=60, namespace=SYSTEM, api_version="apps/v1", what="stopped")
        # A pod that is being stopped is no replica any more, and still works.
        eventually(lambda: not kube.pods(f"app.kubernetes.io/component={component}", SYSTEM), 60, "its pods are gone")
        try:
            yield
        finally:
            kube.merge("Deployment", name, {"spec": {"replicas": 1}}, SYSTEM, "apps/v1")
            kube.wait("Deployment", name, _has(1), timeout=90, namespace=SYSTEM, api_version="apps/v1", what="back")

    return away


def _has(replicas: int) -> Callable[[Object], bool]:
    def holds(found: Object) -> bool:
        status = found.get("status") or {}
        return (status.get("replicas") or 0) == replicas and (status.get("readyReplicas") or 0) == replicas

    return holds
