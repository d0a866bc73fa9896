"""The steps of a release, derived from the spec each time: the weight follows from the step, it is not stored twice."""

import hashlib
import math
from dataclasses import dataclass
from datetime import timedelta

from tidegate.api.deployment import AnalysisStep, Canary, DeploymentSpec, Gate, Gradual, Step, Strategy, StrategyType

__all__ = ["FAST_STEPS", "ReleaseStep", "bake_time", "fingerprint", "pods_for", "release_steps"]

FULL = 100.0


@dataclass(frozen=True, slots=True)
class ReleaseStep:
    """A share of the canary and how long it is held."""

    percent: float
    hold: timedelta = timedelta()
    pause: bool = False
    """Held until a person promotes."""
    gate: Gate | None = None
    """Held until this gate opens."""
    analysis: AnalysisStep | None = None
    """Held until this has been measured."""
    mirror: float = 0.0
    """Share of the requests that it gets copies of."""

    @property
    def load(self) -> float:
        """Share of the requests that its pods have to answer, users' or copies."""
        return max(self.percent, self.mirror)


FAST_STEPS = (ReleaseStep(FULL),)
"""All traffic at once: the first release, a return within the rollback window, or promoted fully."""


def release_steps(spec: DeploymentSpec) -> tuple[ReleaseStep, ...]:
    """Return the steps of a release; the last one is always 100 %, and what follows is the bake time."""
    shadow = spec.strategy.shadow
    if spec.strategy.type is not StrategyType.SHADOW:
        return _moving_steps(spec.strategy)
    return (ReleaseStep(0.0, shadow.duration, mirror=shadow.percent), *_moving_steps(spec.strategy))


def bake_time(spec: DeploymentSpec, *, fast: bool) -> timedelta:
    """Return how long the analysis watches on after 100 %."""
    if fast:
        return timedelta()
    bakes = {
        StrategyType.CANARY: spec.strategy.canary.bake,
        StrategyType.GRADUAL: spec.strategy.gradual.bake,
        StrategyType.IMMEDIATE: spec.strategy.immediate.bake,
    }
    return bakes[spec.strategy.moving] if spec.strategy.moving else timedelta()


def fingerprint(steps: tuple[ReleaseStep, ...]) -> str:
    """Return a short text that changes when the steps change; how often a gate is asked is no part of a step."""
    text = ";".join(_summarise(step) for step in steps)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _summarise(step: ReleaseStep) -> str:
    parts = [f"{step.percent:g}", f"{step.hold.total_seconds():g}", str(step.pause)]
    if step.gate is not None:
        parts.append(step.gate.url)
    if step.analysis is not None:
        parts += [str(step.analysis.count), *(step.analysis.metrics or ())]
    if step.mirror:
        parts.append(f"mirror {step.mirror:g}")
    return ",".join(parts)


def pods_for(percent: float, replicas: int) -> int:
    """Return the pods that a share of the traffic needs: its share of the replicas, at least one."""
    return max(1, math.ceil(round(replicas * percent / FULL, 6)))


def _moving_steps(strategy: Strategy) -> tuple[ReleaseStep, ...]:
    """Return the steps in which users get to the new version."""
    if strategy.moving is None:
        return (ReleaseStep(0.0, pause=True), *FAST_STEPS)
    if strategy.moving is StrategyType.IMMEDIATE:
        return FAST_STEPS
    if strategy.moving is StrategyType.GRADUAL:
        return _ticks(strategy.gradual)
    canary = strategy.canary
    steps = _explicit(canary.steps) if canary.steps else _ramp(canary)
    return steps if steps and steps[-1].percent == FULL else (*steps, ReleaseStep(FULL))


def _ticks(gradual: Gradual) -> tuple[ReleaseStep, ...]:
    """Return equal shares held for equal times; the last one, 100 %, is held for a tick, too."""
    ticks = math.ceil(gradual.duration / gradual.tick)
    return tuple(ReleaseStep(round(FULL * k / ticks, 4), gradual.tick) for k in range(1, ticks + 1))


def _ramp(canary: Canary) -> tuple[ReleaseStep, ...]:
    below = math.ceil(round((FULL - canary.initial_percent) / canary.increment_percent, 6))
    shares = (round(canary.initial_percent + k * canary.increment_percent, 4) for k in range(below))
    return tuple(ReleaseStep(share, canary.interval) for share in shares)


def _explicit(steps: tuple[Step, ...]) -> tuple[ReleaseStep, ...]:
    """Translate one to one, so that the step number in the status is the place in the user's list."""
    result: list[ReleaseStep] = []
    percent = 0.0
    for step in steps:
        percent = percent if step.set_percent is None else step.set_percent
        hold, is_pause = step.hold or timedelta(), step.pause is not None
        result.append(ReleaseStep(percent, hold, is_pause, step.gate, step.analysis))
    return tuple(result)
