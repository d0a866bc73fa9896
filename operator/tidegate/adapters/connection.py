"""One HTTP session to the API server: time-outs, fresh credentials, and errors translated at the edge."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
from pydantic_core import from_json

from tidegate.adapters import telemetry
from tidegate.adapters.credentials import Credentials
from tidegate.errors import Conflict, Ending, Refused, Unavailable
from tidegate.ports import Kind, Manifest

__all__ = ["APPLY_PATCH", "MERGE_PATCH", "ApiConnection", "path_of"]

JSON = "application/json"
APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
TIMEOUT = aiohttp.ClientTimeout(total=15, sock_connect=5)
MAX_CONNECTIONS = 32
NAMESPACE_TERMINATING = "NamespaceTerminating"
"""How the API server says why nothing can be made in a namespace."""
TOKEN_LIFETIME = timedelta(seconds=60)
"""How long a token read from a file is used: the kubelet replaces the file well before the token expires."""


def path_of(kind: Kind, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
    """Return the URL path of an object, or of a collection when it has no name."""
    root = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.api_version}"
    parts = [root, f"namespaces/{namespace}" if namespace else None, kind.plural, name, subresource]
    return "/".join(part for part in parts if part)


class ApiConnection:
    """Sends requests to the API server.

    Raises, from every method that sends:
        Conflict: 409; the object is newer, or is already there.
        Ending: The namespace is being deleted.
        Refused: Any other answer that says no.
        Unavailable: No answer in time, or one that says "not now" (429, 5xx).
    """

    def __init__(self, credentials: Credentials, *, may_write: Callable[[], bool] = lambda: True) -> None:
        """Open nothing yet; `may_write` is asked before every write (a replica that lost its lease must not)."""
        self._credentials = credentials
        self._may_write = may_write
        self._session: aiohttp.ClientSession | None = None
        self._token = credentials.token
        self._token_read = datetime.min.replace(tzinfo=UTC)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Manifest | None:
        """Return what lies at the path, or None."""
        return await self._send("GET", path, params=params)

    async def post(self, path: str, body: Manifest) -> Manifest:
        """Create an object, or ask for a review."""
        return _present(await self._send("POST", path, body=body), path)

    async def put(self, path: str, body: Manifest) -> Manifest:
        """Replace an object if it still has the resourceVersion in the body."""
        return _present(await self._send("PUT", path, body=body), path)

    async def patch(
        self, path: str, body: Manifest, content_type: str, params: Mapping[str, str] | None = None
    ) -> Manifest | None:
        """Patch an object and return the result; None if it (or its namespace) is not there."""
        return await self._send("PATCH", path, body=body, content_type=content_type, params=params)

    async def delete(self, path: str, options: Manifest) -> Manifest | None:
        """Delete an object and return what the server says; None if there was none."""
        return await self._send("DELETE", path, body=options)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        body: Manifest | None = None,
        content_type: str = JSON,
        params: Mapping[str, str] | None = None,
    ) -> Manifest | None:
        if method != "GET" and not self._may_write():
            raise Unavailable("NotLeading", "this replica does not hold the lease")
        headers = {"Content-Type": content_type, "Accept": JSON, **self._authorization()}
        try:
            async with self._open().request(method, path, json=body, headers=headers, params=params) as answer:
                telemetry.API_REQUESTS.labels(method, str(answer.status)).inc()
                return _read(answer.status, await answer.read(), f"{method} {path}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            telemetry.API_REQUESTS.labels(method, "none").inc()
            raise Unavailable("ApiServerUnavailable", f"{method} {path}: {error or type(error).__name__}") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                self._credentials.server,
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=self._credentials.ssl_context()),
                timeout=TIMEOUT,
                headers={"User-Agent": "tidegate"},
            )
        return self._session

    def _authorization(self) -> dict[str, str]:
        path = self._credentials.token_path
        now = datetime.now(UTC)
        if path is not None and now - self._token_read > TOKEN_LIFETIME:
            self._token = Path(path).read_text().strip()
            self._token_read = now
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}


def _present(manifest: Manifest | None, path: str) -> Manifest:
    if manifest is None:
        raise Refused("NotFound", f"{path}: not found; is the namespace still there?")
    return manifest


def _read(status: int, content: bytes, request: str) -> Manifest | None:
    """Return the body of a good answer, None for 404, and raise for the others; refusals need not be JSON."""
    if status == 404:
        return None
    try:
        body = from_json(content)  # unlike json.loads it keeps a name that occurs in thousands of objects once
    except ValueError as error:
        if status < 300:
            raise Unavailable("ApiServerUnavailable", f"{request}: the answer is no JSON") from error
        body = {}
    if status < 300:
        return dict(body)
    reason, message = body.get("reason") or f"HTTP{status}", body.get("message") or f"{request}: status {status}"
    if status == 409:
        raise Conflict(reason, message)
    if status == 429 or status >= 500 or status == 401:
        raise Unavailable(reason, f"{message} ({request})")
    causes = (body.get("details") or {}).get("causes") or ()
    if any(each.get("reason") == NAMESPACE_TERMINATING for each in causes):
        raise Ending(NAMESPACE_TERMINATING, message)
    raise Refused(reason, message)
