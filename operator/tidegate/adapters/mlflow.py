"""MLflow over its REST API.

Not through mlflow-skinny: importing its client costs 48 MB of memory and two seconds, as much as half the operator, for
a dozen calls; and it blocks, so that a dead server would need threads. Every call here is bounded by a short time-out,
changes nothing when it is repeated, and translates all that goes wrong into Unavailable, with the reason MLflowRefused
where only a person can mend it.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from tidegate.domain.mlflow_names import RESULT_TAG, UID_TAG
from tidegate.domain.training_plan import Run
from tidegate.errors import Unavailable

__all__ = ["MLflow"]

TIMEOUT = aiohttp.ClientTimeout(total=5, sock_connect=2)
NOT_FOUND = "RESOURCE_DOES_NOT_EXIST"
ALREADY_EXISTS = "RESOURCE_ALREADY_EXISTS"
CHAMPION, PREVIOUS = "champion", "previous"
STAGE_TAG = "tidegate.dev/stage"

Json = dict[str, Any]


class RefusalError(Exception):
    """MLflow understood the request and says no."""

    def __init__(self, status: int, code: str, message: str) -> None:
        """Take the HTTP status, MLflow's error code and its message."""
        super().__init__(message)
        self.code = code
        self.is_passing = status == 429 or not 400 <= status < 500
        """Whether the same request may be taken later."""


class MLflow:
    """The port `Registry` on a tracking server."""

    def __init__(self, url: str, timeout: aiohttp.ClientTimeout = TIMEOUT) -> None:
        """Open nothing yet."""
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def ensure_run(self, experiment: str, uid: str, tags: Mapping[str, str]) -> Run:
        """Return the run of the object with this uid; make it, and its experiment, if there is none."""
        experiment_id = await self._ensure_experiment(experiment)
        run = await self._find_run(experiment_id, uid) or await self._create_run(experiment_id, uid, tags)
        info = run["info"]
        _check_artifact_uri(info["artifact_uri"])
        return Run(experiment_id, info["run_id"], info["artifact_uri"])

    async def recorded_result(self, run_id: str) -> str | None:
        """Return the result that the trainer recorded on the run, as JSON."""
        answer = await self._get("runs/get", {"run_id": run_id}, accept=NOT_FOUND)
        tags = answer.get("run", {}).get("data", {}).get("tags", ())
        return next((str(tag["value"]) for tag in tags if tag["key"] == RESULT_TAG), None)

    async def end_run(self, run_id: str, outcome: str) -> None:
        """Mark the run as FINISHED, FAILED or KILLED; a run that is gone is fine."""
        body = {"run_id": run_id, "status": str(outcome), "end_time": _milliseconds()}
        await self._post("runs/update", body, accept=NOT_FOUND)

    async def ensure_version(
        self, model: str, uid: str, source: str, run_id: str | None, tags: Mapping[str, str]
    ) -> str:
        """Return the number of the registered version of the object with this uid; make it if there is none."""
        await self._post("registered-models/create", {"name": model}, accept=ALREADY_EXISTS)
        known = f"name = '{model}' AND tags.`{UID_TAG}` = '{uid}'"
        found = await self._get("model-versions/search", {"filter": known, "max_results": "1"})
        for version in found.get("model_versions", ()):
            return str(version["version"])
        body = {"name": model, "source": source, "tags": _tag_list({**tags, UID_TAG: uid})}
        answer = await self._post("model-versions/create", body | ({"run_id": run_id} if run_id else {}))
        return str(answer["model_version"]["version"])

    async def set_stage(
        self, model: str, version: str, stage: str, aliases: Sequence[str], managed: Sequence[str]
    ) -> None:
        """Tag the version with its stage; let `aliases` point at it, and none of the other `managed` ones."""
        tag = {"name": model, "version": version, "key": STAGE_TAG, "value": str(stage)}
        await self._post("model-versions/set-tag", tag)
        answer = await self._get("registered-models/get", {"name": model})
        pointing = {each["alias"]: str(each["version"]) for each in answer["registered_model"].get("aliases", ())}
        for alias in aliases:
            if pointing.get(alias) != version:
                await self._move_alias(model, alias, version, pointing.get(alias))
        for alias in managed:
            if alias not in aliases and pointing.get(alias) == version:
                await self._call("DELETE", "registered-models/alias", json={"name": model, "alias": alias})

    async def _move_alias(self, model: str, alias: str, version: str, before: str | None) -> None:
        """The former champion gets its new name first: nothing is lost when the second request is not made."""
        if alias == CHAMPION and before is not None:
            await self._post("registered-models/alias", {"name": model, "alias": PREVIOUS, "version": before})
        await self._post("registered-models/alias", {"name": model, "alias": alias, "version": version})

    async def _ensure_experiment(self, name: str) -> str:
        found = await self._find_experiment(name)
        if not found:
            answer = await self._post("experiments/create", {"name": name}, accept=ALREADY_EXISTS)
            found = answer or await self._find_experiment(name)
        if found.get("lifecycle_stage") == "deleted":
            await self._post("experiments/restore", {"experiment_id": found["experiment_id"]})
        return str(found["experiment_id"])

    async def _find_experiment(self, name: str) -> Json:
        answer = await self._get("experiments/get-by-name", {"experiment_name": name}, accept=NOT_FOUND)
        return dict(answer.get("experiment", {}))

    async def _find_run(self, experiment_id: str, uid: str) -> Json | None:
        known = {"experiment_ids": [experiment_id], "filter": f"tags.`{UID_TAG}` = '{uid}'", "max_results": 1}
        answer = await self._post("runs/search", known)
        return next(iter(answer.get("runs", ())), None)

    async def _create_run(self, experiment_id: str, uid: str, tags: Mapping[str, str]) -> Json:
        body = {
            "experiment_id": experiment_id,
            "start_time": _milliseconds(),
            "tags": _tag_list({**tags, UID_TAG: uid}),
        }
        return dict((await self._post("runs/create", body))["run"])

    async def _get(self, path: str, params: Mapping[str, str], accept: str | None = None) -> Json:
        return await self._call("GET", path, accept, params=params)

    async def _post(self, path: str, body: Json, accept: str | None = None) -> Json:
        return await self._call("POST", path, accept, json=body)

    async def _call(self, method: str, path: str, accept: str | None = None, **arguments: Any) -> Json:
        """Send one request; the error code `accept` gives an empty answer."""
        try:
            return await self._send(method, f"{self._url}/api/2.0/mlflow/{path}", **arguments)
        except RefusalError as error:
            if error.code == accept:
                return {}
            reason = "MLflowUnavailable" if error.is_passing else "MLflowRefused"
            raise Unavailable(reason, f"MLflow refuses {path}: {error.code}: {str(error).rstrip('.')}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise Unavailable("MLflowUnavailable", f"no answer from MLflow at {self._url}: {why}") from error

    async def _send(self, method: str, url: str, **arguments: Any) -> Json:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        async with self._session.request(method, url, **arguments) as response:
            text = await response.text()
            answer = _parse(text)
            if response.status >= 400 or answer is None:
                code = (answer or {}).get("error_code", f"HTTP {response.status}")
                raise RefusalError(response.status, str(code), str((answer or {}).get("message", text[:200])))
            return answer


def _parse(text: str) -> Json | None:
    """Read an answer; None for what no MLflow says, such as the page of a proxy."""
    try:
        answer = json.loads(text) if text else {}
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _check_artifact_uri(uri: str) -> None:
    scheme = uri.partition(":")[0]
    if "/" in scheme or scheme == "file":
        message = (
            f"MLflow keeps artifacts in a folder of its own ({uri}), which no pod can reach; start it with "
            "--serve-artifacts --default-artifact-root mlflow-artifacts:/ or an s3:// or gs:// address"
        )
        raise Unavailable("NoArtifactStore", message)


def _tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _milliseconds() -> int:
    return int(time.time() * 1000)
