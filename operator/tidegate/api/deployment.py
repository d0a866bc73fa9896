"""Deployment (tidegate.dev): serves a model and releases its versions under the eyes of its metrics."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from tidegate.api.base import (
    ComputeResources,
    Condition,
    Digest,
    Duration,
    MetricName,
    Model,
    ObjectName,
    Percent,
    Resource,
    Scheduling,
    StatusModel,
    Timestamp,
    WebhookURL,
)
from tidegate.api.route import Sticky
from tidegate.api.rules import MODEL_DEFAULT, Between, Matches, rule, ruled, unique

__all__ = [
    "ActiveCanary",
    "ActiveRollback",
    "ActiveStable",
    "ActiveVariant",
    "Agreement",
    "Analysis",
    "AnalysisStep",
    "BudgetResult",
    "Canary",
    "Command",
    "CommandName",
    "Compare",
    "Comparison",
    "Decision",
    "Deployment",
    "DeploymentPhase",
    "DeploymentSpec",
    "DeploymentStatus",
    "Draining",
    "ErrorBudget",
    "Gate",
    "GateRecord",
    "Gradual",
    "HeldRelease",
    "HistoryEntry",
    "Immediate",
    "MetricResult",
    "MetricSpec",
    "NoBudgetPolicy",
    "NoDataPolicy",
    "Outcome",
    "RejectedVersion",
    "ReleaseWindow",
    "Retreat",
    "Rollback",
    "Serving",
    "Shadow",
    "Step",
    "Strategy",
    "StrategyType",
    "Traffic",
    "Triton",
    "Verdict",
    "Wait",
    "Webhook",
    "Weekday",
]


class Triton(Model):
    """Settings of Triton Inference Server."""

    max_batch_size: Annotated[int, Field(ge=0, le=4096)] = 64
    """Largest batch that Triton forms; 0 turns batching off."""
    max_queue_delay_microseconds: Annotated[int, Field(ge=0, le=1_000_000)] = 500
    """How long a request may wait for others to be batched with, in microseconds."""
    instances: Annotated[int, Field(ge=1, le=64)] = 1
    """Model instances in one server."""
    warmup: bool = True
    """Run one inference before the model is called ready."""


class Serving(Model):
    """How one version is served."""

    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pods of the stable version; a canary gets its share of them, at least one."""
    resources: ComputeResources = ComputeResources()
    """CPU, memory and GPUs of one Triton server."""
    scheduling: Scheduling = Scheduling()
    """Where the servers may run."""
    triton: Triton = Triton()
    """Settings of the server."""


class Webhook(Model):
    """An address that is asked by POST with a JSON document about the release; only an answer 200 is a yes."""

    url: WebhookURL
    """http:// or https://; redirects are not followed."""
    timeout: Annotated[Duration, Between("1s", "5s")] = Field(default="3s", validate_default=True)
    """How long one answer may take; no longer than 80 % of analysis.interval, so that no look is missed."""
    secret: ObjectName | None = None
    """Secret in this namespace that lets the operator in: username and password, or token; headers, ca.crt, tls.crt,
    tls.key; and origin, the only scheme, host and port that it is sent to. List it in gates.secrets of the chart."""


class Gate(Webhook):
    """An address that says when the release goes on: asked by POST; 200 opens, any other answer holds."""

    interval: Annotated[Duration, Between("1s", "24h")] = Field(default="30s", validate_default=True)
    """Time between two questions."""
    error_limit: Annotated[int, Field(ge=0, le=1000)] = 4
    """Tries in a row without any answer that are tolerated before people are told; never a rollback."""


class AnalysisStep(Model):
    """What has to be measured before the release goes on."""

    count: Annotated[int, Field(ge=1, le=1000)] = 1
    """Measurements of each metric that have to pass, counted from when the proxies confirmed the share."""
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1, max_length=32)] | None = None
    """Names of metrics of spec.analysis; without it, all that are no dry run."""


class Step(Model):
    """One step of a canary release; exactly one field is set."""

    model_config = ruled(
        rule(
            "[has(self.setPercent), has(self.hold), has(self.pause), has(self.gate), has(self.analysis)]"
            ".filter(x, x).size() == 1",
            "set exactly one of setPercent, hold, pause, gate and analysis in a step; write two steps for two things",
        ),
    )

    set_percent: Percent | None = None
    """Give the canary this share."""
    hold: Annotated[Duration, Between("1s", "720h")] | None = None
    """Stay here for this long, under analysis."""
    pause: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    """Stay here until a person promotes; write ``pause: {}``."""
    gate: Gate | None = None
    """Stay here until a webhook says go."""
    analysis: AnalysisStep | None = None
    """Stay here until metrics have passed so many times; write ``analysis: {}`` for once each."""


class Canary(Model):
    """Moves the traffic in steps."""

    model_config = ruled(
        *(
            rule(
                f"!has(self.steps) || !has(self.{name})",
                f"{name} has no effect beside steps; remove one of the two",
                field=name,
            )
            for name in ("initialPercent", "incrementPercent", "interval")
        ),
        rule(
            "!has(self.steps) || self.steps.filter(s, has(s.setPercent)).map(s, s.setPercent).isSorted()",
            "the share of a canary only grows; order setPercent from small to large",
            field="steps",
        ),
        rule(
            "!has(self.steps) || !self.steps.exists(s, has(s.analysis))"
            " || (self.steps.exists(s, has(s.setPercent) && s.setPercent > 0)"
            " && self.steps.map(s, has(s.setPercent) && s.setPercent > 0).indexOf(true)"
            " < self.steps.map(s, has(s.analysis)).indexOf(true))",
            "without traffic there is nothing to measure; write a setPercent above 0 before the analysis step",
            field="steps",
        ),
    )

    initial_percent: Annotated[float, Field(gt=0, le=100)] = Field(default=5, json_schema_extra=MODEL_DEFAULT)
    """First share of the canary."""
    increment_percent: Annotated[float, Field(ge=0.1, le=100)] = Field(default=10, json_schema_extra=MODEL_DEFAULT)
    """How much the share grows at each step."""
    interval: Annotated[Duration, Between("1s", "720h")] = Field(
        default="30m", validate_default=True, json_schema_extra=MODEL_DEFAULT
    )
    """How long each share is held under analysis."""
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=100)] | None = None
    """Explicit steps instead of initialPercent, incrementPercent and interval."""
    bake: Annotated[Duration, Between("0s", "720h")] = Field(default="0s", validate_default=True)
    """How long the analysis watches on after 100 %, with the former version ready to take over."""


class Gradual(Model):
    """Moves the traffic in many small steps of equal time and equal share."""

    model_config = ruled(
        rule(
            "duration(self.tick) <= duration(self.duration)",
            "tick is longer than duration; lower tick or raise duration",
            field="tick",
        ),
        rule(
            "duration(self.duration).getSeconds() <= 1000 * duration(self.tick).getSeconds()",
            "more than 1000 ticks; raise tick or lower duration",
            field="tick",
        ),
    )

    duration: Annotated[Duration, Between("1s", "720h")] = Field(default="2h", validate_default=True)
    """Time from the first share to the end of the ramp; time that the release is held does not count."""
    tick: Annotated[Duration, Between("1s", "24h")] = Field(default="1m", validate_default=True)
    """How long each share is held under analysis; it grows by 100 % × tick / duration each time."""
    bake: Annotated[Duration, Between("0s", "720h")] = Field(default="0s", validate_default=True)
    """How long the analysis watches on after the ramp, with the former version ready to take over."""


class Immediate(Model):
    """One switch, then a time of watching."""

    bake: Annotated[Duration, Between("0s", "720h")] = Field(default="10m", validate_default=True)
    """How long the analysis watches after the switch, with the former version ready to take over."""


class Agreement(StrEnum):
    """When two answers to one question agree."""

    ARGMAX = "Argmax"
    TOLERANCE = "Tolerance"


OutputName = Annotated[str, Field(min_length=1, max_length=128)]


class Shadow(Model):
    """Asks the new version what users ask the serving one, and compares the answers; no user gets an answer of it."""

    model_config = ruled(
        rule(
            "has(self.tolerance) == (self.agreement == 'Tolerance')",
            "tolerance and agreement: Tolerance belong together; set both or neither",
            field="tolerance",
        ),
    )

    percent: Annotated[float, Field(gt=0, le=100)] = 100
    """Share of the requests that are copied; each copy asks the serving version a second time, too."""
    duration: Annotated[Duration, Between("1s", "720h")] = Field(default="1h", validate_default=True)
    """How long answers are compared."""
    max_disagreement: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of the answers that may disagree; one of many predictions in an answer is enough to disagree."""
    min_samples: Annotated[int, Field(ge=1)] = 100
    """Before so many answers were compared, there is no verdict."""
    agreement: Agreement = Agreement.ARGMAX
    """Argmax: the largest value is at the same place, along the last axis of every output with several. Tolerance: no
    value differs by more than tolerance. What is not a floating-point number has to be equal in both cases."""
    tolerance: Annotated[float, Field(ge=0)] | None = None
    """Largest absolute difference of two values that agree."""
    outputs: Annotated[tuple[OutputName, ...], Field(min_length=1, max_length=32)] | None = None
    """Outputs of the model that are compared; all of them without it."""
    then: Literal["Canary", "Gradual", "Immediate"] | None = None
    """How users get to it afterwards; without it, a person promotes or aborts."""


class StrategyType(StrEnum):
    """How traffic moves to a new version."""

    CANARY = "Canary"
    GRADUAL = "Gradual"
    IMMEDIATE = "Immediate"
    SHADOW = "Shadow"


class Strategy(Model):
    """How traffic moves to a new version."""

    model_config = ruled(
        *(
            rule(
                f"!has(self.{name}) || self.type == '{kind}' || (self.type == 'Shadow' && has(self.shadow)"
                f" && has(self.shadow.then) && self.shadow.then == '{kind}')",
                f"{name} has no effect with another type; remove it or set type: {kind}, or shadow.then: {kind}",
                field=name,
            )
            for name, kind in (("canary", "Canary"), ("gradual", "Gradual"), ("immediate", "Immediate"))
        ),
        rule(
            "!has(self.shadow) || self.type == 'Shadow'",
            "shadow has no effect with another type; remove it or set type: Shadow",
            field="shadow",
        ),
    )

    type: StrategyType = StrategyType.CANARY
    """Canary moves in steps; Gradual grows evenly with time; Immediate switches once and watches; Shadow first compares
    answers that no user gets."""
    canary: Canary = Field(default=Canary(), json_schema_extra=MODEL_DEFAULT)
    """Settings of Canary."""
    gradual: Gradual = Field(default=Gradual(), json_schema_extra=MODEL_DEFAULT)
    """Settings of Gradual."""
    immediate: Immediate = Field(default=Immediate(), json_schema_extra=MODEL_DEFAULT)
    """Settings of Immediate."""
    shadow: Shadow = Field(default=Shadow(), json_schema_extra=MODEL_DEFAULT)
    """Settings of Shadow."""

    @property
    def moving(self) -> StrategyType | None:
        """How users get to the new version; None: a person decides after Shadow."""
        if self.type is not StrategyType.SHADOW:
            return self.type
        return StrategyType(self.shadow.then) if self.shadow.then else None


class NoDataPolicy(StrEnum):
    """What a metric without data means."""

    HOLD = "Hold"
    FAIL = "Fail"
    PASS = "Pass"


_BUILT_IN = "(self.name in ['errorRate', 'latencyP50', 'latencyP95', 'latencyP99', 'requestRate'])"
_METRIC_RULES = (
    rule(
        "has(self.min) || has(self.max) || has(self.maxMilliseconds) || has(self.maxDrop) || has(self.compare)",
        "a metric without a bound decides nothing; set min, max, maxMilliseconds, maxDrop or compare",
    ),
    rule(
        f"{_BUILT_IN} || has(self.query) || has(self.compare) || (has(self.source) && self.source == 'Outcomes')",
        "no metric of this name is built in; use errorRate, latencyP50, latencyP95, latencyP99 or requestRate,"
        " or set source: Outcomes, query or compare",
        field="name",
    ),
    rule(
        f"!{_BUILT_IN} || !has(self.query)",
        "this name is built in and needs no query; remove query or choose another name",
        field="query",
    ),
    rule(
        f"!{_BUILT_IN} || !has(self.source) || self.source == 'Envoy'",
        "this name is built in and comes from Envoy; remove source or choose another name",
        field="source",
    ),
    rule(
        "!has(self.query) || !has(self.source)",
        "source has no effect beside query; remove one of the two",
        field="source",
    ),
    rule(
        "!has(self.query) || has(self.compare) || !has(self.minSamples) || self.minSamples == 0",
        "nobody knows how many samples are behind a query; remove minSamples",
        field="minSamples",
    ),
    rule(
        "!has(self.maxMilliseconds) || self.name.startsWith('latency') && !has(self.query)",
        "maxMilliseconds is for latencyP50, latencyP95 and latencyP99; write max instead",
        field="maxMilliseconds",
    ),
    rule(
        "!has(self.maxMilliseconds) || !has(self.max)",
        "max and maxMilliseconds are the same bound; remove one of the two",
        field="max",
    ),
    rule(
        "!has(self.min) || !has(self.max) || self.min <= self.max",
        "max is below min, no value can pass; raise max or lower min",
        field="max",
    ),
    rule(
        "!has(self.failAbove) || (has(self.max) && self.failAbove >= self.max)"
        " || (has(self.maxMilliseconds) && self.failAbove >= self.maxMilliseconds)",
        "failAbove needs max (or maxMilliseconds) and has to be at least that",
        field="failAbove",
    ),
    rule(
        "!has(self.failBelow) || (has(self.min) && self.failBelow <= self.min)",
        "failBelow needs min and has to be at most that",
        field="failBelow",
    ),
    rule(
        "!has(self.maxDrop) || has(self.query) || (has(self.source) && self.source == 'Outcomes')",
        "maxDrop is for metrics where more is better: source: Outcomes or query; remove it or set max",
        field="maxDrop",
    ),
    *(
        rule(
            f"!has(self.compare) || !has(self.{name})",
            f"{name} has no effect beside compare; write it as a metric of its own",
            field=name,
        )
        for name in ("query", "min", "max", "maxMilliseconds", "maxDrop", "failAbove", "failBelow")
    ),
    rule(
        "!has(self.compare) || !has(self.minSamples) || self.minSamples == 0",
        "minSamples has no effect beside compare; write compare.minSamples",
        field="minSamples",
    ),
    rule(
        f"!has(self.compare) || !{_BUILT_IN}",
        "this name is built in; give the comparison a name of its own, for example errorRateVsStable",
        field="name",
    ),
    rule(
        "!has(self.compare) || (has(self.source) && self.source == 'Outcomes')"
        " != (self.compare.metric in ['errorRate', 'latencyP50', 'latencyP95', 'latencyP99'])",
        "compare errorRate, latencyP50, latencyP95 or latencyP99, or, with source: Outcomes, an outcome of your own",
        field="compare",
    ),
)


class Compare(Model):
    """A test of whether the canary is worse than the stable version: exact, and free to be looked at all the time."""

    metric: MetricName
    """errorRate, latencyP50, latencyP95, latencyP99; or, with source: Outcomes, the name of an outcome. Of a latency,
    the share of requests beyond stable's own quantile is compared."""
    test: Literal["Sequential"] = "Sequential"
    """Sequential: looked at every interval, it still fails a good canary with probability alpha at most."""
    alpha: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    """Probability, over the whole release, that a canary is failed that is not worse by more than margin."""
    margin: Annotated[float, Field(ge=0, lt=1)] = 0
    """How much worse the canary may be: an absolute difference of shares from 0 to 1."""
    min_samples: Annotated[int, Field(ge=1)] = 100
    """Before both versions have so many requests (outcomes), there is no verdict."""


class MetricSpec(Model):
    """One metric and its bounds; a value outside fails the release."""

    model_config = ruled(*_METRIC_RULES)

    name: MetricName
    """errorRate, latencyP50, latencyP95, latencyP99, requestRate; or a name of your own with source or query."""
    source: Literal["Envoy", "Outcomes"] = Field(default="Envoy", json_schema_extra=MODEL_DEFAULT)
    """Envoy: series of the proxies. Outcomes: counters tidegate_outcomes_total and tidegate_outcomes_positive_total."""
    query: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """PromQL that gives one number; {{ version }}, {{ stable }}, {{ deployment }}, {{ namespace }} and {{ window }} are
    filled in. Checked by the grammar of Prometheus before a release starts."""
    min: float | None = None
    """The value passes if it is at least this."""
    max: float | None = None
    """The value passes if it is at most this."""
    max_milliseconds: Annotated[float, Field(gt=0)] | None = None
    """The latency passes if it is at most this, in milliseconds."""
    fail_below: float | None = None
    """The value fails only below this; between failBelow and min it is Inconclusive."""
    fail_above: float | None = None
    """The value fails only above this; between max and failAbove it is Inconclusive."""
    max_drop: Annotated[float, Field(ge=0)] | None = None
    """The value may be at most this much below that of the stable version over the same time."""
    compare: Compare | None = None
    """Instead of bounds: a statistical test against the stable version, on all counts since the release began."""
    min_samples: Annotated[int, Field(ge=0)] = 0
    """Fewer samples (requests, outcomes) are Inconclusive."""
    no_data: NoDataPolicy = NoDataPolicy.HOLD
    """What no data means: Hold (default), Fail or Pass."""
    failure_limit: Annotated[int, Field(ge=0, le=1000)] = 0
    """Failed measurements that are tolerated in one release."""
    error_limit: Annotated[int, Field(ge=0, le=1000)] = 4
    """Consecutive errors of the metric source that are tolerated before people are told; never a rollback."""
    inconclusive_limit: Annotated[int, Field(ge=0, le=100000)] | None = None
    """Inconclusive measurements in a row after which the release waits for a person; without it, it just holds."""
    initial_delay: Annotated[Duration, Between("0s", "168h")] = Field(default="0s", validate_default=True)
    """Time after the first traffic before this metric is measured."""
    dry_run: bool = False
    """Measure and report, but decide nothing."""


class Analysis(Model):
    """What decides whether a release goes on."""

    model_config = ruled(
        unique("metrics", "two metrics have one name; rename one"),
        rule(
            "!has(self.window) || duration(self.window) >= duration(self.interval)",
            "window is shorter than interval, and some requests would never be looked at; raise window",
            field="window",
        ),
    )

    interval: Annotated[Duration, Between("1s", "24h")] = Field(default="30s", validate_default=True)
    """Time between two measurements."""
    window: Annotated[Duration, Between("1s", "168h")] | None = None
    """Time that one measurement looks back over, not beyond the canary's first traffic; ten intervals without it."""
    max_hold: Annotated[Duration, Between("1s", "720h")] = Field(default="1h", validate_default=True)
    """Longest time a step waits for data before people are told; it still goes on by itself when data comes."""
    metrics: Annotated[tuple[MetricSpec, ...], Field(max_length=32)] = ()
    """The metrics. Without any, steps go by time alone."""


class Traffic(Model):
    """How requests reach the versions."""

    provider: Literal["Envoy"] = "Envoy"
    """Who splits the traffic; Envoy is built in."""
    sticky: Sticky | None = None
    """Keep a user on one version."""


class Rollback(Model):
    """How a release is taken back."""

    automatic: bool = True
    """Roll back when the analysis fails; otherwise stop and wait for a person."""
    window: Annotated[int, Field(ge=0, le=20)] = 3
    """Going back to one of this many last healthy versions takes no steps."""
    capacity_first: bool = True
    """Wait until the stable version has all its pods before it takes the traffic back."""
    drain_delay: Annotated[Duration, Between("0s", "1h")] = Field(default="10s", validate_default=True)
    """Time between weight 0 and the removal of a version's pods."""
    gate: Webhook | None = None
    """Asked with every look of the analysis, bake time included; its answer 200 takes the release back at once."""


_ANALYSIS_STEPS = (
    "(has(self.strategy) && has(self.strategy.canary) && has(self.strategy.canary.steps)"
    " ? self.strategy.canary.steps : [])"
)
_DECIDING_METRICS = (
    "(has(self.analysis) && has(self.analysis.metrics)"
    " ? self.analysis.metrics.filter(m, !has(m.dryRun) || !m.dryRun).map(m, m.name) : [])"
)


class Weekday(StrEnum):
    """A day of the week."""

    MONDAY = "Monday"
    TUESDAY = "Tuesday"
    WEDNESDAY = "Wednesday"
    THURSDAY = "Thursday"
    FRIDAY = "Friday"
    SATURDAY = "Saturday"
    SUNDAY = "Sunday"


class ReleaseWindow(Model):
    """A time at which a new release may start, once on each of its days."""

    model_config = ruled(
        rule(
            "self.start != self.end",
            "start and end are the same; for a whole day write start 00:00 and end 24:00",
            field="end",
        ),
        rule(
            "!has(self.days) || self.days.all(x, self.days.exists_one(y, y == x))",
            "a day is named twice; remove one of the two",
            field="days",
        ),
    )

    days: Annotated[tuple[Weekday, ...], Field(min_length=1, max_length=7)] | None = None
    """Days on which it opens; every day without it."""
    start: Annotated[
        str,
        Field(max_length=5),
        Matches(r"^([01][0-9]|2[0-3]):[0-5][0-9]$", 'write a time of day from 00:00 to 23:59, for example "09:00"'),
    ]
    """Time of day at which it opens, for example "09:00"."""
    end: Annotated[
        str,
        Field(max_length=5),
        Matches(
            r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$", 'write a time of day from 00:00 to 24:00, for example "16:30"'
        ),
    ]
    """Time of day at which it closes; one before start is on the next day."""
    time_zone: Annotated[
        str,
        Field(max_length=64),
        Matches(
            r"^[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$",
            "write the IANA name of a time zone, for example UTC or Europe/Berlin",
        ),
    ] = "UTC"
    """IANA name of the time zone of start and end; UTC without it."""


class NoBudgetPolicy(StrEnum):
    """What it means for a new release that nobody can say what is left of the error budget."""

    HOLD = "Hold"
    PASS = "Pass"


class ErrorBudget(Model):
    """How many of the users' requests may fail before no new release starts."""

    objective: Annotated[float, Field(gt=0, lt=100)]
    """Percent of the requests that succeed, for example 99.9; the rest is the budget. A failure is what errorRate
    counts, of all versions together."""
    window: Annotated[Duration, Between("1m", "720h")] = Field(default="720h", validate_default=True)
    """Time that the budget is for; of a longer one than Prometheus keeps its data, what it keeps."""
    no_data: NoBudgetPolicy = NoBudgetPolicy.HOLD
    """What it means that Prometheus does not answer: Hold (default) waits for it, Pass starts the release."""


class DeploymentSpec(Model):
    """Which version to serve, how, and how to get there."""

    model_config = ruled(
        rule(
            "!has(self.strategy) || !(self.strategy.type == 'Immediate' || (self.strategy.type == 'Shadow'"
            " && has(self.strategy.shadow) && has(self.strategy.shadow.then)"
            " && self.strategy.shadow.then == 'Immediate')) || !has(self.analysis)"
            " || !has(self.analysis.metrics)"
            " || !self.analysis.metrics.exists(m, has(m.compare) || has(m.maxDrop))",
            "compare and maxDrop need both versions to get traffic, and Immediate leaves none to the stable one;"
            " set max or min",
            field="analysis",
        ),
        rule(
            f"!{_ANALYSIS_STEPS}.exists(s, has(s.analysis)) || {_DECIDING_METRICS}.size() > 0",
            "an analysis step needs a metric that decides; add one to spec.analysis.metrics, not as a dry run",
            field="strategy",
        ),
        rule(
            f"{_ANALYSIS_STEPS}.all(s, !has(s.analysis) || !has(s.analysis.metrics)"
            f" || s.analysis.metrics.all(n, n in {_DECIDING_METRICS}))",
            "an analysis step names a metric that spec.analysis.metrics lacks or has as a dry run;"
            " add it or correct the name",
            field="strategy",
        ),
    )

    model_version: ObjectName
    """The ModelVersion to serve; the only field to change for a release."""
    serving: Serving = Serving()
    """How it is served."""
    strategy: Strategy = Strategy()
    """How traffic moves to a new version."""
    analysis: Analysis = Analysis()
    """What decides whether a release goes on."""
    traffic: Traffic = Traffic()
    """How requests reach the versions."""
    rollback: Rollback = Rollback()
    """How a release is taken back."""
    progress_deadline: Annotated[Duration, Between("5s", "24h")] = Field(default="10m", validate_default=True)
    """How long to wait for ready pods or for the proxies before a release is taken back or people are told."""
    release_windows: Annotated[tuple[ReleaseWindow, ...], Field(max_length=16)] = ()
    """When a new release may start; without any, at any time. Nothing here holds a release that has begun, the first
    one, or a way back."""
    error_budget: ErrorBudget | None = None
    """No new release starts while it is spent."""
    paused: bool = False
    """Hold a release where it is; analysis and rollback go on."""


class DeploymentPhase(StrEnum):
    """The state in one word, for people; the conditions are the contract."""

    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    HEALTHY = "Healthy"
    ROLLED_BACK = "RolledBack"
    DEGRADED = "Degraded"


class Verdict(StrEnum):
    """What a measurement says."""

    PASS = "Pass"
    FAIL = "Fail"
    INCONCLUSIVE = "Inconclusive"
    NO_DATA = "NoData"
    ERROR = "Error"


class Outcome(StrEnum):
    """How a release ended."""

    PROMOTED = "Promoted"
    ROLLED_BACK = "RolledBack"
    SUPERSEDED = "Superseded"
    ABORTED = "Aborted"


class CommandName(StrEnum):
    """What a person can ask for once."""

    PROMOTE = "Promote"
    PROMOTE_FULLY = "PromoteFully"
    ABORT = "Abort"
    RETRY = "Retry"
    ROLLBACK = "Rollback"


class Command(StatusModel):
    """A command that a person gave; consumed once."""

    id: str
    """Unique id of the command."""
    command: Annotated[str, Field(max_length=64)]
    """What was asked for: Promote, PromoteFully, Abort, Retry or Rollback."""
    by: str = ""
    """Who asked."""
    at: Timestamp | None = None
    """When."""
    result: str = ""
    """What came of it; a refused command says why."""


class Retreat(StatusModel):
    """Why the traffic of a canary goes back to the stable version."""

    outcome: Outcome
    """RolledBack, Aborted or Superseded."""
    reason: str
    """Why, in one word."""
    message: str = ""
    """Why, in a sentence."""
    at: Timestamp
    """When it was decided."""


class Wait(StatusModel):
    """What the Deployment waits for."""

    reason: str
    """What for, in one word."""
    since: Timestamp
    """Since when."""


class HeldRelease(StatusModel):
    """A release that is asked for and may not start yet."""

    model_version: str
    """The ModelVersion."""
    digest: Digest
    """Checksum of its artifact."""
    reason: str
    """What holds it, in one word."""
    since: Timestamp
    """When it was asked for; who waits longest is let in first."""


class BudgetResult(StatusModel):
    """What was left of the error budget when a release last wanted to start."""

    at: Timestamp
    """When it was measured."""
    remaining_percent: float | None = None
    """What is left, in percent of the budget: 0 or less is spent; none where Prometheus gave no number."""
    failed_percent: float | None = None
    """Percent of the requests that failed."""
    requests: int | None = None
    """Requests in its window."""
    message: str = ""
    """The numbers in words, or why there are none."""


class ActiveVariant(StatusModel):
    """The version that a running ABTest sends a share of the users to."""

    test: str
    """The ABTest."""
    variant: str
    """Its arm."""
    model_version: str
    """The ModelVersion."""
    digest: Digest
    """Checksum of its artifact."""
    percent: Percent = 0
    """Its confirmed share of the traffic."""
    ready_replicas: int = 0
    """Its ready pods."""


class ActiveStable(StatusModel):
    """The version that serves."""

    model_version: str
    """The ModelVersion."""
    digest: Digest
    """Checksum of its artifact."""
    percent: Percent = 0
    """Its confirmed share of the traffic."""
    ready_replicas: int = 0
    """Its ready pods."""


class GateRecord(StatusModel):
    """What a gate said when it was asked."""

    at: Timestamp
    """When it was asked last."""
    code: int | None = None
    """HTTP status of its last answer."""
    message: Annotated[str, Field(max_length=256)] = ""
    """How its last answer begins; or why there was none, if the last try failed."""
    consecutive_errors: int = 0
    """Tries in a row without an answer."""
    misconfigured: bool = False
    """Whether the last try asked nobody, as the Secret of the gate cannot be used."""


class ActiveCanary(StatusModel):
    """The version that is being released."""

    model_version: str
    """The ModelVersion."""
    digest: Digest
    """Checksum of its artifact."""
    percent: Percent = 0
    """Its confirmed share of the traffic."""
    target_percent: Percent = 0
    """The share that was decided last; percent follows when the proxies confirm it."""
    mirror_percent: Percent = 0
    """Confirmed share of the requests whose copies it answers; no user gets these answers."""
    ready_replicas: int = 0
    """Its ready pods."""
    step: int = 0
    """Step in progress, from 0."""
    steps: int = 0
    """Number of steps."""
    steps_hash: str = ""
    """Fingerprint of the steps; when the spec changes them, they begin anew with the same pods."""
    attempt: int = 1
    """How often this digest has been tried."""
    started_at: Timestamp
    """Start of the release."""
    step_started_at: Timestamp | None = None
    """When the proxies confirmed the share of this step; its time counts from here."""
    first_traffic_at: Timestamp | None = None
    """When the proxies first confirmed a share above 0."""
    baking_since: Timestamp | None = None
    """When the share reached 100 and the bake time began."""
    gate: GateRecord | None = None
    """What the gate of the step in progress says."""
    rollback_gate: GateRecord | None = None
    """What spec.rollback.gate says."""
    fast: bool = False
    """No steps, no analysis, no bake: the first release, a return to a former version, or promoted fully."""
    retreat: Retreat | None = None
    """Set once its traffic goes back to the stable version."""


class Comparison(StatusModel):
    """What was counted of both versions since the release began, and what it says against the canary."""

    question: str
    """What is compared; with another question the evidence begins anew."""
    until: Timestamp
    """Everything up to here is counted, once."""
    canary_samples: int = 0
    """Requests (outcomes) of the canary."""
    canary_bad: int = 0
    """Bad ones of them: errors, slow answers, outcomes that were not positive."""
    stable_samples: int = 0
    """Requests (outcomes) of the stable version."""
    stable_bad: int = 0
    """Bad ones of them."""
    bound_milliseconds: float | None = None
    """An answer slower than this is a slow one; stable's own quantile when the release began."""
    e_value: float = 1
    """Evidence that the canary is worse by more than margin; at 1 / alpha it fails."""
    bets: tuple[float, ...] = ()
    """Where the test's capital lies; the next look goes on from here."""
    looks: int = 0
    """Looks that counted something."""


class MetricResult(StatusModel):
    """The last measurement of one metric and its counters."""

    name: str
    """Name of the metric."""
    verdict: Verdict
    """What it says."""
    value: float | None = None
    """The value of the canary."""
    stable_value: float | None = None
    """The value of the stable version, where it is compared."""
    samples: int | None = None
    """Requests or outcomes behind the value."""
    interval: Annotated[tuple[float, ...], Field(max_length=2)] | None = None
    """Of a disagreement: where the true share lies with 95 % probability, whenever one looks."""
    comparison: Comparison | None = None
    """Counts and evidence of a compare metric."""
    message: str = ""
    """Value and bound in words."""
    at: Timestamp | None = None
    """When it was measured."""
    measurements: int = 0
    """Measurements in this release."""
    passes: int = 0
    """Passed measurements since the step in progress began."""
    failures: int = 0
    """Failed measurements in this release."""
    consecutive_errors: int = 0
    """Errors of the source in a row."""
    consecutive_inconclusive: int = 0
    """Inconclusive measurements in a row."""
    dry_run: bool = False
    """It decides nothing."""


class RejectedVersion(StatusModel):
    """A version that was rolled back and is not tried again until the spec changes or a person says retry."""

    model_version: str
    """The ModelVersion."""
    digest: Digest
    """Checksum of its artifact."""
    reason: str
    """Why, in one word."""
    message: str = ""
    """Why, in a sentence."""
    at: Timestamp
    """When."""
    attempts: int = 1
    """How often it has been tried."""
    lifted: bool = False
    """No longer in force: the spec has asked for another version since, or a person said retry."""


class ActiveRollback(StatusModel):
    """The way back to a former version that a person asked for, until that version serves.

    It ends early when the spec asks for another version, or when that version cannot be served.
    """

    model_version: str
    """The ModelVersion to go back to."""
    digest: Digest
    """Checksum of its artifact."""
    asked_version: str
    """What spec.modelVersion said then; another one ends the rollback."""
    asked_digest: Digest | None = None
    """Checksum of its artifact then; another one ends the rollback, too."""
    message: str = ""
    """Who asked, in a sentence."""
    at: Timestamp
    """When."""


class HistoryEntry(StatusModel):
    """A release that ended."""

    model_version: str
    """The ModelVersion."""
    digest: Digest
    """Checksum of its artifact."""
    outcome: Outcome
    """How it ended."""
    from_: str | None = Field(default=None, alias="from")
    """The version that served before."""
    reason: str = ""
    """Why, in one word."""
    started_at: Timestamp | None = None
    """When it began."""
    at: Timestamp
    """When it ended."""


class Decision(StatusModel):
    """One thing the operator did, and why."""

    at: Timestamp
    """When."""
    action: str
    """What was done, for example SetPercent."""
    model_version: str | None = None
    """The version it is about."""
    from_: float | None = Field(default=None, alias="from")
    """Share before."""
    to: float | None = None
    """Share after."""
    reason: str
    """Why, in one word."""
    message: str = ""
    """Why, in a sentence."""
    evidence: dict[str, str] = Field(default_factory=dict)
    """The numbers behind it."""


class Draining(StatusModel):
    """A version without traffic whose pods are kept for the drain delay."""

    model_version: str
    """The ModelVersion."""
    digest: Digest
    """Checksum of its artifact."""
    since: Timestamp | None = None
    """When the proxies confirmed weight 0; none while that is awaited."""


class DeploymentStatus(StatusModel):
    """Observed state of a Deployment."""

    observed_generation: int | None = None
    """The generation that this status is about."""
    phase: DeploymentPhase = DeploymentPhase.PROGRESSING
    """State in one word."""
    message: str = ""
    """What it is doing or waiting for, and why, in one sentence."""
    endpoint: str | None = None
    """Address that clients use."""
    stable: ActiveStable | None = None
    """The version that serves."""
    canary: ActiveCanary | None = None
    """The version that is being released."""
    rollback: ActiveRollback | None = None
    """The way back that a person asked for, while it is under way."""
    experiment: ActiveVariant | None = None
    """The arm of a running ABTest."""
    draining: Annotated[tuple[Draining, ...], Field(max_length=8)] = ()
    """Versions that lost their traffic and whose pods are about to be removed."""
    analysis: tuple[MetricResult, ...] = ()
    """The last measurements."""
    analysed_at: Timestamp | None = None
    """When the metrics were last measured."""
    holding_since: Timestamp | None = None
    """Since when the step waits for data or evidence."""
    waiting: Wait | None = None
    """What it waits for otherwise; its deadlines count from here."""
    held: HeldRelease | None = None
    """The release that may not start yet."""
    error_budget: BudgetResult | None = None
    """The error budget, measured when a release wants to start."""
    rejected: Annotated[tuple[RejectedVersion, ...], Field(max_length=10)] = ()
    """Versions that were rolled back."""
    history: Annotated[tuple[HistoryEntry, ...], Field(max_length=20)] = ()
    """The last releases, newest first."""
    decisions: Annotated[tuple[Decision, ...], Field(max_length=30)] = ()
    """The last decisions, newest first."""
    last_command: Command | None = None
    """The last command that was consumed."""
    conditions: tuple[Condition, ...] = ()
    """Ready, Reconciling, Stalled."""


class Deployment(Resource):
    """Serves one model at one stable address, and moves its traffic to a new version while the metrics allow it."""

    model_config = ruled(
        rule(
            'self.metadata.name.matches(r"^[a-z]([a-z0-9-]*[a-z0-9])?$") && size(self.metadata.name) <= 46',
            "metadata.name becomes the name of a Service and of the model in its address; write at most 46 characters:"
            " a lower-case letter, then lower-case letters, digits and '-'",
        ),
    )

    kind: Literal["Deployment"] = "Deployment"
    spec: DeploymentSpec
    status: DeploymentStatus = DeploymentStatus()
