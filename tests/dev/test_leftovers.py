import os
import socket
from pathlib import Path

import pytest

from dev.cluster import cgroups, strays
from dev.cluster.leftovers import Leftovers, mounts_below, pids_in_namespace
from dev.cluster.network import drops_forwarded, forward_rules, link_commands, render_translation, usable_nameservers
from dev.cluster.settings import Folders, Network

MOUNTS = """\
20 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 20 0:30 / /state/node/containerd/rootfs rw - overlay overlay rw
31 30 0:31 / /state/node/containerd/rootfs/proc rw - proc proc rw
32 20 0:32 / /state/node-of-another rw - tmpfs tmpfs rw
33 20 0:33 / /state/node/a\\040space rw - tmpfs tmpfs rw
34 20 0:4 net:[4026532] /state/node/network rw - nsfs nsfs rw
"""
CGROUP_HYBRID = """\
cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
tmpfs /sys/fs/cgroup tmpfs rw 0 0
"""


def test_mounts_are_found_below_the_folder_only_and_innermost_first():
    assert mounts_below(MOUNTS, [Path("/state/node")]) == [
        Path("/state/node/network"),
        Path("/state/node/a space"),
        Path("/state/node/containerd/rootfs/proc"),
        Path("/state/node/containerd/rootfs"),
    ]


def test_nothing_is_left_on_a_clean_machine():
    assert not Leftovers()
    left = Leftovers(daemons=frozenset({1, 2}), pods=frozenset({2, 3}), mounts=(Path("/a"),), link=True)
    assert left
    assert left.describe() == "3 processes, 1 mounts, 1 network link"


def test_processes_are_recognised_by_their_network_namespace(tmp_path: Path):
    own = Path(f"/proc/{os.getppid()}/ns/net")
    assert os.getppid() in pids_in_namespace(own)
    assert pids_in_namespace(tmp_path / "missing") == set()
    plain = tmp_path / "network"
    plain.touch()
    assert pids_in_namespace(plain) == set()


def test_every_hierarchy_is_cleaned():
    assert cgroups.hierarchies(CGROUP_HYBRID) == [
        Path("/sys/fs/cgroup/cpu"),
        Path("/sys/fs/cgroup/memory"),
        Path("/sys/fs/cgroup/unified"),
    ]
    assert cgroups.hierarchies("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n") == [Path("/sys/fs/cgroup")]


@pytest.fixture
def stray_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SHIM_SOCKETS", "CNI_RESULTS", "LOG_LINKS", "DEVICE_PLUGINS"):
        folder = tmp_path / "host" / name / "inner"
        folder.mkdir(parents=True)
        monkeypatch.setattr(strays, name, folder)
    monkeypatch.setattr(strays, "NESTED", (strays.SHIM_SOCKETS, strays.CNI_RESULTS, strays.DEVICE_PLUGINS))
    return tmp_path / "host"


def test_own_strays_are_removed_with_the_folders_that_held_nothing_else(stray_folders: Path, folders: Folders):
    sandboxes = folders.containerd_root / "io.containerd.grpc.v1.cri" / "sandboxes"
    (sandboxes / "abc123").mkdir(parents=True)
    (strays.CNI_RESULTS / "tidegate-abc123-eth0").touch()
    (strays.CNI_RESULTS / "cni-loopback-abc123-lo").touch()
    (strays.LOG_LINKS / "ours.log").symlink_to(folders.node / "pod-logs" / "0.log")
    strays.remove_strays(folders)
    assert not sandboxes.exists()
    assert {path.name for path in stray_folders.rglob("*")} == {"LOG_LINKS"}


def test_what_belongs_to_another_cluster_stays(stray_folders: Path, folders: Folders):
    (strays.CNI_RESULTS / "other-def456-eth0").touch()
    (strays.LOG_LINKS / "other.log").symlink_to("/var/log/pods/other/0.log")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as dead:
        listening.bind(str(strays.SHIM_SOCKETS / "alive"))
        listening.listen()
        dead.bind(str(strays.SHIM_SOCKETS / "dead"))
        dead.close()
        strays.remove_strays(folders)
        names = {path.name for path in stray_folders.rglob("*") if not path.is_dir()}
    assert names == {"other-def456-eth0", "other.log", "alive"}


def test_pods_leave_under_the_address_of_the_machine(network: Network):
    text = render_translation(network)
    assert f'ip saddr {network.everything} oifname != "{network.host_link}" masquerade' in text
    assert text.count("{") == text.count("}")


def test_exceptions_are_made_only_from_a_firewall_that_drops(network: Network):
    assert drops_forwarded("-P FORWARD DROP\n-A FORWARD -j DOCKER-USER")
    assert not drops_forwarded("-P FORWARD ACCEPT")
    assert all(rule[-2:] == ["-j", "ACCEPT"] and network.host_link in rule for rule in forward_rules(network))


def test_link_commands_change_the_machine_by_one_link_and_two_routes(network: Network):
    commands = link_commands(network, Path("/n"))
    outside = [command for command in commands if command[0] != "nsenter"]
    assert [command[1:3] for command in outside] == [
        ["link", "add"],
        ["address", "add"],
        ["link", "set"],
        ["route", "add"],
        ["route", "add"],
    ]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["nameserver 192.0.2.1\nsearch x\nnameserver 192.0.2.2\n"], ["192.0.2.1", "192.0.2.2"]),
        (["nameserver 127.0.0.53\n", "nameserver 192.0.2.3\n"], ["192.0.2.3"]),
        (["nameserver 127.0.0.53\nnameserver ::1\n"], []),
        (["# empty\nnameserver\n"], []),
    ],
)
def test_name_servers_on_loopback_are_out_of_the_reach_of_pods(texts: list[str], expected: list[str]):
    assert usable_nameservers(texts) == expected
