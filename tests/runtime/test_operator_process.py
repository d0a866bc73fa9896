"""The whole operator as a process against a real API server: status, bad input, two replicas, a graceful end."""

import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.cluster.apiserver import ApiServer
from tests.runtime.operator_process import ROOT, Cluster, Operator, make, wait_for
from tidegate.adapters.connection import APPLY_PATCH, ApiConnection, path_of
from tidegate.adapters.credentials import load_credentials
from tidegate.errors import Ending
from tidegate.ports import CONFIG_MAP

pytestmark = pytest.mark.apiserver


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        running.install_crds(ROOT / "crds")
        yield running


@pytest.fixture(scope="module")
def cluster(server: ApiServer) -> Cluster:
    return Cluster(server)


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    """A namespace of the test's own; the operator's lease lies there, too, so tests do not disturb each other."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    cluster.add_namespace(name)
    return name


@pytest.fixture(scope="module")
def shared(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Operator, list[str]]]:
    """One operator for all tests that leave it alive, and a namespace for each of them."""
    names = [f"shared-{number}" for number in range(10)]
    for name in names:
        cluster.add_namespace(name)
    folder = tmp_path_factory.mktemp("operator")
    with Operator(
        cluster.kubeconfig, folder, "shared", namespace=names[0], watch_namespaces=",".join(names)
    ) as started:
        started.wait_until_leading()
        yield started, names


@pytest.fixture
def operator(shared: tuple[Operator, list[str]]) -> Operator:
    return shared[0]


@pytest.fixture
def place(shared: tuple[Operator, list[str]]) -> str:
    """One of the namespaces that the shared operator watches, for this test alone."""
    return shared[1].pop()


def start(cluster: Cluster, namespace: str, folder: Path, identity: str) -> Operator:
    return Operator(cluster.kubeconfig, folder, identity, namespace=namespace, watch_namespaces=namespace)


def deployment(cluster: Cluster, namespace: str, version: str, **spec: Any) -> None:
    cluster.apply(make("Deployment", "connect4", namespace, {"modelVersion": f"connect4-{version}"} | spec))


def wait_until_healthy(cluster: Cluster, namespace: str, version: str) -> dict[str, Any]:
    def healthy() -> dict[str, Any] | None:
        cluster.play_kubelet(namespace)
        cluster.play_router(namespace)
        status = cluster.status("connect4", namespace)
        is_stable = (status.get("stable") or {}).get("modelVersion") == f"connect4-{version}"
        return status if status.get("phase") == "Healthy" and is_stable else None

    return dict(wait_for(healthy, f"{version} to be stable", 60))


def test_a_model_version_is_validated_and_released(cluster: Cluster, place: str, operator: Operator) -> None:
    cluster.add_version(place, "1.0.0")
    deployment(cluster, place, "1.0.0")
    status = wait_until_healthy(cluster, place, "1.0.0")
    assert status["observedGeneration"] == 1
    assert {each["type"]: each["status"] for each in status["conditions"]} == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
    }
    endpoint = cluster.get("services", "connect4", place)
    assert endpoint is not None
    assert endpoint["spec"]["type"] == "ExternalName"
    served = wait_for(lambda: cluster.status("connect4-1.0.0", place, "modelversions").get("servedBy"), "servedBy")
    assert served == [{"deployment": "connect4", "percent": 100, "role": "Stable"}]
    reasons = {event["reason"] for event in cluster.list("events.events.k8s.io", place)}
    assert {"FirstRelease", "Promoted"} & reasons
    told = {line.get("reason") for line in operator.lines}
    assert reasons <= told, "every event is a log line, too"
    labels = f'deployment="connect4",namespace="{place}",role="Stable",version="connect4-1.0.0"'
    assert operator.metric(f"tidegate_release_weight_percent{{{labels}}}") == 100


def test_the_operator_writes_nothing_on_settled_objects(cluster: Cluster, place: str, operator: Operator) -> None:
    cluster.add_version(place, "1.0.0")
    deployment(cluster, place, "1.0.0")
    wait_until_healthy(cluster, place, "1.0.0")
    wait_for(lambda: cluster.status("connect4-1.0.0", place, "modelversions").get("servedBy"), "servedBy")

    def versions() -> list[tuple[str, str]]:
        kinds = (
            "deployments.tidegate.dev",
            "modelversions",
            "routes",
            "deployments.apps",
            "services",
            "configmaps",
            "jobs",
        )
        found = (each for kind in kinds for each in cluster.list(kind, place))
        return [(each["kind"], each["metadata"]["resourceVersion"]) for each in found]

    before = versions()
    cluster.apply(
        make(
            "ModelVersion",
            "other-1.0.0",
            place,
            {"model": "other", "version": "1.0.0", "artifact": {"uri": "https://x/y", "sha256": "0" * 64}},
        )
    )
    wait_for(lambda: cluster.status("other-1.0.0", place, "modelversions").get("phase"), "a sign of life")
    after = versions()
    assert set(before) <= set(after)
    assert not [each for each in cluster.list("deployments.tidegate.dev", place) if each["metadata"].get("finalizers")]


@pytest.mark.parametrize(("version", "reason"), [("9.9.9", "ModelVersionMissing"), ("2.0.0", "ModelVersionNotReady")])
def test_a_version_that_cannot_be_served_is_said_with_its_name(
    cluster: Cluster, place: str, operator: Operator, version: str, reason: str
) -> None:
    cluster.add_version(place, "2.0.0", ready=False)
    deployment(cluster, place, version)
    ready = wait_for(lambda: cluster.condition("Ready", "connect4", place), "a condition")
    ready = wait_for(
        lambda: (found := cluster.condition("Ready", "connect4", place)) and found["reason"] == reason and found,
        reason,
    )
    assert f"connect4-{version}" in ready["message"]
    assert cluster.list("deployments.apps", place) == []


def test_with_a_limit_of_one_the_second_release_waits_and_is_woken(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """The setting reaches the planner, and the end of the first release starts the second without any timer."""
    names = ("one", "two")

    def release(version: str) -> None:
        spec = {"modelVersion": f"connect4-{version}"} | {
            "strategy": {"type": "Immediate", "immediate": {"bake": "0s"}}
        }
        cluster.apply(*(make("Deployment", name, namespace, spec) for name in names))

    def reasons() -> list[str]:
        return sorted(cluster.condition("Ready", name, namespace).get("reason", "") for name in names)

    def all_serve(version: str) -> bool:
        cluster.play_kubelet(namespace)
        cluster.play_router(namespace)
        stable = [cluster.status(name, namespace).get("stable", {}).get("modelVersion") for name in names]
        return stable == [f"connect4-{version}"] * 2 and reasons() == ["Healthy"] * 2

    settings = {"namespace": namespace, "watch_namespaces": namespace, "releases_in_cluster": "1"}
    with Operator(cluster.kubeconfig, tmp_path, "limited", **settings) as limited:
        limited.wait_until_leading()
        cluster.add_version(namespace, "1.0.0")
        cluster.add_version(namespace, "2.0.0")
        release("1.0.0")
        wait_for(lambda: all_serve("1.0.0"), "the first releases, which do not wait for each other", 60)
        release("2.0.0")
        wait_for(lambda: reasons() == ["PodsNotReady", "ReleaseLimit"], "one to release and one to wait")
        wait_for(lambda: all_serve("2.0.0"), "both to be released", 60)
    first, second = sorted(
        (cluster.status(name, namespace)["history"][0] for name in names), key=lambda each: each["at"]
    )
    assert first["at"] <= second["startedAt"]


def test_a_foreign_service_is_not_taken_over_and_the_release_goes_on_when_it_is_gone(
    cluster: Cluster, place: str, operator: Operator
) -> None:
    metadata = {"name": "connect4", "namespace": place}
    spec = {"ports": [{"port": 80}], "selector": {"app": "theirs"}}
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    cluster.add_version(place, "1.0.0")
    deployment(cluster, place, "1.0.0")
    wait_for(lambda: cluster.condition("Ready", "connect4", place).get("reason") == "EndpointNameTaken", "the reason")
    foreign = cluster.get("services", "connect4", place)
    assert foreign is not None
    assert foreign["spec"]["selector"] == {"app": "theirs"}


def test_deleted_children_come_back(cluster: Cluster, place: str, operator: Operator) -> None:
    cluster.add_version(place, "1.0.0")
    deployment(cluster, place, "1.0.0")
    wait_until_healthy(cluster, place, "1.0.0")
    for kind, name in (("services", "connect4"), ("routes.tidegate.dev", "connect4")):
        before = cluster.get(kind, name, place)
        assert before is not None
        cluster.delete(kind, name, place)

        def is_back(kind: str = kind, name: str = name, uid: str = before["metadata"]["uid"]) -> bool:
            found = cluster.get(kind, name, place)
            return found is not None and found["metadata"]["uid"] != uid

        wait_for(is_back, f"{kind}/{name}")
    wait_until_healthy(cluster, place, "1.0.0")


def test_a_killed_operator_goes_on_where_it_was(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    canary = {"steps": [{"setPercent": 10}, {"pause": {}}]}
    with start(cluster, namespace, tmp_path, "one") as first:
        first.wait_until_leading()
        for version in ("1.0.0", "2.0.0"):
            cluster.add_version(namespace, version)
        deployment(cluster, namespace, "1.0.0", strategy={"type": "Canary", "canary": canary})
        wait_until_healthy(cluster, namespace, "1.0.0")
        deployment(cluster, namespace, "2.0.0", strategy={"type": "Canary", "canary": canary})

        def at_step() -> dict[str, Any] | None:
            cluster.play_kubelet(namespace)
            cluster.play_router(namespace)
            canary = cluster.status("connect4", namespace).get("canary") or {}
            return canary if canary.get("stepStartedAt") else None

        before = wait_for(at_step, "the first step", 60)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    routes = cluster.list("routes", namespace)
    with start(cluster, namespace, tmp_path, "one") as again:
        again.wait_until_leading()
        wait_for(lambda: (again.metric('tidegate_reconcile_seconds_count{kind="Deployment"}') or 0) >= 1, "a reconcile")
        after = cluster.status("connect4", namespace)["canary"]
        assert (after["stepStartedAt"], after["percent"], after["step"]) == (
            before["stepStartedAt"],
            before["percent"],
            before["step"],
        )
        assert [each["spec"] for each in cluster.list("routes", namespace)] == [each["spec"] for each in routes]


def test_of_two_replicas_one_works_and_the_other_follows_at_once(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    with start(cluster, namespace, tmp_path, "one") as first, start(cluster, namespace, tmp_path, "two") as second:
        wait_for(lambda: [each.metric("tidegate_leading") for each in (first, second)].count(1) == 1, "one leader")
        leader, standby = (first, second) if first.metric("tidegate_leading") == 1 else (second, first)
        leader.wait_until_leading()
        wait_for(lambda: standby.get("/readyz")[0] == 200, "the standby: a rolling update must not wait for its lease")
        cluster.add_version(namespace, "1.0.0")
        deployment(cluster, namespace, "1.0.0")
        wait_until_healthy(cluster, namespace, "1.0.0")
        wrote = [
            code
            for code in ("200", "201")
            if standby.metric(f'tidegate_api_requests_total{{code="{code}",method="PATCH"}}')
        ]
        assert wrote == [], "the standby writes nothing"
        assert leader.stop() == 0
        standby.wait_until_leading()
        lease = cluster.get("leases", "tidegate-operator", namespace)
        assert lease is not None
        assert lease["spec"]["holderIdentity"] == standby.log.stem
        cluster.delete("services", "connect4", namespace)
        wait_for(lambda: cluster.get("services", "connect4", namespace), "the standby's work")


def test_a_frozen_leader_writes_nothing_when_it_wakes_up(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    with start(cluster, namespace, tmp_path, "one") as first:
        first.wait_until_leading()
        with start(cluster, namespace, tmp_path, "two") as second:
            first.process.send_signal(signal.SIGSTOP)
            second.wait_until_leading()
            deployment(cluster, namespace, "1.0.0")
            wait_for(lambda: cluster.status("connect4", namespace), "a status by the second")
            first.process.send_signal(signal.SIGCONT)
            assert first.process.wait(20) == 1
            assert "could not be renewed" in first.text
            assert first.metric('tidegate_api_requests_total{code="200",method="PATCH"}') is None
            assert second.metric("tidegate_leading") == 1


def test_sigterm_ends_it_quickly_and_lets_the_lease_go(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    with start(cluster, namespace, tmp_path, "one") as operator:
        operator.wait_until_leading()
        assert operator.stop(seconds=5) == 0
    lease = cluster.get("leases", "tidegate-operator", namespace)
    assert lease is not None
    assert not lease["spec"].get("holderIdentity")
    assert "Traceback" not in operator.text


def test_bad_settings_end_with_the_name_of_the_variable(cluster: Cluster, tmp_path: Path) -> None:
    with Operator(cluster.kubeconfig, tmp_path, "bad", log_level="LOUD") as bad:
        assert bad.process.wait(30) == 2
        assert bad.lines[-1]["reason"] == "BadSettings"
        assert "TIDEGATE_LOG_LEVEL" in bad.lines[-1]["message"]


def test_missing_kinds_end_with_the_remedy(tmp_path: Path) -> None:
    with ApiServer() as empty, Operator(empty.kubeconfig, tmp_path, "early") as early:
        assert early.process.wait(30) == 3
        assert "install the CRDs" in early.lines[-1]["message"]


def test_it_waits_for_an_api_server_that_is_away(tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(
        "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n"
        "clusters: [{name: k, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: [{name: u, user: {}}]\n"
    )
    with Operator(config, tmp_path, "lonely") as lonely:
        wait_for(lambda: "trying again" in lonely.text, "the first try")
        assert lonely.get("/healthz")[0] == 200
        assert lonely.stop(seconds=5) == 0


def test_the_official_client_is_not_in_memory(operator: Operator) -> None:
    maps = Path(f"/proc/{operator.process.pid}/maps").read_text()
    assert "scipy" not in maps
    assert operator.memory < 110, "MB; measured 68"


async def test_nothing_is_made_in_a_namespace_that_is_being_deleted(
    server: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 12: the API server's own words for it are understood, of an apply and of a create."""
    server.kubectl("delete", "namespace", namespace, "--wait=false")
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    api = ApiConnection(load_credentials())
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": namespace}}
    folder = path_of(CONFIG_MAP, namespace)
    try:
        with pytest.raises(Ending, match="is being terminated"):
            await api.patch(f"{folder}/c", manifest, APPLY_PATCH, {"fieldManager": "tidegate"})
        with pytest.raises(Ending, match="is being terminated"):
            await api.post(folder, manifest)
    finally:
        await api.close()
