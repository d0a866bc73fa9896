"""Requests and failures of a version, as Envoy counts them, over HTTP and gRPC.

A gRPC call that fails is an HTTP 200 with a status in its trailers. Envoy counts every request by the class of its HTTP
status when the answer begins, and a gRPC call by its gRPC status, too, when it ends. An answer that Envoy makes itself,
because no server could be reached or none answered in time, is a 5xx and a gRPC status: one failure here.
"""

from tidegate.domain.release import Measurement
from tidegate.domain.series import Parts, Series, Window, measure_rate, proportion_of, share_of
from tidegate.domain.statistics import Proportion

__all__ = [
    "GRPC_FAILURES",
    "GRPC_STATUSES",
    "REQUESTS",
    "count_failures",
    "measure_error_rate",
    "measure_failures",
    "measure_request_rate",
]

REQUESTS = "envoy_cluster_upstream_rq_xx"
GRPC_STATUSES = "envoy_cluster_grpc"

GRPC_FAILURES = frozenset({"2", "4", "12", "13", "14", "15"})
"""UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS: what HTTP says with 5xx.

The others are the client's, as 4xx is, RESOURCE_EXHAUSTED (HTTP 429) among them.
"""


def measure_error_rate(window: Window, version: str) -> Measurement:
    """Measure which share of a version's requests failed; `window` holds REQUESTS and GRPC_STATUSES."""
    return share_of(_count_parts(window, version))


def measure_failures(window: Window) -> Measurement:
    """Measure which share of all requests failed, whichever version answered, and whether or not anybody still asks."""
    return share_of((_count_failures(window, None), window.count(window.of(None, _is_request))))


def count_failures(window: Window, version: str) -> Proportion | None:
    """Count a version's failures among its requests; None if nobody counts any more."""
    return proportion_of(_count_parts(window, version))


def measure_request_rate(window: Window, version: str) -> Measurement:
    """Measure the requests per second; `window` may hold GRPC_STATUSES, too."""
    return measure_rate(window, version, _is_request)


def _count_parts(window: Window, version: str) -> Parts | None:
    requests = window.of(version, _is_request)
    if not window.is_fresh(requests):
        return None
    return _count_failures(window, version), window.count(requests)


def _count_failures(window: Window, version: str | None) -> float:
    """Over gRPC the larger count counts: a gRPC server gives no 5xx, so either all of these have a status or none."""
    over_http = window.count(window.of(version, lambda each: _is_server_error(each) and not _is_grpc(each)))
    answers = window.count(window.of(version, lambda each: _is_server_error(each) and _is_grpc(each)))
    statuses = window.count(window.of(version, _is_grpc_failure))
    return over_http + max(answers, statuses)


def _is_request(series: Series) -> bool:
    return "envoy_response_code_class" in series.labels


def _is_server_error(series: Series) -> bool:
    return series.labels.get("envoy_response_code_class") == "5"


def _is_grpc(series: Series) -> bool:
    return series.labels.get("tidegate_protocol") == "grpc"


def _is_grpc_failure(series: Series) -> bool:
    return series.labels.get("envoy_grpc_status") in GRPC_FAILURES
