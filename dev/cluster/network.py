"""The node's network namespace, the link that joins it to the machine, and the way out for pods."""

from __future__ import annotations

import json
from collections.abc import Iterable
from ipaddress import IPv4Network
from pathlib import Path

from dev.cluster.errors import ClusterError
from dev.cluster.progress import wait_until
from dev.cluster.settings import Folders, Network
from dev.cluster.shell import is_installed, is_mounted, run, succeeds

IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
NODE_LINK = "eth0"


class NodeNetwork:
    """Creates and removes the network of the node."""

    def __init__(self, folders: Folders, network: Network) -> None:
        """Keep where the namespace lies and which addresses are used."""
        self._namespace = folders.network_namespace
        self._network = network
        self._before = folders.node / "ip_forward.before"

    def exists(self) -> bool:
        """Whether the namespace and the link are there."""
        return is_mounted(self._namespace) and link_exists(self._network.host_link)

    def create(self) -> None:
        """Make namespace, link, routes and firewall rules; the namespace must not exist yet."""
        check_free(self._network.everything, list_routes())
        self._namespace.touch()
        run(["unshare", f"--net={self._namespace}", "true"])
        for command in link_commands(self._network, self._namespace):
            run(command)
        self._forward()
        run(["nft", "-f", "-"], stdin=render_translation(self._network))
        if drops_forwarded(run(["iptables", "-w", "-S", "FORWARD"])):
            for rule in forward_rules(self._network):
                run(["iptables", "-w", "-I", *rule])

    def remove(self) -> None:
        """Undo `create`, in whatever state it is."""
        if is_installed("nft"):
            succeeds(["nft", "delete", "table", "ip", self._network.name])
            self._withdraw_rules()
        if link_exists(self._network.host_link):
            run(["ip", "link", "delete", self._network.host_link])
        if is_mounted(self._namespace):
            run(["umount", "--lazy", self._namespace])
        self._namespace.unlink(missing_ok=True)
        if self._before.exists():
            IP_FORWARD.write_text(self._before.read_text())
            self._before.unlink()
        wait_until(lambda: not link_exists(self._network.host_link), timeout=5)

    def _withdraw_rules(self) -> None:
        """Delete our iptables rules where there are any; merely trying would make empty chains."""
        if self._network.host_link in run(["iptables", "-w", "-S", "FORWARD"]):
            for rule in forward_rules(self._network):
                while succeeds(["iptables", "-w", "-D", *rule]):
                    pass

    def _forward(self) -> None:
        """Let the machine forward the packets of pods, and remember what it did before."""
        before = IP_FORWARD.read_text().strip()
        if before != "1":
            self._before.write_text(before)
            IP_FORWARD.write_text("1")


def render_translation(network: Network) -> str:
    """Let pods out under the machine's address, with a table of our own that is gone in one command."""
    return f"""\
table ip {network.name} {{
    chain outgoing {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {network.everything} oifname != "{network.host_link}" masquerade
    }}
}}
"""


def drops_forwarded(rules: str) -> bool:
    """Whether the machine's own firewall, such as Docker's, would drop the packets of pods."""
    return "-P FORWARD DROP" in rules


def forward_rules(network: Network) -> list[list[str]]:
    """Exceptions from such a firewall. No table of ours can make them: a drop anywhere is final."""
    directions = (["-i", network.host_link], ["-o", network.host_link])
    return [["FORWARD", *direction, "-j", "ACCEPT"] for direction in directions]


def link_commands(network: Network, namespace: Path) -> list[list[str]]:
    """Commands that join the namespace to the machine, in order."""
    host, node, prefix = network.host_address, network.node_address, network.link_prefix
    link = network.host_link
    inside = ["nsenter", f"--net={namespace}", "--"]
    outside_text = [
        f"ip link add {link} type veth peer name {NODE_LINK} netns {namespace}",
        f"ip address add {host}/{prefix} dev {link}",
        f"ip link set {link} up",
    ]
    inside_text = [
        "ip link set lo up",
        f"ip address add {node}/{prefix} dev {NODE_LINK}",
        f"ip link set {NODE_LINK} up",
        f"ip route add default via {host}",
        "sysctl -q -w net.ipv4.ip_forward=1",
    ]
    routes = [f"ip route add {each} via {node}" for each in (network.pods, network.services)]
    return [
        *(text.split() for text in outside_text),
        *([*inside, *text.split()] for text in inside_text),
        *(text.split() for text in routes),
    ]


def list_routes() -> list[IPv4Network]:
    """The networks that this machine has routes to, the default route aside."""
    rows = json.loads(run(["ip", "-json", "-4", "route"]) or "[]")
    return [IPv4Network(row["dst"]) for row in rows if row["dst"] != "default"]


def check_free(wanted: IPv4Network, routes: Iterable[IPv4Network]) -> None:
    """Refuse addresses that this machine already uses."""
    for route in routes:
        if route.overlaps(wanted):
            raise ClusterError(
                f"this machine already has a route to {route}, which overlaps {wanted}: "
                "set TIDEGATE_NETWORK to a free /16 network, such as 10.99.0.0/16"
            )


def link_exists(name: str) -> bool:
    """Whether the machine has a network link of that name."""
    return Path("/sys/class/net", name).exists()


def usable_nameservers(texts: Iterable[str]) -> list[str]:
    """Name servers of the first `resolv.conf` that has some which pods can reach.

    A server on loopback, such as systemd-resolved's, is out of their reach.
    """
    for text in texts:
        rows = [line.split() for line in text.splitlines() if line.startswith("nameserver")]
        found = [row[1] for row in rows if len(row) > 1 and not row[1].startswith(("127.", "::1"))]
        if found:
            return found
    return []
