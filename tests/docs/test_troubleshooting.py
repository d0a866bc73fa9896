"""Every reason that the code can give stands in docs/troubleshooting.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
RAISED = {"Waiting", "Stalled", "Unavailable", "Failure", "Note"}
SOURCES = ("operator/tidegate", "serving_image/tidegate_serving", "trainer_image/tidegate_trainer")


def reasons(tree: ast.AST) -> Iterator[str]:
    """Find the reasons in enumerations called Reason and in what is raised or noted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == "Reason":
            yield from (
                b.value.value for b in node.body if isinstance(b, ast.Assign) and isinstance(b.value, ast.Constant)
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISED and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def test_every_reason_is_explained() -> None:
    """A person who reads a reason in a condition finds it on the page."""
    explained = set(re.findall(r"`([A-Z][A-Za-z]+)(?:=False)?`", PAGE.read_text()))
    given = {
        reason
        for source in SOURCES
        for path in (ROOT / source).rglob("*.py")
        for reason in reasons(ast.parse(path.read_text()))
    }
    assert len(given) > 60
    assert given - explained == set()
