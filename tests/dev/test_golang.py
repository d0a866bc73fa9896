from pathlib import Path

import pytest

from dev.cluster import golang
from dev.cluster.errors import ClusterError
from dev.cluster.golang import (
    MODULES,
    PEERS,
    GoModule,
    check_go,
    compute_key,
    ensure_program,
    needed_version,
    parse_version,
    program_path,
)
from dev.cluster.settings import KUBERNETES_VERSION, Folders


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GoModule:
    monkeypatch.setattr(golang, "SOURCES", tmp_path)
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "go.mod").write_text("module demo\n\ngo 1.24.0\n")
    (folder / "go.sum").write_text("")
    (folder / "main.go").write_text("package main\n")
    return GoModule("demo", {"demo": "."})


@pytest.mark.parametrize("name", ["go.mod", "go.sum", "main.go", "other.go"])
def test_key_changes_with_every_source(module: GoModule, name: str):
    before = compute_key(module)
    path = module.folder / name
    path.write_text((path.read_text() if path.exists() else "") + "// changed\n")
    assert compute_key(module) != before


def test_key_does_not_change_with_other_files(module: GoModule):
    before = compute_key(module)
    (module.folder / "README.md").write_text("text")
    assert compute_key(module) == before


def test_key_changes_with_the_version_that_is_linked_in(module: GoModule):
    assert compute_key(module) != compute_key(GoModule("demo", {"demo": "."}, ("-X version=v2",)))


def test_a_built_program_is_not_built_again(module: GoModule, folders: Folders, monkeypatch: pytest.MonkeyPatch):
    path = program_path(folders, module, "demo")
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.setattr(golang, "run_logged", lambda *_, **__: pytest.fail("built again"))
    assert ensure_program(folders, module, "demo") == path


@pytest.mark.parametrize(
    ("installed", "toolchain", "is_refused"),
    [
        ("go1.19.8", "local", True),
        ("go1.24.0", "local", False),
        ("go1.26.8", "local", False),
        ("go1.19.8", "auto", False),
    ],
)
def test_an_old_go_is_refused_with_the_remedy(
    module: GoModule, monkeypatch: pytest.MonkeyPatch, installed: str, toolchain: str, is_refused: bool
):
    monkeypatch.setattr(golang, "is_installed", lambda _: True)
    monkeypatch.setattr(golang, "run", lambda *_, **__: f"{installed}\n{toolchain}\n")
    if is_refused:
        with pytest.raises(ClusterError, match=r"install Go 1\.24\.0 or newer.*GOTOOLCHAIN=auto"):
            check_go(module)
    else:
        check_go(module)


def test_missing_go_is_named(module: GoModule, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(golang, "is_installed", lambda _: False)
    with pytest.raises(ClusterError, match="Go is needed to build demo"):
        check_go(module)


def test_versions_compare_as_numbers():
    assert parse_version("go1.9") < parse_version("1.24.0") < parse_version("go1.26.8-custom")


@pytest.mark.parametrize("module", PEERS.values(), ids=lambda module: module.name)
def test_every_peer_is_pinned(module: GoModule):
    assert f"module tidegate.local/dev/go/{module.name}\n" in (module.folder / "go.mod").read_text()
    for package in module.programs.values():
        assert needed_version(module, package.partition("/cmd/")[0]).startswith("v1.")


def test_a_module_that_is_not_needed_has_no_version(module: GoModule):
    with pytest.raises(ClusterError, match=r"does not need example\.org/other"):
        needed_version(module, "example.org/other")


@pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.name)
def test_every_module_is_pinned_and_names_no_replacement(module: GoModule):
    text = (module.folder / "go.mod").read_text()
    assert f"module tidegate.local/dev/go/{module.name}\n" in text
    assert "replace" not in text


def test_kubernetes_and_its_parts_have_one_version():
    text = (MODULES["kubernetes"].folder / "go.mod").read_text()
    parts = f"v0.{KUBERNETES_VERSION.removeprefix('v1.')}"
    assert f"k8s.io/kubernetes {KUBERNETES_VERSION}\n" in text
    assert f"k8s.io/apiserver {parts} " in text
    for line in text.splitlines():
        name, _, version = line.strip().removesuffix(" // indirect").partition(" ")
        if name.startswith("k8s.io/") and version.startswith("v0.3"):
            assert version == parts, line
