"""One operator with 1,000 Deployments, 1,000 TrainingJobs and 5,000 ModelVersions, idle and in motion."""

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from kubernetes import client

from dev import installation
from dev.demo.kube import SYSTEM, Kube, Object, is_ready_pod, is_true
from tests.benchmarks import peers
from tests.benchmarks.bench import GROUP, VERSION, Bench, Watcher, poll
from tests.benchmarks.releases import ON_FAKE_NODES
from tests.benchmarks.report import Table, milliseconds, quantile
from tests.e2e.objects import deployment, model_version, training_job

NAME = "scale"
DEPLOYMENTS = 1000
VERSIONS_EACH = 5
TRAINING_JOBS = 1000
CLIENTS = 8
TIMEOUT = 1800.0
QUIET_SECONDS = 60
MOTION_SECONDS = 60
CHANGES_PER_SECOND = 20
REST_SECONDS = 3
RESTING = 0.2
"""Cores that an operator uses at most which has nothing to do."""
OPERATOR = "tidegate-operator"
ABOUT = f"""\
{DEPLOYMENTS:,} Deployments that serve and {TRAINING_JOBS:,} TrainingJobs whose pods run, both on fake nodes of kwok,
and {DEPLOYMENTS * VERSIONS_EACH:,} ModelVersions; the validation of one of them is real, its status is copied to the
others while the operator is away. *Start*: an operator that finds all of this, from the readiness of its pod until
nothing waits in its queue and it rests: everything has come by list and by watch. *Idle*: {QUIET_SECONDS} s without a
change, the renewals of the lease included. *In motion*: for {MOTION_SECONDS} s {CHANGES_PER_SECOND} changes a second,
of Deployments (`spec.analysis.window`) and TrainingJobs (`spec.activeDeadlineSeconds`) in turn, each timed until a
watcher sees `status.observedGeneration` follow; the *floor* is the time until the same watcher sees the changed spec.
Requests to the API server, processor time and memory are those of operator and router's control plane together.
Kube-controller-manager runs with lifted limits."""
COLUMNS = (
    "", "took", "event → status p50", "p99", "floor p50", "floor p99", "requests", "CPU", "memory",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """A change that was sent, and where its effects are seen."""

    watcher: Watcher
    key: tuple[str, int]
    """Name and generation."""
    sent: float

    def is_observed(self) -> bool:
        """Tell whether the status has followed."""
        return self.key in self.watcher.status_seen


def measure(bench: Bench, deployments: int = DEPLOYMENTS, jobs: int = TRAINING_JOBS) -> Table:
    """Measure start, idle and motion."""
    installation.cluster("up", "--lift-limits")
    installation.cluster("kwok", "up", "--nodes", "4")
    rows = []
    try:
        with bench.namespace() as namespace, peers.own_requests_counted(bench):
            for row in _measure(bench, namespace, _names("m", deployments), _names("t", jobs)):
                rows.append(row)
                print(" · ".join(row), flush=True)
    finally:
        installation.cluster("kwok", "down")
        installation.cluster("up")
    total = f"{deployments:,} Deployments, {jobs:,} TrainingJobs, {deployments * VERSIONS_EACH:,} ModelVersions"
    return Table(NAME, f"One operator, {total}", ABOUT, COLUMNS, rows)


def _names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number:04d}" for number in range(count)]


def _measure(bench: Bench, namespace: str, served: Sequence[str], trained: Sequence[str]) -> Iterator[list[str]]:
    bench.register(namespace, "1.0.0", bench.store["good"])
    with _operator_away(bench.kube):
        _copy_versions(bench, namespace, served)
    jobs = Watcher(bench.kube, namespace, GROUP, VERSION, "trainingjobs")
    with Watcher(bench.kube, namespace).running() as deployments, jobs.running():
        _together(lambda name: bench.kube.apply(_serve(namespace, name)), served)
        deployments.until(lambda: _all(deployments, served, is_true("Ready")), "all Deployments Ready", TIMEOUT)
        _together(lambda name: bench.kube.apply(_train(namespace, name)), trained)
        jobs.until(lambda: _all(jobs, trained, _runs), "all TrainingJobs Running", TIMEOUT)
        with _operator_away(bench.kube):
            pass
        took = _time(lambda: poll(lambda: _is_at_rest(bench), "the operator has settled everything", TIMEOUT))
        yield ["start", f"{took:.1f} s", *_times(()), *_figures(peers.own_usage(bench))]
        yield ["idle", f"{QUIET_SECONDS} s", *_times(()), *_figures(_use(bench, lambda: time.sleep(QUIET_SECONDS)))]
        changes: list[Change] = []
        used = _use(bench, lambda: changes.extend(_change_steadily(bench.kube, deployments, served, jobs, trained)))
    yield ["in motion", f"{MOTION_SECONDS} s", *_times(changes), *_figures(used)]


def _use(bench: Bench, act: Callable[[], object]) -> peers.Usage:
    before = peers.own_usage(bench)
    act()
    return peers.own_usage(bench) - before


def _time(act: Callable[[], object]) -> float:
    begin = time.monotonic()
    act()
    return time.monotonic() - begin


def _times(changes: Sequence[Change]) -> list[str]:
    if not changes:
        return ["–"] * 4
    reactions = [each.watcher.status_seen[each.key] - each.sent for each in changes]
    floors = [each.watcher.spec_seen[each.key] - each.sent for each in changes]
    return [milliseconds(quantile(values, share)) for values in (reactions, floors) for share in (0.5, 0.99)]


def _figures(used: peers.Usage) -> list[str]:
    return [f"{used.requests:.0f}", f"{used.cpu:.1f} s", f"{used.memory / 1e6:.0f} MB"]


def _together(act: Callable[[str], object], names: Sequence[str]) -> None:
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(act, names))


def _all(watcher: Watcher, names: Sequence[str], holds: Callable[[Object], bool]) -> bool:
    return all(name in watcher.seen and holds(watcher.seen[name]) for name in names)


def _runs(found: Object) -> bool:
    return (found.get("status") or {}).get("phase") == "Running"


@contextmanager
def _operator_away(kube: Kube) -> Iterator[None]:
    """Stop the operator's pod; it is started again at the end, and reads everything anew."""
    _scale(kube, 0)
    poll(lambda: not kube.pods("app.kubernetes.io/component=operator", SYSTEM), "the operator stops", 120)
    try:
        yield
    finally:
        _scale(kube, 1)
        poll(lambda: _is_serving(kube), "the operator runs", 120)


def _scale(kube: Kube, replicas: int) -> None:
    kube.merge("Deployment", OPERATOR, {"spec": {"replicas": replicas}}, SYSTEM, "apps/v1")


def _is_serving(kube: Kube) -> bool:
    pods = kube.pods("app.kubernetes.io/component=operator", SYSTEM)
    return len(pods) == 1 and is_ready_pod(pods[0])


def _is_at_rest(bench: Bench) -> bool:
    """Tell whether, over some seconds, the operator leads, nothing waits in its queue, and it is hardly busy."""
    first = bench.operator_metrics()
    time.sleep(REST_SECONDS)
    last = bench.operator_metrics()
    is_quiet = all(each["tidegate_leading"] == 1 and each["tidegate_queue_depth"] == 0 for each in (first, last))
    used = last["process_cpu_seconds_total"] - first["process_cpu_seconds_total"]
    return is_quiet and used < RESTING * REST_SECONDS


def _copy_versions(bench: Bench, namespace: str, models: Sequence[str]) -> None:
    """Make versions of other models with the status of the one that passed its checks."""
    template = bench.kube.get("ModelVersion", "m-1.0.0", namespace)
    assert template is not None
    api = client.CustomObjectsApi(bench.kube.api)

    def copy_one(which: tuple[str, int]) -> None:
        model, number = which
        manifest = model_version(namespace, f"1.{number}.0", bench.store["good"])
        manifest["metadata"]["name"] = f"{model}-1.{number}.0"
        manifest["spec"]["model"] = model
        bench.kube.apply(manifest)
        status = {"status": copy.deepcopy(template["status"])}
        name = manifest["metadata"]["name"]
        api.patch_namespaced_custom_object_status(GROUP, VERSION, namespace, "modelversions", name, status)

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(copy_one, itertools.product(models, range(VERSIONS_EACH))))


def _serve(namespace: str, name: str) -> Object:
    found = deployment(namespace, "1.0.0", name=name, modelVersion=f"{name}-1.0.0")
    found["spec"]["serving"]["scheduling"] = ON_FAKE_NODES
    return found


def _train(namespace: str, name: str) -> Object:
    return training_job(namespace, name, resources={"cpu": "500m", "memory": "1Gi"}, scheduling=ON_FAKE_NODES)


def _change_steadily(
    kube: Kube, deployments: Watcher, served: Sequence[str], jobs: Watcher, trained: Sequence[str]
) -> list[Change]:
    """Send changes at a steady rate, whatever the answers take, and wait until all are observed."""
    turns = zip(itertools.cycle(served), itertools.cycle(trained), strict=False)
    targets = itertools.chain.from_iterable(((deployments, one), (jobs, other)) for one, other in turns)
    begin = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        sent = []
        for number, (watcher, name) in enumerate(itertools.islice(targets, MOTION_SECONDS * CHANGES_PER_SECOND)):
            time.sleep(max(0.0, begin + number / CHANGES_PER_SECOND - time.monotonic()))
            sent.append(clients.submit(_change, kube, watcher, name, number))
        changes = [each.result() for each in sent]
    for watcher in (deployments, jobs):
        own = [each for each in changes if each.watcher is watcher]
        watcher.until(lambda own=own: all(each.is_observed() for each in own), "every change observed", 300)
    return changes


def _change(kube: Kube, watcher: Watcher, name: str, number: int) -> Change:
    generation = watcher.seen[name]["metadata"]["generation"] + 1
    seconds = 1000 + number
    sent = time.monotonic()
    if watcher.plural == "deployments":
        kube.merge("Deployment", name, {"spec": {"analysis": {"window": f"{seconds}s"}}}, watcher.namespace)
    else:
        kube.merge("TrainingJob", name, {"spec": {"activeDeadlineSeconds": 86400 + number}}, watcher.namespace)
    return Change(watcher, (name, generation), sent)
