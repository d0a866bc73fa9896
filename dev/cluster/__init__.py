"""A real single-node Kubernetes out of upstream parts, started and stopped by one command.

    python -m dev.cluster up | down | status | load | logs | kubeconfig | env | images | kwok | push

As root, the control plane, the kubelet and kube-proxy are built from their Go modules (`dev/go/`, each
with a pinned `go.mod`), containerd and runc come from Debian, and the images from Dockerfiles on a base
of Debian packages: no image registry is needed. Without root, and with Docker, the same commands use
kind; `CLUSTER=current` uses the cluster of the kubeconfig in force.

The node lives in a network namespace of its own, all its mounts lie under the state folder, and all its
pods under one control group. So whatever is left of a killed run can be recognised for certain: `up`
repairs it and keeps the cluster's objects, or makes the node anew where that is not possible; `down`
removes it. Images outlive the cluster in the cache folder.

Variables: CLUSTER (node, kind, current); TIDEGATE_CACHE and TIDEGATE_STATE (folders); TIDEGATE_NETWORK
(a /16 network, when the default one is taken); TIDEGATE_NAME (a second cluster beside the first, which
needs a network of its own).
"""
