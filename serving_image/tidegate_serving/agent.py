"""Sidecar of Triton: the pod's readiness is the truth about the model.

``GET :8090/ready`` asks Triton each time and answers 200 only if Triton's index lists the model READY and the digest in
its configuration is the one of the mounted document. Otherwise 503 with a reason::

    TritonUnreachable   no answer from Triton
    ModelNotLoaded      Triton runs without the model, or is loading it
    ModelLoadFailed     Triton could not load the model; the message is Triton's
    DigestMismatch      Triton serves another file than the document asks for
    DocumentUnreadable  the mounted document is missing or broken
    Draining            the pod is being stopped

A model that is not there is asked for again, at most once per (growing) pause. A load that answers 200 proves nothing:
only the index counts. ``GET /healthz`` says that the agent itself lives.

After SIGTERM readiness is 503 at once, and the agent goes on answering for TIDEGATE_DRAIN_SECONDS, so that routers see
"not ready" and never "no answer".

Only the standard library, for every serving pod pays for this process's memory.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Agent",
    "Assessment",
    "Expected",
    "Reloads",
    "TritonError",
    "assess",
    "call_triton",
    "main",
    "read_expected",
]

DIGEST_PARAMETER = "tidegate_digest"
PROBE_SECONDS = 0.8
"""For all questions of one probe together; the kubelet's own limit is 1 s."""
LOAD_SECONDS = 600.0
LARGEST_ANSWER = 4 << 20
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOADING = frozenset({"LOADING", "UNLOADING"})


@dataclass(frozen=True, slots=True)
class Expected:
    """What this pod is to serve, from the mounted document."""

    model: str
    digest: str


@dataclass(frozen=True, slots=True)
class Assessment:
    """The verdict of one probe; `reload` says that asking Triton to load the model may help."""

    ready: bool
    reason: str
    message: str
    reload: bool = False


class TritonError(Exception):
    """Triton answered with an error, or not at all (`status` 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def read_expected(path: str) -> Expected:
    """Read the few fields that matter here; the puller has checked the document with the whole contract."""
    with open(path, encoding="utf-8") as stream:  # noqa: PTH123 - pathlib costs memory
        document = json.load(stream)
    return Expected(document["modelName"], document["artifact"]["sha256"])


def call_triton(address: tuple[str, int], method: str, path: str, seconds: float) -> Any:
    """One request to Triton's HTTP port; returns the JSON of the answer.

    HTTP by hand: `http.client` and what it imports would double the memory of this process. HTTP/1.0 asks for an answer
    without chunks, and the end of the connection is the end of the answer.
    """
    deadline = time.monotonic() + seconds
    body = b"{}" if method == "POST" else b""
    head = f"{method} {path} HTTP/1.0\r\nHost: triton\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection(address, timeout=seconds) as connection:
            connection.sendall(head.encode() + body)
            answer = receive(connection, deadline)
    except OSError as error:
        raise TritonError(0, f"no answer from Triton at {address[0]}:{address[1]}: {error}") from error
    return parse_answer(answer)


def receive(connection: socket.socket, deadline: float) -> bytes:
    """Read to the end of the connection, but not beyond the deadline."""
    parts: list[bytes] = []
    size = 0
    while size < LARGEST_ANSWER:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        if not (part := connection.recv(65536)):
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    raise OSError("the answer is too long")


def parse_answer(answer: bytes) -> Any:
    """The JSON body of a good answer; anything else is a TritonError with Triton's own message."""
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        raise TritonError(0, "Triton closed the connection without an answer")
    try:
        content = json.loads(body) if body.strip() else None
    except ValueError as error:
        raise TritonError(0, "Triton's answer ended too early") from error
    if (status := int(words[1])) != 200:
        raise TritonError(status, content.get("error", "") if isinstance(content, dict) else f"status {status}")
    return content


def assess(expected: Expected, index: list[dict[str, Any]], read_config: Callable[[], dict[str, Any]]) -> Assessment:
    """The verdict from Triton's repository index and, once the model is READY, its configuration."""
    entries = [entry for entry in index if entry.get("name") == expected.model and "state" in entry]
    if any(entry["state"] == "READY" for entry in entries):
        return assess_digest(expected, read_config())
    if any(entry["state"] in LOADING for entry in entries):
        return Assessment(False, "ModelNotLoaded", f"Triton is loading {expected.model}")
    failures = [entry["reason"] for entry in entries if entry.get("reason", "unloaded") != "unloaded"]
    if failures:
        return Assessment(False, "ModelLoadFailed", "; ".join(failures), reload=True)
    return Assessment(False, "ModelNotLoaded", f"Triton runs without {expected.model}; it is asked for", reload=True)


def assess_digest(expected: Expected, config: dict[str, Any]) -> Assessment:
    """Whether the loaded model is the one of the document."""
    served = config.get("parameters", {}).get(DIGEST_PARAMETER, {}).get("string_value", "")
    if served == expected.digest:
        return Assessment(True, "Ready", f"Triton serves {expected.model} with sha256 {served}")
    message = f"Triton serves sha256 {served or 'unknown'}, the document asks for {expected.digest}; replace the pod"
    return Assessment(False, "DigestMismatch", message)


@dataclass(slots=True)
class Reloads:
    """Limits how often Triton is asked to load: one request at a time, with a pause that doubles up to the longest."""

    first_pause: float = 1.0
    longest_pause: float = 30.0
    clock: Callable[[], float] = time.monotonic
    _running: bool = False
    _not_before: float = 0.0
    _pause: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> bool:
        """Whether a request may start now; then `end` must follow."""
        with self._lock:
            if self._running or self.clock() < self._not_before:
                return False
            self._running = True
            return True

    def end(self) -> None:
        """A request has ended, with whatever answer; the next one waits for longer."""
        with self._lock:
            self._pause = min(self.longest_pause, self._pause * 2 or self.first_pause)
            self._not_before = self.clock() + self._pause
            self._running = False

    def reset(self) -> None:
        """The model is there: a loss after this is repaired at once."""
        with self._lock:
            self._pause = self._not_before = 0.0


@dataclass(slots=True)
class Agent:
    """Answers the probes of one pod."""

    document: str
    triton: tuple[str, int]
    reloads: Reloads = field(default_factory=Reloads)
    draining: threading.Event = field(default_factory=threading.Event)

    def probe(self) -> Assessment:
        """Ask Triton now; nothing is remembered from the probe before."""
        if self.draining.is_set():
            return Assessment(False, "Draining", "the pod is being stopped")
        try:
            expected = read_expected(self.document)
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = (
                f"cannot read the document {self.document!r} that TIDEGATE_SERVING names: {error!r}; mount it there"
            )
            return Assessment(False, "DocumentUnreadable", message)
        assessment = self._ask(expected)
        self._follow_up(expected, assessment)
        return assessment

    def _ask(self, expected: Expected) -> Assessment:
        """Two short questions to Triton, within the time of one probe."""
        deadline = time.monotonic() + PROBE_SECONDS
        config_path = f"/v2/models/{expected.model}/config"
        try:
            index = call_triton(self.triton, "POST", "/v2/repository/index", PROBE_SECONDS / 2)
            return assess(
                expected,
                index or [],
                lambda: call_triton(self.triton, "GET", config_path, max(0.001, deadline - time.monotonic())),
            )
        except TritonError as error:
            return Assessment(False, "TritonUnreachable" if error.status == 0 else "ModelNotLoaded", str(error))
        except (AttributeError, KeyError, TypeError) as error:
            return Assessment(False, "TritonUnreachable", f"what answers there is no Triton: {error!r}")

    def _follow_up(self, expected: Expected, assessment: Assessment) -> None:
        """Ask for a lost model in the background: the probe's own answer does not wait for it."""
        if assessment.ready:
            self.reloads.reset()
        elif assessment.reload and self.reloads.begin():
            threading.Thread(target=self._load, args=(expected.model,), daemon=True).start()

    def _load(self, model: str) -> None:
        """Ask Triton to load the model; the answer is only logged, because the index is the truth."""
        try:
            call_triton(self.triton, "POST", f"/v2/repository/models/{model}/load", LOAD_SECONDS)
            log(event="load requested", model=model)
        except TritonError as error:
            log(event="load refused", model=model, message=str(error))
        finally:
            self.reloads.end()


def log(**fields: str) -> None:
    """One JSON line."""
    print(json.dumps(fields), flush=True)


def answer_to(agent: Agent, path: str) -> tuple[str, dict[str, Any]]:
    """Status line and content for one request."""
    if path == "/healthz":
        return "200 OK", {"ok": True}
    if path != "/ready":
        return "404 Not Found", {"error": f"no {path} here; ask for /ready or /healthz"}
    found = agent.probe()
    content = {"ready": found.ready, "reason": found.reason, "message": found.message}
    return ("200 OK" if found.ready else "503 Service Unavailable"), content


def serve_connection(agent: Agent, connection: socket.socket) -> None:
    """Read one request, answer it, and close."""
    with connection:
        try:
            connection.settimeout(PROBE_SECONDS)
            words = connection.recv(4096).split(b" ", 2)
            path = words[1].decode("ascii", "replace") if len(words) > 1 else ""
            status, content = answer_to(agent, path.partition("?")[0])
            body = json.dumps(content)
            head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            connection.sendall(f"{head}Connection: close\r\n\r\n{body}".encode())
        except OSError:
            return


def serve(agent: Agent, listener: socket.socket) -> None:
    """Accept probes for ever, a thread for each, so that a slow Triton cannot hold up /healthz."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve_connection, args=(agent, connection), daemon=True).start()


def listen(port: int) -> socket.socket:
    """A listener on all addresses of the pod, of both families where the node has both."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    return socket.create_server(("", port), backlog=64)


def main(environment: Mapping[str, str] | None = None) -> int:
    """Run until SIGTERM and the drain time after it."""
    environment = os.environ if environment is None else environment
    threading.stack_size(256 << 10)
    triton = ("127.0.0.1", int(environment.get("TIDEGATE_TRITON_PORT", "8000")))
    agent = Agent(environment.get("TIDEGATE_SERVING", ""), triton)
    # Waited for and not handled: a handler runs only when the main thread wakes up, which threads can keep from it.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    listener = listen(int(environment.get("TIDEGATE_AGENT_PORT", "8090")))
    threading.Thread(target=serve, args=(agent, listener), daemon=True).start()
    log(event="started", document=agent.document)
    signal.sigwait(STOP_SIGNALS)
    agent.draining.set()
    log(event="draining")
    time.sleep(float(environment.get("TIDEGATE_DRAIN_SECONDS", "5")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
