"""The real proxy: changes under load, a control plane or a proxy that goes away, refusals."""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Sequence, Set
from typing import Any

import pytest

from tests.router.conftest import StartEnvoy, World
from tests.router.support import (
    Client,
    Load,
    MemoryCluster,
    Upstream,
    backend,
    eventually,
    free_port,
    pod_object,
    route_object,
    running_router,
)
from tidegate.router import snapshot
from tidegate.router.app import Router
from tidegate.router.names import Protocol
from tidegate.router.parts import Part
from tidegate.router.routes import RouteView
from tidegate.router.splits import Segment

CANARY, STABLE = "connect4-1.1.0", "connect4-1.0.0"


def pushes(router: Router) -> Counter[str]:
    samples = [sample for family in router.metrics.pushes.collect() for sample in family.samples]
    return Counter({s.labels["type"]: int(s.value) for s in samples if s.name.endswith("_total") and s.value})


def acknowledgement_milliseconds(router: Router) -> tuple[float, float]:
    """Return the upper bounds of the bins in which the median and the 99th percentile of all weight changes lie."""
    samples = [s for family in router.metrics.acknowledgement.collect() for s in family.samples]
    bins = [
        (float(s.labels["le"]), s.value) for s in samples if s.name.endswith("_bucket") and s.labels["type"] == "routes"
    ]
    total = bins[-1][1]
    median, late = (next(le for le, count in bins if count >= total * share) for share in (0.5, 0.99))
    return median * 1000, late * 1000


async def test_release_and_rollback_under_load_lose_no_request(world: World) -> None:
    """Versions come, grow, shrink and go, with their clusters and endpoints."""
    stable = backend(STABLE, "stable", 100)
    async with Load(world.envoy.port) as load:
        for turn in range(2):
            workload, version = f"canary-{turn}", f"connect4-1.{turn}.1"
            server = await Upstream(workload).start()
            for percent in (0, 5, 50, 100, 30, 0):
                backends = [backend(version, workload, percent, "Canary"), {**stable, "percent": 100 - percent}]
                world.cluster.routes.put(route_object(backends=backends, sticky={"header": "x-user-id"}))
                world.cluster.pods.put(pod_object(workload, http=server.port))
                await world.confirmed()
                await load.more(50)
            world.cluster.routes.put(route_object(backends=[stable]))
            await world.confirmed()
            world.cluster.pods.delete(f"{workload}-a")
            await server.stop()
    assert load.failures == []
    assert load.versions["connect4-1.1.1"] > 20
    assert "connect4-1.0.0" in (clusters := await world.envoy.admin("/clusters"))
    assert "connect4-1.1.1" not in clusters


async def test_weights_are_confirmed_in_about_a_millisecond(world: World) -> None:
    for number in range(100):
        world.split(number % 50 + 0.5)
        await world.confirmed()
    median, late = acknowledgement_milliseconds(world.router)
    print(f"weight change to acknowledgement: p50 <= {median:g} ms, p99 <= {late:g} ms")
    assert len(world.cluster.writes) <= 103
    assert pushes(world.router)["clusters"] <= 2


async def test_pods_that_go_cost_no_request(world: World) -> None:
    """Three pods of one version; one at a time ends: first no longer ready, then gone."""
    pods = [await Upstream(f"pod-{number}").start() for number in range(3)]
    for number, pod in enumerate(pods):
        world.cluster.pods.put(pod_object("canary", http=pod.port, name=f"canary-{number}"))
    world.cluster.pods.delete("canary-a")
    world.split(100)
    await world.confirmed()
    async with Load(world.envoy.port) as load:
        for number, pod in enumerate(pods[:2]):
            await load.more(100)
            world.cluster.pods.put(pod_object("canary", http=pod.port, name=f"canary-{number}", terminating=True))
            await eventually(lambda port=pod.port: _endpoint_left(world, port))
            await load.more(50)
            await pod.stop()
        await load.more(100)
    assert load.failures == []
    await pods[2].stop()


async def _endpoint_left(world: World, port: int) -> bool:
    return f"127.0.0.1:{port}::" not in await world.envoy.admin("/clusters")


async def test_a_pod_that_dies_unannounced_is_retried_elsewhere(world: World) -> None:
    pods = [await Upstream(f"pod-{number}").start() for number in range(2)]
    for number, pod in enumerate(pods):
        world.cluster.pods.put(pod_object("canary", http=pod.port, name=f"canary-{number}"))
    world.cluster.pods.delete("canary-a")
    world.split(100)
    await world.confirmed()
    await pods[0].stop()
    async with Load(world.envoy.port) as load:
        await load.more(200)
    assert load.failures == []
    await pods[1].stop()


async def test_last_ready_pod_leaves_after_the_traffic(world: World) -> None:
    """The share of a version without ready pods moves before its endpoints are taken away."""
    world.split(50)
    await world.confirmed()
    async with Load(world.envoy.port) as load:
        for _ in range(5):
            world.cluster.pods.put(pod_object("canary", http=world.canary.port, ready=False))
            await eventually(lambda: world.cluster.ready().get("reason") == "BackendsNotReady")
            await load.more(30)
            world.cluster.pods.put(pod_object("canary", http=world.canary.port))
            await world.confirmed()
            await load.more(30)
    assert load.failures == []


async def test_control_plane_may_go_and_come_back(cluster: MemoryCluster, start: StartEnvoy) -> None:
    stable, canary = await Upstream("stable").start(), await Upstream("canary").start()
    cluster.pods.put(pod_object("stable", http=stable.port))
    cluster.pods.put(pod_object("canary", http=canary.port))
    backends = [backend(CANARY, "canary", 30, "Canary"), backend(STABLE, "stable", 70)]
    cluster.routes.put(route_object(backends=backends, sticky={"header": "x-user-id"}))
    xds, port = free_port(), free_port()
    async with running_router(cluster, listener_port=port, xds_port=xds):
        envoy = await start(xds, port)
        await eventually(cluster.confirmed)
    writes = len(cluster.writes)
    async with Load(envoy.port) as load:
        await load.more(100)
        again = running_router(cluster, listener_port=port, xds_port=xds, startup_grace_seconds=5)
        async with again as router:
            await eventually(lambda: router.control._fleet.connected == ("envoy-0",))
            await eventually(lambda: router.control.facts("default/connect4")[1].standing.confirmed)
            await load.more(100)
            assert pushes(router) == {"endpoints": 1, "routes": 1}
            assert len(cluster.writes) == writes
            backends = [backend(CANARY, "canary", 60, "Canary"), backend(STABLE, "stable", 40)]
            cluster.routes.put(route_object(backends=backends, sticky={"header": "x-user-id"}))
            await eventually(cluster.confirmed)
            assert pushes(router) == {"endpoints": 1, "routes": 2}
    assert load.failures == []
    await stable.stop()
    await canary.stop()


async def test_changes_while_the_control_plane_was_away_are_caught_up(
    cluster: MemoryCluster, start: StartEnvoy
) -> None:
    stable, canary = await Upstream("stable").start(), await Upstream("canary").start()
    cluster.pods.put(pod_object("stable", http=stable.port))
    cluster.routes.put(route_object(backends=[backend(STABLE, "stable", 100)]))
    xds, port = free_port(), free_port()
    async with running_router(cluster, listener_port=port, xds_port=xds):
        envoy = await start(xds, port)
        await eventually(cluster.confirmed)
    async with Load(envoy.port) as load:
        cluster.pods.put(pod_object("canary", http=canary.port))
        backends = [backend(CANARY, "canary", 50, "Canary"), backend(STABLE, "stable", 50)]
        cluster.routes.put(route_object(backends=backends))
        async with running_router(cluster, listener_port=port, xds_port=xds):
            await eventually(cluster.confirmed)
            await load.more(50)
    assert load.failures == []
    assert load.versions[CANARY] > 5
    await stable.stop()
    await canary.stop()


async def test_refused_configuration_stalls_its_route_and_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Envoy refuses a route without weights; the router finds the guilty Route among those that changed."""
    original = snapshot.build_route

    def broken(view: RouteView, segments: Sequence[Segment], *, mirrored: Set[Protocol]) -> Part:
        pieces = [Segment(0, 0)] if view.name == "bad" else segments
        return original(view, pieces, mirrored=mirrored)

    monkeypatch.setattr(snapshot, "build_route", broken)
    stable = [backend(STABLE, "stable", 100)]
    for name in ("bad", "good"):
        world.cluster.routes.put(route_object(name, backends=stable))
    world.split(25)
    await world.confirmed()
    await eventually(lambda: world.cluster.confirmed("good"))
    ready = await eventually(lambda: world.cluster.ready("bad"))
    assert ready["reason"] == "RefusedByProxy"
    assert ready["message"].startswith("envoy-0: ")
    stalled = {item["type"]: item["status"] for item in world.cluster.status("bad")["conditions"]}
    assert stalled == {"Ready": "False", "Reconciling": "False", "Stalled": "True"}
    client = Client(world.envoy.port)
    assert (await client.get(host="good.default")).status == 200
    assert (await client.get(host="bad.default")).status == 404
    await client.close()
    monkeypatch.undo()
    world.cluster.routes.put(route_object("bad", backends=stable, timeout="5s"))
    await eventually(lambda: world.cluster.confirmed("bad"))


async def test_deleted_route_answers_404_and_its_clusters_go(world: World) -> None:
    world.cluster.routes.delete("connect4")
    client = Client(world.envoy.port)
    await eventually(lambda: _status_is(client, 404))
    await eventually(lambda: _no_clusters(world))
    await client.close()


async def _status_is(client: Client, status: int) -> bool:
    return (await client.get()).status == status


async def _no_clusters(world: World) -> bool:
    return "tidegate|" not in await world.envoy.admin("/clusters")


async def test_a_proxy_that_hangs_is_named_and_a_dead_one_is_given_up(
    cluster: MemoryCluster, start: StartEnvoy
) -> None:
    stable = await Upstream("stable").start()
    cluster.pods.put(pod_object("stable", http=stable.port))
    cluster.routes.put(route_object(backends=[backend(STABLE, "stable", 100)]))
    port = free_port()
    async with running_router(cluster, listener_port=port, proxy_grace_seconds=0.5) as router:
        await start(router.xds_port, port, "envoy-0")
        other = await start(router.xds_port, free_port(), "envoy-1")
        await eventually(lambda: cluster.status().get("proxies", {}).get("acknowledged") == 2)
        os.kill(other.process.pid, signal.SIGSTOP)
        cluster.routes.put(route_object(backends=[backend(STABLE, "stable", 100)], timeout="7s"))
        await eventually(lambda: cluster.ready().get("reason") == "WaitingForProxies")
        assert cluster.status()["proxies"] == {"connected": 2, "acknowledged": 1, "missing": ["envoy-1"]}
        assert not cluster.confirmed()
        with contextlib.suppress(ProcessLookupError):
            other.process.kill()
        await eventually(cluster.confirmed)
        assert cluster.status()["proxies"] == {"connected": 1, "acknowledged": 1, "missing": []}
    await stable.stop()


async def test_a_ready_proxy_without_control_connection_is_waited_for(
    cluster: MemoryCluster, start: StartEnvoy
) -> None:
    """It serves users with old weights; once its pod is not ready, nobody waits for it."""
    stable = await Upstream("stable").start()
    cluster.pods.put(pod_object("stable", http=stable.port))
    cluster.routes.put(route_object(backends=[backend(STABLE, "stable", 100)]))
    for number in range(2):
        cluster.proxies.put(proxy_pod(number))
    port = free_port()
    async with running_router(cluster, proxies=True, listener_port=port) as router:
        await start(router.xds_port, port, "envoy-0")
        await eventually(lambda: cluster.status().get("proxies", {}).get("acknowledged") == 1)
        await eventually(lambda: cluster.ready().get("reason") == "WaitingForProxies")
        assert cluster.status()["proxies"] == {"connected": 1, "acknowledged": 1, "missing": ["envoy-1"]}
        cluster.proxies.put(proxy_pod(1, ready=False))
        await eventually(cluster.confirmed)
        cluster.proxies.put(proxy_pod(2))
        await eventually(lambda: cluster.status()["proxies"]["missing"] == ["envoy-2"])
        cluster.proxies.delete("envoy-2", "tidegate-system")
        await eventually(cluster.confirmed)
    await stable.stop()


def proxy_pod(number: int, *, ready: bool = True) -> dict[str, Any]:
    """Make the pod of a proxy: of no workload that a Route leads to."""
    pod = pod_object("", name=f"envoy-{number}", address=f"10.0.0.{number + 1}", ready=ready)
    pod["metadata"] |= {"namespace": "tidegate-system", "labels": {"app.kubernetes.io/component": "envoy"}}
    return pod


async def test_no_proxy_is_said(cluster: MemoryCluster) -> None:
    cluster.pods.put(pod_object("stable"))
    cluster.routes.put(route_object(backends=[backend(STABLE, "stable", 100)]))
    async with running_router(cluster):
        await eventually(lambda: cluster.ready().get("reason") == "NoProxies")
        assert cluster.status()["weights"] == []
