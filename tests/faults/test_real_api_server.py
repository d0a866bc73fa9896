"""200 releases on a real API server, with an operator process that is killed, behind a proxy that injects faults.

The seed stands in the test's name, ``TIDEGATE_FAULT_SEED`` sets another one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dev.cluster.apiserver import ApiServer
from tests.faults.fault_proxy import Fault, FaultProxy
from tests.faults.live_world import LiveWorld
from tests.runtime.operator_process import ROOT, Cluster, Operator, make, wait_for
from tidegate.adapters.credentials import Credentials, load_credentials
from tidegate.domain.manifests.names import COMMAND_ANNOTATION

pytestmark = [pytest.mark.apiserver, pytest.mark.slow]

SEED = int(os.environ.get("TIDEGATE_FAULT_SEED", "4711"))
DEPLOYMENTS, RELEASES = 20, 10
GOOD = tuple(f"connect4-{n}.0.0" for n in range(1, 6))
BAD = tuple(f"connect4-{n}.0.0" for n in range(6, 9))
NAMESPACE = "faults"
SPEC = {
    "strategy": {"canary": {"steps": [{"setPercent": 20}, {"hold": "1s"}, {"setPercent": 50}, {"hold": "1s"}]}},
    "analysis": {"interval": "1s", "window": "5s", "metrics": [{"name": "errorRate", "max": 0.05, "minSamples": 10}]},
    "rollback": {"drainDelay": "1s", "window": 0},
    "progressDeadline": "5m",
}
KILL_EVERY = (8.0, 16.0)
DEADLINE = 10 * 60
SETTLE_SECONDS = 60


@dataclass
class Release:
    """One Deployment, what was asked of it, and how each release has to end."""

    name: str
    chance: random.Random
    stable: str = ""
    expected: list[tuple[str, str]] = field(default_factory=list)
    """Version and outcome of each release, oldest first."""
    generation: int = 1
    asked: str = ""
    then: str | None = None
    """What to do once the canary is there: ask for this version, or "abort"."""
    commands: int = 0

    @property
    def is_done(self) -> bool:
        return len(self.expected) > RELEASES

    def begin(self, world: LiveWorld, version: str) -> None:
        world.patch(self.name, NAMESPACE, {"spec": {"modelVersion": version}})
        self.generation += 1
        self.asked = version

    def start(self, world: LiveWorld) -> None:
        """Ask for another version; sometimes for a third one in the middle, or for the end of it."""
        good = [each for each in GOOD if each not in (self.stable, self.asked)]
        bad = [each for each in BAD if each != self.asked]
        kind, self.then = self.chance.random(), None
        version = self.chance.choice(bad if kind < 0.4 else good)
        if kind > 0.85:
            self.then = self.chance.choice([each for each in good if each != version])
            self.expected.append((version, "Superseded"))
        elif kind > 0.75:
            self.then = "abort"
            self.expected.append((version, "Aborted"))
        else:
            self._expect(version)
        self.begin(world, version)

    def _expect(self, version: str) -> None:
        is_good = version in GOOD
        self.expected.append((version, "Promoted" if is_good else "RolledBack"))
        self.stable = version if is_good else self.stable

    def go_on(self, world: LiveWorld, found: dict[str, Any]) -> None:
        """Take the next turn if the Deployment has come so far."""
        status = found.get("status") or {}
        canary = status.get("canary")
        if self.then is not None and canary and canary["modelVersion"] == self.asked and not canary.get("retreat"):
            then, self.then = self.then, None
            if then == "abort":
                self.commands += 1
                command = {"id": f"{self.name}-{self.commands}", "command": "Abort", "by": "soak"}
                content = {"metadata": {"annotations": {COMMAND_ANNOTATION: json.dumps(command)}}}
                world.patch(self.name, NAMESPACE, content)
            else:
                self._expect(then)
                self.begin(world, then)
        elif self.is_settled(status) and not self.is_done:
            self.start(world)

    def is_settled(self, status: dict[str, Any]) -> bool:
        history = status.get("history") or []
        ended = status.get("phase") in ("Healthy", "RolledBack") and not status.get("canary")
        return ended and status.get("observedGeneration") == self.generation and len(history) >= len(self.expected)


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        running.install_crds(ROOT / "crds")
        yield running


@pytest.fixture
def credentials(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Credentials:
    """Those of the administrator, for everybody but the operator."""
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    return load_credentials()


class Restarted:
    """An operator that is started again whenever it ends, as its Deployment would, and killed now and then."""

    def __init__(self, proxy: FaultProxy, world: LiveWorld, folder: Path, chance: random.Random) -> None:
        self._settings = {
            "namespace": NAMESPACE,
            "watch_namespaces": NAMESPACE,
            "prometheus_url": world.prometheus,
            "lease_seconds": "3",
            "resync_seconds": "20",
        }
        self._proxy, self._folder, self._chance = proxy, folder, chance
        self.starts = self.kills = 0
        self._start()

    def _start(self) -> None:
        self.starts += 1
        self.operator = Operator(self._proxy.kubeconfig, self._folder, f"operator-{self.starts}", **self._settings)
        self._until = time.monotonic() + self._chance.uniform(*KILL_EVERY)

    def keep(self) -> None:
        """Start it again if it has ended; end it if its time has come and there are faults."""
        if self.operator.process.poll() is not None:
            self._start()
        elif not self._proxy.calm and time.monotonic() > self._until:
            self.operator.stop(signal.SIGKILL)
            self.kills += 1
            self._start()


@pytest.mark.parametrize("seed", [SEED])
def test_200_releases_end_as_undisturbed_ones(
    server: ApiServer, credentials: Credentials, tmp_path: Path, seed: int
) -> None:
    """Rule 11: 409, 429, 500, lost answers, hanging requests, dropped watches, stale lists, a deaf source, kills."""
    cluster, chance = Cluster(server), random.Random(seed)
    cluster.add_namespace(NAMESPACE)
    with LiveWorld(credentials, BAD, seed) as world, FaultProxy(credentials, tmp_path, seed) as proxy:
        world.know(GOOD)
        releases = [Release(f"d{number}", random.Random(seed + number), GOOD[0]) for number in range(DEPLOYMENTS)]
        supervised = Restarted(proxy, world, tmp_path, chance)
        try:
            _prepare(cluster, world, releases)
            proxy.calm = world.calm = False
            _run(world, supervised, releases)
            proxy.calm = world.calm = True
            supervised.keep()
            _wait_until_settled(world, supervised, releases)
            found = world.deployments(NAMESPACE)
        finally:
            supervised.operator.stop(signal.SIGKILL)
    assert not world.violations, world.violations[:5]
    for release in releases:
        history = [
            (each["modelVersion"], each["outcome"]) for each in reversed(found[release.name]["status"]["history"])
        ]
        assert history == release.expected, f"{release.name}: each release ends once and as it should"
    print(f"kills {supervised.kills}, starts {supervised.starts}, faults {dict(proxy.injected)}")
    assert set(proxy.injected) == set(Fault), "every kind of fault was there"
    assert supervised.kills >= 3


def _prepare(cluster: Cluster, world: LiveWorld, releases: list[Release]) -> None:
    for version in (*GOOD, *BAD):
        cluster.add_version(NAMESPACE, version.removeprefix("connect4-"))
    for release in releases:
        release.expected.append((GOOD[0], "Promoted"))
        cluster.apply(make("Deployment", release.name, NAMESPACE, SPEC | {"modelVersion": GOOD[0]}))

    def served() -> bool:
        assert not world.violations, world.violations
        return all(
            (each.get("status") or {}).get("phase") == "Healthy" for each in world.deployments(NAMESPACE).values()
        )

    wait_for(served, "every first release", 120)


def _run(world: LiveWorld, supervised: Restarted, releases: list[Release]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not all(each.is_done for each in releases):
        late = [each for each in releases if not each.is_done]
        assert time.monotonic() < deadline, _describe(world, late)
        _go_on(world, supervised, releases)
        time.sleep(0.1)  # between two looks


def _wait_until_settled(world: LiveWorld, supervised: Restarted, releases: list[Release]) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while late := _go_on(world, supervised, releases):
        assert time.monotonic() < deadline, (
            f"never settled, after {supervised.starts} starts:\n{_describe(world, late)}\n"
            f"{supervised.operator.text[-2000:]}"
        )
        time.sleep(0.1)  # between two looks


def _go_on(world: LiveWorld, supervised: Restarted, releases: list[Release]) -> list[Release]:
    """Take every Deployment's next turn, and return those that are not settled."""
    supervised.keep()
    found = world.deployments(NAMESPACE)
    for release in releases:
        release.go_on(world, found[release.name])
    return [each for each in releases if not each.is_settled(found[each.name].get("status") or {})]


def _describe(world: LiveWorld, late: list[Release]) -> str:
    found = world.deployments(NAMESPACE)
    return "\n".join(
        f"{each.name} asks for {each.asked}, then {each.then}, generation {each.generation}, {each.expected}: "
        f"{json.dumps(found[each.name].get('status'))}"
        for each in late
    )
