"""All kopf triggers: every event of every watched kind goes into the memory, which wakes whoever it concerns.

Only `on.event` is used: create, update, resume and delete handlers are edge-triggered and make kopf write annotations,
finalizers and extra patches. What to do is decided by the reconcilers, from the state of the moment.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import kopf

from tidegate.adapters.cache import ObjectCache
from tidegate.adapters.credentials import Credentials
from tidegate.adapters.listing import PAGE
from tidegate.domain.manifests.names import MANAGED_BY
from tidegate.ports import WATCHED_KINDS, Kind, Manifest, is_child

__all__ = ["CHILD_SELECTOR", "build_registry", "build_settings", "watch"]

CHILD_SELECTOR = ",".join(f"{label}={value}" for label, value in MANAGED_BY.items())


async def watch(
    cache: ObjectCache, login: Callable[[], Credentials], namespaces: Sequence[str], take_signals: Callable[[], None]
) -> None:
    """Let kopf watch until cancelled.

    Args:
        cache: Takes in what is seen.
        login: Gives the credentials, also later, when the API server refuses the old ones.
        namespaces: Where to watch; everywhere when empty.
        take_signals: Called when kopf has started, for it takes SIGTERM and SIGINT for itself.
    """
    ours = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=build_registry(cache, login),
        settings=build_settings(),
        standalone=True,
        # Else kopf asks the system for the user's name, and a container's user may have none.
        identity=cast("Any", "tidegate"),
        clusterwide=not namespaces,
        namespaces=namespaces,
    )
    take_signals()
    await kopf.run_tasks(tasks, ignored=ours)


def build_registry(cache: ObjectCache, login: Callable[[], Credentials]) -> kopf.OperatorRegistry:
    """Register one handler for all watched kinds, and the login."""
    registry = kopf.OperatorRegistry()

    async def remember(event: kopf.RawEvent, **_: Any) -> None:
        manifest: Manifest = dict(event["object"])
        if event["type"] == "DELETED":
            cache.remove(manifest)
        else:
            cache.put(manifest)

    def connect(**_: Any) -> kopf.ConnectionInfo:
        return _connection(login())

    for kind in WATCHED_KINDS:
        kopf.on.event(kind.api_version, kind.plural, registry=registry)(remember)
    kopf.on.login(registry=registry)(connect)
    return registry


class NoDifferences(kopf.DiffBaseStorage):
    """Spares kopf the copy of every object that it would compare with the one before: nobody asks for differences."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Find nothing worth comparing."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Know of no earlier state."""
        return None

    def store(self, **_: Any) -> None:
        """Write nothing."""


def build_settings() -> kopf.OperatorSettings:
    """Make kopf write nothing, look for nothing but what it is told, and never wait forever."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = 300
    settings.watching.chunk_size = PAGE  # thousands of objects at once, as they come, take twice what is kept of them
    settings.watching.connect_timeout = 10
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 60
    settings.queueing.idle_timeout = 1
    settings.persistence.diffbase_storage = NoDifferences()
    for kind in WATCHED_KINDS:
        if is_child(kind):
            settings.watching.label_selectors[_matcher(kind)] = CHILD_SELECTOR
    return settings


def _matcher(kind: Kind) -> Callable[[Any], bool]:
    return lambda resource: (resource.group, resource.plural) == (kind.group, kind.plural)


def _connection(credentials: Credentials) -> kopf.ConnectionInfo:
    token = credentials.token_path.read_text().strip() if credentials.token_path else credentials.token
    return kopf.ConnectionInfo(
        server=credentials.server,
        ca_data=credentials.ca_data,
        insecure=credentials.insecure,
        token=token,
        certificate_data=credentials.certificate,
        private_key_data=credentials.private_key,
        default_namespace=credentials.namespace,
    )
