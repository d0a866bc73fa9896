"""Helm and what the chart renders. Helm is built from its Go module where the cache does not have it yet."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster.golang import HELM, PROMETHEUS, ensure_program
from dev.cluster.settings import find_folders

CHART = Path(__file__).parents[2] / "charts" / "tidegate"
Document = dict[str, Any]


@pytest.fixture(scope="session")
def helm() -> Callable[..., subprocess.CompletedProcess[str]]:
    program = ensure_program(find_folders(), HELM, "helm")

    def run(*arguments: str, values: Document | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(program), *arguments, *(["--values", "-"] if values is not None else [])]
        done = subprocess.run(command, input=yaml.safe_dump(values or {}), capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def render(helm) -> Callable[..., list[Document]]:
    """Render the chart with some values, as an API server with some kinds would see it."""

    def render(
        values: Document | None = None, *, name: str = "tidegate", kinds: tuple[str, ...] = ()
    ) -> list[Document]:
        flags = [f"--api-versions={kind}" for kind in kinds]
        arguments = ["template", name, str(CHART), "--namespace=tidegate-system", "--kube-version=1.34.0", *flags]
        text = helm(*arguments, values=values or {}).stdout
        return [document for document in yaml.safe_load_all(text) if document]

    return render


@pytest.fixture(scope="session")
def promtool() -> Path:
    return ensure_program(find_folders(), PROMETHEUS, "promtool")
