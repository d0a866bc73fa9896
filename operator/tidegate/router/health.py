"""Health and metrics over HTTP."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import generate_latest

from tidegate.router.metrics import RouterMetrics

__all__ = ["HealthServer"]


class HealthServer:
    """Serves ``/healthz`` (the process works), ``/readyz`` (everything was listed) and ``/metrics``."""

    def __init__(self, ready: Callable[[], bool], metrics: RouterMetrics) -> None:
        self._ready = ready
        self._metrics = metrics
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._series)
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port."""
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, request: web.Request) -> web.Response:
        if self._ready():
            return web.json_response({"status": "ready"})
        return web.json_response({"status": "waiting", "reason": "the API server has not been listed yet"}, status=503)

    async def _series(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._metrics.registry), content_type="text/plain")
