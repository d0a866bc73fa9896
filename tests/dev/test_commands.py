import multiprocessing
import time
from pathlib import Path

import pytest

from dev.cluster import __main__ as commands
from dev.cluster import engines, packages
from dev.cluster.engines import Podman, render_pip_settings
from dev.cluster.errors import ClusterError
from dev.cluster.lock import check_owner, exclusive, find_other_owner, write_owner
from dev.cluster.settings import Folders


def test_missing_packages_are_found_by_their_programs():
    assert packages.find_missing(lambda _: True) == []
    assert packages.find_missing(lambda program: program not in {"ctr", "containerd", "nft"}) == [
        "containerd",
        "nftables",
    ]


def test_without_apt_the_missing_packages_are_named(folders: Folders, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packages, "find_missing", lambda: ["containerd", "runc"])
    monkeypatch.setattr(packages, "find_program", lambda _: None)
    with pytest.raises(ClusterError, match="containerd runc"):
        packages.install_missing(folders)


def test_lock_is_free_again_after_use(folders: Folders):
    with exclusive(folders, "up"):
        assert "up, process" in (folders.state / "cluster.lock").read_text()
    with exclusive(folders, "down"):
        pass
    assert (folders.state / "cluster.lock").read_text() == ""


def hold(folders: Folders, path: Path) -> None:
    with exclusive(folders, "up"):
        path.touch()
        time.sleep(60)


def test_a_second_command_says_whom_it_waits_for_and_the_lock_dies_with_its_holder(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    holder = multiprocessing.get_context("fork").Process(target=hold, args=(folders, tmp_path / "held"))
    holder.start()
    deadline = time.monotonic() + 10
    while not (tmp_path / "held").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with (
        pytest.raises(ClusterError, match=f"still at work: up, process {holder.pid}"),
        exclusive(folders, "down", wait=0.1),
    ):
        pass
    assert f"up, process {holder.pid}" in capsys.readouterr().err
    holder.kill()
    holder.join()
    with exclusive(folders, "down", wait=1):
        pass


def test_the_cluster_of_another_checkout_is_refused_unless_forced(folders: Folders, tmp_path: Path):
    folders.node.mkdir(parents=True)
    write_owner(folders)
    assert find_other_owner(folders) is None
    other = tmp_path / "other"
    other.mkdir()
    text = (folders.node / "owner.json").read_text()
    (folders.node / "owner.json").write_text(text.replace(str(commands.__file__).split("/dev/cluster")[0], str(other)))
    with pytest.raises(ClusterError, match=rf"checkout {other}.*--force"):
        check_owner(folders, force=False)
    check_owner(folders, force=True)
    other.rmdir()
    check_owner(folders, force=False)


def test_pip_settings_of_the_machine_are_lent_without_a_trace_of_its_folders(tmp_path: Path):
    path = tmp_path / "pip.conf"
    path.write_text("[global]\nindex-url = https://mirror.example.com/simple\ncert = /home/ada/ca.pem\n")
    text = render_pip_settings({"PIP_TRUSTED_HOST": "mirror.example.com"}, [path, tmp_path / "missing"])
    assert "index-url = https://mirror.example.com/simple" in text
    assert "trusted-host = mirror.example.com" in text
    assert "/home/ada" not in text
    assert "index-url" not in render_pip_settings({}, [])


def test_podman_keeps_a_store_of_its_own(folders: Folders):
    words = Podman(folders).command("images")
    assert f"--root={folders.cache / 'podman' / 'root'}" in words
    assert "--cgroup-manager=cgroupfs" in words


class FakeEngine:
    """An engine that remembers what it was asked for."""

    def __init__(self, present: set[str]) -> None:
        self.present = present
        self.built: list[str] = []
        self.pushed: list[str] = []

    def has(self, reference: str) -> bool:
        return reference in self.present

    def build(self, image: engines.Image) -> None:
        self.built.append(image.name)

    def images(self) -> set[str]:
        return self.present

    def remove(self, references: object) -> None:
        raise AssertionError("nothing to remove")

    def push(self, reference: str, destination: str) -> None:
        self.pushed.append(destination)


def test_pushed_images_keep_their_content_in_the_reference():
    engine = FakeEngine({engines.reference("base")})
    pushed = engines.push_images(engine, ["base", "pause"], "registry.example.com/team/")
    assert engine.built == ["pause"]
    assert pushed == engine.pushed
    assert pushed[0] == engines.reference("base").replace("tidegate.local", "registry.example.com/team")


def test_every_command_parses():
    parser = commands.build_parser()
    for words in (
        ["up", "--lift-limits", "--kwok", "--nodes", "3"],
        ["down", "--force"],
        ["status"],
        ["load"],
        ["load", "operator", "triton"],
        ["logs", "kubelet", "-f"],
        ["kubeconfig"],
        ["env"],
        ["images"],
        ["kwok", "up", "--nodes", "5", "--gpus", "4"],
        ["push", "registry.example.com/team", "operator"],
    ):
        assert callable(parser.parse_args(words).run)


def test_errors_are_told_and_not_thrown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("CLUSTER", "minikube")
    assert commands.main(["status"]) == 1
    assert capsys.readouterr().err.startswith("error: CLUSTER=minikube")


def test_environment_can_be_read_by_a_shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("CLUSTER", "current")
    monkeypatch.setenv("KUBECONFIG", "/with a space/config")
    assert commands.main(["env"]) == 0
    assert "export KUBECONFIG='/with a space/config'\n" in capsys.readouterr().out


def test_tail_follows_across_restarts():
    words = commands.tail_arguments([Path("/a.log")], 5, follow=True)
    assert words == ["tail", "-n", "5", "-F", "/a.log"]
