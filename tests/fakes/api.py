"""An API server in memory, in place of `ApiConnection`: versions, server-side apply, faults and lost answers."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tidegate.adapters.connection import APPLY_PATCH, MERGE_PATCH
from tidegate.errors import Conflict, Refused, Unavailable

Manifest = dict[str, Any]
Document = TypeVar("Document")
Fault = Callable[[str, str], Exception | None]
"""Gets method and path; what it returns is raised instead of the request."""


class FakeApi:
    """Has the methods of `ApiConnection`. Every request lets other tasks run first, as a network does."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.objects: dict[str, Manifest] = {}
        self.requests: list[tuple[str, str]] = []
        self.fault = fault
        self.lose_answer: Fault | None = None
        """Like `fault`, but the request is carried out before the exception is raised."""
        self._version = 100
        self._applied: dict[tuple[str, str], Manifest] = {}

    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.requests if method != "GET"]

    async def close(self) -> None:
        return

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Manifest | None:
        return await self._request("GET", path, lambda: self._get(path, params or {}))

    async def post(self, path: str, body: Manifest) -> Manifest:
        found = await self._request("POST", path, lambda: self._post(path, body))
        assert found is not None
        return found

    async def put(self, path: str, body: Manifest) -> Manifest:
        found = await self._request("PUT", path, lambda: self._put(path, body))
        assert found is not None
        return found

    async def patch(
        self, path: str, body: Manifest, content_type: str, params: Mapping[str, str] | None = None
    ) -> Manifest | None:
        if content_type == APPLY_PATCH:
            manager = (params or {})["fieldManager"]
            return await self._request("PATCH", path, lambda: self._apply(path, body, manager))
        assert content_type == MERGE_PATCH
        return await self._request("PATCH", path, lambda: self._merge_patch(path, body))

    async def delete(self, path: str, options: Manifest) -> Manifest | None:
        return await self._request("DELETE", path, lambda: self._delete(path, options))

    async def _request(self, method: str, path: str, act: Callable[[], Manifest | None]) -> Manifest | None:
        await asyncio.sleep(0)
        self.requests.append((method, path))
        if self.fault and (error := self.fault(method, path)):
            raise error
        answer = duplicate(act())
        if self.lose_answer and (error := self.lose_answer(method, path)):
            raise error
        await asyncio.sleep(0)
        return answer

    def _get(self, path: str, params: Mapping[str, str]) -> Manifest | None:
        if path in self.objects:
            return self.objects[path]
        if _is_collection(path):
            items = [each for where, each in sorted(self.objects.items()) if _collection_of(where, path)]
            if selector := params.get("labelSelector"):
                label, _, value = selector.partition("=")
                items = [each for each in items if each["metadata"].get("labels", {}).get(label) == value]
            return {"kind": "List", "metadata": {"resourceVersion": str(self._version)}, "items": items}
        return None

    def _post(self, path: str, body: Manifest) -> Manifest:
        where = f"{path}/{body['metadata']['name']}"
        if where in self.objects:
            raise Conflict("AlreadyExists", f"{where} already exists")
        return self._store(where, body)

    def _put(self, path: str, body: Manifest) -> Manifest:
        before = self.objects.get(path)
        if before is None:
            raise Refused("NotFound", path)
        if body["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]:
            raise Conflict("Conflict", f"{path} was changed")
        return self._store(path, body)

    def _apply(self, path: str, body: Manifest, manager: str) -> Manifest:
        json.dumps(body)
        live = duplicate(self.objects.get(path, {}))
        _prune(live, self._applied.get((path, manager), {}), body)
        self._applied[path, manager] = duplicate(body)
        return self._store(path, _merge(live, body))

    def _merge_patch(self, path: str, body: Manifest) -> Manifest | None:
        where = path.removesuffix("/status")
        before = self.objects.get(where)
        if before is None:
            return None
        version = body.get("metadata", {}).get("resourceVersion")
        if version is not None and version != before["metadata"]["resourceVersion"]:
            raise Conflict("Conflict", f"{where} was changed")
        return self._store(where, _merge_rfc7396(duplicate(before), body))

    def _delete(self, path: str, options: Manifest) -> Manifest | None:
        found = self.objects.get(path)
        if found is None:
            return None
        wanted = options.get("preconditions", {}).get("uid")
        if wanted is not None and wanted != found["metadata"]["uid"]:
            raise Conflict("Conflict", "another uid")
        if found["metadata"].get("finalizers"):
            deleted = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
            return self._store(path, found | {"metadata": found["metadata"] | deleted})
        del self.objects[path]
        self._version += 1
        return {"kind": "Status", "status": "Success"}

    def _new_uid(self, path: str) -> str:
        return f"uid-{self._version}"

    def _store(self, path: str, manifest: Manifest) -> Manifest:
        before = self.objects.get(path)
        manifest = duplicate(manifest)
        metadata = manifest["metadata"]
        self._version += 1
        metadata["uid"] = before["metadata"]["uid"] if before else self._new_uid(path)
        metadata["resourceVersion"] = before["metadata"]["resourceVersion"] if before else str(self._version)
        metadata["generation"] = before["metadata"]["generation"] if before else 1
        if before is not None and before == manifest:
            return before
        if before is not None and before.get("spec") != manifest.get("spec"):
            metadata["generation"] += 1
        metadata["resourceVersion"] = str(self._version)
        self.objects[path] = manifest
        return manifest


def duplicate(document: Document) -> Document:
    """Copy what could be JSON, several times as fast as deepcopy."""
    found: Document = pickle.loads(pickle.dumps(document))
    return found


def unavailable(*_: object) -> Exception:
    """A fault: the API server does not answer."""
    return Unavailable("ApiServerUnavailable", "no answer")


def _is_collection(path: str) -> bool:
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    return len(rest) in (1, 3)


def _collection_of(where: str, path: str) -> bool:
    folder, _, _ = where.rpartition("/")
    if folder == path:
        return True
    root, _, plural = path.rpartition("/")
    return "/namespaces/" not in path and folder.startswith(f"{root}/namespaces/") and folder.endswith(f"/{plural}")


def _prune(live: Manifest, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name, value in before.items():
        if name not in wanted:
            live.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(wanted[name], Mapping) and isinstance(live.get(name), dict):
            _prune(live[name], value, wanted[name])


def _merge(live: Manifest, wanted: Mapping[str, Any]) -> Manifest:
    for name, value in wanted.items():
        if isinstance(value, Mapping) and isinstance(live.get(name), dict):
            _merge(live[name], value)
        else:
            live[name] = duplicate(value)
    return live


def _merge_rfc7396(live: Manifest, patch: Mapping[str, Any]) -> Manifest:
    for name, value in patch.items():
        if value is None:
            live.pop(name, None)
        elif isinstance(value, Mapping):
            live[name] = _merge_rfc7396(live.get(name) or {}, value)
        else:
            live[name] = duplicate(value)
    return live
