"""The program against a real API server and the real operator: what it prints, and how it exits."""

import json
import os
import pty
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster.apiserver import ApiServer
from tests.runtime.operator_process import OPERATOR, ROOT, Cluster, Operator, wait_for
from tests.runtime.test_operator_process import deployment, wait_until_healthy

pytestmark = pytest.mark.apiserver

PAUSED_STEPS = {"type": "Canary", "canary": {"steps": [{"setPercent": 30}, {"pause": {}}]}}
BEGINNING = "2026-01-01T00:00:00Z"


@dataclass(frozen=True)
class Shell:
    """A person with a kubeconfig."""

    kubeconfig: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tidegate.cli", *arguments, "--kubeconfig", str(self.kubeconfig)]
        environment = {"PYTHONPATH": str(OPERATOR), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "USER": "ann"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        running.install_crds(ROOT / "crds")
        yield running


@pytest.fixture(scope="module")
def cluster(server: ApiServer) -> Cluster:
    return Cluster(server)


@pytest.fixture(scope="module")
def ann(cluster: Cluster) -> Shell:
    return Shell(cluster.kubeconfig)


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    name = f"cli-{uuid.uuid4().hex[:8]}"
    cluster.add_namespace(name)
    return name


@pytest.fixture
def place(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[str]:
    """A namespace where the operator runs, and somebody plays kubelet and router."""
    ended = threading.Event()

    def play() -> None:
        while not ended.wait(0.2):
            cluster.play_kubelet(namespace)
            cluster.play_router(namespace)

    with Operator(cluster.kubeconfig, tmp_path, "one", namespace=namespace, watch_namespaces=namespace) as operator:
        operator.wait_until_leading()
        player = threading.Thread(target=play)
        player.start()
        yield namespace
        ended.set()
        player.join()


def released_up_to_the_pause(cluster: Cluster, place: str) -> None:
    """1.0.0 serves; 2.0.0 has 30 % and waits for a person."""
    for version in ("1.0.0", "2.0.0"):
        cluster.add_version(place, version)
    deployment(cluster, place, "1.0.0", strategy=PAUSED_STEPS)
    wait_until_healthy(cluster, place, "1.0.0")
    deployment(cluster, place, "2.0.0", strategy=PAUSED_STEPS)
    wait_for(lambda: cluster.status("connect4", place).get("phase") == "Paused", "the pause", 60)


def test_a_release_is_looked_at_promoted_and_waited_for(cluster: Cluster, place: str, ann: Shell) -> None:
    released_up_to_the_pause(cluster, place)

    seen = ann.run("status", "deployment/connect4", "-n", place)
    assert seen.returncode == 0
    assert "canary  connect4-2.0.0  30 %" in seen.stdout
    assert "waits for a person" in seen.stdout
    assert "connect4-1.0.0  Ready" in seen.stdout
    assert "\x1b" not in seen.stdout, "colours are for terminals"

    why = ann.run("explain", "connect4", "-n", place)
    assert f"  tidegate promote connect4 -n {place}" in why.stdout.splitlines()

    late = ann.run("status", "connect4", "-n", place, "--wait", "--timeout", "1s")
    assert late.returncode == 3
    assert "has not ended within 1s" in late.stderr
    assert len(late.stdout.splitlines()) == 1, "one line for each change"

    useless = ann.run("retry", "connect4", "-n", place)
    assert useless.returncode == 5
    assert "is not rejected" in useless.stderr

    promoted = ann.run("promote", "connect4", "-n", place, "-o", "json")
    assert promoted.returncode == 0, promoted.stderr
    answer = json.loads(promoted.stdout)
    assert answer["message"] == "Promote: step 1 of 3 ends now"
    command = cluster.status("connect4", place)["lastCommand"]
    assert (command["id"], command["by"]) == (answer["id"], "tidegate-admin")

    ended = ann.run("status", "connect4", "-n", place, "--wait")
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[-1] == "connect4 is healthy on connect4-2.0.0"

    again = ann.run("promote", "connect4", "-n", place)
    assert again.returncode == 5
    assert "no release is under way" in again.stderr

    table = ann.run("history", "connect4", "-n", place)
    assert "connect4-2.0.0  Promoted" in table.stdout
    assert "AcceptCommand" in table.stdout
    entries = json.loads(ann.run("history", "connect4", "-n", place, "-o", "json").stdout)["history"]
    assert [each["modelVersion"] for each in entries] == ["connect4-2.0.0", "connect4-1.0.0"]


def test_a_release_is_aborted_and_tried_again(cluster: Cluster, place: str, ann: Shell) -> None:
    released_up_to_the_pause(cluster, place)
    aborted = ann.run("abort", "connect4", "-n", place)
    assert (aborted.returncode, aborted.stdout) == (0, "Abort: aborted by tidegate-admin\n")
    ended = ann.run("status", "connect4", "-n", place, "--wait", "-o", "json")
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["exitCode"] == 1
    assert "Aborted" in json.loads(ended.stdout)["message"]

    retried = ann.run("retry", "connect4", "-n", place)
    assert (retried.returncode, retried.stdout) == (0, "Retry: connect4-2.0.0 is tried again\n")
    promoted = ann.run("promote", "connect4", "--full", "-n", place)
    assert promoted.stdout == "PromoteFully: no more steps, no analysis, no bake\n"
    assert ann.run("status", "connect4", "-n", place, "--wait", "--timeout", "1m").returncode == 0


def test_a_person_goes_back_to_the_version_before(cluster: Cluster, place: str, ann: Shell) -> None:
    released_up_to_the_pause(cluster, place)
    useless = ann.run("rollback", "connect4", "-n", place)
    assert (useless.returncode, "no other version was healthy" in useless.stderr) == (5, True)
    assert ann.run("promote", "connect4", "--full", "-n", place).returncode == 0
    assert ann.run("status", "connect4", "-n", place, "--wait", "--timeout", "1m").returncode == 0

    unknown = ann.run("rollback", "connect4", "--to", "connect4-9.0.0", "-n", place)
    assert unknown.returncode == 5
    assert "connect4-9.0.0 is no former healthy version; there are connect4-1.0.0" in unknown.stdout + unknown.stderr
    back = ann.run("rollback", "connect4", "-n", place)
    assert (back.returncode, back.stdout) == (0, "Rollback: rolled back to connect4-1.0.0 by tidegate-admin\n")
    ended = ann.run("status", "connect4", "-n", place, "--wait", "--timeout", "1m")
    assert (ended.returncode, "RolledBack" in ended.stdout + ended.stderr) == (1, True)
    status = cluster.status("connect4", place)
    assert status["stable"]["modelVersion"] == "connect4-1.0.0"
    assert [each["modelVersion"] for each in status["rejected"]] == ["connect4-2.0.0"]


def test_a_release_is_paused_and_resumed(cluster: Cluster, place: str, ann: Shell) -> None:
    released_up_to_the_pause(cluster, place)
    paused = ann.run("pause", "connect4", "-n", place)
    assert paused.returncode == 0, paused.stderr
    assert paused.stdout.endswith("spec.paused is true\n")
    assert "last set by" not in paused.stderr
    refused = ann.run("promote", "connect4", "-n", place)
    assert refused.returncode == 5
    assert "resume connect4 first" in refused.stderr
    assert ann.run("resume", "connect4", "-n", place).returncode == 0
    live = cluster.get("deployments.tidegate.dev", "connect4", place)
    assert live is not None
    assert live["spec"]["paused"] is False


def test_a_field_that_somebody_else_keeps_is_named(cluster: Cluster, namespace: str, ann: Shell) -> None:
    deployment(cluster, namespace, "1.0.0", paused=False)
    paused = ann.run("pause", "connect4", "-n", namespace, "--timeout", "0s")
    assert paused.returncode == 3
    assert "spec.paused was last set by person; if that is a GitOps tool, change it in Git, too" in paused.stderr
    assert "is it running?" in paused.stderr


def test_a_command_outlives_an_operator_that_is_away(cluster: Cluster, namespace: str, ann: Shell) -> None:
    deployment(cluster, namespace, "2.0.0")
    canary = {"modelVersion": "connect4-2.0.0", "digest": "2" * 64, "startedAt": BEGINNING, "step": 0}
    stable = {"modelVersion": "connect4-1.0.0", "digest": "1" * 64}
    cluster.set_status(
        "deployments.tidegate.dev",
        "connect4",
        namespace,
        {"observedGeneration": 1, "phase": "Progressing", "stable": stable, "canary": canary},
    )
    sent = ann.run("abort", "connect4", "-n", namespace, "--timeout", "1s")
    assert sent.returncode == 3
    assert "not taken within 1s; it is written down and takes effect when the operator is back" in sent.stderr
    live = cluster.get("deployments.tidegate.dev", "connect4", namespace)
    assert live is not None
    assert json.loads(live["metadata"]["annotations"]["tidegate.dev/command"])["command"] == "Abort"
    again = ann.run("abort", "connect4", "-n", namespace, "--timeout", "1s")
    assert "is replaced by this one" in again.stderr


def test_a_terminal_gets_a_live_tree_in_colours(cluster: Cluster, namespace: str, ann: Shell) -> None:
    deployment(cluster, namespace, "1.0.0")
    stable = {"modelVersion": "connect4-1.0.0", "digest": "1" * 64, "percent": 100}
    ready = {"type": "Ready", "status": "True", "reason": "Healthy", "message": "", "lastTransitionTime": BEGINNING}
    status = {"observedGeneration": 1, "phase": "Healthy", "stable": stable, "conditions": [ready]}
    cluster.set_status("deployments.tidegate.dev", "connect4", namespace, status)
    arguments = ["status", "connect4", "-n", namespace, "--watch", "--wait", "--kubeconfig", str(ann.kubeconfig)]
    ours, theirs = pty.openpty()
    environment = {"PYTHONPATH": str(OPERATOR), "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-m", "tidegate.cli", *arguments], env=environment, stdout=theirs, timeout=60, check=False
    )
    seen = os.read(ours, 100_000).decode()
    for end in (ours, theirs):
        os.close(end)
    assert done.returncode == 0
    assert "\x1b[32mHealthy\x1b[0m" in seen
    assert "stable  connect4-1.0.0  100 %" in seen
    assert "connect4 is healthy on connect4-1.0.0" in seen


def test_what_is_not_there_is_said_with_what_is(cluster: Cluster, namespace: str, ann: Shell) -> None:
    nothing = ann.run("status", "-n", namespace)
    assert (nothing.returncode, nothing.stdout) == (
        0,
        f"no Deployments in namespace {namespace}; name another with -n\n",
    )
    deployment(cluster, namespace, "1.0.0")
    close = ann.run("status", "conect4", "-n", namespace)
    assert close.returncode == 4
    assert "there are: connect4; did you mean connect4?" in close.stderr
    elsewhere = ann.run("promote", "connect4", "-n", "kube-system")
    assert elsewhere.returncode == 4
    assert f"connect4 (-n {namespace})" in elsewhere.stderr
    one_line = ann.run("status", "-n", namespace)
    assert "connect4-1.0.0" in one_line.stdout
    items = json.loads(ann.run("status", "-n", namespace, "-o", "json").stdout)["items"]
    assert [each["metadata"]["name"] for each in items] == ["connect4"]
    assert "managedFields" not in items[0]["metadata"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "--wait"], "need the name"),
        (["status", "connect4", "--watch", "-o", "json"], "--watch draws"),
        (["status", "connect4", "--timeout", "soon"], "'soon' is no duration"),
        (["promote", "pod/connect4"], "pod is no Deployment"),
        (["status", "--context", "nowhere"], "there is no context 'nowhere' in the kubeconfig; there are: tidegate"),
    ],
)
def test_wrong_use_is_exit_code_two(ann: Shell, arguments: list[str], said: str) -> None:
    done = ann.run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


def person_without_rights(server: ApiServer, folder: Path, token: str) -> Shell:
    document = yaml.safe_load(server.kubeconfig.read_text())
    document["users"][0]["user"] = {"token": token}
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return Shell(path)


def test_a_person_without_rights_is_told_which_to_ask_for(
    server: ApiServer, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    token = server.kubectl("create", "token", "default", "-n", namespace).strip()
    done = person_without_rights(server, tmp_path, token).run("status", "connect4", "-n", namespace)
    assert done.returncode == 4
    assert "deployments.tidegate.dev" in done.stderr
    assert "ask for the role `view`" in done.stderr


def test_an_unknown_person_is_told_to_log_in(server: ApiServer, tmp_path: Path) -> None:
    done = person_without_rights(server, tmp_path, "stale").run("explain", "connect4")
    assert done.returncode == 4
    assert "log in again" in done.stderr


def test_a_cluster_that_does_not_answer_is_named(server: ApiServer, tmp_path: Path) -> None:
    text = server.kubeconfig.read_text().replace(server.url, "https://127.0.0.1:1")
    (tmp_path / "kubeconfig").write_text(text)
    done = Shell(tmp_path / "kubeconfig").run("history", "connect4")
    assert done.returncode == 4
    assert "the cluster of context tidegate does not answer" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_kubeconfig_that_is_none_is_exit_code_two(tmp_path: Path) -> None:
    for name, text in (("missing", None), ("empty", ""), ("broken", "{")):
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        done = Shell(path).run("status")
        assert (done.returncode, "no usable kubeconfig" in done.stderr) == (2, True), name


def test_a_cluster_without_tidegate_is_told_apart_from_one_without_the_deployment() -> None:
    with ApiServer() as bare:
        done = Shell(bare.kubeconfig).run("status", "connect4")
        assert done.returncode == 4
        assert "does not know the kinds of Tidegate" in done.stderr
        assert Shell(bare.kubeconfig).run("status").stderr == done.stderr


def test_names_are_completed(cluster: Cluster, namespace: str, server: ApiServer) -> None:
    deployment(cluster, namespace, "1.0.0")
    words = f"tidegate status -n {namespace} --kubeconfig {server.kubeconfig} con"
    environment: dict[str, Any] = {
        "PYTHONPATH": str(OPERATOR),
        "_TIDEGATE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    program = "from tidegate.cli.app import app; app(prog_name='tidegate')"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["connect4"]
