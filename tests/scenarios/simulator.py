"""A small world that drives the release planner to its fixed point: pods, proxies, metrics, an operator that may die.

The operator here does what the real reconciler does: observe, plan, act, record. In the default order it is woken
only by what it observes and by ``recheck_after``, so a forgotten timer is a hanging scenario. In a seeded random order
the actors take turns at random, the operator dies between any two acts and status writes are lost.

Every act is checked against the invariants of a release at the moment it happens, against what each proxy really
runs, which is more than the operator can know.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from tidegate.api.base import ComputeResources
from tidegate.api.deployment import DeploymentSpec, DeploymentStatus
from tidegate.domain.admission import Releases
from tidegate.domain.release import (
    ApplyComparator,
    ApplyWorkload,
    Backend,
    CommandRequest,
    Comparator,
    Counted,
    DeleteComparator,
    DeleteWorkload,
    Experiment,
    GateAnswer,
    GateRole,
    Measurement,
    Mirror,
    ModelState,
    Observed,
    ObservedRoute,
    Plan,
    Query,
    SetRoute,
    VersionID,
    Workload,
)
from tidegate.domain.rollout import budget_due, measurements_due, plan_rollout, questions_due
from tidegate.domain.statistics import Proportion
from tidegate.domain.steps import fingerprint, release_steps
from tidegate.reconcilers.observation import former_versions

START = datetime(2026, 1, 1, tzinfo=UTC)
TICK = timedelta(seconds=1)
REQUESTS = 400
"""Requests per second, all versions together."""
Act = ApplyWorkload | ApplyComparator | SetRoute | DeleteWorkload | DeleteComparator


@dataclass(frozen=True)
class Event:
    """Something that happens once the world has come to a point; events happen one after the other."""

    when: Callable[["World"], bool]
    do: Callable[["World"], object]
    after: int = 0
    """Seconds after that point."""


def digest_of(name: str) -> str:
    return (name.encode().hex() * 64)[:64]


def version(name: str, digest: str | None = None) -> VersionID:
    return VersionID(name, digest or digest_of(name))


class InvariantError(AssertionError):
    pass


@dataclass
class Pods:
    """Pods of one workload; each becomes ready some ticks after it was made, unless the version is broken."""

    replicas: int = 0
    ages: list[int] = field(default_factory=list)
    fatal_at: datetime | None = None
    resources: ComputeResources | None = None


@dataclass
class Proxy:
    """One Envoy: runs what it acknowledged last."""

    name: str
    generation: int = 0
    backends: tuple[Backend, ...] = ()
    mirror: Mirror | None = None
    frozen: bool = False


@dataclass
class World:
    spec: DeploymentSpec
    ready_after: int = 2
    models: dict[str, tuple[ModelState, str]] = field(default_factory=dict)
    values: dict[str, dict[str, Measurement | None]] = field(default_factory=dict)
    """Answers of the metric source by version and metric; a metric that is not named there passes."""
    bad_rates: dict[str, float] = field(default_factory=dict)
    """Share of bad answers by version, as the proxies count them."""
    counters: dict[datetime, dict[str, tuple[float, float]]] = field(default_factory=dict)
    """What the proxies had counted at each moment, by version: requests, and bad answers."""
    source_down: bool = False
    gates: dict[GateRole, GateAnswer] = field(default_factory=dict)
    """What the gates answer; without an entry a step's gate opens, and the rollback gate does not say yes."""
    asked: list[tuple[float, GateRole]] = field(default_factory=list)
    """Seconds and role of every question that a gate was asked."""
    broken: set[str] = field(default_factory=set)
    """Versions whose pods never become ready."""
    corrupt: set[str] = field(default_factory=set)
    """Versions whose artifact has another checksum."""
    command: CommandRequest | None = None
    experiment: Experiment | None = None
    others: Releases | None = None
    """The releases of other Deployments."""
    failures: Measurement = field(default_factory=lambda: Measurement(0.0, samples=10_000))
    """Share of the users' requests that failed, for the error budget."""
    generation: int = 1
    now: datetime = START
    workloads: dict[VersionID, Pods] = field(default_factory=dict)
    comparators: dict[VersionID, tuple[VersionID, int]] = field(default_factory=dict)
    """By shadowed version: what it is compared with, and the age of the pod."""
    route: SetRoute | None = None
    route_generation: int = 0
    confirmed_generation: int = 0
    live: dict[VersionID, float] = field(default_factory=dict)
    proxies: list[Proxy] = field(default_factory=lambda: [Proxy("envoy-a"), Proxy("envoy-b")])
    status: DeploymentStatus = field(default_factory=DeploymentStatus)
    through_json: bool = True
    """Keep the status as the API server does, as JSON; slower."""
    log: list[str] = field(default_factory=list)
    lost: float = 0.0
    """Seconds times percent of traffic that a proxy sent to a version without a ready pod."""
    plans: int = 0
    budgets: int = 0
    """How often the error budget was asked for."""
    decided: list[tuple[str, str | None]] = field(default_factory=list)
    """Action and version of every decision whose record was kept."""
    events: list[Event] = field(default_factory=list)
    _reached: datetime | None = None
    _seen: object = None
    _wake: datetime | None = START

    # What people do

    def change(self, **fields: object) -> None:
        """Change the spec, as `kubectl apply` does."""
        self.spec = DeploymentSpec.model_validate(self.spec.model_dump(by_alias=False) | fields)
        self.generation += 1
        self.say(f"user: {', '.join(f'{key}={value}' for key, value in fields.items())}")

    def give(self, command: str, identity: str, to: str = "") -> None:
        self.command = CommandRequest(identity, command, by="ada", to=to)
        self.say(f"user: {command} {to}".rstrip())

    def add_model(self, name: str, state: ModelState = ModelState.READY, digest: str | None = None) -> None:
        self.models[name] = (state, digest or digest_of(name))

    def kill_pods(self, name: str, count: int | None = None, slower: int = 0) -> None:
        """Kill pods of a version (all of them by default); new ones start, `slower` seconds later than usual."""
        for key, pods in self.workloads.items():
            if key.model_version == name:
                number = len(pods.ages) if count is None else count
                pods.ages = sorted(pods.ages[number:] + [-slower] * number, reverse=True)
        self.say(f"node: pods of {name} die")

    # What the cluster does

    def pass_time(self) -> None:
        self.now += TICK
        for key, pods in self.workloads.items():
            starts = key.model_version not in self.broken | self.corrupt
            pods.ages = [age + starts for age in pods.ages]
        self.comparators = {key: (stable, age + 1) for key, (stable, age) in self.comparators.items()}
        self.lost += sum(
            each.percent
            for proxy in self.proxies
            for each in proxy.backends
            if self.ready(each.version) == 0 and each.percent > 0
        )

        self._count_requests()

    def _count_requests(self) -> None:
        counted = dict(self.counters.get(self.now - TICK, {}))
        for each in (backend for proxy in self.proxies for backend in proxy.backends):
            name = each.version.model_version
            samples, bad = counted.get(name, (0.0, 0.0))
            more = REQUESTS * each.percent / 100 / len(self.proxies)
            counted[name] = (samples + more, bad + more * self.bad_rates.get(name, 0.0))
        self.counters[self.now] = counted

    def count(self, name: str, start: datetime, end: datetime) -> Proportion:
        """Return the bad answers of all between two moments."""
        nothing = (0.0, 0.0)
        before, after = (self.counters.get(at, {}).get(name, nothing) for at in (start, end))
        return Proportion(int(after[0]) - int(before[0]), int(after[1]) - int(before[1]))

    def run_workloads(self) -> None:
        for pods in self.workloads.values():
            missing = pods.replicas - len(pods.ages)
            pods.ages = sorted(pods.ages, reverse=True)[: pods.replicas] + [0] * max(0, missing)

    def run_router(self) -> None:
        for proxy in self.proxies:
            if not proxy.frozen and self.route is not None:
                proxy.generation, proxy.backends = self.route_generation, self.route.backends
                proxy.mirror = self.route.mirror
        if self.route is not None and all(each.generation == self.route_generation for each in self.proxies):
            self.confirmed_generation = self.route_generation
            self.live = {each.version: each.percent for each in self.route.backends}

    def ready(self, of: VersionID) -> int:
        pods = self.workloads.get(of)
        return sum(age >= self.ready_after for age in pods.ages) if pods else 0

    # What the operator does

    def observe(self) -> Observed:
        state, digest = self.models.get(self.spec.model_version, (ModelState.MISSING, None))
        return Observed(
            name="connect4",
            generation=self.generation,
            state=state,
            digest=digest,
            state_message="its checks failed" if state is ModelState.REJECTED else "",
            workloads={key: self._observe_pods(key, pods) for key, pods in self.workloads.items()},
            route=self._observe_route(),
            comparators={key: self._observe_comparator(key) for key in self.comparators},
            command=self.command,
            former={key: self._observe_former(key) for key in former_versions(self.status, self.command)},
            experiment=self.experiment,
            releases=self.others,
            endpoint="http://connect4.default:8000",
        )

    def _observe_former(self, key: VersionID) -> ModelState:
        state, digest = self.models.get(key.model_version, (ModelState.MISSING, None))
        return state if digest == key.digest else ModelState.MISSING

    def _observe_pods(self, key: VersionID, pods: Pods) -> Workload:
        fatal_at = pods.fatal_at if self.ready(key) == 0 else None
        problem = "the artifact has another checksum" if fatal_at else None
        problem = problem or ("the image cannot be pulled" if key.model_version in self.broken else None)
        return Workload(
            version=key,
            replicas=pods.replicas,
            ready=self.ready(key),
            current=pods.resources == self.spec.serving.resources,
            rolled_out=len(pods.ages) == pods.replicas,
            problem=problem,
            fatal_at=fatal_at,
        )

    def _observe_comparator(self, key: VersionID) -> Comparator:
        stable, age = self.comparators[key]
        canary, serves = self.status.canary, self.status.stable
        is_current = (
            canary is not None
            and serves is not None
            and (canary.model_version, canary.digest, serves.model_version, serves.digest)
            == (key.model_version, key.digest, stable.model_version, stable.digest)
        )
        return Comparator(ready=age >= self.ready_after, current=is_current)

    def _observe_route(self) -> ObservedRoute:
        if self.route is None:
            return ObservedRoute()
        return ObservedRoute(
            exists=True,
            backends=self.route.backends,
            sticky=self.route.sticky,
            mirror=self.route.mirror,
            confirmed=self.confirmed_generation == self.route_generation,
            live=self._live_by_name(),
            missing=tuple(each.name for each in self.proxies if each.generation != self.route_generation),
        )

    def _live_by_name(self) -> dict[VersionID, float]:
        """Return the live shares as the router tells them: by name, so two artifacts of one name look alike."""
        by_name = {each.model_version: percent for each, percent in self.live.items()}
        known = {*self.workloads, *self.live}
        return {each: by_name[each.model_version] for each in known if each.model_version in by_name}

    def measure(self, observed: Observed, status: DeploymentStatus) -> Observed:
        queries = measurements_due(self.spec, status, observed, self.now)
        answers: dict[str, Measurement] = {}
        for query in queries:
            name = query.metric.name
            if self.source_down:
                answers[name] = Measurement(error="connection refused")
                continue
            if query.metric.compare and query.stable:
                answers[name] = self._count_both(query, query.stable)
                continue
            found = self.values.get(query.version.model_version, {}).get(name, Measurement(0.0, samples=1000))
            stable = self.values.get(query.stable.model_version, {}).get(name) if query.stable else None
            answers[name] = replace(found or Measurement(), stable_value=stable.value if stable else None)
        return replace(observed, measurements=answers, budget=self._measure_budget(observed, status))

    def _measure_budget(self, observed: Observed, status: DeploymentStatus) -> Measurement | None:
        if budget_due(self.spec, status, observed, self.now) is None:
            return None
        self.budgets += 1
        return Measurement(error="connection refused") if self.source_down else self.failures

    def ask(self, observed: Observed, status: DeploymentStatus) -> Observed:
        opened = {GateRole.STEP: GateAnswer(200), GateRole.ROLLBACK: GateAnswer(404)}
        roles = [each.role for each in questions_due(self.spec, status, observed, self.now)]
        self.asked += [((self.now - START).total_seconds(), role) for role in roles]
        return replace(observed, answers={role: self.gates.get(role, opened[role]) for role in roles})

    def _count_both(self, query: Query, stable: VersionID) -> Measurement:
        both = (self.count(each.model_version, query.start, query.end) for each in (query.version, stable))
        return Measurement(counted=Counted(*both))

    def is_awake(self) -> bool:
        return self.observe() != self._seen or (self._wake is not None and self.now >= self._wake)

    def reconcile(self, die_after: int | None = None, *, lose_status: bool = False) -> None:
        """Observe, plan, act, record; `die_after` acts the operator dies."""
        status = self.status
        seen = self.observe()
        observed = self.ask(self.measure(seen, status), status)
        plan = plan_rollout(self.spec, status, observed, self.now)
        self.plans += 1
        self.check_plan(status, plan)
        self.check_gates(status, observed, plan)
        is_alive = die_after is None and not lose_status
        if plan.record_first:
            if lose_status:
                return
            self.record(plan)
        if plan.record_first or is_alive:
            self.narrate(plan)
        acts: list[Act] = [*plan.apply, *([plan.route] if plan.route else []), *plan.delete]
        for number, act in enumerate(acts):
            if die_after is not None and number >= die_after:
                return
            self.act(act)
        if not is_alive:
            return
        if not plan.record_first:
            self.record(plan)
        self.explain(status, plan.status)
        self._seen = seen
        self._wake = self.now + plan.recheck_after if plan.recheck_after is not None else None

    def record(self, plan: Plan) -> None:
        self.status = plan.status
        self.check_evidence()
        if self.through_json:
            self.status = DeploymentStatus.model_validate_json(json.dumps(plan.status.to_json()))
            if self.status != plan.status:
                raise InvariantError("the status does not survive its own JSON")
        self.decided += [(each.action, each.model_version) for each in plan.decisions]

    def narrate(self, plan: Plan) -> None:
        for decision in plan.decisions:
            share = f" {decision.from_:g} → {decision.to:g} %" if decision.to is not None else ""
            about = f" {decision.model_version}" if decision.model_version else ""
            self.say(f"{decision.action}{about}{share} [{decision.reason}] {decision.message}")

    def explain(self, before: DeploymentStatus, after: DeploymentStatus) -> None:
        if (before.phase, before.message) != (after.phase, after.message):
            ready = next(each for each in after.conditions if each.type == "Ready")
            self.say(f"    {after.phase} ({ready.reason}): {after.message}")

    def act(self, act: Act) -> None:
        if isinstance(act, ApplyComparator):
            self.say(f"  compare {act.version} with {act.stable}")
            self.comparators[act.version] = (act.stable, 0)
        elif isinstance(act, DeleteComparator):
            self.say(f"  stop comparing {act.version}")
            self.check_copies(act.version)
            del self.comparators[act.version]
        elif isinstance(act, ApplyWorkload):
            self.say(f"  apply {act.version} × {act.replicas}")
            self.check_scale(act)
            fatal_at = self.now if act.version.model_version in self.corrupt else None
            pods = self.workloads.setdefault(act.version, Pods(fatal_at=fatal_at))
            pods.replicas, pods.resources = act.replicas, self.spec.serving.resources
        elif isinstance(act, SetRoute):
            copies = f", copies to {act.mirror.version}={act.mirror.percent:g}" if act.mirror else ""
            self.say("  route " + " ".join(f"{each.version}={each.percent:g}" for each in act.backends) + copies)
            self.check_route(act)
            self.route, self.route_generation = act, self.route_generation + 1
        else:
            self.say(f"  delete {act.version}")
            self.check_removal(act.version)
            self.check_copies(act.version)
            del self.workloads[act.version]

    # Invariants

    def check_start(self, plan: Plan) -> None:
        """What brings something new starts only while nothing holds it, unless a person says so."""
        new = [
            each for each in plan.decisions if each.action == "StartRelease" and each.reason in ("NewVersion", "Retry")
        ]
        accepted = [each.evidence["command"] for each in plan.decisions if each.action == "AcceptCommand"]
        if not new or {"Promote", "PromoteFully"} & set(accepted):
            return
        clock = f"{self.now:%H:%M}"
        if self.spec.release_windows and not any(each.start <= clock < each.end for each in self.spec.release_windows):
            raise InvariantError(f"a release starts at {clock}, outside {self.spec.release_windows}")
        if self.others is not None and len(self.others.under_way) >= self.others.limits.in_cluster:
            raise InvariantError(f"a release starts beside {self.others.under_way}")
        result = plan.status.error_budget
        if self.spec.error_budget and not (result and result.remaining_percent and result.remaining_percent > 0):
            raise InvariantError(f"a release starts with a budget of {result}")

    def check_plan(self, before: DeploymentStatus, plan: Plan) -> None:
        self.check_start(plan)
        old, new = before.canary, plan.status.canary
        if (
            old
            and new
            and old.started_at == new.started_at
            and old.steps_hash == new.steps_hash
            and new.step > old.step
        ):
            self.check_confirmed(
                VersionID(old.model_version, old.digest), release_steps(self.spec)[new.step - 1].percent
            )
        stable = plan.status.stable
        if stable and before.stable and stable.model_version != before.stable.model_version:
            rollback = before.rollback.model_version if before.rollback else None
            if stable.model_version not in (self.spec.model_version, rollback):
                raise InvariantError(
                    f"{stable.model_version} was promoted, but the spec asks for {self.spec.model_version}"
                )
            self.check_confirmed(VersionID(stable.model_version, stable.digest), 100)
        if plan.idle and plan.recheck_after is None and plan.status.phase == "Healthy":
            again = plan_rollout(self.spec, plan.status, self.observe(), self.now + timedelta(hours=5))
            if not again.idle or again.status != plan.status:
                raise InvariantError("a settled object is not left alone")

    def check_gates(self, before: DeploymentStatus, observed: Observed, plan: Plan) -> None:
        """No gate is passed without a yes, this moment or a person's word."""
        old, new = before.canary, plan.status.canary
        if old is None or old.fast or before.stable is None or old.steps_hash != fingerprint(release_steps(self.spec)):
            return
        if new is None and plan.status.stable == before.stable:
            return
        reached = new.step if new is not None else old.steps
        if not any(step.gate for step in release_steps(self.spec)[old.step : reached]):
            return
        said = observed.answers.get(GateRole.STEP)
        code = said.code if said is not None else old.gate.code if old.gate is not None else None
        if code != 200 and not any(each.action == "AcceptCommand" for each in plan.decisions):
            raise InvariantError(f"step {old.step} is left, but its gate answered {code}")

    def check_evidence(self) -> None:
        """Every request since the first traffic is in the evidence once, whatever died and was lost meanwhile."""
        canary, stable = self.status.canary, self.status.stable
        if canary is None or stable is None or canary.first_traffic_at is None:
            return
        for result in self.status.analysis:
            found = result.comparison
            if found is None:
                continue
            evidence = (
                Proportion(found.canary_samples, found.canary_bad),
                Proportion(found.stable_samples, found.stable_bad),
            )
            names = (canary.model_version, stable.model_version)
            truth = tuple(self.count(name, canary.first_traffic_at, found.until) for name in names)
            if evidence != truth:
                raise InvariantError(f"{result.name} has counted {evidence}, but the proxies {truth}")

    def check_confirmed(self, of: VersionID, percent: float) -> None:
        for proxy in self.proxies:
            runs = sum(each.percent for each in proxy.backends if each.version == of)
            if runs != percent:
                raise InvariantError(f"step taken, but {proxy.name} gives {of} {runs} %, not {percent} %")

    def check_route(self, act: SetRoute) -> None:
        total = sum(each.percent for each in act.backends)
        if abs(total - 100) > 1e-9 or any(each.percent < 0 or each.percent > 100 for each in act.backends):
            raise InvariantError(f"weights {act.backends} do not sum to 100")
        if act.mirror and (self.ready(act.mirror.version) == 0) and (not self.route or self.route.mirror != act.mirror):
            raise InvariantError(f"{act.mirror.version} gets copies and has no ready pod")
        before = {each.version: each.percent for each in self.route.backends} if self.route else {}
        for each in act.backends:
            if each.percent > before.get(each.version, 0) and self.ready(each.version) == 0:
                raise InvariantError(f"{each.version} gets {each.percent} % and has no ready pod")

    def check_scale(self, act: ApplyWorkload) -> None:
        pods = self.workloads.get(act.version)
        if pods is None or act.replicas >= pods.replicas or self.spec.serving.replicas < pods.replicas:
            return
        needed = max(self._real_share(proxy, act.version) for proxy in self.proxies) * self.spec.serving.replicas / 100
        if act.replicas < needed:
            raise InvariantError(f"{act.version} is scaled to {act.replicas} and serves the share of {needed} pods")

    def check_removal(self, of: VersionID) -> None:
        for proxy in self.proxies:
            if self._real_share(proxy, of) > 0:
                raise InvariantError(f"{of} is removed, but {proxy.name} still sends it traffic")

    def check_copies(self, of: VersionID) -> None:
        for proxy in self.proxies:
            if proxy.mirror and proxy.mirror.version == of:
                raise InvariantError(f"{of} is removed, but {proxy.name} still sends it copies")

    def _real_share(self, proxy: Proxy, of: VersionID) -> float:
        return sum(each.percent for each in proxy.backends if each.version == of)

    # Running

    def say(self, line: str) -> None:
        self.log.append(f"{(self.now - START).total_seconds():6g} s  {line}")

    def run(self, seconds: int) -> None:
        """Run in the default order: time, events, pods, then operator and router until nothing is left to do."""
        for _ in range(seconds):
            self.pass_time()
            self._happen()
            self.run_workloads()
            self.run_router()
            for _ in range(20):
                if not self.is_awake():
                    break
                self.reconcile()
                self.run_workloads()
                self.run_router()
            else:
                raise InvariantError(f"the operator does not come to rest at {self.now}")

    def run_randomly(self, seconds: int, seed: int, calm: int) -> None:
        """Run in a seeded random order with deaths and lost writes, then `calm` seconds without, to the fixed point."""
        chance = random.Random(seed)
        self.through_json = False
        for _ in range(seconds):
            if self.is_at_rest():
                break
            self.pass_time()
            self._happen()
            turns = [self.run_workloads, self.run_router, lambda: self._stumble(chance), lambda: self._stumble(chance)]
            chance.shuffle(turns)
            for turn in turns[: chance.randint(1, len(turns))]:
                turn()
        self._wake = self.now
        for _ in range(calm):
            self.run(1)
            if self.is_at_rest():
                break

    def is_at_rest(self) -> bool:
        """Tell whether nothing would happen any more."""
        return not self.events and self._wake is None and not self.is_awake()

    def _stumble(self, chance: random.Random) -> None:
        if not self.is_awake() and chance.random() < 0.9:
            return
        kind = chance.random()
        if kind < 0.5:
            self.reconcile()
        elif kind < 0.75:
            self.reconcile(die_after=chance.randint(0, 2))
        else:
            self.reconcile(lose_status=True)

    def _happen(self) -> None:
        if not self.events or not (self._reached or self.events[0].when(self)):
            return
        self._reached = self._reached or self.now
        if self.now >= self._reached + self.events[0].after * TICK:
            self._reached = None
            self.events.pop(0).do(self)
