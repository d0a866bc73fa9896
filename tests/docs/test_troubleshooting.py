"""Every reason that the code can give stands in docs/troubleshooting.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
RAISED = {"Waiting", "Stalled", "Unavailable", "Failure", "Note"}
TESTS = ("experiment", "estimates")
"""Modules of the domain in which the reasons of an ABTest stand as plain words."""
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


def test_every_reason_of_a_test_is_explained() -> None:
    """The same for ABTests."""
    given: set[str] = set()
    for module in TESTS:
        text = (ROOT / "operator/tidegate/domain" / f"{module}.py").read_text()
        public = text[text.index("__all__") : text.index("]", text.index("__all__"))]
        given |= {word for word in re.findall(r'"([A-Z][a-z]+(?:[A-Z][a-z]+)*)"', text) if f'"{word}"' not in public}
    assert len(given) > 15
    (page,) = re.findall(r"## ABTest\n(.*?)\n## ", PAGE.read_text(), re.DOTALL)
    assert given - set(re.findall(r"`([A-Za-z]+)`", page)) == set()
