"""MLflow in memory behind the operator's own adapter; every request has an await before and one after it is done."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from tidegate.adapters.mlflow import ALREADY_EXISTS, NOT_FOUND, MLflow, RefusalError
from tidegate.domain.mlflow_names import UID_TAG

Json = dict[str, Any]
Look = Callable[[str, Json], None]
"""Gets path and body of a request before it is carried out."""


class Store:
    """What an MLflow server keeps."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, Json] = {}
        self.models: dict[str, Json] = {}
        """Versions and aliases, by name of the registered model."""

    def states(self) -> dict[str, str]:
        """Return what each run shows."""
        return {run_id: run["info"]["status"] for run_id, run in self.runs.items()}

    def show(self, run_id: str, state: str) -> None:
        """What a trainer says of itself."""
        self.runs[run_id]["info"]["status"] = state

    def answer(self, method: str, path: str, body: Json) -> Json:
        name = f"_{method}_{re.sub('[/-]', '_', path)}".lower()
        found: Json = getattr(self, name)(body)
        return found

    def _get_experiments_get_by_name(self, body: Json) -> Json:
        found = self.experiments.get(body["experiment_name"])
        if found is None:
            raise RefusalError(404, NOT_FOUND, body["experiment_name"])
        return {"experiment": {"experiment_id": found}}

    def _post_experiments_create(self, body: Json) -> Json:
        if body["name"] in self.experiments:
            raise RefusalError(400, ALREADY_EXISTS, body["name"])
        return {"experiment_id": self.experiments.setdefault(body["name"], str(len(self.experiments) + 1))}

    def _post_runs_search(self, body: Json) -> Json:
        found = [run for run in self.runs.values() if run["info"]["experiment_id"] in body["experiment_ids"]]
        return {"runs": [run for run in found if tags_of(run["data"])[UID_TAG] == quoted(body["filter"])[-1]]}

    def _post_runs_create(self, body: Json) -> Json:
        run_id = f"run-{len(self.runs) + 1}"
        uri = f"mlflow-artifacts:/{body['experiment_id']}/{run_id}/artifacts"
        info = {"run_id": run_id, "experiment_id": body["experiment_id"], "artifact_uri": uri, "status": "RUNNING"}
        self.runs[run_id] = {"info": info, "data": {"tags": body["tags"]}}
        return {"run": self.runs[run_id]}

    def _get_runs_get(self, body: Json) -> Json:
        return {"run": self.runs[body["run_id"]]}

    def _post_runs_update(self, body: Json) -> Json:
        self.show(body["run_id"], body["status"])
        return {}

    def _post_registered_models_create(self, body: Json) -> Json:
        if body["name"] in self.models:
            raise RefusalError(400, ALREADY_EXISTS, body["name"])
        self.models[body["name"]] = {"versions": [], "aliases": {}}
        return {}

    def _get_registered_models_get(self, body: Json) -> Json:
        aliases = self.models[body["name"]]["aliases"]
        return {"registered_model": {"aliases": [{"alias": key, "version": value} for key, value in aliases.items()]}}

    def _get_model_versions_search(self, body: Json) -> Json:
        name, uid = quoted(body["filter"])
        return {"model_versions": [each for each in self.models[name]["versions"] if tags_of(each)[UID_TAG] == uid]}

    def _post_model_versions_create(self, body: Json) -> Json:
        versions = self.models[body["name"]]["versions"]
        versions.append(body | {"version": str(len(versions) + 1)})
        return {"model_version": versions[-1]}

    def _post_model_versions_set_tag(self, body: Json) -> Json:
        version = self.models[body["name"]]["versions"][int(body["version"]) - 1]
        version["tags"] = [each for each in version["tags"] if each["key"] != body["key"]]
        version["tags"].append({"key": body["key"], "value": body["value"]})
        return {}

    def _post_registered_models_alias(self, body: Json) -> Json:
        self.models[body["name"]]["aliases"][body["alias"]] = body["version"]
        return {}

    def _delete_registered_models_alias(self, body: Json) -> Json:
        del self.models[body["name"]]["aliases"][body["alias"]]
        return {}


class InMemory(MLflow):
    """The operator's adapter, without a network; `look` may object to a request by raising."""

    def __init__(self, store: Store, look: Look) -> None:
        super().__init__("http://mlflow")
        self._store = store
        self._look = look

    async def _send(
        self, method: str, url: str, *, json: Json | None = None, params: Json | None = None, **_: Any
    ) -> Json:
        await asyncio.sleep(0)
        path, body = url.partition("/api/2.0/mlflow/")[2], json or params or {}
        self._look(path, body)
        answer = self._store.answer(method, path, body)
        await asyncio.sleep(0)
        return answer


def tags_of(carrier: Json) -> dict[str, str]:
    return {each["key"]: each["value"] for each in carrier["tags"]}


def quoted(text: str) -> list[str]:
    """Return the values that a filter compares with."""
    return re.findall(r"'([^']*)'", text)
