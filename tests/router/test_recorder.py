"""Writing Route.status: one patch per change, again after failures, never for a namesake."""

from tests.router.support import MemoryCluster, backend, eventually, pod_object, route_object, running_router

STABLE = [backend("v1", "stable", 100)]


async def test_a_failed_write_is_tried_again(cluster: MemoryCluster) -> None:
    cluster.failures = 3
    cluster.pods.put(pod_object("stable"))
    cluster.routes.put(route_object(backends=STABLE))
    async with running_router(cluster, status_delay_seconds=0.01) as router:
        await eventually(lambda: cluster.ready().get("reason") == "NoProxies")
        outcomes = {
            s.labels["outcome"]: s.value
            for f in router.metrics.patches.collect()
            for s in f.samples
            if s.name.endswith("total")
        }
        assert outcomes == {"failed": 3, "written": 1}
    assert len(cluster.writes) == 1


async def test_settled_routes_are_written_once_and_not_again_after_a_restart(cluster: MemoryCluster) -> None:
    for number in range(20):
        cluster.routes.put(route_object(f"r{number}", backends=STABLE))
    for _ in range(2):
        async with running_router(cluster, status_delay_seconds=0.01):
            await eventually(lambda: len(cluster.writes) == 20)
    assert len(cluster.writes) == 20


async def test_an_invalid_route_is_explained_and_mended(cluster: MemoryCluster) -> None:
    cluster.routes.put(route_object(backends=[backend("v1", "stable", 50)]))
    async with running_router(cluster, status_delay_seconds=0.01):
        await eventually(lambda: cluster.ready().get("reason") == "InvalidRoute")
        assert "sum to 50" in cluster.ready()["message"]
        cluster.routes.put(route_object(backends=STABLE))
        await eventually(lambda: cluster.ready().get("reason") == "NoProxies")
        assert cluster.status()["observedGeneration"] == 2


async def test_a_host_conflict_ends_when_the_older_route_goes(cluster: MemoryCluster) -> None:
    newer = route_object("newer", deployment="same", backends=STABLE)
    newer["metadata"]["creationTimestamp"] = "2026-05-01T00:00:00Z"
    cluster.routes.put(route_object("older", deployment="same", backends=STABLE))
    cluster.routes.put(newer)
    async with running_router(cluster, status_delay_seconds=0.01):
        await eventually(lambda: cluster.ready("newer").get("reason") == "HostConflict")
        cluster.routes.delete("older")
        await eventually(lambda: cluster.ready("newer").get("reason") == "NoProxies")


async def test_a_route_deleted_and_created_anew_gets_its_own_status(cluster: MemoryCluster) -> None:
    cluster.routes.put(route_object(backends=STABLE))
    async with running_router(cluster, status_delay_seconds=0.01):
        await eventually(lambda: cluster.ready())
        cluster.routes.delete("connect4")
        again = route_object(backends=STABLE)
        again["metadata"]["uid"] = "another"
        cluster.routes.put(again)
        await eventually(lambda: cluster.ready())
