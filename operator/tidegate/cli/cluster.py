"""The cluster as the commands need it: six requests, and every failure in words that say what to do."""

import getpass
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import client, config

from tidegate.api.base import GROUP, VERSION
from tidegate.cli.exits import ExitCode, NotThere, Problem, Unreachable
from tidegate.cli.view import Manifest
from tidegate.domain.manifests.names import COMMAND_ANNOTATION

__all__ = ["Cluster", "connect"]

FIELD_MANAGER = "tidegate-cli"
TIMEOUTS = (5, 15)
"""Seconds to connect, and to answer."""
MERGE_PATCH = "application/merge-patch+json"


def connect(kubeconfig: Path | None, context: str | None, namespace: str | None) -> "Cluster":
    """Read the kubeconfig; nothing is asked of the cluster yet.

    Raises:
        Problem: There is no kubeconfig, or not this context in it.
    """
    settings = client.Configuration()
    path = str(kubeconfig) if kubeconfig else None
    try:
        contexts, current = config.list_kube_config_contexts(path)  # type: ignore[no-untyped-call]
        chosen = current if context is None else next((each for each in contexts if each["name"] == context), None)
        if chosen is None:
            known = ", ".join(each["name"] for each in contexts)
            raise Problem(f"there is no context {context!r} in the kubeconfig; there are: {known}", ExitCode.USAGE)
        config.load_kube_config(  # type: ignore[no-untyped-call]
            path, chosen["name"], client_configuration=settings, persist_config=False
        )
    except (config.ConfigException, yaml.YAMLError, OSError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())
        raise Problem(f"no usable kubeconfig ({said}); set --kubeconfig or KUBECONFIG", ExitCode.USAGE) from error
    settings.retries = False
    own = namespace or chosen["context"].get("namespace") or "default"
    return Cluster(client.ApiClient(settings), own, chosen["name"])


class Cluster:
    """Reads and patches Deployments of one namespace.

    Raises, from every method:
        NotThere: There is no such object; the message names those that exist.
        Unreachable: The API server does not answer.
        Problem: It refuses.
    """

    def __init__(self, api: client.ApiClient, namespace: str, context: str) -> None:
        """Open nothing yet."""
        self.namespace = namespace
        self._context = context
        self._objects = client.CustomObjectsApi(api)
        self._reviews = client.AuthenticationV1Api(api)

    def get_deployment(self, name: str) -> Manifest:
        """Return a Deployment."""
        with self._words_for_people():
            try:
                return _checked(
                    self._objects.get_namespaced_custom_object(
                        GROUP, VERSION, self.namespace, "deployments", name, _request_timeout=TIMEOUTS
                    )
                )
            except client.ApiException as error:
                if error.status != 404 or not _has_details(error):
                    raise
        raise NotThere(self._say_what_exists(name))

    def list_deployments(self) -> list[Manifest]:
        """Return the Deployments of the namespace."""
        return self._list("deployments", namespace=self.namespace)

    def list_model_versions(self) -> list[Manifest]:
        """Return the ModelVersions of the namespace, newest first."""
        found = self._list("modelversions", namespace=self.namespace)
        return sorted(found, key=lambda each: str(each["metadata"].get("creationTimestamp")), reverse=True)

    def give_command(self, name: str, command: Mapping[str, str]) -> Manifest:
        """Write the command into the annotation that the operator consumes."""
        return self._patch(name, {"metadata": {"annotations": {COMMAND_ANNOTATION: json.dumps(command)}}})

    def set_paused(self, name: str, *, paused: bool) -> Manifest:
        """Write ``spec.paused`` and return the Deployment as it is now."""
        return self._patch(name, {"spec": {"paused": paused}})

    def whoami(self) -> str:
        """Return the name that the API server knows the person by, else the one of the operating system."""
        try:
            review = self._reviews.create_self_subject_review(client.V1SelfSubjectReview(), _request_timeout=TIMEOUTS)
        except (client.ApiException, urllib3.exceptions.HTTPError):
            return getpass.getuser()
        user = review.status.user_info if review.status else None
        return (user.username if user else None) or getpass.getuser()

    def _patch(self, name: str, body: Manifest) -> Manifest:
        with self._words_for_people():
            return _checked(
                self._objects.patch_namespaced_custom_object(
                    GROUP,
                    VERSION,
                    self.namespace,
                    "deployments",
                    name,
                    dict(body),
                    field_manager=FIELD_MANAGER,
                    _content_type=MERGE_PATCH,
                    _request_timeout=TIMEOUTS,
                )
            )

    def _list(self, plural: str, *, namespace: str | None) -> list[Manifest]:
        with self._words_for_people():
            if namespace is None:
                found = self._objects.list_cluster_custom_object(GROUP, VERSION, plural, _request_timeout=TIMEOUTS)
            else:
                found = self._objects.list_namespaced_custom_object(
                    GROUP, VERSION, namespace, plural, _request_timeout=TIMEOUTS
                )
        return [dict(each) for each in _checked(found)["items"]]

    def _say_what_exists(self, name: str) -> str:
        """Name what a person may have meant: here, else in other namespaces, as far as they may look."""
        missing = f"there is no Deployment {name!r} in namespace {self.namespace!r} (context {self._context})"
        here = [each["metadata"]["name"] for each in self.list_deployments()]
        if here:
            close = get_close_matches(name, here, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            return f"{missing}; there are: {', '.join(sorted(here))}{hint}"
        try:
            elsewhere = [each["metadata"] for each in self._list("deployments", namespace=None)]
        except Problem:
            return f"{missing}, nor any other; name the namespace with -n"
        if not elsewhere:
            return f"{missing}, nor any in the cluster; kubectl apply one, see docs/getting-started.md"
        places = sorted(f"{each['name']} (-n {each['namespace']})" for each in elsewhere)
        return f"{missing}, nor any other; elsewhere there are: {', '.join(places[:10])}"

    @contextmanager
    def _words_for_people(self) -> Iterator[None]:
        """Translate what the client raises."""
        try:
            yield
        except client.ApiException as error:
            raise self._translate(error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(
                f"the cluster of context {self._context} does not answer ({_innermost(error)});"
                " does `kubectl version` work? Choose another with --context or --kubeconfig"
            ) from error

    def _translate(self, error: client.ApiException) -> Problem:
        said = _message(error)
        if error.status == 401:
            return Problem(f"the cluster of context {self._context} does not know you ({said}); log in again")
        if error.status == 403:
            return Problem(
                f"you may not do this: {said}; ask for the role `view` (status, history, explain)"
                f" or `edit` (everything) in namespace {self.namespace}"
            )
        if error.status == 404 and not _has_details(error):
            return Problem(
                f"the cluster of context {self._context} does not know the kinds of Tidegate;"
                " install it with `helm install tidegate charts/tidegate`, or choose another with --context"
            )
        if error.status == 404:
            return NotThere(f"{said}; it was deleted a moment ago")
        if error.status in (0, 429) or error.status >= 500:
            return Unreachable(f"the cluster of context {self._context} cannot answer now ({said}); try again")
        return Problem(f"the API server refuses: {said}", ExitCode.REFUSED)


def _checked(answer: Any) -> Manifest:
    if not isinstance(answer, Mapping):
        raise Problem("what answers at this address is no Kubernetes API server; check the kubeconfig")
    return answer


def _body(error: client.ApiException) -> Mapping[str, Any]:
    try:
        body = json.loads(error.body or "{}")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _message(error: client.ApiException) -> str:
    return str(_body(error).get("message") or error.reason or f"status {error.status}").strip()


def _has_details(error: client.ApiException) -> bool:
    """Tell a missing object, which the server names, from a missing kind: a bare `404 page not found`."""
    return bool((_body(error).get("details") or {}).get("name"))


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
