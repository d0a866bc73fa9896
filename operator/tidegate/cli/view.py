"""One Deployment as the commands look at it: typed where they need it, lenient where the cluster may be newer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from tidegate.api.deployment import DeploymentSpec, DeploymentStatus, RejectedVersion
from tidegate.api.model_version import ModelVersionStatus
from tidegate.cli.exits import Problem
from tidegate.domain.manifests.names import COMMAND_ANNOTATION
from tidegate.domain.steps import FAST_STEPS, ReleaseStep, bake_time, release_steps

__all__ = ["Manifest", "Version", "View", "read_version", "read_view"]

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class View:
    """What a command knows about a Deployment."""

    name: str
    namespace: str
    generation: int
    asked_for: str
    """``spec.modelVersion``."""
    paused: bool
    status: DeploymentStatus
    spec: DeploymentSpec | None
    """None where this release of the program does not know the whole spec; then no step times are shown."""
    command_id: str
    """Id of the command in the annotation, consumed or not."""
    paused_by: tuple[str, ...]
    """Field managers that have set ``spec.paused``."""

    @property
    def is_seen(self) -> bool:
        """The operator has looked at the present spec."""
        return self.status.observed_generation == self.generation

    @property
    def has_open_command(self) -> bool:
        """The annotation holds a command that the operator has not taken."""
        last = self.status.last_command
        return bool(self.command_id) and (last is None or last.id != self.command_id)

    @property
    def rejection(self) -> RejectedVersion | None:
        """The rejection in force against the version asked for."""
        found = (each for each in self.status.rejected if each.model_version == self.asked_for and not each.lifted)
        return next(found, None)

    @property
    def step(self) -> ReleaseStep | None:
        """The step in progress, as the spec has it."""
        canary = self.status.canary
        if canary is None or self.spec is None:
            return None
        steps = FAST_STEPS if self._is_fast else release_steps(self.spec)
        return steps[min(canary.step, len(steps) - 1)]

    @property
    def bake(self) -> timedelta | None:
        """How long the analysis watches on after 100 %."""
        return bake_time(self.spec, fast=self._is_fast) if self.spec else None

    @property
    def _is_fast(self) -> bool:
        canary = self.status.canary
        return self.status.stable is None or (canary is not None and canary.fast)

    def condition(self, kind: str) -> tuple[bool, str]:
        """Return whether a condition is True, and its reason."""
        found = next((each for each in self.status.conditions if each.type == kind), None)
        return (False, "") if found is None else (found.status == "True", found.reason)


@dataclass(frozen=True, slots=True)
class Version:
    """A ModelVersion in one line."""

    name: str
    model: str
    stage: str
    status: ModelVersionStatus


def read_view(manifest: Manifest) -> View:
    """Read a Deployment as the API server returns it.

    Raises:
        Problem: The status was written by a release of the operator that this program does not understand.
    """
    metadata, spec = manifest["metadata"], manifest["spec"]
    try:
        status = DeploymentStatus.model_validate(manifest.get("status") or {})
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise Problem(
            f"status.{field} of Deployment {metadata['name']} is unknown to this program;"
            " install the release of tidegate that the operator has"
        ) from error
    return View(
        name=metadata["name"],
        namespace=metadata["namespace"],
        generation=metadata.get("generation", 1),
        asked_for=spec["modelVersion"],
        paused=bool(spec.get("paused")),
        status=status,
        spec=_read_spec(spec),
        command_id=_read_id((metadata.get("annotations") or {}).get(COMMAND_ANNOTATION)),
        paused_by=tuple(
            each["manager"]
            for each in metadata.get("managedFields", ())
            if "f:paused" in each.get("fieldsV1", {}).get("f:spec", {})
        ),
    )


def read_version(manifest: Manifest) -> Version:
    """Read a ModelVersion as the API server returns it."""
    try:
        status = ModelVersionStatus.model_validate(manifest.get("status") or {})
    except ValidationError:
        status = ModelVersionStatus(message="its status was written by another release of the operator")
    spec = manifest["spec"]
    return Version(manifest["metadata"]["name"], spec["model"], spec.get("stage", "None"), status)


def _read_spec(spec: Manifest) -> DeploymentSpec | None:
    try:
        return DeploymentSpec.model_validate(spec)
    except ValidationError:
        return None


def _read_id(annotation: str | None) -> str:
    try:
        command = json.loads(annotation or "{}")
    except ValueError:
        return ""
    return str(command.get("id", "")) if isinstance(command, dict) else ""
