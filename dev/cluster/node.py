"""The node of our own: how it is brought up, repaired and taken down."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from dev.cluster import cgroups
from dev.cluster.addons import render_addons
from dev.cluster.apiserver import ReadyProbe
from dev.cluster.containerd import Containerd
from dev.cluster.daemons import DAEMONS, FOUNDATION, WORKERS, Options, find_nameservers, plan_daemons, write_files
from dev.cluster.dns import resolves
from dev.cluster.errors import ClusterError
from dev.cluster.golang import ETCD, HELM, KUBERNETES, VOLUMES, ensure_programs
from dev.cluster.images import NODE_IMAGES, reference
from dev.cluster.leftovers import find_leftovers, remove_leftovers
from dev.cluster.loader import Loader
from dev.cluster.network import NodeNetwork
from dev.cluster.pki import create_pki
from dev.cluster.processes import Daemon, Supervisor
from dev.cluster.progress import say, step, wait_until
from dev.cluster.settings import CLUSTER_DOMAIN, NODE_NAME, Folders, Network
from dev.cluster.shell import run
from dev.cluster.strays import remove_strays

API_NAME = f"kubernetes.default.svc.{CLUSTER_DOMAIN}"
READY_TIMEOUT = 90.0
DOWN_TIMEOUT = 2.0
"""How long a daemon may take to end when all that it could still write is thrown away."""


class Node:
    """One real node with its control plane, in the folders and on the network given."""

    def __init__(self, folders: Folders, network: Network, options: Options) -> None:
        """Keep what to build from; nothing is started yet."""
        self.folders = folders
        self.network = network
        self._options = options
        self.supervisor = Supervisor(folders)
        self.containerd = Containerd(folders)
        self.loader = Loader(folders, self.containerd, self.images_in_use)
        self._programs: dict[str, Path] = {}

    def up(self) -> None:
        """Bring the node to where everything runs, from wherever it is now."""
        self._prepare_programs()
        if self._can_be_continued():
            try:
                self._start()
                return
            except ClusterError as error:
                say(f"  the running node cannot be repaired, so it is made anew: {error}")
        self.clear()
        self._create()
        self._start()

    def down(self) -> None:
        """Stop everything that `up` started and remove its traces; images and logs stay."""
        self.supervisor.stop(*WORKERS, timeout=DOWN_TIMEOUT)
        self._remove_pods()
        self.supervisor.stop(*self.supervisor.records(), timeout=DOWN_TIMEOUT)
        remove_leftovers(self.folders, self.network)
        shutil.rmtree(self.folders.node, ignore_errors=True)
        self.folders.kubeconfig.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what an earlier run left when it was killed."""
        found = find_leftovers(self.folders, self.network)
        if found:
            with step(f"removing what an earlier run left: {found.describe()}"):
                self.down()
        elif self.folders.node.exists():
            self.down()

    def is_complete(self) -> bool:
        """Whether every daemon runs."""
        return set(DAEMONS) <= set(self.supervisor.alive())

    def kubectl(self, *words: str | Path, stdin: str | None = None, timeout: float = 120) -> str:
        """Run kubectl as the administrator."""
        program = self.folders.bin / "kubectl"
        command = [program, f"--kubeconfig={self.folders.kubeconfig}", *words]
        return run(command, stdin=stdin, timeout=timeout)

    def images_in_use(self) -> set[str]:
        """The images that pods of the cluster name; none while there is no API server."""
        path = "jsonpath={.items[*].spec['initContainers','containers'][*].image}"
        try:
            return set(self.kubectl("get", "pods", "--all-namespaces", "-o", path).split())
        except ClusterError:
            return set()

    def _prepare_programs(self) -> None:
        for module in (KUBERNETES, ETCD, VOLUMES, HELM):
            self._programs |= ensure_programs(self.folders, module)
        self.folders.bin.mkdir(parents=True, exist_ok=True)
        for name in ("kubectl", "helm"):
            _link(self.folders.bin / name, self._programs[name])

    def _can_be_continued(self) -> bool:
        """Whether enough is left of an earlier run to repair it instead of making it anew.

        The namespace tells that the machine was not restarted since, so etcd's data is whole
        although it was never forced to the disk.
        """
        network = NodeNetwork(self.folders, self.network)
        has_data = (self.folders.node / "etcd").exists() and self.folders.kubeconfig.exists()
        return has_data and network.exists()

    def _create(self) -> None:
        """Make everything that the daemons find when they start."""
        with step("making certificates, network and configuration"):
            self.folders.node.mkdir(parents=True, exist_ok=True)
            _rotate_logs(self.folders.logs)
            network = self.network
            create_pki(self.folders.pki, [network.node_address, network.kubernetes_service])
            cgroups.create(self.folders.name)
            NodeNetwork(self.folders, network).create()

    def _start(self) -> None:
        """Start what does not run, and wait until pods can run and find each other by name."""
        write_files(self.folders, self.network)
        daemons = plan_daemons(self.folders, self.network, self._options, self._programs)
        with step("etcd, API server and containerd"):
            started = [name for name in FOUNDATION if self.supervisor.ensure(daemons[name])]
            if "containerd" in started:
                self._settle_containerd(daemons["containerd"])
            probe = ReadyProbe(self.network.api_url, self.folders.pki)
            self._wait(probe.is_ready, FOUNDATION, "the API server is not ready")
        self.loader.load(NODE_IMAGES)
        with step("controllers, scheduler, kube-proxy and kubelet"):
            for name in WORKERS:
                self.supervisor.ensure(daemons[name])
            self._wait(self._node_is_ready, DAEMONS, "the node is not ready")
        with step("cluster DNS"):
            self._apply_addons()
            self._wait(self._dns_is_ready, DAEMONS, "CoreDNS is not ready")

    def _settle_containerd(self, daemon: Daemon) -> None:
        """Wait for containerd; if it remembers containers of another cluster, let it forget them."""
        self.containerd.wait()
        if (self.folders.node / "kubelet").exists():
            return
        if self.containerd.purge():
            self.supervisor.stop(daemon.name)
            remove_strays(self.folders)
            self.supervisor.ensure(daemon)
            self.containerd.wait()

    def _wait(self, check: Callable[[], bool], names: Sequence[str], complaint: str) -> None:
        """Poll until a check is true; one of the named daemons that ends is reported at once."""

        def is_settled() -> bool:
            self.supervisor.check_alive(names)
            return check()

        if not wait_until(is_settled, timeout=READY_TIMEOUT, interval=0.2):
            raise ClusterError(f"{complaint} after {READY_TIMEOUT:.0f} s; the logs are in {self.folders.logs}")

    def _node_is_ready(self) -> bool:
        """Ask the kubelet itself as well: after a repair the node's old condition may still stand."""
        path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        try:
            condition = self.kubectl("get", "node", NODE_NAME, "-o", path).strip()
            return condition == "True" and self._kubelet_answers()
        except ClusterError:
            return False

    def _kubelet_answers(self) -> bool:
        return self.kubectl("get", "--raw", f"/api/v1/nodes/{NODE_NAME}/proxy/healthz") == "ok"

    def _dns_is_ready(self) -> bool:
        """Ask for a name by way of the Service, which needs CoreDNS, kube-proxy and the pod network."""
        network = self.network
        return resolves(network.dns_service, API_NAME, network.kubernetes_service)

    def _apply_addons(self) -> None:
        text = render_addons(self.network, reference("coredns"), forward_dns=bool(find_nameservers()))
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)

    def _remove_pods(self) -> None:
        """Clear containers away while containerd can still do it; after a kill the next `up` does."""
        if "containerd" in self.supervisor.alive():
            try:
                self.containerd.purge()
            except ClusterError as error:
                say(f"  containers are removed at the next `up`: {error}")


def _rotate_logs(folder: Path) -> None:
    """Keep the logs of the run before, for a look at what went wrong."""
    if folder.exists():
        before = folder.with_name("logs.before")
        shutil.rmtree(before, ignore_errors=True)
        folder.rename(before)


def _link(link: Path, target: Path) -> None:
    """Point a link to another program without a moment in which it is not there."""
    if link.is_symlink() and link.readlink() == target:
        return
    new = link.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(link)
