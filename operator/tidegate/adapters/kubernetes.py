"""The Kubernetes objects: reads from the cache, writes to the API server and at once into the cache."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from tidegate.adapters.cache import ObjectCache, key_of
from tidegate.adapters.connection import APPLY_PATCH, MERGE_PATCH, ApiConnection, path_of
from tidegate.errors import Conflict, Ending, Refused, Stalled, Waiting
from tidegate.ports import CONFIG_MAP, WATCHED_KINDS, Clock, Key, Kind, Manifest, PodIdentity, kind_of

__all__ = ["APPLIED_ANNOTATION", "KubernetesObjects", "KubernetesTokenReviews", "check_kinds", "merge_patch"]

FIELD_MANAGER = "tidegate"
APPLIED_ANNOTATION = "tidegate.dev/applied"
"""Hash of what was applied last: tells when a field is to be taken back, which comparing alone would not see."""
MEMORY = timedelta(minutes=10)
"""How long an object that is not watched is believed to be as it was applied."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of the last apply of one object."""

    digest: str
    fingerprint: str
    at: float


class KubernetesObjects:
    """The ports `Objects`, `Creation` and `Unanswered` on a real API server."""

    def __init__(self, api: ApiConnection, cache: ObjectCache, clock: Clock) -> None:
        """Use this connection and this cache."""
        self._api = api
        self._cache = cache
        self._clock = clock
        self._applied: dict[Key, Applied] = {}
        self._unanswered: set[Key] = set()
        self._found: set[str] = set()
        """UIDs of objects that came by a list, and were there when they were read."""

    def get(self, key: Key) -> Manifest | None:
        """Return a watched object, or None."""
        return self._cache.get(key)

    def list(self, kind: Kind, namespace: str, labels: Mapping[str, str] | None = None) -> Sequence[Manifest]:
        """Return the watched objects of one namespace that carry all these labels, ordered by name."""
        return self._cache.list(kind, namespace, labels)

    async def apply(
        self,
        manifest: Manifest,
        *,
        field_manager: str = FIELD_MANAGER,
        decided_on: Manifest | None = None,
        resting_on: Sequence[Manifest] = (),
    ) -> Manifest:
        """Apply server-side unless the object already is like this."""
        key = key_of(manifest)
        digest = _digest(manifest)
        wanted = _marked(manifest, digest) if field_manager == FIELD_MANAGER else manifest
        live = self._cache.get(key)
        if live is not None and live["metadata"].get("deletionTimestamp"):
            raise Waiting("ChildBeingDeleted", f"waiting until {key} is deleted to make it anew", timedelta(seconds=5))
        if self._is_applied(key, live, wanted, digest):
            return live or manifest
        if decided_on is not None:
            await self._confirm(decided_on)
        for each in resting_on:
            await self._find(each)
        params = {"fieldManager": field_manager, "force": "true"}
        with self._await_answer(key):
            answer = await self._api.patch(_path(key), wanted, APPLY_PATCH, params)
        if answer is None:
            raise Ending("NamespaceNotFound", f"namespace {key.namespace} is gone")
        self._applied[key] = Applied(digest, _fingerprint(answer), self._clock.now().timestamp())
        before = self._cache.get(key)
        kept = self._keep(answer)
        if _tells_more(before, answer):
            raise Conflict("Outdated", f"{key} had changed since it was read")
        return kept

    async def create(self, manifest: Manifest) -> Manifest:
        """Create an object; Conflict if there is one of this name."""
        key = key_of(manifest)
        with self._await_answer(key):
            answer = await self._api.post(path_of(key.kind, key.namespace), manifest)
        return self._keep(answer)

    async def delete(self, key: Key, *, decided_on: Manifest | None = None) -> None:
        """Delete in the background; an absent object is fine."""
        if decided_on is not None:
            await self._confirm(decided_on)
        live = self._cache.get(key)
        with self._await_answer(key):
            answer = await self._api.delete(_path(key), {"propagationPolicy": "Background"})
        self._applied.pop(key, None)
        if answer is not None and answer.get("kind") == key.kind.name and answer["metadata"].get("finalizers"):
            self._keep(answer)
        elif live is not None:
            self._cache.remove(live, own=True)

    async def patch_status(self, observed: Manifest, status: Mapping[str, Any]) -> Manifest:
        """Write the difference between the observed and the wanted status, guarded by the observed resourceVersion."""
        patch = merge_patch(observed.get("status") or {}, status)
        if not patch:
            return observed
        key = key_of(observed)
        metadata = {field: observed["metadata"][field] for field in ("uid", "resourceVersion")}
        body = {"metadata": metadata, "status": patch}
        with self._await_answer(key):
            answer = await self._api.patch(_path(key, "status"), body, MERGE_PATCH)
        if answer is None:
            raise Conflict("Deleted", f"{key} is gone")
        return self._keep(answer)

    async def read_again(self) -> None:
        """Read what became of writes without an answer; a watch may be silent for as long."""
        for key in sorted(self._unanswered, key=str):
            await self._refresh(key)
            self._unanswered.discard(key)

    async def _refresh(self, key: Key) -> Manifest | None:
        """Read an object past the watch, and remember what was found."""
        known = self._cache.get(key)  # before: one that is made anew meanwhile is not gone
        found = await self._api.get(_path(key))
        if found is not None:
            self._cache.put(found)
        elif known is not None:
            self._cache.remove(known)
        return found

    async def _confirm(self, observed: Manifest) -> None:
        """Make sure that an object is still as it was observed: what users would feel never rests on an old list."""
        key = key_of(observed)
        found = await self._refresh(key)
        if found is None:
            raise Conflict("Deleted", f"{key} is gone")
        if any(found["metadata"][field] != observed["metadata"][field] for field in ("uid", "resourceVersion")):
            raise Conflict("Outdated", f"{key} has changed since it was read")

    async def _find(self, observed: Manifest) -> None:
        """Make sure that an object is there: an old list may have told of it after its end."""
        key, uid = key_of(observed), observed["metadata"]["uid"]
        last = self._applied.get(key)
        if uid in self._found or (last is not None and last.fingerprint.startswith(f"{uid} ")):
            return
        await self._confirm(observed)
        if observed["metadata"].get("deletionTimestamp"):
            raise Conflict("Outdated", f"{key} is being deleted")
        self._found.add(uid)

    @contextlib.contextmanager
    def _await_answer(self, key: Key) -> Iterator[None]:
        """Remember a write that may have been carried out although it failed, or was cancelled on its way."""
        try:
            yield
        except (Conflict, Ending, Refused):
            raise
        except BaseException:
            if key.kind in WATCHED_KINDS:
                self._unanswered.add(key)
            raise

    def forget(self, kind: Kind, before: Manifest | None, after: Manifest | None) -> None:
        """Drop what is remembered of an object that is gone, and of its ConfigMap, which has the same name."""
        if before is not None and after is None:
            metadata = before["metadata"]
            self._found.discard(metadata["uid"])
            for each in (kind, CONFIG_MAP):
                self._applied.pop(Key(each, metadata.get("namespace", ""), metadata["name"]), None)

    def _is_applied(self, key: Key, live: Manifest | None, wanted: Manifest, digest: str) -> bool:
        """Whether an apply would change nothing.

        The API server may write what it was given in other words ("1000m" as "1"): then the live object never looks
        as wanted, but stays exactly as the last apply of the same content left it.
        """
        last = self._applied.get(key)
        same = last is not None and last.digest == digest
        if key.kind not in WATCHED_KINDS:
            return same and last is not None and self._clock.now().timestamp() - last.at < MEMORY.total_seconds()
        if live is None:
            return False
        return _covers(live, wanted) or (same and last is not None and last.fingerprint == _fingerprint(live))

    def _keep(self, manifest: Manifest) -> Manifest:
        if kind_of(manifest) not in WATCHED_KINDS:
            return manifest
        self._cache.put(manifest)
        return self._cache.get(key_of(manifest)) or manifest


class KubernetesTokenReviews:
    """The port `TokenReviews`: asks the API server whose token it is."""

    def __init__(self, api: ApiConnection) -> None:
        """Use this connection."""
        self._api = api

    async def review(self, token: str, audience: str) -> PodIdentity | None:
        """Return the pod that the token is bound to, if it is valid for the audience."""
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        answer = await self._api.post("/apis/authentication.k8s.io/v1/tokenreviews", review)
        status = answer.get("status") or {}
        if not status.get("authenticated") or audience not in (status.get("audiences") or ()):
            return None
        return _read_identity(status.get("user") or {})


def _read_identity(user: Mapping[str, Any]) -> PodIdentity | None:
    prefix, _, account = str(user.get("username", "")).partition("system:serviceaccount:")
    extra = user.get("extra") or {}
    names = extra.get("authentication.kubernetes.io/pod-name")
    uids = extra.get("authentication.kubernetes.io/pod-uid")
    if prefix or not account or not names or not uids:
        return None
    return PodIdentity(account.partition(":")[0], names[0], uids[0])


async def check_kinds(api: ApiConnection, kinds: Sequence[Kind]) -> None:
    """Make sure that the API server knows these custom kinds.

    Raises:
        Stalled: One is missing; the message says how to install it.
    """
    for version in sorted({kind.api_version for kind in kinds}):
        answer = await api.get(f"/apis/{version}") or {}
        known = {each["name"] for each in answer.get("resources", ())}
        missing = sorted(kind.plural for kind in kinds if kind.api_version == version and kind.plural not in known)
        if missing:
            raise Stalled(
                "MissingCRDs",
                f"the cluster does not know {', '.join(missing)} of {version}; install the CRDs first "
                "(helm install with crds.enabled=true, or kubectl apply -f crds/)",
            )


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON merge patch (RFC 7396) that makes `new` of `old`; lists are replaced whole.

    >>> merge_patch({"a": 1, "b": {"c": 1, "d": 2}, "e": [1]}, {"a": 1, "b": {"c": 3}, "e": [1, 2]})
    {'b': {'c': 3, 'd': None}, 'e': [1, 2]}
    """
    patch: dict[str, Any] = {}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            if inner := merge_patch(before, value):
                patch[name] = inner
        elif value != before or name not in old:
            patch[name] = value
    return patch | {name: None for name in old if name not in new}


def _path(key: Key, subresource: str | None = None) -> str:
    return path_of(key.kind, key.namespace, key.name, subresource)


def _tells_more(before: Manifest | None, answer: Manifest) -> bool:
    """Whether an answer to an apply tells what others did, too, and no watch has told yet.

    What was planned rests on an older state then, and the watch will not wake anybody for what is known already.
    """
    status = answer.get("status") or {}
    if before is None:
        return "observedGeneration" in status
    return bool(status != (before.get("status") or {}))


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]


def _fingerprint(manifest: Mapping[str, Any]) -> str:
    """Identify the desired state of a live object: uid and generation, or the content of kinds without generation."""
    metadata = manifest["metadata"]
    own = {part: value for part, value in manifest.items() if part not in ("metadata", "status")}
    marks = {part: metadata.get(part) for part in ("labels", "annotations", "ownerReferences")}
    return f"{metadata['uid']} {metadata.get('generation') or _digest(own)} {_digest(marks)}"


def _marked(manifest: Manifest, digest: str) -> Manifest:
    annotations = (manifest["metadata"].get("annotations") or {}) | {APPLIED_ANNOTATION: digest}
    return manifest | {"metadata": manifest["metadata"] | {"annotations": annotations}}


def _covers(live: Any, wanted: Any) -> bool:
    """Whether the live object has everything that is wanted; fields of others do not matter."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(key in live and _covers(live[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(_covers, live, wanted))
    return bool(live == wanted)
