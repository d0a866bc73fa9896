"""Keys and certificates of a cluster, made with the `openssl` program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dev.cluster.settings import CLUSTER_DOMAIN, NODE_NAME
from dev.cluster.shell import run

DAYS = 3650


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says; `authority` names the one that signs it."""

    name: str
    common_name: str
    organization: str = ""
    authority: str = "ca"
    usage: str = "clientAuth"
    names: tuple[str, ...] = field(default=())
    """Subject alternative names, such as `DNS:localhost` or `IP:127.0.0.1`."""


CLIENTS = (
    Certificate("admin", "tidegate-admin", "system:masters"),
    Certificate("controller-manager", "system:kube-controller-manager"),
    Certificate("scheduler", "system:kube-scheduler"),
    Certificate("proxy", "system:kube-proxy"),
    Certificate("kubelet-client", f"system:node:{NODE_NAME}", "system:nodes"),
    Certificate("apiserver-kubelet-client", "tidegate-apiserver", "system:masters"),
    Certificate("front-proxy-client", "front-proxy-client", authority="front-proxy-ca"),
)


def plan_certificates(addresses: Sequence[str]) -> tuple[Certificate, ...]:
    """Every certificate of a cluster whose API server answers under the given addresses."""
    api_names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    api_names += [f"kubernetes.default.svc.{CLUSTER_DOMAIN}", "localhost"]
    reachable = tuple(f"IP:{address}" for address in ("127.0.0.1", *addresses))
    domains = tuple(f"DNS:{name}" for name in api_names)
    return (
        *CLIENTS,
        Certificate("apiserver", "kube-apiserver", usage="serverAuth", names=domains + reachable),
        Certificate(
            "kubelet-server",
            f"system:node:{NODE_NAME}",
            "system:nodes",
            usage="serverAuth",
            names=(f"DNS:{NODE_NAME}", *reachable),
        ),
    )


def create_pki(folder: Path, addresses: Sequence[str]) -> None:
    """Write all keys and certificates as `NAME.key` and `NAME.crt`, and the token signing key."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "openssl.cnf").write_text("[req]\ndistinguished_name = subject\n[subject]\n")
    for name in ("ca", "front-proxy-ca"):
        _create_authority(folder, name)
    for certificate in plan_certificates(addresses):
        run(["openssl", *certificate_arguments(certificate)], cwd=folder)
    signing, public = "service-account.key", "service-account.pub"
    run(["openssl", "genpkey", "-algorithm", "RSA", "-out", signing], cwd=folder)
    run(["openssl", "pkey", "-in", signing, "-pubout", "-out", public], cwd=folder)


def _create_authority(folder: Path, name: str) -> None:
    extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
    run(["openssl", *_request(name, f"/CN=tidegate-{name}", extensions)], cwd=folder)


def certificate_arguments(certificate: Certificate) -> list[str]:
    """Arguments of `openssl` that make the key and the signed certificate in one call."""
    organization = f"/O={certificate.organization}" if certificate.organization else ""
    extensions = [
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        f"extendedKeyUsage={certificate.usage}",
    ]
    if certificate.names:
        extensions.append("subjectAltName=" + ",".join(certificate.names))
    request = _request(certificate.name, f"{organization}/CN={certificate.common_name}", extensions)
    authority = certificate.authority
    return [*request, "-CA", f"{authority}.crt", "-CAkey", f"{authority}.key"]


def _request(name: str, subject: str, extensions: Sequence[str]) -> list[str]:
    added = [word for extension in extensions for word in ("-addext", extension)]
    return [
        *("req", "-x509", "-config", "openssl.cnf", "-days", str(DAYS), "-nodes"),
        *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", subject, *added),
    ]
