from ipaddress import IPv4Network
from pathlib import Path

import pytest

from dev.cluster.errors import ClusterError
from dev.cluster.network import check_free
from dev.cluster.settings import Network, check_socket_path, find_folders, find_network


def test_folders_follow_the_xdg_variables():
    folders = find_folders({"HOME": "/home/ada", "XDG_CACHE_HOME": "/big/cache"})
    assert folders.cache == Path("/big/cache/tidegate")
    assert folders.state == Path("/home/ada/.local/state/tidegate/cluster")


def test_folders_can_be_moved_one_by_one():
    folders = find_folders({"HOME": "/home/ada", "TIDEGATE_CACHE": "/big", "TIDEGATE_STATE": "/fast"})
    assert (folders.cache, folders.state) == (Path("/big"), Path("/fast"))


def test_addresses_never_overlap_and_all_lie_within_one_network():
    network = find_network({"TIDEGATE_NETWORK": "10.99.0.0/16"})
    link = IPv4Network(f"{network.host_address}/{network.link_prefix}", strict=False)
    ranges = [network.pods, network.services, link]
    assert all(each.subnet_of(IPv4Network("10.99.0.0/16")) for each in ranges)
    assert not any(a.overlaps(b) for a in ranges for b in ranges if a is not b)
    assert network.node_address == "10.99.64.2"
    assert network.dns_service == "10.99.32.10"


def test_a_second_cluster_shares_nothing_with_the_first_but_downloads_and_builds():
    first = find_folders({"HOME": "/h"}), find_network({})
    environ = {"HOME": "/h", "TIDEGATE_NAME": "second", "TIDEGATE_NETWORK": "10.99.0.0/16"}
    second = find_folders(environ), find_network(environ)
    assert first[0].cache == second[0].cache
    assert first[0].state != second[0].state
    assert first[0].containerd_root != second[0].containerd_root
    assert first[1].host_link != second[1].host_link


@pytest.mark.parametrize("name", ["two words", "../up", "a-name", "muchtoolongforalink"])
def test_a_bad_name_is_refused(name: str):
    with pytest.raises(ClusterError, match="TIDEGATE_NAME"):
        find_folders({"HOME": "/h", "TIDEGATE_NAME": name})


def test_a_state_folder_too_deep_for_sockets_is_refused_with_the_remedy():
    check_socket_path(find_folders({"HOME": "/home/ada"}))
    with pytest.raises(ClusterError, match="TIDEGATE_STATE"):
        check_socket_path(find_folders({"HOME": "/home/" + 80 * "a"}))


@pytest.mark.parametrize("text", ["10.99.0.0/24", "not a network", "10.99.1.0/16"])
def test_a_bad_network_is_refused_by_name(text: str):
    with pytest.raises(ClusterError, match="TIDEGATE_NETWORK"):
        find_network({"TIDEGATE_NETWORK": text})


def test_a_network_that_the_machine_uses_is_refused_with_the_remedy():
    with pytest.raises(ClusterError, match=r"route to 10\.213\.4\.0/24.*TIDEGATE_NETWORK"):
        check_free(Network().everything, [IPv4Network("10.213.4.0/24")])
    check_free(Network().everything, [IPv4Network("192.168.0.0/16")])
