"""The port `MetricSource` on Prometheus: raw counters, counted by us.

``rate()`` and ``increase()`` extrapolate, need two samples of every series, and lose what a new series counted before
its first scrape: a canary's first bad answers. Here the samples themselves are read, of all versions of the Deployment
in one query, and their differences are added up, resets of a restarted proxy included.
"""

import asyncio
import errno
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import aiohttp

from tidegate.adapters.access import Access, AccessFolder, find_tls_error
from tidegate.domain.promql import fill
from tidegate.domain.release import Counted, Measurement, Period, Query
from tidegate.domain.requests import (
    GRPC_STATUSES,
    REQUESTS,
    count_failures,
    measure_error_rate,
    measure_failures,
    measure_request_rate,
)
from tidegate.domain.series import (
    Series,
    Window,
    choose_bound,
    count_share,
    count_slow,
    measure_quantile,
    measure_share,
)
from tidegate.domain.shadow import DISAGREEMENT
from tidegate.domain.statistics import Proportion
from tidegate.errors import Unavailable

__all__ = ["PrometheusMetrics"]

LATENCIES = "envoy_cluster_upstream_rq_time_bucket"
OUTCOMES = "tidegate_outcomes_total"
POSITIVE = "tidegate_outcomes_positive_total"
QUANTILES = {"latencyP50": 0.5, "latencyP95": 0.95, "latencyP99": 0.99}
COPY_LATENCIES = "tidegate_shadow_latency_milliseconds_bucket"
COPIES = {
    DISAGREEMENT: ("tidegate_shadow_disagreements_total", "tidegate_shadow_comparisons_total"),
    "errorRate": ("tidegate_shadow_failures_total", "tidegate_shadow_requests_total"),
}
"""Counters of a comparator: what is looked for, and everything that it is a part of."""

LOOKBACK = timedelta(minutes=1)
"""How far before the window samples are read: a series that begins later than that began at zero."""
LONG_LOOKBACK = timedelta(minutes=5)
"""The same where scrapes are too far apart for a minute to tell; as far as Prometheus itself looks back for a value."""
LONGEST_RAW = timedelta(minutes=30)
"""Of a longer time POINTS points are read instead of every sample: the greatest value since the point before.

A version that served for seconds between two points is in its point, with everything it counted.
"""
POINTS = 360
TIMEOUT = aiohttp.ClientTimeout(total=10, sock_connect=3)
CUT = (errno.ECONNRESET, errno.EPIPE)
SHORTEST_PATIENCE = timedelta(milliseconds=500)


@dataclass(slots=True)
class Round:
    """All questions of one look at one Deployment; what several metrics need is fetched once."""

    namespace: str
    deployment: str
    period: Period
    fetched: dict[str, asyncio.Task[Window]] = field(default_factory=dict)


class PrometheusMetrics:
    """Asks one Prometheus, or says that there is none."""

    def __init__(self, url: str | None, access: AccessFolder | None = None) -> None:
        """Ask the server at `url`, which `access` lets us in at; nothing is opened yet."""
        self._url = url
        self._access = access or AccessFolder()
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def measure(
        self, namespace: str, deployment: str, queries: Sequence[Query], patience: timedelta
    ) -> Mapping[str, Measurement]:
        """Answer all queries concurrently, within `patience`."""
        rounds: dict[Period, Round] = {}
        for query in queries:
            period = Period(query.start, query.end)
            rounds.setdefault(period, Round(namespace, deployment, period))
        seconds = max(patience, SHORTEST_PATIENCE).total_seconds()
        work = (self._answer(rounds[Period(query.start, query.end)], query, seconds) for query in queries)
        try:
            answers = await asyncio.gather(*work)
        finally:
            for task in (task for look in rounds.values() for task in look.fetched.values()):
                task.cancel()
        return {query.metric.name: answer for query, answer in zip(queries, answers, strict=True)}

    async def measure_failures(
        self, namespace: str, deployment: str, period: Period, patience: timedelta
    ) -> Measurement:
        """Measure which share of all requests of a Deployment failed."""
        seconds = patience.total_seconds()
        look = Round(namespace, deployment, period)
        try:
            async with asyncio.timeout(seconds):
                return measure_failures(await self._requests(look))
        except TimeoutError:
            return Measurement(error=self._say_late(seconds))
        except Unavailable as error:
            return Measurement(error=error.message)
        finally:
            for task in look.fetched.values():
                task.cancel()

    async def _answer(self, look: Round, query: Query, seconds: float) -> Measurement:
        find = self._find_method(query)
        if find is None:
            known = "errorRate, requestRate, latencyP50, latencyP95, latencyP99"
            return Measurement(error=f"{query.metric.name} is not built in ({known}); give it a query or a source")
        try:
            async with asyncio.timeout(seconds):
                return await find(look, query)
        except TimeoutError:
            return Measurement(error=self._say_late(seconds))
        except Unavailable as error:
            return Measurement(error=error.message)

    def _say_late(self, seconds: float) -> str:
        return f"Prometheus at {self._url} did not answer within {seconds:.1f} s"

    def _find_method(self, query: Query) -> Callable[[Round, Query], Awaitable[Measurement]] | None:
        metric = query.metric
        if metric.query is not None:
            return self._custom
        if metric.source == "Outcomes":
            return self._outcomes
        if _name(query) in QUANTILES:
            return self._latency
        if query.mirrored:
            return self._copies
        return {"errorRate": self._error_rate, "requestRate": self._request_rate}.get(_name(query))

    # Built-in metrics

    async def _error_rate(self, look: Round, query: Query) -> Measurement:
        window = await self._requests(look)
        if _is_counted(query):
            return _count(query, lambda version: count_failures(window, version))
        return _compare(query, lambda version: measure_error_rate(window, version))

    async def _request_rate(self, look: Round, query: Query) -> Measurement:
        window = await self._requests(look)
        return _compare(query, lambda version: measure_request_rate(window, version))

    async def _latency(self, look: Round, query: Query) -> Measurement:
        window = await self._window(look, COPY_LATENCIES if query.mirrored else LATENCIES)
        share = QUANTILES[_name(query)]
        if _is_counted(query):
            return _count_slow(query, window, share)
        return _compare(query, lambda version: measure_quantile(window, version, share))

    async def _copies(self, look: Round, query: Query) -> Measurement:
        positive, total = await asyncio.gather(*(self._window(look, name) for name in COPIES[_name(query)]))
        if _is_counted(query):
            return _count(query, lambda version: count_share(positive, total, version))
        return _compare(query, lambda version: measure_share(positive, total, version))

    async def _outcomes(self, look: Round, query: Query) -> Measurement:
        label = f'metric="{_name(query)}"'
        total, positive = await asyncio.gather(self._window(look, OUTCOMES, label), self._window(look, POSITIVE, label))
        if _is_counted(query):
            return _count(query, lambda version: _invert(count_share(positive, total, version)))
        return _compare(query, lambda version: measure_share(positive, total, version))

    async def _custom(self, look: Round, query: Query) -> Measurement:
        stable = query.stable.model_version if query.stable else ""
        value = await self._value(look, query, query.version.model_version, stable)
        compared = await self._value(look, query, stable, stable) if query.stable else None
        return Measurement(value=value, stable_value=compared)

    # Requests

    async def _value(self, look: Round, query: Query, version: str, stable: str) -> float | None:
        text = fill(query.metric.query or "", _variables(look, version, stable))
        found = await self._ask(text, look.period.end)
        if len(found) > 1:
            raise Unavailable(
                "BadQuery", f"the query gives {len(found)} series; aggregate them to one, e.g. with sum()"
            )
        value = found[0].samples[-1][1] if found else math.nan
        return value if math.isfinite(value) else None

    async def _requests(self, look: Round) -> Window:
        """Read both metrics at once: they are of one scrape, and tell of each other whether anybody looked before."""
        return await self._window(look, "", f'__name__=~"{REQUESTS}|{GRPC_STATUSES}"')

    async def _window(self, look: Round, metric: str, *labels: str) -> Window:
        """Read the samples of all versions of the Deployment; fetched once."""
        matchers = (f'tidegate_namespace="{look.namespace}"', f'tidegate_deployment="{look.deployment}"', *labels)
        selector = f"{metric}{{{','.join(matchers)}}}"
        if selector not in look.fetched:
            look.fetched[selector] = asyncio.create_task(self._fetch(look, selector))
        return await asyncio.shield(look.fetched[selector])

    async def _fetch(self, look: Round, selector: str) -> Window:
        """Read from a little before the window on, and from further back where that does not tell what was before."""
        is_raw = look.period.end - look.period.start + LOOKBACK <= LONGEST_RAW
        window = await self._read_since(look, selector, LOOKBACK if is_raw else LONG_LOOKBACK)
        if is_raw and not window.tells_before(LOOKBACK.total_seconds()):
            return await self._read_since(look, selector, LONG_LOOKBACK)
        return window

    async def _read_since(self, look: Round, selector: str, lookback: timedelta) -> Window:
        time = look.period.end - look.period.start + lookback
        if time <= LONGEST_RAW:
            series = await self._ask(f"{selector}[{_milliseconds(time)}]", look.period.end)
        else:
            series = await self._read_points(selector, look.period.end, time)
        return Window(series, look.period.start.timestamp(), look.period.end.timestamp(), look.period.is_whole)

    async def _read_points(self, selector: str, end: datetime, time: timedelta) -> list[Series]:
        """Read a long time at few points, the last of them now: those of a subquery lie where Prometheus likes."""
        step = timedelta(milliseconds=math.ceil(time / timedelta(milliseconds=POINTS)))
        times = {"start": _timestamp(end - POINTS * step), "end": _timestamp(end), "step": _milliseconds(step)}
        promql = f"max_over_time({selector}[{_milliseconds(step)}])"
        return await self._call("query_range", {"query": promql} | times)

    async def _ask(self, promql: str, at: datetime) -> list[Series]:
        return await self._call("query", {"query": promql, "time": _timestamp(at)})

    async def _call(self, method: str, form: Mapping[str, str]) -> list[Series]:
        if self._url is None:
            raise Unavailable("NoPrometheus", "no Prometheus address is set; set prometheus.url in the chart's values")
        status, body = await self._post(f"{self._url}/api/v1/{method}", form)
        if status != 200 or not isinstance(body, dict) or body.get("status") != "success":
            refusal = body.get("error", status) if isinstance(body, dict) else status
            raise Unavailable("BadQuery", f"Prometheus refused the query: {refusal}")
        try:
            return _read(body["data"])
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable("BadAnswer", f"Prometheus at {self._url} answered with something else") from error

    async def _post(self, url: str, form: Mapping[str, str]) -> tuple[int, Any]:
        """Send a form and return what came back; credentials go to this server alone, so it cannot pass us on."""
        access = self._access.read()
        request = self._open().post(url, data=form, headers=access.headers, ssl=access.tls, allow_redirects=False)
        try:
            async with request as answer:
                self._check(answer, access)
                return answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._translate(error, access) from error
        except ValueError as error:
            said = f"Prometheus at {self._url} answered {answer.status} without JSON"
            raise Unavailable("PrometheusUnavailable", said) from error

    def _check(self, answer: aiohttp.ClientResponse, access: Access) -> None:
        if answer.status in (401, 403):
            said = f"Prometheus at {self._url}: {access.explain_refusal(answer.status)}"
            raise Unavailable("BadCredentials", said)
        if 300 <= answer.status < 400:
            said = f"Prometheus at {self._url} is elsewhere ({answer.status}); correct prometheus.url"
            raise Unavailable("PrometheusUnavailable", said)

    def _translate(self, error: Exception, access: Access) -> Unavailable:
        tls = find_tls_error(error)
        if tls is not None:
            return Unavailable("BadCredentials", f"Prometheus at {self._url}: {access.explain_tls(tls)}")
        said = str(error) or type(error).__name__
        if isinstance(error, aiohttp.ServerDisconnectedError) or getattr(error, "errno", None) in CUT:
            said = f"{said}{access.explain_cut(self._url or '')}"
        return Unavailable("PrometheusUnavailable", f"Prometheus at {self._url} did not answer: {said}")

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=TIMEOUT)
        return self._session


def _compare(query: Query, measure: Callable[[str], Measurement]) -> Measurement:
    """Measure the version, and the stable one where it is asked for."""
    measured = measure(query.version.model_version)
    if query.stable is None:
        return measured
    return replace(measured, stable_value=measure(query.stable.model_version).value)


def _name(query: Query) -> str:
    """Return the name of what is measured: a comparison has one of its own."""
    return query.metric.compare.metric if query.metric.compare else query.metric.name


def _is_counted(query: Query) -> bool:
    return query.metric.compare is not None and query.stable is not None


def _count(query: Query, count: Callable[[str], Proportion | None], bound: float | None = None) -> Measurement:
    """Count the bad ones of both versions; without both there is nothing to compare."""
    canary = count(query.version.model_version)
    stable = count(query.stable.model_version) if query.stable else None
    return Measurement(counted=Counted(canary, stable, bound) if canary and stable else None)


def _count_slow(query: Query, window: Window, share: float) -> Measurement:
    bound = query.bound
    if bound is None and query.stable is not None:
        bound = choose_bound(window, query.stable.model_version, share)
    if bound is None:
        return Measurement()
    return _count(query, lambda version: count_slow(window, version, bound), bound)


def _invert(positive: Proportion | None) -> Proportion | None:
    """Outcomes are good ones: the others are bad."""
    return positive and Proportion(positive.samples, positive.samples - positive.positive)


def _milliseconds(time: timedelta) -> str:
    """Return a duration as PromQL has it."""
    return f"{round(time / timedelta(milliseconds=1))}ms"


def _timestamp(moment: datetime) -> str:
    return f"{moment.timestamp():.3f}"


def _variables(look: Round, version: str, stable: str) -> dict[str, str]:
    return {
        "version": version,
        "stable": stable,
        "deployment": look.deployment,
        "namespace": look.namespace,
        "window": f"{max(round((look.period.end - look.period.start).total_seconds()), 1)}s",
    }


def _read(data: Mapping[str, Any]) -> list[Series]:
    """Read a vector, a matrix or a scalar."""
    if data["resultType"] == "scalar":
        return [Series({}, [_sample(data["result"])])]
    return [
        Series(each.get("metric", {}), [_sample(pair) for pair in each.get("values") or [each["value"]]])
        for each in data["result"]
    ]


def _sample(pair: Sequence[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])
