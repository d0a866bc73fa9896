"""The queries that users write: their variables, and whether they are PromQL that gives one number; pure.

The grammar is that of Prometheus 3, as the package promql-parser knows it.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from promql_parser import Expr, MatrixSelector, ParenExpr, StringLiteral, SubqueryExpr, parse

from tidegate.domain.promql_places import SYNTAX, find_place, tell_place

__all__ = ["fill", "find_fault"]

EXAMPLES = {"version": "v", "stable": "v", "deployment": "d", "namespace": "n", "window": "01m"}
"""The variables of a query, each with a value that stands for all others, also with its first character repeated."""
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
    "expected type matrix in call to function 'rate', got vector (line 1, column 1)"
    >>> find_fault("rate(requests_total[{{ interval }}])")
    'there is no {{ interval }} (line 1, column 21); there are version, stable, deployment, namespace, window'
    """
    unknown = next((each for each in _VARIABLE.finditer(query) if each[1] not in EXAMPLES), None)
    if unknown is not None:
        place = tell_place(query, unknown.start())
        return f"there is no {unknown[0]} ({place}); there are {', '.join(EXAMPLES)}"
    filled = _VARIABLE.sub(_stand_in, query)
    complaint = _parse(filled)
    return _find_wrong_result(parse(filled)) if complaint is None else _describe(query, filled, complaint)


def _stand_in(variable: re.Match[str]) -> str:
    """Return a value as long as the variable: what is found in the filled query lies there in the written one, too."""
    value = EXAMPLES[variable[1]]
    return value.rjust(len(variable[0]), value[0])


def _parse(query: str) -> str | None:
    try:
        parse(query)
    except ValueError as error:
        return str(error)
    return None


def _describe(query: str, filled: str, complaint: str) -> str:
    place = find_place(filled, complaint, _parse)
    if place is None:
        return complaint
    if complaint == SYNTAX:
        text = query[place]
        complaint = f"{complaint}: {f'unexpected {text}' if text else 'it ends too early'}"
    return f"{complaint} ({tell_place(query, place.start)})"


def _find_wrong_result(parsed: Expr) -> str | None:
    while isinstance(parsed, ParenExpr):
        parsed = parsed.expr
    if isinstance(parsed, MatrixSelector | SubqueryExpr):
        return "it gives a range of samples and not one number; wrap it in rate(), increase() or the like"
    if isinstance(parsed, StringLiteral):
        return "it gives a text and not a number"
    return None
