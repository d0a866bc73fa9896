"""The chart on a real API server: what is accepted, who may do what, and what upgrade and uninstall leave."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster.apiserver import ApiServer
from dev.cluster.golang import HELM, ensure_program
from dev.cluster.settings import find_folders
from tidegate.api.crd import KINDS
from tidegate.ports import CONFIG_MAP, JOB, OWN_KINDS, ROUTE, SERVICE, WATCHED_KINDS, WORKLOAD

pytestmark = pytest.mark.apiserver

CHART = Path(__file__).parents[2] / "charts" / "tidegate"
NAMESPACE = "tidegate-system"
CRD_NAMES = {f"{kind.plural}.tidegate.dev" for kind in KINDS}
OPERATOR = f"system:serviceaccount:{NAMESPACE}:tidegate-operator"
ROUTER = f"system:serviceaccount:{NAMESPACE}:tidegate-router"
PROMETHEUS = f"system:serviceaccount:{NAMESPACE}:tidegate-prometheus"
WRITTEN = (WORKLOAD, JOB, SERVICE, CONFIG_MAP, ROUTE)


class Release:
    """Helm against one API server; nothing waits for pods, because nothing runs them."""

    def __init__(self, server: ApiServer, api: Any) -> None:
        self.server = server
        self._api = api
        self._helm = ensure_program(find_folders(), HELM, "helm")

    def install(self, chart: Path = CHART, **values: str) -> None:
        settings = [f"--set={name.replace('__', '.')}={value}" for name, value in values.items()]
        self._run("upgrade", "--install", "tidegate", chart, *settings)

    def uninstall(self) -> None:
        self._run("uninstall", "tidegate")

    def crds(self) -> set[str]:
        return set(self.server.kubectl("get", "crd", "-o", "jsonpath={.items[*].metadata.name}").split())

    def may(self, account: str, verb: str, resource: str, namespace: str = "default", name: str = "") -> bool:
        """Ask for the right to do something with plural.group/subresource, or with the object of a name."""
        whole, _, subresource = resource.partition("/")
        plural, _, group = whole.partition(".")
        what = {"verb": verb, "group": group, "resource": plural, "subresource": subresource, "namespace": namespace}
        what["name"] = name
        review = {"spec": {"user": account, "groups": ["system:authenticated"], "resourceAttributes": what}}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return self._api.post(path, review)["status"]["allowed"]

    def _run(self, *arguments: str | Path) -> None:
        flags = [f"--kubeconfig={self.server.kubeconfig}", f"--namespace={NAMESPACE}"]
        done = subprocess.run([self._helm, *arguments, *flags], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def release(connect) -> Iterator[Release]:
    with ApiServer() as server:
        server.kubectl("create", "namespace", NAMESPACE)
        server.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        # A controller would make it.
        server.kubectl("create", "serviceaccount", "default", "-n", NAMESPACE)
        made = Release(server, connect(server))
        made.install()
        yield made


def wait_until(holds: Callable[[], bool]) -> None:
    """What Helm has written reaches caches and controllers of the API server later.

    The longest takes the removal of a CRD: the API server looks every 5 s whether its objects are gone, one CRD at a
    time.
    """
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def pod_of(workload: dict[str, Any]) -> dict[str, Any]:
    """Make the pod that the ReplicaSet controller would make."""
    template = workload["spec"]["template"]
    metadata = {**template["metadata"], "name": workload["metadata"]["name"], "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def test_the_kinds_are_served(release):
    assert release.crds() == CRD_NAMES
    release.server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")


def test_its_pods_are_admitted_at_the_restricted_level(release):
    listed = yaml.safe_load(release.server.kubectl("get", "deployments.apps", "-n", NAMESPACE, "-o", "yaml"))["items"]
    assert len(listed) == 5
    for workload in listed:
        text = yaml.safe_dump(pod_of(workload))
        release.server.kubectl("create", "--dry-run=server", "-f", "-", stdin=text)


def test_a_pod_that_is_not_restricted_would_not_be_admitted(release):
    """Shows that the test above can fail."""
    (workload, *_) = yaml.safe_load(release.server.kubectl("get", "deployments.apps", "-n", NAMESPACE, "-o", "yaml"))[
        "items"
    ]
    pod = pod_of(workload)
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(Exception, match="violates PodSecurity"):
        release.server.kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(pod))


@pytest.mark.parametrize("kind", WATCHED_KINDS, ids=lambda kind: f"{kind.group}-{kind.name}")
@pytest.mark.parametrize("verb", ["list", "watch"])
def test_the_operator_may_see_what_it_watches(release, kind, verb):
    assert release.may(OPERATOR, verb, f"{kind.plural}.{kind.group}".rstrip("."))


@pytest.mark.parametrize("kind", WRITTEN, ids=lambda kind: f"{kind.group}-{kind.name}")
@pytest.mark.parametrize("verb", ["create", "patch", "delete"])
def test_the_operator_may_write_what_it_makes(release, kind, verb):
    """The documents of Jobs are left to the garbage collector."""
    is_needed = (kind, verb) != (CONFIG_MAP, "delete")
    assert release.may(OPERATOR, verb, f"{kind.plural}.{kind.group}".rstrip(".")) is is_needed


@pytest.mark.parametrize("kind", [kind for kind in OWN_KINDS if kind != ROUTE], ids=lambda kind: kind.name)
def test_the_operator_may_write_the_status_of_its_kinds(release, kind):
    assert release.may(OPERATOR, "patch", f"{kind.plural}.tidegate.dev/status")


@pytest.mark.parametrize(
    ("account", "verb", "resource", "namespace"),
    [
        (OPERATOR, "create", "modelversions.tidegate.dev", "default"),
        (OPERATOR, "patch", "deployments.tidegate.dev", "default"),
        (OPERATOR, "create", "events.events.k8s.io", "default"),
        (OPERATOR, "create", "tokenreviews.authentication.k8s.io", "default"),
        (OPERATOR, "update", "leases.coordination.k8s.io", NAMESPACE),
        (ROUTER, "watch", "routes.tidegate.dev", "default"),
        (ROUTER, "list", "pods", "default"),
        (ROUTER, "watch", "pods", "default"),
        (ROUTER, "patch", "routes.tidegate.dev/status", "default"),
        (PROMETHEUS, "watch", "pods", "default"),
    ],
)
def test_what_else_a_part_may_do(release, account, verb, resource, namespace):
    assert release.may(account, verb, resource, namespace)


@pytest.mark.parametrize(
    ("account", "verb", "resource", "namespace"),
    [
        (OPERATOR, "get", "secrets", "default"),
        (OPERATOR, "get", "secrets", NAMESPACE),
        (OPERATOR, "get", "configmaps", "default"),
        (OPERATOR, "list", "configmaps", "default"),
        (OPERATOR, "create", "pods", "default"),
        (OPERATOR, "delete", "pods", "default"),
        (OPERATOR, "create", "pods/exec", "default"),
        (OPERATOR, "list", "nodes", ""),
        (OPERATOR, "list", "namespaces", ""),
        (OPERATOR, "patch", "routes.tidegate.dev/status", "default"),
        (OPERATOR, "delete", "deployments.tidegate.dev", "default"),
        (OPERATOR, "delete", "modelversions.tidegate.dev", "default"),
        (OPERATOR, "create", "clusterrolebindings.rbac.authorization.k8s.io", ""),
        (OPERATOR, "patch", "customresourcedefinitions.apiextensions.k8s.io", ""),
        (OPERATOR, "update", "leases.coordination.k8s.io", "default"),
        (OPERATOR, "create", "serviceaccounts", "default"),
        (OPERATOR, "create", "serviceaccounts/token", "default"),
        (ROUTER, "patch", "routes.tidegate.dev", "default"),
        (ROUTER, "delete", "pods", "default"),
        (ROUTER, "list", "services", "default"),
        (ROUTER, "get", "secrets", NAMESPACE),
        (PROMETHEUS, "list", "services", "default"),
        (PROMETHEUS, "get", "secrets", NAMESPACE),
    ],
)
def test_what_a_part_may_not_do(release, account, verb, resource, namespace):
    assert not release.may(account, verb, resource, namespace or "default")


def test_an_upgrade_brings_new_fields_of_the_kinds(release, tmp_path):
    older = tmp_path / "tidegate"
    shutil.copytree(CHART, older)
    template = older / "templates" / "crds" / "deployments.yaml"
    template.write_text(template.read_text().replace("              paused:\n", "              halted:\n"))
    crd = ("get", "crd", "deployments.tidegate.dev", "-o", "yaml")
    release.install(older)
    assert "halted:" in release.server.kubectl(*crd)
    release.install(envoy__replicas="3")
    assert "halted:" not in release.server.kubectl(*crd)
    assert "paused:" in release.server.kubectl(*crd)
    path = "jsonpath={.spec.replicas}"
    assert release.server.kubectl("get", "deployment.apps/tidegate-envoy", "-n", NAMESPACE, "-o", path) == "3"


def test_with_namespaces_the_rights_end_at_their_border(release):
    release.server.kubectl("create", "namespace", "games")
    release.install(watchNamespaces="{games}")
    wait_until(lambda: not release.may(OPERATOR, "list", "pods", "default"))
    assert release.may(OPERATOR, "list", "pods", "games")
    assert release.may(OPERATOR, "create", "jobs.batch", "games")
    assert release.may(ROUTER, "watch", "pods", "games")
    assert release.may(ROUTER, "watch", "pods", NAMESPACE), "the proxies' pods"
    assert not release.may(ROUTER, "watch", "pods", "default")
    assert not release.may(ROUTER, "watch", "routes.tidegate.dev", "default")


def test_the_operator_reads_the_secrets_that_gates_may_name_and_no_others(release):
    release.install(gates__secrets="{change-board}")
    wait_until(lambda: release.may(OPERATOR, "get", "secrets", "default", "change-board"))
    assert not release.may(OPERATOR, "get", "secrets", "default", "other")
    assert not release.may(OPERATOR, "get", "secrets", "default")
    assert not release.may(OPERATOR, "list", "secrets", "default", "change-board")
    assert not release.may(ROUTER, "get", "secrets", "default", "change-board")
    release.install(rbac__aggregate="true")
    wait_until(lambda: not release.may(OPERATOR, "get", "secrets", "default", "change-board"))


def test_people_with_the_usual_roles_may_use_the_kinds(release):
    """The aggregation itself is a controller's work; what it would add is tested here."""
    roles = yaml.safe_load(
        release.server.kubectl("get", "clusterroles", "-l", "app.kubernetes.io/name=tidegate", "-o", "yaml")
    )
    by_name = {role["metadata"]["name"]: role for role in roles["items"]}
    view, edit = by_name["tidegate-view"], by_name["tidegate-edit"]
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert {verb for rule in view["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert "rbac.authorization.k8s.io/aggregate-to-view" not in edit["metadata"]["labels"]
    assert not any("routes" in rule["resources"] for rule in edit["rules"])


def test_an_uninstall_keeps_kinds_and_objects_and_a_new_install_takes_them_over(release):
    text = (CHART.parents[1] / "examples" / "model-version.yaml").read_text()
    release.server.kubectl("apply", "-n", "default", "-f", "-", stdin=text)
    release.uninstall()
    assert release.crds() == CRD_NAMES
    assert "connect4-1.1.0" in release.server.kubectl("get", "mv", "-n", "default", "-o", "name")
    assert (
        release.server.kubectl(
            "get",
            "deployments.apps,services,configmaps,serviceaccounts",
            "-n",
            NAMESPACE,
            "-l",
            "app.kubernetes.io/name=tidegate",
            "-o",
            "name",
        )
        == ""
    )
    assert (
        release.server.kubectl(
            "get", "clusterroles,clusterrolebindings", "-l", "app.kubernetes.io/name=tidegate", "-o", "name"
        )
        == ""
    )
    release.install()
    assert "connect4-1.1.0" in release.server.kubectl("get", "mv", "-n", "default", "-o", "name")


def test_without_keep_an_uninstall_leaves_nothing(release):
    release.install(crds__keep="false")
    release.uninstall()
    wait_until(lambda: release.crds() == set())
