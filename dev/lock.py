"""``python -m dev.lock``: pins every requirements file anew, with hashes and without the address of an index."""

import shutil
import subprocess
import sys
from pathlib import Path

PYTHON = "3.11"


def lock(source: Path) -> None:
    """Write the lock that belongs to a ``.in`` file."""
    command = ["uv", "pip", "compile", "--quiet", "--generate-hashes", "--no-header", "--python-version", PYTHON]
    if source.with_name("excludes.txt").exists():
        command += ["--excludes", "excludes.txt"]
    subprocess.run(
        [*command, "--output-file", source.with_suffix(".txt").name, source.name], cwd=source.parent, check=True
    )


def main() -> None:
    """Lock every file, or those named on the command line."""
    if shutil.which("uv") is None:
        sys.exit("dev.lock needs uv: python3 -m pip install uv")
    root = Path(__file__).resolve().parents[1]
    sources = [Path(name) for name in sys.argv[1:]] or [
        path
        for folder in ("operator", "trainer_image", "serving_image", "dev")
        for path in root.glob(f"{folder}/**/*.in")
    ]
    for source in sorted(sources):
        print(f"locking {source}", flush=True)
        lock(source.resolve())


if __name__ == "__main__":
    main()
