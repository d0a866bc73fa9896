"""What the operator answers over HTTP: /healthz, /readyz and /metrics."""

from collections.abc import Callable

from aiohttp import web

from tidegate.adapters.telemetry import render_metrics

__all__ = ["build_health", "serve"]

Check = Callable[[], str | None]
"""Returns what is wrong, or None."""


def build_health(is_ready: Check) -> web.Application:
    """Build the application for probes and Prometheus; that it answers at all is the sign of life."""

    async def healthz(_: web.Request) -> web.Response:
        return _answer(None)

    async def readyz(_: web.Request) -> web.Response:
        return _answer(is_ready())

    async def metrics(_: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=render_metrics(), headers=headers)

    application = web.Application()
    application.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return application


async def serve(application: web.Application, port: int) -> web.AppRunner:
    """Listen on all addresses; the caller cleans the runner up."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner


def _answer(problem: str | None) -> web.Response:
    return web.Response(text=problem or "ok", status=503 if problem else 200)
