"""A gate that a test opens and shuts: a webhook in a pod, with its Service."""

from dataclasses import dataclass

from dev.demo.kube import Kube, Object, is_ready_pod
from tests.e2e.objects import pod, secret, service

NAME = "gate"
PORT = 8080
SECRET = "change-board"
"""The Secret that gates may name, in `gates.secrets` of the chart."""
PROGRAM = """
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

codes, asked = {}, {}
token = os.environ["TOKEN"]

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if token and self.headers["Authorization"] != f"Bearer {token}":
            return self.answer(401, {"message": "nobody knows you"})
        asked[self.path] = question
        self.answer(codes.get(self.path, 403), {"message": f"{self.path} as told"})

    def do_GET(self):
        path, _, code = self.path.partition("?code=")
        if code:
            codes[path] = int(code)
        self.answer(200, asked.get(path, {}))

    def answer(self, code, document):
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""


@dataclass(frozen=True, slots=True)
class Gate:
    """The webhook; each path of it is a gate of its own, shut at first."""

    kube: Kube
    image: str
    """Any image with Python."""
    namespace: str
    token: str = ""
    """What who asks has to show as its bearer token; empty: everybody may ask."""

    def start(self) -> "Gate":
        """Start the pod and wait until it answers."""
        self.kube.apply(self._pod())
        self.kube.apply(service(self.namespace, NAME, PORT))
        self.kube.wait("Pod", NAME, is_ready_pod, timeout=60, namespace=self.namespace, api_version="v1", what="ready")
        return self

    @property
    def origin(self) -> str:
        """Where it is."""
        return f"http://{NAME}.{self.namespace}.svc:{PORT}"

    def url(self, path: str) -> str:
        """Return the address of one gate."""
        return f"{self.origin}{path}"

    def credentials(self, token: str) -> Object:
        """Make the Secret that lets the operator in here with a token."""
        return secret(self.namespace, SECRET, origin=self.origin, token=token)

    def answer(self, path: str, code: int) -> None:
        """Let a gate answer with a status from now on."""
        assert self._get(path, code=str(code)) is not None

    def asked(self, path: str) -> Object:
        """Return the document that a gate was asked with last; empty if it was not asked."""
        found: Object = self._get(path)
        return found

    def _get(self, path: str, **query: str) -> Object:
        found: Object = self.kube.service_get(f"{NAME}:{PORT}", path, self.namespace, **query)
        return found

    def _pod(self) -> Object:
        container = {
            "image": self.image,
            "command": ["python", "-c", PROGRAM],
            "env": [{"name": "TOKEN", "value": self.token}],
            "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        }
        return pod(self.namespace, NAME, container)
