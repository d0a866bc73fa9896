"""A Deployment's cluster in memory: pods, the proxies with their router, Prometheus and gates are made up.

Every write is checked the moment it is made, against what each proxy really runs, which is more than the operator can
know; see `Cluster.check`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.fakes.world import FakeGates
from tests.faults.process import InvariantError, World
from tests.runtime.release_world import deployment, model_version
from tidegate.adapters.connection import path_of
from tidegate.adapters.kubernetes import KubernetesObjects
from tidegate.domain.admission import Limits
from tidegate.domain.manifests.names import COMMAND_ANNOTATION
from tidegate.domain.manifests.serving import Platform
from tidegate.domain.release import Counted, Measurement, Query
from tidegate.domain.statistics import Proportion
from tidegate.ports import (
    DEPLOYMENT,
    MODEL_VERSION,
    POD,
    ROUTE,
    SERVICE,
    WORKLOAD,
    Key,
    Kind,
    Manifest,
    Reconciler,
)
from tidegate.reconcilers.deployment import DeploymentReconciler
from tidegate.reconcilers.turns import Turns

KEY = Key(DEPLOYMENT, "default", "connect4")
ROUTE_PATH = path_of(ROUTE, "default", "connect4")
PATH = path_of(DEPLOYMENT, "default", "connect4")
READY_AFTER = 2
"""Seconds until a pod is ready."""
REQUESTS = 100
"""Requests of each version in a second, where versions are compared."""
VERSIONS = ("1.0.0", "2.0.0", "3.0.0", "4.0.0")

STARTS = frozenset({"StartRelease"})
ENDS = frozenset({"Promote", "RollBack", "Abort", "Supersede"})


@dataclass
class Proxy:
    """One Envoy: runs what it acknowledged last."""

    name: str
    generation: int = 0
    shares: dict[str, float] = field(default_factory=dict)
    """By workload."""
    mirror: Mapping[str, Any] = field(default_factory=dict)
    """Who gets copies of requests: the workload of a comparator, and the version that it asks."""
    frozen_until: datetime | None = None


@dataclass
class Prometheus:
    """Answers what it is told to, by version and metric; without a word about a version, that one is fine.

    For a comparison it counts the same number of requests of either version every second.
    """

    answers: dict[tuple[str, str], Measurement] = field(default_factory=dict)
    worse: set[str] = field(default_factory=set)
    """ModelVersions that answer a tenth of the requests with an error."""
    down: bool = False

    async def measure(
        self, namespace: str, deployment: str, queries: Sequence[Query], patience: timedelta
    ) -> Mapping[str, Measurement]:
        await asyncio.sleep(0)
        answers = {each.metric.name: self._answer(each) for each in queries}
        await asyncio.sleep(0)
        return answers

    def _answer(self, query: Query) -> Measurement:
        if self.down:
            return Measurement(error="connection refused")
        if query.stable is not None and query.metric.compare is not None:
            versions = query.version.model_version, query.stable.model_version
            return Measurement(counted=Counted(*(self._count(each, query) for each in versions)))
        return self.answers.get((query.version.model_version, query.metric.name), Measurement(0.01, samples=500))

    def _count(self, version: str, query: Query) -> Proportion:
        samples = requests_between(query.start, query.end)
        return Proportion(samples, samples // 10 if version in self.worse else 0)


def requests_between(start: datetime, end: datetime) -> int:
    return round(REQUESTS * (end - start).total_seconds())


class Cluster(World):
    """Everything that survives the operator."""

    def __init__(self, **spec: Any) -> None:
        super().__init__(KEY)
        self.prometheus = Prometheus()
        self.gates = FakeGates()
        self.proxies = [Proxy("envoy-a"), Proxy("envoy-b")]
        self.confirmed: tuple[int, dict[str, float]] = (0, {})
        """Generation of the Route that every proxy runs, and its shares by ModelVersion."""
        self.pods: dict[str, list[float]] = {}
        """Ages of the pods, by workload."""
        self.broken: set[str] = set()
        """ModelVersions whose pods never become ready."""
        self.told: list[Mapping[str, Any]] = []
        """Every decision that was recorded, oldest first."""
        self.commands: list[str] = []
        """Ids of the commands that were consumed."""
        for version in VERSIONS:
            self.api.put(path_of(MODEL_VERSION, "default", f"connect4-{version}"), model_version(version))
        self.api.put(PATH, deployment(**spec))
        self.start()

    def build(self, objects: KubernetesObjects) -> Mapping[Kind, Reconciler]:
        telling, asked = (self.events, self.telemetry, self.clock), (self.prometheus, self.gates)
        platform, turns = Platform("agent:1", "triton:1"), Turns(Limits(), lambda _: None)
        return {DEPLOYMENT: DeploymentReconciler(objects, objects, *asked, *telling, platform, turns)}

    # What people do

    def release(self, version: str) -> None:
        self.change(modelVersion=f"connect4-{version}")

    def command(self, name: str, identity: str) -> None:
        text = f'{{"id": "{identity}", "command": "{name}", "by": "ada"}}'
        self.api.change(PATH, lambda each: each["metadata"].update(annotations={COMMAND_ANNOTATION: text}))

    # What the cluster does

    def play(self) -> None:
        self.run_kubelet()
        self.run_router()

    def kill_pods(self, version: str) -> None:
        for live in self.workloads("serving"):
            if version_of(live) == f"connect4-{version}":
                self.pods[live["metadata"]["name"]] = []

    def run_kubelet(self) -> None:
        self._run_pods()
        for live in self.api.of_kind(WORKLOAD):
            name, replicas = live["metadata"]["name"], live["spec"]["replicas"]
            ages = sorted(self.pods.get(name, []), reverse=True)[:replicas]
            self.pods[name] = ages + [0.0] * (replicas - len(ages))
            ready = sum(age >= READY_AFTER for age in self.pods[name])
            status = {
                "observedGeneration": live["metadata"]["generation"],
                "replicas": replicas,
                "updatedReplicas": replicas,
                "readyReplicas": ready,
            }
            self.api.change(path_of(WORKLOAD, "default", name), lambda each, s=status: each.update(status=s))  # type: ignore[misc]

    def _run_pods(self) -> None:
        """One Pod stands for all of a workload: it comes and goes, and the operator hears of it."""
        templates = {each["metadata"]["name"]: each["spec"]["template"] for each in self.api.of_kind(WORKLOAD)}
        there = {each["metadata"]["name"] for each in self.api.of_kind(POD)}
        for name in sorted(templates.keys() - there):
            metadata = templates[name]["metadata"] | {"name": name, "namespace": "default"}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"phase": "Running"}}
            self.api.put(path_of(POD, "default", name), pod)
        for name in sorted(there - templates.keys()):
            self.api.remove(path_of(POD, "default", name))

    def run_router(self) -> None:
        """Let the proxies that answer run the Route, and write down what all of them run."""
        route = self.api.objects.get(ROUTE_PATH)
        if route is None:
            return
        generation = route["metadata"]["generation"]
        for proxy in self.proxies:
            if proxy.frozen_until is None or self.clock.now() >= proxy.frozen_until:
                proxy.frozen_until, proxy.generation = None, generation
                proxy.shares = _shares(route)
                proxy.mirror = route["spec"].get("mirror", {})
        missing = [each.name for each in self.proxies if each.generation != generation]
        if not missing:
            self.confirmed = generation, {each["modelVersion"]: each["percent"] for each in route["spec"]["backends"]}
        self.api.change(ROUTE_PATH, lambda each: each.update(status=self._route_status(generation, missing)))

    def _route_status(self, generation: int, missing: Sequence[str]) -> dict[str, Any]:
        ready = {
            "type": "Ready",
            "status": "False" if missing else "True",
            "reason": "Waiting" if missing else "Confirmed",
            "message": "waits for proxies" if missing else "",
            "lastTransitionTime": "2026-01-01T00:00:00.000000Z",
        }
        return {
            "observedGeneration": generation,
            "weights": [{"modelVersion": name, "percent": share} for name, share in self.confirmed[1].items()],
            "conditions": [ready],
            "proxies": {"connected": 2, "acknowledged": 2 - len(missing), "missing": list(missing)},
        }

    def pass_time(self) -> None:
        super().pass_time()
        broken = {each["metadata"]["name"] for each in self.workloads("serving") if version_of(each) in self.broken}
        self.pods = {name: [age + (name not in broken) for age in ages] for name, ages in self.pods.items()}

    # What is looked at

    @property
    def serving(self) -> list[str]:
        return sorted(version_of(each) for each in self.workloads("serving"))

    def workloads(self, component: str) -> list[Manifest]:
        return [each for each in self.api.of_kind(WORKLOAD) if component_of(each) == component]

    @property
    def comparators(self) -> list[str]:
        """Names of what is there to compare answers, and of what proxies send copies to."""
        made = [each for kind in (WORKLOAD, SERVICE) for each in self.api.of_kind(kind)]
        found = {each["metadata"]["name"] for each in made if component_of(each) == "comparator"}
        return sorted(found | {each.mirror["workload"] for each in self.proxies if each.mirror})

    @property
    def narration(self) -> list[str]:
        """Every decision in words, without its time."""
        return [
            " ".join(str(each.get(part, "")) for part in ("action", "modelVersion", "from", "to", "reason", "message"))
            for each in self.told
        ]

    def ready(self, workload: str) -> int:
        """Return how many pods the operator that writes knows to be ready."""
        live = self.operator.get(Key(WORKLOAD, "default", workload))
        return int(((live or {}).get("status") or {}).get("readyReplicas", 0))

    # Invariants

    def check(self, kind: Kind, before: Manifest | None, after: Manifest | None) -> None:
        """Compare one write with what the proxies run."""
        if kind == ROUTE and after is not None:
            self._check_shares(_shares(before), _shares(after))
            self._check_copies(before, after)
            if before is None or before["spec"] != after["spec"]:
                self._check_decided(after)
        if kind in (WORKLOAD, SERVICE) and after is None and before is not None:
            self._check_removal(before)
        if kind == WORKLOAD and before is not None and after is not None:
            self._check_scale(before, after)
        if kind == DEPLOYMENT and after is not None:
            self._check_record((before or {}).get("status") or {}, after.get("status") or {})

    def _check_shares(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        if abs(sum(after.values()) - 100) > 1e-6 or any(not 0 <= share <= 100 for share in after.values()):
            raise InvariantError(f"the shares {after} do not sum to 100")
        for workload, share in after.items():
            if share > before.get(workload, 0) and self.ready(workload) == 0:
                raise InvariantError(f"{workload} gets {share} % and has no ready pod")

    def _check_decided(self, route: Manifest) -> None:
        """Nothing is carried out that is not written down: a decision may rest on what cannot be had a second time."""
        canary, stable = self.status.get("canary"), self.status.get("stable")
        decided = (canary, canary["targetPercent"]) if canary else (stable or {}, 100.0)
        for each in route["spec"]["backends"]:
            if each["modelVersion"] == decided[0].get("modelVersion") and each["percent"] != decided[1]:
                raise InvariantError(f"{each['modelVersion']} gets {each['percent']} %, but {decided[1]} % is recorded")
        named = {each["modelVersion"] for each in route["spec"]["backends"]}
        if decided[1] > 0 and decided[0].get("modelVersion") not in named:
            raise InvariantError(f"{named} get traffic, but {decided} is recorded")

    def _check_copies(self, before: Manifest | None, after: Manifest) -> None:
        """Copies go to nobody who is not there, and who answers copies answers no user."""
        mirror = after["spec"].get("mirror")
        if mirror is None:
            return
        if any(each["modelVersion"] == mirror["modelVersion"] for each in after["spec"]["backends"]):
            raise InvariantError(f"{mirror['modelVersion']} is shadowed, and users get to it")
        if (before or {"spec": {}})["spec"].get("mirror") != mirror and self.ready(mirror["workload"]) == 0:
            raise InvariantError(f"{mirror['workload']} gets copies and has no ready pod")

    def _check_removal(self, gone: Manifest) -> None:
        name = gone["metadata"]["name"]
        for proxy in self.proxies:
            if proxy.shares.get(name, 0) > 0:
                raise InvariantError(f"{name} is removed, and {proxy.name} sends it {proxy.shares[name]} %")
            if version_of(gone) == proxy.mirror.get("modelVersion"):
                raise InvariantError(f"{name} is removed, and {proxy.name} sends copies to {proxy.mirror['workload']}")

    def _check_scale(self, before: Manifest, after: Manifest) -> None:
        wanted, replicas = (
            self.api.objects[PATH]["spec"].get("serving", {}).get("replicas", 1),
            after["spec"]["replicas"],
        )
        if replicas >= before["spec"]["replicas"] or wanted < before["spec"]["replicas"]:
            return
        name = after["metadata"]["name"]
        needed = max(each.shares.get(name, 0) for each in self.proxies) * wanted / 100
        if replicas < needed:
            raise InvariantError(f"{name} is scaled to {replicas} and serves the share of {needed} pods")

    def _check_record(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        told = _news(before.get("decisions") or (), after.get("decisions") or ())
        self.told += told
        last = (after.get("lastCommand") or {}).get("id")
        if last is not None and last != (before.get("lastCommand") or {}).get("id"):
            if last in self.commands:
                raise InvariantError(f"command {last} is consumed twice")
            self.commands.append(last)
        if any(each["action"] == "Promote" for each in told):
            self._check_promotion(after["stable"]["modelVersion"])
        self._check_shadow(after.get("canary"))
        self._check_evidence(before, after)

    def _check_shadow(self, canary: Mapping[str, Any] | None) -> None:
        """What began with copies goes on to users when it passed; unless a person skips all steps."""
        if canary is None or canary["targetPercent"] == 0 or canary.get("fast"):
            return
        about = [each for each in self.told if each["modelVersion"] == canary["modelVersion"]]
        news = [each["reason"] for each in about if each["action"] in ("StartRelease", "RestartSteps", "Mirror")]
        if news and news[-1] == "ShadowStarted":
            raise InvariantError(f"{canary['modelVersion']} gets {canary['targetPercent']} %, and is shadowed still")

    def _check_evidence(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Every request is counted once: from the first one, or the first copy of one, to the first look, and on."""
        counted, canaries = _comparisons(before), [each["canary"] for each in (before, after) if each.get("canary")]
        begins = {canary.get(each) for canary in canaries for each in ("firstTrafficAt", "stepStartedAt")}
        for name, new in _comparisons(after).items():
            old = counted.get(name)
            if new == old:
                continue
            samples = new["canarySamples"], new["stableSamples"]
            if old is None or samples < (old["canarySamples"], old["stableSamples"]):
                possible = {(requests_between(_time(each), _time(new["until"])),) * 2 for each in begins if each}
            else:
                more = requests_between(_time(old["until"]), _time(new["until"]))
                possible = {(old["canarySamples"] + more, old["stableSamples"] + more)}
            if samples not in possible:
                raise InvariantError(f"{new} is counted after {old}, not {possible}")

    def _check_promotion(self, version: str) -> None:
        workloads = {each["metadata"]["name"]: version_of(each) for each in self.api.of_kind(WORKLOAD)}
        for proxy in self.proxies:
            runs = sum(share for workload, share in proxy.shares.items() if workloads.get(workload) == version)
            if runs != 100:
                raise InvariantError(f"{version} is promoted, and {proxy.name} gives it {runs} %")

    def check_narration(self) -> None:
        """Every release begins and ends once, and nothing is told more often than it is recorded."""
        open_version = None
        for each in self.told:
            if each["action"] in STARTS:
                if open_version is not None:
                    raise InvariantError(f"{each['modelVersion']} starts while {open_version} is released")
                open_version = each["modelVersion"]
            if each["action"] in ENDS:
                if open_version != each["modelVersion"]:
                    raise InvariantError(f"{each['action']} of {each['modelVersion']}, and {open_version} is released")
                open_version = None
        recorded = sorted((each["action"], each["reason"]) for each in self.told)
        for kind, action, reason in self.telemetry.decisions:
            if kind != "Deployment" or (action, reason) not in recorded:
                raise InvariantError(f"{action} {reason} is told more often than it is recorded")
            recorded.remove((action, reason))


def version_of(workload: Manifest) -> str:
    return str(workload["metadata"]["annotations"]["tidegate.dev/model-version"])


def _comparisons(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what was counted of both versions, by metric."""
    return {each["name"]: each["comparison"] for each in status.get("analysis") or () if "comparison" in each}


def component_of(child: Manifest) -> str:
    return str(child["metadata"]["labels"]["tidegate.dev/component"])


def _shares(route: Manifest | None) -> dict[str, float]:
    return {each["workload"]: each["percent"] for each in route["spec"]["backends"]} if route else {}


def _news(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the decisions that are not there before, oldest first; both are newest first and bounded.

    The tick of a ramp takes the place of the one before.
    """
    for count in range(len(after) + 1):
        for replaced in (0, 1) if count else (0,):
            if list(after[count:]) == list(before[replaced : replaced + len(after) - count]):
                return list(reversed(after[:count]))
    raise InvariantError("decisions of before are changed")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
