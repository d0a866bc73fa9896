"""What the benchmarks on the local cluster share."""

import json
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kubernetes import client

from dev import installation
from dev.demo.kube import SYSTEM, TIDEGATE, Kube, Object, is_true
from tests.e2e.artifacts import Stored
from tests.e2e.objects import model_version

GROUP, VERSION = TIDEGATE.split("/")
EMPTY_BOARD = json.dumps(
    {"inputs": [{"name": "board", "shape": [1, 3, 6, 7], "datatype": "FP32", "data": [0.0] * 126}]}
)
"""A request of one position."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The cluster with Tidegate on it, and models in its artifact store."""

    installed: installation.Installed
    kube: Kube
    store: Mapping[str, Stored]

    @contextmanager
    def namespace(self) -> Iterator[str]:
        """A namespace of the benchmark's own, gone at the end."""
        name = f"bench-{uuid.uuid4().hex[:8]}"
        self.kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        try:
            yield name
        finally:
            self.kube.delete("Namespace", name, api_version="v1")
            self.kube.wait_gone("Namespace", name, timeout=600, api_version="v1")

    def register(self, namespace: str, version: str, stored: Stored) -> None:
        """Make a ModelVersion and wait until it has passed its checks."""
        self.kube.apply(model_version(namespace, version, stored))
        self.kube.wait("ModelVersion", f"m-{version}", is_true("Ready"), timeout=120, namespace=namespace)

    def operator_metrics(self) -> dict[str, float]:
        """Return the operator's own series, summed over their labels."""
        return self.pod_metrics("operator", 8080)

    def pod_metrics(self, component: str, port: int) -> dict[str, float]:
        """Return the series of a part of Tidegate, summed over their labels."""
        (pod,) = self.kube.pods(f"app.kubernetes.io/component={component}", SYSTEM)
        text = self.kube.core().connect_get_namespaced_pod_proxy_with_path(
            f"{pod['metadata']['name']}:{port}", SYSTEM, "metrics"
        )
        return sum_series(text)


def parse_series(text: str) -> Iterator[tuple[str, float]]:
    """Yield each series of Prometheus' text format, labels included, with its value."""
    for line in text.splitlines():
        if line and not line.startswith("#"):
            series, value = line.rsplit(" ", 1)
            yield series, float(value)


def sum_series(text: str) -> dict[str, float]:
    """Return the series by name, summed over their labels."""
    sums: dict[str, float] = defaultdict(float)
    for series, value in parse_series(text):
        sums[series.split("{")[0]] += value
    return sums


def poll(holds: Callable[[], Any], what: str, timeout: float) -> None:
    """Ask again and again until a statement is true."""
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not after {timeout:.0f} s: {what}")
        time.sleep(0.2)


@dataclass(slots=True)
class Watcher:
    """Follows the objects of a kind in a namespace and notes when each state was seen."""

    kube: Kube
    namespace: str
    group: str = GROUP
    version: str = VERSION
    plural: str = "deployments"
    seen: dict[str, Object] = field(default_factory=dict)
    spec_seen: dict[tuple[str, int], float] = field(default_factory=dict)
    """When a generation was first seen."""
    status_seen: dict[tuple[str, int], float] = field(default_factory=dict)
    """When a generation was first seen in the status."""
    _stopped: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @contextmanager
    def running(self) -> Iterator["Watcher"]:
        """Watch in a thread of its own."""
        thread = threading.Thread(target=self._follow, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stopped = True
            thread.join(timeout=5)

    def until(self, holds: Callable[[], Any], what: str, timeout: float) -> None:
        """Wait until a statement about what was seen is true."""
        with self._changed:
            if not self._changed.wait_for(holds, timeout):
                raise TimeoutError(f"not after {timeout:.0f} s: {what}")

    def _follow(self) -> None:
        api = client.CustomObjectsApi(self.kube.api)
        version = ""
        while not self._stopped:
            answer = api.list_namespaced_custom_object(
                self.group, self.version, self.namespace, self.plural,
                watch=True, resource_version=version, timeout_seconds=600, _preload_content=False,
            )  # fmt: skip
            for line in _lines(answer):
                version = self._note(json.loads(line))
                if self._stopped:
                    return

    def _note(self, event: Object) -> str:
        now, found = time.monotonic(), event["object"]
        metadata = found["metadata"]
        name = metadata["name"]
        with self._changed:
            self.seen[name] = found
            self.spec_seen.setdefault((name, metadata["generation"]), now)
            observed = (found.get("status") or {}).get("observedGeneration")
            if observed is not None:
                # Argo Rollouts writes the number as a text.
                self.status_seen.setdefault((name, int(observed)), now)
            self._changed.notify_all()
        return str(metadata["resourceVersion"])


def _lines(answer: Any) -> Iterator[str]:
    rest = b""
    for chunk in answer.stream(amt=None, decode_content=False):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode() for line in lines if line)
