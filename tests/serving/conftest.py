from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from tests.serving.file_server import FileServer, serve_files
from tests.serving.triton_process import Triton, install_triton


@pytest.fixture
def files() -> Iterator[FileServer]:
    with serve_files() as server:
        yield server


@pytest.fixture(scope="session")
def triton_home() -> Path:
    return install_triton()


@pytest.fixture
def triton_server(triton_home: Path, tmp_path: Path) -> Iterator[Triton]:
    """A server that the test starts; killed at the end."""
    repository = tmp_path / "models"
    repository.mkdir()
    server = Triton(triton_home, repository, tmp_path / "triton.log")
    yield server
    server.kill()
