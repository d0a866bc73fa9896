"""The program as it is installed: two names for one entry point, and a word when its packages are missing."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint

import pytest

from tests.runtime.operator_process import OPERATOR, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_both_names_start_the_same_program() -> None:
    assert set(PROJECT["scripts"]) == {"tidegate", "kubectl-tidegate"}
    programs = {EntryPoint(name, value, "console_scripts").load() for name, value in PROJECT["scripts"].items()}
    assert [program.__name__ for program in programs] == ["main"]


@pytest.mark.parametrize("name", PROJECT["optional-dependencies"]["cli"])
def test_missing_packages_are_named_with_the_remedy(name: str) -> None:
    program = f"import sys; sys.modules[{name!r}] = None; from tidegate.cli.__main__ import main; main([])"
    environment = {"PYTHONPATH": str(OPERATOR)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"{name} is missing; in a checkout of Tidegate: pip install '.[cli]'\n"


def test_the_operator_starts_without_them() -> None:
    program = "import sys; sys.modules.update(rich=None, typer=None); import tidegate.__main__"
    done = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(OPERATOR)}, capture_output=True)
    assert done.returncode == 0
