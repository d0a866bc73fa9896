"""docs/cli.md names only commands, options and exit codes that there are, and all of them."""

import re
from collections.abc import Iterator
from pathlib import Path

from typer.main import get_command

from tidegate.cli.app import app
from tidegate.cli.exits import ExitCode

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
PROGRAM = get_command(app)


def printed_commands() -> Iterator[list[str]]:
    """Find the command lines in tables and in blocks."""
    for line in re.findall(r"`tidegate ([^`]+)`|^(?:\$ |  )?tidegate ([^:#\n]+)", PAGE.read_text(), re.MULTILINE):
        yield "".join(line).split()


def options_of(name: str) -> set[str]:
    command = PROGRAM.commands[name]  # type: ignore[attr-defined]
    return {option for parameter in command.params for option in parameter.opts}


def test_every_command_line_of_the_page_can_be_typed() -> None:
    seen = list(printed_commands())
    assert len(seen) > 15
    program_options = {option for parameter in PROGRAM.params for option in parameter.opts}
    for words in seen:
        known = options_of(words[0]) if not words[0].startswith("-") else program_options
        assert {word for word in words if word.startswith("-")} <= known, words


def test_every_command_and_every_exit_code_is_on_the_page() -> None:
    text = PAGE.read_text()
    assert {words[0] for words in printed_commands()} >= set(PROGRAM.commands)  # type: ignore[attr-defined]
    assert [int(code) for code in re.findall(r"^\| (\d) \|", text, re.MULTILINE)] == [int(code) for code in ExitCode]


def test_options_that_all_commands_share() -> None:
    for name in PROGRAM.commands:  # type: ignore[attr-defined]
        assert "-o" in options_of(name)
        asked = {"-n", "--namespace", "--context", "--kubeconfig"} & options_of(name)
        assert len(asked) == (0 if name == "lint" else 4)


def test_help_states_every_exit_code() -> None:
    for command in PROGRAM.commands.values():  # type: ignore[attr-defined]
        assert re.findall(r"\b\d\b", str(command.epilog)) == [str(int(code)) for code in ExitCode]
