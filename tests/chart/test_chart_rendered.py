"""What the chart renders keeps the contracts between its parts, in every set of values."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate.adapters.access import KEYS
from tidegate.api.deployment import Shadow
from tidegate.domain.manifests.comparator import Shadowing, build_comparator
from tidegate.domain.manifests.serving import Platform
from tidegate.domain.release import VersionID
from tidegate.domain.requests import GRPC_FAILURES, GRPC_STATUSES, REQUESTS
from tidegate.router.settings import RouterSettings
from tidegate.settings import Settings

pytestmark = pytest.mark.apiserver

CHART = Path(__file__).parents[2] / "charts" / "tidegate"
MONITORING = tuple(f"monitoring.coreos.com/v1/{kind}" for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule"))
PLACED = {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "affinity": {"nodeAffinity": {}}}

VALUE_SETS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "own-addresses": {
        "prometheus": {
            "enabled": False,
            "url": "http://prometheus.monitoring:9090",
            "auth": {"existingSecret": "mimir"},
        },
        "mlflow": {"enabled": False, "url": "https://mlflow.example.com"},
        "gpu": {"runtimeClassName": "nvidia"},
    },
    "bare": {"prometheus": {"enabled": False}, "mlflow": {"enabled": False}, "crds": {"enabled": False}},
    "namespaces": {"watchNamespaces": ["games", "search"], "gates": {"secrets": ["change-board"]}},
    "production": {
        "operator": {"replicas": 2, "podAnnotations": {"team": "games"}, **PLACED},
        "router": PLACED,
        "envoy": {"replicas": 3, "service": {"type": "LoadBalancer", "annotations": {"team": "games"}}, **PLACED},
        "mlflow": {
            "storage": "50Gi",
            "storageClassName": "fast",
            "backendStoreUri": "postgresql://mlflow@db/mlflow",
            "artifactsDestination": "s3://models",
            "env": [{"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}],
            "allowedHosts": ["mlflow.example.com"],
            **PLACED,
        },
        "prometheus": {"storage": "20Gi", "retention": "7d", **PLACED},
        "networkPolicy": {"enabled": True},
        "images": {"registry": "registry.example.com/ml", "tag": "1.2.3", "pullSecrets": [{"name": "registry"}]},
        "artifactRoot": "s3://models",
    },
    "one-node": {
        "crds": {"keep": False},
        "operator": {"image": "tidegate.local/operator:1", "images": {"trainer": "t:1", "modelAgent": "m:1"}},
        "envoy": {"replicas": 1, "service": {"type": "NodePort", "nodePort": 30080}},
        "prometheus": {"scrapeInterval": "1s", "service": {"type": "NodePort", "nodePort": 30090}},
        "mlflow": {"hostPath": "/var/lib/mlflow"},
    },
}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"operator": {"replicas": 0}}, "replicas"),
    ({"operator": {"logLevel": "TRACE"}}, "logLevel"),
    ({"operator": {"images": {"triton": ""}}}, "triton"),
    ({"operators": {}}, "operators"),
    ({"envoy": {"service": {"type": "External"}}}, "type"),
    ({"envoy": {"service": {"nodePort": 99999}}}, "nodePort"),
    ({"envoy": {"replicas": "two"}}, "replicas"),
    ({"prometheus": {"url": "prometheus:9090"}}, "url"),
    ({"prometheus": {"enabled": False, "url": "https://ada:secret@prometheus:9090"}}, "url"),
    ({"prometheus": {"enabled": False, "auth": {"existingSecret": "My Secret"}}}, "existingSecret"),
    ({"prometheus": {"auth": {"existingSecret": "mimir"}}}, "set prometheus.enabled: false"),
    ({"prometheus": {"scrapeInterval": "1"}}, "scrapeInterval"),
    ({"mlflow": {"storage": "lots"}}, "storage"),
    ({"mlflow": {"hostPath": "relative/path"}}, "hostPath"),
    ({"images": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    ({"images": {"pullSecrets": ["registry"]}}, "pullSecrets"),
    ({"watchNamespaces": "games"}, "watchNamespaces"),
    ({"watchNamespaces": ["Games"]}, "watchNamespaces"),
    ({"gates": {"secrets": "change-board"}}, "secrets"),
    ({"gates": {"secrets": ["*"]}}, "secrets"),
    ({"monitoring": {"rules": {"errorRate": 5}}}, "errorRate"),
]


@pytest.fixture(scope="session", params=VALUE_SETS)
def documents(request, render):
    return render(VALUE_SETS[request.param], kinds=MONITORING)


def of_kind(documents: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] in kinds]


def pods(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each["spec"]["template"] for each in of_kind(documents, "Deployment")}


def environment(template: dict[str, Any]) -> dict[str, str]:
    """Read the variables of a pod; those that Kubernetes fills in get some value."""
    entries = template["spec"]["containers"][0]["env"]
    return {entry["name"]: entry.get("value", "filled-in") for entry in entries}


@pytest.mark.parametrize("name", VALUE_SETS)
def test_helm_finds_no_fault(helm, name):
    helm("lint", "--strict", "--kube-version=1.34.0", str(CHART), values=VALUE_SETS[name])


@pytest.mark.parametrize(("values", "field"), REFUSED, ids=[f"{field}-{i}" for i, (_, field) in enumerate(REFUSED)])
def test_a_wrong_value_is_refused_with_its_name(helm, values, field):
    done = helm("template", "tidegate", str(CHART), "--kube-version=1.34.0", values=values, check=False)
    assert done.returncode != 0
    assert field in done.stderr


def test_every_object_says_whose_it_is(documents):
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in documents]
    assert len(names) == len(set(names))
    for each in documents:
        assert each["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        assert len(each["metadata"]["name"]) <= 63


def test_every_pod_keeps_the_restricted_level(documents):
    for name, template in pods(documents).items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] == 65532, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


def test_only_who_talks_to_the_api_server_has_a_token(documents):
    for name, template in pods(documents).items():
        talks = name.rpartition("-")[2] in {"operator", "router", "prometheus"}
        assert ("serviceAccountName" in template["spec"]) == talks, name
        assert template["spec"].get("automountServiceAccountToken", True) == talks, name


def test_every_container_has_probes_requests_and_a_memory_limit(documents):
    for name, template in pods(documents).items():
        for container in template["spec"]["containers"]:
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name
            assert container["imagePullPolicy"] == "IfNotPresent"


def test_the_whole_system_fits_beside_the_demo(render):
    cpu = memory = 0
    for deployment in of_kind(render(), "Deployment"):
        requests = deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
        replicas = deployment["spec"]["replicas"]
        cpu += replicas * int(requests["cpu"].removesuffix("m"))
        memory += replicas * int(requests["memory"].removesuffix("Mi"))
    assert cpu <= 500
    assert memory <= 1024


def test_every_service_leads_to_ports_of_its_pods(documents):
    templates = list(pods(documents).values())
    for service in of_kind(documents, "Service"):
        selector = service["spec"]["selector"].items()
        (template,) = [each for each in templates if selector <= each["metadata"]["labels"].items()]
        ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]


def test_the_names_and_ports_are_those_that_other_parts_rely_on(render):
    services = {each["metadata"]["name"]: each for each in of_kind(render(), "Service")}
    ports = {name: [port["port"] for port in each["spec"]["ports"]] for name, each in services.items()}
    assert ports == {
        "tidegate-operator": [8080, 8081],
        "tidegate-router": [18000, 18001],
        "tidegate-envoy": [8000],
        "tidegate-prometheus": [9090],
        "tidegate-mlflow": [5000],
    }


def test_selectors_match_their_pods_and_nobody_elses(documents):
    for deployment in of_kind(documents, "Deployment"):
        selector = deployment["spec"]["selector"]["matchLabels"].items()
        matched = [name for name, each in pods(documents).items() if selector <= each["metadata"]["labels"].items()]
        assert matched == [deployment["metadata"]["name"]]


def test_the_operator_understands_every_variable(documents, monkeypatch):
    (template,) = [each for name, each in pods(documents).items() if name.endswith("-operator")]
    variables = environment(template)
    assert {name.removeprefix("TIDEGATE_").lower() for name in variables} <= set(Settings.model_fields)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.namespace == "filled-in"
    assert settings.envoy_service == "tidegate-envoy.tidegate-system.svc.cluster.local"
    assert settings.progress_url == "http://tidegate-operator.tidegate-system:8081"


def test_every_setting_that_depends_on_the_installation_is_set(render):
    variables = environment(pods(render())["tidegate-operator"])
    fixed = {"metrics_port", "progress_port", "envoy_port", "leader_election", "resync_seconds"}
    assert {f"TIDEGATE_{name.upper()}" for name in set(Settings.model_fields) - fixed} == set(variables)


def test_the_router_understands_every_variable(documents, monkeypatch):
    (template,) = [each for name, each in pods(documents).items() if name.endswith("-router")]
    variables = environment(template)
    assert {name.removeprefix("TIDEGATE_ROUTER_").lower() for name in variables} <= set(RouterSettings.model_fields)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert RouterSettings().proxy_namespace == "filled-in"
    ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
    assert ports == {"xds": RouterSettings().xds_port, "metrics": RouterSettings().http_port}


@pytest.mark.parametrize("name", ["tidegate", "blue"])
def test_the_router_finds_the_proxies_and_takes_nothing_else_for_one(render, name):
    made = pods(render(name=name))
    (router,) = [template for each, template in made.items() if each.endswith("-router")]
    selector = environment(router)["TIDEGATE_ROUTER_PROXY_SELECTOR"]
    wanted = dict(pair.split("=") for pair in selector.split(","))
    found = [each for each, template in made.items() if wanted.items() <= template["metadata"]["labels"].items()]
    assert [each.rpartition("-")[2] for each in found] == ["envoy"]


def test_envoy_finds_the_router(documents):
    (config,) = [each for each in of_kind(documents, "ConfigMap") if each["metadata"]["name"].endswith("-envoy")]
    bootstrap = yaml.safe_load(config["data"]["envoy.yaml"])
    (router,) = [each for each in bootstrap["static_resources"]["clusters"] if each["name"] == "router"]
    address = router["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    assert address == {"address": "tidegate-router.tidegate-system.svc.cluster.local", "port_value": 18000}
    (listener,) = bootstrap["static_resources"]["listeners"]
    assert listener["address"]["socket_address"]["port_value"] == 9901


def test_the_real_envoy_accepts_bootstrap_and_arguments(render, tmp_path):
    envoy = Path(sys.executable).parent / "envoy"
    documents = render()
    (config,) = [each for each in of_kind(documents, "ConfigMap") if each["metadata"]["name"].endswith("-envoy")]
    (tmp_path / "envoy.yaml").write_text(config["data"]["envoy.yaml"])
    arguments = pods(documents)["tidegate-envoy"]["spec"]["containers"][0]["args"]
    replaced = {"/etc/envoy/envoy.yaml": str(tmp_path / "envoy.yaml"), "$(POD_NAME)": "tidegate-envoy-0"}
    command = [envoy, "--mode", "validate", *(replaced.get(each, each) for each in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_annotated_ports_are_ports_of_the_pod(documents):
    for name, template in pods(documents).items():
        annotations = template["metadata"].get("annotations", {})
        if annotations.get("prometheus.io/scrape") == "true":
            ports = {port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
            assert int(annotations["prometheus.io/port"]) in ports, name


def test_prometheus_accepts_its_configuration(documents, promtool, tmp_path):
    for config in of_kind(documents, "ConfigMap"):
        if config["metadata"]["name"].endswith("-prometheus"):
            path = tmp_path / "prometheus.yml"
            path.write_text(config["data"]["prometheus.yml"])
            done = subprocess.run([promtool, "check", "config", "--syntax-only", path], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


def test_prometheus_accepts_the_alerts_and_their_series_exist(render, promtool, tmp_path):
    (rules,) = of_kind(render(kinds=MONITORING), "PrometheusRule")
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump(rules["spec"]))
    done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    source = "\n".join(path.read_text() for path in CHART.parents[1].glob("operator/tidegate/**/*.py"))
    for rule in rules["spec"]["groups"][0]["rules"]:
        assert rule["annotations"].keys() == {"summary", "description"}
        for series in re.findall(r"\btidegate_(?!namespace|deployment|version|protocol)[a-z_]+\b", rule["expr"]):
            assert f'"{series}"' in source, series


def grows(metric: str, deployment: str, per_minute: float, **labels: str) -> dict[str, str]:
    """A counter of a Deployment for half an hour, in the words of promtool."""
    known = {"tidegate_namespace": "default", "tidegate_deployment": deployment} | labels
    text = ",".join(f'{name}="{value}"' for name, value in known.items())
    return {"series": f"{metric}{{{text}}}", "values": f"0+{per_minute:g}x30"}


def answers(deployment: str, protocol: str, **per_minute: float) -> list[dict[str, str]]:
    """Requests by the class of their status: c5=10 are ten 5xx a minute."""
    return [
        grows(REQUESTS, deployment, rate, envoy_response_code_class=code[1:], tidegate_protocol=protocol)
        for code, rate in per_minute.items()
    ]


def statuses(deployment: str, **per_minute: float) -> list[dict[str, str]]:
    """Calls by their gRPC status: s13=10 are ten a minute that ended with INTERNAL."""
    return [
        grows(GRPC_STATUSES, deployment, rate, envoy_grpc_status=status[1:], tidegate_protocol="grpc")
        for status, rate in per_minute.items()
    ]


def test_the_error_rate_alert_counts_as_the_operator_does(render, promtool, tmp_path):
    """Divided by upstream_rq_total, which counts what a server took, the share of an outage would be infinite."""
    (rules,) = of_kind(render(kinds=MONITORING), "PrometheusRule")
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules["spec"]))
    series = [
        *answers("well", "http", c2=100, c4=50, c5=2),
        *answers("failing", "http", c2=90, c5=10),
        *answers("gone", "http", c5=100),
        grows("envoy_cluster_upstream_rq_total", "gone", 0, tidegate_protocol="http"),
        *answers("grpc-well", "grpc", c2=100),
        *statuses("grpc-well", s0=50, s3=25, s8=25),
        *answers("grpc-failing", "grpc", c2=90, c5=10),
        *statuses("grpc-failing", s0=80, s13=10, s14=10),
    ]
    expected = [("failing", "10%"), ("gone", "100%"), ("grpc-failing", "20%")]
    alert = next(each for each in rules["spec"]["groups"][0]["rules"] if each["alert"] == "TidegateHighErrorRate")
    told = alert["annotations"]
    test = {
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [
            {
                "alertname": "TidegateHighErrorRate",
                "eval_time": "25m",
                "exp_alerts": [
                    {
                        "exp_labels": {
                            "severity": "critical",
                            "tidegate_namespace": "default",
                            "tidegate_deployment": name,
                        },
                        "exp_annotations": {
                            "summary": f"default/{name} fails requests",
                            "description": told["description"].replace("{{ $value | humanizePercentage }}", share),
                        },
                    }
                    for name, share in expected
                ],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        set(re.findall(r"\d+", alert["expr"].partition('envoy_grpc_status=~"')[2].partition('"')[0])) == GRPC_FAILURES
    )


def test_monitors_are_made_only_where_their_kinds_exist(render):
    kinds = ("ServiceMonitor", "PodMonitor", "PrometheusRule")
    assert of_kind(render(), *kinds) == []
    made = of_kind(render({"monitoring": {"labels": {"release": "stack"}}}, kinds=MONITORING), *kinds)
    assert {each["kind"] for each in made} == set(kinds)
    assert all(each["metadata"]["labels"]["release"] == "stack" for each in made)


def test_monitors_name_ports_that_exist(render):
    documents = render(kinds=MONITORING)
    services = of_kind(documents, "Service")
    for monitor in of_kind(documents, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = [each for each in services if wanted <= each["metadata"]["labels"].items()]
        assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


@pytest.mark.parametrize(
    ("values", "where"), [({}, {"any": True}), (VALUE_SETS["namespaces"], {"matchNames": ["games", "search"]})]
)
def test_comparators_are_scraped_where_the_operator_makes_them(render, values, where):
    """Their labels and port are those of the operator's own manifest."""
    shadowing = Shadowing("games", "m", "uid", VersionID("m-2", "b" * 64), VersionID("m-1", "a" * 64), Shadow())
    pod = build_comparator(shadowing, Platform("agent:1", "triton:1")).workload["spec"]["template"]
    monitors = of_kind(render(values, kinds=MONITORING), "PodMonitor")
    (monitor,) = [each for each in monitors if each["metadata"]["name"].endswith("-comparators")]
    assert monitor["spec"]["namespaceSelector"] == where
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {each["name"] for each in pod["spec"]["containers"][0]["ports"]}
    assert endpoint["path"] == pod["metadata"]["annotations"]["prometheus.io/path"]


def test_watched_namespaces_get_roles_instead_of_cluster_roles(render):
    documents = render(VALUE_SETS["namespaces"])
    assert {each["metadata"]["namespace"] for each in of_kind(documents, "Role")} == {
        "games",
        "search",
        "tidegate-system",
    }
    cluster_wide = [each for each in of_kind(documents, "ClusterRoleBinding") if each["subjects"]]
    assert [each["metadata"]["name"] for each in cluster_wide] == ["tidegate-operator-tokens"]


def test_addresses_of_your_own_replace_the_small_ones(render):
    documents = render(VALUE_SETS["own-addresses"])
    variables = environment(pods(documents)["tidegate-operator"])
    assert variables["TIDEGATE_PROMETHEUS_URL"] == "http://prometheus.monitoring:9090"
    assert variables["TIDEGATE_MLFLOW_URL"] == "https://mlflow.example.com"
    assert variables["TIDEGATE_GPU_RUNTIME_CLASS"] == "nvidia"
    assert set(pods(documents)) == {"tidegate-operator", "tidegate-router", "tidegate-envoy"}


def test_the_secret_of_the_metric_source_is_mounted_where_the_operator_reads_it(render):
    template = pods(render(VALUE_SETS["own-addresses"]))["tidegate-operator"]
    variables = environment(template)
    (volume,) = template["spec"]["volumes"]
    (mount,) = template["spec"]["containers"][0]["volumeMounts"]
    assert volume["secret"] == {"secretName": "mimir", "optional": True, "defaultMode": 0o440}
    assert mount == {
        "name": volume["name"],
        "mountPath": variables["TIDEGATE_PROMETHEUS_CREDENTIALS"],
        "readOnly": True,
    }
    assert variables["TIDEGATE_PROMETHEUS_SECRET"] == "mimir"
    assert template["spec"]["securityContext"]["fsGroup"] == 65532
    without = pods(render())["tidegate-operator"]
    assert environment(without)["TIDEGATE_PROMETHEUS_CREDENTIALS"] == ""
    assert "volumes" not in without["spec"]


def test_every_key_of_the_secret_is_in_the_values():
    comment = (CHART / "values.yaml").read_text().partition("existingSecret")[0].rpartition('url: ""')[2]
    assert all(key in comment for key in KEYS)


def test_images_come_from_one_registry_unless_they_are_named(render):
    variables = environment(pods(render(VALUE_SETS["production"]))["tidegate-operator"])
    assert variables["TIDEGATE_TRAINER_IMAGE"] == "registry.example.com/ml/trainer:1.2.3"
    assert variables["TIDEGATE_AGENT_IMAGE"] == "registry.example.com/ml/model-agent:1.2.3"
    documents = pods(render(VALUE_SETS["one-node"]))
    assert documents["tidegate-operator"]["spec"]["containers"][0]["image"] == "tidegate.local/operator:1"
    assert documents["tidegate-router"]["spec"]["containers"][0]["image"] == "tidegate.local/operator:1"


def test_kinds_are_kept_unless_told_otherwise(render):
    policy = "helm.sh/resource-policy"
    kept = of_kind(render(), "CustomResourceDefinition")
    assert {each["metadata"]["annotations"][policy] for each in kept} == {"keep"}
    dropped = of_kind(render(VALUE_SETS["one-node"]), "CustomResourceDefinition")
    assert not any(policy in each["metadata"].get("annotations", {}) for each in dropped)
    assert of_kind(render(VALUE_SETS["bare"]), "CustomResourceDefinition") == []


def test_the_data_of_a_claim_outlives_the_release(render):
    claims = of_kind(render(VALUE_SETS["production"]), "PersistentVolumeClaim")
    assert {each["metadata"]["name"] for each in claims} == {"tidegate-prometheus", "tidegate-mlflow"}
    assert all(each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for each in claims)


def test_a_proxy_that_waits_for_the_router_is_not_killed(documents):
    (template,) = [each for name, each in pods(documents).items() if name.endswith("-envoy")]
    probe = template["spec"]["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 3600


def test_a_proxy_is_drained_before_it_is_killed(documents):
    (template,) = [each for name, each in pods(documents).items() if name.endswith("-envoy")]
    script = template["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][2]
    assert "drain_listeners?graceful" in script
    (slept,) = re.findall(r"sleep (\d+)", script)
    assert template["spec"]["terminationGracePeriodSeconds"] >= int(slept) + 10


def test_another_release_name_gives_other_names_that_still_fit_together(render):
    documents = render(name="blue")
    names = {each["metadata"]["name"] for each in of_kind(documents, "Service")}
    assert names == {f"blue-tidegate-{part}" for part in ("operator", "router", "envoy", "prometheus", "mlflow")}
    variables = environment(pods(documents)["blue-tidegate-operator"])
    assert variables["TIDEGATE_ENVOY_SERVICE"].startswith("blue-tidegate-envoy.")
    assert variables["TIDEGATE_PROMETHEUS_URL"] == "http://blue-tidegate-prometheus.tidegate-system:9090"
