"""Queries of users: what is PromQL that gives one number, and what is said about everything else."""

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
    ("sum(rate(x[1m])", "unclosed left parenthesis"),
    ("rate(x)", "expected type matrix in call to function 'rate'"),
    ("summ(x)", "unknown function with name 'summ'"),
    ("foo bar", "invalid promql query"),
    ("select 1", "invalid promql query"),
    ('x{a="b"', "inside braces"),
    ("x[5m]", "wrap it in rate()"),
    ("(x[5m:1s])", "wrap it in rate()"),
    ('"text"', "a text and not a number"),
    ("# nothing", "no expression"),
    ('x{v="{{ verison }}"}', "there is no {{ verison }} (at character 6); there are version, stable"),
    ("rate(x[{{ interval }}])", "there is no {{ interval }} (at character 8)"),
    ("x{v={{ version }}}", "unexpected"),
    ("x{{ }}", "there is no {{ }}"),
]


@pytest.mark.parametrize("query", GOOD)
def test_promql_passes(query: str) -> None:
    assert find_fault(query) is None


@pytest.mark.parametrize(("query", "said"), BAD)
def test_everything_else_is_refused_in_words(query: str, said: str) -> None:
    assert said in str(find_fault(query))


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
