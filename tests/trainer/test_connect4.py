"""The numpy rules against a board of plain lists, and the labels against a search of the tests' own."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_trainer import connect4


class Board:
    """Connect Four on lists: columns of stones, True for the side that moved first."""

    def __init__(self, moves=()):
        self.columns = [[] for _ in range(7)]
        self.count = 0
        for column in moves:
            self.push(column)

    def push(self, column):
        self.columns[column].append(self.count % 2 == 0)
        self.count += 1

    def pop(self, column):
        self.columns[column].pop()
        self.count -= 1

    def legal(self):
        return [column for column in range(7) if len(self.columns[column]) < 6]

    def cell(self, column, row):
        inside = 0 <= column < 7 and 0 <= row < len(self.columns[column])
        return self.columns[column][row] if inside else None

    def just_won(self, column):
        """Whether the last stone, on top of `column`, completes four."""
        row, player = len(self.columns[column]) - 1, self.count % 2 == 1
        for dx, dy in ((1, 0), (0, 1), (1, 1), (1, -1)):
            count = 1
            for sign in (1, -1):
                step = sign
                while self.cell(column + step * dx, row + step * dy) == player:
                    count, step = count + 1, step + sign
            if count >= 4:
                return True
        return False

    def result_of(self, column, depth):
        """Result for the side to move of playing `column`, or None when it is not certain within `depth` moves."""
        self.push(column)
        reply = None if self.just_won(column) else self.result(depth - 1)
        won = self.just_won(column)
        self.pop(column)
        return 1 if won else None if reply is None else -reply

    def result(self, depth):
        legal = self.legal()
        if not legal or depth == 0:
            return None if legal else 0
        results = []
        for column in legal:
            results.append(self.result_of(column, depth))
            if results[-1] == 1:
                return 1
        return None if None in results else max(results)


@st.composite
def games(draw, longest=42):
    """Moves of a game that may be over with the last one."""
    board, moves = Board(), []
    for _ in range(draw(st.integers(0, longest))):
        if not board.legal():
            break
        moves.append(draw(st.sampled_from(board.legal())))
        board.push(moves[-1])
        if board.just_won(moves[-1]):
            break
    return moves


def board_of(position):
    """Read a position through the model's planes, which other tests check."""
    planes, board = connect4.encode(np.array([position], np.uint64))[0], Board()
    own_turn = int((planes[0] + planes[1]).sum()) % 2 == 0
    for column in range(7):
        for row in range(5, -1, -1):
            if planes[0, row, column] or planes[1, row, column]:
                board.columns[column].append(bool(planes[0, row, column]) == own_turn)
    board.count = sum(map(len, board.columns))
    return board


@settings(max_examples=60, deadline=None)
@given(games())
def test_rules_agree_with_a_board_of_lists(moves):
    board, position = Board(moves), connect4.from_moves(moves)
    one = np.array([position])
    own, mask = connect4.decode(one)
    over = bool(moves) and board.just_won(moves[-1])
    assert connect4.count_stones(one)[0] == len(moves)
    assert np.flatnonzero(connect4.legal_moves(one)[0]).tolist() == board.legal()
    assert bool(connect4.has_won(own ^ mask)[0]) == over
    assert not connect4.has_won(own)[0]
    assert bool(connect4.are_valid(one)[0]) == (not over and len(moves) < 42)
    wins = [column for column in board.legal() if board.result_of(column, 1) == 1]
    assert np.flatnonzero(connect4.winning_moves(one)[0]).tolist() == wins


@settings(max_examples=60, deadline=None)
@given(games())
def test_planes_show_the_board_from_the_side_to_move(moves):
    board, planes = Board(moves), connect4.encode(np.array([connect4.from_moves(moves)]))[0]
    assert planes.shape == (3, 6, 7)
    assert planes.dtype == np.float32
    for column in range(7):
        for row in range(6):
            stone = board.cell(column, row)
            mine = stone is not None and stone == (len(moves) % 2 == 0)
            lands = len(board.columns[column]) == row
            assert planes[:, 5 - row, column].tolist() == [mine, stone is not None and not mine, lands]


@settings(max_examples=60, deadline=None)
@given(games())
def test_mirroring_twice_is_nothing_and_mirrors_planes_and_moves(moves):
    one = np.array([connect4.from_moves(moves)])
    mirrored = connect4.mirror(one)
    assert connect4.mirror(mirrored) == one
    assert np.array_equal(connect4.encode(mirrored), connect4.encode(one)[..., ::-1])
    assert np.array_equal(connect4.legal_moves(mirrored), connect4.legal_moves(one)[:, ::-1])
    assert connect4.canonical(one) == connect4.canonical(mirrored)
    assert connect4.split_hash(one) == connect4.split_hash(mirrored)


def test_from_moves_refuses_what_the_rules_refuse():
    with pytest.raises(ValueError, match="move 7: column 0"):
        connect4.from_moves([0] * 7)
    with pytest.raises(ValueError, match="move 1: column 7"):
        connect4.from_moves([7])
    with pytest.raises(ValueError, match="move 8: the game is already won"):
        connect4.from_moves([0, 1, 0, 1, 0, 1, 0, 1])


def test_render_shows_the_side_to_move_as_x():
    assert connect4.render(connect4.from_moves([3, 3, 4])).splitlines()[-2:] == [". . . x . . .", ". . . o o . ."]


@pytest.mark.parametrize(("stones", "count"), [(0, 1), (1, 4), (2, 25), (4, 568), (7, 27109)])
def test_enumeration_finds_every_unfinished_position_once(stones, count):
    positions = connect4.enumerate_positions(stones)
    assert len(positions) == count
    assert len(np.unique(positions)) == count
    assert np.array_equal(connect4.canonical(positions), positions)


def test_enumeration_agrees_with_playing_every_game():
    found = set()

    def play(moves):
        if len(moves) == 3:
            found.add(int(connect4.canonical(np.array([connect4.from_moves(moves)]))[0]))
            return
        for column in range(7):
            play([*moves, column])

    play([])
    assert found == set(connect4.enumerate_positions(3).tolist())


def test_words_that_are_no_position_are_found():
    own_stone_only, past_the_board, full_column_bits = np.uint64(0b10), np.uint64(1) << np.uint64(60), np.uint64(127)
    won = connect4.from_moves([0, 1, 0, 1, 0, 1, 0])
    words = np.array([own_stone_only, past_the_board, full_column_bits, won, connect4.from_moves([0])])
    assert connect4.are_valid(words).tolist() == [False, False, False, False, True]


@pytest.mark.slow
def test_labels_agree_with_a_search_wherever_it_is_certain(labelled):
    certain = 0
    for row in range(0, len(labelled), len(labelled) // 60):
        board, value, optimal = board_of(labelled.positions[row]), labelled.value[row], labelled.optimal[row]
        for column in board.legal():
            result = board.result_of(column, 4)
            if result is not None:
                certain += 1
                assert bool(optimal[column]) == (result == value)
                assert result <= value
    assert certain > 100


def test_labels_are_consistent(labelled):
    assert not (labelled.optimal & ~labelled.legal).any()
    assert labelled.optimal.any(axis=1).all()
    at_once = connect4.winning_moves(labelled.positions)
    assert (labelled.value[at_once.any(axis=1)] == 1).all()
    assert (labelled.optimal | ~at_once).all()
    lost = labelled.value == -1
    assert np.array_equal(labelled.optimal[lost], labelled.legal[lost])
    assert labelled.random_move_accuracy == pytest.approx(0.62, abs=0.02)


def test_labels_are_the_same_for_the_mirror_image(labelled):
    some = labelled.take(slice(0, 500))
    mirrored = connect4.label(connect4.mirror(some.positions), connect4.load_book())
    assert np.array_equal(mirrored.optimal, some.optimal[:, ::-1])
    assert np.array_equal(mirrored.value, some.value)


def test_the_book_refuses_what_it_does_not_hold():
    with pytest.raises(KeyError, match="not in the twelve-stone book"):
        connect4.load_book().look_up(np.array([connect4.from_moves([3])]))


@pytest.mark.parametrize("content", [b"", b"1234567"])
def test_a_damaged_book_is_named(tmp_path, content):
    path = tmp_path / "book.dat"
    path.write_bytes(content)
    with pytest.raises(connect4.DataPackageError, match="reinstall bitbully-databases"):
        connect4.load_book(path)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 0.5), st.floats(0.01, 0.3))
def test_split_shares_no_position_and_no_mirror_image(labelled, held_out, validation):
    hashes = connect4.split_hash(connect4.mirror(labelled.positions))
    first = connect4._select(labelled.positions, 0.0, held_out, None)
    rest = connect4._select(labelled.positions, held_out, 1.0, None)
    assert len(first) + len(rest) == len(labelled)
    assert not set(connect4.mirror(first).tolist()) & set(rest.tolist())
    assert not set(first.tolist()) & set(rest.tolist())
    assert len(first) == int((hashes < held_out).sum())
    wider = connect4._select(labelled.positions, 0.0, held_out + validation, None)
    assert np.array_equal(wider[: len(first)], first)


def test_held_out_positions_are_the_same_prefix_for_every_limit(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    few, many = connect4.held_out_positions(50), connect4.held_out_positions(200)
    again = connect4.held_out_positions(50)
    assert np.array_equal(few.positions, many.positions[:50])
    assert np.array_equal(few.positions, again.positions)
    assert np.array_equal(few.optimal, again.optimal)
    assert (connect4.split_hash(many.positions) < connect4.HELD_OUT_FRACTION).all()
    assert len(list((tmp_path / "tidegate").glob("*.npz"))) == 2


def test_a_damaged_or_read_only_cache_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = connect4.held_out_positions(50)
    (cache,) = (tmp_path / "tidegate").glob("*.npz")
    cache.write_bytes(cache.read_bytes()[:100])
    assert np.array_equal(connect4.held_out_positions(50).positions, first.positions)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert np.array_equal(connect4.held_out_positions(50).positions, first.positions)


def test_importing_the_positions_is_cheap():
    heavy = "{'torch', 'pydantic', 'mlflow', 'onnx'}"
    code = f"import sys, tidegate_trainer.connect4; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": "trainer_image"}, capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.slow
def test_the_book_is_exactly_the_positions_of_twelve_stones():
    positions = connect4.enumerate_positions(connect4.BOOK_STONES)
    quiet = positions[~connect4.winning_moves(positions).any(axis=1)]
    assert np.array_equal(quiet, connect4.load_book().positions)
