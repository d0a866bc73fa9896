"""The workload of a serving version: what the pods read, what the restricted level demands, what stays."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tidegate.api.base import ComputeResources, Scheduling
from tidegate.api.deployment import Serving, Triton
from tidegate.api.model_version import ArtifactReference, Role, Signature, TensorSpec
from tidegate.api.route import RouteSpec
from tidegate.domain.manifests import names
from tidegate.domain.manifests.route import build_route
from tidegate.domain.manifests.serving import (
    DOCUMENT_ANNOTATION,
    TEMPLATE_ANNOTATION,
    Platform,
    Served,
    build_document,
    build_endpoint,
    build_serving,
    template_hash,
)
from tidegate.domain.release import Backend, SetRoute, Stickiness, VersionID
from tidegate.router.endpoints import EndpointTable, parse_pod
from tidegate.router.names import Protocol
from tidegate.router.settings import RouterSettings
from tidegate_serving.contract import ServingDocument

SIGNATURE = Signature(
    inputs=(TensorSpec(name="board", data_type="FP32", shape=(-1, 3, 6, 7)),),
    outputs=(TensorSpec(name="policy", data_type="FP32", shape=(-1, 7)),),
)
PLATFORM = Platform("agent:1", "triton:1", mlflow_url="http://mlflow:5000", gpu_runtime_class="nvidia")
SERVED = Served(
    namespace="default",
    deployment="connect4",
    deployment_uid="uid-1",
    model_version="connect4-1.1.0",
    artifact=ArtifactReference(uri="mlflow-artifacts:/1/a/artifacts/model/model.onnx", sha256="a" * 64, size_bytes=9),
    signature=SIGNATURE,
    serving=Serving(replicas=2, resources=ComputeResources(cpu="1", memory="1Gi")),
)


def build(served: Served = SERVED, platform: Platform = PLATFORM) -> dict[str, Any]:
    return build_serving(served, platform, 2)


def pod(served: Served = SERVED, platform: Platform = PLATFORM) -> dict[str, Any]:
    return dict(build(served, platform)["spec"]["template"]["spec"])


def containers(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in (*spec["initContainers"], *spec["containers"])}


def with_serving(**changes: Any) -> Served:
    return replace(SERVED, serving=SERVED.serving.model_copy(update=changes))


GPU = with_serving(resources=ComputeResources(cpu="2", memory="8Gi", gpus=2))


@pytest.mark.parametrize("served", [SERVED, GPU, replace(SERVED, signature=None)])
@pytest.mark.parametrize("platform", [PLATFORM, Platform("a", "t")])
def test_the_pods_side_reads_the_document(served: Served, platform: Platform) -> None:
    template = build_serving(served, platform, 1)["spec"]["template"]
    text = template["metadata"]["annotations"][DOCUMENT_ANNOTATION]
    (volume,) = [each for each in template["spec"]["volumes"] if each["name"] == "document"]
    (item,) = volume["downwardAPI"]["items"]
    assert item["fieldRef"]["fieldPath"] == f"metadata.annotations['{DOCUMENT_ANNOTATION}']"
    for container in (*template["spec"]["initContainers"], template["spec"]["containers"][1]):
        (path,) = [each["value"] for each in container["env"] if each["name"] == "TIDEGATE_SERVING"]
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == "document"]
        assert path == f"{mount['mountPath']}/{item['path']}"
    document = ServingDocument.model_validate_json(text)
    assert document.model_dump(mode="json", by_alias=True, exclude={"artifact": {"format"}}) == build_document(
        served, platform
    )
    assert (document.deployment, document.model_version) == ("connect4", "connect4-1.1.0")
    assert document.triton.gpus == served.serving.resources.gpus


def test_workload_and_pods_say_whose_they_are() -> None:
    workload = build()
    name = names.serving("connect4", "connect4-1.1.0", "a" * 64)
    template = workload["spec"]["template"]
    assert workload["metadata"]["name"] == name
    assert workload["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    for metadata in (workload["metadata"], template["metadata"]):
        assert metadata["labels"] == {
            "app.kubernetes.io/managed-by": "tidegate",
            "tidegate.dev/component": "serving",
            "tidegate.dev/deployment": "connect4",
            "tidegate.dev/model-version": "connect4-1.1.0",
            "tidegate.dev/workload": name,
        }
        assert metadata["annotations"][names.OWNER_ANNOTATION] == "Deployment/connect4"
        assert metadata["annotations"]["tidegate.dev/digest"] == "a" * 64
    (spread,) = template["spec"]["topologySpreadConstraints"]
    assert workload["spec"]["selector"] == spread["labelSelector"] == {"matchLabels": {"tidegate.dev/workload": name}}


def test_pods_pass_the_restricted_level() -> None:
    spec = pod()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in containers(spec).values():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert {"emptyDir", "downwardAPI"} == {kind for volume in spec["volumes"] for kind in volume if kind != "name"}


def test_every_mount_has_its_volume() -> None:
    spec = pod()
    volumes = {volume["name"] for volume in spec["volumes"]}
    mounted = {mount["name"] for each in containers(spec).values() for mount in each["volumeMounts"]}
    assert mounted == volumes


def test_readiness_is_the_agents_and_triton_is_given_time_to_load_and_to_drain() -> None:
    found = containers(pod())
    assert "readinessProbe" not in found["triton"]
    assert found["agent"]["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "agent"}
    assert found["agent"]["readinessProbe"]["periodSeconds"] == 1
    assert found["triton"]["startupProbe"]["failureThreshold"] >= 600
    drain = found["triton"]["lifecycle"]["preStop"]["sleep"]["seconds"]
    (exit_time,) = (arg.partition("=")[2] for arg in found["triton"]["args"] if "exit-timeout" in arg)
    assert pod()["terminationGracePeriodSeconds"] > drain + int(exit_time)


def test_triton_loads_exactly_the_model_of_the_deployment() -> None:
    arguments = containers(pod())["triton"]["args"]
    assert "--load-model=connect4" in arguments
    assert "--model-control-mode=explicit" in arguments
    assert "--disable-auto-complete-config" in arguments
    assert "--allow-gpu-metrics=false" in arguments
    without = containers(pod(replace(SERVED, signature=None)))["triton"]["args"]
    assert "--disable-auto-complete-config" not in without


def test_resources_and_threads() -> None:
    found = containers(pod())
    asked = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}
    assert found["triton"]["resources"] == asked, "no answer is throttled"
    (threads,) = (each for each in found["puller"]["env"] if each["name"] == "TIDEGATE_THREADS")
    assert threads["valueFrom"]["resourceFieldRef"]["containerName"] == "triton"
    free = containers(pod(with_serving(resources=ComputeResources())))
    assert "limits" not in free["triton"]["resources"]
    assert [each["name"] for each in free["puller"]["env"]] == ["TIDEGATE_SERVING"]


def test_gpus_are_limits_with_runtime_class_and_toleration() -> None:
    spec = pod(GPU)
    assert containers(spec)["triton"]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert spec["runtimeClassName"] == "nvidia"
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert "runtimeClassName" not in pod(GPU, Platform("a", "t"))
    assert not {"runtimeClassName", "tolerations"} & pod().keys()


def test_wishes_about_nodes_reach_the_pod() -> None:
    wishes = {
        "nodeSelector": {"pool": "inference"},
        "tolerations": [{"key": "pool", "operator": "Equal", "value": "inference", "effect": "NoSchedule"}],
        "priorityClassName": "online",
    }
    scheduling = Scheduling.model_validate(wishes)
    assert wishes.items() <= pod(with_serving(scheduling=scheduling)).items()
    on_gpus = pod(with_serving(scheduling=scheduling, resources=ComputeResources(gpus=1)))
    assert [each["key"] for each in on_gpus["tolerations"]] == ["pool", "nvidia.com/gpu"]


def test_no_pod_is_lost_before_its_successor_is_ready() -> None:
    assert build()["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert pod()["topologySpreadConstraints"][0]["whenUnsatisfiable"] == "ScheduleAnyway"


def test_the_template_hash_tells_every_change_but_the_number_of_pods() -> None:
    same = template_hash(SERVED, PLATFORM)
    for replicas in (2, 7):
        annotations = build_serving(SERVED, PLATFORM, replicas)["metadata"]["annotations"]
        assert annotations[TEMPLATE_ANNOTATION] == same
    assert template_hash(with_serving(replicas=9), PLATFORM) == same
    others = [
        template_hash(SERVED, replace(PLATFORM, triton_image="triton:2")),
        template_hash(SERVED, replace(PLATFORM, mlflow_url=None)),
        template_hash(with_serving(triton=Triton(max_batch_size=1)), PLATFORM),
        template_hash(with_serving(resources=ComputeResources(cpu="2")), PLATFORM),
        template_hash(with_serving(scheduling=Scheduling(node_selector={"pool": "a"})), PLATFORM),
        template_hash(replace(SERVED, signature=None), PLATFORM),
        template_hash(replace(SERVED, model_version="connect4-1.2.0"), PLATFORM),
    ]
    assert len({same, *others}) == 8


def test_replicas_are_written() -> None:
    assert build()["spec"]["replicas"] == 2


def test_the_endpoint_is_an_alias_of_the_proxies() -> None:
    service = build_endpoint("default", "connect4", "uid-1", PLATFORM)
    assert service["metadata"]["name"] == "connect4"
    assert service["spec"]["type"] == "ExternalName"
    assert service["spec"]["externalName"] == PLATFORM.envoy_service
    assert "selector" not in service["spec"]


def test_the_router_finds_the_pods_and_both_ports_of_a_version() -> None:
    pod = live_pod(build()["spec"]["template"])
    table = EndpointTable()
    table.put(("default", "p"), parse_pod(pod))
    workload = ("default", names.serving("connect4", "connect4-1.1.0", "a" * 64))
    assert table.addresses(workload, Protocol.HTTP) == (("10.0.0.7", 8000),)
    assert table.addresses(workload, Protocol.GRPC) == (("10.0.0.7", 8001),)
    assert RouterSettings().pod_selector in pod["metadata"]["labels"], "the router watches these"


def live_pod(template: dict[str, Any]) -> dict[str, Any]:
    """Return a ready pod of a workload, as the API server has it."""
    status = {"phase": "Running", "podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "True"}]}
    metadata = template["metadata"] | {"name": "p", "namespace": "default"}
    return {"metadata": metadata, "spec": template["spec"], "status": status}


def test_the_route_names_the_workloads_of_the_versions() -> None:
    backends = (
        Backend(VersionID("connect4-1.1.0", "a" * 64), 5.0, Role.CANARY),
        Backend(VersionID("connect4-1.0.0", "b" * 64), 95.0, Role.STABLE, variant="control"),
    )
    route = build_route("default", "connect4", "uid-1", SetRoute(backends, Stickiness("x-user-id")))
    spec = RouteSpec.model_validate(route["spec"])
    assert [each.workload for each in spec.backends] == [
        names.serving("connect4", "connect4-1.1.0", "a" * 64),
        names.serving("connect4", "connect4-1.0.0", "b" * 64),
    ]
    assert sum(each.percent for each in spec.backends) == 100
    assert spec.sticky is not None
    assert spec.backends[1].variant == "control"
    assert route["spec"]["sticky"] == {"header": "x-user-id"}
    salted = build_route("default", "connect4", "uid-1", SetRoute(backends, Stickiness("x-user-id", "a-b")))
    assert salted["spec"]["sticky"] == {"header": "x-user-id", "salt": "a-b"}
    assert "sticky" not in build_route("default", "connect4", "uid-1", SetRoute(backends))["spec"]
    assert json.dumps(route)
