"""Where in a query the parser's complaint belongs: the parser says what is wrong, and not where; pure.

A text is wrong from the first token on after which nothing could follow any more. So the place is the end of the
shortest beginning that no continuation makes acceptable, found by halving: each beginning is continued and closed in
all ways that the grammar has, and parsed again.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

__all__ = ["SYNTAX", "find_place", "tell_place"]

Check = Callable[[str], str | None]
"""Returns what the parser says against a text, or None."""

SYNTAX = "invalid promql query"
"""What the parser says when it does not know anything better."""
_OF_BEGINNINGS = re.compile(f"{SYNTAX}|no expression|un(expected|closed|terminated)|bad ")
"""Complaints that may come of the continuation; all others are made of whole, acceptable grammar."""
_TOKEN = re.compile(
    r"""(?P<blank>\s+|\#[^\n]*)|"(?:\\.|[^"\\])*"?|'(?:\\.|[^'\\])*'?|`[^`]*`?|[\w:.]+|[=!<>]=|[=!]~|.""", re.DOTALL
)
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_OPERANDS = ("", " x", " 1", "1m", " 1m", ' "a"', '="a"', "[1m]", " x[1m]", "()", "(x)", "(a) x", "(a) (x)")
_AFTER_BRACKET = ("", "(x)", " x")


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    start: int

    @property
    def place(self) -> slice:
        return slice(self.start, self.start + len(self.text))


def find_place(query: str, complaint: str, check: Check) -> slice | None:
    """Return which characters the complaint is about: none of them where the query ends too early.

    Args:
        query: A text that the parser refuses.
        complaint: What it says.
        check: The parser.

    Returns:
        None for a text without any token.
    """
    tokens = [_Token(each[0], each.start()) for each in _TOKEN.finditer(query) if each["blank"] is None]
    if not tokens:
        return None
    if complaint.startswith("unclosed"):
        opened = _find_open(tokens)
        return opened[-1].place if opened else None
    lengths = range(1, len(tokens))
    count = bisect_left(lengths, True, key=lambda length: _is_refused(query, tokens[:length], complaint, check))
    if not _OF_BEGINNINGS.match(complaint):
        return _find_head(tokens[: count + 1]).place
    if count == len(lengths) and not _is_refused(query, tokens, complaint, check):
        end = tokens[-1].place.stop
        return slice(end, end)
    return tokens[count].place


def tell_place(query: str, offset: int) -> str:
    """Say where an offset is, as editors count.

    >>> tell_place("sum(" + chr(10) + "  x y)", 9)
    'line 2, column 5'
    """
    before = query[:offset]
    return f"line {before.count(chr(10)) + 1}, column {offset - before.rfind(chr(10))}"


def _is_refused(query: str, beginning: Sequence[_Token], complaint: str, check: Check) -> bool:
    """Tell whether nothing that could follow makes the beginning acceptable, as far as the complaint goes."""
    closing = [_BRACKETS[each.text] for each in reversed(_find_open(beginning))]
    text = query[: beginning[-1].place.stop]
    for operand, further in product(_OPERANDS, _AFTER_BRACKET if closing else _AFTER_BRACKET[:1]):
        said = check(text + operand + "".join(closing[:1]) + further + "".join(closing[1:]))
        if said is None or (said != complaint and not _OF_BEGINNINGS.match(said)):
            return False
    return True


def _find_open(tokens: Sequence[_Token]) -> list[_Token]:
    """Return the brackets that are not closed, the innermost last."""
    opened: list[_Token] = []
    for token in tokens:
        if token.text in _BRACKETS:
            opened.append(token)
        elif opened and token.text == _BRACKETS[opened[-1].text]:
            opened.pop()
    return opened


def _find_head(tokens: Sequence[_Token]) -> _Token:
    """Return what the last token is part of, where that is a bracket: the name in front of its opening one."""
    last = tokens[-1]
    if last.text in _BRACKETS.values():
        opening = _find_open(tokens[:-1])
        last = opening[-1] if opening else last
    if last.text != "(":
        return last
    position = tokens.index(last)
    return tokens[position - 1] if position and tokens[position - 1].text.isidentifier() else last
