"""What the reconcilers share: reading an object into its model, and the one place that maps errors to conditions.

Every kind reads the same way::

    async def reconcile(self, key: Key) -> Requeue | None:
        observed = self._observe(key)
        plan = plan_release(observed, self._clock.now())
        await self._act(plan)
        return await self._record(observed, plan)
"""

import contextlib
from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

from pydantic import ValidationError

from tidegate.api.base import Condition, Resource
from tidegate.domain.conditions import Health, set_health
from tidegate.errors import Conflict, Ending, Stalled, TidegateError, Waiting
from tidegate.ports import Clock, Events, Key, Manifest, Objects, Reconciler, Requeue, Unanswered

__all__ = ["ErrorMapping", "Gone", "parse", "parse_all", "read"]

TOLERATED_ERRORS = 3
"""Consecutive errors before people are told: a hiccup of the API server is no news."""

AnyResource = TypeVar("AnyResource", bound=Resource)


class Gone(Exception):
    """The object is not there any more, or is being deleted and needs nothing."""


def read(objects: Objects, key: Key, model: type[AnyResource]) -> tuple[AnyResource, Manifest]:
    """Return the object as its model, and as it was read for the status to be written back.

    Raises:
        Gone: There is no such object.
        Stalled: The object does not fit its model.
    """
    manifest = objects.get(key)
    if manifest is None or manifest["metadata"].get("deletionTimestamp"):
        raise Gone
    return parse(model, manifest), manifest


def parse(model: type[AnyResource], manifest: Manifest) -> AnyResource:
    """Read a manifest into its model; Stalled names the field that does not fit."""
    try:
        return model.model_validate(manifest)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise Stalled("InvalidSpec", f"{field}: {first['msg']}; change this field") from error


def parse_all(model: type[AnyResource], manifests: Iterable[Manifest]) -> list[AnyResource]:
    """Read what can be read: a broken neighbour must not stop an object that is well."""
    return [found for manifest in manifests if (found := _try_parse(model, manifest)) is not None]


def _try_parse(model: type[AnyResource], manifest: Manifest) -> AnyResource | None:
    try:
        return parse(model, manifest)
    except Stalled:
        return None


class ErrorMapping:
    """Wraps a reconciler and turns what it raises into conditions and the time of the next look."""

    def __init__(
        self, inner: Reconciler, objects: Objects, unanswered: Unanswered, events: Events, clock: Clock
    ) -> None:
        """Wrap `inner`."""
        self._inner = inner
        self._objects = objects
        self._unanswered = unanswered
        self._events = events
        self._clock = clock
        self._failures: Counter[Key] = Counter()

    async def reconcile(self, key: Key) -> Requeue | None:
        """Reconcile; Waiting and Stalled end here, anything else goes on to the queue, which retries with back-off."""
        try:
            await self._unanswered.read_again()
            requeue = await self._inner.reconcile(key)
        except (Gone, Ending):
            requeue = None
        except Waiting as error:
            await self._tell(key, Health.RECONCILING, error)
            requeue = Requeue(error.after)
        except Stalled as error:
            await self._tell(key, Health.STALLED, error)
            requeue = None
        except Exception as error:
            await self._count(key, error)
            raise
        self._failures.pop(key, None)
        return requeue

    async def _count(self, key: Key, error: Exception) -> None:
        if isinstance(error, Conflict):
            return
        self._failures[key] += 1
        if self._failures[key] >= TOLERATED_ERRORS:
            known = error if isinstance(error, TidegateError) else TidegateError("InternalError", repr(error))
            with contextlib.suppress(TidegateError):  # the error itself is what the queue has to see
                await self._tell(key, Health.RECONCILING, known, observed=False)

    async def _tell(self, key: Key, health: Health, error: TidegateError, *, observed: bool = True) -> None:
        manifest = self._objects.get(key)
        if manifest is None or not _is_news(manifest, health, error, observed):
            return
        status = dict(manifest.get("status") or {})
        generation = manifest["metadata"].get("generation", 1)
        old = _read_conditions(status)
        new = set_health(old, health, error.reason, error.message, generation=generation, now=self._clock.now())
        status["conditions"] = [condition.to_json() for condition in new]
        status["message"] = error.message
        if observed:
            status["observedGeneration"] = generation
        await self._objects.patch_status(manifest, status)
        self._events.emit(manifest, error.reason, error.message, warning=health is Health.STALLED or not observed)


def _read_conditions(status: Manifest) -> tuple[Condition, ...]:
    return tuple(Condition.model_validate(each) for each in status.get("conditions", ()))


def _is_news(manifest: Manifest, health: Health, error: TidegateError, observed: bool) -> bool:
    status = manifest.get("status") or {}
    if observed and status.get("observedGeneration") != manifest["metadata"].get("generation"):
        return True
    for each in status.get("conditions", ()):
        if each["type"] == health and each["status"] == "True":
            return bool(each["reason"] != error.reason or each["message"] != error.message)
    return True
