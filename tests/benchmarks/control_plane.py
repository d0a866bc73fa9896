"""How long the operator takes from a changed spec to its status, with 1, 100 and 1,000 Deployments."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

from dev import installation
from dev.cluster import kwok
from dev.demo.kube import Object, is_true
from tests.benchmarks.bench import Bench, Watcher
from tests.benchmarks.report import Table, milliseconds, quantile
from tests.e2e.objects import deployment

NAME = "control-plane"
SIZES = (1, 100, 1000)
CHANGES = 50
QUIET_SECONDS = 20
CLIENTS = 8
ON_FAKE_NODES = {
    "nodeSelector": {"type": "kwok"},
    "tolerations": [{"key": kwok.ANNOTATION, "operator": "Exists"}],
}
ABOUT = """\
Real API server, scheduler, controllers, router and Envoy; the serving pods run on fake nodes of kwok. *All serving*:
from the first `apply` until the last Deployment is Ready, with the default limits of kube-controller-manager, which
makes the pods. *One change*: 50 times one Deployment's `spec.analysis.window` is changed and the time taken until a
watcher sees `status.observedGeneration` follow; the *floor* is the time until the same watcher sees the changed
spec. *All changed*: every Deployment is changed as fast as eight clients can, each timed like that. *Idle*: requests
to the API server in 20 s without a change, the renewals of the lease included (settled objects need none)."""
COLUMNS = (
    "Deployments", "all serving", "one change p50", "p99", "floor p50", "all changed p50", "p99",
    "requests to serve one", "idle requests", "memory",
)  # fmt: skip


def measure(bench: Bench, sizes: tuple[int, ...] = SIZES) -> Table:
    """Measure every size, each in a namespace of its own."""
    installation.cluster("kwok", "up", "--nodes", "4")
    try:
        rows = [_measure(bench, count) for count in sizes]
    finally:
        installation.cluster("kwok", "down")
    return Table(NAME, "From a changed spec to its status", ABOUT, COLUMNS, rows)


def _measure(bench: Bench, count: int) -> list[str]:
    with bench.namespace() as namespace, Watcher(bench.kube, namespace).running() as watcher:
        bench.register(namespace, "1.0.0", bench.store["good"])
        before = bench.operator_metrics()["tidegate_api_requests_total"]
        begin = time.monotonic()
        names = [f"m{number:04d}" for number in range(count)]
        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(lambda name: bench.kube.apply(_fake(namespace, name)), names))
        watcher.until(lambda: _all_ready(watcher, names), f"{count} Deployments Ready", 900)
        serving = time.monotonic() - begin
        requests = (bench.operator_metrics()["tidegate_api_requests_total"] - before) / count
        time.sleep(5)
        quiet = bench.operator_metrics()["tidegate_api_requests_total"]
        time.sleep(QUIET_SECONDS)
        idle = bench.operator_metrics()["tidegate_api_requests_total"] - quiet
        singles = [_change(bench, watcher, random.choice(names), 10 + turn) for turn in range(CHANGES)]
        with ThreadPoolExecutor(CLIENTS) as clients:
            together = list(clients.map(lambda name: _send(bench, watcher, name, 900), names))
        watcher.until(lambda: all(key in watcher.status_seen for key, _ in together), "every change observed", 300)
        all_at_once = [watcher.status_seen[key] - sent for key, sent in together]
        memory = bench.operator_metrics()["process_resident_memory_bytes"] / 1e6
    reaction, floor = [each[0] for each in singles], [each[1] for each in singles]
    return [
        f"{count:,}", f"{serving:.1f} s",
        milliseconds(quantile(reaction, 0.5)), milliseconds(quantile(reaction, 0.99)),
        milliseconds(quantile(floor, 0.5)),
        milliseconds(quantile(all_at_once, 0.5)), milliseconds(quantile(all_at_once, 0.99)),
        f"{requests:.1f}", f"{idle:.0f}", f"{memory:.0f} MB",
    ]  # fmt: skip


def _fake(namespace: str, name: str) -> Object:
    found = deployment(namespace, "1.0.0", name=name)
    found["spec"]["serving"]["scheduling"] = ON_FAKE_NODES
    return found


def _all_ready(watcher: Watcher, names: list[str]) -> bool:
    ready = is_true("Ready")
    return len(watcher.seen) >= len(names) and all(ready(watcher.seen[name]) for name in names)


def _send(bench: Bench, watcher: Watcher, name: str, seconds: int) -> tuple[tuple[str, int], float]:
    generation = watcher.seen[name]["metadata"]["generation"] + 1
    sent = time.monotonic()
    bench.kube.merge("Deployment", name, {"spec": {"analysis": {"window": f"{seconds}s"}}}, watcher.namespace)
    return (name, generation), sent


def _change(bench: Bench, watcher: Watcher, name: str, seconds: int) -> tuple[float, float]:
    """Return the times until the status and until the spec was seen."""
    key, sent = _send(bench, watcher, name, seconds)
    watcher.until(lambda: key in watcher.status_seen, f"{name} observed", 60)
    return watcher.status_seen[key] - sent, watcher.spec_seen[key] - sent
