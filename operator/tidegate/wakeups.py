"""Who is reconciled when an object changes: the object, its owner, who refers to it, and whom it refers to."""

from collections import defaultdict
from collections.abc import Callable

from tidegate.domain.manifests.names import TRAINING_JOB_LABEL, parse_owner
from tidegate.ports import ABTEST, DEPLOYMENT, MODEL_VERSION, ROUTE, TRAINING_JOB, Key, Kind, Manifest
from tidegate.reconcilers.observation import read_child
from tidegate.references import references

__all__ = ["Wakeups"]

RECONCILED = (TRAINING_JOB, MODEL_VERSION, DEPLOYMENT, ABTEST)
_BY_NAME = {kind.name: kind for kind in RECONCILED}

Wake = Callable[[Key], None]


class Wakeups:
    """Turns changes of objects into keys for the work queue.

    ::

        TrainingJob ──base──► ModelVersion ◄──serves── Deployment ◄──tests── ABTest
             ▲  └─hands over to──────────────────────────► ▲                    ▲
             └── made ────────────┘                        └── Route ───────────┘

    An arrow's tail is woken when its head changes. Against the arrows, a change of what a Deployment serves wakes the
    ModelVersions it served before and serves now, and a change of an ABTest wakes its Deployment. Children (Jobs,
    pods, workloads, Services, Routes) wake the owner that their annotation names; those of a Deployment only when
    something has changed that is read of them. Who waits for the end of another release is woken by
    ``reconcilers/turns.py``.
    """

    def __init__(self, wake: Wake, wake_soon: Wake) -> None:
        """Call `wake` with every key that has to be reconciled, `wake_soon` where many changes may be told as one."""
        self._wake = wake
        self._wake_soon = wake_soon
        self._referrers: dict[Key, set[Key]] = defaultdict(set)

    def notice(self, kind: Kind, before: Manifest | None, after: Manifest | None) -> None:
        """Take note of one change; None stands for absent."""
        present = after or before
        if present is None:
            return
        key = _key(kind, present)
        if kind in RECONCILED:
            self._update_referrers(key, references(kind, before), references(kind, after))
        for each in self._concerned(key, before, after):
            self._wake(each)
        if kind == DEPLOYMENT and _served(before) != _served(after):
            for each in references(kind, before) | references(kind, after):
                self._wake_soon(each)

    def _concerned(self, key: Key, before: Manifest | None, after: Manifest | None) -> set[Key]:
        concerned = {key} if key.kind in RECONCILED else set()
        concerned |= _owners(key, before, after)
        if key.kind != MODEL_VERSION or _but_its_users(before) != _but_its_users(after):
            concerned |= self._referrers.get(key, set())
        if key.kind == ROUTE:
            concerned |= self._referrers.get(Key(DEPLOYMENT, key.namespace, key.name), set())
        if key.kind == ABTEST:
            concerned |= {each for each in references(key.kind, after or before) if each.kind == DEPLOYMENT}
        return concerned

    def _update_referrers(self, key: Key, before: set[Key], after: set[Key]) -> None:
        for target in before - after:
            self._referrers[target].discard(key)
            if not self._referrers[target]:
                del self._referrers[target]
        for target in after - before:
            self._referrers[target].add(key)


def _key(kind: Kind, manifest: Manifest) -> Key:
    return Key(kind, manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"])


def _owners(key: Key, before: Manifest | None, after: Manifest | None) -> set[Key]:
    owners = _owner(key, before) | _owner(key, after)
    if any(each.kind == DEPLOYMENT for each in owners) and read_child(key.kind, before) == read_child(key.kind, after):
        return set()
    return owners


def _owner(key: Key, manifest: Manifest | None) -> set[Key]:
    metadata = manifest["metadata"] if manifest else {}
    found = set()
    owner = parse_owner(metadata.get("annotations") or {})
    if owner is not None and owner[0] in _BY_NAME:
        found.add(Key(_BY_NAME[owner[0]], key.namespace, owner[1]))
    maker = (metadata.get("labels") or {}).get(TRAINING_JOB_LABEL)
    if maker and key.kind == MODEL_VERSION:
        found.add(Key(TRAINING_JOB, key.namespace, maker))
    return found


def _but_its_users(version: Manifest | None) -> object:
    """Return a ModelVersion without who serves it: a thousand Deployments of one version do not wake each other."""
    if version is None:
        return None
    status = {name: value for name, value in (version.get("status") or {}).items() if name != "servedBy"}
    metadata = version["metadata"]
    return status, version.get("spec"), [metadata.get(name) for name in ("uid", "annotations", "deletionTimestamp")]


def _served(manifest: Manifest | None) -> object:
    """Return what the ModelVersions' servedBy is made from."""
    status = (manifest.get("status") or {}) if manifest else {}
    places = (
        *(status.get(place) or {} for place in ("stable", "canary", "experiment")),
        *(status.get("draining") or ()),
    )
    return [(each.get("modelVersion"), each.get("percent")) for each in places]
