"""``python -m tidegate.router``: settings, the Kubernetes API, the router."""

import asyncio
import logging
import signal
import sys

from pydantic import ValidationError

from tidegate.garbage import collect_seldom
from tidegate.router.app import Router, Sources
from tidegate.router.kube import KubeStatusWriter, connect, pods, routes
from tidegate.router.logs import configure_logs
from tidegate.router.settings import RouterSettings


async def serve(settings: RouterSettings) -> None:
    """Run until the process is asked to end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    namespaces: list[str | None] = [*settings.namespace_list] or [None]
    async with await connect() as api:
        proxies = None
        if settings.proxy_selector:
            proxies = pods(api, settings.proxy_namespace, settings.proxy_selector)
        sources = Sources(
            routes=[routes(api, namespace) for namespace in namespaces],
            pods=[pods(api, namespace, settings.pod_selector) for namespace in namespaces],
            proxies=proxies,
        )
        await Router(settings, sources, KubeStatusWriter(api)).run(stop)


def main() -> None:
    """Start the router; a bad setting ends it with exit code 2 and a line that names the variable."""
    collect_seldom()
    try:
        settings = RouterSettings()
        configure_logs(settings.log_level)
    except ValueError as error:
        sys.exit(_explain(error))
    asyncio.run(serve(settings))


def _explain(error: ValueError) -> int:
    configure_logs("INFO")
    problem = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        problem = f"TIDEGATE_ROUTER_{str(first['loc'][0]).upper()}: {first['msg']}"
    logging.getLogger("tidegate.router").critical("bad setting", extra={"problem": problem})
    return 2


if __name__ == "__main__":
    main()
