"""Prometheus series of the control plane itself."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

__all__ = ["RouterMetrics"]

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class RouterMetrics:
    """The series, in a registry of their own so that two control planes fit into one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.connected = Gauge("tidegate_router_connected_proxies", "Proxies connected now", registry=self.registry)
        self.routes = Gauge("tidegate_router_routes", "Routes that are served", registry=self.registry)
        self.pushes = Counter(
            "tidegate_router_pushes_total", "Configurations sent to proxies", ["type"], registry=self.registry
        )
        self.refusals = Counter(
            "tidegate_router_refusals_total", "Configurations that a proxy refused", ["type"], registry=self.registry
        )
        self.acknowledgement = Histogram(
            "tidegate_router_acknowledgement_seconds",
            "Time from sending a configuration to its acknowledgement",
            ["type"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.patches = Counter(
            "tidegate_router_status_patches_total", "Writes of Route.status", ["outcome"], registry=self.registry
        )
        self.relists = Counter(
            "tidegate_router_relists_total", "Complete listings of a watched kind", ["kind"], registry=self.registry
        )
        self.build = Histogram(
            "tidegate_router_build_seconds",
            "Time to build the configuration after a change",
            buckets=_SECONDS,
            registry=self.registry,
        )
