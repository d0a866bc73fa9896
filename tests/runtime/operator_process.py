"""`python -m tidegate` as a process against a real API server, and the few things a kubelet and a router would do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from dev.cluster.apiserver import ApiServer

ROOT = Path(__file__).parents[2]
OPERATOR = ROOT / "operator"


def wait_for(look: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """Look until there is something; fail after a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.05)  # between two looks, never instead of one


class Operator:
    """One replica."""

    def __init__(self, kubeconfig: Path, folder: Path, identity: str, **settings: str) -> None:
        self.port, progress = _free_ports(2)
        self.log = folder / f"{identity}.log"
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(OPERATOR),
            "KUBECONFIG": str(kubeconfig),
            "TIDEGATE_IDENTITY": identity,
            "TIDEGATE_METRICS_PORT": str(self.port),
            "TIDEGATE_PROGRESS_PORT": str(progress),
            "TIDEGATE_LEASE_SECONDS": "5",
        } | {f"TIDEGATE_{name.upper()}": value for name, value in settings.items()}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tidegate"], env=environment, cwd=folder, stdout=log, stderr=log
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def get(self, path: str) -> tuple[int, str]:
        """Ask the health port; (0, reason) while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metric(self, line: str) -> float | None:
        for each in self.get("/metrics")[1].splitlines():
            name, _, value = each.rpartition(" ")
            if name == line:
                return float(value)
        return None

    def wait_until_leading(self) -> None:
        wait_for(
            lambda: self.metric("tidegate_leading") == 1 and self.get("/readyz")[0] == 200, f"a leader\n{self.text}"
        )

    @property
    def text(self) -> str:
        return self.log.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]

    @property
    def memory(self) -> float:
        """Resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def stop(self, number: int = signal.SIGTERM, seconds: float = 20) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)


class Cluster:
    """The API server, with the kubelet's and the router's part played by the test."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    @property
    def kubeconfig(self) -> Path:
        return self._server.kubeconfig

    def apply(self, *manifests: dict[str, Any]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        self._server.kubectl("apply", "--server-side", "--field-manager=person", "-f", "-", stdin=text)

    def get(self, kind: str, name: str, namespace: str) -> dict[str, Any] | None:
        text = self._server.kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def list(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        text = self._server.kubectl("get", kind, "-n", namespace, "-o", "json")
        found: list[dict[str, Any]] = json.loads(text)["items"]
        return found

    def delete(self, kind: str, name: str, namespace: str) -> None:
        self._server.kubectl("delete", kind, name, "-n", namespace, "--wait=false")

    def set_status(self, kind: str, name: str, namespace: str, status: dict[str, Any]) -> None:
        patch = json.dumps({"status": status})
        arguments = ("--subresource=status", "--type=merge", "-p", patch)
        self._server.kubectl("patch", kind, name, "-n", namespace, *arguments)

    def add_namespace(self, name: str) -> None:
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        account = {"name": "default", "namespace": name}
        self.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})

    def add_version(self, namespace: str, version: str, *, ready: bool = True) -> None:
        """Make a ModelVersion of connect4, and let its validation pass."""
        name = f"connect4-{version}"
        artifact = {"uri": "https://example.org/model.onnx", "sha256": version.replace(".", "")[0] * 64}
        spec = {"model": "connect4", "version": version, "artifact": artifact}
        self.apply(make("ModelVersion", name, namespace, spec))
        if ready:
            wait_for(
                lambda: self.status(name, namespace, "modelversions").get("phase"), "the ModelVersion's first status"
            )
            self._finish_validation(namespace, name)

    def _finish_validation(self, namespace: str, name: str) -> None:
        """Report what the Job controller and the validation pod would."""

        def job() -> dict[str, Any] | None:
            return next((each for each in self.list("jobs", namespace) if _owner(each) == f"ModelVersion/{name}"), None)

        found = wait_for(job, "the validation Job")
        names = ("Checksum", "Loadable", "Signature", "FiniteOutputs", "Parity", "Latency", "GoldenSet")
        result = {"outcome": "Passed", "checks": [{"name": each, "outcome": "Passed", "message": ""} for each in names]}
        self._add_pod(namespace, found, result)
        now = "2026-01-01T00:00:00Z"
        done = [
            {"type": kind, "status": "True", "lastTransitionTime": now} for kind in ("SuccessCriteriaMet", "Complete")
        ]
        status = {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": done}
        self.set_status("jobs", found["metadata"]["name"], namespace, status)
        wait_for(lambda: self.status(name, namespace, "modelversions").get("phase") == "Ready", f"{name} to be Ready")

    def _add_pod(self, namespace: str, job: dict[str, Any], result: dict[str, Any]) -> None:
        template = job["spec"]["template"]
        name = f"{job['metadata']['name']}-0"
        metadata = template["metadata"] | {"name": name, "namespace": namespace}
        reference = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job["metadata"]["name"],
            "uid": job["metadata"]["uid"],
        }
        metadata |= {"ownerReferences": [reference | {"controller": True}]}
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
        ended = {"exitCode": 0, "reason": "Completed", "message": json.dumps(result)}
        container = template["spec"]["containers"][0]
        seen = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": False,
            "restartCount": 0,
        }
        states = [seen | {"state": {"terminated": ended}}]
        self.set_status("pods", name, namespace, {"phase": "Succeeded", "containerStatuses": states})

    def status(self, name: str, namespace: str, kind: str = "deployments.tidegate.dev") -> dict[str, Any]:
        return (self.get(kind, name, namespace) or {}).get("status") or {}

    def condition(self, aspect: str, name: str, namespace: str) -> dict[str, Any]:
        found = self.status(name, namespace).get("conditions") or ()
        return next((each for each in found if each["type"] == aspect), {})

    def play_kubelet(self, namespace: str) -> None:
        """All pods asked for are ready."""
        for live in self.list("deployments.apps", namespace):
            replicas = live["spec"]["replicas"]
            counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), replicas)
            status = counts | {"observedGeneration": live["metadata"]["generation"]}
            if not status.items() <= live.get("status", {}).items():
                self.set_status("deployments.apps", live["metadata"]["name"], namespace, status)

    def play_router(self, namespace: str) -> None:
        """Every proxy runs the present shares."""
        for route in self.list("routes.tidegate.dev", namespace):
            seen, wanted = (route.get("status") or {}).get("observedGeneration"), route["metadata"]["generation"]
            if seen == wanted:
                continue
            weights = [
                {"modelVersion": each["modelVersion"], "percent": each["percent"]} for each in route["spec"]["backends"]
            ]
            ready = {"type": "Ready", "status": "True", "reason": "Confirmed", "message": ""}
            conditions = [ready | {"lastTransitionTime": "2026-01-01T00:00:00.000000Z"}]
            status = {"observedGeneration": wanted, "weights": weights, "conditions": conditions}
            self.set_status("routes.tidegate.dev", route["metadata"]["name"], namespace, status)


def make(kind: str, name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Make a manifest of one of our kinds."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "tidegate.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def _owner(manifest: dict[str, Any]) -> str | None:
    return (manifest["metadata"].get("annotations") or {}).get("tidegate.dev/owner")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
