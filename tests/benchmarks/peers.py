"""Release controllers that the benchmarks compare with, run from their pinned Go modules against the local cluster.

They run as processes beside the node, as an administrator of their own, so that the API server can tell their requests
from everybody else's.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml
from kubernetes import client

from dev.cluster.daemons import Options
from dev.cluster.golang import ARGO_ROLLOUTS, FLAGGER, GoModule, ensure_program, needed_version, source_folder
from dev.cluster.node import Node
from dev.cluster.processes import Daemon
from dev.cluster.settings import find_folders, find_network
from dev.demo.kube import SYSTEM
from tests.benchmarks.bench import Bench, parse_series, poll, sum_series

NAMESPACE = "bench-peers"
PRECEDENCE = 50
"""Before the API server's own rules for service accounts, after those for its own parts."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One controller and where its objects are described."""

    name: str
    module: GoModule
    source: str
    """Go module that it is a part of."""
    manifests: Mapping[str, tuple[str, ...]]
    """Go module → files in it with the CRDs."""
    arguments: tuple[str, ...]
    metrics_port: int

    @property
    def version(self) -> str:
        """The version that `go.mod` pins."""
        return needed_version(self.module, self.source)


ARGO = Peer(
    "argo-rollouts",
    ARGO_ROLLOUTS,
    "github.com/argoproj/argo-rollouts",
    {
        "github.com/argoproj/argo-rollouts": tuple(
            f"manifests/crds/{kind}-crd.yaml"
            for kind in ("rollout", "experiment", "analysis-run", "analysis-template", "cluster-analysis-template")
        )
    },
    ("--leader-elect=false", "--metricsPort=18090", "--healthzPort=18091"),
    18090,
)
ARGO_LIFTED = ("--qps=500", "--burst=1000")
FLAGGER_CONTROLLER = Peer(
    "flagger",
    FLAGGER,
    "github.com/fluxcd/flagger",
    {
        "github.com/fluxcd/flagger": ("artifacts/flagger/crd.yaml",),
        "sigs.k8s.io/gateway-api": (
            "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
            "config/crd/standard/gateway.networking.k8s.io_gateways.yaml",
        ),
    },
    ("-mesh-provider=gatewayapi:v1", "-log-level=info", "-port=18092"),
    18092,
)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a controller has used since it was started."""

    requests: float
    """Requests to the API server, counted by the API server."""
    cpu: float
    """Seconds of processor time."""
    memory: float
    """Bytes that are resident now."""

    def __sub__(self, before: "Usage") -> "Usage":
        """Return what was used since; memory is no sum and stays."""
        return Usage(self.requests - before.requests, self.cpu - before.cpu, self.memory)

    def __add__(self, other: "Usage") -> "Usage":
        """Return what two processes used together."""
        return Usage(self.requests + other.requests, self.cpu + other.cpu, self.memory + other.memory)


@contextmanager
def counted(bench: Bench, account: str, namespace: str) -> Iterator[None]:
    """Let the API server count the requests of a service account under a rule of its own."""
    name = _flow(account)
    bench.kube.apply(
        {
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
            "kind": "FlowSchema",
            "metadata": {"name": name},
            "spec": {
                "priorityLevelConfiguration": {"name": "workload-low"},
                "matchingPrecedence": PRECEDENCE,
                "rules": [
                    {
                        "subjects": [
                            {"kind": "ServiceAccount", "serviceAccount": {"name": account, "namespace": namespace}}
                        ],
                        "resourceRules": [
                            {
                                "verbs": ["*"],
                                "apiGroups": ["*"],
                                "resources": ["*"],
                                "namespaces": ["*"],
                                "clusterScope": True,
                            }
                        ],
                    }
                ],
            },
        }
    )
    try:
        yield
    finally:
        bench.kube.delete("FlowSchema", name, api_version="flowcontrol.apiserver.k8s.io/v1")


def count_requests(bench: Bench, account: str) -> float:
    """Return how many requests of a counted service account the API server has served."""
    text = bench.kube.get_text("/metrics")
    wanted = f'flow_schema="{_flow(account)}"'
    return sum(
        value
        for series, value in parse_series(text)
        if series.startswith("apiserver_flowcontrol_dispatched_requests_total{") and wanted in series
    )


def _flow(account: str) -> str:
    return f"bench-{account}"


def own_usage(bench: Bench) -> Usage:
    """Return what the operator and the router's control plane have used together."""
    parts = {"operator": 8080, "router": 18001}
    return sum((_pod_usage(bench, part, port) for part, port in parts.items()), Usage(0, 0, 0))


def _pod_usage(bench: Bench, component: str, port: int) -> Usage:
    series = bench.pod_metrics(component, port)
    return _usage(count_requests(bench, f"tidegate-{component}"), series)


def _usage(requests: float, series: Mapping[str, float]) -> Usage:
    return Usage(requests, series["process_cpu_seconds_total"], series["process_resident_memory_bytes"])


@contextmanager
def own_requests_counted(bench: Bench) -> Iterator[None]:
    """Count the requests of the operator and of the router's control plane."""
    with counted(bench, "tidegate-operator", SYSTEM), counted(bench, "tidegate-router", SYSTEM):
        yield


class RunningPeer:
    """A peer's process."""

    def __init__(self, bench: Bench, peer: Peer, address: str) -> None:
        """Keep what is needed to ask for its figures."""
        self._bench = bench
        self._peer = peer
        self._address = address

    def usage(self) -> Usage:
        """Return what it has used since it was started."""
        answer = httpx.get(f"http://{self._address}:{self._peer.metrics_port}/metrics", timeout=30)
        return _usage(count_requests(self._bench, self._peer.name), sum_series(answer.raise_for_status().text))


@contextmanager
def running(bench: Bench, peer: Peer, arguments: tuple[str, ...] = ()) -> Iterator[RunningPeer]:
    """Run a peer on the local cluster; its CRDs and its process are gone at the end."""
    node = Node(find_folders(), find_network(), Options())
    (program,) = peer.module.programs
    path = ensure_program(node.folders, peer.module, program)
    manifests = _read_manifests(peer)
    bench.kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for manifest in manifests:
        bench.kube.apply(manifest)
    with tempfile.TemporaryDirectory() as folder, counted(bench, peer.name, NAMESPACE):
        kubeconfig = Path(folder) / "kubeconfig"
        kubeconfig.write_text(_render_kubeconfig(bench, _make_administrator(bench, peer.name)))
        words = (str(path), f"--kubeconfig={kubeconfig}", *peer.arguments, *arguments)
        node.supervisor.ensure(Daemon(peer.name, words))
        try:
            found = RunningPeer(bench, peer, node.network.node_address)
            poll(lambda: _answers(found), f"{peer.name} answers; see {node.supervisor.log(peer.name)}", 60)
            yield found
        finally:
            node.supervisor.stop(peer.name)
            for manifest in manifests:
                name = manifest["metadata"]["name"]
                bench.kube.delete(manifest["kind"], name, api_version=manifest["apiVersion"])
            bench.kube.delete("ClusterRoleBinding", _flow(peer.name), api_version="rbac.authorization.k8s.io/v1")
            bench.kube.delete("Namespace", NAMESPACE, api_version="v1")
            bench.kube.wait_gone("Namespace", NAMESPACE, timeout=120, api_version="v1")


def _answers(peer: RunningPeer) -> bool:
    try:
        return peer.usage().cpu > 0
    except httpx.HTTPError:
        return False


def _read_manifests(peer: Peer) -> list[dict[str, object]]:
    paths = [source_folder(peer.module, module) / file for module, files in peer.manifests.items() for file in files]
    return [document for path in paths for document in yaml.safe_load_all(path.read_text()) if document]


def _make_administrator(bench: Bench, name: str) -> str:
    """Make a service account that may do everything, and return a token for it."""
    bench.kube.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}})
    bench.kube.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": _flow(name)},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
        }
    )
    request = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=7200))
    answer = bench.kube.core().create_namespaced_service_account_token(name, NAMESPACE, request)
    return str(answer.status.token)


def _render_kubeconfig(bench: Bench, token: str) -> str:
    """Render the administrator's kubeconfig with another user."""
    found = yaml.safe_load(bench.installed.kubeconfig.read_text())
    for user in found["users"]:
        user["user"] = {"token": token}
    return yaml.safe_dump(found)
