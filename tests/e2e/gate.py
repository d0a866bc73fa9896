"""A gate that a test opens and shuts: a webhook in a pod, with its Service."""

from dataclasses import dataclass

from dev.demo.kube import Kube, Object, is_ready_pod

NAME = "gate"
PORT = 8080
PROGRAM = """
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

codes, asked = {}, {}

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked[self.path] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
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

    def start(self) -> "Gate":
        """Start the pod and wait until it answers."""
        self.kube.apply(self._pod())
        self.kube.apply(self._service())
        self.kube.wait("Pod", NAME, is_ready_pod, timeout=60, namespace=self.namespace, api_version="v1", what="ready")
        return self

    def url(self, path: str) -> str:
        """Return the address of one gate."""
        return f"http://{NAME}.{self.namespace}.svc:{PORT}{path}"

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
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": NAME, "namespace": self.namespace, "labels": {"app": NAME}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "gate",
                        "image": self.image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["python", "-c", PROGRAM],
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                    }
                ],
            },
        }

    def _service(self) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": NAME, "namespace": self.namespace},
            "spec": {"selector": {"app": NAME}, "ports": [{"port": PORT}]},
        }
