"""The API server alone, as the tests of the CRDs use it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dev.cluster.apiserver import ApiServer, find_free_ports
from dev.cluster.errors import ClusterError
from dev.cluster.processes import start_time
from dev.cluster.settings import KUBERNETES_VERSION, REPOSITORY

HOLDER = """
import time
from dev.cluster.apiserver import ApiServer
with ApiServer() as server:
    print(*(process.pid for process in server._processes), flush=True)
    time.sleep(60)
"""


@pytest.mark.apiserver
def test_api_server_answers_and_ends_without_a_trace():
    with ApiServer() as server:
        folder, pids = server.folder, [process.pid for process in server._processes]
        assert f"Server Version: {KUBERNETES_VERSION}" in server.kubectl("version")
        text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
        assert "configmap/a created" in server.kubectl("apply", "-f", "-", stdin=text)
        with pytest.raises(ClusterError, match="not found"):
            server.kubectl("get", "configmap", "b")
    assert not folder.exists()
    assert [start_time(pid) for pid in pids] == [None, None]


@pytest.mark.apiserver
def test_a_flag_that_it_does_not_know_is_shown_with_its_log():
    with pytest.raises(ClusterError, match="unknown flag: --colour"), ApiServer(extra_arguments=("--colour=blue",)):
        pytest.fail("it started")


@pytest.mark.apiserver
def test_it_ends_with_the_process_that_started_it(tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout is not None
        pids = [int(word) for word in holder.stdout.readline().split()]
        holder.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(start_time(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [start_time(pid) for pid in pids] == [None, None]


def test_free_ports_are_different():
    assert len(set(find_free_ports(5))) == 5
