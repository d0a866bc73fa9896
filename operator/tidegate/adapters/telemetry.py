"""What the operator tells about itself: Prometheus series and JSON log lines."""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.process_collector import ProcessCollector

from tidegate.ports import Key

__all__ = [
    "API_REQUESTS",
    "CACHED",
    "EVENTS_DROPPED",
    "LEADING",
    "PrometheusTelemetry",
    "QueueTelemetry",
    "configure_logging",
    "render_metrics",
]

disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)

RECONCILES = Histogram(
    "tidegate_reconcile_seconds", "Time of one reconcile.", ["kind"], buckets=SECONDS, registry=REGISTRY
)
RECONCILE_ERRORS = Counter(
    "tidegate_reconcile_errors_total", "Reconciles that failed and are retried.", ["kind", "reason"], registry=REGISTRY
)
QUEUE_DEPTH = Gauge("tidegate_queue_depth", "Objects that wait for a reconcile.", registry=REGISTRY)
QUEUE_WAIT = Histogram(
    "tidegate_queue_wait_seconds", "Time an object waited for its reconcile.", buckets=SECONDS, registry=REGISTRY
)
API_REQUESTS = Counter(
    "tidegate_api_requests_total", "Requests to the API server.", ["method", "code"], registry=REGISTRY
)
EVENTS_DROPPED = Counter("tidegate_events_dropped_total", "Events that could not be written.", registry=REGISTRY)
LEADING = Gauge("tidegate_leading", "1 while this replica holds the lease.", registry=REGISTRY)
CACHED = Gauge("tidegate_cached_objects", "Objects in memory.", ["kind"], registry=REGISTRY)
DECISIONS = Counter(
    "tidegate_decisions_total", "Decisions of the operator.", ["kind", "action", "reason"], registry=REGISTRY
)
WEIGHTS = Gauge(
    "tidegate_release_weight_percent",
    "Share of the traffic that the proxies have confirmed.",
    ["namespace", "deployment", "version", "role"],
    registry=REGISTRY,
)
VALUES = Gauge(
    "tidegate_analysis_value", "Last measured value.", ["namespace", "deployment", "metric"], registry=REGISTRY
)
VERDICTS = Gauge(
    "tidegate_analysis_verdict",
    "1 for the last verdict on a metric, 0 for the others.",
    ["namespace", "deployment", "metric", "verdict"],
    registry=REGISTRY,
)


def render_metrics() -> bytes:
    """Return all series in the text format of Prometheus."""
    return generate_latest(REGISTRY)


Labels = TypeVar("Labels", tuple[str], tuple[str, str])


class PrometheusTelemetry:
    """Keeps the series of what the reconcilers decide; series of an object go with the object."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._shown: dict[tuple[Gauge, str, str], set[tuple[str, ...]]] = {}

    def count_decision(self, kind: str, action: str, reason: str) -> None:
        """Count one decision."""
        DECISIONS.labels(kind, action, reason).inc()

    def show_weights(self, namespace: str, deployment: str, weights: Mapping[tuple[str, str], float]) -> None:
        """Show the shares of a Deployment by version and role."""
        self._show(WEIGHTS, namespace, deployment, weights)

    def show_analysis(
        self,
        namespace: str,
        deployment: str,
        values: Mapping[str, float],
        verdicts: Mapping[tuple[str, str], float],
    ) -> None:
        """Show the last value of every metric, and by metric and verdict which one it was."""
        self._show(VALUES, namespace, deployment, {(name,): value for name, value in values.items()})
        self._show(VERDICTS, namespace, deployment, verdicts)

    def forget(self, namespace: str, deployment: str) -> None:
        """Remove the series of a Deployment that is gone."""
        for gauge in (WEIGHTS, VALUES, VERDICTS):
            self._show(gauge, namespace, deployment, {})

    def _show(self, gauge: Gauge, namespace: str, name: str, series: Mapping[Labels, float]) -> None:
        before = self._shown.pop((gauge, namespace, name), set())
        for labels in before - series.keys():
            gauge.remove(namespace, name, *labels)
        for labels, value in series.items():
            gauge.labels(namespace, name, *labels).set(value)
        if series:
            self._shown[gauge, namespace, name] = set(series)


class QueueTelemetry:
    """Keeps the series of the work queue."""

    def started(self, depth: int, waited: float) -> None:
        """Note the depth and how long the object waited."""
        QUEUE_DEPTH.set(depth)
        QUEUE_WAIT.observe(waited)

    def finished(self, key: Key, seconds: float) -> None:
        """Note how long the reconcile took."""
        RECONCILES.labels(key.kind.name).observe(seconds)

    def failed(self, key: Key, reason: str) -> None:
        """Count a failure."""
        RECONCILE_ERRORS.labels(key.kind.name, reason).inc()


class JsonFormatter(logging.Formatter):
    """One JSON object per line; what is passed as `extra={"fields": {…}}` lies beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure_logging(level: str) -> None:
    """Send JSON lines to standard error; kopf and the HTTP libraries speak only when something is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("kopf", "aiohttp", "httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
