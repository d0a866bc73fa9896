"""The scenarios of a release: what the world is like, and what happens to it."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.scenarios.simulator import START, Event, World, version
from tidegate.api.deployment import DeploymentPhase, DeploymentSpec, DeploymentStatus
from tidegate.api.model_version import Role
from tidegate.domain.admission import Limits, Releases, Ticket
from tidegate.domain.release import (
    Backend,
    Experiment,
    GateAnswer,
    GateRole,
    Measurement,
    ModelState,
    SetRoute,
    Stickiness,
)

BAD = {"errorRate": Measurement(0.4, samples=100)}
EMPTY = {"errorRate": Measurement(samples=0)}
BETWEEN = {"errorRate": Measurement(0.07, samples=100)}
GATE = "https://gates.example/go"


@dataclass(frozen=True)
class Scenario:
    """A world, what happens in it, and how it has to end."""

    name: str
    build: Callable[[], World]
    seconds: int
    stable: str
    phase: DeploymentPhase = DeploymentPhase.HEALTHY
    history: tuple[str, ...] = ()
    """Version and outcome of each release, oldest first."""
    loses_traffic: bool = False
    """Pods die in this scenario."""
    seeds: int = 10


SCENARIOS: list[Scenario] = []


def scenario(
    seconds: int,
    stable: str,
    phase: DeploymentPhase = DeploymentPhase.HEALTHY,
    history: tuple[str, ...] = (),
    *,
    loses_traffic: bool = False,
    seeds: int = 10,
) -> Callable[[Callable[[], World]], Callable[[], World]]:
    def register(build: Callable[[], World]) -> Callable[[], World]:
        SCENARIOS.append(Scenario(build.__name__, build, seconds, stable, phase, history, loses_traffic, seeds))
        return build

    return register


def make_spec(**fields: object) -> DeploymentSpec:
    spec: dict[str, object] = {
        "model_version": "v1",
        "serving": {"replicas": 4},
        "strategy": {"canary": {"initial_percent": 10, "increment_percent": 40, "interval": "3s"}},
        "analysis": {"interval": "1s", "metrics": [{"name": "errorRate", "max": 0.05}]},
        "rollback": {"drain_delay": "3s"},
    }
    return DeploymentSpec.model_validate(spec | fields)


def steps(*texts: str) -> dict[str, object]:
    """Write explicit steps: "25" sets, "3s" holds, "pause" waits, "gate" asks, "analysis" measures twice."""
    known: dict[str, dict[str, object]] = {
        "pause": {"pause": {}},
        "gate": {"gate": {"url": GATE, "interval": "3s", "error_limit": 1}},
        "analysis": {"analysis": {"count": 2}},
    }
    return {
        "canary": {
            "steps": [known.get(t) or ({"hold": t} if t.endswith("s") else {"set_percent": float(t)}) for t in texts]
        }
    }


def make_world(*events: Event, **fields: object) -> World:
    world = World(make_spec(**fields), events=list(events))
    for name in ("v1", "v2", "v3"):
        world.add_model(name)
    return world


COMPARED: dict[str, object] = {
    "interval": "1s",
    "metrics": [{"name": "errorRateVsStable", "compare": {"metric": "errorRate", "margin": 0.005, "min_samples": 300}}],
}


# Points to wait for


def settled_on(name: str) -> Callable[[World], bool]:
    def check(world: World) -> bool:
        status = world.status
        settled = status.canary is None and status.stable is not None and not status.draining
        return settled and status.stable is not None and status.stable.model_version == name

    return check


def at_step(name: str, number: int) -> Callable[[World], bool]:
    """The proxies have confirmed this step's share."""

    def check(world: World) -> bool:
        canary = world.status.canary
        held = canary is not None and canary.model_version == name and canary.step == number
        return held and canary is not None and canary.step_started_at is not None and canary.retreat is None

    return check


def baking(world: World) -> bool:
    canary = world.status.canary
    return canary is not None and canary.baking_since is not None


def in_phase(phase: DeploymentPhase, name: str | None = None) -> Callable[[World], bool]:
    def check(world: World) -> bool:
        asked = name is None or world.spec.model_version == name
        return world.status.phase is phase and asked and world.status.observed_generation == world.generation

    return check


def holding(world: World) -> bool:
    return world.status.holding_since is not None


def at_once(_: World) -> bool:
    return True


# Things that happen


def release(name: str) -> Callable[[World], None]:
    return lambda world: world.change(model_version=name)


def command(name: str, identity: str = "1", to: str = "") -> Callable[[World], None]:
    return lambda world: world.give(name, identity, to)


def answer(name: str, values: dict[str, Measurement | None]) -> Callable[[World], None]:
    def do(world: World) -> None:
        world.values[name] = values
        world.say(f"metrics: {name} {', '.join(f'{key}={_show(value)}' for key, value in values.items()) or 'fine'}")

    return do


def _show(value: Measurement | None) -> str:
    return "nothing" if value is None or value.value is None else f"{value.value:g}"


def source(*, down: bool) -> Callable[[World], None]:
    def do(world: World) -> None:
        world.source_down = down
        world.say(f"metrics: the source is {'down' if down else 'up'}")

    return do


def say(role: GateRole, code: int | None, message: str = "") -> Callable[[World], None]:
    """Let a gate answer this from now on."""

    def do(world: World) -> None:
        world.gates[role] = GateAnswer(code, message)
        world.say(f"{role}: answers {code or 'nothing'} {message}".rstrip())

    return do


def freeze(proxy: int, *, frozen: bool) -> Callable[[World], None]:
    def do(world: World) -> None:
        world.proxies[proxy].frozen = frozen
        world.say(f"proxy: {world.proxies[proxy].name} {'does not answer' if frozen else 'answers'}")

    return do


def fail_requests(name: str, share: float) -> Callable[[World], None]:
    def do(world: World) -> None:
        world.bad_rates[name] = share
        world.say(f"metrics: {name} fails {share:.0%} of its requests")

    return do


def restart_operator(world: World) -> None:
    """A new operator knows nothing but what is in the objects."""
    world._seen, world._wake = None, world.now
    world.say("operator: restarts")


# The scenarios


@scenario(12, "v1", history=("v1 Promoted",))
def first_release() -> World:
    return make_world()


@scenario(40, "v2", history=("v1 Promoted", "v2 Promoted"), seeds=50)
def promote() -> World:
    return make_world(Event(settled_on("v1"), release("v2")))


@scenario(40, "v1", DeploymentPhase.ROLLED_BACK, ("v1 Promoted", "v2 RolledBack"), seeds=50)
def scenario_03_threshold_crossed() -> World:
    return make_world(Event(settled_on("v1"), release("v2")), Event(at_step("v2", 1), answer("v2", BAD)))


@scenario(60, "v3", history=("v1 Promoted", "v2 Superseded", "v3 Promoted"), seeds=50)
def scenario_01_superseded_at_90() -> World:
    return make_world(Event(settled_on("v1"), release("v2")), Event(at_step("v2", 2), release("v3")))


@scenario(40, "v1", history=("v1 Promoted", "v2 Superseded"))
def scenario_02_superseded_by_stable() -> World:
    return make_world(Event(settled_on("v1"), release("v2")), Event(at_step("v2", 1), release("v1")))


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"), seeds=50)
def scenario_04_no_data() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 0), answer("v2", EMPTY)),
        Event(holding, answer("v2", {}), after=12),
        analysis={"interval": "1s", "max_hold": "8s", "metrics": [{"name": "errorRate", "max": 0.05}]},
    )


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"))
def scenario_05_inconclusive_then_promote() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 0), answer("v2", BETWEEN)),
        Event(in_phase(DeploymentPhase.PAUSED), command("Promote"), after=2),
        Event(at_once, answer("v2", {})),
        analysis={
            "interval": "1s",
            "metrics": [{"name": "errorRate", "max": 0.05, "fail_above": 0.1, "inconclusive_limit": 3}],
        },
    )


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"), seeds=50)
def scenario_06_source_outage() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 0), source(down=True)),
        Event(holding, source(down=False), after=10),
    )


@scenario(40, "v2", history=("v1 Promoted", "v2 Promoted"))
def scenario_07_dry_run() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_once, answer("v2", {"custom": Measurement(9.0)})),
        analysis={
            "interval": "1s",
            "metrics": [
                {"name": "errorRate", "max": 0.05},
                {"name": "custom", "query": "up", "max": 3, "dry_run": True},
            ],
        },
    )


@scenario(60, "v1", DeploymentPhase.ROLLED_BACK, ("v1 Promoted", "v2 Aborted"), loses_traffic=True, seeds=50)
def scenario_08_abort_while_stable_lacks_capacity() -> World:
    def lose_three(world: World) -> None:
        world.kill_pods("v1", 3, slower=6)
        world.give("Abort", "1")

    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 1), lose_three),
        strategy=steps("75", "30s"),
    )


@scenario(70, "v2", history=("v1 Promoted", "v2 Aborted", "v2 Promoted"), seeds=50)
def scenario_09_abort_retry_promote() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 1), command("Abort", "1")),
        Event(in_phase(DeploymentPhase.ROLLED_BACK), command("Retry", "2"), after=5),
        Event(at_step("v2", 1), command("Promote", "3")),
    )


@scenario(70, "v1", history=("v1 Promoted", "v2 Promoted", "v1 Promoted"))
def scenario_10_back_within_window() -> World:
    return make_world(Event(settled_on("v1"), release("v2")), Event(settled_on("v2"), release("v1")))


@scenario(80, "v1", history=("v1 Promoted", "v2 Promoted", "v3 Promoted", "v1 Promoted"))
def scenario_10_back_outside_window() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(settled_on("v2"), release("v3")),
        Event(settled_on("v3"), release("v1")),
        rollback={"window": 1, "drain_delay": "3s"},
    )


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"), seeds=50)
def scenario_11_router_does_not_confirm() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 0), freeze(1, frozen=True)),
        Event(
            lambda world: bool(world.status.canary and world.status.canary.step == 1), freeze(1, frozen=False), after=12
        ),
        progress_deadline="8s",
    )


@scenario(50, "v2", history=("v1 Promoted", "v2 Promoted"))
def pause_step() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(in_phase(DeploymentPhase.PAUSED), command("Promote"), after=3),
        strategy=steps("25", "pause", "50", "3s"),
    )


@scenario(50, "v2", history=("v1 Promoted", "v2 Promoted"))
def promote_fully() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 1), command("PromoteFully")),
        strategy=steps("25", "pause"),
    )


@scenario(60, "v1", DeploymentPhase.ROLLED_BACK, ("v1 Promoted", "v2 RolledBack"))
def immediate_switches_back_in_bake() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(baking, answer("v2", BAD)),
        strategy={"type": "Immediate", "immediate": {"bake": "6s"}},
    )


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"))
def immediate() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")), strategy={"type": "Immediate", "immediate": {"bake": "4s"}}
    )


@scenario(60, "v1", DeploymentPhase.ROLLED_BACK, ("v1 Promoted", "v2 RolledBack"))
def canary_never_ready() -> World:
    world = make_world(Event(settled_on("v1"), release("v2")), progress_deadline="10s")
    world.broken.add("v2")
    return world


@scenario(60, "v2", history=("v1 Superseded", "v2 Promoted"))
def first_release_never_ready() -> World:
    world = make_world(Event(in_phase(DeploymentPhase.DEGRADED), release("v2"), after=3), progress_deadline="10s")
    world.broken.add("v1")
    return world


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"), loses_traffic=True)
def canary_pods_die() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")), Event(at_step("v2", 0), lambda world: world.kill_pods("v2"))
    )


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"))
def paused_and_resumed() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 0), lambda world: world.change(paused=True)),
        Event(in_phase(DeploymentPhase.PAUSED), lambda world: world.change(paused=False), after=8),
    )


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"))
def steps_change_under_way() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 1), lambda world: world.change(strategy=steps("20", "3s", "60", "3s"))),
    )


# Gates and analysis steps

CLOSED, SILENT = (403, "not before nine"), (None, "connection refused")
OPEN, GOES_BACK = (200, "go"), (200, "incident 7")
ROLLBACK_GATE: dict[str, object] = {"drain_delay": "3s", "gate": {"url": "https://gates.example/back?token=7"}}


def gate_says(code: int | None) -> Callable[[World], bool]:
    def check(world: World) -> bool:
        record = world.status.canary.gate if world.status.canary else None
        return record is not None and (record.consecutive_errors > 1 if code is None else record.code == code)

    return check


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"), seeds=50)
def scenario_12_gate_holds() -> World:
    """Scenario 12: a gate answers non-200: held, no failure counted."""
    return make_world(
        Event(settled_on("v1"), say(GateRole.STEP, *CLOSED)),
        Event(at_once, release("v2")),
        Event(gate_says(403), say(GateRole.STEP, 500), after=7),
        Event(gate_says(500), say(GateRole.STEP, *OPEN), after=4),
        strategy=steps("25", "gate", "50", "2s"),
    )


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"))
def gate_does_not_answer() -> World:
    """People are told after the limit; it goes on by itself, and a restarted operator asks at the same times."""
    return make_world(
        Event(settled_on("v1"), say(GateRole.STEP, *SILENT)),
        Event(at_once, release("v2")),
        Event(gate_says(None), restart_operator, after=2),
        Event(at_once, say(GateRole.STEP, *CLOSED), after=5),
        Event(gate_says(403), say(GateRole.STEP, *OPEN)),
        strategy=steps("gate", "50", "2s"),
    )


@scenario(70, "v2", history=("v1 Promoted", "v2 Promoted"))
def gate_closes_again_while_evidence_is_missing() -> World:
    """A yes counts for one interval: what the analysis holds beyond that is asked again."""
    return make_world(
        Event(settled_on("v1"), say(GateRole.STEP, *CLOSED)),
        Event(at_once, release("v2")),
        Event(gate_says(403), answer("v2", EMPTY)),
        Event(at_once, say(GateRole.STEP, *OPEN), after=2),
        Event(holding, say(GateRole.STEP, *CLOSED)),
        Event(gate_says(403), answer("v2", {}), after=1),
        Event(at_once, say(GateRole.STEP, *OPEN), after=4),
        strategy=steps("25", "2s", "gate", "50", "2s"),
    )


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"))
def person_promotes_at_a_gate() -> World:
    return make_world(
        Event(settled_on("v1"), say(GateRole.STEP, *CLOSED)),
        Event(at_once, release("v2")),
        Event(gate_says(403), command("Promote"), after=2),
        strategy=steps("25", "gate", "50", "2s"),
    )


@scenario(60, "v1", DeploymentPhase.ROLLED_BACK, ("v1 Promoted", "v2 RolledBack"), seeds=50)
def scenario_12_rollback_gate() -> World:
    """Scenario 12: a rollback gate answers 200: rolled back at once; here while the steps wait for a person."""
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 1), say(GateRole.ROLLBACK, *GOES_BACK), after=3),
        strategy=steps("25", "pause"),
        rollback=ROLLBACK_GATE,
    )


@scenario(60, "v1", DeploymentPhase.ROLLED_BACK, ("v1 Promoted", "v2 RolledBack"))
def rollback_gate_during_bake() -> World:
    """Scenario 12, without any metric and without automatic rollback: a person runs the gate."""
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(baking, say(GateRole.ROLLBACK, *GOES_BACK), after=2),
        strategy={"type": "Immediate", "immediate": {"bake": "10s"}},
        analysis={"interval": "2s"},
        rollback=ROLLBACK_GATE | {"automatic": False},
    )


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"))
def rollback_gate_does_not_answer() -> World:
    """Nothing happens, and the status says so in words that stay."""
    return make_world(
        Event(settled_on("v1"), say(GateRole.ROLLBACK, *SILENT)),
        Event(at_once, release("v2")),
        Event(at_step("v2", 3), say(GateRole.ROLLBACK, 500), after=1),
        strategy=steps("25", "4s", "50", "5s"),
        rollback=ROLLBACK_GATE,
    )


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"), seeds=50)
def analysis_step_waits_for_passes() -> World:
    """No data holds an analysis step; what passed before counts on."""
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 1), answer("v2", EMPTY), after=1),
        Event(holding, answer("v2", {}), after=2),
        strategy=steps("25", "analysis", "50", "analysis"),
    )


@scenario(60, "v1", DeploymentPhase.ROLLED_BACK, ("v1 Promoted", "v2 RolledBack"))
def analysis_step_fails() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 1), answer("v2", BAD), after=1),
        strategy=steps("25", "analysis", "50"),
    )


@scenario(80, "v2", history=("v1 Promoted", "v2 Promoted"), seeds=50)
def steps_change_at_a_gate_and_at_an_analysis() -> World:
    """The steps begin anew, the pods stay; what the gate said and what passed before counts no more."""
    return make_world(
        Event(settled_on("v1"), say(GateRole.STEP, *CLOSED)),
        Event(at_once, release("v2")),
        Event(gate_says(403), lambda w: w.change(strategy=steps("25", "50", "analysis", "gate")), after=1),
        Event(at_step("v2", 2), lambda w: w.change(strategy=steps("25", "analysis", "gate")), after=1),
        Event(gate_says(403), say(GateRole.STEP, *OPEN), after=1),
        strategy=steps("25", "gate", "50"),
    )


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"))
def version_appears_late() -> World:
    def vanish(world: World) -> None:
        del world.models["v2"]
        world.change(model_version="v2")

    return make_world(
        Event(settled_on("v1"), vanish),
        Event(at_once, lambda world: world.add_model("v2", ModelState.VALIDATING), after=4),
        Event(at_once, lambda world: world.add_model("v2"), after=4),
    )


@scenario(60, "v1", DeploymentPhase.ROLLED_BACK, ("v1 Promoted", "v2 Aborted"))
def person_aborts_without_automatic_rollback() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 0), answer("v2", BAD)),
        Event(in_phase(DeploymentPhase.PAUSED), command("Abort"), after=5),
        rollback={"automatic": False, "drain_delay": "3s"},
    )


@scenario(60, "v1", history=("v1 Promoted",))
def scaled_while_settled() -> World:
    return make_world(
        Event(settled_on("v1"), lambda world: world.change(serving={"replicas": 6})),
        Event(in_phase(DeploymentPhase.HEALTHY), lambda world: world.change(serving={"replicas": 2}), after=5),
    )


@scenario(60, "v1", history=("v1 Promoted",))
def pods_are_rebuilt_on_new_resources() -> World:
    return make_world(
        Event(settled_on("v1"), lambda world: world.change(serving={"replicas": 4, "resources": {"cpu": "2"}}))
    )


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"))
def route_edited_by_hand() -> World:
    def edit(world: World) -> None:
        backends = (Backend(version("v2"), 80.0, Role.CANARY), Backend(version("v1"), 20.0, Role.STABLE))
        world.route, world.route_generation = SetRoute(backends), world.route_generation + 1
        world.say("user: edits the Route to 80/20")

    return make_world(Event(settled_on("v1"), release("v2")), Event(at_step("v2", 0), edit))


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"))
def route_deleted_by_hand() -> World:
    def delete(world: World) -> None:
        world.route = None
        world.say("user: deletes the Route")

    return make_world(Event(settled_on("v1"), release("v2")), Event(at_step("v2", 1), delete))


@scenario(60, "v2", history=("v2 Promoted",))
def status_lost_under_way() -> World:
    def lose(world: World) -> None:
        world.status = DeploymentStatus()
        world.say("user: the status is lost")

    return make_world(Event(settled_on("v1"), release("v2")), Event(at_step("v2", 1), lose))


@scenario(60, "v1", history=("v1 Promoted", "v1 Promoted"))
def same_name_other_digest() -> World:
    def replace(world: World) -> None:
        world.add_model("v1", digest="f" * 64)
        world.say("user: makes ModelVersion v1 anew with another file")

    return make_world(Event(settled_on("v1"), replace))


@scenario(60, "v1", DeploymentPhase.ROLLED_BACK, ("v1 Promoted", "v2 RolledBack"))
def canary_with_wrong_checksum() -> World:
    world = make_world(Event(settled_on("v1"), release("v2")))
    world.corrupt.add("v2")
    return world


@scenario(90, "v2", history=("v1 Promoted", "v2 RolledBack", "v2 Promoted"))
def retry_after_the_artifact_is_mended() -> World:
    """The pods of the attempt before are still there, and still say that it is hopeless."""

    def mend(world: World) -> None:
        world.corrupt.discard("v2")
        world.say("user: uploads the right file")
        world.give("Retry", "1")

    world = make_world(Event(settled_on("v1"), release("v2")), Event(in_phase(DeploymentPhase.ROLLED_BACK), mend))
    world.corrupt.add("v2")
    return world


@scenario(60, "v1", DeploymentPhase.DEGRADED, ("v1 Promoted",))
def version_is_rejected() -> World:
    world = make_world(Event(settled_on("v1"), release("v2")))
    world.add_model("v2", ModelState.REJECTED)
    return world


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"), loses_traffic=True)
def stable_pods_die_under_way() -> World:
    """Nobody proven is there to take the share of stable, so it stays where it is until stable is back."""
    return make_world(
        Event(settled_on("v1"), release("v2")), Event(at_step("v2", 1), lambda world: world.kill_pods("v1", slower=3))
    )


@scenario(80, "v2", history=("v1 Promoted", "v2 Promoted"), loses_traffic=True)
def release_waits_for_a_test() -> World:
    test = Experiment("wider-net", "wide", version("v3"), 50.0, Stickiness("x-user-id", "uid-1"))

    def begin(world: World) -> None:
        world.experiment = test
        world.say("test: begins")

    def end(world: World) -> None:
        world.experiment = None
        world.say("test: ends")

    def runs(world: World) -> bool:
        return world.status.experiment is not None and world.status.experiment.percent == 50

    return make_world(
        Event(settled_on("v1"), begin),
        Event(runs, release("v2"), after=3),
        Event(at_once, lambda world: world.kill_pods("v3"), after=3),
        Event(runs, end, after=10),
    )


@scenario(60, "v1", history=("v1 Promoted",))
def commands_without_sense() -> World:
    return make_world(
        Event(settled_on("v1"), command("Abort", "1")),
        Event(at_once, command("Explode", "2"), after=2),
        Event(at_once, command("Retry", "3"), after=2),
    )


@scenario(90, "v2", history=("v1 Promoted", "v2 RolledBack", "v3 Promoted", "v2 Promoted"))
def rejected_version_is_tried_again_after_another() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 0), answer("v2", BAD)),
        Event(in_phase(DeploymentPhase.ROLLED_BACK), release("v3"), after=6),
        Event(settled_on("v3"), answer("v2", {})),
        Event(at_once, release("v2")),
    )


@scenario(60, "v1", DeploymentPhase.ROLLED_BACK, ("v1 Promoted", "v2 RolledBack"), seeds=50)
def comparison_finds_a_worse_canary() -> World:
    """Both fail, the canary more: no fixed bound tells, the comparison does."""
    return make_world(
        Event(settled_on("v1"), fail_requests("v1", 0.02)),
        Event(at_once, release("v2")),
        Event(at_step("v2", 1), fail_requests("v2", 0.1)),
        analysis=COMPARED,
    )


@scenario(70, "v2", history=("v1 Promoted", "v2 Promoted"), seeds=50)
def comparison_survives_outage_and_restart() -> World:
    """What was not counted during the outage is counted afterwards, and nothing twice after the restart."""
    return make_world(
        Event(settled_on("v1"), fail_requests("v1", 0.02)),
        Event(at_once, fail_requests("v2", 0.02)),
        Event(at_once, release("v2")),
        Event(at_step("v2", 0), source(down=True), after=1),
        Event(holding, restart_operator, after=2),
        Event(at_once, source(down=False), after=2),
        Event(at_step("v2", 1), restart_operator, after=1),
        analysis=COMPARED,
    )


@scenario(90, "v2", history=("v1 Promoted", "v2 Promoted"))
def person_overrules_the_comparison() -> World:
    """Evidence that a person has overruled is not held against the canary again; what comes after it is."""
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 0), fail_requests("v2", 0.2)),
        Event(in_phase(DeploymentPhase.PAUSED), fail_requests("v2", 0.0), after=3),
        Event(at_once, command("Promote"), after=1),
        analysis=COMPARED,
        rollback={"automatic": False, "drain_delay": "3s"},
    )


GRADUAL: dict[str, object] = {"type": "Gradual", "gradual": {"duration": "20s", "tick": "2s"}}


def pause_between(before: int, after: int) -> tuple[Event, ...]:
    """Pause the release at a step, for some seconds."""
    return (
        Event(at_step("v2", before), lambda world: world.change(paused=True)),
        Event(at_once, lambda world: world.change(paused=False), after=after),
    )


@scenario(120, "v2", history=("v1 Promoted", "v2 Promoted"), seeds=50)
def gradual_held_by_everything() -> World:
    """A pause, an outage of the metric source and a silent proxy hold the ramp; it never catches up in one jump."""
    return make_world(
        Event(settled_on("v1"), release("v2")),
        *pause_between(1, 9),
        Event(at_step("v2", 3), source(down=True)),
        Event(holding, source(down=False), after=8),
        Event(at_step("v2", 5), freeze(1, frozen=True)),
        Event(at_once, freeze(1, frozen=False), after=12),
        strategy=GRADUAL,
        progress_deadline="60s",
    )


@scenario(80, "v1", DeploymentPhase.ROLLED_BACK, ("v1 Promoted", "v2 RolledBack"), seeds=20)
def gradual_rolls_back() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 4), answer("v2", BAD)),
        strategy=GRADUAL,
    )


@scenario(80, "v2", history=("v1 Promoted", "v2 Promoted"))
def gradual_slows_down_under_way() -> World:
    """Other ticks begin the ramp anew, with the same pods."""
    slower = {"type": "Gradual", "gradual": {"duration": "12s", "tick": "3s", "bake": "3s"}}
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 3), lambda world: world.change(strategy=slower)),
        strategy=GRADUAL,
    )


# A person goes back to a version that was healthy


def released(*names: str) -> tuple[Event, ...]:
    """These versions are released one after the other."""
    return tuple(
        Event(settled_on(before), release(after)) for before, after in zip(("v1", *names), names, strict=False)
    )


def gone_back_to(name: str) -> Callable[[World], bool]:
    def check(world: World) -> bool:
        return settled_on(name)(world) and in_phase(DeploymentPhase.ROLLED_BACK)(world)

    return check


def going_back(world: World) -> bool:
    return world.status.rollback is not None


THERE_AND_BACK = ("v1 Promoted", "v2 Promoted", "v1 Promoted")


@scenario(50, "v1", DeploymentPhase.ROLLED_BACK, THERE_AND_BACK, seeds=50)
def rollback_to_the_last_version() -> World:
    return make_world(*released("v2"), Event(settled_on("v2"), command("Rollback")))


@scenario(50, "v1", DeploymentPhase.ROLLED_BACK, THERE_AND_BACK)
def rollback_to_a_version_that_is_still_warm() -> World:
    def drains(world: World) -> bool:
        return any(each.model_version == "v1" for each in world.status.draining)

    return make_world(*released("v2"), Event(drains, command("Rollback")), rollback={"drain_delay": "20s"})


@scenario(80, "v1", DeploymentPhase.ROLLED_BACK, ("v1 Promoted", "v2 Promoted", "v3 Promoted", "v1 Promoted"), seeds=50)
def rollback_to_a_version_by_name() -> World:
    return make_world(*released("v2", "v3"), Event(settled_on("v3"), command("Rollback", to="v1")))


@scenario(
    80, "v1", DeploymentPhase.ROLLED_BACK, ("v1 Promoted", "v2 Promoted", "v3 Promoted", "v2 Promoted", "v1 Promoted")
)
def rollback_twice() -> World:
    return make_world(
        *released("v2", "v3"),
        Event(settled_on("v3"), command("Rollback", "1")),
        Event(gone_back_to("v2"), command("Rollback", "2")),
    )


@scenario(70, "v2", history=("v1 Promoted", "v2 Promoted"))
def rollback_refused() -> World:
    def reject(world: World) -> None:
        world.add_model("v1", ModelState.REJECTED)
        world.give("Rollback", "4")

    def remove(world: World) -> None:
        del world.models["v1"]
        world.give("Rollback", "5", to="v1")

    def replace_artifact(world: World) -> None:
        world.add_model("v1", digest="e" * 64)
        world.give("Rollback", "6", to="v1")

    return make_world(
        Event(settled_on("v1"), command("Rollback", "1")),
        Event(at_once, release("v2"), after=2),
        Event(settled_on("v2"), command("Rollback", "2", to="v9")),
        Event(at_once, command("Rollback", "3", to="v2"), after=2),
        Event(at_once, reject, after=2),
        Event(at_once, remove, after=2),
        Event(at_once, replace_artifact, after=2),
    )


@scenario(
    80, "v1", DeploymentPhase.ROLLED_BACK, ("v1 Promoted", "v2 Promoted", "v3 RolledBack", "v1 Promoted"), seeds=50
)
def rollback_during_a_canary() -> World:
    return make_world(
        *released("v2", "v3"),
        Event(at_step("v3", 1), command("Rollback", "1")),
        Event(at_once, command("Rollback", "2", to="v1"), after=1),
        strategy=steps("10", "3s", "50", "30s"),
    )


@scenario(50, "v1", DeploymentPhase.ROLLED_BACK, THERE_AND_BACK)
def rollback_survives_a_restart() -> World:
    return make_world(
        *released("v2"),
        Event(settled_on("v2"), command("Rollback")),
        Event(going_back, restart_operator, after=1),
    )


@scenario(80, "v3", history=(*THERE_AND_BACK, "v3 Promoted"), seeds=50)
def rollback_then_another_version() -> World:
    return make_world(
        *released("v2"),
        Event(settled_on("v2"), command("Rollback")),
        Event(gone_back_to("v1"), release("v3")),
    )


@scenario(60, "v1", history=THERE_AND_BACK)
def rollback_then_the_spec_follows() -> World:
    return make_world(
        *released("v2"),
        Event(settled_on("v2"), command("Rollback")),
        Event(gone_back_to("v1"), release("v1")),
    )


@scenario(80, "v2", history=(*THERE_AND_BACK, "v2 Promoted"), seeds=50)
def rollback_then_retry() -> World:
    return make_world(
        *released("v2"),
        Event(settled_on("v2"), command("Rollback", "1")),
        Event(gone_back_to("v1"), command("Retry", "2")),
    )


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted", "v1 RolledBack"))
def rollback_to_a_version_that_does_not_start() -> World:
    def go_back(world: World) -> None:
        world.broken.add("v1")
        world.give("Rollback", "1")

    return make_world(*released("v2"), Event(settled_on("v2"), go_back), progress_deadline="10s")


@scenario(80, "v3", history=("v1 Promoted", "v2 Promoted", "v1 Superseded", "v3 Promoted"))
def rollback_overtaken_by_the_spec() -> World:
    def go_back(world: World) -> None:
        world.ready_after = 6
        world.give("Rollback", "1")

    return make_world(*released("v2"), Event(settled_on("v2"), go_back), Event(going_back, release("v3"), after=2))


@scenario(80, "v2", DeploymentPhase.ROLLED_BACK, ("v1 Promoted", "v2 Promoted", "v3 RolledBack"), loses_traffic=True)
def rollback_to_a_version_that_vanishes_first() -> World:
    """The way back of the canary takes a while; meanwhile the version to go back to is deleted."""

    def go_back(world: World) -> None:
        world.kill_pods("v2", 3, slower=6)
        world.give("Rollback", "1", to="v1")

    def vanish(world: World) -> None:
        del world.models["v1"]
        world.say("user: deletes v1")

    return make_world(
        *released("v2", "v3"),
        Event(at_step("v3", 1), go_back),
        Event(going_back, vanish),
        strategy=steps("10", "3s", "75", "30s"),
    )


@scenario(60, "v1", DeploymentPhase.ROLLED_BACK, THERE_AND_BACK)
def rollback_while_paused() -> World:
    return make_world(
        *released("v2"),
        Event(settled_on("v2"), lambda world: world.change(paused=True)),
        Event(settled_on("v2"), command("Rollback"), after=2),
    )


@scenario(90, "v1", DeploymentPhase.ROLLED_BACK, THERE_AND_BACK)
def rollback_is_refused_during_a_test() -> World:
    def begin(world: World) -> None:
        world.experiment = Experiment("wider-net", "wide", version("v3"), 50.0, Stickiness("x-user-id", "uid-1"))
        world.give("Rollback", "1")

    def end(world: World) -> None:
        world.experiment = None
        world.give("Rollback", "2")

    return make_world(*released("v2"), Event(settled_on("v2"), begin), Event(at_once, end, after=8))


SHADOW: dict[str, object] = {
    "type": "Shadow",
    "shadow": {"percent": 50, "duration": "5s", "max_disagreement": 0.02, "then": "Canary"},
    "canary": {"initial_percent": 10, "increment_percent": 90, "interval": "2s"},
}


def shadowed(share: float, samples: int = 1000) -> dict[str, Measurement | None]:
    """Answer what a comparator has counted; the users' metrics pass."""
    return {"disagreement": Measurement(share, samples=samples)}


def is_shadowed(world: World) -> bool:
    return world.route is not None and world.route.mirror is not None


@scenario(40, "v2", history=("v1 Promoted", "v2 Promoted"))
def shadow_then_canary() -> World:
    """Copies first, then users: the answers agree, the copies end, and the canary's steps begin."""
    world = make_world(Event(settled_on("v1"), release("v2"), after=2), strategy=SHADOW)
    world.values["v2"] = shadowed(0.004)
    return world


@scenario(40, "v1", DeploymentPhase.ROLLED_BACK, history=("v1 Promoted", "v2 RolledBack"))
def shadow_disagrees() -> World:
    """The answers differ: rolled back before any user has got one."""
    world = make_world(Event(settled_on("v1"), release("v2"), after=2), strategy=SHADOW)
    world.values["v2"] = shadowed(0.2)
    return world


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"))
def shadow_waits_for_evidence() -> World:
    """Beyond its time the shadow is held while the rate is above the bound and not shown to be; then it passes."""
    world = make_world(
        Event(settled_on("v1"), release("v2"), after=2),
        Event(is_shadowed, answer("v2", shadowed(0.015, 4000)), after=12),
        strategy=SHADOW,
    )
    world.values["v2"] = shadowed(0.03, 200)
    return world


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"))
def shadow_alone_waits_for_a_person() -> World:
    """Without ``then`` nobody but a person lets users in."""
    shadow = {"type": "Shadow", "shadow": {"duration": "3s"}}
    return make_world(
        Event(settled_on("v1"), release("v2"), after=2),
        Event(in_phase(DeploymentPhase.PAUSED, "v2"), command("Promote"), after=3),
        strategy=shadow,
    )


@scenario(60, "v3", history=("v1 Promoted", "v2 Superseded", "v3 Promoted"))
def shadow_superseded() -> World:
    """Another version in the middle of the comparison: the copies end before the pods go, and begin anew."""
    return make_world(
        Event(settled_on("v1"), release("v2"), after=2),
        Event(is_shadowed, release("v3"), after=2),
        strategy=SHADOW,
    )


@scenario(60, "v1", DeploymentPhase.ROLLED_BACK, history=("v1 Promoted", "v2 Aborted"))
def shadow_aborted() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2"), after=2),
        Event(is_shadowed, command("Abort"), after=2),
        strategy=SHADOW,
    )


# What holds a new release: its windows, the error budget, the releases of others


FIRST_MINUTE = [{"start": "00:01", "end": "00:02"}]
"""The simulation begins at midnight."""
OVERSPENT, UNSPENT = Measurement(0.003, samples=20_000), Measurement(0.0004, samples=30_000)


def held_by(reason: str) -> Callable[[World], bool]:
    def check(world: World) -> bool:
        return world.status.held is not None and world.status.held.reason == reason

    return check


def spend(measured: Measurement) -> Callable[[World], None]:
    def do(world: World) -> None:
        world.failures = measured
        world.say(f"metrics: {measured.value:.2%} of all requests fail")

    return do


def limit(*under_way: str, waiting: tuple[str, ...] = (), **limits: int) -> Callable[[World], None]:
    """Let other Deployments release, and some wait for their turn since the beginning."""

    def do(world: World) -> None:
        places = frozenset(("default", name) for name in under_way)
        tickets = tuple(Ticket(START, "default", name) for name in waiting)
        world.others = Releases(("default", "connect4"), Limits(**limits), places, tickets)
        world.say(f"others: {', '.join(under_way) or 'none'} under way, {', '.join(waiting) or 'none'} waiting")

    return do


@scenario(150, "v2", history=("v1 Promoted", "v2 Promoted"), seeds=10)
def window_opens_later() -> World:
    """The first release is not held, the second begins exactly when the window opens and goes on after it closes."""
    steps_of_a_minute = steps("10", "40s", "50", "20s")
    return make_world(Event(settled_on("v1"), release("v2")), release_windows=FIRST_MINUTE, strategy=steps_of_a_minute)


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"), seeds=20)
def person_overrules_the_window() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(held_by("OutsideReleaseWindow"), command("Promote"), after=3),
        release_windows=FIRST_MINUTE,
    )


@scenario(40, "v2", history=("v1 Promoted", "v2 Promoted"))
def person_overrules_the_window_fully() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(held_by("OutsideReleaseWindow"), command("PromoteFully"), after=3),
        release_windows=FIRST_MINUTE,
        strategy=steps("25", "pause"),
    )


AT_NOON = [{"start": "12:00", "end": "13:00"}]


def close(world: World) -> None:
    world.change(release_windows=AT_NOON)


@scenario(60, "v1", DeploymentPhase.ROLLED_BACK, THERE_AND_BACK)
def rollback_outside_the_window() -> World:
    """A person's way back waits for nothing."""
    return make_world(*released("v2"), Event(settled_on("v2"), close), Event(at_once, command("Rollback")))


@scenario(60, "v1", history=THERE_AND_BACK)
def return_to_a_healthy_version_outside_the_window() -> World:
    """Setting the spec back, as GitOps does, is a way back, too."""
    return make_world(*released("v2"), Event(settled_on("v2"), close), Event(at_once, release("v1")))


@scenario(60, "v1", DeploymentPhase.ROLLED_BACK, ("v1 Promoted", "v2 RolledBack"))
def window_closes_under_a_bad_canary() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(at_step("v2", 0), close),
        Event(at_step("v2", 1), answer("v2", BAD)),
    )


@scenario(60, "v1", history=("v1 Promoted",))
def held_release_is_withdrawn() -> World:
    return make_world(
        Event(settled_on("v1"), release("v2")),
        Event(held_by("OutsideReleaseWindow"), release("v1"), after=3),
        release_windows=AT_NOON,
    )


@scenario(200, "v2", history=("v1 Promoted", "v2 Promoted"), seeds=20)
def error_budget_is_spent() -> World:
    """Looked at once a minute while it is spent; the release starts when enough is left."""
    return make_world(
        Event(at_once, spend(OVERSPENT)),
        Event(settled_on("v1"), release("v2")),
        Event(held_by("ErrorBudgetSpent"), spend(UNSPENT), after=70),
        error_budget={"objective": 99.9, "window": "24h"},
    )


@scenario(200, "v2", history=("v1 Promoted", "v2 Promoted"), seeds=20)
def error_budget_is_unknown() -> World:
    """An outage of Prometheus starts nothing; after the progress deadline people are told."""
    return make_world(
        Event(settled_on("v1"), source(down=True)),
        Event(at_once, release("v2")),
        Event(in_phase(DeploymentPhase.DEGRADED), source(down=False), after=5),
        error_budget={"objective": 99.9},
        progress_deadline="30s",
    )


@scenario(60, "v2", history=("v1 Promoted", "v2 Promoted"), seeds=20)
def release_waits_for_its_turn() -> World:
    """Two places: one is taken, and the other is for the one that has waited longer."""
    return make_world(
        Event(settled_on("v1"), limit("a", waiting=("b",), in_cluster=2)),
        Event(at_once, release("v2")),
        Event(held_by("ReleaseLimit"), limit("a", "b", in_cluster=2), after=3),
        Event(held_by("ReleaseLimit"), limit("b", in_cluster=2), after=5),
    )


@scenario(130, "v2", history=("v1 Promoted", "v2 Promoted"))
def everything_holds_one_after_the_other() -> World:
    return make_world(
        Event(at_once, spend(OVERSPENT)),
        Event(at_once, limit("a", in_cluster=1)),
        Event(settled_on("v1"), release("v2")),
        Event(held_by("ReleaseLimit"), limit(in_cluster=1), after=5),
        Event(held_by("ErrorBudgetSpent"), command("Promote"), after=5),
        release_windows=[{"start": "00:01", "end": "01:00"}],
        error_budget={"objective": 99.9},
    )
