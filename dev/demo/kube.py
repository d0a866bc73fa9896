"""What the demo and the end-to-end tests need of the cluster: apply, read, wait, ask Prometheus."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config, dynamic
from kubernetes.dynamic.exceptions import DynamicApiError, NotFoundError
from urllib3.exceptions import HTTPError

TIDEGATE = "tidegate.dev/v1alpha1"
SYSTEM = "tidegate-system"
FIELD_MANAGER = "tidegate-demo"
Object = dict[str, Any]


class TookTooLongError(AssertionError):
    """Something did not happen within its time; the message says what was seen instead."""


class Kube:
    """A cluster through its kubeconfig.

    Kinds of Tidegate are named by kind alone ("Deployment" is tidegate.dev's), others by apiVersion and kind.
    """

    def __init__(self, kubeconfig: Path | None = None) -> None:
        self.api = config.new_client_from_config(str(kubeconfig) if kubeconfig else None)  # type: ignore[no-untyped-call]
        self._dynamic = dynamic.DynamicClient(self.api)  # type: ignore[no-untyped-call]

    def _resource(self, kind: str, api_version: str) -> Any:
        return self._dynamic.resources.get(api_version=api_version, kind=kind)

    def apply(self, manifest: Object | str) -> None:
        """Apply one object, or every document of a YAML text, server-side."""
        documents: Iterable[Object] = yaml.safe_load_all(manifest) if isinstance(manifest, str) else [manifest]
        for document in documents:
            metadata = document["metadata"]
            self._resource(document["kind"], document["apiVersion"]).server_side_apply(
                body=document,
                name=metadata["name"],
                namespace=metadata.get("namespace", "default"),
                field_manager=FIELD_MANAGER,
                force_conflicts=True,
            )

    def get(self, kind: str, name: str, namespace: str = "default", api_version: str = TIDEGATE) -> Object | None:
        """Return an object, or None when there is none."""
        try:
            found: Object = self._resource(kind, api_version).get(name=name, namespace=namespace).to_dict()
        except NotFoundError:
            return None
        return found

    def select(
        self,
        kind: str,
        namespace: str = "default",
        api_version: str = TIDEGATE,
        selector: str = "",
    ) -> list[Object]:
        """Return the objects of a kind that carry the labels of the selector."""
        found = self._resource(kind, api_version).get(namespace=namespace, label_selector=selector)
        return [item.to_dict() for item in found.items]

    def merge(
        self, kind: str, name: str, change: Object, namespace: str = "default", api_version: str = TIDEGATE
    ) -> None:
        """Change fields of an object by a merge patch."""
        self._resource(kind, api_version).patch(
            body=change,
            name=name,
            namespace=namespace,
            content_type="application/merge-patch+json",
        )

    def delete(
        self, kind: str, name: str, namespace: str = "default", api_version: str = TIDEGATE, **options: Any
    ) -> None:
        """Delete an object; one that is not there is fine."""
        try:
            self._resource(kind, api_version).delete(name=name, namespace=namespace, body=options or None)
        except NotFoundError:
            return

    def wait(
        self,
        kind: str,
        name: str,
        holds: Callable[[Object], bool],
        *,
        timeout: float,
        namespace: str = "default",
        api_version: str = TIDEGATE,
        what: str = "",
    ) -> Object:
        """Poll until the object is there and ``holds`` is true of it.

        Raises:
            TookTooLongError: with the object's status, after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            found = self.get(kind, name, namespace, api_version)
            if found is not None and holds(found):
                return found
            if time.monotonic() > deadline:
                seen = json.dumps((found or {}).get("status"), indent=1, default=str)
                raise TookTooLongError(
                    f"{kind} {name}: not {what or 'as wanted'} after {timeout:.0f} s; status: {seen}"
                )
            time.sleep(0.2)

    def wait_gone(
        self,
        kind: str,
        name: str,
        *,
        timeout: float,
        namespace: str = "default",
        api_version: str = TIDEGATE,
    ) -> None:
        """Poll until the object is gone."""
        deadline = time.monotonic() + timeout
        while self.get(kind, name, namespace, api_version) is not None:
            if time.monotonic() > deadline:
                raise TookTooLongError(f"{kind} {name} is still there after {timeout:.0f} s")
            time.sleep(0.2)

    def get_text(self, path: str) -> str:
        """GET a path of the API server, such as ``/metrics``."""
        return str(self._dynamic.request("get", path, serialize=False).data.decode())

    def service_get(self, service: str, path: str, namespace: str = SYSTEM, timeout: float = 5, **query: str) -> Any:
        """GET a path of a Service through the API server's proxy; return the JSON answer, or None if there is none."""
        path = f"/api/v1/namespaces/{namespace}/services/{service}/proxy{path}"
        try:
            answer = self._dynamic.request(
                "get", path, query_params=list(query.items()), _request_timeout=timeout, serialize=False
            )
        except (DynamicApiError, HTTPError):
            return None
        return json.loads(answer.data)

    def prometheus(self, query: str) -> dict[str, float]:
        """Return an instant query's values by the label ``tidegate_version``; empty when Prometheus has none."""
        answer = self.service_get("tidegate-prometheus:9090", "/api/v1/query", query=query)
        rows = answer["data"]["result"] if answer else []
        values = {row["metric"].get("tidegate_version", ""): float(row["value"][1]) for row in rows}
        return {version: value for version, value in values.items() if value == value}

    def pods(self, selector: str, namespace: str = "default") -> list[Object]:
        """Return the pods that carry the labels of the selector."""
        return self.select("Pod", namespace, "v1", selector)

    def core(self) -> client.CoreV1Api:
        """Return the typed core API, for logs and the like."""
        return client.CoreV1Api(self.api)


def condition(found: Object, kind: str) -> Object:
    """Return a condition of an object; an empty one if it has none of that type."""
    conditions = (found.get("status") or {}).get("conditions") or []
    return next((entry for entry in conditions if entry["type"] == kind), {})


def is_true(kind: str) -> Callable[[Object], bool]:
    """Return a check for ``Kube.wait``: the condition is True for the object's own generation."""

    def holds(found: Object) -> bool:
        current = (found.get("status") or {}).get("observedGeneration") == found["metadata"]["generation"]
        return current and condition(found, kind).get("status") == "True"

    return holds


def is_ready_pod(pod: Object) -> bool:
    """Tell whether a pod is ready; not every API server lets pods say which generation they mean."""
    return bool(condition(pod, "Ready").get("status") == "True")
