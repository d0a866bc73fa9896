"""How good a network is on positions it was not trained on."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tidegate_trainer.algorithms.supervised.examples import Examples

__all__ = ["evaluate", "policy_loss", "value_loss"]

_ROWS = 2_000
_DRAW_BAND = 1 / 3
"""Values nearer to 0 than this are read as a draw."""


def policy_loss(logits: Tensor, examples: Examples, smoothing: float = 0.0) -> Tensor:
    """Cross entropy against the even spread over the moves that keep the result."""
    target = examples.optimal / examples.optimal.sum(1, keepdim=True)
    if smoothing:
        legal = examples.legal / examples.legal.sum(1, keepdim=True)
        target = (1 - smoothing) * target + smoothing * legal
    return -(target * functional.log_softmax(logits, 1)).sum(1).mean()


def value_loss(value: Tensor, examples: Examples) -> Tensor:
    """Mean squared difference from the game-theoretic result."""
    return functional.mse_loss(value[:, 0], examples.value)


@torch.no_grad()
def evaluate(network: nn.Module, examples: Examples) -> dict[str, float]:
    """Measure the network, always beside what random legal moves reach.

    `moveAccuracy` is the share of positions where the legal move with the highest logit keeps the game-theoretic
    result; `randomMoveAccuracy` the same for a random legal move; `valueAccuracy` the share of results named rightly.
    """
    network.eval()
    sums = torch.zeros(5, dtype=torch.float64)
    for start in range(0, len(examples), _ROWS):
        batch = examples.batch(slice(start, start + _ROWS))
        sums += len(batch) * torch.stack(_measures(network, batch)).double().cpu()
    names = ("moveAccuracy", "randomMoveAccuracy", "valueAccuracy", "policyLoss", "valueLoss")
    return dict(zip(names, (sums / len(examples)).tolist(), strict=True))


def _measures(network: nn.Module, batch: Examples) -> list[Tensor]:
    policy, value = network(batch.boards)
    moves = policy.masked_fill(~batch.legal, -torch.inf).argmax(1, keepdim=True)
    results = (value[:, 0] > _DRAW_BAND).float() - (value[:, 0] < -_DRAW_BAND).float()
    return [
        batch.optimal.gather(1, moves).float().mean(),
        (batch.optimal.sum(1) / batch.legal.sum(1)).mean(),
        (results == batch.value).float().mean(),
        policy_loss(policy, batch),
        value_loss(value, batch),
    ]
