"""Kubeconfig files that carry their certificates inside, so that they can be copied."""

from __future__ import annotations

import base64
from pathlib import Path

import yaml

CONTEXT = "tidegate"


def render_kubeconfig(server: str, pki: Path, certificate: str) -> str:
    """Render a kubeconfig for the holder of a client certificate."""
    cluster = {"server": server, "certificate-authority-data": _encode(pki / "ca.crt")}
    user = {
        "client-certificate-data": _encode(pki / f"{certificate}.crt"),
        "client-key-data": _encode(pki / f"{certificate}.key"),
    }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": CONTEXT,
        "clusters": [{"name": CONTEXT, "cluster": cluster}],
        "users": [{"name": certificate, "user": user}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": certificate}}],
    }
    return yaml.safe_dump(document, sort_keys=False)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, unless it already has this content.

    Daemons that watch their files, such as kube-proxy, end when one is merely written again.
    """
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text)


def _encode(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
