"""Users of a Deployment, as a pod, and what they have seen."""

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from dev.demo.kube import Kube, Object, is_ready_pod
from tests.e2e.objects import pod


@dataclass(frozen=True, slots=True)
class Seen:
    """What the users have seen so far."""

    answered: dict[str, float]
    """Good answers by version."""
    failed: dict[str, float]
    """Error answers by version; under "none" the requests that no version answered."""
    first_bad: dict[str, float]
    """Unix time of the first error answer by version."""

    @property
    def total(self) -> float:
        """All requests."""
        return sum(self.answered.values()) + sum(self.failed.values())


@dataclass(frozen=True, slots=True)
class Load:
    """A pod that sends requests at an even rate."""

    kube: Kube
    image: str
    namespace: str
    deployment: str
    rate: float = 40
    protocol: str = "http"
    """What the users speak: http or grpc."""
    users: int = 2000
    """How many different users there are."""

    @property
    def name(self) -> str:
        """Name of the pod."""
        return f"load-{self.deployment}"[:63]

    def start(self) -> "Load":
        """Start the pod and wait for the first requests."""
        self.kube.apply(self._pod())
        self.kube.wait(
            "Pod", self.name, is_ready_pod, timeout=60, namespace=self.namespace, api_version="v1", what="running"
        )
        return self

    def seen(self) -> Seen:
        """Read the pod's counters."""
        text = self.kube.core().connect_get_namespaced_pod_proxy_with_path(
            f"{self.name}:9100", self.namespace, "metrics"
        )
        answered: dict[str, float] = {}
        failed: dict[str, float] = {}
        first_bad: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                version = sample.labels.get("tidegate_version", "")
                if sample.name == "demo_requests_total":
                    kind = answered if sample.labels["result"] == "ok" else failed
                    kind[version] = kind.get(version, 0) + sample.value
                elif sample.name == "demo_first_failure_timestamp_seconds":
                    first_bad[version] = sample.value
        return Seen(answered, failed, first_bad)

    def stop(self) -> Seen:
        """Read the counters a last time and end the pod."""
        seen = self.seen()
        self.kube.delete("Pod", self.name, self.namespace, "v1", gracePeriodSeconds=1)
        return seen

    def _pod(self) -> Object:
        endpoint = f"{self.deployment}.{self.namespace}:8000"
        arguments = ["--endpoint", endpoint, "--namespace", self.namespace, "--deployment", self.deployment]
        arguments += ["--protocol", self.protocol, "--rate", str(self.rate), "--positions", "500"]
        arguments += ["--users", str(self.users)]
        container = {
            "image": self.image,
            "command": ["python", "-m", "dev.demo.load", *arguments],
            "readinessProbe": {"tcpSocket": {"port": 9100}, "periodSeconds": 1},
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        }
        made = pod(self.namespace, self.name, container, volumes=[{"name": "tmp", "emptyDir": {}}])
        made["metadata"]["annotations"] = {"prometheus.io/scrape": "true", "prometheus.io/port": "9100"}
        return made
