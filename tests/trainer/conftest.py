"""Positions, documents and a small server for the trainer's tests."""

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tidegate_trainer import connect4
from tidegate_trainer.settings import Settings

POSITIONS = 3_000

TINY = {
    "blocks": 1,
    "channels": 8,
    "epochs": 3,
    "batchSize": 64,
    "maxExamples": 1_000,
    "maxEvaluationExamples": 200,
    "threads": 1,
    "device": "cpu",
    "heldOutFraction": 0.2,
    "validationFraction": 0.1,
}


@pytest.fixture(scope="session")
def labelled():
    """A fair sample of all solved positions, from all over the split's range."""
    positions = connect4.enumerate_positions(connect4.STONES)
    return connect4.label(positions[:: len(positions) // POSITIONS], connect4.load_book())


@pytest.fixture(scope="session")
def dataset_file(labelled, tmp_path_factory):
    from tidegate_trainer.datasets import to_npz

    path = tmp_path_factory.mktemp("data") / "positions.npz"
    path.write_bytes(to_npz(labelled))
    return path


@pytest.fixture
def document(dataset_file, tmp_path):
    """A whole contract document that trains a tiny network; tests change what they need."""
    return {
        "contractVersion": "v1",
        "namespace": "games",
        "name": "tiny",
        "uid": "5c8d",
        "model": "connect4",
        "trainer": {"algorithm": "supervised", "config": dict(TINY)},
        "datasets": [{"name": "positions", "uri": dataset_file.as_uri(), "sha256": None}],
        "baseModel": None,
        "checkpoint": {"intervalSeconds": 3600, "keep": 2, "uri": (tmp_path / "remote").as_uri()},
        "artifact": {"uri": (tmp_path / "model").as_uri()},
        "mlflow": None,
        "progress": None,
        "seed": 7,
        "resources": {"cpu": 2, "gpus": 0},
        "distributed": {"nodes": 1, "processesPerNode": 1},
    }


@pytest.fixture
def settings(tmp_path):
    return Settings(tmp_path / "job.json", tmp_path / "termination", tmp_path / "work", storage_patience=0)


@pytest.fixture
def write_document(settings):
    def write(document):
        settings.document.write_text(json.dumps(document))
        return settings

    return write


@dataclass
class Server:
    """Keeps what is PUT, notes what is POSTed, and fails as often as it is told."""

    url: str = ""
    files: dict = field(default_factory=dict)
    posts: list = field(default_factory=list)
    failures: list = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def wait_for_posts(self, count, seconds=10):
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.posts) >= count, seconds), f"{len(self.posts)} posts only"
        return self.posts


@pytest.fixture
def server():
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status, content=b""):
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def body(self):
            return self.rfile.read(int(self.headers.get("content-length") or 0))

        def do_GET(self):
            if state.failures:
                return self.answer(state.failures.pop(0))
            return self.answer(200, state.files[self.path]) if self.path in state.files else self.answer(404)

        def do_PUT(self):
            content = self.body()
            if state.failures:
                return self.answer(state.failures.pop(0))
            state.files[self.path] = content
            return self.answer(204)

        def do_POST(self):
            content = json.loads(self.body())
            with state.arrived:
                state.posts.append((self.path, self.headers.get("authorization"), content))
                state.arrived.notify_all()
            self.answer(state.failures.pop(0) if state.failures else 204)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
