"""The MLflow adapter when MLflow is not as it should be; the real server is in test_mlflow_server.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from dev.cluster.apiserver import find_free_ports
from tidegate.adapters.mlflow import MLflow
from tidegate.errors import Unavailable

SHORT = aiohttp.ClientTimeout(total=0.2)


async def make(answer: Any) -> AsyncIterator[MLflow]:
    """An adapter on a server that answers everything alike."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(application) as server:
        adapter = MLflow(str(server.make_url("/")), SHORT)
        yield adapter
        await adapter.close()


async def hang(_: web.Request) -> web.Response:
    await asyncio.sleep(30)
    return web.Response()


def answering(status: int, body: str) -> Any:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    return answer


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (hang, "no answer from MLflow"),
        (answering(500, "<html>Bad gateway</html>"), "HTTP 500"),
        (answering(200, "<html>Sign in</html>"), "Sign in"),
        (answering(200, "[]"), "HTTP 200"),
        (answering(403, '{"error_code": "PERMISSION_DENIED", "message": "not you"}'), "PERMISSION_DENIED: not you"),
        (answering(503, ""), "HTTP 503"),
    ],
    ids=["hangs", "gateway", "login page", "no object", "denied", "empty"],
)
async def test_everything_that_goes_wrong_is_unavailable(answer: Any, said: str) -> None:
    async for adapter in make(answer):
        began = time.monotonic()
        for call in (
            adapter.ensure_run("e", "u", {}),
            adapter.end_run("r", "FINISHED"),
            adapter.recorded_result("r"),
            adapter.ensure_version("m", "u", "s3://b/m", None, {}),
            adapter.set_stage("m", "1", "None", (), ()),
        ):
            with pytest.raises(Unavailable, match=said):
                await call
        assert time.monotonic() - began < 5


async def test_nobody_listens() -> None:
    (port,) = find_free_ports(1)
    adapter = MLflow(f"http://127.0.0.1:{port}")
    with pytest.raises(Unavailable, match=f"no answer from MLflow at http://127.0.0.1:{port}"):
        await adapter.ensure_run("e", "u", {})
    await adapter.close()


async def test_artifacts_in_the_servers_own_folder_are_refused() -> None:
    async def answer(request: web.Request) -> web.Response:
        run = {"info": {"run_id": "r", "artifact_uri": "/mlruns/1/r/artifacts"}}
        kinds = {
            "get-by-name": {"experiment": {"experiment_id": "1"}},
            "search": {"runs": [run]},
        }
        return web.json_response(kinds[request.path.rpartition("/")[2]])

    async for adapter in make(answer):
        with pytest.raises(Unavailable, match="--serve-artifacts"):
            await adapter.ensure_run("e", "u", {})
