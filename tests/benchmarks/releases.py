"""200 releases at once: Tidegate beside Argo Rollouts, Flagger and the floor that the workload controllers set."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from dev import installation
from dev.cluster import kwok
from dev.demo.kube import TIDEGATE, Object, is_true
from tests.benchmarks import peers
from tests.benchmarks.bench import Bench, Watcher
from tests.benchmarks.peers import ARGO, ARGO_LIFTED, FLAGGER_CONTROLLER, Usage
from tests.benchmarks.report import Table
from tests.e2e.artifacts import SIGNATURE
from tests.e2e.objects import deployment
from tidegate.api.deployment import Serving
from tidegate.api.model_version import ArtifactReference, Signature
from tidegate.domain.manifests.serving import DOCUMENT_ANNOTATION, Platform, Served, build_serving

NAME = "releases"
LIFTED = "releases-lifted"
COUNT = 200
CLIENTS = 8
TIMEOUT = 900.0
HOLD = "5s"
SHARES = (30, 60)
ROUNDS = 2
"""Where kube-controller-manager's limits are lifted the machine decides, and runs scatter."""
NO_USAGE = Usage(0, 0, 0)
REST_SECONDS = 5.0
REST_RATE = 4.0
"""Requests per second: the renewals of a lease are fewer."""
LONGEST_REST = 60.0
"""Flagger never rests: it looks at each of its objects at every interval."""
ON_FAKE_NODES = {
    "nodeSelector": {"type": "kwok"},
    "tolerations": [{"key": kwok.ANNOTATION, "operator": "Exists"}],
}
ABOUT = f"""\
{COUNT} objects are created at once and, when all are healthy, all released at once: 30 %, hold 5 s, 60 %, hold 5 s,
all; 10 s is the least that a release can take. Pods run on fake nodes of kwok, one for each version, and everybody's
are those that Tidegate makes for a version (puller, Triton, agent): what the API server has to do for a pod grows
with it. The *floor* is the same number of apps/v1 Deployments, created and given another annotation of their pods:
what the workload controllers alone need. They are limited by kube-controller-manager's client, 20 requests a second.
Argo Rollouts {{argo}} runs with its default limits and with `--qps 500 --burst 1000`, without a traffic router: its
shares are numbers of pods, of which there is one. *Requests* are counted by the API server for each release until
nothing is asked any more, events and the end of the old pods included; processor time and resident memory are from
the controllers' own metrics. Tidegate's are those of operator and router's control plane together: five requests for
each of the three shares (the decision is written down, told as an event, put into the Route, confirmed there once
every proxy has it, and the step begins), and what it takes to begin and to end. The peers run as processes outside a
pod. One run each, for the limits decide."""
ABOUT_LIFTED = f"""\
The same with `--kube-api-qps 500 --kube-api-burst 1000` and 20 concurrent syncs. Argo Rollouts also runs with a
traffic router, as Tidegate does (*moves traffic*: two Services and the weights of an nginx Ingress, which nobody
carries out here). Flagger {{flagger}} moves the weights of an HTTPRoute; its least interval is 10 s, so that 20 s is
the least that its release can take, it makes two Deployments of each, and it never rests: its requests are counted
for a minute longer. Now the machine decides, and runs scatter: {ROUNDS} rounds, in turn, on the cluster as the one
before has left it; the median, and in brackets the least and the most. Flagger, which takes long, is measured once."""
COLUMNS = (
    "who", "create → all healthy", "release → all healthy",
    "requests each", "CPU each", "memory",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a contender."""

    created: float
    """Seconds until all were healthy."""
    released: float
    """Seconds until all were released and healthy."""
    usage: Usage | None
    """What it used for one release; nothing is known of the floor."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who releases: what is written, and when it has happened."""

    kind: str
    api_version: str
    plural: str
    make: Callable[[str, str], Sequence[Object]]
    """Namespace and name → the objects to create."""
    change: tuple[str, str, Object]
    """Kind, apiVersion and merge patch that release the next version."""
    is_created: Callable[[Object], bool]
    is_released: Callable[[Object], bool]


def measure(bench: Bench, count: int = COUNT) -> Table:
    """Measure Argo Rollouts and Tidegate with the default limits of kube-controller-manager."""
    with _cluster():
        rows = [[who, *render_runs([run])] for who, run in _tell(_measure_with_limits(bench, count))]
    return Table(NAME, f"{count} releases at once", ABOUT.format(argo=ARGO.version), COLUMNS, rows)


def measure_lifted(bench: Bench, count: int = COUNT) -> Table:
    """Measure everybody, several times, without the limits of kube-controller-manager."""
    runs: dict[str, list[Run]] = {}
    with _cluster("--lift-limits"):
        for number in range(ROUNDS):
            for who, run in _tell(_measure_without_limits(bench, count, flagger=number == 0)):
                runs.setdefault(who, []).append(run)
    rows = [[who, *render_runs(found)] for who, found in runs.items()]
    about = ABOUT_LIFTED.format(flagger=FLAGGER_CONTROLLER.version)
    title = f"{count} releases at once, kube-controller-manager without its limits"
    return Table(LIFTED, title, about, COLUMNS, rows)


@contextmanager
def _cluster(*flags: str) -> Iterator[None]:
    try:
        installation.cluster("up", *flags)
        installation.cluster("kwok", "up", "--nodes", "4")
        yield
    finally:
        installation.cluster("kwok", "down")
        installation.cluster("up")


def _tell(measured: Iterator[tuple[str, Run]]) -> Iterator[tuple[str, Run]]:
    for who, run in measured:
        print(" · ".join([who, *render_runs([run])]), flush=True)
        yield who, run


def render_runs(runs: Sequence[Run]) -> list[str]:
    """Write the columns of one contender: medians, of several runs with the least and the most."""
    usages = [run.usage for run in runs if run.usage is not None]
    columns = [
        ([run.created for run in runs], "{:.1f}", " s"),
        ([run.released for run in runs], "{:.1f}", " s"),
        ([usage.requests for usage in usages], "{:.1f}", ""),
        ([1000 * usage.cpu for usage in usages], "{:.0f}", " ms"),
        ([usage.memory / 1e6 for usage in usages], "{:.0f}", " MB"),
    ]
    return [_render_column(*column) for column in columns]


def _render_column(values: Sequence[float], number: str, unit: str) -> str:
    if not values:
        return "–"
    median = number.format(statistics.median(values)) + unit
    if len(values) == 1:
        return median
    return f"{median} ({number.format(min(values))}–{number.format(max(values))})"


def _measure_with_limits(bench: Bench, count: int) -> Iterator[tuple[str, Run]]:
    yield "floor: apps/v1 Deployment", _measure(bench, FLOOR, count, None)
    with peers.running(bench, ARGO) as argo:
        yield "Argo Rollouts", _measure(bench, ROLLOUT, count, argo.usage)
    with peers.running(bench, ARGO, ARGO_LIFTED) as argo:
        yield "Argo Rollouts, its limits lifted", _measure(bench, ROLLOUT, count, argo.usage)
    with peers.own_requests_counted(bench):
        yield "**Tidegate**", _measure(bench, DEPLOYMENT, count, lambda: peers.own_usage(bench))


def _measure_without_limits(bench: Bench, count: int, *, flagger: bool) -> Iterator[tuple[str, Run]]:
    yield "floor: apps/v1 Deployment", _measure(bench, FLOOR, count, None)
    with peers.running(bench, ARGO, ARGO_LIFTED) as argo:
        yield "Argo Rollouts, its limits lifted", _measure(bench, ROLLOUT, count, argo.usage)
        routed = _measure(bench, ROUTED_ROLLOUT, count, argo.usage)
        yield "Argo Rollouts, its limits lifted, moves traffic", routed
    with peers.own_requests_counted(bench):
        yield "**Tidegate**", _measure(bench, DEPLOYMENT, count, lambda: peers.own_usage(bench))
    if flagger:
        with peers.running(bench, FLAGGER_CONTROLLER) as other:
            yield "Flagger", _measure(bench, CANARY, count, other.usage)


def _measure(bench: Bench, who: Contender, count: int, usage: Callable[[], Usage] | None) -> Run:
    names = [f"m{number:04d}" for number in range(count)]
    with _namespace(bench, who) as namespace, _watch(bench, who, namespace) as watcher:
        created = _time(
            lambda name: [bench.kube.apply(each) for each in who.make(namespace, name)],
            names, watcher, who.is_created, "created",
        )  # fmt: skip
        before = _rest(usage) if usage else NO_USAGE
        kind, api_version, patch = who.change
        released = _time(
            lambda name: bench.kube.merge(kind, name, patch, namespace, api_version),
            names, watcher, who.is_released, "released",
        )  # fmt: skip
        used = _rest(usage) - before if usage else None
    each = Usage(used.requests / count, used.cpu / count, used.memory) if used else None
    return Run(created, released, each)


def _rest(usage: Callable[[], Usage]) -> Usage:
    """Return what was used when hardly anything is asked any more: events and the end of old pods are a part of it."""
    before, deadline = usage(), time.monotonic() + LONGEST_REST
    while True:
        time.sleep(REST_SECONDS)
        now = usage()
        if now.requests - before.requests <= REST_RATE * REST_SECONDS or time.monotonic() > deadline:
            return now
        before = now


def _time(
    act: Callable[[str], Any], names: Sequence[str], watcher: Watcher, holds: Callable[[Object], bool], what: str
) -> float:
    """Return the seconds from the first write until a statement is true of all objects."""
    begin = time.monotonic()
    act(names[0])  # alone: the client learns about the kind, which it cannot do in several threads
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(act, names[1:]))
    watcher.until(
        lambda: all(name in watcher.seen and holds(watcher.seen[name]) for name in names),
        f"all {len(names)} {what}", TIMEOUT,
    )  # fmt: skip
    return time.monotonic() - begin


@contextmanager
def _namespace(bench: Bench, who: Contender) -> Iterator[str]:
    with bench.namespace() as namespace:
        if who is DEPLOYMENT:
            bench.register(namespace, "1.0.0", bench.store["good"])
            bench.register(namespace, "1.1.0", bench.store["better"])
        yield namespace


@contextmanager
def _watch(bench: Bench, who: Contender, namespace: str) -> Iterator[Watcher]:
    group, _, version = who.api_version.rpartition("/")
    with Watcher(bench.kube, namespace, group, version, who.plural).running() as watcher:
        yield watcher


# ---- what each of them is asked for ----------------------------------------------------------------------------------


def _make_template(name: str) -> Object:
    """Make the pods of a version as Tidegate does, without the marks by which it knows its own."""
    served = Served(
        namespace="bench",
        deployment="m",
        deployment_uid="0",
        model_version="m-1.0.0",
        artifact=ArtifactReference(uri="https://models.example/m.onnx", sha256="0" * 64),
        signature=Signature.model_validate(SIGNATURE),
        serving=Serving.model_validate({"scheduling": ON_FAKE_NODES}),
    )
    built = build_serving(served, Platform("tidegate.local/agent:1", "tidegate.local/triton:1"), 1)
    made: Object = built["spec"]["template"]
    document = made["metadata"]["annotations"][DOCUMENT_ANNOTATION]
    return made | {"metadata": {"labels": {"app": name}, "annotations": {DOCUMENT_ANNOTATION: document}}}


NEXT_PODS: Object = {"spec": {"template": {"metadata": {"annotations": {"release": "2"}}}}}


def _workload(api_version: str, kind: str, namespace: str, name: str, **spec: Any) -> Object:
    labels = {"app": name}
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": _make_template(name),
            **spec,
        },
    }


def _make_plain(namespace: str, name: str) -> list[Object]:
    return [_workload("apps/v1", "Deployment", namespace, name)]


def _make_rollout(namespace: str, name: str) -> list[Object]:
    steps = [step for share in SHARES for step in ({"setWeight": share}, {"pause": {"duration": HOLD}})]
    strategy = {"canary": {"steps": steps}}
    return [_workload("argoproj.io/v1alpha1", "Rollout", namespace, name, strategy=strategy)]


def _make_routed_rollout(namespace: str, name: str) -> list[Object]:
    """Make a Rollout that moves traffic, too: by the weights of an Ingress, which need no proxy to be written."""
    services = [f"{name}-stable", f"{name}-canary"]
    (rollout,) = _make_rollout(namespace, name)
    canary = rollout["spec"]["strategy"]["canary"]
    canary |= {"stableService": services[0], "canaryService": services[1]}
    canary |= {"trafficRouting": {"nginx": {"stableIngress": name}}}
    return [*(_make_service(namespace, each, name) for each in services), _make_ingress(namespace, name), rollout]


def _make_service(namespace: str, name: str, app: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": app}, "ports": [{"name": "http", "port": 8000}]},
    }


def _make_ingress(namespace: str, name: str) -> Object:
    backend = {"service": {"name": f"{name}-stable", "port": {"number": 8000}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"ingressClassName": "nginx", "rules": [{"host": f"{name}.example", "http": {"paths": paths}}]},
    }


def _make_canary(namespace: str, name: str) -> list[Object]:
    canary = {
        "apiVersion": "flagger.app/v1beta1",
        "kind": "Canary",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "service": {"port": 80, "gatewayRefs": [{"name": "gateway", "namespace": namespace}]},
            "analysis": {"interval": "10s", "threshold": 5, "stepWeights": list(SHARES)},
        },
    }
    return [*_make_plain(namespace, name), canary]


def _make_deployment(namespace: str, name: str) -> list[Object]:
    found = deployment(namespace, "1.0.0", name=name, analysis={"interval": "1s"})
    steps = [step for share in SHARES for step in ({"setPercent": share}, {"hold": HOLD})]
    found["spec"]["strategy"] = {"canary": {"steps": steps}}
    found["spec"]["serving"]["scheduling"] = ON_FAKE_NODES
    return [found]


def _is_available(found: Object) -> bool:
    status = found.get("status") or {}
    current = status.get("observedGeneration") == found["metadata"]["generation"]
    return current and all(status.get(each) == 1 for each in ("replicas", "updatedReplicas", "availableReplicas"))


def _is_updated(found: Object) -> bool:
    return found["metadata"]["generation"] > 1 and _is_available(found)


def _is_healthy(found: Object) -> bool:
    status = found.get("status") or {}
    current = status.get("observedGeneration") == str(found["metadata"]["generation"])
    return current and status.get("phase") == "Healthy" and status.get("stableRS") == status.get("currentPodHash")


def _is_rolled_out(found: Object) -> bool:
    return found["metadata"]["generation"] > 1 and _is_healthy(found)


def _is_in_phase(phase: str) -> Callable[[Object], bool]:
    return lambda found: (found.get("status") or {}).get("phase") == phase


def _is_stable(version: str) -> Callable[[Object], bool]:
    ready = is_true("Ready")
    return lambda found: ready(found) and found["status"]["stable"]["modelVersion"] == version


FLOOR = Contender(
    "Deployment", "apps/v1", "deployments", _make_plain, ("Deployment", "apps/v1", NEXT_PODS),
    _is_available, _is_updated,
)  # fmt: skip
ROLLOUT = Contender(
    "Rollout", "argoproj.io/v1alpha1", "rollouts", _make_rollout, ("Rollout", "argoproj.io/v1alpha1", NEXT_PODS),
    _is_healthy, _is_rolled_out,
)  # fmt: skip
ROUTED_ROLLOUT = replace(ROLLOUT, make=_make_routed_rollout)
CANARY = Contender(
    "Canary", "flagger.app/v1beta1", "canaries", _make_canary, ("Deployment", "apps/v1", NEXT_PODS),
    _is_in_phase("Initialized"), _is_in_phase("Succeeded"),
)  # fmt: skip
DEPLOYMENT = Contender(
    "Deployment", TIDEGATE, "deployments", _make_deployment,
    ("Deployment", TIDEGATE, {"spec": {"modelVersion": "m-1.1.0"}}), _is_stable("m-1.0.0"), _is_stable("m-1.1.0"),
)  # fmt: skip
