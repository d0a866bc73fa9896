"""Objects that every cluster has: CoreDNS with its rights and its Service, and a storage class."""

from __future__ import annotations

from typing import Any

import yaml

from dev.cluster.settings import CLUSTER_DOMAIN, Network

LABELS = {"k8s-app": "kube-dns"}
RBAC = "rbac.authorization.k8s.io"


def render_corefile(*, forward: bool) -> str:
    """Render CoreDNS's configuration; without a name server to forward to, only the cluster's names exist."""
    upstream = "    forward . /etc/resolv.conf {\n        max_concurrent 1000\n    }\n"
    return f"""\
.:53 {{
    errors
    health {{
        lameduck 1s
    }}
    ready
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }}
    prometheus :9153
{upstream if forward else ""}    cache 5
    loop
    reload
    loadbalance
}}
"""


def build_addons(network: Network, image: str, *, forward_dns: bool) -> list[dict[str, Any]]:
    """Build all objects, in the order in which they can be applied."""
    return [
        *_coredns_rights(),
        _object("v1", "ConfigMap", "coredns", data={"Corefile": render_corefile(forward=forward_dns)}),
        _coredns_deployment(image),
        _coredns_service(network),
        _storage_class(),
    ]


def render_addons(network: Network, image: str, *, forward_dns: bool) -> str:
    """The objects as YAML documents."""
    return yaml.safe_dump_all(build_addons(network, image, forward_dns=forward_dns), sort_keys=False)


def _storage_class() -> dict[str, Any]:
    """The default class, under the name that it has in kind; `dev/go/volumes` provides its volumes."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": "standard",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "tidegate.local/folder",
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def _object(version: str, kind: str, name: str, *, namespaced: bool = True, **rest: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": dict(LABELS)}
    if namespaced:
        metadata["namespace"] = "kube-system"
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def _coredns_rights() -> list[dict[str, Any]]:
    watch = ["list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": watch},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": watch},
    ]
    name = "system:coredns"
    role = {"apiGroup": RBAC, "kind": "ClusterRole", "name": name}
    subject = {"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}
    return [
        _object("v1", "ServiceAccount", "coredns"),
        _object(f"{RBAC}/v1", "ClusterRole", name, namespaced=False, rules=rules),
        _object(f"{RBAC}/v1", "ClusterRoleBinding", name, namespaced=False, roleRef=role, subjects=[subject]),
    ]


def _coredns_deployment(image: str) -> dict[str, Any]:
    pod = {
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "tolerations": [{"key": "CriticalAddonsOnly", "operator": "Exists"}],
        "containers": [_coredns_container(image)],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": LABELS},
        "template": {"metadata": {"labels": LABELS}, "spec": pod},
    }
    return _object("apps/v1", "Deployment", "coredns", spec=spec)


def _coredns_container(image: str) -> dict[str, Any]:
    return {
        "name": "coredns",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
            {"name": "metrics", "containerPort": 9153, "protocol": "TCP"},
        ],
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "170Mi"}},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "initialDelaySeconds": 30},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }


def _coredns_service(network: Network) -> dict[str, Any]:
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        {"name": "metrics", "port": 9153, "protocol": "TCP"},
    ]
    spec = {"clusterIP": network.dns_service, "selector": LABELS, "ports": ports}
    return _object("v1", "Service", "kube-dns", spec=spec)
