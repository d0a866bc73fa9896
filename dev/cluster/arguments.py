"""Command lines of the daemons, as pure functions of addresses and folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dev.cluster.settings import CLUSTER_DOMAIN, NODE_NAME, Network

ISSUER = f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}"


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """What etcd and the API server need to know of each other and of the world."""

    address: str
    api_port: int
    etcd_port: int
    etcd_peer_port: int
    folder: Path
    """Holds `pki/` and etcd's data."""
    service_range: str
    advertised: bool
    """Whether the Service `kubernetes` leads here; a loopback address cannot be published."""

    @property
    def pki(self) -> Path:
        """Where the certificates lie."""
        return self.folder / "pki"

    @property
    def url(self) -> str:
        """Where the API server answers."""
        return f"https://{self.address}:{self.api_port}"


def etcd_arguments(plan: ControlPlane) -> list[str]:
    """Run etcd on loopback; a lost write costs nothing here, so it need not wait for the disk."""
    client = f"http://127.0.0.1:{plan.etcd_port}"
    peer = f"http://127.0.0.1:{plan.etcd_peer_port}"
    return [
        "--name=tidegate",
        f"--data-dir={plan.folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=tidegate={peer}",
        "--unsafe-no-fsync",
        "--quota-backend-bytes=4294967296",
        "--auto-compaction-mode=periodic",
        "--auto-compaction-retention=10m",
        "--logger=zap",
        "--log-level=warn",
    ]


def apiserver_arguments(plan: ControlPlane) -> list[str]:
    """Run the API server with the admission plugins and authorizers of a normal cluster."""
    pki = plan.pki
    return [
        f"--bind-address={plan.address}",
        f"--secure-port={plan.api_port}",
        f"--advertise-address={plan.address}",
        f"--endpoint-reconciler-type={'lease' if plan.advertised else 'none'}",
        f"--etcd-servers=http://127.0.0.1:{plan.etcd_port}",
        f"--service-cluster-ip-range={plan.service_range}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--enable-aggregator-routing=true",
        "--allow-privileged=true",
        "--profiling=false",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={pki / 'service-account.pub'}",
        f"--service-account-signing-key-file={pki / 'service-account.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={pki / 'front-proxy-client.crt'}",
        f"--proxy-client-key-file={pki / 'front-proxy-client.key'}",
    ]


LIFTED_LIMITS = (
    "--kube-api-qps=500",
    "--kube-api-burst=1000",
    "--concurrent-deployment-syncs=20",
    "--concurrent-replicaset-syncs=20",
    "--concurrent-job-syncs=20",
    "--concurrent-service-endpoint-syncs=20",
    "--concurrent-endpoint-syncs=20",
    "--concurrent-gc-syncs=40",
)


def controller_manager_arguments(kubeconfig: Path, pki: Path, network: Network, *, lift_limits: bool) -> list[str]:
    """Run the controllers; `lift_limits` takes the client's limits away, for benchmarks."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        "--controllers=*,-node-ipam-controller",
        f"--cluster-cidr={network.pods}",
        f"--service-cluster-ip-range={network.services}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        f"--service-account-private-key-file={pki / 'service-account.key'}",
        f"--requestheader-client-ca-file={pki / 'front-proxy-ca.crt'}",
        "--profiling=false",
        *(LIFTED_LIMITS if lift_limits else ()),
    ]


def scheduler_arguments(kubeconfig: Path) -> list[str]:
    """Run the scheduler with its default profile."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--profiling=false",
    ]


def volumes_arguments(kubeconfig: Path, root: Path) -> list[str]:
    """Run the program of our own that gives each volume claim a folder."""
    return [f"--kubeconfig={kubeconfig}", f"--root={root}", f"--node={NODE_NAME}"]


def kubelet_arguments(config: Path, kubeconfig: Path, root: Path, network: Network) -> list[str]:
    """Run the kubelet; its root folder and its address are no part of its configuration file."""
    return [
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        f"--root-dir={root}",
        f"--node-ip={network.node_address}",
        f"--hostname-override={NODE_NAME}",
        "--node-labels=node.kubernetes.io/tidegate=local",
    ]
