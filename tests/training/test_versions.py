"""The next semantic version of a model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.api.training_job import VersionBump
from tidegate.domain.versions import is_newer, next_name, release_of

MAJOR, MINOR, PATCH = VersionBump.MAJOR, VersionBump.MINOR, VersionBump.PATCH


@pytest.mark.parametrize(
    ("versions", "bump", "expected"),
    [
        ([], MINOR, "1.0.0"),
        ([], MAJOR, "1.0.0"),
        (["1.0.0"], MINOR, "1.1.0"),
        (["1.0.0"], PATCH, "1.0.1"),
        (["1.4.7"], MAJOR, "2.0.0"),
        (["1.9.0", "1.10.0", "1.2.0"], MINOR, "1.11.0"),
        (["1.2.0-wide"], MINOR, "1.3.0"),
        (["0.3.1"], MINOR, "0.4.0"),
    ],
)
def test_raises_the_largest(versions: list[str], bump: VersionBump, expected: str) -> None:
    names = {f"m-{each}" for each in versions}
    assert next_name("m", versions, names, bump) == (f"m-{expected}", expected)


def test_name_of_another_model_is_skipped() -> None:
    assert next_name("m", ["1.0.0"], {"m-1.1.0", "m-1.2.0"}, MINOR) == ("m-1.3.0", "1.3.0")


@pytest.mark.parametrize(
    ("version", "than", "newer"),
    [
        ("1.1.0", "1.0.9", True),
        ("1.10.0", "1.9.0", True),
        ("1.0.0", "1.0.0", False),
        ("1.2.0", "1.2.0-wide", True),
        ("1.2.0-wide", "1.2.0", False),
    ],
)
def test_order(version: str, than: str, newer: bool) -> None:
    assert is_newer(version, than) is newer


def test_text_that_is_no_version() -> None:
    with pytest.raises(ValueError, match=r"write for example 1\.2\.0"):
        release_of("one")


releases = st.tuples(*[st.integers(0, 40)] * 3).map(lambda parts: ".".join(map(str, parts)))


@given(st.lists(releases, max_size=8), st.sets(releases, max_size=8), st.sampled_from(list(VersionBump)))
def test_next_is_free_and_newest(versions: list[str], others: set[str], bump: VersionBump) -> None:
    taken = {f"m-{each}" for each in [*versions, *others]}
    name, version = next_name("m", versions, taken, bump)
    assert name not in taken
    assert all(is_newer(version, each) for each in versions)
