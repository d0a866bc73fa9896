"""The progress API with real bound tokens, checked by the real API server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.training.support import CONFIG, ROOT, Cluster, training_manifest
from tidegate.adapters.progress import build_application
from tidegate.api.training_job import TrainingJob
from tidegate.domain.manifests.training_job import build_training
from tidegate.domain.training_plan import Run, StartJob
from tidegate.errors import Conflict
from tidegate.ports import TRAINING_JOB, Key, Manifest

pytestmark = pytest.mark.apiserver


async def make_training(cluster: Cluster, name: str) -> Manifest:
    """A TrainingJob, its Job and its pod; the pod is returned."""
    stored = TrainingJob.model_validate(await cluster.create(training_manifest(name)))
    config_map, job = build_training(stored, StartJob(Run("1", "r", ROOT), None), CONFIG)
    await cluster.objects.apply(config_map)
    return await cluster.create_pod(await cluster.objects.apply(job), f"{name}-pod")


def bound_token(cluster: Cluster, pod: Manifest, audience: str = "tidegate-progress") -> str:
    """The token that the kubelet would mount."""
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={name}", f"--bound-object-uid={uid}")
    return cluster.token(f"--audience={audience}", *bound)


async def post(client: TestClient[Any, Any], cluster: Cluster, token: str, name: str, percent: float = 10) -> int:
    url = f"/v1/namespaces/{cluster.namespace}/trainingjobs/{name}/progress"
    headers = {"Authorization": f"Bearer {token}"}
    async with client.post(url, data=json.dumps({"percent": percent}), headers=headers) as answer:
        return answer.status


async def test_who_may_report_for_whom(cluster: Cluster) -> None:
    mine, other = await make_training(cluster, "mine"), await make_training(cluster, "other")
    application = build_application(cluster.objects, cluster.tokens, cluster.clock, lambda: True, 0.05)
    async with TestClient(TestServer(application)) as client:
        token = bound_token(cluster, mine)
        assert await post(client, cluster, token, "mine", 42.5) == 204
        assert await post(client, cluster, token, "other") == 403
        assert await post(client, cluster, bound_token(cluster, other), "mine") == 403
        assert await post(client, cluster, bound_token(cluster, mine, "https://kubernetes.default.svc"), "mine") == 401
        assert await post(client, cluster, cluster.token("--audience=tidegate-progress"), "mine") == 401
        assert await post(client, cluster, "eyJhbGciOiJSUzI1NiJ9.e30.AAAA", "mine") == 401
        await _until_stored(cluster, "mine", 42.5)
    stored = await cluster.get(Key(TRAINING_JOB, cluster.namespace, "other"))
    assert stored is not None
    assert "progress" not in (stored.get("status") or {})


async def test_many_reports_and_a_second_writer(cluster: Cluster) -> None:
    """The operator writes the same status meanwhile; neither loses what the other wrote."""
    pod = await make_training(cluster, "busy")
    key = Key(TRAINING_JOB, cluster.namespace, "busy")
    application = build_application(cluster.objects, cluster.tokens, cluster.clock, lambda: True, 0.02)
    async with TestClient(TestServer(application)) as client:
        token = bound_token(cluster, pod)
        for number in range(20):
            assert await post(client, cluster, token, "busy", number) == 204
            await _write_message(cluster, key, f"message {number}")
        await _until_stored(cluster, "busy", 19)
    stored = await cluster.get(key)
    assert stored is not None
    assert stored["status"]["message"] == "message 19"


async def _write_message(cluster: Cluster, key: Key, message: str) -> None:
    """Write as the reconciler does: on a conflict read and write again."""
    while True:
        found = cluster.objects.get(key)
        assert found is not None
        try:
            await cluster.objects.patch_status(found, {**(found.get("status") or {}), "message": message})
        except Conflict:
            continue
        return


async def _until_stored(cluster: Cluster, name: str, percent: float) -> None:
    """Within five seconds, as promised."""
    async with asyncio.timeout(5):
        while True:
            stored = await cluster.get(Key(TRAINING_JOB, cluster.namespace, name)) or {}
            if ((stored.get("status") or {}).get("progress") or {}).get("percent") == percent:
                return
            await asyncio.sleep(0.02)
