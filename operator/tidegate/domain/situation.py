"""A release while it is being planned: the status so far, what was observed, and the questions asked of both."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from tidegate.api.deployment import (
    ActiveCanary,
    ActiveRollback,
    ActiveStable,
    Decision,
    DeploymentSpec,
    DeploymentStatus,
    Draining,
    HeldRelease,
    HistoryEntry,
    MetricSpec,
    Outcome,
    RejectedVersion,
)
from tidegate.domain.analysis import Conclusion, conclude
from tidegate.domain.reasons import Action, Reason
from tidegate.domain.release import Experiment, Mirror, ModelState, Observed, VersionID
from tidegate.domain.shadow import shadow_metrics
from tidegate.domain.steps import FAST_STEPS, ReleaseStep, bake_time, fingerprint, pods_for, release_steps

__all__ = ["MAX_DECISIONS", "MAX_DRAINING", "MAX_HISTORY", "MAX_REJECTED", "Situation", "identify"]

MAX_DECISIONS = 30
MAX_DRAINING = 8
MAX_HISTORY = 20
MAX_REJECTED = 10


def identify(
    active: ActiveStable | ActiveCanary | ActiveRollback | HeldRelease | Draining | RejectedVersion | HistoryEntry,
) -> VersionID:
    """Return which version a part of the status is about."""
    return VersionID(active.model_version, active.digest)


@dataclass(frozen=True, slots=True)
class Situation:
    """One release at one moment. Every change gives a new situation; nothing here acts."""

    spec: DeploymentSpec
    status: DeploymentStatus
    observed: Observed
    now: datetime
    decisions: tuple[Decision, ...] = field(default=())
    """Decisions of this pass, oldest first."""
    ordinary_steps: tuple[ReleaseStep, ...] = ()
    """The steps that the spec asks for; derived once."""

    @classmethod
    def begin(cls, spec: DeploymentSpec, status: DeploymentStatus, observed: Observed, now: datetime) -> "Situation":
        """Return the situation before anything is decided."""
        return cls(spec, status, observed, now, ordinary_steps=release_steps(spec))

    # What changes a situation

    def update(self, **fields: Any) -> "Situation":
        """Return the situation with these fields of the status changed."""
        status = self.status.model_copy(update=fields)
        return Situation(self.spec, status, self.observed, self.now, self.decisions, self.ordinary_steps)

    def update_canary(self, **fields: Any) -> "Situation":
        """Return the situation with these fields of the canary changed."""
        return self.update(canary=self.canary.model_copy(update=fields))

    def rest(self) -> "Situation":
        """Return the situation with every clock of waiting stopped: what was waited for is another thing now."""
        return self.update(waiting=None, holding_since=None)

    def decide(
        self,
        action: Action,
        reason: Reason | str,
        message: str,
        *,
        version: VersionID | None = None,
        share: tuple[float, float] | None = None,
        evidence: Mapping[str, str] | None = None,
    ) -> "Situation":
        """Return the situation with one more decision, which is kept in the status, too (newest first, bounded)."""
        decision = Decision(
            at=self.now,
            action=action.value,
            model_version=version.model_version if version else None,
            from_=share[0] if share else None,
            to=share[1] if share else None,
            reason=str(reason),
            message=message,
            evidence=dict(evidence or {}),
        )
        kept = _fold_ticks(decision, self.status.decisions)[:MAX_DECISIONS]
        return replace(self.update(decisions=kept), decisions=(*self.decisions, decision))

    def drain(self, version: VersionID, since: datetime | None) -> "Situation":
        """Return the situation with one more version whose pods are to be removed."""
        entry = Draining(model_version=version.model_version, digest=version.digest, since=since)
        others = tuple(each for each in self.status.draining if identify(each) != version)
        return self.update(draining=(entry, *others)[:MAX_DRAINING])

    def keep(self, version: VersionID) -> "Situation":
        """Return the situation with a version that is needed again, so its pods are not removed."""
        return self.update(draining=tuple(each for each in self.status.draining if identify(each) != version))

    def remember(self, version: VersionID, outcome: Outcome, reason: str, started_at: datetime | None) -> "Situation":
        """Return the situation with one more ended release; healthy versions are forgotten last, for the way back."""
        entry = HistoryEntry(
            model_version=version.model_version,
            digest=version.digest,
            outcome=outcome,
            from_=self.status.stable.model_version if self.status.stable else None,
            reason=reason,
            started_at=started_at,
            at=self.now,
        )
        history = [entry, *self.status.history]
        while len(history) > MAX_HISTORY:
            failed = [each for each in history if each.outcome is not Outcome.PROMOTED]
            history.remove(failed[-1] if failed else history[-1])
        return self.update(history=tuple(history))

    # Which versions there are

    @property
    def canary(self) -> ActiveCanary:
        """The version that is being released; only asked for where there is one."""
        if self.status.canary is None:
            raise AssertionError("no release is under way")
        return self.status.canary

    @property
    def stable_id(self) -> VersionID | None:
        """The version that serves."""
        return identify(self.status.stable) if self.status.stable else None

    @property
    def canary_id(self) -> VersionID | None:
        """The version that is being released."""
        return identify(self.status.canary) if self.status.canary else None

    @property
    def asked(self) -> VersionID | None:
        """The version that the spec asks for; None while its ModelVersion is missing."""
        if self.observed.state is ModelState.MISSING or self.observed.digest is None:
            return None
        return VersionID(self.spec.model_version, self.observed.digest)

    @property
    def target(self) -> VersionID | None:
        """The version that is wanted: what the spec asks for, unless a person goes back to a former version."""
        return identify(self.status.rollback) if self.status.rollback else self.asked

    @property
    def target_state(self) -> ModelState:
        """State of the ModelVersion that is wanted."""
        return (
            self.observed.former_state(identify(self.status.rollback)) if self.status.rollback else self.observed.state
        )

    def is_asked_for(self, version: VersionID) -> bool:
        """Tell whether the spec (still) asks for this version; a deleted ModelVersion does not end what it began."""
        if self.asked is None:
            return self.spec.model_version == version.model_version
        return self.asked == version

    def is_wanted(self, version: VersionID) -> bool:
        """Tell whether this is the version that is wanted."""
        return self.target == version if self.status.rollback else self.is_asked_for(version)

    @property
    def is_paused(self) -> bool:
        """The spec holds releases; a person's way back goes on, as every way back does."""
        return self.spec.paused and self.status.rollback is None

    @property
    def is_settled_on_target(self) -> bool:
        """The version that is wanted is the one that serves, and no release is under way."""
        return self.canary_id is None and self.stable_id is not None and self.is_wanted(self.stable_id)

    @property
    def rejection(self) -> RejectedVersion | None:
        """The rejection that is in force against the version that is wanted."""
        target = self.target
        return next((each for each in self.status.rejected if identify(each) == target and not each.lifted), None)

    def attempts(self, version: VersionID) -> int:
        """Return how often a version that was taken back has been tried; 0 for one that was not."""
        return next((each.attempts for each in self.status.rejected if identify(each) == version), 0)

    @property
    def experiment(self) -> Experiment | None:
        """The split of a running test, where this Deployment can carry it: between releases, of another version."""
        experiment = self.observed.experiment
        if experiment is None or self.stable_id is None or self.canary_id is not None:
            return None
        return experiment if experiment.version != self.stable_id else None

    def known_versions(self) -> Iterator[VersionID]:
        """Yield every version that pods are meant to be there for."""
        if self.status.stable:
            yield identify(self.status.stable)
        if self.status.canary:
            yield identify(self.status.canary)
        if self.experiment:
            yield self.experiment.version
        yield from (identify(each) for each in self.status.draining)

    # Where traffic goes

    def share(self, version: VersionID) -> float:
        """Return the share that the Route asks for, confirmed or not."""
        return sum(each.percent for each in self.observed.route.backends if each.version == version)

    def live_share(self, version: VersionID) -> float:
        """Return the share that every proxy confirmed last.

        The router reports by name: where two artifacts share one, the confirmed Route tells them apart.
        """
        if self.observed.route.confirmed and self._is_name_shared(version):
            return self.share(version)
        return self.observed.route.live.get(version, 0.0)

    def _is_name_shared(self, version: VersionID) -> bool:
        others = {*self.observed.workloads, *(each.version for each in self.observed.route.backends)} - {version}
        return any(each.model_version == version.model_version for each in others)

    def is_confirmed(self, version: VersionID, percent: float) -> bool:
        """Tell whether every proxy runs the present Route, and it gives the version this share."""
        route = self.observed.route
        seen = (self.share(version), self.live_share(version))
        return route.exists and route.confirmed and all(_same(each, percent) for each in seen)

    def is_free(self, version: VersionID) -> bool:
        """Tell whether it is certain that no proxy sends the version any traffic.

        Without a Route nobody ever sent traffic to anything, unless something serves and the Route was lost.
        """
        if not self.observed.route.exists:
            return self.status.stable is None
        unseen = self.is_confirmed(version, 0.0) and self.is_confirmed(VersionID(version.model_version, ""), 0.0)
        return unseen and not self.is_mirrored(version)

    def is_mirrored(self, version: VersionID) -> bool:
        """Tell whether the Route sends copies of requests to the comparator of this version."""
        mirror = self.observed.route.mirror
        return mirror is not None and mirror.version == version

    @property
    def mirror(self) -> Mirror | None:
        """The copies that the step in progress asks for."""
        canary = self.status.canary
        if canary is None or canary.retreat is not None or self.stable_id is None or not self.step.mirror:
            return None
        return Mirror(identify(canary), self.step.mirror)

    @property
    def is_mirror_confirmed(self) -> bool:
        """Every proxy makes the copies that the step asks for; none, if it asks for none."""
        wanted = self.mirror
        return wanted is None or (self.observed.route.confirmed and self.observed.route.mirror == wanted)

    # Steps, pods, evidence

    @property
    def is_fast(self) -> bool:
        """No steps, no analysis, no bake."""
        return self.canary.fast or self.status.stable is None

    @property
    def steps(self) -> tuple[ReleaseStep, ...]:
        """The steps of the release under way."""
        return FAST_STEPS if self.is_fast else self.ordinary_steps

    @property
    def steps_hash(self) -> str:
        """Fingerprint of the steps as the spec has them now."""
        return fingerprint(self.steps)

    @property
    def step(self) -> ReleaseStep:
        """The step in progress."""
        return self.steps[min(self.canary.step, len(self.steps) - 1)]

    @property
    def is_last_step(self) -> bool:
        """After this step comes the promotion."""
        return self.canary.step >= len(self.steps) - 1

    @property
    def bake(self) -> timedelta:
        """How long the analysis watches on after 100 %."""
        return bake_time(self.spec, fast=self.is_fast)

    @property
    def replicas(self) -> int:
        """Pods of a version that gets all traffic."""
        return self.spec.serving.replicas

    @property
    def canary_pods(self) -> int:
        """Pods that the canary needs for its step, and for the share that it may still have.

        While a proxy has not confirmed the present Route, it may run any of the former ones: nothing is scaled down.
        """
        canary = identify(self.canary)
        copies = self.observed.route.mirror.percent if self.observed.route.mirror and self.is_mirrored(canary) else 0
        needed = pods_for(max(self.step.load, self.share(canary), self.live_share(canary), copies), self.replicas)
        workload = self.observed.workloads.get(canary)
        if workload is None or self.observed.route.confirmed:
            return needed
        return max(needed, min(workload.replicas, self.replicas))

    @property
    def has_canary_capacity(self) -> bool:
        """The canary has the ready pods that its step needs."""
        return self.observed.ready(identify(self.canary)) >= pods_for(self.step.load, self.replicas)

    @property
    def is_canary_hopeless(self) -> bool:
        """A pod said since the release began that waiting cannot help; what it said in an attempt before is past.

        The kubelet tells whole seconds, in the node's time. Where that lags, the pod's next try, seconds later, counts.
        """
        workload = self.observed.workloads.get(identify(self.canary))
        if workload is None or workload.fatal_at is None:
            return False
        return workload.fatal_at >= self.canary.started_at.replace(microsecond=0)

    @property
    def has_way_back(self) -> bool:
        """The stable version could take traffic back; a fast release goes on without."""
        return self.is_fast or self.stable_id is None or self.observed.ready(self.stable_id) > 0

    @property
    def is_analysed(self) -> bool:
        """The metrics watch the canary: it has traffic, or copies of it, and is neither fast nor on its way back."""
        canary = self.status.canary
        if canary is None or canary.retreat is not None or self.is_fast:
            return False
        if self.mirror is not None:
            return canary.step_started_at is not None
        return canary.first_traffic_at is not None and canary.target_percent > 0

    @property
    def conclusion(self) -> Conclusion:
        """What the last measurements say together."""
        return conclude(self.metrics, self.status.analysis)

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        """The metrics that watch the step in progress."""
        return shadow_metrics(self.spec) if self.mirror is not None else self.spec.analysis.metrics

    def waited(self, reason: Reason, limit: timedelta) -> bool:
        """Tell whether it has waited for this at least so long."""
        waiting = self.status.waiting
        return waiting is not None and waiting.reason == reason and self.now - waiting.since >= limit


def _fold_ticks(decision: Decision, before: tuple[Decision, ...]) -> tuple[Decision, ...]:
    """Put a decision in front; a ramp stays one entry from its first share on, or its ticks would push out all else."""
    last = before[0] if before else None
    if last is None or not decision.reason == last.reason == Reason.RAMP_TICK:
        return (decision, *before)
    return (decision.model_copy(update={"from_": last.from_}), *before[1:])


def _same(percent: float, other: float) -> bool:
    """Compare two shares; proxies may round them, but never a share to nothing."""
    return abs(percent - other) < 0.01 and (percent > 0) == (other > 0)
