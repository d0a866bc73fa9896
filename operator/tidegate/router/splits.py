"""How percentages become weights: the share of an unready backend goes to the ready ones and moves no other key."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["TOTAL_WEIGHT", "Segment", "Share", "effective_percents", "plan_split"]

TOTAL_WEIGHT = 10_000
"""Weight of the whole range, so one unit is 0.01 %. Constant: a key's place in the range never moves."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a backend shall have (percent) and whether it can take requests."""

    percent: float
    ready: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the hash range that belongs to the backend with this index."""

    backend: int
    weight: int


def plan_split(shares: Sequence[Share]) -> tuple[Segment, ...]:
    """Cut the range ``0..TOTAL_WEIGHT`` into segments, in the order of the shares.

    The piece of a backend that is not ready is divided among the ready ones *in place*, in proportion to their shares:
    keys of the ready backends stay where they are, and come back to the unready one when it is ready again. A backend
    with 0 % gets nothing, also when all others are unready: it may be a version that was rejected. Without any ready
    backend there is no segment.
    """
    weights = _apportion([share.percent for share in shares], TOTAL_WEIGHT)
    ready = [weight if share.ready else 0 for share, weight in zip(shares, weights, strict=True)]
    if not any(ready):
        return ()
    segments: list[Segment] = []
    for index, (share, weight) in enumerate(zip(shares, weights, strict=True)):
        pieces = [Segment(index, weight)] if share.ready else _pieces(ready, weight)
        for piece in pieces:
            _append(segments, piece)
    return tuple(segments)


def effective_percents(segments: Sequence[Segment], backends: int) -> tuple[float, ...]:
    """Return the percentage that each backend really gets."""
    totals = [0] * backends
    for segment in segments:
        totals[segment.backend] += segment.weight
    return tuple(total * 100 / TOTAL_WEIGHT for total in totals)


def _pieces(ready: Sequence[int], weight: int) -> list[Segment]:
    return [Segment(index, part) for index, part in enumerate(_apportion(ready, weight))]


def _apportion(shares: Sequence[float], total: int) -> list[int]:
    """Divide ``total`` in proportion; rounding the running sum keeps the total exact and the first border monotone."""
    whole = sum(shares)
    weights: list[int] = []
    running, border = 0.0, 0
    for share in shares:
        running += share
        following = round(running * total / whole) if whole else 0
        weights.append(following - border)
        border = following
    return weights


def _append(segments: list[Segment], piece: Segment) -> None:
    if not piece.weight:
        return
    if segments and segments[-1].backend == piece.backend:
        segments[-1] = Segment(piece.backend, segments[-1].weight + piece.weight)
    else:
        segments.append(piece)
