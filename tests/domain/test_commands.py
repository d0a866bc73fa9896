"""The command annotation: whatever a person wrote is read, or refused by name."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.domain.commands import parse_command


def test_a_complete_command() -> None:
    found = parse_command('{"id": "7", "command": "Promote", "by": "ada", "at": "2026-01-02T03:04:05Z"}')
    assert found is not None
    assert (found.id, found.command, found.by) == ("7", "Promote", "ada")
    assert found.at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert found.to == ""


def test_a_rollback_names_its_version() -> None:
    found = parse_command('{"command": "Rollback", "to": "m-1.0.0"}')
    assert found is not None
    assert found.to == "m-1.0.0"


@pytest.mark.parametrize("text", [None, ""])
def test_no_command(text: str | None) -> None:
    assert parse_command(text) is None


def test_a_bare_word_is_a_command_with_an_id_of_its_own() -> None:
    found = parse_command("Abort")
    assert found is not None
    assert found.command == "Abort"
    assert found == parse_command("Abort")
    other = parse_command("Retry")
    assert other is not None
    assert other.id != found.id


@given(st.text(max_size=300) | st.from_type(dict).map(str))
def test_nothing_breaks_the_reader(text: str) -> None:
    found = parse_command(text)
    assert found is None or (len(found.command) <= 64 and found.id)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), st.lists, max_leaves=5))
def test_fields_of_any_type_are_read(value: object) -> None:
    import json

    found = parse_command(json.dumps({"id": value, "command": value, "by": value, "at": value}))
    assert found is not None
