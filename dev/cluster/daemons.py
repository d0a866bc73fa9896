"""The daemons of the node: their names, their order, and what each is started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dev.cluster import arguments, config
from dev.cluster.arguments import ControlPlane
from dev.cluster.errors import ClusterError
from dev.cluster.images import reference
from dev.cluster.kubeconfig import render_kubeconfig, write_private
from dev.cluster.network import usable_nameservers
from dev.cluster.processes import Daemon
from dev.cluster.settings import Folders, Network
from dev.cluster.shell import find_program

FOUNDATION = ("etcd", "kube-apiserver", "containerd")
WORKERS = ("kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "volumes")
"""They need a working foundation when they start."""
DAEMONS = (*FOUNDATION, *WORKERS)
RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


@dataclass(frozen=True, slots=True)
class Options:
    """What a person can choose at `up`."""

    lift_limits: bool = False
    """Let kube-controller-manager send as many requests as it likes, for benchmarks."""


def write_files(folders: Folders, network: Network) -> None:
    """Write kubeconfigs and configuration files; those that differ make their daemon start again."""
    for name in ("controller-manager", "scheduler", "proxy", "kubelet-client"):
        text = render_kubeconfig(network.api_url, folders.pki, name)
        write_private(folders.config / f"{name}.kubeconfig", text)
    write_private(folders.kubeconfig, render_kubeconfig(network.api_url, folders.pki, "admin"))
    texts = {
        "containerd.toml": config.render_containerd(folders, reference("pause"), locate("runc", {})),
        "cni/10-tidegate.conflist": config.render_cni(folders, network),
        "kubelet.yaml": config.render_kubelet(folders, network),
        "proxy.yaml": config.render_proxy(folders.config / "proxy.kubeconfig", network),
        "resolv.conf": config.render_resolv_conf(find_nameservers()),
    }
    for name, text in texts.items():
        write_private(folders.config / name, text)


def plan_daemons(
    folders: Folders, network: Network, options: Options, programs: Mapping[str, Path]
) -> dict[str, Daemon]:
    """Put together program, arguments and configuration files of every daemon."""
    configs = folders.config
    inputs = {
        "containerd": (configs / "containerd.toml",),
        "kube-proxy": (configs / "proxy.yaml",),
        "kubelet": (configs / "kubelet.yaml",),
    }
    words = _arguments(folders, network, options)
    return {name: Daemon(name, (locate(name, programs), *words[name]), inputs.get(name, ())) for name in DAEMONS}


def _arguments(folders: Folders, network: Network, options: Options) -> dict[str, list[str]]:
    configs, plan = folders.config, _control_plane(folders, network)
    return {
        "etcd": arguments.etcd_arguments(plan),
        "kube-apiserver": arguments.apiserver_arguments(plan),
        "containerd": [f"--config={configs / 'containerd.toml'}"],
        "kube-controller-manager": arguments.controller_manager_arguments(
            configs / "controller-manager.kubeconfig",
            folders.pki,
            network,
            lift_limits=options.lift_limits,
        ),
        "kube-scheduler": arguments.scheduler_arguments(configs / "scheduler.kubeconfig"),
        "kube-proxy": [f"--config={configs / 'proxy.yaml'}"],
        "kubelet": arguments.kubelet_arguments(
            configs / "kubelet.yaml", configs / "kubelet-client.kubeconfig", folders.node / "kubelet", network
        ),
        "volumes": arguments.volumes_arguments(folders.kubeconfig, folders.node / "volumes"),
    }


def _control_plane(folders: Folders, network: Network) -> ControlPlane:
    return ControlPlane(
        address=network.node_address,
        api_port=network.api_port,
        etcd_port=2379,
        etcd_peer_port=2380,
        folder=folders.node,
        service_range=str(network.services),
        advertised=True,
    )


def locate(name: str, programs: Mapping[str, Path]) -> str:
    """The path of a program that was built, or of one of the machine's."""
    found = programs.get(name) or find_program(name)
    if found is None:
        raise ClusterError(f"{name} is not installed")
    return str(found)


def find_nameservers() -> list[str]:
    """The name servers that CoreDNS forwards to."""
    return usable_nameservers(path.read_text() for path in RESOLV_CONF if path.exists())
