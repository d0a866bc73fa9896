"""The operator: settings → adapters → reconcilers → kopf. Started as ``python -m tidegate``."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

from pydantic import HttpUrl

from tidegate import lean  # noqa: F401  before everything that imports kopf
from tidegate.adapters.access import AccessFolder, AccessSecrets
from tidegate.adapters.cache import ObjectCache
from tidegate.adapters.clock import SystemClock
from tidegate.adapters.connection import ApiConnection
from tidegate.adapters.credentials import Credentials, load_credentials
from tidegate.adapters.events import KubernetesEvents
from tidegate.adapters.gates import WebGates
from tidegate.adapters.kubernetes import KubernetesObjects, KubernetesTokenReviews, check_kinds
from tidegate.adapters.lease import LeaderElection, LeaseThread, LeaseTimes
from tidegate.adapters.listing import Listing
from tidegate.adapters.mlflow import MLflow
from tidegate.adapters.progress import build_application
from tidegate.adapters.prometheus import PrometheusMetrics
from tidegate.adapters.telemetry import PrometheusTelemetry, QueueTelemetry, configure_logging
from tidegate.adapters.web import build_health, serve
from tidegate.domain.admission import Limits
from tidegate.domain.manifests.serving import Platform
from tidegate.domain.manifests.training_job import TrainingConfig
from tidegate.domain.manifests.validation_job import ValidationConfig
from tidegate.errors import TidegateError, Unavailable
from tidegate.garbage import collect_seldom
from tidegate.handlers import CHILD_SELECTOR, watch
from tidegate.ports import ABTEST, DEPLOYMENT, MODEL_VERSION, OWN_KINDS, TRAINING_JOB, Key, Kind, Reconciler, Requeue
from tidegate.reconcilers.ab_test import ABTestReconciler
from tidegate.reconcilers.deployment import DeploymentReconciler
from tidegate.reconcilers.model_version import ModelVersionReconciler
from tidegate.reconcilers.pattern import ErrorMapping
from tidegate.reconcilers.training_job import TrainingJobReconciler
from tidegate.reconcilers.turns import Turns
from tidegate.settings import Settings, load_settings
from tidegate.wakeups import Wakeups
from tidegate.workqueue import WorkQueue

GRACE_SECONDS = 15.0
"""How long running reconciles may take to end after a SIGTERM."""
RETRY_SECONDS = 2.0
LEASE = "tidegate-operator"
FLUSH_SECONDS = 2.0
TOLD_TOGETHER_SECONDS = 1.0
"""How long changes of who serves a ModelVersion are gathered: many releases may move shares of one version at once."""
EXIT_FAILURE = 1
EXIT_CODES = {"BadSettings": 2, "NoCredentials": 2, "MissingCRDs": 3}

logger = logging.getLogger("tidegate")


class Operator:
    """All parts of one replica, wired once, and the order in which they start and stop."""

    def __init__(self, settings: Settings, credentials: Credentials) -> None:
        """Wire the parts; nothing is connected yet."""
        self._settings = settings
        self._clock = SystemClock()
        self._api = ApiConnection(credentials)
        self._election = _build_election(settings, credentials)
        self._fenced = ApiConnection(credentials, may_write=self._is_leading)
        self._cache = ObjectCache()
        self._objects = KubernetesObjects(self._fenced, self._cache, self._clock)
        self._events = KubernetesEvents(self._api, self._clock, settings.identity)
        self._listing = Listing(self._api, self._cache, settings.watch_namespaces, CHILD_SELECTOR)
        access = AccessFolder(settings.prometheus_credentials, settings.prometheus_secret)
        self._metrics = PrometheusMetrics(_address(settings.prometheus_url), access)
        self._gates = WebGates(AccessSecrets(self._api))
        mlflow_url = _address(settings.mlflow_url)
        self._registry = MLflow(mlflow_url) if mlflow_url else None
        self._turns = Turns(Limits(settings.releases_per_namespace, settings.releases_in_cluster), self._wake)
        self._reconcilers = self._build_reconcilers(mlflow_url)
        self._queue = WorkQueue(self._reconcile, QueueTelemetry(), workers=settings.workers)
        self._cache.subscribe(self._objects.forget)
        self._cache.subscribe(self._turns.notice)
        self._cache.subscribe(Wakeups(self._queue.add, self._wake_soon).notice)
        self._is_synced = False

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; raise when the lease is lost or a part fails."""
        tokens = KubernetesTokenReviews(self._api)
        progress = build_application(self._objects, tokens, self._clock, lambda: self._is_leading() and self._is_synced)
        servers = [await serve(build_health(self._find_delay), self._settings.metrics_port)]
        try:
            servers.append(await serve(progress, self._settings.progress_port))
            async with _background(self._events.run()):
                async with _background(self._prepare()) as preparation:
                    await _first(stop, preparation)
                if not stop.is_set():
                    await self._lead(stop)
        finally:
            for server in reversed(servers):
                await server.cleanup()
            await self._close()

    async def _prepare(self) -> None:
        """Return when there is an API server, it knows the kinds, and this replica leads."""
        await _insist(lambda: check_kinds(self._api, OWN_KINDS))
        if self._election is not None:
            await self._election.acquire()

    async def _lead(self, stop: asyncio.Event) -> None:
        """Fill the memory, reconcile, and end in the order that loses nothing: work, events, lease, watches."""
        work: list[Coroutine[Any, Any, object]] = [self._reconcile_all(stop)]
        if self._election is not None:
            work.append(self._election.hold())
        async with _background(*work) as tasks:
            try:
                await _first(stop, tasks)
            finally:
                await self._queue.stop(GRACE_SECONDS if self._is_leading() else 0)
                await self._events.flush(FLUSH_SECONDS)
                if self._election is not None:
                    await self._election.release()

    async def _reconcile_all(self, stop: asyncio.Event) -> None:
        await _insist(self._listing.refresh)
        self._is_synced = True
        self._queue.start()
        logger.info("working on %d objects", len(self._cache))
        async with _background(self._listing.keep(self._settings.resync_seconds)):
            await watch(self._cache, load_credentials, self._settings.watch_namespaces, lambda: _catch_signals(stop))

    async def _reconcile(self, key: Key) -> Requeue | None:
        return await self._reconcilers[key.kind].reconcile(key)

    def _wake(self, key: Key) -> None:
        self._queue.add(key)

    def _wake_soon(self, key: Key) -> None:
        self._queue.add_after(key, TOLD_TOGETHER_SECONDS)

    def _is_leading(self) -> bool:
        return self._election is None or self._election.is_leading()

    def _find_delay(self) -> str | None:
        if self._is_leading() and not self._is_synced:
            return "leading, but the memory is not complete yet"
        return None

    def _build_reconcilers(self, mlflow_url: str | None) -> Mapping[Kind, Reconciler]:
        """Build one reconciler per kind, each behind the mapping of errors."""
        settings, objects, events, clock = self._settings, self._objects, self._events, self._clock
        telemetry = PrometheusTelemetry()
        shared = (self._registry, events, telemetry, clock)
        training = TrainingConfig(
            image=settings.trainer_image,
            image_pull_policy=settings.image_pull_policy,
            mlflow_url=mlflow_url,
            progress_url=settings.progress_url.rstrip("/"),
            gpu_runtime_class=settings.gpu_runtime_class,
            artifact_root=settings.artifact_root,
        )
        validation = ValidationConfig(settings.agent_image, settings.image_pull_policy, mlflow_url)
        platform = Platform(
            agent_image=settings.agent_image,
            triton_image=settings.triton_image,
            image_pull_policy=settings.image_pull_policy,
            mlflow_url=mlflow_url,
            gpu_runtime_class=settings.gpu_runtime_class,
            envoy_service=settings.envoy_service,
            envoy_port=settings.envoy_port,
        )
        reconcilers: dict[Kind, Reconciler] = {
            TRAINING_JOB: TrainingJobReconciler(objects, objects, *shared, training),
            MODEL_VERSION: ModelVersionReconciler(objects, *shared, validation),
            DEPLOYMENT: DeploymentReconciler(
                objects, objects, self._metrics, self._gates, events, telemetry, clock, platform, self._turns
            ),
            ABTEST: ABTestReconciler(objects, self._metrics, events, telemetry, clock),
        }
        return {kind: ErrorMapping(each, objects, objects, events, clock) for kind, each in reconcilers.items()}

    async def _close(self) -> None:
        await self._metrics.close()
        await self._gates.close()
        if self._registry is not None:
            await self._registry.close()
        await self._fenced.close()
        await self._api.close()
        if self._election is not None:
            await self._election.close()


def _build_election(settings: Settings, credentials: Credentials) -> LeaseThread | None:
    if not settings.leader_election:
        return None
    seconds = settings.lease_seconds
    times = LeaseTimes(duration=seconds, renew_deadline=seconds * 2 / 3, retry=min(2.0, seconds / 5))
    api = ApiConnection(credentials)
    namespace = settings.namespace or credentials.namespace
    return LeaseThread(LeaderElection(api, namespace, LEASE, settings.identity, times), api)


@contextlib.asynccontextmanager
async def _background(*work: Coroutine[Any, Any, object]) -> AsyncIterator[list[asyncio.Task[object]]]:
    """Run coroutines beside the block, and cancel what still runs at its end."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _first(stop: asyncio.Event, tasks: Iterable[asyncio.Task[object]]) -> None:
    """Return when `stop` is set or a task has ended; raise what it raised."""
    async with _background(stop.wait()) as stopping:
        done, _ = await asyncio.wait([*stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _insist(request: Callable[[], Awaitable[object]]) -> None:
    """Repeat a request until the API server answers."""
    while True:
        try:
            await request()
        except Unavailable as error:
            logger.warning("%s; trying again", error.message, extra={"fields": {"reason": error.reason}})
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return


def _catch_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


def _address(url: HttpUrl | None) -> str | None:
    return str(url).rstrip("/") if url else None


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    _catch_signals(stop)
    await Operator(settings, load_credentials()).run(stop)
    logger.info("stopped")


def main() -> int:
    """Run one replica and return the exit code."""
    collect_seldom()
    configure_logging("INFO")
    try:
        settings = load_settings()
        configure_logging(settings.log_level)
        asyncio.run(_run(settings))
    except TidegateError as error:
        logger.error(error.message, extra={"fields": {"reason": error.reason}})
        return EXIT_CODES.get(error.reason, EXIT_FAILURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
