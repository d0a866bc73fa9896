"""What the hop through Envoy costs: the same requests to Triton alone and through the endpoint."""

import http.client
import time
from concurrent.futures import ThreadPoolExecutor

from dev.demo.kube import is_true
from tests.benchmarks.bench import EMPTY_BOARD, Bench
from tests.benchmarks.report import Table, milliseconds, quantile
from tests.e2e.objects import deployment

NAME = "serving-latency"
ROUNDS, REQUESTS = 10, 300
ABOUT = """\
A small linear model, batch of one, JSON over HTTP/1.1 on kept connections, from the node itself. Blocks of 300
requests to the serving pod and through Envoy alternate, so that both meet the same machine. Client, Envoy, Triton
and the operator share the cores."""
COLUMNS = ("clients", "way", "p50", "p90", "p99", "requests/s")


def measure(bench: Bench) -> Table:
    """Measure one and eight clients."""
    with bench.namespace() as namespace:
        bench.register(namespace, "1.0.0", bench.store["good"])
        bench.kube.apply(deployment(namespace, "1.0.0"))
        bench.kube.wait("Deployment", "m", is_true("Ready"), timeout=120, namespace=namespace)
        (pod,) = bench.kube.pods("tidegate.dev/component=serving", namespace)
        envoy = bench.kube.get("Service", "tidegate-envoy", "tidegate-system", "v1") or {}
        ways = {
            "Triton alone": (pod["status"]["podIP"], {}),
            "Envoy + Triton": (envoy["spec"]["clusterIP"], {"host": f"m.{namespace}"}),
        }
        rows = [row for clients in (1, 8) for row in _measure(ways, clients)]
    return Table(NAME, "What the hop through Envoy costs", ABOUT, COLUMNS, rows)


def _measure(ways: dict[str, tuple[str, dict[str, str]]], clients: int) -> list[list[str]]:
    times: dict[str, list[float]] = {way: [] for way in ways}
    seconds = dict.fromkeys(ways, 0.0)
    for _ in range(ROUNDS):
        for way, (address, headers) in ways.items():
            begin = time.monotonic()
            with ThreadPoolExecutor(clients) as pool:
                blocks = pool.map(lambda _: _ask(address, headers, REQUESTS // clients), range(clients))  # noqa: B023
                times[way] += [each for block in blocks for each in block]
            seconds[way] += time.monotonic() - begin
    return [
        [str(clients), way, *(milliseconds(quantile(times[way], share)) for share in (0.5, 0.9, 0.99)),
         f"{len(times[way]) / seconds[way]:.0f}"]
        for way in ways
    ]  # fmt: skip


def _ask(address: str, headers: dict[str, str], count: int) -> list[float]:
    """Send requests one after the other over one connection and return their times."""
    connection = http.client.HTTPConnection(address, 8000, timeout=10)
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        connection.request("POST", "/v2/models/m/infer", EMPTY_BOARD, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        answer.read()
        times.append(time.perf_counter() - begin)
        if answer.status != 200:
            raise RuntimeError(f"{address} answered {answer.status}")
    connection.close()
    return times
