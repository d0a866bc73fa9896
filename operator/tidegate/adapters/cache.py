"""All watched objects in memory: fed by the watches and by the operator's own writes, newest version wins."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tidegate.adapters.telemetry import CACHED
from tidegate.domain.manifests.names import (
    DEPLOYMENT_LABEL,
    MODEL_VERSION_LABEL,
    OWNER_ANNOTATION,
    TRAINING_JOB_LABEL,
)
from tidegate.domain.manifests.training_job import MAKER_LABEL
from tidegate.ports import POD, WATCHED_KINDS, Key, Kind, Manifest, kind_of
from tidegate.references import REFERENCE_LABELS, reference_labels

__all__ = ["Change", "ObjectCache", "key_of", "trim"]

OWNER_LABELS = (DEPLOYMENT_LABEL, MODEL_VERSION_LABEL, TRAINING_JOB_LABEL, MAKER_LABEL)
INDEXED_LABELS = (*REFERENCE_LABELS.values(), *OWNER_LABELS)
REMEMBERED_DELETIONS = 10_000
POD_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "labels",
    "ownerReferences",
    "creationTimestamp",
    "deletionTimestamp",
)
POD_STATUS = ("phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses")

Change = Callable[[Kind, Manifest | None, Manifest | None], None]
"""Called with the kind, the object before and the object after; None stands for absent."""
Slot = tuple[Kind, str, str, str]
"""A place in the index: kind, namespace, label, value."""


def key_of(manifest: Mapping[str, Any]) -> Key:
    """Return the identity of an object."""
    metadata = manifest["metadata"]
    return Key(kind_of(manifest), metadata.get("namespace", ""), metadata["name"])


class ObjectCache:
    """The newest known version of every watched object.

    A watch may lag behind the operator's own writes. Their answers are stored here at once, and an event that is
    older than what is stored is ignored; so is any event of an object that the operator has deleted. A decision is
    therefore never made on a state from before the operator's own last act.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._objects: dict[Kind, dict[tuple[str, str], Manifest]] = {kind: {} for kind in WATCHED_KINDS}
        self._index: dict[Slot, set[str]] = defaultdict(set)
        self._deleted: OrderedDict[str, None] = OrderedDict()
        self._listeners: list[Change] = []

    def __len__(self) -> int:
        """Return the number of objects of all kinds."""
        return sum(len(objects) for objects in self._objects.values())

    def subscribe(self, listener: Change) -> None:
        """Call `listener` after every change."""
        self._listeners.append(listener)

    def get(self, key: Key) -> Manifest | None:
        """Return the object, or None."""
        return self._objects[key.kind].get((key.namespace, key.name)) if key.kind in self._objects else None

    def list(self, kind: Kind, namespace: str, labels: Mapping[str, str] | None = None) -> Sequence[Manifest]:
        """Return the objects of one namespace with all these labels, ordered by name."""
        others = dict(labels or {})
        slots = [(kind, namespace, label, others.pop(label)) for label in INDEXED_LABELS if label in others]
        names = self._names_in(slots) if slots else self._names_of(kind, namespace)
        found = [self._objects[kind][namespace, name] for name in sorted(names)]
        return [each for each in found if others.items() <= _labels(each).items()]

    def all(self, kind: Kind) -> Iterable[Manifest]:
        """Return the objects of all namespaces."""
        return list(self._objects[kind].values())

    def put(self, manifest: Manifest) -> bool:
        """Store an object if it is news; say whether it was."""
        key = key_of(manifest)
        metadata = manifest["metadata"]
        before = self.get(key)
        if metadata["uid"] in self._deleted or (before is not None and not _is_newer(manifest, before)):
            return False
        self._store(key, before, trim(key.kind, manifest))
        return True

    def remove(self, manifest: Manifest, *, own: bool = False) -> bool:
        """Forget an object that is gone; `own`: the operator deleted it and events of it may still be on their way."""
        key = key_of(manifest)
        uid = manifest["metadata"]["uid"]
        if own:
            self._deleted[uid] = None
            while len(self._deleted) > REMEMBERED_DELETIONS:
                self._deleted.popitem(last=False)
        before = self.get(key)
        if before is None or before["metadata"]["uid"] != uid:
            return False
        self._store(key, before, None)
        return True

    def replace(self, kind: Kind, namespace: str | None, manifests: Iterable[Manifest], version: str) -> int:
        """Take over a complete list made at this resourceVersion; return how many objects were news.

        What is stored but not listed is gone, unless it is newer than the list.
        """
        listed = {key_of(each): each for each in manifests}
        news = sum(self.put(each) for each in listed.values())
        for each in self.all(kind):
            key = key_of(each)
            here = namespace is None or key.namespace == namespace
            if here and key not in listed and _version(each) <= int(version):
                news += self.remove(each)
        return news

    def _names_in(self, slots: Iterable[Slot]) -> Iterable[str]:
        return set.intersection(*(self._index.get(slot, set()) for slot in slots))

    def _names_of(self, kind: Kind, namespace: str) -> Iterable[str]:
        return [name for where, name in self._objects[kind] if where == namespace]

    def _store(self, key: Key, before: Manifest | None, after: Manifest | None) -> None:
        self._reindex(key, before, after)
        if after is None:
            del self._objects[key.kind][key.namespace, key.name]
        else:
            self._objects[key.kind][key.namespace, key.name] = after
        CACHED.labels(f"{key.kind.plural}.{key.kind.group}".rstrip(".")).set(len(self._objects[key.kind]))
        for listener in self._listeners:
            listener(key.kind, before, after)

    def _reindex(self, key: Key, before: Manifest | None, after: Manifest | None) -> None:
        old, new = _slots(key, before), _slots(key, after)
        for slot in old - new:
            self._index[slot].discard(key.name)
            if not self._index[slot]:
                del self._index[slot]
        for slot in new - old:
            self._index[slot].add(key.name)


def _slots(key: Key, manifest: Manifest | None) -> set[Slot]:
    labels = _labels(manifest) if manifest else {}
    owners = {(label, labels[label]) for label in OWNER_LABELS if label in labels}
    return {(key.kind, key.namespace, *each) for each in owners | reference_labels(key.kind, manifest)}


def _labels(manifest: Manifest) -> Mapping[str, str]:
    return manifest["metadata"].get("labels") or {}


def _version(manifest: Manifest) -> int:
    return int(manifest["metadata"]["resourceVersion"])


def _is_newer(manifest: Manifest, stored: Manifest) -> bool:
    """Compare resourceVersions as numbers: they are etcd revisions, which the API promises to be comparable."""
    return _version(manifest) > _version(stored)


def trim(kind: Kind, manifest: Manifest) -> Manifest:
    """Return an object without what nobody reads: field ownership everywhere, and most of a pod."""
    if kind == POD:
        return _trim_pod(manifest)
    metadata = {field: value for field, value in manifest["metadata"].items() if field != "managedFields"}
    return manifest | {"metadata": metadata}


def _trim_pod(pod: Manifest) -> Manifest:
    metadata = {field: pod["metadata"][field] for field in POD_METADATA if field in pod["metadata"]}
    owner = (pod["metadata"].get("annotations") or {}).get(OWNER_ANNOTATION)
    if owner:
        metadata["annotations"] = {OWNER_ANNOTATION: owner}
    status = pod.get("status") or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"nodeName": (pod.get("spec") or {}).get("nodeName")},
        "status": {field: status[field] for field in POD_STATUS if field in status},
    }
