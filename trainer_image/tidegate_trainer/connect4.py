"""Connect Four in numpy: positions, rules, exact labels, the held-out split and the model's input planes.

Needs numpy and the data package `bitbully-databases` (MIT), nothing else.

**A position is one `uint64`.** Column `c` (0 = left) owns the seven bits from `7 * c` on. The bitboard `mask` has a bit
per stone (lowest bit = lowest cell), `own` the same for the stones of the side to move; the position is `own + mask`.
A column never overflows its seven bits, so the sum is unique, and mirroring a position only reverses its columns.

**The book** holds every position of twelve stones in which nobody has won and the side to move cannot win at once,
mirror images folded, with its exact result. Each move of a position of eleven stones is therefore labelled exactly: it
wins at once, or it lets the opponent win at once, or it leads into the book.

**Labels** of a position: `value` is the game-theoretic result for the side to move (1 win, 0 draw, -1 loss), `optimal`
marks every legal move that keeps this result.

**The split** orders all positions by a fixed hash of their mirror-folded form. The first `HELD_OUT_FRACTION` of the
hash range is held out: no training sees those positions or their mirror images, whatever its seed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BOOK_STONES",
    "COLUMNS",
    "HELD_OUT_FRACTION",
    "PLANES",
    "ROWS",
    "STONES",
    "Book",
    "DataPackageError",
    "Labelled",
    "are_valid",
    "book_path",
    "canonical",
    "count_stones",
    "decode",
    "encode",
    "enumerate_positions",
    "from_moves",
    "has_won",
    "held_out_positions",
    "label",
    "legal_moves",
    "load_book",
    "load_positions",
    "mirror",
    "play",
    "render",
    "split_hash",
    "winning_moves",
]

Bools = NDArray[np.bool_]
Values = NDArray[np.int8]
Words = NDArray[np.uint64]

COLUMNS = 7
ROWS = 6
PLANES = 3
BOOK_STONES = 12
STONES = BOOK_STONES - 1
HELD_OUT_FRACTION = 0.05
"""Share of all positions that training leaves alone unless its configuration says otherwise."""

_BITS = ROWS + 1
_COLUMN = np.uint64((1 << _BITS) - 1)
_SHIFTS = tuple(np.uint64(_BITS * column) for column in range(COLUMNS))
_CELLS = tuple(np.uint64(((1 << ROWS) - 1) << (_BITS * column)) for column in range(COLUMNS))
_BOTTOM = np.uint64(sum(1 << (_BITS * column) for column in range(COLUMNS)))
_BOARD = np.uint64(sum(((1 << ROWS) - 1) << (_BITS * column) for column in range(COLUMNS)))
_LINES = (1, _BITS - 1, _BITS, _BITS + 1)
_SPLIT_SALT = np.uint64(0x7469646567617465)
_CACHE_FORMAT = 1


class DataPackageError(Exception):
    """The package that carries the solved positions is not installed, or its file is not the expected one."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Positions with exact labels, one row each."""

    positions: Words
    """(N,) positions, mirror-folded."""
    optimal: Bools
    """(N, 7) legal moves that keep the game-theoretic result; each row has at least one."""
    value: Values
    """(N,) result for the side to move: 1 win, 0 draw, -1 loss."""

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def legal(self) -> Bools:
        """(N, 7) moves the rules allow."""
        return legal_moves(self.positions)

    @property
    def boards(self) -> NDArray[np.float32]:
        """(N, 3, 6, 7) input planes of the model."""
        return encode(self.positions)

    @property
    def random_move_accuracy(self) -> float:
        """Share of uniformly random legal moves that keep the result: the floor of every move accuracy."""
        return float((self.optimal.sum(axis=1) / self.legal.sum(axis=1)).mean())

    def take(self, rows: NDArray[np.integer] | slice) -> Labelled:
        """Return the named rows in the given order."""
        return Labelled(self.positions[rows], self.optimal[rows], self.value[rows])


@dataclass(frozen=True, slots=True)
class Book:
    """Exact results of twelve-stone positions, sorted for look-up by binary search."""

    positions: Words
    value: Values
    sha256: str
    """Hash of the data file the book was read from."""

    def look_up(self, positions: Words) -> Values:
        """Return the results of the given positions for the side to move.

        Raises:
            KeyError: a position is not in the book (it is won, can be won at once, or has another number of stones).
        """
        wanted = canonical(positions)
        # Sorted needles walk the book front to back, which is several times faster than random access.
        order = np.argsort(wanted)
        rows = np.empty(len(wanted), np.int64)
        rows[order] = np.searchsorted(self.positions, wanted[order])
        rows = np.minimum(rows, len(self.positions) - 1)
        if not np.array_equal(self.positions[rows], wanted):
            raise KeyError("a position is not in the twelve-stone book")
        return self.value[rows]


# ---- rules -----------------------------------------------------------------------------------------------------------


def decode(positions: Words) -> tuple[Words, Words]:
    """Return the bitboards (own stones, all stones) of the given positions."""
    own, mask = np.zeros_like(positions), np.zeros_like(positions)
    own_of, mask_of = _column_tables()
    for shift in _SHIFTS:
        column = (positions >> shift) & _COLUMN
        own |= own_of[column] << shift
        mask |= mask_of[column] << shift
    return own, mask


def count_stones(positions: Words) -> NDArray[np.uint8]:
    """Return how many stones lie on each board."""
    return np.bitwise_count(decode(positions)[1])


def has_won(stones: Words) -> Bools:
    """Tell for each bitboard whether it holds four stones in a line."""
    won = np.zeros(stones.shape, np.bool_)
    for step in _LINES:
        pairs = stones & (stones >> np.uint64(step))
        won |= (pairs & (pairs >> np.uint64(2 * step))) != 0
    return won


def legal_moves(positions: Words) -> Bools:
    """Return (N, 7): the columns that are not full."""
    _, mask = decode(positions)
    return np.stack([_landing(mask, column) != 0 for column in range(COLUMNS)], axis=1)


def winning_moves(positions: Words) -> Bools:
    """Return (N, 7): the legal moves that complete four in a line at once."""
    own, mask = decode(positions)
    cells = [_landing(mask, column) for column in range(COLUMNS)]
    return np.stack([(cell != 0) & has_won(own | cell) for cell in cells], axis=1)


def play(positions: Words, column: int) -> Words:
    """Return the positions after a stone in `column`, seen by the opponent; only meaningful where the move is legal."""
    own, mask = decode(positions)
    return (own ^ mask) + (mask | _landing(mask, column))


def mirror(positions: Words) -> Words:
    """Return the positions reflected left to right (also works on bitboards)."""
    mirrored = np.zeros_like(positions)
    for shift, opposite in zip(_SHIFTS, reversed(_SHIFTS), strict=True):
        mirrored |= ((positions >> shift) & _COLUMN) << opposite
    return mirrored


def canonical(positions: Words) -> Words:
    """Return the smaller of each position and its mirror image."""
    return np.minimum(positions, mirror(positions))


def are_valid(positions: Words) -> Bools:
    """Tell which words are positions of an unfinished game: gravity, stone counts, and nobody has won."""
    own, mask = decode(positions)
    whole = own + mask == positions
    stones, mine = np.bitwise_count(mask), np.bitwise_count(own)
    valid: Bools = whole & (mine == stones // 2) & ~has_won(own) & ~has_won(own ^ mask) & (mask != _BOARD)
    return valid


def from_moves(columns: list[int]) -> np.uint64:
    """Return the position after the given columns (0 = left) were played from the empty board.

    Raises:
        ValueError: a column is full or outside the board, or the game was over before the last move.
    """
    position = np.zeros(1, np.uint64)
    for number, column in enumerate(columns, 1):
        if not 0 <= column < COLUMNS or not legal_moves(position)[0, column]:
            raise ValueError(f"move {number}: column {column} cannot be played")
        own, mask = decode(position)
        if has_won(own ^ mask)[0]:
            raise ValueError(f"move {number}: the game is already won")
        position = play(position, column)
    return np.uint64(position[0])


def render(position: np.uint64) -> str:
    """Draw a position: `x` the side to move, `o` the opponent, top row first."""
    board = encode(np.array([position], np.uint64))[0]
    signs = np.where(board[0] > 0, "x", np.where(board[1] > 0, "o", "."))
    return "\n".join(" ".join(row) for row in signs)


def encode(positions: Words) -> NDArray[np.float32]:
    """Return the model's input (N, 3, 6, 7), row 0 at the top.

    Plane 0 marks the stones of the side to move, plane 1 the opponent's, plane 2 the cells a stone can land on now.
    """
    own, mask = decode(positions)
    planes = np.stack([own, own ^ mask, (mask + _BOTTOM) & _BOARD], axis=1)
    cells = (planes[:, :, None] >> np.arange(_BITS * COLUMNS, dtype=np.uint64)) & np.uint64(1)
    grid = cells.reshape(len(positions), PLANES, COLUMNS, _BITS)[..., ROWS - 1 :: -1]
    return np.ascontiguousarray(grid.swapaxes(2, 3), dtype=np.float32)


@lru_cache(maxsize=4)
def enumerate_positions(stones: int) -> Words:
    """Return every reachable position with `stones` stones in which nobody has won, mirror-folded and sorted.

    Eleven stones: 1.9 million positions, about two seconds.
    """
    level = np.zeros(1, np.uint64)
    for _ in range(stones):
        level = np.unique(canonical(np.concatenate(_unfinished_children(level))))
    return level


def _unfinished_children(positions: Words) -> list[Words]:
    own, mask = decode(positions)
    children = []
    for column in range(COLUMNS):
        cell = _landing(mask, column)
        open_game = (cell != 0) & ~has_won(own | cell)
        children.append(((own ^ mask) + (mask | cell))[open_game])
    return children


def _landing(mask: Words, column: int) -> Words:
    """Return the cell in which a stone lands, 0 where the column is full."""
    landing: Words = (mask + (np.uint64(1) << _SHIFTS[column])) & ~mask & _CELLS[column]
    return landing


@lru_cache(maxsize=1)
def _column_tables() -> tuple[Words, Words]:
    """Tables from a column's seven bits to its own stones and its mask."""
    codes = np.arange(1 << _BITS, dtype=np.uint64) + np.uint64(1)
    heights = np.floor(np.log2(codes)).astype(np.uint64)
    full = np.uint64(1) << heights
    own, mask = codes - full, full - np.uint64(1)
    own[-1] = mask[-1] = 0
    return own, mask


# ---- labels ----------------------------------------------------------------------------------------------------------


def book_path() -> Path:
    """Return where the twelve-stone book lies.

    Raises:
        DataPackageError: `bitbully-databases` is not installed.
    """
    spec = importlib.util.find_spec("bitbully_databases")
    if spec is None or spec.origin is None:
        raise DataPackageError("the package bitbully-databases is not installed; install it beside the trainer")
    return Path(spec.origin).parent / "assets" / "book_12ply_distances.dat"


@lru_cache(maxsize=1)
def load_book(path: Path | None = None) -> Book:
    """Read the twelve-stone book, by default the one of the data package (4,200,899 positions, one second).

    Raises:
        DataPackageError: the file is not there or is not such a book.
    """
    path = path or book_path()
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataPackageError(f"{path} is missing; reinstall bitbully-databases") from error
    return _parse_book(content, str(path))


def _parse_book(content: bytes, name: str) -> Book:
    entry = np.dtype([("code", ">u4"), ("score", "i1")])
    if not content or len(content) % entry.itemsize:
        raise DataPackageError(f"{name} is not a whole number of book entries; reinstall bitbully-databases")
    entries = np.frombuffer(content, entry)
    positions = canonical(_decode_huffman(entries["code"].astype(np.uint32)))
    order = np.argsort(positions)
    value = np.sign(entries["score"]).astype(np.int8)
    return Book(positions[order], value[order], hashlib.sha256(content).hexdigest())


def _decode_huffman(codes: NDArray[np.uint32]) -> Words:
    """Decode book entries: per column, bottom to top, `10` own stone, `11` opponent's, `0` end of column."""
    column_of, length_of = _huffman_tables()
    width = 2 * ROWS + 1
    positions = np.zeros(len(codes), np.uint64)
    rest = codes.copy()
    for shift in _SHIFTS:
        head = rest >> np.uint32(32 - width)
        positions |= column_of[head] << shift
        rest <<= length_of[head]
    return positions


@lru_cache(maxsize=1)
def _huffman_tables() -> tuple[Words, NDArray[np.uint32]]:
    """Tables from the next 13 bits of an entry to the column they start with and the bits it takes."""
    width = 2 * ROWS + 1
    columns, lengths = np.zeros(1 << width, np.uint64), np.zeros(1 << width, np.uint32)
    for head in range(1 << width):
        bits = format(head, f"0{width}b")
        height = next((row for row in range(ROWS) if bits[2 * row] == "0"), ROWS)
        own = sum(1 << row for row in range(height) if bits[2 * row + 1] == "0")
        columns[head] = own + (1 << height) - 1
        lengths[head] = 2 * height + 1
    return columns, lengths


def label(positions: Words, book: Book) -> Labelled:
    """Label eleven-stone positions exactly: wins at once first, then the opponent's, then the book."""
    results = np.stack([_results_of_move(positions, column, book) for column in range(COLUMNS)], axis=1)
    value = results.max(axis=1)
    optimal = (results == value[:, None]) & legal_moves(positions)
    return Labelled(positions, optimal, value)


_ILLEGAL = np.int8(-2)


def _results_of_move(positions: Words, column: int, book: Book) -> Values:
    """Return the result for the mover of playing `column`, `_ILLEGAL` where it is full."""
    own, mask = decode(positions)
    cell = _landing(mask, column)
    legal, wins = cell != 0, has_won(own | cell)
    results = np.where(legal, np.where(wins, np.int8(1), np.int8(-1)), _ILLEGAL)
    children = play(positions, column)
    open_game = legal & ~wins
    open_game[open_game] &= ~winning_moves(children[open_game]).any(axis=1)
    results[open_game] = -book.look_up(children[open_game])
    return results


# ---- split and loading -----------------------------------------------------------------------------------------------


def split_hash(positions: Words) -> NDArray[np.float64]:
    """Return a fixed pseudo-random number in [0, 1) per position, equal for a position and its mirror image."""
    word = canonical(positions) ^ _SPLIT_SALT
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
    word ^= word >> np.uint64(31)
    return (word >> np.uint64(11)).astype(np.float64) * 2.0**-53


def load_positions(low: float = 0.0, high: float = 1.0, limit: int | None = None) -> Labelled:
    """Return the labelled eleven-stone positions whose split hash is in [low, high), in order of that hash.

    The order is independent of the positions' content, so the first `limit` rows are a fair sample, and a smaller
    limit gives a prefix of a larger one. The result is kept in a file cache; a cache that fails is ignored.
    """
    cache = _cache_file(low, high, limit)
    cached = _read_cache(cache)
    if cached is not None:
        return cached
    labelled = label(_select(enumerate_positions(STONES), low, high, limit), load_book())
    _write_cache(cache, labelled)
    return labelled


def held_out_positions(limit: int | None = None, fraction: float = HELD_OUT_FRACTION) -> Labelled:
    """Return the labelled positions that training leaves alone; the same rows in every process."""
    return load_positions(0.0, fraction, limit)


def _select(positions: Words, low: float, high: float, limit: int | None) -> Words:
    hashes = split_hash(positions)
    rows = np.flatnonzero((hashes >= low) & (hashes < high))
    return positions[rows[np.argsort(hashes[rows])][:limit]]


def _cache_file(low: float, high: float, limit: int | None) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    size = book_path().stat().st_size if book_path().exists() else 0
    return Path(base) / "tidegate" / f"connect4-{_CACHE_FORMAT}-{size}-{low:.6f}-{high:.6f}-{limit or 'all'}.npz"


def _read_cache(path: Path) -> Labelled | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Labelled(arrays["positions"], arrays["optimal"], arrays["value"])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _write_cache(path: Path, labelled: Labelled) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, positions=labelled.positions, optimal=labelled.optimal, value=labelled.value)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
