"""The objects of a comparator: both sides of its contract, where the copies go, and what it may do."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tidegate.api.deployment import Agreement, Serving, Shadow
from tidegate.api.model_version import ArtifactReference, Role
from tidegate.api.route import RouteSpec
from tidegate.domain.manifests import names
from tidegate.domain.manifests.comparator import ComparatorObjects, Shadowing, build_comparator
from tidegate.domain.manifests.route import build_route
from tidegate.domain.manifests.serving import Platform, Served, build_serving
from tidegate.domain.release import Backend, Mirror, SetRoute, VersionID
from tidegate.reconcilers.observation import version_of
from tidegate.router.names import Protocol
from tidegate_serving.comparator import GRPC_PORT, HTTP_PORT
from tidegate_serving.contract import ComparatorDocument

STABLE, CANARY = VersionID("connect4-1.0.0", "a" * 64), VersionID("connect4-1.1.0", "b" * 64)


def build(version: VersionID = CANARY, stable: VersionID = STABLE, **shadow: Any) -> ComparatorObjects:
    shadowing = Shadowing("default", "connect4", "uid-1", version, stable, Shadow(**shadow))
    return build_comparator(shadowing, Platform("agent:1", "triton:1"))


def document(**shadow: Any) -> ComparatorDocument:
    (variable,) = build(**shadow).workload["spec"]["template"]["spec"]["containers"][0]["env"]
    assert variable["name"] == "TIDEGATE_COMPARATOR"
    return ComparatorDocument.model_validate_json(variable["value"])


def test_the_comparator_reads_what_the_operator_writes() -> None:
    read = document(agreement=Agreement.TOLERANCE, tolerance=0.01, outputs=("policy",))
    assert (read.agreement, read.tolerance, read.outputs) == ("Tolerance", 0.01, ("policy",))
    assert document().outputs is None


@pytest.mark.parametrize(("side", "version"), [("stable", STABLE), ("shadow", CANARY)])
def test_each_version_is_asked_by_way_of_a_service_of_its_pods(side: str, version: VersionID) -> None:
    """Headless: all pods get their share of the questions."""
    asked = getattr(document(), side)
    host = asked.url.removeprefix("http://").removesuffix(":8000")
    (service,) = [each for each in build().services if f"{each['metadata']['name']}.default.svc" == host]
    assert asked.grpc_address == f"{host}:8001"
    assert asked.model_version == version.model_version
    assert service["spec"]["clusterIP"] == "None"
    assert not service["spec"].get("publishNotReadyAddresses")
    artifact = ArtifactReference(uri="s3://b/m.onnx", sha256=version.digest)
    served = Served("default", "connect4", "uid-1", version.model_version, artifact, None, Serving())
    pod = build_serving(served, Platform("agent:1", "triton:1"), 1)["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    listened = {each["containerPort"] for container in pod["spec"]["containers"] for each in container["ports"]}
    assert {each["targetPort"] for each in service["spec"]["ports"]} == {8000, 8001} <= listened


def test_everything_of_a_comparator_is_the_deployments_and_tells_the_shadowed_version() -> None:
    built = build()
    for each in (*built.services, built.workload):
        metadata = each["metadata"]
        assert metadata["labels"]["tidegate.dev/component"] == "comparator"
        assert metadata["labels"][names.DEPLOYMENT_LABEL] == "connect4"
        assert metadata["ownerReferences"][0]["uid"] == "uid-1"
        assert version_of(each) == CANARY


def test_the_same_stable_name_with_another_digest_is_asked_by_way_of_another_service() -> None:
    """A Service of the comparison before leads to pods of the artifact before."""
    (before, shadowed), (after, still) = (
        build(stable=each).services for each in (STABLE, replace(STABLE, digest="c" * 64))
    )
    assert before["metadata"]["name"] != after["metadata"]["name"]
    assert before["spec"]["selector"] != after["spec"]["selector"]
    assert shadowed == still


def test_two_shadows_share_no_service() -> None:
    """What one leaves behind is removed while the other still asks."""
    before, after = (
        {service["metadata"]["name"] for service in build(each).services}
        for each in (CANARY, replace(CANARY, digest="c" * 64))
    )
    assert len(before | after) == 4


def test_copies_go_where_the_comparator_listens() -> None:
    workload = build().workload
    backends = (Backend(STABLE, 100.0, Role.STABLE),)
    route = build_route("default", "connect4", "uid-1", SetRoute(backends, mirror=Mirror(CANARY, 40)))
    spec = RouteSpec.model_validate(route["spec"])
    assert spec.mirror is not None
    pod = workload["spec"]["template"]
    assert spec.mirror.workload == workload["metadata"]["name"] == pod["metadata"]["labels"]["tidegate.dev/workload"]
    assert workload["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {Protocol.HTTP: HTTP_PORT, Protocol.GRPC: GRPC_PORT}, "the router looks for these names"
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(HTTP_PORT)


def test_another_comparison_replaces_the_pod() -> None:
    hashes = {json.dumps(build(**each).workload["metadata"]["annotations"]) for each in ({}, {"outputs": ("a",)}, {})}
    assert len(hashes) == 2


def test_the_pod_keeps_to_the_restricted_standard() -> None:
    pod = build().workload["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    security = pod["containers"][0]["securityContext"]
    assert (security["readOnlyRootFilesystem"], security["allowPrivilegeEscalation"]) == (True, False)
    assert pod["containers"][0]["resources"]["limits"]["memory"]


def test_names_are_labels_however_long_the_deployment_is() -> None:
    name = names.comparator("d" * 46, "m" * 253, "c" * 64)
    assert len(name) <= 63
    assert name != names.comparator("d" * 46, "m" * 252, "c" * 64)
