"""The commands of docs/getting-started.md, run in the order in which they are printed."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from dev.installation import Installed

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "getting-started.md"


@pytest.mark.cluster
def test_every_command_of_the_page_works(installed: Installed) -> None:
    """One shell runs all blocks; the first command that fails fails the test."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    script = "\n".join(["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT", *blocks])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env={**os.environ, **installed.environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "x-tidegate-version: connect4-1.0.0" in done.stdout
    assert "Promote" in done.stdout
