"""``python -m dev.schemas``: copies the JSON schemas of the built-in trainers' settings into the operator.

The operator refuses wrong settings before it starts a pod, and cannot import the trainer: torch stays out of it.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tidegate_trainer.algorithms import ALGORITHMS

FOLDER = Path(__file__).resolve().parents[1] / "operator" / "tidegate" / "domain" / "schemas"


def build_schemas() -> dict[str, str]:
    """Return the content of every file by its name."""
    schemas = {name: _drop_words(entry.config.model_json_schema(by_alias=True)) for name, entry in ALGORITHMS.items()}
    return {f"{name}.schema.json": json.dumps(schema, indent=2) + "\n" for name, schema in schemas.items()}


def _drop_words(schema: Any) -> Any:
    """Leave out titles, descriptions and defaults: they check nothing."""
    if isinstance(schema, list):
        return [_drop_words(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    words = {key for key in ("title", "description") if isinstance(schema.get(key), str)} | {"default"}
    return {key: _drop_words(value) for key, value in schema.items() if key not in words}


def main() -> None:
    """Write the files, or with --check end with an error when one is not up to date."""
    stale = [name for name, text in build_schemas().items() if _read(FOLDER / name) != text]
    if "--check" in sys.argv:
        sys.exit(f"not up to date: {', '.join(stale)}; run: python -m dev.schemas" if stale else 0)
    for name in stale:
        (FOLDER / name).write_text(build_schemas()[name])
        print(FOLDER / name)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    main()
