"""Queries of users: what is PromQL that gives one number, and what is said about everything else."""

import re
from itertools import product
from pathlib import Path

import pytest
import yaml

from tidegate.domain.promql import EXAMPLES, fill, find_fault

GOOD = [
    'sum(rate(my_metric{version="{{ version }}"}[1m]))',
    'sum(rate(m{v="{{version}}",s="{{ stable }}",d="{{  deployment  }}",n="{{ namespace }}"}[{{ window }}]))',
    "histogram_quantile(0.99, sum by (le) (rate(x_bucket[5m])))",
    "max_over_time(rate(x[1m])[30m:10s])",
    'sum(rate(x{code=~"5.."}[1m])) / on() group_left() sum(rate(x[1m])) or vector(0)',
    '{"http.server.duration", "service.name"="a"}',
    "-avg without (pod) (x offset 5m @ end())",
    "histogram_avg(x)",
    "(1 + 1)",
    "up\n# a comment\n",
]
BAD = [
    ("sum(rate(x[1m])", "unclosed left parenthesis (line 1, column 4)"),
    ("sum(rate(x[1m]", "unclosed left parenthesis (line 1, column 9)"),
    ("rate(x)", "expected type matrix in call to function 'rate', got vector (line 1, column 1)"),
    ("1 + rate(sum(x) + rate(y[1m]))", "call to function 'rate', got vector (line 1, column 5)"),
    ("1 + histogram_quantile(x)", "expected 2 argument(s) in call to 'histogram_quantile', got 1 (line 1, column 5)"),
    ("sum(x) / summ(x)", "unknown function with name 'summ' (line 1, column 10)"),
    ("a and 1", "set operator 'and' not allowed in binary scalar expression (line 1, column 7)"),
    ("foo bar", "invalid promql query: unexpected bar (line 1, column 5)"),
    ("select 1", "invalid promql query: unexpected 1 (line 1, column 8)"),
    ("sum(\n  rate(x[1m])\n) / on(a) foo bar", "invalid promql query: unexpected bar (line 3, column 15)"),
    ("sum by (a rate(x[1m]))", "invalid promql query: unexpected rate (line 1, column 11)"),
    ("sum(rate(x[1m])) / / y", "invalid promql query: unexpected / (line 1, column 20)"),
    ("x{a='b' c='d'}", "invalid promql query: unexpected c (line 1, column 9)"),
    ("x{a=}", "invalid promql query: unexpected } (line 1, column 5)"),
    ("1 + # nothing\n", "invalid promql query: it ends too early (line 1, column 4)"),
    ("sum(x) by", "invalid promql query: it ends too early (line 1, column 10)"),
    ("x offset", "unexpected end of input in offset, expected duration (line 1, column 9)"),
    ('x{a="b"', "unexpected end of input inside braces (line 1, column 8)"),
    ("sum(x))", "unexpected right parenthesis ')' (line 1, column 7)"),
    ("sum(x]", "unexpected right bracket ']' (line 1, column 6)"),
    ("x $ y", "unexpected character: '$' (line 1, column 3)"),
    ("x[5z]", "bad number or duration syntax: 5z (line 1, column 3)"),
    ("x{a=~'['}", "illegal regex for [ (line 1, column 6)"),
    ('up{a="b}', 'unterminated quoted string " (line 1, column 6)'),
    ("1 + {}", "vector selector must contain at least one non-empty matcher (line 1, column 5)"),
    ("x[5m]", "wrap it in rate()"),
    ("(x[5m:1s])", "wrap it in rate()"),
    ('"text"', "a text and not a number"),
    ("# nothing", "no expression"),
    ('x{v="{{ verison }}"}', "there is no {{ verison }} (line 1, column 6); there are version, stable"),
    ("x\n+ rate(x[{{ interval }}])", "there is no {{ interval }} (line 2, column 10)"),
    ("x{v={{ version }}}", "unexpected"),
    ('x{v="{{ version }}", d="{{deployment}}"} foo', "unexpected foo (line 1, column 42)"),
    ("{{ namespace }} {{ stable }}", "unexpected {{ stable }} (line 1, column 17)"),
    ("x{{ }}", "there is no {{ }}"),
]


@pytest.mark.parametrize("query", GOOD)
def test_promql_passes(query: str) -> None:
    assert find_fault(query) is None


@pytest.mark.parametrize(("query", "said"), BAD)
def test_everything_else_is_refused_in_words(query: str, said: str) -> None:
    assert said in str(find_fault(query))


@pytest.mark.parametrize("query", GOOD)
def test_what_stands_in_front_of_a_fault_is_not_blamed(query: str) -> None:
    """Wherever a good query breaks off, the place that is told lies behind that; an unclosed bracket lies before it."""
    ends = [each.end() for each in re.finditer(r"[()\[\],]", query.partition("#")[0])] + [len(query)]
    for beginning, fault in product((query[:end] for end in ends), (" 7 8 9", " $", " }")):
        said = find_fault(beginning + fault)
        if said is None:  # a closing brace may be none
            continue
        place = re.search(r"line (\d+), column (\d+)", said)
        assert place is not None, said
        lines = beginning.split("\n")
        is_behind = (int(place[1]), int(place[2])) > (len(lines), len(lines[-1]))
        assert is_behind or "unclosed" in said, (beginning + fault, said)


def test_all_variables_are_filled_in() -> None:
    query = " ".join(f"{{{{ {name} }}}}" for name in EXAMPLES)
    assert fill(query, {name: name.upper() for name in EXAMPLES}).split() == [name.upper() for name in EXAMPLES]


def test_the_queries_of_the_examples_pass() -> None:
    folder = Path(__file__).parents[2] / "examples"
    documents = [each for path in folder.glob("*.yaml") for each in yaml.safe_load_all(path.read_text()) if each]
    specs = [each["spec"] for each in documents if each["kind"] == "Deployment"]
    metrics = [metric for spec in specs for metric in spec.get("analysis", {}).get("metrics", ())]
    queries = [metric["query"] for metric in metrics if "query" in metric]
    assert queries
    assert [find_fault(query) for query in queries] == [None] * len(queries)
