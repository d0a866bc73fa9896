"""The ramp of a gradual release: even, monotone, and never faster than its ticks, whatever holds it."""

import random
from itertools import pairwise

import pytest

from tests.scenarios.releases import GRADUAL, make_world
from tests.scenarios.simulator import Act, World, version
from tidegate.domain.release import SetRoute

SHARE = 10.0
TICK = 2


def record_shares(world: World, name: str) -> list[tuple[float, float]]:
    """Note the time in seconds and the share of a version whenever the Route is written."""
    shares: list[tuple[float, float]] = []
    act = world.act

    def note(done: Act) -> None:
        act(done)
        if isinstance(done, SetRoute):
            share = sum(each.percent for each in done.backends if each.version == version(name))
            shares.append((world.now.timestamp(), share))

    world.act = note  # type: ignore[method-assign]
    return shares


def hold_somehow(world: World, chance: random.Random) -> None:
    kind = chance.choice(("pause", "source", "proxy"))
    if kind == "pause":
        world.change(paused=not world.spec.paused)
    elif kind == "source":
        world.source_down = not world.source_down
    else:
        world.proxies[1].frozen = not world.proxies[1].frozen


def begin(**fields: object) -> tuple[World, list[tuple[float, float]]]:
    world = make_world(strategy=GRADUAL, progress_deadline="10m", **fields)
    world.run(12)
    shares = record_shares(world, "v2")
    world.change(model_version="v2")
    return world, shares


@pytest.mark.parametrize("seed", range(20))
def test_the_share_never_jumps_and_never_falls_whatever_holds_the_ramp(seed: int) -> None:
    chance = random.Random(seed)
    world, shares = begin()
    for _ in range(10):
        world.run_randomly(chance.randint(1, 20), chance.randrange(2**31), calm=0)
        hold_somehow(world, chance)
    world.change(paused=False)
    world.source_down, world.proxies[1].frozen = False, False
    world.run(80)
    assert world.status.stable is not None
    assert world.status.stable.model_version == "v2"
    for (before, share), (at, larger) in pairwise([(0.0, 0.0), *shares]):
        if larger != share:
            assert larger - share == pytest.approx(SHARE)
            assert at - before >= TICK


def test_a_ramp_is_one_decision_in_the_status() -> None:
    world, _ = begin()
    world.run(15)
    ramp = [each for each in world.status.decisions if each.reason == "RampTick"]
    assert len(ramp) == 1
    assert world.status.canary is not None
    assert (ramp[0].from_, ramp[0].to) == (0, world.status.canary.target_percent)
    assert sum(action == "SetPercent" for action, _ in world.decided) > 4
