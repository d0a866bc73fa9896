"""The metric source on an HTTP server that answers like Prometheus."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tidegate.adapters.prometheus import PrometheusMetrics
from tidegate.api.deployment import MetricSpec
from tidegate.domain.release import Counted, Measurement, Period, Query, VersionID
from tidegate.domain.statistics import Proportion

END = datetime(2026, 1, 1, 12, tzinfo=UTC)
WINDOW = timedelta(seconds=10)
CANARY, STABLE = VersionID("connect4-1.1.0", "b" * 64), VersionID("connect4-1.0.0", "a" * 64)
PATIENCE = timedelta(seconds=5)
TIME = Period(END - WINDOW, END)

Answer = Callable[[str], Any]


class Prometheus:
    def __init__(self, url: str) -> None:
        self.queries: list[str] = []
        self.forms: list[dict[str, str]] = []
        self.answer: Answer = lambda _: {"resultType": "vector", "result": []}
        self.metrics = PrometheusMetrics(url)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.forms.append(form)
        self.queries.append(form["query"])
        assert float(form["end" if request.path.endswith("_range") else "time"]) == END.timestamp()
        answer = self.answer(str(form["query"]))
        if isinstance(answer, web.Response):
            return answer
        if isinstance(answer, asyncio.Event):
            await answer.wait()
        return web.json_response({"status": "success", "data": answer})

    async def ask(self, *queries: Query, patience: timedelta = PATIENCE) -> Any:
        return await self.metrics.measure("ns", "connect4", queries, patience)


@pytest.fixture
async def prometheus() -> AsyncIterator[Prometheus]:
    application = web.Application()
    made = Prometheus("")
    for method in ("query", "query_range"):
        application.router.add_post(f"/api/v1/{method}", made.handle)
    server = TestServer(application)
    await server.start_server()
    made.metrics = PrometheusMetrics(str(server.make_url("")).rstrip("/"))
    yield made
    await made.metrics.close()
    await server.close()


def query(
    name: str,
    *,
    compare: bool = False,
    window: timedelta = WINDOW,
    compared: dict[str, Any] | None = None,
    **fields: Any,
) -> Query:
    spec = MetricSpec.model_validate({"name": name, "compare": compared} | fields)
    return Query(spec, CANARY, STABLE if compare else None, END - window, END)


def matrix(*series: tuple[dict[str, str], float]) -> dict[str, Any]:
    """Series that grew to a value in the window, scraped every second."""
    end = END.timestamp()

    def samples(value: float) -> list[list[Any]]:
        return [[end - 70 + n, str(0 if n <= 60 else value * (n - 60) / 10)] for n in range(71)]

    return {
        "resultType": "matrix",
        "result": [{"metric": labels, "values": samples(value)} for labels, value in series],
    }


def labels(version: VersionID, **more: str) -> dict[str, str]:
    return {"tidegate_version": version.model_version} | more


def code(version: VersionID, number: str) -> dict[str, str]:
    return labels(version, envoy_response_code_class=number)


async def test_error_rate_of_both_versions_from_one_request(prometheus: Prometheus) -> None:
    prometheus.answer = lambda _: matrix((code(CANARY, "2"), 90), (code(CANARY, "5"), 10), (code(STABLE, "2"), 200))
    found = await prometheus.ask(query("errorRate", max=0.05, compare=True))
    assert found == {"errorRate": Measurement(value=pytest.approx(0.1), stable_value=0.0, samples=100)}
    assert prometheus.queries == [
        '{tidegate_namespace="ns",tidegate_deployment="connect4",'
        '__name__=~"envoy_cluster_upstream_rq_xx|envoy_cluster_grpc"}[70000ms]'
    ]


async def test_failures_of_all_versions_for_the_error_budget(prometheus: Prometheus) -> None:
    """Both versions and both protocols together; a version that nobody counts any more has failed all the same."""
    gone = {"metric": code(CANARY, "5"), "values": [[END.timestamp() - 9, "0"], [END.timestamp() - 8, "10"]]}
    failed = labels(STABLE, envoy_grpc_status="14", tidegate_protocol="grpc")
    answer = matrix((code(STABLE, "2"), 180), (code(STABLE, "5"), 5), (failed, 5))
    prometheus.answer = lambda _: {**answer, "result": [*answer["result"], gone]}
    found = await prometheus.metrics.measure_failures("ns", "connect4", TIME, PATIENCE)
    assert found == Measurement(value=pytest.approx(20 / 195), samples=195)


async def test_thirty_days_are_read_at_few_points(prometheus: Prometheus) -> None:
    """Nothing counted is no failure; and the answer stays small however long the window is."""
    month = Period(END - timedelta(days=30), END)
    found = await prometheus.metrics.measure_failures("ns", "connect4", month, PATIENCE)
    assert found == Measurement(samples=0)
    (asked,) = prometheus.forms
    step = int(asked["step"].removesuffix("ms"))
    assert asked["query"].endswith(f"[{step}ms])"), "the points leave no sample out"
    points = (END.timestamp() - float(asked["start"])) * 1000 / step + 1
    assert points == pytest.approx(361)
    assert float(asked["start"]) < month.start.timestamp()


async def test_a_budget_without_an_answer_is_an_error(prometheus: Prometheus) -> None:
    prometheus.answer = lambda _: asyncio.Event()
    late = await prometheus.metrics.measure_failures("ns", "c", TIME, timedelta(seconds=0.1))
    assert late.error is not None
    assert "did not answer within 0.1 s" in late.error
    prometheus.answer = lambda _: web.Response(status=503)
    assert (await prometheus.metrics.measure_failures("ns", "c", TIME, PATIENCE)).error
    nobody = await PrometheusMetrics(None).measure_failures("ns", "c", TIME, PATIENCE)
    assert nobody.error is not None
    assert "set prometheus.url" in nobody.error


async def test_grpc_failures_are_errors_and_no_requests_of_their_own(prometheus: Prometheus) -> None:
    failed = labels(CANARY, envoy_grpc_status="13", tidegate_protocol="grpc")
    prometheus.answer = lambda _: matrix((code(CANARY, "2"), 100), (failed, 25))
    found = await prometheus.ask(query("errorRate", max=0.05), query("requestRate", min=1))
    assert found["errorRate"] == Measurement(value=pytest.approx(0.25), samples=100)
    assert found["requestRate"] == Measurement(value=pytest.approx(10.0), samples=100)


async def test_one_round_asks_every_question_once(prometheus: Prometheus) -> None:
    prometheus.answer = lambda _: matrix((code(CANARY, "2"), 90))
    names = ("errorRate", "requestRate", "latencyP50", "latencyP95", "latencyP99")
    found = await prometheus.ask(*(query(name, max=1) for name in names))
    assert set(found) == set(names)
    assert len(prometheus.queries) == 2


async def test_request_rate(prometheus: Prometheus) -> None:
    prometheus.answer = lambda _: matrix((code(CANARY, "2"), 30), (code(CANARY, "4"), 20))
    found = await prometheus.ask(query("requestRate", min=1))
    assert found["requestRate"] == Measurement(value=pytest.approx(5.0), samples=50)


async def test_latency_in_milliseconds(prometheus: Prometheus) -> None:
    buckets = (("1", 10.0), ("5", 99.0), ("10", 100.0), ("+Inf", 100.0))
    prometheus.answer = lambda _: matrix(*((labels(CANARY, le=bound), count) for bound, count in buckets))
    found = await prometheus.ask(query("latencyP99", max_milliseconds=50), query("latencyP50", max_milliseconds=50))
    assert found["latencyP99"].value == pytest.approx(5.0)
    assert found["latencyP50"].value == pytest.approx(1 + 4 * 40 / 89)


async def test_copies_are_counted_by_the_comparator(prometheus: Prometheus) -> None:
    """Of a shadowed version nothing is asked of the proxies, and the stable one is measured by the same copies."""

    def answer(promql: str) -> Any:
        if "latency" in promql:
            buckets = (("5", 90.0), ("10", 100.0), ("+Inf", 100.0))
            return matrix(*((labels(each, le=bound), count) for each in (CANARY, STABLE) for bound, count in buckets))
        counts = {"disagreements": 3, "comparisons": 200, "failures": 10, "requests": 250}
        count = next(value for name, value in counts.items() if f"tidegate_shadow_{name}_total" in promql)
        return matrix((labels(CANARY), count), *([(labels(STABLE), count / 10)] if count in (10, 250) else []))

    prometheus.answer = answer
    copied = [query("disagreement", max=0.02), query("errorRate", max=0.05), query("latencyP95", max=50)]
    compared = query("errorRateVsStable", compare=True, compared={"metric": "errorRate"})
    found = await prometheus.ask(*(replace(each, mirrored=True, stable=STABLE) for each in (*copied, compared)))
    assert found["disagreement"] == Measurement(value=pytest.approx(0.015), samples=200)
    assert found["errorRate"] == Measurement(value=pytest.approx(0.04), stable_value=pytest.approx(0.04), samples=250)
    assert found["latencyP95"].value == found["latencyP95"].stable_value == pytest.approx(7.5)
    assert found["errorRateVsStable"].counted == Counted(Proportion(250, 10), Proportion(25, 1))
    assert all("tidegate_shadow_" in each for each in prometheus.queries)


async def test_outcomes(prometheus: Prometheus) -> None:
    def answer(promql: str) -> Any:
        assert 'metric="accuracy"' in promql
        share = 0.9 if "positive" in promql else 1
        return matrix((labels(CANARY), 200 * share), (labels(STABLE), 100 * share))

    prometheus.answer = answer
    found = await prometheus.ask(query("accuracy", source="Outcomes", min=0.85, compare=True))
    expected = Measurement(value=pytest.approx(0.9), stable_value=pytest.approx(0.9), samples=200)
    assert found["accuracy"] == expected
    assert len(prometheus.queries) == 2


async def test_a_comparison_counts_errors_of_both_versions(prometheus: Prometheus) -> None:
    prometheus.answer = lambda _: matrix((code(CANARY, "2"), 90), (code(CANARY, "5"), 10), (code(STABLE, "2"), 200))
    asked = query("errorRateVsStable", compare=True, compared={"metric": "errorRate"})
    found = await prometheus.ask(asked)
    assert found["errorRateVsStable"] == Measurement(counted=Counted(Proportion(100, 10), Proportion(200, 0)))


async def test_a_comparison_counts_across_a_reset_and_a_birth(prometheus: Prometheus) -> None:
    """The canary's proxy restarts after 4 of 10 seconds, and its first error makes a new series."""
    end = END.timestamp()
    restarted = [[end - 70 + n, str(1000 + n if n <= 64 else n - 65)] for n in range(71)]
    born = [[end - 2 + n, str(3 + n)] for n in range(3)]
    steady = [[end - 70 + n, str(20 * n)] for n in range(71)]
    series = ((code(CANARY, "2"), restarted), (code(CANARY, "5"), born), (code(STABLE, "2"), steady))
    prometheus.answer = lambda _: {
        "resultType": "matrix",
        "result": [{"metric": each, "values": values} for each, values in series],
    }
    found = await prometheus.ask(query("vs", compare=True, compared={"metric": "errorRate"}))
    assert found["vs"].counted == Counted(Proportion(4 + 5 + 5, 5), Proportion(200, 0))


async def test_a_comparison_of_outcomes_counts_what_was_not_positive(prometheus: Prometheus) -> None:
    def answer(promql: str) -> Any:
        assert 'metric="win"' in promql
        share = 0.9 if "positive" in promql else 1
        return matrix((labels(CANARY), 200 * share), (labels(STABLE), 100 * share))

    prometheus.answer = answer
    found = await prometheus.ask(query("winVsStable", source="Outcomes", compare=True, compared={"metric": "win"}))
    assert found["winVsStable"].counted == Counted(Proportion(200, 20), Proportion(100, 10))


async def test_a_comparison_of_latencies_counts_beyond_the_bound_at_stables_quantile(prometheus: Prometheus) -> None:
    buckets = {CANARY: (10, 80, 98, 100), STABLE: (900, 985, 999, 1000)}
    bounds = ("1", "5", "10", "+Inf")
    prometheus.answer = lambda _: matrix(
        *((labels(each, le=le), n) for each, counts in buckets.items() for le, n in zip(bounds, counts, strict=True))
    )
    asked = query("p99VsStable", compare=True, compared={"metric": "latencyP99"})
    found = await prometheus.ask(asked)
    assert found["p99VsStable"].counted == Counted(Proportion(100, 2), Proportion(1000, 1), 10.0)
    found = await prometheus.ask(replace(asked, bound=5.0))
    assert found["p99VsStable"].counted == Counted(Proportion(100, 20), Proportion(1000, 15), 5.0)


async def test_a_comparison_without_one_of_the_two_has_no_data(prometheus: Prometheus) -> None:
    prometheus.answer = lambda _: matrix((code(CANARY, "2"), 90))
    asked = [query(f"{name}VsStable", compare=True, compared={"metric": name}) for name in ("errorRate", "latencyP95")]
    found = await prometheus.ask(*asked)
    assert set(found.values()) == {Measurement()}


async def test_custom_queries_are_filled_in_and_compared(prometheus: Prometheus) -> None:
    matchers = 'v="{{ version }}",s="{{stable}}",d="{{ deployment }}",n="{{ namespace }}"'
    text = f"sum(rate(m{{{matchers}}}[{{{{ window }}}}])) {{{{ odd }}}}"

    def answer(promql: str) -> Any:
        value = "3" if f'v="{CANARY}"' in promql else "2"
        return {"resultType": "vector", "result": [{"metric": {}, "value": [0, value]}]}

    prometheus.answer = answer
    found = await prometheus.ask(query("custom", query=text, max=3, compare=True))
    assert found["custom"] == Measurement(value=3.0, stable_value=2.0)
    assert prometheus.queries[0] == (
        'sum(rate(m{v="connect4-1.1.0",s="connect4-1.0.0",d="connect4",n="ns"}[10s])) {{ odd }}'
    )


@pytest.mark.parametrize(
    "data",
    [
        {"resultType": "vector", "result": []},
        {"resultType": "vector", "result": [{"metric": {}, "value": [0, "NaN"]}]},
        {"resultType": "scalar", "result": [0, "+Inf"]},
    ],
)
async def test_empty_and_nan_are_no_data_and_no_error(prometheus: Prometheus, data: Any) -> None:
    prometheus.answer = lambda _: data
    found = await prometheus.ask(query("custom", query="x", max=1))
    assert found["custom"] == Measurement()


async def test_scalar_answer(prometheus: Prometheus) -> None:
    prometheus.answer = lambda _: {"resultType": "scalar", "result": [0, "1.5"]}
    assert (await prometheus.ask(query("custom", query="x", max=1)))["custom"].value == 1.5


async def test_query_with_many_series_is_an_error_with_a_remedy(prometheus: Prometheus) -> None:
    many = [{"metric": {"a": str(n)}, "value": [0, "1"]} for n in range(3)]
    prometheus.answer = lambda _: {"resultType": "vector", "result": many}
    found = await prometheus.ask(query("custom", query="x", max=1))
    assert re.search("3 series; aggregate", str(found["custom"].error))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (web.json_response({"status": "error", "error": "parse error at char 3"}, status=400), "parse error at char 3"),
        (web.json_response({"status": "error", "error": "query timed out"}, status=503), "query timed out"),
        (web.Response(text="<html>", status=502), "without JSON"),
        (web.json_response([1]), "refused"),
        (web.json_response({"status": "success", "data": {"resultType": "matrix"}}), "something else"),
    ],
)
async def test_refusals_and_nonsense_are_errors_and_never_raised(
    prometheus: Prometheus, answer: web.Response, said: str
) -> None:
    prometheus.answer = lambda _: answer
    found = await prometheus.ask(query("errorRate", max=1))
    assert said in str(found["errorRate"].error)
    assert found["errorRate"].value is None


async def test_slow_answers_do_not_hold_up_the_round(prometheus: Prometheus) -> None:
    never = asyncio.Event()
    full = {"resultType": "scalar", "result": [0, "1"]}
    prometheus.answer = lambda promql: never if "slow" in promql else full
    asked = (query("one", query="slow", max=1), query("two", query="quick", max=1))
    found = await prometheus.ask(*asked, patience=timedelta(seconds=0.5))
    assert "did not answer within 0.5 s" in str(found["one"].error)
    assert found["two"].value == 1.0
    never.set()


async def test_nobody_there_and_no_address() -> None:
    gone = PrometheusMetrics("http://127.0.0.1:1")
    found = await gone.measure("ns", "d", [query("errorRate", max=1)], PATIENCE)
    assert "did not answer" in str(found["errorRate"].error)
    await gone.close()
    none = PrometheusMetrics(None)
    found = await none.measure("ns", "d", [query("errorRate", max=1)], PATIENCE)
    assert "prometheus.url" in str(found["errorRate"].error)


async def test_unknown_metric_names_what_there_is(prometheus: Prometheus) -> None:
    found = await prometheus.ask(query("latencyP42", max=1))
    assert "latencyP95" in str(found["latencyP42"].error)


async def test_long_windows_are_read_at_some_points_only(prometheus: Prometheus) -> None:
    await prometheus.ask(query("errorRate", max=1, window=timedelta(hours=24)))
    assert [each.partition("[")[2] for each in prometheus.queries] == ["240834ms])"]


async def test_samples_are_read_from_further_back_where_scrapes_are_far_apart(prometheus: Prometheus) -> None:
    """Scraped once a minute: with one minute of the past, a sample that is late would make a counter look newborn."""
    end = END.timestamp()
    seen = {CANARY: [(-122, 1000), (-62, 1040), (-1, 1100)], STABLE: [(-125, 5000), (-64, 5000), (-2, 5200)]}

    def answer(promql: str) -> Any:
        seconds = int(promql.partition("[")[2].removesuffix("ms]")) / 1000
        series = [
            {
                "metric": code(version, "2"),
                "values": [[end + at, str(value)] for at, value in samples if at > -seconds],
            }
            for version, samples in seen.items()
        ]
        return {"resultType": "matrix", "result": series}

    prometheus.answer = answer
    found = await prometheus.ask(query("requestRate", min=1, window=timedelta(seconds=60)))
    assert found["requestRate"].samples == 60
    assert [each.partition("[")[2] for each in prometheus.queries] == ["120000ms]", "360000ms]"]
