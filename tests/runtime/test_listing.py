"""Complete lists: all namespaces or some, in pages, children by label, and what the watches missed."""

import asyncio
from typing import Any

import pytest

from tests.fakes.api import FakeApi, unavailable
from tidegate.adapters import listing as module
from tidegate.adapters.cache import ObjectCache
from tidegate.adapters.listing import Listing
from tidegate.errors import Unavailable
from tidegate.handlers import CHILD_SELECTOR, build_settings
from tidegate.ports import DEPLOYMENT, WORKLOAD, Key


def add(api: FakeApi, kind: Any, namespace: str, name: str, **labels: str) -> None:
    path = f"/apis/{kind.api_version}/namespaces/{namespace}/{kind.plural}/{name}"
    metadata = {"name": name, "namespace": namespace, "labels": {k.replace("_", "-"): v for k, v in labels.items()}}
    api._store(path, {"metadata": metadata, "spec": {}})


async def test_first_list_fills_the_memory_and_the_second_cures_gaps() -> None:
    api, cache = FakeApi(), ObjectCache()
    add(api, DEPLOYMENT, "a", "d")
    add(api, DEPLOYMENT, "b", "d")
    listing = Listing(api, cache, (), CHILD_SELECTOR)  # type: ignore[arg-type]
    assert await listing.refresh() == 2
    assert cache.get(Key(DEPLOYMENT, "a", "d")) is not None
    assert await listing.refresh() == 0
    del api.objects["/apis/tidegate.dev/v1alpha1/namespaces/a/deployments/d"]
    add(api, DEPLOYMENT, "a", "e")
    assert await listing.refresh() == 2
    assert cache.get(Key(DEPLOYMENT, "a", "d")) is None


async def test_only_the_namespaces_that_are_asked_for() -> None:
    api, cache = FakeApi(), ObjectCache()
    for namespace in "abc":
        add(api, DEPLOYMENT, namespace, "d")
    await Listing(api, cache, ("a", "b"), CHILD_SELECTOR).refresh()  # type: ignore[arg-type]
    assert {each["metadata"]["namespace"] for each in cache.all(DEPLOYMENT)} == {"a", "b"}


async def test_only_children_of_ours() -> None:
    api, cache = FakeApi(), ObjectCache()
    add(api, WORKLOAD, "a", "foreign")
    path = "/apis/apps/v1/namespaces/a/deployments/ours"
    labels = {"app.kubernetes.io/managed-by": "tidegate"}
    api._store(path, {"metadata": {"name": "ours", "namespace": "a", "labels": labels}, "spec": {}})
    await Listing(api, cache, (), CHILD_SELECTOR).refresh()  # type: ignore[arg-type]
    assert [each["metadata"]["name"] for each in cache.all(WORKLOAD)] == ["ours"]


async def test_pages_are_put_together() -> None:
    class Paged(FakeApi):
        async def get(self, path: str, params: Any = None) -> dict[str, Any] | None:
            if not path.endswith("tidegate.dev/v1alpha1/deployments"):
                return await super().get(path, params)
            page = int((params or {}).get("continue", "0"))
            metadata = {"name": f"d{page}", "namespace": "a", "uid": f"u{page}", "resourceVersion": str(page + 1)}
            more = {"continue": str(page + 1)} if page < 3 else {}
            return {"metadata": {"resourceVersion": "50"} | more, "items": [{"metadata": metadata}]}

    cache = ObjectCache()
    await Listing(Paged(), cache, (), CHILD_SELECTOR).refresh()  # type: ignore[arg-type]
    assert len(list(cache.all(DEPLOYMENT))) == 4


async def test_what_nobody_reads_is_dropped_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start with thousands of objects must not need more memory than what is kept of them."""
    api, cache, taken = FakeApi(), ObjectCache(), []
    path = "/apis/tidegate.dev/v1alpha1/namespaces/a/deployments/d"
    api._store(path, {"metadata": {"name": "d", "namespace": "a", "managedFields": [{"manager": "kubectl"}]}})
    monkeypatch.setattr(cache, "replace", lambda kind, namespace, manifests, version: taken.extend(manifests) or 0)
    await Listing(api, cache, (), CHILD_SELECTOR).refresh()  # type: ignore[arg-type]
    assert ["managedFields" in each["metadata"] for each in taken] == [False]


def test_kopf_lists_in_pages_too() -> None:
    assert build_settings().watching.chunk_size == module.PAGE


async def test_resync_goes_on_after_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    api, cache = FakeApi(), ObjectCache()
    listing = Listing(api, cache, (), CHILD_SELECTOR)  # type: ignore[arg-type]
    api.fault = unavailable
    with pytest.raises(Unavailable):
        await listing.refresh()
    task = asyncio.create_task(listing.keep(0.001))
    async with asyncio.timeout(5):
        while len(api.requests) < 3:
            await asyncio.sleep(0)
        api.fault = None
        add(api, DEPLOYMENT, "a", "d")
        while cache.get(Key(DEPLOYMENT, "a", "d")) is None:
            await asyncio.sleep(0)
    task.cancel()
    assert module.FIRST_RESYNC > 0
