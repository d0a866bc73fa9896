"""Labelled positions as tensors, and the order in which training sees them.

The order is a function of (seed, step) alone: no generator has a state to save, so a resumed training sees exactly the
batches an undisturbed one would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tidegate_trainer import connect4
from tidegate_trainer.connect4 import Labelled

__all__ = ["BatchOrder", "Examples", "to_examples"]

_ENCODE_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Examples:
    """Positions and targets, on one device."""

    boards: Tensor
    """(N, 3, 6, 7) uint8: a quarter of the memory of floats."""
    optimal: Tensor
    """(N, 7) bool."""
    legal: Tensor
    """(N, 7) bool."""
    value: Tensor
    """(N,) float32."""

    def __len__(self) -> int:
        return len(self.boards)

    def batch(self, rows: Tensor | slice, mirrored: Tensor | None = None) -> Examples:
        """Return the named rows as network input, those marked in `mirrored` reflected."""
        boards, optimal, legal = self.boards[rows].float(), self.optimal[rows], self.legal[rows]
        if mirrored is not None:
            boards = torch.where(mirrored[:, None, None, None], boards.flip(3), boards)
            optimal = torch.where(mirrored[:, None], optimal.flip(1), optimal)
            legal = torch.where(mirrored[:, None], legal.flip(1), legal)
        return Examples(boards.contiguous(memory_format=torch.channels_last), optimal, legal, self.value[rows])


def to_examples(labelled: Labelled, device: torch.device) -> Examples:
    """Encode positions for the network."""
    boards = np.empty((len(labelled), connect4.PLANES, connect4.ROWS, connect4.COLUMNS), np.uint8)
    for start in range(0, len(labelled), _ENCODE_ROWS):
        part = slice(start, start + _ENCODE_ROWS)
        boards[part] = connect4.encode(labelled.positions[part])
    return Examples(
        torch.from_numpy(boards).to(device),
        torch.from_numpy(labelled.optimal).to(device),
        torch.from_numpy(labelled.legal).to(device),
        torch.from_numpy(labelled.value.astype(np.float32)).to(device),
    )


class BatchOrder:
    """Which examples each step sees: every pass over the data in a new order, epochs going on where the last ended."""

    def __init__(self, rows: int, batch_size: int, seed: int, mirror: bool, device: torch.device) -> None:
        """Divide `rows` examples into batches; what is left of a pass is dropped."""
        self.batch_size = min(batch_size, rows)
        self.steps_per_pass = rows // self.batch_size
        self._rows = rows
        self._seed = seed
        self._mirror = mirror
        self._device = device
        self._pass = -1
        self._order = torch.empty(0)
        self._mirrored = torch.empty(0)

    def at(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Return the rows of step `step` (counted from 0), and which of them are mirrored."""
        number, place = divmod(step, self.steps_per_pass)
        if number != self._pass:
            self._shuffle(number)
        part = slice(place * self.batch_size, (place + 1) * self.batch_size)
        return self._order[part], self._mirrored[part] if self._mirror else None

    def _shuffle(self, number: int) -> None:
        generator = np.random.default_rng([self._seed, number])
        self._order = torch.from_numpy(generator.permutation(self._rows)).to(self._device)
        self._mirrored = torch.from_numpy(generator.random(self._rows) < 0.5).to(self._device)
        self._pass = number
