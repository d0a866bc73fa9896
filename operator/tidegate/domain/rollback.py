"""A person's way back to a version that was healthy: which one, what stands against it, and how it ends.

The rollback is kept in the status from the command until it has ended: meanwhile it, and not the spec, says which
version is wanted. Once that version serves, the versions gone back from are rejected, and nothing is left to tell it
from an automatic rollback: a change of the spec or Retry ends it.
"""

from tidegate.api.deployment import ActiveRollback, DeploymentStatus, Outcome
from tidegate.domain.reasons import Action, Reason
from tidegate.domain.release import ModelState, VersionID
from tidegate.domain.retreat import retreat
from tidegate.domain.situation import Situation, identify

__all__ = ["begin_rollback", "choose_version", "end_rollback", "healthy_versions", "object_to_rollback"]

_UNAVAILABLE = {
    ModelState.MISSING: Reason.MODEL_VERSION_MISSING,
    ModelState.REJECTED: Reason.MODEL_VERSION_REJECTED,
}


def healthy_versions(status: DeploymentStatus) -> tuple[VersionID, ...]:
    """Return the versions to go back to, newest first: promoted once, not taken back since, and not the one serving."""
    promoted = (identify(each) for each in status.history if each.outcome is Outcome.PROMOTED)
    others = {identify(each) for each in (status.stable, *status.rejected) if each is not None}
    return tuple(version for version in dict.fromkeys(promoted) if version not in others)


def choose_version(s: Situation, name: str) -> VersionID | None:
    """Return the newest healthy version of this name; without a name, the newest that the spec does not ask for."""
    found = healthy_versions(s.status)
    if name:
        return next((version for version in found if version.model_version == name), None)
    return next((version for version in found if not s.is_asked_for(version)), None)


def object_to_rollback(s: Situation, name: str) -> str | None:
    """Say why the way back to the version of this name makes no sense now; None if it does."""
    if s.stable_id is None:
        return "no version serves yet; change spec.modelVersion instead"
    if s.status.canary is not None and not name:
        return f"a release is under way: Abort goes back to {s.stable_id}; say which version if it is another one"
    if s.observed.experiment is not None:
        return f"ABTest {s.observed.experiment.test} is running; its spec.stop ends it"
    version = choose_version(s, name)
    return _object_to_absence(s, name) if version is None else _object_to_version(s, version)


def _object_to_absence(s: Situation, name: str) -> str:
    if s.stable_id and name == s.stable_id.model_version:
        return f"{name} serves already{'; Abort ends the release under way' if s.status.canary else ''}"
    names = ", ".join(dict.fromkeys(each.model_version for each in healthy_versions(s.status)))
    missing = f"{name} is no former healthy version" if name else "there is no other healthy version"
    return f"{missing}; there are {names}" if name and names else missing


def _object_to_version(s: Situation, version: VersionID) -> str | None:
    if s.is_asked_for(version):
        return f"the spec asks for {version} itself; Promote and Retry are about that one"
    if s.status.rollback is not None and s.target == version:
        return f"the traffic goes back to {version} already"
    return _why_unavailable(s, version)


def _why_unavailable(s: Situation, version: VersionID) -> str | None:
    state = s.observed.former_state(version)
    if state is ModelState.MISSING:
        return f"ModelVersion {version} is gone or has another artifact now"
    return None if state is ModelState.READY else f"ModelVersion {version} is {state.value}"


def begin_rollback(s: Situation, version: VersionID, message: str) -> Situation:
    """Want this version instead of the one that the spec asks for; a release under way is taken back first."""
    canary = s.status.canary
    if canary is not None and canary.retreat is None:
        s = retreat(s, Outcome.ROLLED_BACK, Reason.COMMANDED, message)
    rollback = ActiveRollback(
        model_version=version.model_version,
        digest=version.digest,
        asked_version=s.spec.model_version,
        asked_digest=s.asked.digest if s.asked else None,
        message=message,
        at=s.now,
    )
    return s.update(rollback=rollback)


def end_rollback(s: Situation) -> Situation:
    """End a rollback that the spec has overtaken, or whose version cannot be served any more before it has begun."""
    rollback = s.status.rollback
    if rollback is None:
        return s
    version = identify(rollback)
    if not _is_spec_unchanged(s, rollback):
        message = f"the spec asks for {s.spec.model_version} now"
        return _drop(s, Reason.SUPERSEDED, message, version)
    problem = None if s.canary_id == version else _why_unavailable(s, version)
    if problem is None:
        return s
    state = s.observed.former_state(version)
    return _drop(s, _UNAVAILABLE.get(state, Reason.MODEL_VERSION_NOT_READY), problem, version)


def _is_spec_unchanged(s: Situation, rollback: ActiveRollback) -> bool:
    """Compare what the spec asks for; where a digest is not known, the ModelVersion was or is missing."""
    if s.asked is None or rollback.asked_digest is None:
        return s.spec.model_version == rollback.asked_version
    return s.asked == VersionID(rollback.asked_version, rollback.asked_digest)


def _drop(s: Situation, reason: Reason, message: str, version: VersionID) -> Situation:
    return s.update(rollback=None).decide(Action.END_ROLLBACK, reason, message, version=version)
