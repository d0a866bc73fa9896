"""Settings: from the environment, and a wrong one is named."""

import base64
from pathlib import Path

import pytest
import yaml

from tidegate.adapters import credentials
from tidegate.adapters.credentials import load_credentials
from tidegate.errors import Stalled
from tidegate.settings import load_settings


def test_defaults_and_empty_values_from_a_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROMETHEUS_URL", "MLFLOW_URL", "ARTIFACT_ROOT", "GPU_RUNTIME_CLASS", "WATCH_NAMESPACES", "NAMESPACE"):
        monkeypatch.setenv(f"TIDEGATE_{name}", "")
    settings = load_settings()
    assert settings.prometheus_url is None
    assert settings.watch_namespaces == ()
    assert settings.leader_election
    assert settings.identity


def test_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_WATCH_NAMESPACES", "a, b,")
    monkeypatch.setenv("TIDEGATE_PROMETHEUS_URL", "http://prometheus:9090")
    monkeypatch.setenv("TIDEGATE_LEADER_ELECTION", "false")
    settings = load_settings()
    assert settings.watch_namespaces == ("a", "b")
    assert str(settings.prometheus_url).startswith("http://prometheus:9090")
    assert not settings.leader_election


def test_the_address_of_the_metric_source_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages show the address."""
    monkeypatch.setenv("TIDEGATE_PROMETHEUS_URL", "https://ada:open-sesame@prometheus:9090")
    with pytest.raises(Stalled, match="put them into a Secret") as caught:
        load_settings()
    assert "open-sesame" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TIDEGATE_PROMETHEUS_URL", "prometheus:9090/x"),
        ("TIDEGATE_LOG_LEVEL", "LOUD"),
        ("TIDEGATE_METRICS_PORT", "70000"),
        ("TIDEGATE_LEASE_SECONDS", "0"),
        ("TIDEGATE_RELEASES_PER_NAMESPACE", "-1"),
        ("TIDEGATE_RELEASES_IN_CLUSTER", "many"),
        ("TIDEGATE_IMAGE_PULL_POLICY", "Sometimes"),
    ],
)
def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Stalled, match=name) as caught:
        load_settings()
    assert caught.value.reason == "BadSettings"


def kubeconfig(user: dict[str, object]) -> dict[str, object]:
    authority = base64.b64encode(b"CA").decode()
    return {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "mine"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://k:6443", "certificate-authority-data": authority}}],
        "users": [{"name": "u", "user": user}],
    }


def test_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(credentials, "ACCOUNT", tmp_path / "none")
    path = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(Stalled, match="set KUBECONFIG"):
        load_credentials()
    (tmp_path / "key.pem").write_bytes(b"KEY")
    path.write_text(yaml.safe_dump(kubeconfig({"client-certificate-data": "Q0VSVA==", "client-key": "key.pem"})))
    found = load_credentials()
    assert (found.server, found.ca_data, found.certificate, found.private_key, found.namespace) == (
        "https://k:6443",
        "CA",
        b"CERT",
        b"KEY",
        "mine",
    )
    path.write_text(yaml.safe_dump(kubeconfig({"exec": {"command": "x"}})))
    with pytest.raises(Stalled, match="only tokens and client certificates"):
        load_credentials()
    path.write_text(yaml.safe_dump(kubeconfig({}) | {"current-context": "other"}))
    with pytest.raises(Stalled, match="no context 'other'"):
        load_credentials()


def test_service_account_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(credentials, "ACCOUNT", tmp_path)
    for name, text in (("token", "t"), ("ca.crt", "CA"), ("namespace", "system\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = load_credentials()
    assert (found.server, found.token_path, found.namespace) == ("https://[fd00::1]:443", tmp_path / "token", "system")
