"""Releases under random people, random faults and an operator that dies: the invariants hold, and all comes to rest."""

import random
from collections.abc import Callable, Sequence

import pytest

from tests.scenarios.releases import BAD, BETWEEN, EMPTY, GATE, OVERSPENT, UNSPENT, make_world, released, steps
from tests.scenarios.simulator import World, version
from tidegate.api.deployment import DeploymentPhase
from tidegate.domain.admission import Limits, Releases
from tidegate.domain.release import Experiment, GateAnswer, GateRole, Measurement, ModelState, Stickiness

Act = Callable[[World, random.Random], None]
NAMES = ("v1", "v2", "v3")
STRATEGIES: tuple[dict[str, object], ...] = (
    {"canary": {"initial_percent": 10, "increment_percent": 40, "interval": "2s"}},
    {"canary": {"initial_percent": 50, "increment_percent": 50, "interval": "2s", "bake": "3s"}},
    {"type": "Immediate", "immediate": {"bake": "2s"}},
    {"type": "Gradual", "gradual": {"duration": "6s", "tick": "1s", "bake": "2s"}},
    steps("20", "2s", "60", "1s", "30", "2s"),
    steps("gate", "20", "analysis", "60", "gate"),
)
ANSWERS: tuple[dict[str, Measurement | None], ...] = ({}, {}, {}, BAD, EMPTY, BETWEEN)


def ask(world: World, chance: random.Random) -> None:
    """Change what the spec asks for."""
    changes: tuple[dict[str, object], ...] = (
        {"model_version": chance.choice(NAMES)},
        {"strategy": chance.choice(STRATEGIES)},
        {"serving": {"replicas": chance.randint(1, 5)}},
        {"paused": not world.spec.paused},
    )
    world.change(**chance.choice((changes[0], changes[0], *changes)))


def command(world: World, chance: random.Random) -> None:
    name = chance.choice(("Promote", "PromoteFully", "Abort", "Retry", "Rollback", "Rollback"))
    to = chance.choice(("", *NAMES)) if name == "Rollback" else ""
    world.give(name, str(chance.random()), to)


def answer(world: World, chance: random.Random) -> None:
    world.values[chance.choice(NAMES)] = chance.choice(ANSWERS)


def toggle_source(world: World, _: random.Random) -> None:
    world.source_down = not world.source_down


def kill(world: World, chance: random.Random) -> None:
    world.kill_pods(chance.choice(NAMES), chance.randint(1, 3))


def toggle_proxy(world: World, chance: random.Random) -> None:
    proxy = chance.choice(world.proxies)
    proxy.frozen = not proxy.frozen


def toggle_broken(world: World, chance: random.Random) -> None:
    world.broken ^= {chance.choice(NAMES)}


def toggle_test(world: World, chance: random.Random) -> None:
    test = Experiment("test", "arm", version(chance.choice(NAMES)), 30.0, Stickiness("x-user-id", "test"))
    world.experiment = None if world.experiment else test


def toggle_rejection(world: World, chance: random.Random) -> None:
    name = chance.choice(NAMES)
    state = world.models[name][0]
    world.add_model(name, ModelState.READY if state is ModelState.REJECTED else ModelState.REJECTED)


def toggle_gates(world: World, chance: random.Random) -> None:
    world.gates[GateRole.STEP] = GateAnswer(chance.choice((200, 403, 500, None)))
    world.gates[GateRole.ROLLBACK] = GateAnswer(chance.choice((200, 404, 404, None)))


def toggle_windows(world: World, _: random.Random) -> None:
    world.change(release_windows=[] if world.spec.release_windows else [{"start": "00:01", "end": "00:02"}])


def toggle_budget(world: World, chance: random.Random) -> None:
    world.failures = chance.choice((OVERSPENT, UNSPENT))
    world.change(error_budget=chance.choice((None, {"objective": 99.9})))


def toggle_limit(world: World, _: random.Random) -> None:
    full = Releases(("default", "connect4"), Limits(in_cluster=1), frozenset({("default", "other")}))
    world.others = None if world.others else full


DISTURBANCES = (ask, ask, ask, command, command, answer, toggle_source, kill, toggle_proxy)
RARE = (toggle_broken, toggle_test, toggle_rejection, toggle_gates)


def end_all_faults(world: World) -> None:
    """End every fault; what is asked for is a version that is fine, and no command is left that is against it."""
    world.command = None
    world.source_down = False
    world.gates = {}
    world.values, world.broken, world.experiment = {}, set(), None
    for proxy in world.proxies:
        proxy.frozen = False
    world.others, world.failures = None, UNSPENT
    world.add_model("v4")
    free = {"paused": False, "release_windows": [], "error_budget": None}
    world.change(model_version="v4", strategy=STRATEGIES[0], **free)


@pytest.mark.parametrize("seed", range(60))
def test_random_releases_keep_every_invariant_and_come_to_rest(seed: int) -> None:
    chance = random.Random(seed)
    rollback = {"drain_delay": chance.choice(("0s", "3s")), "gate": {"url": GATE}}
    world = make_world(strategy=chance.choice(STRATEGIES), progress_deadline="6s", rollback=rollback)
    disturb(world, chance, DISTURBANCES + RARE)
    check_rest(world)


@pytest.mark.parametrize("seed", range(40))
def test_random_rollbacks_keep_every_invariant_and_come_to_rest(seed: int) -> None:
    """Three versions have been healthy, so there is somewhere to go back to."""
    chance = random.Random(seed)
    drain = {"drain_delay": chance.choice(("0s", "3s", "20s"))}
    world = make_world(*released("v2", "v3"), strategy=STRATEGIES[0], progress_deadline="6s", rollback=drain)
    world.run(60)
    world.change(strategy=chance.choice(STRATEGIES))
    disturb(world, chance, (command, command, command, *DISTURBANCES, toggle_broken, toggle_rejection))
    check_rest(world)


@pytest.mark.parametrize("seed", range(40))
def test_random_holds_keep_every_invariant_and_come_to_rest(seed: int) -> None:
    """What may hold a release comes and goes; nothing new starts against it, and what is under way goes on."""
    chance = random.Random(seed)
    world = make_world(strategy=STRATEGIES[0], progress_deadline="6s")
    world.run(5)
    disturb(world, chance, (toggle_windows, toggle_budget, toggle_limit, *DISTURBANCES))
    check_rest(world)


def disturb(world: World, chance: random.Random, acts: Sequence[Act]) -> None:
    for _ in range(14):
        world.run_randomly(chance.randint(1, 8), chance.randrange(2**31), calm=0)
        chance.choice(acts)(world, chance)
    end_all_faults(world)


def check_rest(world: World) -> None:
    world.run(90)
    status = world.status
    assert status.phase is DeploymentPhase.HEALTHY, "\n".join(world.log)
    assert status.stable is not None
    assert status.stable.model_version == "v4"
    assert [each.model_version for each in world.workloads] == ["v4"]
    assert not world.is_awake()
