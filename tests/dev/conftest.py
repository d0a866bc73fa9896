from pathlib import Path

import pytest

from dev.cluster.settings import Folders, Network


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(cache=tmp_path / "cache", state=tmp_path / "state")


@pytest.fixture
def network() -> Network:
    return Network()
