"""Where the API server is and how to be let in: the pod's service account, or a kubeconfig."""

import base64
import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tidegate.errors import Stalled

__all__ = ["Credentials", "load_credentials"]

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Address of the API server, whom to trust, and who we are."""

    server: str
    ca_data: str | None = None
    """PEM of the certificate authority; the system's when None."""
    token: str | None = None
    token_path: Path | None = None
    """A file with a token that is replaced from time to time."""
    certificate: bytes | None = None
    """PEM of the client certificate."""
    private_key: bytes | None = None
    """PEM of its key."""
    insecure: bool = False
    namespace: str = "default"
    """Namespace of the pod, or of the kubeconfig's context."""

    def ssl_context(self) -> ssl.SSLContext | bool:
        """Build the TLS settings; the client certificate touches the disk for a moment, as Python's ssl demands."""
        if not self.server.startswith("https:"):
            return False
        context = ssl.create_default_context(cadata=self.ca_data)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate and self.private_key:
            with tempfile.NamedTemporaryFile(suffix=".pem") as file:
                file.write(self.certificate + b"\n" + self.private_key)
                file.flush()
                context.load_cert_chain(file.name)
        return context


def load_credentials() -> Credentials:
    """Take the pod's service account if there is one, else the kubeconfig in force.

    Raises:
        Stalled: There is neither.
    """
    if (ACCOUNT / "token").exists():
        return _from_service_account()
    path = Path(os.environ.get("KUBECONFIG", "").split(os.pathsep)[0] or "~/.kube/config").expanduser()
    if path.exists():
        return _from_kubeconfig(path)
    raise Stalled("NoCredentials", f"not in a pod, and {path} does not exist; set KUBECONFIG to a kubeconfig")


def _from_service_account() -> Credentials:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    address = f"[{host}]" if host and ":" in host else host
    return Credentials(
        server=f"https://{address}:{port}" if address else "https://kubernetes.default.svc",
        ca_data=(ACCOUNT / "ca.crt").read_text(),
        token_path=ACCOUNT / "token",
        namespace=(ACCOUNT / "namespace").read_text().strip(),
    )


def _from_kubeconfig(path: Path) -> Credentials:
    config = yaml.safe_load(path.read_text())
    context = _named(config, "contexts", "context", config.get("current-context"))
    cluster = _named(config, "clusters", "cluster", context.get("cluster"))
    user = _named(config, "users", "user", context.get("user"))
    if "exec" in user or "auth-provider" in user:
        raise Stalled("NoCredentials", f"{path}: only tokens and client certificates are supported outside a pod")
    authority = _pem(cluster, "certificate-authority", path)
    return Credentials(
        server=cluster["server"],
        ca_data=authority.decode() if authority else None,
        token=user.get("token"),
        token_path=Path(user["tokenFile"]) if user.get("tokenFile") else None,
        certificate=_pem(user, "client-certificate", path),
        private_key=_pem(user, "client-key", path),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        namespace=context.get("namespace", "default"),
    )


def _named(config: dict[str, Any], plural: str, singular: str, name: str | None) -> dict[str, Any]:
    for entry in config.get(plural) or ():
        if entry.get("name") == name:
            return dict(entry.get(singular) or {})
    raise Stalled("NoCredentials", f"the kubeconfig has no {singular} {name!r}")


def _pem(entry: dict[str, Any], field: str, path: Path) -> bytes | None:
    if entry.get(f"{field}-data"):
        return base64.b64decode(entry[f"{field}-data"])
    return (path.parent / entry[field]).read_bytes() if entry.get(field) else None
