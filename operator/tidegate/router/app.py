"""The router put together."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from tidegate.router.ads import AdsServer
from tidegate.router.control import Control
from tidegate.router.endpoints import EndpointTable, parse_pod
from tidegate.router.health import HealthServer
from tidegate.router.metrics import RouterMetrics
from tidegate.router.recorder import StatusRecorder, StatusWriter
from tidegate.router.reflector import Reflector, Source
from tidegate.router.settings import RouterSettings

__all__ = ["Router", "Sources"]

_log = logging.getLogger("tidegate.router")
_STOP_SECONDS = 1.0


class Sources:
    """Where Routes, the pods that they lead to and the proxies' pods come from."""

    def __init__(self, routes: list[Source], pods: list[Source], proxies: Source | None = None) -> None:
        self.routes = routes
        self.pods = pods
        self.proxies = proxies


class Router:
    """All parts of the control plane; ``run`` lasts until ``stop`` is set."""

    def __init__(self, settings: RouterSettings, sources: Sources, writer: StatusWriter) -> None:
        self._settings = settings
        self.metrics = RouterMetrics()
        self.control = Control(self.metrics, listener_port=settings.listener_port, grace=settings.proxy_grace_seconds)
        self._ads = AdsServer(self.control, self.metrics)
        self._health = HealthServer(lambda: self.control.snapshot is not None, self.metrics)
        self._recorder = StatusRecorder(
            writer,
            self.control.facts,
            self._written,
            self.metrics,
            delay=settings.status_delay_seconds,
            startup_grace=settings.startup_grace_seconds,
        )
        self._proxies = _ProxyPods(self.control)
        self._reflectors = self._build_reflectors(sources)
        self.control.publish = self._ads.publish
        self.control.mark = self._recorder.mark
        self.xds_port = self.http_port = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Listen, watch and write until ``stop`` is set."""
        settings = self._settings
        self.http_port = await self._health.start(settings.http_host, settings.http_port)
        self.xds_port = await self._ads.start(settings.xds_host, settings.xds_port)
        _log.info("listening", extra={"xds": self.xds_port, "http": self.http_port})
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(reflector.run()) for reflector in self._reflectors]
                tasks += [group.create_task(self._recorder.run()), group.create_task(self._open())]
                await stop.wait()
                for task in tasks:
                    task.cancel()
        finally:
            await self._ads.stop(_STOP_SECONDS)
            await self._health.stop()

    async def _open(self) -> None:
        for reflector in self._reflectors:
            await reflector.synced.wait()
        _log.info("everything is listed")
        self.control.open()

    def _written(self, obj: Mapping[str, Any]) -> None:
        metadata = obj["metadata"]
        self.control.put_route((metadata["namespace"], metadata["name"]), obj)

    def _build_reflectors(self, sources: Sources) -> list[Reflector]:
        control = self.control
        reflectors = [self._reflector(source, control.put_route, control.remove_route) for source in sources.routes]
        reflectors += [self._reflector(source, control.put_pod, control.remove_pod) for source in sources.pods]
        if sources.proxies is not None:
            reflectors.append(self._reflector(sources.proxies, self._proxies.put, self._proxies.remove))
        return reflectors

    def _reflector(self, source: Source, put: Any, remove: Any) -> Reflector:
        return Reflector(source, put, remove, self.metrics.relists.labels(source.kind).inc)


class _ProxyPods:
    """Follows the proxies' own pods."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._table = EndpointTable()

    def put(self, key: tuple[str, str], obj: Mapping[str, Any]) -> None:
        self._table.put(key, parse_pod(obj))
        self._control.expect(self._table.pods())

    def remove(self, key: tuple[str, str]) -> None:
        self._table.remove(key)
        self._control.expect(self._table.pods())
