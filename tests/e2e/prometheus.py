"""A Prometheus behind a login, beside the one of the chart: a pod with its Service."""

from base64 import b64encode
from dataclasses import dataclass

import yaml

from dev.demo.kube import SYSTEM, Kube, Object, is_ready_pod
from tests.e2e.objects import pod, service

NAME = "guarded"
PORT = 9090
USERNAME, PASSWORD = "tidegate", "open-sesame"
HASH = "$2b$04$abcdefghijklmnopqrstuuXcjcm5avyCiJoD2uS24xa2lb6fjMB3G"
"""Of the password, by bcrypt at its lowest cost."""


@dataclass(frozen=True, slots=True)
class GuardedPrometheus:
    """Reads the proxies of Tidegate every second, and answers only those who log in."""

    kube: Kube
    image: str
    namespace: str

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{NAME}.{self.namespace}:{PORT}"

    def start(self) -> "GuardedPrometheus":
        """Start the pod and wait until it answers who logs in."""
        proxies = [found["status"]["podIP"] for found in self.kube.pods("app.kubernetes.io/component=envoy", SYSTEM)]
        self.kube.apply(self._configuration(proxies))
        self.kube.apply(self._pod())
        self.kube.apply(service(self.namespace, NAME, PORT))
        self.kube.wait("Pod", NAME, is_ready_pod, timeout=60, namespace=self.namespace, api_version="v1", what="ready")
        return self

    def _configuration(self, proxies: list[str]) -> Object:
        documents = configure(proxies)
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": self.namespace},
            "data": {name: yaml.safe_dump(each) for name, each in documents.items()},
        }

    def _pod(self) -> Object:
        login = b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
        headers = [{"name": "Authorization", "value": f"Basic {login}"}]
        container = {
            "image": self.image,
            "command": ["prometheus"],
            "args": [
                "--config.file=/etc/prometheus/prometheus.yml",
                "--web.config.file=/etc/prometheus/web.yml",
                f"--web.listen-address=0.0.0.0:{PORT}",
                "--storage.tsdb.path=/prometheus",
            ],
            "readinessProbe": {
                "httpGet": {"path": "/-/ready", "port": PORT, "httpHeaders": headers},
                "periodSeconds": 1,
            },
            "volumeMounts": [
                {"name": "configuration", "mountPath": "/etc/prometheus", "readOnly": True},
                {"name": "data", "mountPath": "/prometheus"},
            ],
        }
        volumes = [{"name": "configuration", "configMap": {"name": NAME}}, {"name": "data", "emptyDir": {}}]
        return pod(self.namespace, NAME, container, volumes=volumes)


def configure(proxies: list[str]) -> dict[str, Object]:
    """Make the files of its configuration."""
    targets = [{"targets": [f"{address}:9901" for address in proxies]}]
    job = {"job_name": "envoy", "metrics_path": "/stats/prometheus", "honor_labels": True, "static_configs": targets}
    every = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    return {
        "prometheus.yml": {"global": every, "scrape_configs": [job]},
        "web.yml": {"basic_auth_users": {USERNAME: HASH}},
    }
