"""Where things lie, which versions are built and which addresses the node uses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from dev.cluster.errors import ClusterError

REPOSITORY = Path(__file__).resolve().parents[2]
KUBERNETES_VERSION = "v1.34.4"
NODE_NAME = "tidegate"
CLUSTER_DOMAIN = "cluster.local"
CONTAINERD_NAMESPACE = "k8s.io"
CNI_PLUGINS = Path("/usr/lib/cni")
DEFAULT_NETWORK = IPv4Network("10.213.0.0/16")
DEFAULT_NAME = "tidegate"
LONGEST_SOCKET_PATH = 107
LONGEST_NAME = 14
"""The kernel takes 15 letters for a network link, and one is ours."""


@dataclass(frozen=True, slots=True)
class Folders:
    """The two folders of this tool: one that survives `down`, one that does not."""

    cache: Path
    """Built programs, images and package downloads; safe to delete when the cluster is down."""
    state: Path
    """The running cluster: certificates, kubeconfig, process records and logs."""
    name: str = DEFAULT_NAME
    """Of the cluster; another name is another cluster beside this one."""

    @property
    def bin(self) -> Path:
        """Links to kubectl, helm and the other programs, for a PATH."""
        return self.state / "bin"

    @property
    def containerd_root(self) -> Path:
        """Containerd's images; in the cache, so that a loaded image is loaded once."""
        suffix = "" if self.name == DEFAULT_NAME else f"-{self.name}"
        return self.cache / f"containerd{suffix}"

    @property
    def daemons(self) -> Path:
        """One JSON record for each process that was started."""
        return self.state / "daemons"

    @property
    def logs(self) -> Path:
        """One log file for each daemon."""
        return self.state / "logs"

    @property
    def node(self) -> Path:
        """Everything of the running node; the only folder that mounts may lie under."""
        return self.state / "node"

    @property
    def pki(self) -> Path:
        """Keys and certificates of the running cluster."""
        return self.node / "pki"

    @property
    def config(self) -> Path:
        """Rendered configuration files of the daemons."""
        return self.node / "config"

    @property
    def containerd_socket(self) -> Path:
        """Where containerd listens."""
        return self.node / "containerd" / "containerd.sock"

    @property
    def network_namespace(self) -> Path:
        """The file that the node's network namespace is bound to."""
        return self.node / "network"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state / "kubeconfig"


@dataclass(frozen=True, slots=True)
class Network:
    """Addresses of the node, its pods and its Services, all within one /16 network.

    The node lives in a network namespace of its own, so that its iptables rules and ports never
    meet those of the machine; a veth pair joins the two.
    """

    everything: IPv4Network = DEFAULT_NETWORK
    name: str = DEFAULT_NAME
    link_prefix: int = 24
    api_port: int = 6443

    @property
    def host_link(self) -> str:
        """The machine's end of the veth pair."""
        return f"{self.name}0"

    @property
    def pods(self) -> IPv4Network:
        """One address for each pod."""
        return IPv4Network((self.everything.network_address, 19))

    @property
    def services(self) -> IPv4Network:
        """One address for each Service."""
        return IPv4Network((self.everything[32 * 256], 19))

    @property
    def host_address(self) -> str:
        """The machine, as the node and its pods see it."""
        return str(self.everything[64 * 256 + 1])

    @property
    def node_address(self) -> str:
        """The node, for NodePorts and the API server."""
        return str(self.everything[64 * 256 + 2])

    @property
    def kubernetes_service(self) -> str:
        """The address that the API server gives to the Service `kubernetes`."""
        return str(self.services[1])

    @property
    def dns_service(self) -> str:
        """The address of the Service of CoreDNS, which every kubelet must know beforehand."""
        return str(self.services[10])

    @property
    def api_url(self) -> str:
        """Where the API server answers, on the host and in pods alike."""
        return f"https://{self.node_address}:{self.api_port}"


def check_socket_path(folders: Folders) -> None:
    """Refuse a state folder so deep that the kernel would not take the paths of sockets in it."""
    longest = f"{folders.containerd_socket}.ttrpc"
    if len(longest) > LONGEST_SOCKET_PATH:
        raise ClusterError(
            f"{folders.state}: the path is {len(longest) - LONGEST_SOCKET_PATH} letters too long "
            "for the sockets in it: set TIDEGATE_STATE to a shorter one"
        )


def find_name(environ: Mapping[str, str] = os.environ) -> str:
    """The name of the cluster: `TIDEGATE_NAME` makes a second one, which needs a network of its own."""
    name = environ.get("TIDEGATE_NAME") or DEFAULT_NAME
    if not name.isalnum() or len(name) > LONGEST_NAME:
        raise ClusterError(f"TIDEGATE_NAME: {name!r} is not of at most {LONGEST_NAME} letters and digits")
    return name


def find_network(environ: Mapping[str, str] = os.environ) -> Network:
    """The default addresses, or those within the /16 that `TIDEGATE_NETWORK` names."""
    name = find_name(environ)
    text = environ.get("TIDEGATE_NETWORK")
    if not text:
        return Network(name=name)
    try:
        everything = IPv4Network(text)
    except ValueError as error:
        raise ClusterError(f"TIDEGATE_NETWORK: {error}") from error
    if everything.prefixlen != 16:
        raise ClusterError(f"TIDEGATE_NETWORK: {text} is not a /16 network, such as 10.99.0.0/16")
    return Network(everything=everything, name=name)


def find_folders(environ: Mapping[str, str] = os.environ) -> Folders:
    """Follow the XDG variables; `TIDEGATE_CACHE` and `TIDEGATE_STATE` move one folder alone."""
    home = Path(environ.get("HOME") or Path.home())
    cache = environ.get("XDG_CACHE_HOME") or home / ".cache"
    state = environ.get("XDG_STATE_HOME") or home / ".local" / "state"
    name = find_name(environ)
    folder = "cluster" if name == DEFAULT_NAME else f"cluster-{name}"
    return Folders(
        cache=Path(environ.get("TIDEGATE_CACHE") or Path(cache) / "tidegate"),
        state=Path(environ.get("TIDEGATE_STATE") or Path(state) / "tidegate" / folder),
        name=name,
    )
