"""The queries that users write: their variables, and whether they are PromQL that gives one number; pure.

The grammar is that of Prometheus 3, as the package promql-parser knows it.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from promql_parser import Expr, MatrixSelector, ParenExpr, StringLiteral, SubqueryExpr, parse

__all__ = ["fill", "find_fault"]

EXAMPLES = {"version": "v", "stable": "v", "deployment": "d", "namespace": "n", "window": "1m"}
"""The variables of a query, each with a value that stands for all it can have."""
_VARIABLE = re.compile(r"{{\s*(.*?)\s*}}")


def fill(query: str, values: Mapping[str, str]) -> str:
    """Put the values in for their variables.

    >>> fill('up{v="{{ version }}"}', {"version": "b"})
    'up{v="b"}'
    """
    return _VARIABLE.sub(lambda found: values.get(found[1], found[0]), query)


@lru_cache(maxsize=4096)
def find_fault(query: str) -> str | None:
    """Say what is wrong with a query, or return None.

    >>> find_fault("rate(requests_total[1m])")
    >>> find_fault("rate(requests_total)")
    "expected type matrix in call to function 'rate', got vector"
    >>> find_fault("rate(requests_total[{{ interval }}])")
    'there is no {{ interval }} (at character 21); there are version, stable, deployment, namespace, window'
    """
    unknown = next((each for each in _VARIABLE.finditer(query) if each[1] not in EXAMPLES), None)
    if unknown is not None:
        known = ", ".join(EXAMPLES)
        return f"there is no {unknown[0]} (at character {unknown.start() + 1}); there are {known}"
    try:
        parsed = parse(fill(query, EXAMPLES))
    except ValueError as error:
        return str(error)
    return _find_wrong_result(parsed)


def _find_wrong_result(parsed: Expr) -> str | None:
    while isinstance(parsed, ParenExpr):
        parsed = parsed.expr
    if isinstance(parsed, MatrixSelector | SubqueryExpr):
        return "it gives a range of samples and not one number; wrap it in rate(), increase() or the like"
    if isinstance(parsed, StringLiteral):
        return "it gives a text and not a number"
    return None
