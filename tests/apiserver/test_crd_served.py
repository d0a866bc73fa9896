"""What people see of the kinds: discovery, columns, status, scale, explain."""

from datetime import UTC, datetime

import pytest

from tidegate.api.base import Condition, ConditionStatus
from tidegate.api.crd import KINDS
from tidegate.api.deployment import ActiveCanary, ActiveStable, DeploymentPhase, DeploymentStatus

pytestmark = pytest.mark.apiserver

DIGEST = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


def make_deployment(name: str) -> dict:
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"modelVersion": "connect4-1.1.0"},
    }


def make_status() -> DeploymentStatus:
    return DeploymentStatus(
        observed_generation=1,
        phase=DeploymentPhase.PROGRESSING,
        message="holding 5 % for 30m",
        stable=ActiveStable(model_version="connect4-1.0.0", digest=DIGEST, percent=95, ready_replicas=2),
        canary=ActiveCanary(
            model_version="connect4-1.1.0", digest=DIGEST, percent=5, ready_replicas=1, steps=11, started_at=NOW
        ),
        conditions=(
            Condition(
                type="Ready", status=ConditionStatus.TRUE, reason="Serving", message="ok", last_transition_time=NOW
            ),
        ),
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_definition_is_established_and_structural(server, kind):
    conditions = server.kubectl(
        "get",
        "crd",
        f"{kind.plural}.tidegate.dev",
        "-o",
        "jsonpath={.status.conditions[*].type}={.status.conditions[*].status}",
    )
    assert "Established" in conditions
    assert "False" not in conditions
    assert "NonStructuralSchema" not in conditions


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_short_name_is_served(server, api, kind):
    assert server.kubectl("get", kind.short, "--ignore-not-found", "-n", "kube-system") == ""
    resources = {item["name"]: item for item in api.get("/apis/tidegate.dev/v1alpha1")["resources"]}
    assert resources[kind.plural]["shortNames"] == [kind.short]
    assert resources[kind.plural]["categories"] == ["tidegate"]
    assert f"{kind.plural}/status" in resources


def test_a_whole_status_is_stored_as_it_was_written(api):
    stored = api.create(make_deployment("with-status"))
    answer = api.merge(stored, {"status": make_status().to_json()}, subresource="/status")
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == make_status().to_json()
    assert DeploymentStatus.model_validate(answer.json()["status"]) == make_status()
    assert answer.json()["metadata"]["generation"] == 1


def test_status_and_spec_are_written_apart(api):
    stored = api.create(make_deployment("apart"))
    answer = api.merge(stored, {"spec": {"paused": True}, "status": {"message": "by a user"}})
    assert answer.json()["spec"]["paused"] is True
    assert "status" not in answer.json()
    answer = api.merge(
        stored, {"spec": {"paused": False}, "status": {"message": "by the operator"}}, subresource="/status"
    )
    assert answer.json()["spec"]["paused"] is True
    assert answer.json()["status"]["message"] == "by the operator"


def test_the_category_lists_the_whole_chain_with_columns_that_tell_the_story(server, api):
    stored = api.create(make_deployment("columns"), namespace="default")
    api.merge(stored, {"status": make_status().to_json()}, subresource="/status")
    api.create(
        {
            "apiVersion": "tidegate.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": "columns"},
            "spec": {
                "model": "connect4",
                "trainer": {"algorithm": "supervised"},
                "datasets": [{"name": "positions", "uri": "builtin://connect4-solved"}],
            },
        }
    )
    table = server.kubectl("get", "tidegate", "-n", "default")
    assert "deployment.tidegate.dev/columns" in table
    assert "trainingjob.tidegate.dev/columns" in table
    header, row = server.kubectl("get", "mdep", "columns", "-n", "default").splitlines()
    assert header.split() == ["NAME", "STABLE", "CANARY", "PERCENT", "PHASE", "READY", "AGE"]
    assert row.split()[:6] == ["columns", "connect4-1.0.0", "connect4-1.1.0", "5", "Progressing", "True"]
    assert "holding 5 % for 30m" in server.kubectl("get", "mdep", "columns", "-n", "default", "-o", "wide")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_field_is_explained(server, api, kind):
    text = server.kubectl("explain", f"{kind.plural}.spec", "--api-version=tidegate.dev/v1alpha1")
    assert "<no description>" not in text


def test_the_replicas_can_be_scaled(server, api):
    api.create(make_deployment("scaled"))
    server.kubectl("scale", "mdep/scaled", "-n", "default", "--replicas=3")
    path = "/apis/tidegate.dev/v1alpha1/namespaces/default/deployments/scaled"
    assert api.get(path)["spec"]["serving"]["replicas"] == 3


def test_an_explained_apply_error_is_what_kubectl_shows(server, api):
    """The last mile: the sentence reaches the person at the terminal."""
    text = """{"apiVersion": "tidegate.dev/v1alpha1", "kind": "Deployment", "metadata": {"name": "last-mile"},
      "spec": {"modelVersion": "connect4-1.1.0", "analysis": {"interval": "30"}}}"""
    with pytest.raises(Exception, match=r"spec\.analysis\.interval.*write a duration from 1s to 24h"):
        server.kubectl("apply", "-n", "default", "-f", "-", stdin=text)
