"""The objects of a comparator: both sides of its contract, where the copies go, and what it may do."""

import json
from typing import Any

from tidegate.api.deployment import Agreement, Shadow
from tidegate.api.model_version import Role
from tidegate.api.route import RouteSpec
from tidegate.domain.manifests import names
from tidegate.domain.manifests.comparator import Shadowing, build_comparator
from tidegate.domain.manifests.route import build_route
from tidegate.domain.manifests.serving import Platform
from tidegate.domain.release import Backend, Mirror, SetRoute, VersionID
from tidegate.router.names import Protocol
from tidegate_serving.comparator import GRPC_PORT, HTTP_PORT
from tidegate_serving.contract import ComparatorDocument

STABLE, CANARY = VersionID("connect4-1.0.0", "a" * 64), VersionID("connect4-1.1.0", "b" * 64)


def build(**shadow: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return build_comparator(
        Shadowing("default", "connect4", "uid-1", CANARY, STABLE, Shadow(**shadow)), Platform("agent:1", "triton:1")
    )


def document(**shadow: Any) -> ComparatorDocument:
    (variable,) = build(**shadow)[1]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert variable["name"] == "TIDEGATE_COMPARATOR"
    return ComparatorDocument.model_validate_json(variable["value"])


def test_the_comparator_reads_what_the_operator_writes() -> None:
    read = document(agreement=Agreement.TOLERANCE, tolerance=0.01, outputs=("policy",))
    assert (read.agreement, read.tolerance, read.outputs) == ("Tolerance", 0.01, ("policy",))
    assert read.stable.url == f"http://{names.serving('connect4', *_parts(STABLE))}.default.svc:8000"
    assert read.shadow.url == f"http://{names.serving('connect4', *_parts(CANARY))}.default.svc:8000"
    assert read.stable.grpc_address == f"{names.serving('connect4', *_parts(STABLE))}.default.svc:8001"
    assert read.shadow.grpc_address == f"{names.serving('connect4', *_parts(CANARY))}.default.svc:8001"
    assert document().outputs is None


def _parts(version: VersionID) -> tuple[str, str]:
    return version.model_version, version.digest


def test_copies_go_where_the_comparator_listens() -> None:
    service, workload = build()
    backends = (Backend(STABLE, 100.0, Role.STABLE),)
    route = build_route("default", "connect4", "uid-1", SetRoute(backends, mirror=Mirror(CANARY, 40)))
    spec = RouteSpec.model_validate(route["spec"])
    assert spec.mirror is not None
    assert spec.mirror.service == service["metadata"]["name"] == workload["metadata"]["name"]
    pod = workload["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    ports = {each["name"]: each["port"] for each in service["spec"]["ports"]}
    assert ports == {Protocol.HTTP: HTTP_PORT, Protocol.GRPC: GRPC_PORT}, "the router looks for these names"
    assert {each["name"]: each["containerPort"] for each in container["ports"]} == ports
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(HTTP_PORT)
    assert service["metadata"]["labels"][names.DEPLOYMENT_LABEL] == "connect4", "the router watches these"


def test_another_comparison_replaces_the_pod() -> None:
    hashes = {json.dumps(build(**each)[1]["metadata"]["annotations"]) for each in ({}, {"outputs": ("a",)}, {})}
    assert len(hashes) == 2


def test_the_pod_keeps_to_the_restricted_standard() -> None:
    pod = build()[1]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    security = pod["containers"][0]["securityContext"]
    assert (security["readOnlyRootFilesystem"], security["allowPrivilegeEscalation"]) == (True, False)
    assert pod["containers"][0]["resources"]["limits"]["memory"]


def test_names_are_labels_however_long_the_deployment_is() -> None:
    name = names.comparator("d" * 46, "m" * 253, "c" * 64)
    assert len(name) <= 63
    assert name != names.comparator("d" * 46, "m" * 252, "c" * 64)
