"""Configuration files of containerd, CNI, the kubelet and kube-proxy, rendered from addresses and folders."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from dev.cluster.settings import CLUSTER_DOMAIN, CNI_PLUGINS, NODE_NAME, Folders, Network

CRI = 'plugins."io.containerd.grpc.v1.cri"'


def render_containerd(folders: Folders, sandbox_image: str, runc: str) -> str:
    """Render containerd's configuration.

    `restrict_oom_score_adj` is for machines without CAP_SYS_RESOURCE, where runc otherwise fails
    with "can't get final child's PID from pipe: EOF". All mounts stay under the state folder.
    """
    return f"""\
version = 2
root = "{folders.containerd_root}"
state = "{folders.containerd_socket.parent}"

[grpc]
address = "{folders.containerd_socket}"

[{CRI}]
sandbox_image = "{sandbox_image}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[{CRI}.cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = "{folders.config / "cni"}"

[{CRI}.containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[{CRI}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[{CRI}.containerd.runtimes.runc.options]
BinaryName = "{runc}"
Root = "{folders.node / "runc"}"
SystemdCgroup = false

[plugins."io.containerd.internal.v1.opt"]
path = "{folders.node / "opt"}"
"""


def render_cni(folders: Folders, network: Network) -> str:
    """Render the pod network: a routed link for each pod.

    With a bridge, packets between two pods of the node would pass by iptables, and so by the
    Services, unless the kernel has br_netfilter.
    """
    addresses = {
        "type": "host-local",
        "dataDir": str(folders.node / "cni"),
        "ranges": [[{"subnet": str(network.pods)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [
        {"type": "ptp", "ipMasq": False, "ipam": addresses},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return json.dumps({"cniVersion": "0.4.0", "name": "tidegate", "plugins": plugins}, indent=2)


def render_kubelet(folders: Folders, network: Network) -> str:
    """Render the kubelet's configuration.

    Images are never collected: they lie in the cache folder so that they outlive the cluster. The
    disk is not watched: on some virtual machines the kubelet cannot find the root device.
    """
    pki = folders.pki
    document: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{folders.containerd_socket}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / "kubelet-server.crt"),
        "tlsPrivateKeyFile": str(pki / "kubelet-server.key"),
        "address": network.node_address,
        "healthzBindAddress": "127.0.0.1",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{folders.name}",
        "clusterDNS": [network.dns_service],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(folders.config / "resolv.conf"),
        "podLogsDir": str(folders.node / "pod-logs"),
        "volumePluginDir": str(folders.node / "volume-plugins"),
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False,
        "maxPods": 250,
        "syncFrequency": "10s",
    }
    return yaml.safe_dump(document, sort_keys=False)


def render_proxy(kubeconfig: Path, network: Network) -> str:
    """Render kube-proxy's configuration; the connection tracking options are the machine's."""
    document = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "hostnameOverride": NODE_NAME,
        "mode": "iptables",
        "clusterCIDR": str(network.pods),
        "nodePortAddresses": [f"{network.node_address}/32"],
        "iptables": {"localhostNodePorts": False, "minSyncPeriod": "100ms"},
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    }
    return yaml.safe_dump(document, sort_keys=False)


def render_resolv_conf(nameservers: Iterable[str]) -> str:
    """Render the `resolv.conf` that CoreDNS forwards to."""
    return "".join(f"nameserver {each}\n" for each in nameservers)
