"""Data set files: what is accepted, what is refused and why, and how rows are divided."""

import io
from dataclasses import replace

import numpy as np
import pytest

from tidegate_trainer import connect4, datasets
from tidegate_trainer.artifacts import ArtifactStore, sha256_of
from tidegate_trainer.contract import Dataset
from tidegate_trainer.datasets import Sizes, load_splits, to_npz
from tidegate_trainer.errors import Reason, TrainingError

SIZES = Sizes(held_out=0.2, validation=0.1, evaluation_rows=400, training_rows=None)
STORE = ArtifactStore(patience=0)


def save(path, content, **fields):
    path.write_bytes(content)
    return Dataset(name="positions", uri=path.as_uri(), **fields)


def refuse(dataset):
    with pytest.raises(TrainingError) as caught:
        load_splits([dataset], SIZES, STORE)
    return caught.value


def test_a_file_is_divided_without_overlap(dataset_file, labelled):
    splits = load_splits([Dataset(name="positions", uri=dataset_file.as_uri())], SIZES, STORE)
    parts = [splits.training, splits.validation, splits.held_out]
    seen = [set(connect4.canonical(part.positions).tolist()) for part in parts]
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]
    assert len(splits.held_out) == 400
    assert len(splits.validation) == 100
    assert splits.hashes[0].sha256 == sha256_of(dataset_file.read_bytes())


def test_repeated_and_mirrored_rows_count_once(tmp_path, labelled):
    some = labelled.take(slice(0, 300))
    mirrored = replace(some, positions=connect4.mirror(some.positions), optimal=some.optimal[:, ::-1])
    one = save(tmp_path / "one.npz", to_npz(some))
    two = save(tmp_path / "two.npz", to_npz(mirrored))
    splits = load_splits([one, two], SIZES, STORE)
    rows = [splits.training, splits.validation, splits.held_out]
    assert sum(map(len, rows)) == len(some)
    known = dict(zip(some.positions.tolist(), some.optimal, strict=True))
    for part in rows:
        for position, optimal in zip(part.positions.tolist(), part.optimal, strict=True):
            assert np.array_equal(known[position], optimal)


def test_the_built_in_data_set_checks_its_hash():
    dataset = Dataset(name="positions", uri="builtin://connect4-solved", sha256="0" * 64)
    error = refuse(dataset)
    assert error.reason is Reason.DATASET_CHECKSUM_MISMATCH
    assert connect4.load_book().sha256 in error.message


def test_the_built_in_data_set_without_its_package_is_missing(monkeypatch):
    monkeypatch.setattr(connect4.importlib.util, "find_spec", lambda _: None)
    error = refuse(Dataset(name="positions", uri="builtin://connect4-solved"))
    assert error.reason is Reason.DATASET_MISSING
    assert "bitbully-databases" in error.message


def test_a_missing_file_says_where_it_should_be(tmp_path):
    error = refuse(Dataset(name="positions", uri=(tmp_path / "none.npz").as_uri()))
    assert (error.reason, error.retryable) == (Reason.DATASET_MISSING, False)
    assert "none.npz" in error.message


def test_another_hash_is_refused_with_both(tmp_path, labelled):
    error = refuse(save(tmp_path / "a.npz", to_npz(labelled), sha256="1" * 64))
    assert (error.reason, error.retryable) == (Reason.DATASET_CHECKSUM_MISMATCH, False)
    assert "1" * 64 in error.message


def test_a_server_that_is_away_is_no_missing_data_set():
    error = refuse(Dataset(name="positions", uri="http://127.0.0.1:9/x.npz"))
    assert (error.reason, error.retryable) == (Reason.STORAGE_UNAVAILABLE, True)


def damage(labelled, how):
    some = labelled.take(slice(0, 50))
    lost_stone, illegal, no_move, far = (
        some.positions.copy(),
        some.optimal.copy(),
        some.optimal.copy(),
        some.value.copy(),
    )
    lost_stone[3] += np.uint64(1) << np.uint64(55)
    illegal[4] = True
    full = connect4.from_moves([0, 0, 0, 0, 0, 0, 1, 2, 1, 2, 4])
    no_move[5] = False
    far[6] = 3
    files = {
        "truncated": lambda: to_npz(some)[:-200],
        "not an archive": lambda: b"a,b,c\n1,2,3\n",
        "empty": lambda: b"",
        "row 3 is not a position": lambda: to_npz(replace(some, positions=lost_stone)),
        "row 4 calls an illegal": lambda: to_npz(
            replace(some, optimal=illegal, positions=np.where(np.arange(50) == 4, full, some.positions))
        ),
        "row 5 has no optimal move": lambda: to_npz(replace(some, optimal=no_move)),
        "row 6 has a value": lambda: to_npz(replace(some, value=far)),
        "value is int8[10], expected int8[50]": lambda: to_npz(replace(some, value=some.value[:10])),
        "positions is int64[50], expected uint64[50]": lambda: to_npz(
            replace(some, positions=some.positions.astype(np.int64))
        ),
        "has no rows": lambda: to_npz(some.take(slice(0, 0))),
        "the array value is missing": lambda: _without_value(some),
    }
    return files[how]()


def _without_value(some):
    file = io.BytesIO()
    np.savez(file, positions=some.positions, optimal=some.optimal)
    return file.getvalue()


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "not an archive",
        "empty",
        "row 3 is not a position",
        "row 4 calls an illegal",
        "row 5 has no optimal move",
        "row 6 has a value",
        "value is int8[10], expected int8[50]",
        "positions is int64[50], expected uint64[50]",
        "has no rows",
        "the array value is missing",
    ],
)
def test_a_damaged_file_is_corrupt_and_says_how(tmp_path, labelled, how):
    error = refuse(save(tmp_path / "damaged.npz", damage(labelled, how)))
    assert (error.reason, error.retryable) == (Reason.DATASET_CORRUPT, False)
    if how not in ("truncated", "not an archive", "empty"):
        assert how in error.message


def test_pickled_arrays_are_not_opened(tmp_path):
    file = io.BytesIO()
    np.savez(file, positions=np.array([object()], dtype=object))
    assert refuse(save(tmp_path / "pickle.npz", file.getvalue())).reason is Reason.DATASET_CORRUPT


def test_labelling_is_left_out_where_rows_are_not_wanted(monkeypatch):
    wanted = []
    monkeypatch.setattr(connect4, "load_positions", lambda *bounds: wanted.append(bounds))
    datasets.load_splits([Dataset(name="p", uri="builtin://connect4-solved")], Sizes(0.05, 0.01, 1000, 5000), STORE)
    assert sorted(wanted) == [(0.0, 0.05, 1000), (0.05, pytest.approx(0.06), 250), (pytest.approx(0.06), 1.0, 5000)]
