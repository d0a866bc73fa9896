"""Artifacts and checkpoints: every kind of address, faults, torn files."""

import errno
import os
import subprocess

import pytest

from tidegate_trainer import artifacts
from tidegate_trainer.artifacts import ArtifactMissingError, ArtifactStore, join
from tidegate_trainer.checkpoints import Checkpoint, Checkpoints, fingerprint, pack, unpack
from tidegate_trainer.contract import TrainingJob
from tidegate_trainer.errors import Reason, TrainingError


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def store(server, pauses):
    return ArtifactStore(server.url, patience=30, sleep=pauses.append)


@pytest.fixture
def addresses(server, tmp_path):
    return {
        "file": tmp_path.as_uri(),
        "http": f"{server.url}/bucket",
        "mlflow-artifacts": "mlflow-artifacts:/1/ab/artifacts",
    }


@pytest.mark.parametrize("kind", ["file", "http", "mlflow-artifacts"])
def test_what_is_written_is_read_again(store, addresses, kind):
    uri = join(addresses[kind], "model/model file.bin")
    with pytest.raises(ArtifactMissingError):
        store.read(uri)
    store.write(uri, b"one")
    store.write(uri, b"two")
    assert store.read(uri) == b"two"


def test_mlflow_artifacts_go_through_the_tracking_server(store, server):
    store.write("mlflow-artifacts:/1/ab/artifacts/model/model.onnx", b"x")
    assert list(server.files) == ["/api/2.0/mlflow-artifacts/artifacts/1/ab/artifacts/model/model.onnx"]


def test_mlflow_artifacts_without_a_server_name_the_variable(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(TrainingError, match="MLFLOW_TRACKING_URI"):
        ArtifactStore(patience=0).read("mlflow-artifacts:/1/a")


def test_buckets_go_through_fsspec(monkeypatch, store):
    import fsspec

    real, opened = fsspec.open, []

    def fake(uri, mode):
        opened.append(uri)
        return real(uri.replace("s3://", "memory://"), mode)

    monkeypatch.setattr(fsspec, "open", fake)
    with pytest.raises(ArtifactMissingError):
        store.read("s3://bucket/none")
    store.write("s3://bucket/a", b"x")
    assert store.read("s3://bucket/a") == b"x"
    assert set(opened) == {"s3://bucket/none", "s3://bucket/a"}


def test_a_server_that_stumbles_is_tried_again_with_growing_pauses(store, server, pauses):
    server.failures += [503, 500, 429]
    store.write("mlflow-artifacts:/a", b"x")
    assert pauses == [0.5, 1.0, 2.0]
    assert len(server.files) == 1


def test_a_server_that_stays_away_ends_with_its_reason_and_may_be_tried_later(pauses):
    store = ArtifactStore("http://127.0.0.1:9", patience=0, sleep=pauses.append)
    with pytest.raises(TrainingError) as caught:
        store.write("mlflow-artifacts:/a", b"x")
    assert (caught.value.reason, caught.value.exit_code) == (Reason.STORAGE_UNAVAILABLE, 1)
    assert "mlflow-artifacts:/a" in caught.value.message


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    store, uri = ArtifactStore(patience=30, sleep=pytest.fail), (tmp_path / "a").as_uri()
    store.write(uri, b"old")
    monkeypatch.setattr(artifacts.os, "fsync", _raise_no_space)
    with pytest.raises(TrainingError) as caught:
        store.write(uri, b"new and longer")
    assert (caught.value.reason, caught.value.retryable) == (Reason.DISK_FULL, True)
    assert store.read(uri) == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def _raise_no_space(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ---- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoints(store, addresses, tmp_path):
    def make(kind="mlflow-artifacts", identity="job", keep=2, pod="pod"):
        local = (tmp_path / pod).as_uri()
        return Checkpoints(store, identity, local, join(addresses[kind], "checkpoints"), keep)

    return make


def test_a_packed_checkpoint_is_read_again():
    checkpoint = Checkpoint("f", 3, 42.5, b"\x00payload")
    assert unpack(pack(checkpoint)) == checkpoint


@pytest.mark.parametrize("cut", [0, 5, 40, 60, -1])
def test_a_torn_checkpoint_is_nothing(cut):
    assert unpack(pack(Checkpoint("f", 3, 42.5, b"payload"))[:cut]) is None


def test_a_changed_byte_is_found():
    content = bytearray(pack(Checkpoint("f", 3, 42.5, b"payload")))
    content[-1] ^= 1
    assert unpack(bytes(content)) is None


@pytest.mark.parametrize("kind", ["file", "http", "mlflow-artifacts"])
def test_a_pod_on_another_node_finds_the_newest(checkpoints, kind):
    first = checkpoints(kind)
    for number in range(5):
        first.save(b"%d" % number, percent=number)
        assert first.flush()
    found = checkpoints(kind, pod="another").latest()
    assert (found.payload, found.sequence, found.percent) == (b"4", 5, 4)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_torn_newest_checkpoint_leaves_the_one_before(checkpoints, server, keep):
    first = checkpoints(keep=keep)
    for number in range(4):
        first.save(b"%d" % number, percent=0)
        first.flush()
    newest = max(server.files, key=lambda path: unpack(server.files[path]).sequence)
    server.files[newest] = server.files[newest][:-1]
    second = checkpoints(keep=keep, pod="another")
    assert second.latest().payload == b"2"
    second.save(b"again", percent=0)
    second.flush()
    assert checkpoints(keep=keep, pod="third").latest().payload == b"again"
    assert len(server.files) == max(keep, 2)


def test_the_pod_s_own_checkpoint_counts_when_the_remote_one_is_older(checkpoints, server):
    first = checkpoints()
    first.save(b"old", percent=0)
    first.flush()
    server.failures += [500]
    first.save(b"new", percent=0)
    first.flush()
    assert "StorageUnavailable" in first.problem
    assert checkpoints().latest().payload == b"new"
    assert checkpoints(pod="another").latest().payload == b"old"


def test_a_remote_fault_passes_by_itself(checkpoints, server, caplog):
    caplog.set_level("INFO")
    keeper = checkpoints()
    server.failures += [500, 500]
    for number in range(3):
        keeper.save(b"%d" % number, percent=0)
        keeper.flush()
    assert keeper.problem is None
    assert [record.levelname for record in caplog.records if record.name.endswith("checkpoints")] == ["WARNING", "INFO"]


def test_a_checkpoint_of_another_training_is_passed_over(checkpoints):
    first = checkpoints(identity="one")
    first.save(b"x", percent=0)
    first.flush()
    assert checkpoints(identity="two").latest() is None


def test_an_unreachable_folder_is_not_taken_for_an_empty_one(tmp_path):
    keeper = Checkpoints(ArtifactStore("http://127.0.0.1:9", patience=0), "f", tmp_path.as_uri(), "mlflow-artifacts:/c")
    with pytest.raises(TrainingError) as caught:
        keeper.latest()
    assert (caught.value.reason, caught.value.retryable) == (Reason.STORAGE_UNAVAILABLE, True)


def test_a_full_disk_keeps_the_older_checkpoint_and_heals(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        keeper = Checkpoints(ArtifactStore(patience=0), "f", disk.as_uri())
        keeper.save(b"small", percent=0)
        (disk / "others").write_bytes(b"x" * 150_000)
        keeper.save(b"x" * 120_000, percent=0)
        assert "DiskFull" in keeper.problem
        assert Checkpoints(ArtifactStore(patience=0), "f", disk.as_uri()).latest().payload == b"small"
        (disk / "others").unlink()
        keeper.save(b"x" * 120_000, percent=0)
        assert keeper.problem is None
        assert len(Checkpoints(ArtifactStore(patience=0), "f", disk.as_uri()).latest().payload) == 120_000
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [("uid", "other"), ("seed", 8), ("baseModel", {"uri": "file:///m/model.onnx", "sha256": "0" * 64})],
)
def test_whatever_decides_the_training_decides_its_fingerprint(document, field, value):
    config = {"blocks": 1}
    before = fingerprint(TrainingJob.model_validate(document), config)
    assert fingerprint(TrainingJob.model_validate(document), {"blocks": 2}) != before
    assert fingerprint(TrainingJob.model_validate(document | {field: value}), config) != before
    assert fingerprint(TrainingJob.model_validate(document | {"name": "renamed"}), config) == before
