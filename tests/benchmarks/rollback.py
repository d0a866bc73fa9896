"""How long a failing version has traffic: from its first error answer to a confirmed weight of 0."""

from dev.demo import sabotage
from dev.demo.kube import condition, is_true
from tests.benchmarks.bench import Bench
from tests.benchmarks.report import Table
from tests.e2e import artifacts
from tests.e2e.load import Load
from tests.e2e.objects import FAST, deployment
from tests.e2e.releases import wait_until_closed

NAME = "rollback"
TIMES = 5
ABOUT = """\
One node, real Triton and Envoy, 60 requests a second, canary at 30 %, of which every fifth request fails;
`errorRate` over 5 s, at least 5 samples, scrape and analysis interval of 1 s. *To weight 0*: from the first error
answer that a client got to the moment when every proxy has confirmed that the canary has no traffic. *Error
answers*: what clients saw in all."""
COLUMNS = ("release", "to weight 0", "error answers", "requests meanwhile")


def measure(bench: Bench) -> Table:
    """Release failing versions one after the other under load."""
    bad = {f"failing-{n}": sabotage.sabotage(artifacts.make_model(seed=200 + n), "failing") for n in range(TIMES)}
    stored = artifacts.store(bench.installed, bad)
    with bench.namespace() as namespace:
        bench.register(namespace, "1.0.0", bench.store["good"])
        for number, file in enumerate(stored.values()):
            bench.register(namespace, f"1.{number + 1}.0", file)
        bench.kube.apply(deployment(namespace, "1.0.0", analysis=FAST))
        bench.kube.wait("Deployment", "m", is_true("Ready"), timeout=120, namespace=namespace)
        load = Load(bench.kube, bench.installed.images["loadgen"], namespace, "m", 60).start()
        rows = [_measure(bench, namespace, load, f"m-1.{number + 1}.0") for number in range(TIMES)]
    return Table(NAME, "From the first error to weight 0", ABOUT, COLUMNS, rows)


def _measure(bench: Bench, namespace: str, load: Load, version: str) -> list[str]:
    before = load.seen()
    bench.kube.merge("Deployment", "m", {"spec": {"modelVersion": version}}, namespace)
    closed = wait_until_closed(bench.kube, namespace, version, timeout=120)
    seen = load.seen()
    bench.kube.wait(
        "Deployment",
        "m",
        lambda found: condition(found, "Stalled").get("reason") == "RolledBack" and _rejected(found) == version,
        timeout=60,
        namespace=namespace,
    )
    errors, requests = seen.failed.get(version, 0), seen.total - before.total
    return [version, f"{closed - seen.first_bad[version]:.2f} s", f"{errors:.0f}", f"{requests:.0f}"]


def _rejected(found: dict) -> str:
    return (found["status"].get("rejected") or [{}])[0].get("modelVersion", "")
