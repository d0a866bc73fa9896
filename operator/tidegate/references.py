"""What an object refers to by name: who is woken by its change, and how its users are found, rest on the same words."""

from collections.abc import Iterable, Mapping
from typing import Any

from tidegate.ports import ABTEST, DEPLOYMENT, MODEL_VERSION, ROUTE, TRAINING_JOB, Key, Kind, Manifest

__all__ = ["REFERENCE_LABELS", "reference_labels", "references", "referring_to"]

REFERENCE_LABELS = {kind: f"refers to {kind.name}" for kind in (MODEL_VERSION, DEPLOYMENT)}
"""A label that no object can have in the cluster, for a name has no blanks, by the kind that is referred to."""

Named = Iterable[tuple[Kind, str | None]]


def references(kind: Kind, manifest: Manifest | None) -> set[Key]:
    """Return what an object refers to by name; of a Route, the versions that answer users."""
    if manifest is None or kind not in _FIND:
        return set()
    namespace = manifest["metadata"].get("namespace", "")
    found = _FIND[kind](manifest.get("spec") or {}, manifest.get("status") or {})
    return {Key(target, namespace, name) for target, name in found if name}


def referring_to(key: Key) -> dict[str, str]:
    """Return the label that `Objects.list` finds whatever refers to a ModelVersion or a Deployment by.

    >>> referring_to(Key(MODEL_VERSION, "default", "connect4-1.0.0"))
    {'refers to ModelVersion': 'connect4-1.0.0'}
    """
    return {REFERENCE_LABELS[key.kind]: key.name}


def reference_labels(kind: Kind, manifest: Manifest | None) -> set[tuple[str, str]]:
    """Return the labels that stand for what an object refers to; one that refers to two versions has two."""
    return {label for each in references(kind, manifest) for label in referring_to(each).items()}


def _of_deployment(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Named:
    yield MODEL_VERSION, spec.get("modelVersion")
    for place in ("stable", "canary", "rollback", "experiment"):
        yield MODEL_VERSION, (status.get(place) or {}).get("modelVersion")
    for each in status.get("draining") or ():
        yield MODEL_VERSION, each.get("modelVersion")


def _of_test(spec: Mapping[str, Any], _: Mapping[str, Any]) -> Named:
    yield DEPLOYMENT, spec.get("deployment")
    for variant in spec.get("variants") or ():
        yield MODEL_VERSION, variant.get("modelVersion")


def _of_training(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Named:
    yield MODEL_VERSION, spec.get("baseModelVersion")
    yield MODEL_VERSION, status.get("modelVersion")
    yield DEPLOYMENT, ((spec.get("output") or {}).get("deploy") or {}).get("name")


def _of_route(spec: Mapping[str, Any], _: Mapping[str, Any]) -> Named:
    for each in spec.get("backends") or ():
        yield MODEL_VERSION, each.get("modelVersion")


_FIND = {DEPLOYMENT: _of_deployment, ABTEST: _of_test, TRAINING_JOB: _of_training, ROUTE: _of_route}
