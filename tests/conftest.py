"""Fixtures that several folders of tests share: Tidegate on the local cluster."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from rich.console import Console

from dev import installation
from dev.demo.kube import Kube
from tests.e2e import gate

# Before anything imports ONNX Runtime: its Linux builds report usage home unless they are told not to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# As the trainer sets them for itself before it imports torch: beside other work, threads that wait must not spin; and
# on a GPU the same seed gives the same result.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
# A busy machine is no counterexample: by default an example that takes 0.2 s fails its test.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


OPTIONAL = {"operator": {"limits": {"releasesPerNamespace": 1}}, "gates": {"secrets": [gate.SECRET]}}
"""Values of the chart that are off by default; they hinder no test, as each has a namespace of its own."""
BUILT = {"helm", "prometheus_programs", "promtool"}
"""Fixtures that give a program of Go, built where the cache does not have it."""
STARTS_PROGRAMS = {"apiserver", "cluster", "mlflow", "triton"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of logic first: on a fresh machine `make test` builds meanwhile what the others need.

    Then the rest, the cluster last, and there those that need Tidegate on it after those that stop and start the
    cluster itself.
    """

    for item in items:
        if _is_alone(item):
            item.add_marker("alone")

    def late(item: pytest.Item) -> tuple[bool, bool, bool]:
        fixtures = _fixtures(item)
        needs_programs = item.get_closest_marker("apiserver") is not None or bool(fixtures & BUILT)
        return item.get_closest_marker("cluster") is not None, "installed" in fixtures, needs_programs

    items.sort(key=late)


def _fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def _is_alone(item: pytest.Item) -> bool:
    marks = {each.name for each in item.iter_markers()}
    return bool(marks & STARTS_PROGRAMS or _fixtures(item) & BUILT) or "trainer" in item.path.parts


@pytest.fixture(scope="session")
def installed() -> Iterator[installation.Installed]:
    """Tidegate on the local cluster; stopped afterwards unless it ran before or TIDEGATE_KEEP_CLUSTER is set."""
    running = installation.is_running()
    yield installation.install(Console(stderr=True), OPTIONAL)
    if not running and not os.environ.get("TIDEGATE_KEEP_CLUSTER"):
        installation.cluster("down")


@pytest.fixture(scope="session")
def kube(installed: installation.Installed) -> Kube:
    """The cluster."""
    return Kube(installed.kubeconfig)
