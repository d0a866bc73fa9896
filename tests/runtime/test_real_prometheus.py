"""What is counted over days, on a real Prometheus with days of samples."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dev.cluster.golang import PROMETHEUS, ensure_programs
from dev.cluster.settings import find_folders
from tests.runtime.operator_process import wait_for
from tests.serving.file_server import free_port
from tidegate.adapters.prometheus import PrometheusMetrics
from tidegate.domain.release import Measurement, Period

pytestmark = pytest.mark.slow

END = datetime.now(UTC).replace(microsecond=0)
MONTH = timedelta(days=30)
PATIENCE = timedelta(seconds=30)
Points = Iterable[tuple[datetime, float]]


@pytest.fixture(scope="session")
def prometheus_programs() -> dict[str, Path]:
    """The real programs."""
    return ensure_programs(find_folders(), PROMETHEUS)


def counter(deployment: str, version: str, code: str, points: Points) -> Iterator[str]:
    """Write one counter of Envoy as OpenMetrics text."""
    labels = {
        "tidegate_namespace": "ns",
        "tidegate_deployment": deployment,
        "tidegate_version": version,
        "envoy_response_code_class": code,
    }
    text = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return (f"envoy_cluster_upstream_rq_xx{{{text}}} {value} {moment.timestamp():.3f}" for moment, value in points)


def grow(start: datetime, end: datetime, every: timedelta, by: float, first: float = 0) -> Points:
    """Return the samples of a counter that grows evenly."""
    return ((start + n * every, first + by * n) for n in range((end - start) // every + 1))


def ago(**time: float) -> datetime:
    return END - timedelta(**time)


def samples() -> Iterator[str]:
    """An old endpoint with a canary that failed for seconds ten days ago, and one that is half an hour old."""
    minute, second = timedelta(minutes=1), timedelta(seconds=1)
    yield from counter("old", "m-1.0.0", "2", grow(ago(days=31), END, minute, 10, first=5e6))
    yield from counter(
        "old", "m-1.1.0", "5", grow(ago(days=10, minutes=31), ago(days=10, minutes=30), minute, 3000, 321)
    )
    young = ago(minutes=40)
    yield from counter("young", "m-1.0.0", "2", grow(young, END, second, 1, first=20))
    yield from counter("young", "m-1.1.0", "5", grow(ago(minutes=9), ago(minutes=8), second, 0, first=100))


@pytest.fixture(scope="module")
def address(prometheus_programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that has these samples and scrapes nothing."""
    folder = tmp_path_factory.mktemp("prometheus")
    text = folder / "samples.txt"
    text.write_text("\n".join(["# TYPE envoy_cluster_upstream_rq_xx unknown", *samples(), "# EOF\n"]))
    promtool = (prometheus_programs["promtool"], "tsdb", "create-blocks-from", "--max-block-duration=744h")
    subprocess.run([*promtool, "openmetrics", text, folder / "data"], check=True, capture_output=True)
    (folder / "prometheus.yml").write_text("")
    address = f"127.0.0.1:{free_port()}"
    flags = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data")
    settings = (f"--web.listen-address={address}", "--storage.tsdb.retention.time=60d")
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([prometheus_programs["prometheus"], *flags, *settings], stdout=output, stderr=output)
    try:
        wait_for(lambda: "ready to receive web requests" in log.read_text(), f"Prometheus, see {log}", 30)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
async def metrics(address: str) -> AsyncIterator[PrometheusMetrics]:
    """Our reader of that Prometheus."""
    source = PrometheusMetrics(address)
    yield source
    await source.close()


async def test_a_canary_of_seconds_has_spent_from_the_budget_of_days(metrics: PrometheusMetrics) -> None:
    """What failed between two points counts, and what the others counted before the window does not."""
    found = await metrics.measure_failures("ns", "old", Period(END - MONTH, END), PATIENCE)
    good, bad = 10 * 60 * 24 * 30, 3321
    assert found.error is None
    assert found.samples == pytest.approx(good + bad, rel=0.005)
    assert (found.value or 0) * (found.samples or 0) == pytest.approx(bad)


async def test_a_young_endpoint_spends_from_its_first_request_on(metrics: PrometheusMetrics) -> None:
    """An endpoint of 40 minutes has a budget of 30 days: all it ever counted is counted, first samples included."""
    period = Period.cut(END - MONTH, END, ago(minutes=41))
    found = await metrics.measure_failures("ns", "young", period, PATIENCE)
    whole = 20 + 40 * 60 + 100
    assert found == Measurement(value=pytest.approx(100 / whole), samples=whole)
