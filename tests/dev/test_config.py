import json
import tomllib
from pathlib import Path

import pytest
import yaml

from dev.cluster import arguments, config
from dev.cluster.addons import build_addons, render_addons, render_corefile
from dev.cluster.arguments import ControlPlane
from dev.cluster.kubeconfig import render_kubeconfig, write_private
from dev.cluster.kwok import build_fake_node, kwok_arguments
from dev.cluster.pki import create_pki, plan_certificates
from dev.cluster.settings import NODE_NAME, Folders, Network
from dev.cluster.shell import run

CRI = "io.containerd.grpc.v1.cri"


def test_containerd_keeps_images_in_the_cache_and_all_mounts_in_the_state(folders: Folders):
    document = tomllib.loads(config.render_containerd(folders, "tidegate.local/pause:1", "/usr/sbin/runc"))
    cri = document["plugins"][CRI]
    runc = cri["containerd"]["runtimes"]["runc"]["options"]
    assert document["root"] == str(folders.cache / "containerd")
    assert Path(document["state"]).is_relative_to(folders.node)
    assert Path(runc["Root"]).is_relative_to(folders.node)
    assert cri["netns_mounts_under_state_dir"] is True
    assert cri["restrict_oom_score_adj"] is True
    assert cri["sandbox_image"] == "tidegate.local/pause:1"
    assert runc == {"BinaryName": "/usr/sbin/runc", "Root": runc["Root"], "SystemdCgroup": False}


def test_pods_get_routed_links_with_addresses_of_their_range(folders: Folders, network: Network):
    document = json.loads(config.render_cni(folders, network))
    first, second = document["plugins"]
    assert first["type"] == "ptp"
    assert first["ipam"]["ranges"] == [[{"subnet": str(network.pods)}]]
    assert Path(first["ipam"]["dataDir"]).is_relative_to(folders.node)
    assert second["type"] == "portmap"


def test_kubelet_never_collects_images_and_never_evicts_for_the_disk(folders: Folders, network: Network):
    document = yaml.safe_load(config.render_kubelet(folders, network))
    assert document["imageGCHighThresholdPercent"] == 100
    assert document["evictionHard"]["nodefs.available"] == "0%"
    assert document["localStorageCapacityIsolation"] is False
    assert document["cgroupDriver"] == "cgroupfs"
    assert document["cgroupRoot"] == "/tidegate"
    assert document["clusterDNS"] == [network.dns_service]
    assert document["authentication"]["anonymous"] == {"enabled": False}
    assert document["authorization"] == {"mode": "Webhook"}
    assert Path(document["podLogsDir"]).is_relative_to(folders.node)


def test_kube_proxy_opens_node_ports_on_the_node_only_and_leaves_connection_tracking_alone(network: Network):
    document = yaml.safe_load(config.render_proxy(Path("/k"), network))
    assert document["mode"] == "iptables"
    assert document["nodePortAddresses"] == [f"{network.node_address}/32"]
    assert document["iptables"]["localhostNodePorts"] is False
    assert set(document["conntrack"].values()) == {0, "0s"}


def plan(folder: Path, *, advertised: bool) -> ControlPlane:
    return ControlPlane("10.0.0.2", 6443, 2379, 2380, folder, "10.1.0.0/24", advertised)


def test_api_server_has_the_authorizers_and_admission_of_a_normal_cluster():
    words = arguments.apiserver_arguments(plan(Path("/n"), advertised=True))
    assert "--authorization-mode=Node,RBAC" in words
    assert "--enable-admission-plugins=NodeRestriction" in words
    assert not [word for word in words if word.startswith("--disable-admission-plugins")]
    assert "--endpoint-reconciler-type=lease" in words
    alone = arguments.apiserver_arguments(plan(Path("/n"), advertised=False))
    assert "--endpoint-reconciler-type=none" in alone


def test_etcd_listens_on_loopback_only():
    words = arguments.etcd_arguments(plan(Path("/n"), advertised=True))
    assert "--listen-client-urls=http://127.0.0.1:2379" in words
    assert "--unsafe-no-fsync" in words
    assert not [word for word in words if "10.0.0.2" in word]


def test_limits_are_lifted_only_when_asked_for(network: Network):
    plain = arguments.controller_manager_arguments(Path("/k"), Path("/p"), network, lift_limits=False)
    lifted = arguments.controller_manager_arguments(Path("/k"), Path("/p"), network, lift_limits=True)
    assert not [word for word in plain if "qps" in word or "concurrent" in word]
    assert {"--kube-api-qps=500", "--kube-api-burst=1000"} <= set(lifted)
    assert lifted[: len(plain)] == plain


def test_corefile_forwards_only_where_there_is_a_server_to_forward_to():
    assert "forward . /etc/resolv.conf" in render_corefile(forward=True)
    alone = render_corefile(forward=False)
    assert "forward" not in alone
    assert alone.count("{") == alone.count("}")


def test_addons_are_the_dns_that_kubelets_point_to_and_the_default_class(network: Network):
    objects = {
        (each["kind"], each["metadata"]["name"]): each for each in build_addons(network, "i:1", forward_dns=True)
    }
    assert objects["Service", "kube-dns"]["spec"]["clusterIP"] == network.dns_service
    container = objects["Deployment", "coredns"]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "i:1"
    annotations = objects["StorageClass", "standard"]["metadata"]["annotations"]
    assert annotations == {"storageclass.kubernetes.io/is-default-class": "true"}
    assert len(list(yaml.safe_load_all(render_addons(network, "i:1", forward_dns=True)))) == len(objects)


def test_fake_nodes_have_gpus_and_a_taint_that_keeps_other_pods_away():
    node = build_fake_node(3, gpus=8)
    assert node["metadata"]["name"] == "fake-3"
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    assert node["spec"]["taints"][0]["effect"] == "NoSchedule"
    assert "nvidia.com/gpu" not in build_fake_node(0, gpus=0)["status"]["allocatable"]
    assert "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake" in kwok_arguments("/k", "/stages")


def test_node_and_groups_of_certificates_are_those_that_kubernetes_grants_rights_to():
    subjects = {each.name: (each.common_name, each.organization) for each in plan_certificates(["10.0.0.2"])}
    assert subjects["kubelet-client"] == (f"system:node:{NODE_NAME}", "system:nodes")
    assert subjects["admin"][1] == "system:masters"
    assert subjects["proxy"][0] == "system:kube-proxy"
    assert subjects["scheduler"][0] == "system:kube-scheduler"


def test_certificates_are_made_and_verify_against_their_authority(tmp_path: Path):
    pki = tmp_path / "pki"
    create_pki(pki, ["10.0.0.2"])
    for certificate in plan_certificates(["10.0.0.2"]):
        run(["openssl", "verify", "-CAfile", pki / f"{certificate.authority}.crt", pki / f"{certificate.name}.crt"])
    text = run(["openssl", "x509", "-in", pki / "apiserver.crt", "-noout", "-text"])
    assert "IP Address:10.0.0.2" in text
    assert "DNS:kubernetes.default.svc" in text
    assert "CA:FALSE" in text
    kubeconfig = yaml.safe_load(render_kubeconfig("https://10.0.0.2:6443", pki, "admin"))
    assert kubeconfig["clusters"][0]["cluster"]["server"] == "https://10.0.0.2:6443"


def test_private_files_are_private_and_not_touched_without_need(tmp_path: Path):
    path = tmp_path / "folder" / "kubeconfig"
    write_private(path, "a")
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.stat().st_mtime_ns
    write_private(path, "a")
    assert path.stat().st_mtime_ns == before
    write_private(path, "b")
    assert path.read_text() == "b"


@pytest.mark.parametrize("gpus", [0, 8])
def test_fake_nodes_are_valid_yaml(gpus: int):
    assert yaml.safe_load(yaml.safe_dump(build_fake_node(0, gpus)))
