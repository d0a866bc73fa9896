"""Records once a second what the users and the versions see, for the table, the picture and the summary."""

import threading
import time
from dataclasses import dataclass, field
from datetime import datetime

from dev.demo.kube import Kube, Object

WINDOW = "5s"
QUERIES = {
    "rate": f"sum by (tidegate_version) (rate(demo_requests_total[{WINDOW}]))",
    # A version without an error has no series of errors: its answers times zero stand in.
    "errors": (
        f'(sum by (tidegate_version) (rate(demo_requests_total{{result!="ok"}}[{WINDOW}]))'
        f" or 0 * sum by (tidegate_version) (rate(demo_requests_total[{WINDOW}])))"
        f" / sum by (tidegate_version) (rate(demo_requests_total[{WINDOW}]))"
    ),
    "latency": (
        f"1000 * histogram_quantile(0.99, sum by (tidegate_version, le) (rate(demo_request_seconds_bucket[{WINDOW}])))"
    ),
    "accuracy": (
        f"sum by (tidegate_version) (rate(tidegate_outcomes_positive_total[{WINDOW}]))"
        f" / sum by (tidegate_version) (rate(tidegate_outcomes_total[{WINDOW}]))"
    ),
    "requests": "sum by (tidegate_version) (demo_requests_total)",
    "failed": 'sum by (tidegate_version) (demo_requests_total{result!="ok"})',
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One second: every value by version."""

    at: float
    """Seconds since the recording began."""
    weights: dict[str, float]
    """Confirmed share of the traffic in percent."""
    series: dict[str, dict[str, float]]
    """Value by query of ``QUERIES`` and by version."""


@dataclass(slots=True)
class Recording:
    """What has been seen so far."""

    begin: float = field(default_factory=time.time)
    samples: list[Sample] = field(default_factory=list)
    decisions: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    """Decisions of the operator by time, action and reason."""

    @property
    def latest(self) -> Sample | None:
        """The newest sample."""
        return self.samples[-1] if self.samples else None

    def seconds(self, timestamp: str) -> float:
        """Convert an RFC 3339 time to seconds since the recording began."""
        return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp() - self.begin


def shares(status: Object) -> dict[str, float]:
    """Return the confirmed share of each version in a Deployment's status."""
    versions = [status.get(role) for role in ("stable", "canary")]
    return {version["modelVersion"]: float(version.get("percent") or 0) for version in versions if version}


class Recorder:
    """Samples a Deployment and Prometheus in a thread of its own."""

    def __init__(self, kube: Kube, deployment: str) -> None:
        self._kube = kube
        self._deployment = deployment
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self.recording = Recording()

    def start(self) -> None:
        """Begin to record."""
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample and end."""
        self._stop.set()
        self._thread.join(timeout=15)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._sample()
            self._stop.wait(1)
        self._sample()

    def _sample(self) -> None:
        found = self._kube.get("Deployment", self._deployment) or {}
        status: Object = found.get("status") or {}
        for decision in status.get("decisions") or []:
            self.recording.decisions[decision["at"], decision["action"], decision["reason"]] = decision
        series = {name: self._kube.prometheus(query) for name, query in QUERIES.items()}
        self.recording.samples.append(Sample(time.time() - self.recording.begin, shares(status), series))
