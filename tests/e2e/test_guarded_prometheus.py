"""A Prometheus of one's own that wants a login: ``prometheus.auth`` of the chart, on the real node."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from dev import installation
from dev.demo.kube import SYSTEM, Kube, condition
from tests.e2e.artifacts import Stored
from tests.e2e.load import Load
from tests.e2e.objects import secret
from tests.e2e.prometheus import PASSWORD, USERNAME, GuardedPrometheus
from tests.e2e.releases import canary_percent, healthy_on, ready_version, release, rolled_back, serve, until

pytestmark = pytest.mark.cluster

SECRET = "e2e-prometheus"
WRONG = "close-sesame"


@pytest.fixture
def guarded(kube: Kube, installed: installation.Installed, namespace: str) -> Iterator[None]:
    """Tidegate measures with a Prometheus behind a login, to which it has the wrong password; then as before again."""
    prometheus = GuardedPrometheus(kube, installed.images["prometheus"], namespace).start()
    kube.apply(secret(SYSTEM, SECRET, username=USERNAME, password=WRONG))
    try:
        own = {"enabled": False, "url": prometheus.url, "auth": {"existingSecret": SECRET}}
        installation.upgrade(installed, {"prometheus": own})
        yield
    finally:
        installation.upgrade(installed)
        kube.delete("Secret", SECRET, SYSTEM, "v1")


@pytest.mark.usefixtures("guarded")
def test_a_release_waits_until_prometheus_lets_the_operator_in(
    kube: Kube, namespace: str, store: dict[str, Stored], load: Callable[..., Load]
) -> None:
    """Rule 4: refused, it is neither promoted nor taken back, and names Secret and key; corrected, it goes on."""
    strategy = {"canary": {"steps": [{"setPercent": 50}, {"hold": "1s"}]}}
    serve(kube, namespace, "1.0.0", store["good"], strategy=strategy)
    users = load("m")
    ready_version(kube, namespace, "1.1.0", store["better"])
    release(kube, namespace, "1.1.0")
    found = until(kube, namespace, lambda f: "refused the credentials" in f["status"]["message"], "refused")
    message = found["status"]["message"]
    assert f"(401); check username and password in Secret {SECRET}" in message, message
    assert condition(found, "Ready")["reason"] == "MetricSourceError", found["status"]["conditions"]
    assert canary_percent(found) == 50, found["status"]
    assert not rolled_back(found)
    assert WRONG not in json.dumps(found["status"])

    kube.apply(secret(SYSTEM, SECRET, username=USERNAME, password=PASSWORD))
    _show_now(kube)
    until(kube, namespace, healthy_on("1.1.0"), "measured and promoted with the right password", timeout=120)
    assert users.stop().failed == {}


def _show_now(kube: Kube) -> None:
    """Touch the operator's pod: the kubelet sees at once to a pod that changes, to others about every minute."""
    touch = {"metadata": {"annotations": {"touched": datetime.now(UTC).isoformat()}}}
    for pod in kube.pods("app.kubernetes.io/component=operator", SYSTEM):
        if not pod["metadata"].get("deletionTimestamp"):
            kube.merge("Pod", pod["metadata"]["name"], touch, SYSTEM, "v1")
