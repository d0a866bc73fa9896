import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.cluster import images
from dev.cluster.engines import order_ahead
from dev.cluster.errors import ClusterError
from dev.cluster.images import IMAGES, Image, list_files, order_for_build, stage_context, superseded
from dev.cluster.settings import Folders

CHILD = Image("child", "child/Dockerfile", target="final")
PARENT = Image("base", "base/Dockerfile", "base", base="")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = tmp_path / "repository"
    write(root / "base/Dockerfile", "FROM debian\nCOPY packages.txt /\n")
    write(root / "base/packages.txt", "python3\n")
    write(
        root / "child/Dockerfile",
        "ARG BASE\nFROM other AS side\nCOPY side /\nFROM ${BASE} AS final\nCOPY child/src /\n",
    )
    write(root / "child/src/main.py", "print()\n")
    write(root / "child/src/cache.pyc", "ignored")
    write(root / "side", "not copied by the target")
    write(root / ".gitignore", "*.pyc\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    monkeypatch.setattr(images, "REPOSITORY", root)
    monkeypatch.setattr(images, "IMAGES", {"base": PARENT, "child": CHILD})
    images._key.cache_clear()
    yield root
    images._key.cache_clear()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def key(name: str) -> str:
    images._key.cache_clear()
    return images.reference(name)


@pytest.mark.parametrize("image", images.IMAGES.values(), ids=lambda image: image.name)
def test_no_dockerfile_names_a_registry(image: Image):
    """The builder gives BASE itself; everybody else's tool knows where it takes a plain name from."""
    for line in (images.REPOSITORY / image.dockerfile).read_text().splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM" or line.startswith("ARG BASE="):
            name = rest.removeprefix("BASE=").split(" ")[0]
            assert "/" not in name, line


def test_reference_names_the_image_and_its_content(repository: Path):
    assert images.reference("child").startswith("tidegate.local/child:")
    assert len(images.reference("child").rpartition(":")[2]) == 12
    assert set(images.references()) == {"base", "child"}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("child/src/main.py", "print(2)\n"),
        ("child/src/new.py", ""),
        ("child/Dockerfile", "ARG BASE\nFROM ${BASE} AS final\nCOPY child/src /\nUSER 1\n"),
        ("base/packages.txt", "python3\ncurl\n"),
    ],
)
def test_key_changes_with_everything_that_gets_into_the_image(repository: Path, path: str, text: str):
    before = key("child")
    write(repository / path, text)
    assert key("child") != before


def test_key_changes_with_the_run_bit(repository: Path):
    before = key("child")
    (repository / "child/src/main.py").chmod(0o755)
    assert key("child") != before


@pytest.mark.parametrize("path", ["child/src/cache.pyc", "side", "README.md"])
def test_key_does_not_change_with_anything_else(repository: Path, path: str):
    before = key("child")
    write(repository / path, "changed")
    assert key("child") == before


def test_key_survives_a_commit(repository: Path):
    before = key("child")
    subprocess.run(["git", "add", "."], cwd=repository, check=True)
    assert key("child") == before


def test_staged_context_has_exactly_the_hashed_files(repository: Path, folders: Folders, tmp_path: Path):
    stage_context(CHILD, folders, tmp_path / "context")
    staged = {path.relative_to(tmp_path / "context") for path in (tmp_path / "context").rglob("*") if path.is_file()}
    assert staged == {path.relative_to(repository) for path in list_files(CHILD)} == {Path("child/src/main.py")}


def test_a_deleted_but_tracked_file_is_left_out(repository: Path):
    subprocess.run(["git", "add", "."], cwd=repository, check=True)
    (repository / "child/src/main.py").unlink()
    assert list_files(CHILD) == []


def test_base_is_built_before_its_children(repository: Path):
    assert [image.name for image in order_for_build(["child", "base"])] == ["base", "child"]


def test_superseded_are_older_builds_of_the_named_images_that_no_pod_uses(repository: Path):
    current = images.reference("child")
    present = [
        current,
        "tidegate.local/child:000000000000",
        "tidegate.local/child:111111111111",
        "tidegate.local/base:000000000000",
        "example.com/child:000000000000",
    ]
    kept = ["tidegate.local/child:111111111111"]
    assert superseded(present, ["child"], keep=kept) == {"tidegate.local/child:000000000000"}


def test_unknown_image_and_missing_dockerfile_are_named(repository: Path):
    with pytest.raises(ClusterError, match=r"no image 'chlid'; there are: base, child"):
        images.reference("chlid")
    (repository / "child/Dockerfile").unlink()
    images._key.cache_clear()
    with pytest.raises(ClusterError, match="child/Dockerfile does not exist"):
        images.reference("child")
    assert set(images.references()) == {"base"}


def test_table_names_only_known_programs():
    assert all(module in images.MODULES for image in images.IMAGES.values() for module, _ in image.programs)


def test_images_without_a_program_are_built_ahead_first() -> None:
    ordered = order_ahead(IMAGES)
    waits = [bool(IMAGES[name].programs) for name in ordered]
    assert waits == sorted(waits)
    assert set(ordered) == set(IMAGES)
