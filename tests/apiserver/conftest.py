"""One real kube-apiserver with the project's CRDs for all tests of this folder."""

import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dev.cluster.apiserver import ApiServer
from tidegate.api.crd import KINDS

CRDS = Path(__file__).parents[2] / "crds"
PLURALS = {kind.name: kind.plural for kind in KINDS}


class Api:
    """Requests of an administrator; answers are not raised, tests look at them."""

    def __init__(self, server: ApiServer) -> None:
        pki = server.folder / "pki"
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        self._client = httpx.Client(base_url=server.url, verify=context, timeout=30)

    def close(self) -> None:
        self._client.close()

    def try_create(self, manifest: dict[str, Any], *, namespace: str = "default") -> httpx.Response:
        """Ask whether an object would be accepted."""
        parameters = {"dryRun": "All", "fieldValidation": "Strict"}
        return self._client.post(_path(manifest, namespace), json=manifest, params=parameters)

    def create(self, manifest: dict[str, Any], *, namespace: str = "default") -> dict[str, Any]:
        return self._client.post(_path(manifest, namespace), json=manifest).raise_for_status().json()

    def merge(self, stored: dict[str, Any], patch: dict[str, Any], *, subresource: str = "") -> httpx.Response:
        metadata = stored["metadata"]
        path = f"{_path(stored, metadata['namespace'])}/{metadata['name']}{subresource}"
        headers = {"content-type": "application/merge-patch+json"}
        return self._client.patch(path, json=patch, headers=headers)

    def post(self, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
        return self._client.post(path, json=manifest).raise_for_status().json()

    def get(self, path: str) -> dict[str, Any]:
        return self._client.get(path).raise_for_status().json()


def _path(manifest: dict[str, Any], namespace: str) -> str:
    return f"/apis/{manifest['apiVersion']}/namespaces/{namespace}/{PLURALS[manifest['kind']]}"


@pytest.fixture(scope="session")
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        running.install_crds(CRDS)
        yield running


@pytest.fixture(scope="session")
def connect() -> Callable[[ApiServer], Api]:
    """Make an administrator's client of any API server."""
    return Api


@pytest.fixture(scope="session")
def api(server: ApiServer) -> Iterator[Api]:
    made = Api(server)
    _wait_until_served(made)
    yield made
    made.close()


def _wait_until_served(api: Api) -> None:
    """Established CRDs are served a moment later."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            found = {item["name"] for item in api.get("/apis/tidegate.dev/v1alpha1")["resources"]}
        except httpx.HTTPStatusError:
            continue
        if set(PLURALS.values()) <= found:
            return
    raise TimeoutError("the kinds of tidegate.dev are not served")
