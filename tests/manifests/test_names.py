"""Names: valid, stable, and never the same for two different things."""

import doctest
import re

from hypothesis import given
from hypothesis import strategies as st

from tidegate.domain.manifests import names

LABEL = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
VALUE = re.compile(r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
object_names = st.from_regex(r"\A[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?\Z")
digests = st.from_regex(r"\A[a-f0-9]{64}\Z")


@given(object_names, object_names, digests)
def test_names_of_workloads_and_services_are_dns_labels(deployment: str, version: str, digest: str) -> None:
    for name in (
        names.serving(deployment, version, digest),
        names.comparator(deployment, version, digest),
        names.compared(names.serving(deployment, version, digest), names.comparator(deployment, version, digest)),
        names.endpoint(deployment),
        names.training_job(deployment),
        names.validation_job(version),
    ):
        assert LABEL.match(name), name
        assert len(name) <= 63


@given(object_names)
def test_label_values_are_valid(name: str) -> None:
    value = names.label_value(name)
    assert VALUE.match(value), value
    assert len(value) <= 63


@given(st.lists(object_names, min_size=2, max_size=2, unique=True), digests)
def test_different_things_have_different_names(pair: list[str], digest: str) -> None:
    one, other = pair
    assert names.dns_label(one) != names.dns_label(other)
    assert names.label_value(one) != names.label_value(other)
    assert names.serving("d", one, digest) != names.serving("d", other, digest)
    assert names.serving(one, "m", digest) != names.serving(other, "m", digest)
    assert names.compared(names.dns_label(one), "c") != names.compared(names.dns_label(other), "c")
    assert names.compared("w", one) != names.compared("w", other)


def test_long_names_that_differ_only_at_the_end() -> None:
    long = "m" * 250
    assert names.validation_job(long + "-1") != names.validation_job(long + "-2")
    assert names.label_value(long + "-1") != names.label_value(long + "-2")


def test_what_is_valid_stays_readable() -> None:
    assert names.endpoint("connect4") == "connect4"
    assert names.training_job("connect4-policy") == "connect4-policy-training"
    assert names.label_value("connect4-1.1.0") == "connect4-1.1.0"
    assert names.serving("connect4", "connect4-1.1.0", "a" * 64).startswith("connect4-")


def test_a_child_goes_with_its_owner_and_wakes_it() -> None:
    """Children of every kind alike."""
    owner = names.Owner("Deployment", "m", "uid-1")
    assert names.child_metadata("m-1", "shop", owner, {"a": "b"}, {"c": "d"}) == {
        "name": "m-1",
        "namespace": "shop",
        "labels": {"a": "b"},
        "annotations": {"tidegate.dev/owner": "Deployment/m", "c": "d"},
        "ownerReferences": [
            {
                "apiVersion": "tidegate.dev/v1alpha1",
                "kind": "Deployment",
                "name": "m",
                "uid": "uid-1",
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }


def test_owner_is_read_back() -> None:
    owner = names.Owner("TrainingJob", "a.b-c", "uid-1")
    assert names.parse_owner(names.owner_annotation(owner)) == ("TrainingJob", "a.b-c")
    assert names.parse_owner({}) is None
    assert names.parse_owner({names.OWNER_ANNOTATION: "nonsense"}) is None


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(names).failed == 0
