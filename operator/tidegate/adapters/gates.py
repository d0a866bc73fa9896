"""The port `Gates` over HTTP: one POST to an address that a user chose, so nothing of it is trusted.

What a Secret lets it carry goes to the origin that stands in that Secret, and nowhere else. Redirects are not followed,
cookies not kept, nothing is decompressed, and only the first bytes of an answer are read.
An address that does not answer keeps a worker of the operator waiting: only a few may at once, and of one host fewer.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from weakref import WeakValueDictionary

import aiohttp

from tidegate.adapters.access import Access, AccessSecrets, find_tls_error
from tidegate.domain.release import GateAnswer, GateQuestion, GateRole
from tidegate.errors import Unavailable

__all__ = ["WebGates"]

MAX_OPEN = 8
"""Questions without an answer so far, of all objects together: far fewer than the operator has workers."""
MAX_OPEN_PER_HOST = 4
LONGEST_QUEUE = timedelta(milliseconds=200)
"""How long a question waits for its turn."""
MAX_MESSAGE = 200
"""Bytes that are read of an answer, and characters that are told."""
SHORTEST_PATIENCE = timedelta(milliseconds=500)
UNAUTHORIZED = 401
"""The one status that is about who asks and never about the release."""


class WebGates:
    """Asks webhooks."""

    def __init__(self, secrets: AccessSecrets) -> None:
        """Read credentials there; nothing is opened yet."""
        self._secrets = secrets
        self._session: aiohttp.ClientSession | None = None
        self._all = asyncio.Semaphore(MAX_OPEN)
        self._hosts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def ask(
        self, namespace: str, questions: Sequence[GateQuestion], patience: timedelta
    ) -> Mapping[GateRole, GateAnswer]:
        """Ask all concurrently, each within its time-out and `patience`."""
        answers = await asyncio.gather(*(self._queue(namespace, each, patience) for each in questions))
        return {question.role: answer for question, answer in zip(questions, answers, strict=True)}

    async def _queue(self, namespace: str, question: GateQuestion, patience: timedelta) -> GateAnswer:
        """Wait for a free place, first among the questions to the same host."""
        host = re.split("[/?]+", question.url, maxsplit=2)[1]
        places = (self._hosts.setdefault(host, asyncio.Semaphore(MAX_OPEN_PER_HOST)), self._all)
        taken: list[asyncio.Semaphore] = []
        try:
            async with asyncio.timeout(LONGEST_QUEUE.total_seconds()):
                for place in places:
                    await place.acquire()
                    taken.append(place)
            return await self._ask(namespace, question, max(min(question.timeout, patience), SHORTEST_PATIENCE))
        except TimeoutError:
            return GateAnswer(None, "not asked: too many questions to gates are open; others do not answer in time")
        finally:
            for place in taken:
                place.release()

    async def _ask(self, namespace: str, question: GateQuestion, limit: timedelta) -> GateAnswer:
        """Read the credentials anew and send the question, both within the limit."""
        try:
            async with asyncio.timeout(limit.total_seconds()):
                access = await self._secrets.read(namespace, question.secret, question.url)
                return await self._post(question.url, {"namespace": namespace, **question.document}, access)
        except Unavailable as error:
            return GateAnswer(None, error.message[:MAX_MESSAGE], is_misconfigured=error.reason == "BadCredentials")
        except TimeoutError:
            return GateAnswer(None, f"no answer within {limit.total_seconds():.1f} s")
        except ValueError:
            return GateAnswer(None, "its address cannot be asked")

    async def _post(self, url: str, document: Mapping[str, object], access: Access) -> GateAnswer:
        request = self._open().post(url, json=document, headers=access.headers, ssl=access.tls, allow_redirects=False)
        try:
            async with request as answer:
                said = _clean(await _read_start(answer.content))
                if answer.status == UNAUTHORIZED:
                    said = access.explain_refusal(UNAUTHORIZED)[:MAX_MESSAGE]
                return GateAnswer(answer.status, said)
        except (aiohttp.ClientError, OSError) as error:
            tls = find_tls_error(error)
            said = access.explain_tls(tls) if tls is not None else str(error) or type(error).__name__
            return GateAnswer(None, _clean(said.encode()))

    def _open(self) -> aiohttp.ClientSession:
        """Open a session that keeps neither cookies nor connections: gates are asked seldom."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_OPEN, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity", "User-Agent": "tidegate"},
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
            )
        return self._session


async def _read_start(content: aiohttp.StreamReader) -> bytes:
    found = b""
    while len(found) < MAX_MESSAGE and (more := await content.read(MAX_MESSAGE - len(found))):
        found += more
    return found


def _clean(text: bytes) -> str:
    """Return the text in one line without control characters: it goes into the status, events and terminals."""
    decoded = text.decode(errors="replace")
    return " ".join("".join(each if each.isprintable() else " " for each in decoded).split())[:MAX_MESSAGE]
