"""The server that takes copies of users' requests and compares the answers of two versions; no user waits for it.

The proxies send copies here and ignore the answer. Each inference request is put to the stable and to the shadowed
version at the same time, in the protocol that it came in; what came back is compared and counted (``comparison.py``),
and nothing else is kept.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from tidegate_serving.comparison import LARGEST_BODY, Comparator
from tidegate_serving.contract import ComparatorDocument, ContractError, parse_document
from tidegate_serving.grpc_copies import GrpcCopies
from tidegate_serving.http_copies import HttpCopies

__all__ = ["build_application", "main"]

VARIABLE = "TIDEGATE_COMPARATOR"
HTTP_PORT, GRPC_PORT = 8095, 8096


def build_application(document: ComparatorDocument, grpc_port: int = GRPC_PORT) -> tuple[web.Application, Comparator]:
    """Build the server: copies on every path and over gRPC, and its own health and metrics."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    comparator = Comparator(document, registry)
    over_http, over_grpc = HttpCopies(comparator), GrpcCopies(comparator)

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def run(_: web.Application) -> AsyncIterator[None]:
        await over_grpc.start(grpc_port)
        yield
        comparator.close()
        await over_grpc.close()
        await over_http.close()

    application = web.Application(client_max_size=LARGEST_BODY)
    application.router.add_get("/healthz", health)
    application.router.add_get("/metrics", metrics)
    application.router.add_route("*", "/{path:.*}", over_http.take)
    application.cleanup_ctx.append(run)
    return application, comparator


def main(environment: Mapping[str, str] | None = None) -> int:
    """Serve until SIGTERM."""
    environment = os.environ if environment is None else environment
    try:
        document = parse_document(ComparatorDocument, environment.get(VARIABLE, ""), VARIABLE)
    except ContractError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    application, _ = build_application(document)
    web.run_app(application, port=HTTP_PORT, print=None, access_log=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
