"""The Kubernetes API as the router uses it: list, watch, and one kind of patch. Exceptions are translated here."""

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException
from pydantic_core import from_json

from tidegate.api.base import GROUP, VERSION
from tidegate.api.route import RouteStatus
from tidegate.router.recorder import ObsoleteError
from tidegate.router.reflector import GoneError, Page, UnavailableError, WatchEvent
from tidegate.router.routes import RouteRecord

__all__ = ["KubeSource", "KubeStatusWriter", "connect", "pods", "routes"]

FIELD_MANAGER = "tidegate-router"
_REQUEST_SECONDS = 15.0
_WATCH_SECONDS = 60
_PAGE = 500

T = TypeVar("T")


async def connect() -> client.ApiClient:
    """Connect with the pod's service account, or outside a cluster with the kubeconfig in force."""
    settings = client.Configuration()
    # Else two threads look for a proxy and for a password in the environment, for every request anew.
    settings.client_session_kwargs = {"trust_env": False}
    load: Any = config
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        load.load_incluster_config(client_configuration=settings)
    else:
        await load.load_kube_config(client_configuration=settings)
    return client.ApiClient(settings)


def routes(api: client.ApiClient, namespace: str | None) -> "KubeSource":
    """Watch the Routes of one namespace, or of all."""
    objects = client.CustomObjectsApi(api)
    kind = {"group": GROUP, "version": VERSION, "plural": "routes"}
    if namespace is None:
        return KubeSource("routes", objects.list_cluster_custom_object_without_preload_content, kind)
    call = objects.list_namespaced_custom_object_without_preload_content
    return KubeSource("routes", call, kind | {"namespace": namespace})


def pods(api: client.ApiClient, namespace: str | None, selector: str) -> "KubeSource":
    """Watch the pods with these labels."""
    core, chosen = client.CoreV1Api(api), {"label_selector": selector}
    if namespace is None:
        return KubeSource("pods", core.list_pod_for_all_namespaces_without_preload_content, chosen)
    return KubeSource("pods", core.list_namespaced_pod_without_preload_content, chosen | {"namespace": namespace})


class KubeSource:
    """One kind of objects.

    Pods too are read as plain dictionaries: building the client's model objects takes longer than all the rest of the
    router's work.
    """

    def __init__(
        self, kind: str, call: Callable[..., Awaitable[aiohttp.ClientResponse]], arguments: Mapping[str, str]
    ) -> None:
        self.kind = kind
        self._call = call
        self._arguments: dict[str, Any] = {**arguments}

    async def list_page(self, following: str) -> Page:
        """Return up to 500 objects."""
        more = {"_continue": following} if following else {}
        response = await _translated(
            self._call(**self._arguments, limit=_PAGE, _request_timeout=_REQUEST_SECONDS, **more)
        )
        async with response:
            _check(response.status)
            body = await _translated(_read(response))
        metadata = body["metadata"]
        return Page(tuple(body["items"]), metadata["resourceVersion"], metadata.get("continue") or "")

    async def watch(self, version: str) -> AsyncIterator[WatchEvent]:
        """Yield events; the server ends a watch after a minute, so a connection that died is noticed soon."""
        seconds = _WATCH_SECONDS + random.randrange(10)
        response = await _translated(
            self._call(
                **self._arguments,
                watch=True,
                resource_version=version,
                allow_watch_bookmarks=True,
                timeout_seconds=seconds,
                _request_timeout=seconds + _REQUEST_SECONDS,
            )
        )
        async with response:
            _check(response.status)
            async for line in _lines(response):
                yield _event(from_json(line))


class KubeStatusWriter:
    """Applies ``status`` server-side; the uid makes the API server refuse it for a namesake created later."""

    def __init__(self, api: client.ApiClient) -> None:
        self._objects = client.CustomObjectsApi(api)

    async def write(self, record: RouteRecord, status: RouteStatus) -> Mapping[str, Any]:
        """Write the status and return the Route as it is then."""
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "Route",
            "metadata": {"name": record.name, "namespace": record.namespace, "uid": record.uid},
            "status": status.to_json(),
        }
        result: Any = await _translated(
            self._objects.patch_namespaced_custom_object_status(
                GROUP,
                VERSION,
                record.namespace,
                "routes",
                record.name,
                body,
                field_manager=FIELD_MANAGER,
                force=True,
                _content_type="application/apply-patch+yaml",
                _request_timeout=_REQUEST_SECONDS,
            )
        )
        return {**result}


async def _translated(call: Awaitable[T]) -> T:
    try:
        return await call
    except ApiException as error:
        if error.status == 404:
            raise ObsoleteError from error
        raise UnavailableError(f"{error.status} {error.reason}") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise UnavailableError(f"{type(error).__name__}: {error}") from error


async def _read(response: aiohttp.ClientResponse) -> Any:
    return from_json(await response.read())


def _check(status: int) -> None:
    if status == 410:
        raise GoneError
    if status != 200:
        raise UnavailableError(f"the API server answered {status}")


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Split the stream at line ends; an object may be longer than any buffer's limit."""
    rest = b""
    try:
        async for chunk in response.content.iter_any():
            *complete, rest = (rest + chunk).split(b"\n")
            for line in complete:
                yield line
    except (aiohttp.ClientError, OSError) as error:
        raise UnavailableError(f"{type(error).__name__}: {error}") from error


def _event(message: Mapping[str, Any]) -> WatchEvent:
    item = message["object"]
    if message["type"] != "ERROR":
        return WatchEvent(message["type"], item)
    if item.get("code") == 410:
        raise GoneError
    raise UnavailableError(f"{item.get('code')} {item.get('message')}")
