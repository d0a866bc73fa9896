"""The HTTP API to which trainer pods post their progress.

A pod proves who it is by its own service account token, which is bound to the pod and valid for this API alone. It may
report for one TrainingJob: the one whose Job owns it. Reports are written at most once per interval and object; the
last one always is. A replica that does not lead answers 503, and the trainer's next report, on a new connection, finds
the leader.
"""

import asyncio
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from tidegate.api.training_job import TrainingJob, TrainingPhase
from tidegate.domain.manifests.training_job import AUDIENCE
from tidegate.domain.progress import ProgressReport, merge_progress
from tidegate.errors import Conflict, TidegateError, Unavailable
from tidegate.ports import JOB, POD, TRAINING_JOB, Clock, Key, Manifest, Objects, PodIdentity, TokenReviews

__all__ = ["ProgressWriter", "build_application"]

LARGEST_BODY = 64 * 1024
WRITE_INTERVAL = 2.0
"""Seconds between two writes of one object."""
TOKEN_MEMORY = timedelta(seconds=60)
REFUSAL_MEMORY = timedelta(seconds=5)
REMEMBERED_TOKENS = 4096
REVIEWS_AT_ONCE = 8
WRITE_ATTEMPTS = 5
RETRY_AFTER = "1"

logger = logging.getLogger(__name__)

Wait = Callable[[float], Any]


class AnswerError(Exception):
    """The request is refused: with this status, reason and message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        """Take what the pod is told."""
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Pending:
    """The last report of a pod that is not written yet."""

    report: ProgressReport
    pod: str


def build_application(
    objects: Objects,
    tokens: TokenReviews,
    clock: Clock,
    is_leading: Callable[[], bool],
    write_interval: float = WRITE_INTERVAL,
) -> web.Application:
    """Return the application; its writer ends with it, and writes what is left before."""
    writer = ProgressWriter(objects, clock, write_interval)
    handler = ProgressHandler(objects, Gatekeeper(tokens, clock), writer, is_leading)
    application = web.Application(client_max_size=LARGEST_BODY, middlewares=[_explain_errors])
    application.router.add_post("/v1/namespaces/{namespace}/trainingjobs/{name}/progress", handler.post)
    application.cleanup_ctx.append(writer.run)
    return application


class ProgressHandler:
    """Decides about one request at a time."""

    def __init__(
        self, objects: Objects, gatekeeper: "Gatekeeper", writer: "ProgressWriter", is_leading: Callable[[], bool]
    ) -> None:
        """Use these."""
        self._objects = objects
        self._gatekeeper = gatekeeper
        self._writer = writer
        self._is_leading = is_leading

    async def post(self, request: web.Request) -> web.Response:
        """Take one report: 204, or the reason why not."""
        if not self._is_leading():
            raise AnswerError(503, "NotLeading", "another replica of the operator leads; report again")
        pod = await self._gatekeeper.identify(request.headers.get("Authorization"))
        key = Key(TRAINING_JOB, request.match_info["namespace"], request.match_info["name"])
        self._authorize(pod, key)
        self._writer.submit(key, Pending(_parse(await _read(request)), pod.name))
        return web.Response(status=204)

    def _authorize(self, pod: PodIdentity, key: Key) -> None:
        """Follow the owner references from the pod to its TrainingJob; labels and names prove nothing."""
        if pod.namespace != key.namespace:
            raise AnswerError(403, "OtherNamespace", f"pod {pod.name} runs in namespace {pod.namespace}")
        job = self._objects.get(key)
        if job is None:
            raise AnswerError(404, "TrainingJobNotFound", f"there is no TrainingJob {key.name} in {key.namespace}")
        if not self._belongs(pod, job):
            raise AnswerError(403, "OtherTrainingJob", f"pod {pod.name} does not belong to TrainingJob {key.name}")

    def _belongs(self, pod: PodIdentity, job: Manifest) -> bool:
        manifest = self._objects.get(Key(POD, pod.namespace, pod.name))
        if manifest is None or manifest["metadata"]["uid"] != pod.uid:
            return False
        owner = _controller(manifest, JOB.name)
        workload = self._objects.get(Key(JOB, pod.namespace, owner["name"])) if owner else None
        if owner is None or workload is None or workload["metadata"]["uid"] != owner["uid"]:
            return False
        maker = _controller(workload, TRAINING_JOB.name)
        return maker is not None and maker["uid"] == job["metadata"]["uid"]


class Gatekeeper:
    """Finds out which pod sent a request, and remembers it for a short time."""

    def __init__(self, tokens: TokenReviews, clock: Clock) -> None:
        """Ask `tokens` when the answer is not known."""
        self._tokens = tokens
        self._clock = clock
        self._known: OrderedDict[str, tuple[PodIdentity | None, datetime]] = OrderedDict()
        self._slots = asyncio.Semaphore(REVIEWS_AT_ONCE)

    async def identify(self, header: str | None) -> PodIdentity:
        """Return the pod behind an Authorization header."""
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise AnswerError(401, "NoToken", "send the pod's token as: Authorization: Bearer <token>")
        pod = await self._review(token.strip())
        if pod is None:
            message = f"the token is not that of a pod, has expired, or is not for the audience {AUDIENCE}"
            raise AnswerError(401, "InvalidToken", message)
        return pod

    async def _review(self, token: str) -> PodIdentity | None:
        digest = hashlib.sha256(token.encode()).hexdigest()
        pod, until = self._known.get(digest, (None, None))
        if until is not None and self._clock.now() < until:
            return pod
        async with self._slots:
            pod = await self._ask(token)
        self._remember(digest, pod)
        return pod

    async def _ask(self, token: str) -> PodIdentity | None:
        try:
            return await self._tokens.review(token, AUDIENCE)
        except Unavailable as error:
            raise AnswerError(503, "Unavailable", "the API server cannot check the token now; report again") from error

    def _remember(self, digest: str, pod: PodIdentity | None) -> None:
        memory = TOKEN_MEMORY if pod is not None else REFUSAL_MEMORY
        self._known[digest] = (pod, self._clock.now() + memory)
        self._known.move_to_end(digest)
        while len(self._known) > REMEMBERED_TOKENS:
            self._known.popitem(last=False)


class ProgressWriter:
    """Writes the last report of every object, at most once per interval."""

    def __init__(self, objects: Objects, clock: Clock, interval: float, wait: Wait = asyncio.sleep) -> None:
        """`interval` is in seconds; `wait` lets it pass."""
        self._objects = objects
        self._clock = clock
        self._interval = interval
        self._wait = wait
        self._pending: dict[Key, Pending] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def submit(self, key: Key, pending: Pending) -> None:
        """Take a report; it is written now or at the end of the interval, unless a newer one comes."""
        self._pending[key] = pending
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._write_while_pending(key))

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Live as long as the application; at its end write what is left."""
        yield
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await asyncio.gather(*(self._write(key) for key in list(self._pending)))

    async def _write_while_pending(self, key: Key) -> None:
        try:
            while key in self._pending:
                await self._write(key)
                await self._wait(self._interval)
        finally:
            del self._tasks[key]

    async def _write(self, key: Key) -> None:
        """Write the pending report; one that cannot be written now stays for the next interval."""
        pending = self._pending.pop(key)
        try:
            await self._patch(key, pending)
        except asyncio.CancelledError:
            self._pending.setdefault(key, pending)
            raise
        except TidegateError as error:
            logger.warning("progress is not written: %s", error.message, extra={"fields": {"object": str(key)}})
            if isinstance(error, Conflict | Unavailable):
                self._pending.setdefault(key, pending)
        except ValidationError:
            logger.exception(
                "progress is not written: the TrainingJob cannot be read", extra={"fields": {"object": str(key)}}
            )

    async def _patch(self, key: Key, pending: Pending) -> None:
        for attempt in range(WRITE_ATTEMPTS):
            manifest = self._objects.get(key)
            status = self._next_status(manifest, pending) if manifest is not None else None
            if manifest is None or status is None:
                return
            try:
                await self._objects.patch_status(manifest, status)
            except Conflict:
                if attempt == WRITE_ATTEMPTS - 1:
                    raise
            else:
                return

    def _next_status(self, manifest: Manifest, pending: Pending) -> Manifest | None:
        """Return the status with the new progress; None once the training is over."""
        status = TrainingJob.model_validate(manifest).status
        if status.phase in (TrainingPhase.SUCCEEDED, TrainingPhase.FAILED):
            return None
        progress = merge_progress(status.progress, pending.report, pending.pod, self._clock.now())
        return dict(manifest.get("status") or {}) | {"progress": progress.to_json()}


@web.middleware
async def _explain_errors(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
    """Answer every error with JSON."""
    try:
        answer: web.StreamResponse = await handler(request)
    except AnswerError as error:
        headers = {503: {"Retry-After": RETRY_AFTER}, 401: {"WWW-Authenticate": "Bearer"}}.get(error.status, {})
        return web.json_response(
            {"reason": error.reason, "message": error.message}, status=error.status, headers=headers
        )
    except web.HTTPException as error:
        known = {404: "NotFound", 405: "MethodNotAllowed", 413: "TooLarge"}
        reason = known.get(error.status, "BadRequest")
        return web.json_response({"reason": reason, "message": error.text or error.reason}, status=error.status)
    return answer


async def _read(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise AnswerError(413, "TooLarge", f"a report has at most {LARGEST_BODY} bytes") from error


def _parse(body: bytes) -> ProgressReport:
    try:
        return ProgressReport.model_validate(json.loads(body))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise AnswerError(422, "InvalidReport", f"{field}: {first['msg']}") from error
    except ValueError as error:
        raise AnswerError(422, "InvalidReport", f"the body is no JSON: {error}") from error


def _controller(manifest: Manifest, kind: str) -> Mapping[str, Any] | None:
    owners = manifest["metadata"].get("ownerReferences") or ()
    return next((each for each in owners if each.get("controller") and each["kind"] == kind), None)
