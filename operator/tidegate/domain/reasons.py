"""The words that a release speaks in: what was done, and why. Conditions, events, log lines and series share them."""

from enum import StrEnum

__all__ = ["Action", "Reason"]


class Action(StrEnum):
    """What was decided; the ``action`` of a decision."""

    ADOPT = "Adopt"
    """Took over a version that the Route already serves, because the status was lost."""
    START_RELEASE = "StartRelease"
    SET_PERCENT = "SetPercent"
    HOLD = "Hold"
    """The time of a step is over, but its evidence is missing."""
    BAKE = "Bake"
    PROMOTE = "Promote"
    ROLL_BACK = "RollBack"
    ABORT = "Abort"
    SUPERSEDE = "Supersede"
    RESTART_STEPS = "RestartSteps"
    DRAIN = "Drain"
    """The proxies confirmed that a version gets no more traffic; its pods go after the drain delay."""
    ACCEPT_COMMAND = "AcceptCommand"
    REFUSE_COMMAND = "RefuseCommand"
    END_ROLLBACK = "EndRollback"
    """A rollback that a person asked for was overtaken by the spec, or its version cannot be served any more."""


class Reason(StrEnum):
    """Why; the ``reason`` of conditions and decisions."""

    HEALTHY = "Healthy"
    """The version asked for serves all traffic with all its pods."""

    FIRST_RELEASE = "FirstRelease"
    """Nothing served before: no steps and no comparison."""
    NEW_VERSION = "NewVersion"
    ROLLBACK_WINDOW = "RollbackWindow"
    """A version that was healthy lately: no steps."""
    RETRY = "Retry"
    """A person asked to try a rejected version again."""
    STATUS_LOST = "StatusLost"

    STEP_STARTED = "StepStarted"
    RAMP_TICK = "RampTick"
    """The share of a gradual release has grown by one tick."""
    STEP_PASSED = "StepPassed"
    STEPS_PASSED = "StepsPassed"
    STEPS_CHANGED = "StepsChanged"
    BAKE_PASSED = "BakePassed"
    COMMANDED = "Commanded"
    """A person said so."""

    PODS_NOT_READY = "PodsNotReady"
    STABLE_PODS_NOT_READY = "StablePodsNotReady"
    UPDATING_PODS = "UpdatingPods"
    """The pods are being replaced because their settings changed."""
    ROUTE_NOT_CONFIRMED = "RouteNotConfirmed"
    """A proxy has not yet acknowledged the shares."""
    HOLDING = "Holding"
    """The time of the step is running."""
    BAKING = "Baking"
    PAUSED = "Paused"
    """``spec.paused`` is true."""
    PAUSE_STEP = "PauseStep"
    """The steps say to wait for a person."""

    WAITING_FOR_MEASUREMENT = "WaitingForMeasurement"
    NO_DATA = "NoData"
    INCONCLUSIVE = "Inconclusive"
    INCONCLUSIVE_LIMIT = "InconclusiveLimit"
    """Too many inconclusive measurements in a row: a person has to decide."""
    METRIC_SOURCE_ERROR = "MetricSourceError"
    INVALID_QUERY = "InvalidQuery"
    """The query of a metric is not PromQL that gives one number."""
    TOLERATED_FAILURE = "ToleratedFailure"
    """A failed measurement within the failure limit."""
    ANALYSIS_PASSED = "AnalysisPassed"
    ANALYSIS_FAILED = "AnalysisFailed"

    MODEL_VERSION_MISSING = "ModelVersionMissing"
    MODEL_VERSION_NOT_READY = "ModelVersionNotReady"
    MODEL_VERSION_REJECTED = "ModelVersionRejected"
    EXPERIMENT_RUNNING = "ExperimentRunning"

    ROLLED_BACK = "RolledBack"
    ABORTED = "Aborted"
    SUPERSEDED = "Superseded"
    PROMOTED = "Promoted"
    NOT_KNOWN = "NotKnown"
    """Pods of a version that the Deployment does not use."""

    UNKNOWN_COMMAND = "UnknownCommand"
    NOTHING_TO_DO = "NothingToDo"
