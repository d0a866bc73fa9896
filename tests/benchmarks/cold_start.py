"""How long a Deployment takes from ``kubectl apply`` to its first answer."""

import http.client
import time

from dev.demo.kube import Kube, Object, is_true
from tests.benchmarks.bench import EMPTY_BOARD, Bench
from tests.benchmarks.report import Table
from tests.e2e.objects import deployment

NAME = "cold-start"
TIMES = 5
ABOUT = """\
Images are on the node, the model is small and lies in MLflow's artifact store. *Ready*: the Deployment's condition.
*First answer*: 200 from `/infer` through Envoy, asked every 20 ms from the beginning. The floor is a bare pod of the
same image whose one container only opens its port."""
COLUMNS = ("try", "Ready", "first answer", "floor: bare pod Ready")


def measure(bench: Bench) -> Table:
    """Start several Deployments, one after the other."""
    envoy = bench.kube.get("Service", "tidegate-envoy", "tidegate-system", "v1") or {}
    address = envoy["spec"]["clusterIP"]
    with bench.namespace() as namespace:
        bench.register(namespace, "1.0.0", bench.store["good"])
        rows = [_measure(bench, namespace, address, number) for number in range(1, TIMES + 1)]
    return Table(NAME, "Cold start", ABOUT, COLUMNS, rows)


def _measure(bench: Bench, namespace: str, address: str, number: int) -> list[str]:
    kube, name = bench.kube, f"m{number}"
    begin = time.monotonic()
    kube.apply(deployment(namespace, "1.0.0", name=name))
    answered = _until_answer(address, f"{name}.{namespace}", name) - begin
    ready = _until_ready(kube, "Deployment", name, namespace, "tidegate.dev/v1alpha1") - begin
    begin = time.monotonic()
    kube.apply(_bare_pod(namespace, f"bare{number}", bench.installed.images["model-agent"]))
    bare = _until_ready(kube, "Pod", f"bare{number}", namespace, "v1") - begin
    kube.delete("Deployment", name, namespace)
    kube.delete("Pod", f"bare{number}", namespace, "v1", gracePeriodSeconds=0)
    return [str(number), f"{ready:.1f} s", f"{answered:.1f} s", f"{bare:.1f} s"]


def _until_answer(address: str, host: str, model: str) -> float:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(address, 8000, timeout=5)
        connection.request("POST", f"/v2/models/{model}/infer", EMPTY_BOARD, {"host": host})
        status = connection.getresponse().status
        connection.close()
        if status == 200:
            return time.monotonic()
        time.sleep(0.02)
    raise TimeoutError(f"no answer from {host} within two minutes")


def _until_ready(kube: Kube, kind: str, name: str, namespace: str, api_version: str) -> float:
    def ready(found: Object) -> bool:
        conditions = (found.get("status") or {}).get("conditions") or []
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    holds = ready if kind == "Pod" else is_true("Ready")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if holds(kube.get(kind, name, namespace, api_version) or {"metadata": {"generation": 0}}):
            return time.monotonic()
        time.sleep(0.02)
    raise TimeoutError(f"{kind} {name} is not Ready after two minutes")


def _bare_pod(namespace: str, name: str, image: str) -> Object:
    container = {
        "name": "server",
        "image": image,
        "command": ["python", "-m", "http.server", "8090"],
        "readinessProbe": {"tcpSocket": {"port": 8090}, "periodSeconds": 1},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }
