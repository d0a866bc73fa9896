"""What a Deployment waits for and why, in a few sentences, and what a person can do next. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from tidegate.api.deployment import Verdict
from tidegate.cli.rendering import describe_canary
from tidegate.cli.verdicts import OPERATOR_PODS
from tidegate.cli.view import View
from tidegate.domain.reasons import Reason

__all__ = ["Explained", "explain"]

DECIDE = ("promote", "abort")
START = ("promote",)
GOES_ON = "It goes on by itself; end the step now, or take the release back:"
PODS = "Look at the pods:"
NEXT: Mapping[str, tuple[str, tuple[str, ...]]] = {
    Reason.HEALTHY: ("Nothing to do. To release another version, change spec.modelVersion.", ()),
    Reason.HOLDING: (GOES_ON, DECIDE),
    Reason.BAKING: (GOES_ON, DECIDE),
    Reason.WAITING_FOR_MEASUREMENT: (GOES_ON, DECIDE),
    Reason.PAUSED: ("Let it go on:", ("resume",)),
    Reason.PAUSE_STEP: ("It waits for you. Decide:", DECIDE),
    Reason.GATE_CLOSED: ("It goes on by itself when the gate opens. To decide without:", DECIDE),
    Reason.GATE_UNREACHABLE: ("Mend the gate or its address, and it goes on by itself. To decide without:", DECIDE),
    Reason.BAD_GATE_CREDENTIALS: ("Mend the gate's Secret, and it goes on by itself. To decide without:", DECIDE),
    Reason.ANALYSIS_FAILED: ("It waits for you. Decide:", DECIDE),
    Reason.INCONCLUSIVE_LIMIT: ("It waits for you. Decide:", DECIDE),
    Reason.NO_DATA: ("It goes on by itself when data comes. Is there traffic? To decide without:", DECIDE),
    Reason.INCONCLUSIVE: ("It goes on by itself when there are enough samples. To decide without:", DECIDE),
    Reason.METRIC_SOURCE_ERROR: ("Mend the metric source, and it goes on by itself. To decide without:", DECIDE),
    Reason.INVALID_QUERY: ("Correct the query in spec.analysis.metrics, and it goes on by itself.", ()),
    Reason.ABORTED: ("A person ended it. Set spec.modelVersion to another version, or try this one again:", ("retry",)),
    Reason.ROLLED_BACK: ("Set spec.modelVersion to a good version, or try this one again:", ("retry",)),
    Reason.PODS_NOT_READY: (PODS, ("pods",)),
    Reason.STABLE_PODS_NOT_READY: (PODS, ("pods",)),
    Reason.COMPARATOR_NOT_READY: (
        "It goes on by itself. See its pod, or compare nothing:",
        ("pods", "promote --full"),
    ),
    Reason.UPDATING_PODS: (PODS, ("pods",)),
    Reason.ROUTE_NOT_CONFIRMED: ("It goes on by itself. Should it take long, see which proxy is missing:", ("route",)),
    Reason.MODEL_VERSION_MISSING: ("Create the ModelVersion or correct spec.modelVersion. There are:", ("versions",)),
    Reason.MODEL_VERSION_NOT_READY: ("It goes on by itself when the checks are passed. See them:", ("version",)),
    Reason.MODEL_VERSION_REJECTED: ("Set spec.modelVersion to another version. The checks of this:", ("version",)),
    Reason.OUTSIDE_RELEASE_WINDOW: ("It starts by itself when the window opens; start it now all the same:", START),
    Reason.RELEASE_LIMIT: ("It starts by itself when others have ended; start it now all the same:", START),
    Reason.ERROR_BUDGET_SPENT: ("It starts by itself when there is budget again; start it now all the same:", START),
    Reason.ERROR_BUDGET_UNKNOWN: ("Mend Prometheus, and it starts by itself; start it now all the same:", START),
    Reason.UNKNOWN_TIME_ZONE: ("Correct timeZone in spec.releaseWindows. The object:", ("describe",)),
    Reason.EXPERIMENT_RUNNING: ("It goes on by itself after the test. See it:", ("test",)),
}
OTHERWISE = ("The reason stands in docs/troubleshooting.md; everything about the object:", ("describe",))


@dataclass(frozen=True, slots=True)
class Explained:
    """What is going on, and what to do."""

    reason: str
    sentences: tuple[str, ...]
    commands: tuple[str, ...]
    """Commands that fit now; the last sentence introduces them."""


def explain(view: View, now: datetime) -> Explained:
    """Say in a few sentences what the Deployment waits for and why, and the next thing that a person can do."""
    if not view.is_seen:
        sentence = "The operator has not seen the last change of the spec. If this lasts, is it running?"
        return Explained("NotSeen", (_describe_serving(view, now), sentence), (OPERATOR_PODS,))
    _, reason = view.condition("Ready")
    advice, commands = _advise(view, reason)
    sentences = (_describe_serving(view, now), _sentence(f"{reason}: {view.status.message}"), *_metrics(view), advice)
    return Explained(reason, sentences, tuple(_command(each, view) for each in commands))


def _advise(view: View, reason: str) -> tuple[str, tuple[str, ...]]:
    """Return the advice that fits; nobody can promote or abort what is on its way back."""
    canary = view.status.canary
    advice, commands = NEXT.get(reason, OTHERWISE)
    if canary is not None and canary.retreat is not None and "promote" in commands:
        return "Nothing to do while the traffic goes back.", ()
    if view.status.stable is None:
        return advice, tuple(each for each in commands if each != "abort")
    return advice, commands


def _describe_serving(view: View, now: datetime) -> str:
    stable, canary = view.status.stable, view.status.canary
    serving = f"{stable.model_version} serves {stable.percent:g} % of the traffic" if stable else "Nothing serves yet"
    if canary is not None:
        where = describe_canary(view, canary, now)
        return f"{serving}; {canary.model_version} has {canary.percent:g} % ({where})."
    if stable is None or stable.model_version != view.asked_for:
        return f"{serving}; the spec asks for {view.asked_for}."
    return f"{serving}, as the spec asks."


def _metrics(view: View) -> tuple[str, ...]:
    """Name what does not pass while a release is under way."""
    if view.status.canary is None:
        return ()
    open_ones = [each for each in view.status.analysis if each.verdict is not Verdict.PASS and not each.dry_run]
    if not open_ones:
        return ("All metrics pass.",) if view.status.analysis else ()
    return (_sentence("; ".join(f"{each.name} is {each.verdict.value}: {each.message}" for each in open_ones)),)


def _command(name: str, view: View) -> str:
    where, deployment, version = f"-n {view.namespace}", view.name, view.asked_for
    commands = {
        "pods": f"kubectl get pods {where} -l tidegate.dev/deployment={deployment}",
        "route": f"kubectl describe mroute {deployment} {where}",
        "versions": f"kubectl get mv {where}",
        "version": f"kubectl describe mv {version} {where}",
        "test": f"kubectl get abt {where}",
        "describe": f"kubectl describe mdep {deployment} {where}",
    }
    command, *options = name.split()
    return commands.get(name, " ".join(("tidegate", command, deployment, *options, where)))


def _sentence(text: str) -> str:
    return f"{text.rstrip('.')}."
