"""ABTest: which of two versions is better, with a stated error probability."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from tidegate.api.base import (
    Condition,
    Duration,
    HttpHeaderName,
    Label,
    MetricName,
    Model,
    ObjectName,
    Resource,
    Salt,
    StatusModel,
    Timestamp,
)
from tidegate.api.rules import MODEL_DEFAULT, Between, immutable_except, rule, ruled, unique

__all__ = [
    "ABTest",
    "ABTestPhase",
    "ABTestSpec",
    "ABTestStatus",
    "Assignment",
    "Direction",
    "ExperimentAnalysis",
    "ExperimentMetric",
    "MetricEstimate",
    "MetricRole",
    "Recommendation",
    "RecommendationAction",
    "SampleRatio",
    "Variant",
    "VariantCount",
]


class Variant(Model):
    """One arm of the test."""

    name: Label
    """Name of the arm; sent as x-tidegate-variant."""
    model_version: ObjectName | None = None
    """The version of this arm; the first arm leaves it out and is the Deployment's stable version."""
    weight: Annotated[float, Field(gt=0, lt=100)]
    """Share of the users, in percent; the weights sum to 100."""


class Assignment(Model):
    """How users are assigned to arms."""

    header: HttpHeaderName
    """Request header that names the user; the same user always gets the same arm."""
    salt: Salt | None = None
    """Hashed together with the user. Left out, it is the test's own uid, so that each test draws its users anew; two
    tests with one salt draw the same users."""


class MetricRole(StrEnum):
    """What a metric decides."""

    GOAL = "Goal"
    GUARDRAIL = "Guardrail"


class Direction(StrEnum):
    """Which way is better."""

    INCREASE = "Increase"
    DECREASE = "Decrease"


def _find_source(fields: dict[str, Any]) -> Literal["Envoy", "Outcomes"]:
    return "Envoy" if fields.get("name") == "errorRate" else "Outcomes"


class ExperimentMetric(Model):
    """A metric of the test."""

    model_config = ruled(
        rule(
            "!has(self.source) || (self.name == 'errorRate') == (self.source == 'Envoy')",
            "Envoy knows errorRate, and errorRate comes from Envoy; any other name needs source: Outcomes",
            field="source",
        ),
        rule(
            "self.role != 'Guardrail' || (has(self.margin) && self.margin > 0.0)",
            "a guardrail needs a margin above 0: how much worse it may become, for example 0.002",
            field="margin",
        ),
        rule(
            "self.role != 'Goal' || !has(self.margin)",
            "margin has no effect on a goal; remove it or set role: Guardrail",
            field="margin",
        ),
        rule(
            "self.role != 'Guardrail' || !has(self.minimumDetectableEffect)",
            "minimumDetectableEffect has no effect on a guardrail; remove it or set role: Goal",
            field="minimumDetectableEffect",
        ),
        rule(
            "self.name != 'errorRate' || self.direction == 'Decrease'",
            "fewer errors are better; set direction: Decrease",
            field="direction",
        ),
    )

    name: MetricName
    """errorRate, or the name of an outcome."""
    role: MetricRole
    """Goal decides who wins; Guardrail must not become worse."""
    type: Literal["Proportion"] = "Proportion"
    """Kind of the metric."""
    direction: Direction
    """Which way is better."""
    source: Literal["Envoy", "Outcomes"] = Field(default_factory=_find_source)
    """Envoy knows errorRate; Outcomes are counters of your own. Needs not be written."""
    minimum_detectable_effect: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Smallest absolute difference worth finding; gives the number of samples needed."""
    margin: Annotated[float, Field(ge=0, lt=1)] = Field(default=0, json_schema_extra=MODEL_DEFAULT)
    """A guardrail may be worse by less than this."""


class ExperimentAnalysis(Model):
    """How the verdict is reached."""

    method: Literal["FixedHorizon"] = "FixedHorizon"
    """FixedHorizon looks once, when every arm has its samples; an earlier look gives no verdict."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """1 minus the probability of a false winner."""
    power: Annotated[float, Field(ge=0.5, lt=1)] = 0.8
    """Probability to find the minimum detectable effect if it is there."""
    min_samples_per_variant: Annotated[int, Field(ge=2, le=1_000_000_000)] = 1000
    """No verdict before every arm has this many samples."""


class ABTestSpec(Model):
    """What is compared, on whom, and how."""

    model_config = ruled(
        rule(
            "self.variants.map(v, v.weight).sum() >= 99.999 && self.variants.map(v, v.weight).sum() <= 100.001",
            "the weights have to sum to 100; change weight",
            field="variants",
        ),
        unique("variants", "two variants have one name; rename one"),
        rule(
            "!has(self.variants[0].modelVersion)",
            "the first variant is the control, the Deployment's stable version; remove its modelVersion",
            field="variants",
        ),
        rule(
            "size(self.variants) < 2 || has(self.variants[1].modelVersion)",
            "the second variant needs modelVersion, the version to compare with the control",
            field="variants",
        ),
        rule(
            "self.metrics.exists_one(m, m.role == 'Goal')",
            "exactly one metric decides who wins; give one metric role: Goal and the others role: Guardrail",
            field="metrics",
        ),
        unique("metrics", "two metrics have one name; remove one"),
        immutable=immutable_except("stop", remedy="stop this test and create one of another name"),
    )

    deployment: ObjectName
    """The Deployment (tidegate.dev) under test."""
    hypothesis: Annotated[str, Field(max_length=1024)] = ""
    """What is expected, in words."""
    variants: Annotated[tuple[Variant, ...], Field(min_length=2, max_length=2)]
    """The arms; the first is the control."""
    assignment: Assignment
    """How users are assigned."""
    metrics: Annotated[tuple[ExperimentMetric, ...], Field(min_length=1, max_length=16)]
    """What is measured; exactly one goal."""
    analysis: ExperimentAnalysis = ExperimentAnalysis()
    """How the verdict is reached."""
    max_duration: Annotated[Duration, Between("10s", "2160h")] = Field(default="24h", validate_default=True)
    """The test ends after this long, with or without a winner."""
    stop: bool = False
    """End the test now and send all traffic back to the stable version."""


class ABTestPhase(StrEnum):
    """The state in one word, for people; the conditions are the contract."""

    PENDING = "Pending"
    RUNNING = "Running"
    CONCLUDED = "Concluded"
    STOPPED = "Stopped"
    INVALID = "Invalid"


class MetricEstimate(StatusModel):
    """The difference between the arms in one metric."""

    metric: str
    """Name of the metric."""
    variant: str
    """The arm that is compared with the control."""
    control_samples: int = 0
    """Samples of the control."""
    samples: int = 0
    """Samples of the arm."""
    control: float | None = None
    """Value of the control."""
    treatment: float | None = None
    """Value of the arm."""
    effect: float | None = None
    """Absolute difference, arm minus control."""
    relative_effect: float | None = None
    """Difference relative to the control."""
    confidence_interval: tuple[float, ...] | None = None
    """Interval of the absolute difference."""
    p_value: float | None = None
    """Probability of such a difference, or a larger one, without a true one."""
    significant: bool = False
    """The difference is significant at the stated confidence."""
    note: str = ""
    """A degenerate case by name, for example NoEvents."""


class VariantCount(StatusModel):
    """Requests that an arm answered."""

    variant: str
    """Name of the arm."""
    requests: int
    """Requests since the test began."""


class SampleRatio(StatusModel):
    """Whether the arms got their shares (chi-squared test)."""

    p_value: float | None = None
    """Probability of such shares if the assignment is right."""
    ok: bool = True
    """The shares are credible."""


class RecommendationAction(StrEnum):
    """What to do."""

    CONTINUE = "Continue"
    ADOPT = "Adopt"
    KEEP = "Keep"
    STOP = "Stop"


class Recommendation(StatusModel):
    """What to do, and why."""

    action: RecommendationAction
    """Continue, Adopt the arm, Keep the control, or Stop."""
    reason: str
    """Why, in one word."""
    message: str = ""
    """Why, in a sentence."""


class ABTestStatus(StatusModel):
    """Observed state of an ABTest."""

    observed_generation: int | None = None
    """The generation that this status is about."""
    phase: ABTestPhase = ABTestPhase.PENDING
    """State in one word."""
    message: str = ""
    """State in one sentence."""
    started_at: Timestamp | None = None
    """When every proxy confirmed the split."""
    ended_at: Timestamp | None = None
    """When the test ended."""
    looked_at: Timestamp | None = None
    """When the arms were last measured."""
    control_model_version: str | None = None
    """The version of the control when the test began."""
    counts: tuple[VariantCount, ...] = ()
    """Requests by arm."""
    analysis: tuple[MetricEstimate, ...] = ()
    """The estimates."""
    sample_ratio: SampleRatio | None = None
    """Whether the arms got their shares."""
    required_samples_per_variant: int | None = None
    """Samples that the minimum detectable effect needs."""
    recommendation: Recommendation | None = None
    """What to do."""
    winner: str | None = None
    """The arm that won."""
    conditions: tuple[Condition, ...] = ()
    """Ready, Reconciling, Stalled."""


class ABTest(Resource):
    """Splits the users of one Deployment between two versions and says which is better."""

    kind: Literal["ABTest"] = "ABTest"
    spec: ABTestSpec
    status: ABTestStatus = ABTestStatus()
