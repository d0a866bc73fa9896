"""The API to which trainer pods post their progress."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.fakes.world import FakeClock, FakeObjects
from tests.training.support import NOW, FakeJobController, job_key, training_key, training_manifest
from tidegate.adapters.progress import Pending, ProgressWriter, build_application
from tidegate.api.training_job import Progress
from tidegate.domain.progress import ProgressReport, merge_progress
from tidegate.errors import Conflict, Unavailable
from tidegate.ports import Key, PodIdentity

REPORT = {"percent": 42.5, "epoch": 4, "epochs": 8, "step": 1200, "estimatedSecondsLeft": 31, "metrics": {"loss": 1.02}}
URL = "/v1/namespaces/default/trainingjobs/connect4-policy/progress"


class FakeTokens:
    """Tokens whose text is `namespace/pod/uid`."""

    def __init__(self) -> None:
        self.asked = 0
        self.away = False

    async def review(self, token: str, audience: str) -> PodIdentity | None:
        assert audience == "tidegate-progress"
        self.asked += 1
        if self.away:
            raise Unavailable("ApiUnavailable", "timed out")
        parts = token.split("/")
        return PodIdentity(*parts) if len(parts) == 3 else None


class Bench:
    """The application on a world with one running training."""

    def __init__(self) -> None:
        self.world = FakeObjects(training_manifest())
        self.clock = FakeClock(NOW)
        self.tokens = FakeTokens()
        self.leading = True
        self._make_job()
        self.trainer = FakeJobController(self.world, self.clock, job_key(), "trainer")
        self.trainer.step()
        self.trainer.run()

    def application(self, interval: float = 0.05) -> web.Application:
        return build_application(self.world, self.tokens, self.clock, lambda: self.leading, interval)

    def _make_job(self) -> None:
        uid = self.world.get(training_key())["metadata"]["uid"]  # type: ignore[index]
        owner = {"apiVersion": "v", "kind": "TrainingJob", "name": "connect4-policy", "uid": uid, "controller": True}
        metadata = {"name": job_key().name, "namespace": "default", "ownerReferences": [owner]}
        spec = {"template": {"metadata": {"labels": {}}}, "backoffLimit": 2}
        self.world.put({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec})

    def token(self, pod: int = -1) -> str:
        metadata = self.trainer.pods()[pod]["metadata"]
        return f"{metadata['namespace']}/{metadata['name']}/{metadata['uid']}"

    @property
    def progress(self) -> dict[str, Any]:
        found: dict[str, Any] = self.world.status_of(training_key()).get("progress") or {}
        return found


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(bench.application())) as made:
        yield made


async def post(client: TestClient[Any, Any], token: str | None, body: Any = None, url: str = URL) -> tuple[int, Any]:
    """Post one report; return status and JSON."""
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    content = body if isinstance(body, str) else json.dumps(REPORT if body is None else body)
    async with client.post(url, data=content, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None) if answer.status != 204 else None


async def until(condition: Any, timeout: float = 5) -> None:
    """Poll with a deadline."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


async def test_report_of_the_own_pod(bench: Bench, client: TestClient[Any, Any]) -> None:
    assert await post(client, bench.token()) == (204, None)
    await until(lambda: bench.progress)
    assert bench.progress == REPORT | {
        "estimatedSecondsLeft": 31.0,
        "pod": bench.trainer.pods()[-1]["metadata"]["name"],
        "updatedAt": "2026-01-01T00:00:00.000000Z",
    }
    assert bench.world.requests == [("patch_status", training_key())]


@pytest.mark.parametrize(
    ("token", "url", "status", "reason"),
    [
        (None, URL, 401, "NoToken"),
        ("", URL, 401, "NoToken"),
        ("rubbish", URL, 401, "InvalidToken"),
        ("default/other-pod/u", URL, 403, "OtherTrainingJob"),
        ("elsewhere/pod/u", URL, 403, "OtherNamespace"),
        ("default/pod/u", URL.replace("connect4-policy", "unknown"), 404, "TrainingJobNotFound"),
        ("default/pod/u", "/v1/nothing", 404, "NotFound"),
    ],
)
async def test_refusals(client: TestClient[Any, Any], token: str, url: str, status: int, reason: str) -> None:
    answer = await post(client, token, url=url)
    assert (answer[0], answer[1]["reason"]) == (status, reason)
    assert answer[1]["message"]


async def test_pod_of_the_same_name_with_another_uid(bench: Bench, client: TestClient[Any, Any]) -> None:
    namespace, name, _ = bench.token().split("/")
    assert (await post(client, f"{namespace}/{name}/another"))[0] == 403


async def test_pod_of_another_job_of_the_same_training(bench: Bench, client: TestClient[Any, Any]) -> None:
    """A pod that only claims to belong to it: its owner is a Job that somebody else made."""
    other = Key(job_key().kind, "default", "other")
    bench.world.put({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "other", "namespace": "default"}})
    uid = bench.world.get(other)["metadata"]["uid"]  # type: ignore[index]
    pod = bench.trainer.pods()[-1]
    owner = {"kind": "Job", "name": "other", "uid": uid, "controller": True}
    forged = pod | {"metadata": pod["metadata"] | {"name": "forged", "ownerReferences": [owner]}}
    stored = bench.world.put(forged)
    assert (await post(client, f"default/forged/{stored['metadata']['uid']}"))[0] == 403


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("not JSON", "no JSON"),
        ("[]", "body"),
        ({}, "percent"),
        ({"percent": 101}, "percent"),
        ({"percent": -1}, "percent"),
        ('{"percent": NaN}', "percent"),
        ('{"percent": 1, "metrics": {"loss": Infinity}}', "metrics.loss"),
        ({"percent": 1, "metrics": {str(n): n for n in range(65)}}, "metrics"),
        ({"percent": 1, "epoch": -1}, "epoch"),
        ({"percent": 1, "message": "x" * 1025}, "message"),
    ],
)
async def test_bad_report_names_its_field(bench: Bench, client: TestClient[Any, Any], body: Any, field: str) -> None:
    status, answer = await post(client, bench.token(), body)
    assert (status, answer["reason"]) == (422, "InvalidReport")
    assert field in answer["message"]
    assert bench.progress == {}


async def test_report_that_is_too_large(bench: Bench, client: TestClient[Any, Any]) -> None:
    status, answer = await post(client, bench.token(), json.dumps({"percent": 1, "x": "y" * 70_000}))
    assert (status, answer["reason"]) == (413, "TooLarge")


async def test_unknown_fields_of_a_newer_trainer_are_ignored(bench: Bench, client: TestClient[Any, Any]) -> None:
    assert (await post(client, bench.token(), {"percent": 1, "gpuTemperature": 61}))[0] == 204


async def test_standby_sends_the_trainer_on(bench: Bench, client: TestClient[Any, Any]) -> None:
    bench.leading = False
    async with client.post(URL, data=json.dumps(REPORT), headers={"Authorization": "Bearer x"}) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert (await answer.json())["reason"] == "NotLeading"
    assert bench.tokens.asked == 0


async def test_api_server_away(bench: Bench, client: TestClient[Any, Any]) -> None:
    bench.tokens.away = True
    assert (await post(client, bench.token()))[0] == 503
    bench.tokens.away = False
    assert (await post(client, bench.token()))[0] == 204


async def test_tokens_are_remembered_for_a_short_time(bench: Bench, client: TestClient[Any, Any]) -> None:
    for _ in range(5):
        await post(client, bench.token())
        await post(client, "rubbish")
    assert bench.tokens.asked == 2
    bench.clock.advance(seconds=6)
    await post(client, "rubbish")
    assert bench.tokens.asked == 3
    bench.clock.advance(seconds=60)
    await post(client, bench.token())
    assert bench.tokens.asked == 4


async def test_many_reports_are_few_writes_and_the_last_one_lands(bench: Bench) -> None:
    async with TestClient(TestServer(bench.application(interval=0.2))) as client:
        for step in range(100):
            assert (await post(client, bench.token(), {"percent": step * 0.5, "step": step}))[0] == 204
        await until(lambda: bench.progress.get("step") == 99)
    assert len(bench.world.requests) < 50


async def test_shutdown_writes_what_is_left(bench: Bench) -> None:
    async with TestClient(TestServer(bench.application(interval=3600))) as client:
        await post(client, bench.token(), {"percent": 1})
        await until(lambda: bench.progress.get("percent") == 1)
        await post(client, bench.token(), {"percent": 2})
    assert bench.progress["percent"] == 2


async def test_conflict_with_another_writer_is_tried_again_on_a_fresh_read(bench: Bench) -> None:
    refusals = iter([Conflict("Conflict", "changed"), Conflict("Conflict", "changed")])
    bench.world.fault = lambda verb, key: next(refusals, None)
    async with TestClient(TestServer(bench.application())) as client:
        await post(client, bench.token())
        await until(lambda: bench.progress)


async def test_report_outlives_an_api_server_that_is_away(bench: Bench) -> None:
    outages = iter([Unavailable("ApiUnavailable", "away")] * 3)
    bench.world.fault = lambda verb, key: next(outages, None)
    async with TestClient(TestServer(bench.application(interval=0.01))) as client:
        await post(client, bench.token())
        await until(lambda: bench.progress)


async def test_other_fields_of_the_status_stay(bench: Bench, client: TestClient[Any, Any]) -> None:
    bench.world.change(training_key(), lambda found: found.update(status={"phase": "Running", "jobName": "j"}))
    await post(client, bench.token())
    await until(lambda: bench.progress)
    status = bench.world.status_of(training_key())
    assert (status["phase"], status["jobName"]) == ("Running", "j")


async def test_finished_training_takes_no_more_reports(bench: Bench) -> None:
    bench.world.change(training_key(), lambda found: found.update(status={"phase": "Failed"}))
    async with TestClient(TestServer(bench.application())) as client:
        assert (await post(client, bench.token()))[0] == 204
    assert bench.progress == {}


async def test_writer_rests_when_nothing_is_pending(bench: Bench) -> None:
    waits: list[float] = []

    async def wait(interval: float) -> None:
        waits.append(interval)

    writer = ProgressWriter(bench.world, bench.clock, 2.0, wait)
    writer.submit(training_key(), Pending(ProgressReport(percent=1), "pod"))
    await until(lambda: not writer._tasks)
    assert waits == [2.0]


# ---- progress never goes back without a reason -----------------------------------------------------------------------


def report(percent: float, message: str | None = None) -> ProgressReport:
    return ProgressReport(percent=percent, message=message)


def test_percentage_of_one_pod_never_goes_back() -> None:
    before = Progress(percent=50, pod="a")
    assert merge_progress(before, report(40), "a", NOW).percent == 50
    assert merge_progress(before, report(60), "a", NOW).percent == 60


def test_resumed_pod_says_why_it_went_back() -> None:
    resumed = merge_progress(Progress(percent=50, pod="a"), report(40, "epoch 4"), "b", NOW)
    assert resumed.percent == 40
    assert resumed.message == "resumed from a checkpoint at 40 %; the pod before was at 50 %. epoch 4"
    later = merge_progress(resumed, report(45), "b", NOW)
    assert later.message == resumed.message


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 100)), max_size=30))
def test_going_back_always_has_a_message(reports: list[tuple[str, float]]) -> None:
    progress: Progress | None = None
    for pod, percent in reports:
        following = merge_progress(progress, report(percent), pod, NOW)
        if progress is not None and following.percent < progress.percent:
            assert pod != progress.pod
            assert "resumed" in (following.message or "")
        progress = following


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(value: float) -> None:
    with pytest.raises(ValidationError):
        ProgressReport(percent=1, metrics={"loss": value})
