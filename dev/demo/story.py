"""The chapters of the demo, in order. Each changes what a user would change, and waits for what a user would see."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from dev.demo.kube import Kube, Object, condition, is_true

MANIFESTS = Path(__file__).parent / "manifests"
BAD = {
    "wrong": ("1.2.0", "answers wrongly"),
    "slow": ("1.3.0", "is slow"),
    "failing": ("1.4.0", "fails at random"),
}
DEPLOYMENT = "connect4"


def manifest(name: str, **replacements: str) -> str:
    """Read a manifest and fill in the words in capitals."""
    text = (MANIFESTS / f"{name}.yaml").read_text()
    for word, value in replacements.items():
        text = text.replace(word, value)
    return text


@dataclass(slots=True)
class Story:
    """The demo's state: the cluster, the images, and what has been told so far."""

    kube: Kube
    images: dict[str, str]
    rate: float
    telling: list[str] = field(default_factory=list)
    """One line for each thing that happened, for the table."""

    def tell(self, text: str) -> None:
        """Add a line."""
        self.telling.append(text)

    def train_first(self) -> None:
        """Chapter 1: train a model on real data; it becomes version 1.0.0."""
        self.tell("TrainingJob connect4-small: training on perfectly solved positions")
        self.kube.apply(manifest("training"))
        self._trained("connect4-small", "connect4-1.0.0")

    def release_first(self) -> None:
        """Chapter 2: the first release has nothing to compare with: ready, then 100 %."""
        self.tell("Deployment connect4: releasing 1.0.0")
        self.kube.apply(manifest("deployment"))
        found = self.kube.wait("Deployment", DEPLOYMENT, is_true("Ready"), timeout=120, what="Ready")
        self.tell(f"serving at {found['status']['endpoint']}")

    def start_load(self) -> None:
        """Chapter 3: users arrive."""
        self.kube.apply(manifest("load", IMAGE=self.images["loadgen"], RATE=str(self.rate)))
        self.kube.wait(
            "Deployment",
            "load",
            lambda found: (found.get("status") or {}).get("readyReplicas") == 1,
            timeout=120,
            api_version="apps/v1",
            what="running",
        )
        self.tell(f"load: {self.rate:.0f} requests a second of held-out positions")

    def train_bigger(self) -> None:
        """Chapter 4: a bigger net is trained beside the traffic, handed over, and promoted in steps."""
        self.tell("TrainingJob connect4-bigger: a bigger net, beside the traffic")
        self.kube.apply(manifest("bigger"))
        self._trained("connect4-bigger", "connect4-1.1.0")
        self._until_serving("connect4-1.1.0")
        self.tell("1.1.0 promoted; its canary pods are the stable pods now")

    def make_bad_versions(self) -> None:
        """Chapter 5: somebody makes three bad models and registers them."""
        good = self.kube.get("ModelVersion", "connect4-1.1.0") or {}
        source: str = good["spec"]["artifact"]["uri"]
        text = manifest(
            "sabotage",
            IMAGE=self.images["loadgen"],
            SOURCE=source,
            DESTINATION=source.rsplit("/", 1)[0] + "/bad",
        )
        self.kube.apply(text)
        self.kube.wait(
            "Job",
            "sabotage",
            lambda found: (found.get("status") or {}).get("succeeded") == 1,
            timeout=120,
            api_version="batch/v1",
            what="complete",
        )
        for kind, artifact in self._report_of("job-name=sabotage").items():
            self.kube.apply(_version(BAD[kind][0], artifact))

    def release_bad(self, kind: str) -> None:
        """Chapters 6 to 8: a bad version is released, and the gate closes by itself."""
        version, words = BAD[kind]
        name = f"connect4-{version}"
        self.kube.wait("ModelVersion", name, is_true("Ready"), timeout=90, what="Ready")
        self.tell(f"releasing {version}, which {words}")
        self.kube.merge("Deployment", DEPLOYMENT, {"spec": {"modelVersion": name}})
        found = self.kube.wait(
            "Deployment",
            DEPLOYMENT,
            lambda found: (
                found["status"].get("phase") == "RolledBack"
                and condition(found, "Stalled").get("reason") == "RolledBack"
                and found["status"]["rejected"][0]["modelVersion"] == name
            ),
            timeout=120,
            what=f"RolledBack from {version}",
        )
        self.tell(f"rolled back: {found['status']['rejected'][0]['message']}")

    def back_to_good(self) -> None:
        """Chapter 9: the release manifest names the good version again: Healthy at once, nothing moves."""
        self.kube.merge("Deployment", DEPLOYMENT, {"spec": {"modelVersion": "connect4-1.1.0"}})
        self._until_serving("connect4-1.1.0")
        self.tell("the manifest names 1.1.0 again: Healthy")

    def _trained(self, job: str, version: str) -> None:
        found = self.kube.wait("TrainingJob", job, _ended, timeout=420, what="complete")
        if condition(found, "Failed").get("status") == "True":
            raise RuntimeError(f"TrainingJob {job} failed: {condition(found, 'Failed').get('message')}")
        status = found["status"]
        metrics = status.get("metrics") or {}
        self.tell(
            f"{status['modelVersion']}: {metrics.get('moveAccuracy', 0):.1%} right moves on held-out positions"
            f" (random legal moves: {metrics.get('randomMoveAccuracy', 0):.1%})",
        )
        self.kube.wait("ModelVersion", version, is_true("Ready"), timeout=120, what="Ready")
        self.tell(f"ModelVersion {version} has passed its checks")

    def _until_serving(self, version: str) -> None:
        self.kube.wait(
            "Deployment",
            DEPLOYMENT,
            lambda found: (
                found["spec"]["modelVersion"] == version
                and found["status"]["stable"]["modelVersion"] == version
                and is_true("Ready")(found)
            ),
            timeout=240,
            what=f"serving {version}",
        )

    def _report_of(self, selector: str) -> dict[str, Object]:
        for pod in self.kube.pods(selector):
            for container in pod["status"].get("containerStatuses") or []:
                message = (container["state"].get("terminated") or {}).get("message")
                if message:
                    report: dict[str, Object] = json.loads(message)
                    return report
        raise RuntimeError(f"no pod with {selector} has left a report")


def _ended(found: Object) -> bool:
    return any(condition(found, kind).get("status") == "True" for kind in ("Complete", "Failed"))


def _version(version: str, artifact: Object) -> Object:
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": f"connect4-{version}"},
        "spec": {"model": "connect4", "version": version, "artifact": {**artifact, "format": "ONNX"}},
    }
