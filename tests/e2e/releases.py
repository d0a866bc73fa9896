"""What tests and benchmarks do with releases: serve, change the version, wait for a state."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from dev.demo.kube import Kube, Object, condition, is_true
from tests.e2e.artifacts import Stored
from tests.e2e.load import Load
from tests.e2e.objects import deployment, model_version


def ready_version(kube: Kube, namespace: str, version: str, stored: Stored) -> str:
    """Register a version and wait until it has passed its checks."""
    kube.apply(model_version(namespace, version, stored))
    kube.wait("ModelVersion", f"m-{version}", is_true("Ready"), timeout=90, namespace=namespace, what="Ready")
    return f"m-{version}"


def serve(kube: Kube, namespace: str, version: str, stored: Stored, **spec: object) -> Object:
    """Release a first version and wait until it is healthy."""
    ready_version(kube, namespace, version, stored)
    kube.apply(deployment(namespace, version, **spec))
    return kube.wait("Deployment", "m", is_true("Ready"), timeout=90, namespace=namespace, what="Ready")


def release(kube: Kube, namespace: str, version: str, name: str = "m") -> None:
    """Change the one field that releases."""
    kube.merge("Deployment", name, {"spec": {"modelVersion": f"m-{version}"}}, namespace)


def command(kube: Kube, namespace: str, name: str) -> None:
    """Give a command the way a person's tool does."""
    value = json.dumps(
        {"id": f"{name}-{time.time_ns()}", "command": name, "by": "ann", "at": datetime.now(UTC).isoformat()}
    )
    kube.merge("Deployment", "m", {"metadata": {"annotations": {"tidegate.dev/command": value}}}, namespace)


def serve_then_release(
    kube: Kube,
    namespace: str,
    load: Callable[..., Load],
    stored: tuple[Stored, Stored],
    rate: float = 40,
    protocol: str = "http",
    **spec: Any,
) -> Load:
    """Serve 1.0.0, let users in, release 1.1.0, and return the users."""
    serve(kube, namespace, "1.0.0", stored[0], **spec)
    users = load("m", rate=rate, protocol=protocol)
    ready_version(kube, namespace, "1.1.0", stored[1])
    release(kube, namespace, "1.1.0")
    return users


def until(
    kube: Kube, namespace: str, holds: Callable[[Object], bool], what: str, timeout: float = 60, name: str = "m"
) -> Object:
    """Wait for a state of the Deployment."""
    return kube.wait("Deployment", name, holds, timeout=timeout, namespace=namespace, what=what)


def healthy_on(version: str) -> Callable[[Object], bool]:
    """Return a check: this version is stable and nothing is left to do."""
    return lambda found: is_true("Ready")(found) and found["status"]["stable"]["modelVersion"] == f"m-{version}"


def rolled_back(found: Object) -> bool:
    """Tell whether the release was taken back (rule 6)."""
    return (
        found["status"].get("phase") == "RolledBack"
        and condition(found, "Stalled").get("status") == "True"
        and condition(found, "Ready").get("status") == "False"
    )


def canary_percent(found: Object) -> float:
    """Return the confirmed share of the canary."""
    return float(((found["status"].get("canary") or {}).get("percent")) or 0)


def pods(kube: Kube, namespace: str) -> set[str]:
    """Return the UIDs of the serving pods."""
    return {pod["metadata"]["uid"] for pod in kube.pods("tidegate.dev/component=serving", namespace)}


def wait_until_closed(kube: Kube, namespace: str, version: str, *, timeout: float) -> float:
    """Return the Unix time at which the proxies confirmed that a canary has no traffic any more."""
    deadline, had_traffic = time.monotonic() + timeout, False
    while time.monotonic() < deadline:
        route = kube.get("Route", "m", namespace) or {}
        weights = {each["modelVersion"]: each["percent"] for each in (route.get("status") or {}).get("weights") or []}
        had_traffic = had_traffic or weights.get(version, 0) > 0
        if had_traffic and not weights.get(version):
            return time.time()
        time.sleep(0.02)
    raise AssertionError(f"the weight of {version} did not return to 0 within {timeout:.0f} s")
