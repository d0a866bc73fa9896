"""The next semantic version of a model."""

import re
from collections.abc import Collection, Iterable

from tidegate.api.training_job import VersionBump

__all__ = ["FIRST_VERSION", "is_newer", "next_name", "release_of"]

FIRST_VERSION = (1, 0, 0)
_RELEASE = re.compile(r"^(\d+)\.(\d+)\.(\d+)(-.+)?$")

Release = tuple[int, int, int]


def release_of(version: str) -> Release:
    """Return major, minor and patch; a pre-release part (1.2.0-wide) is left out.

    >>> release_of("1.2.0-wide")
    (1, 2, 0)
    """
    match = _RELEASE.match(version)
    if match is None:
        raise ValueError(f"{version!r} is no semantic version; write for example 1.2.0")
    major, minor, patch = (int(part) for part in match.groups()[:3])
    return major, minor, patch


def next_name(model: str, versions: Iterable[str], taken: Collection[str], bump: VersionBump) -> tuple[str, str]:
    """Return name and semantic version of the next ModelVersion.

    Args:
        model: The registered model.
        versions: The semantic versions that the model has already; variants such as 1.2.0-wide use up 1.2.0.
        taken: Names that are in use, by whatever model.
        bump: Which part to raise.
    """
    known = [release_of(each) for each in versions]
    release = _raise(max(known), bump) if known else FIRST_VERSION
    while _name(model, release) in taken:
        release = _raise(release, bump)
    return _name(model, release), _text(release)


def is_newer(version: str, than: str) -> bool:
    """Whether one version comes after another; a pre-release comes before its release."""
    return _precedence(version) > _precedence(than)


def _precedence(version: str) -> tuple[Release, bool]:
    return release_of(version), "-" not in version


def _raise(release: Release, bump: VersionBump) -> Release:
    major, minor, patch = release
    if bump is VersionBump.MAJOR:
        return major + 1, 0, 0
    return (major, minor + 1, 0) if bump is VersionBump.MINOR else (major, minor, patch + 1)


def _text(release: Release) -> str:
    return ".".join(str(part) for part in release)


def _name(model: str, release: Release) -> str:
    return f"{model}-{_text(release)}"
