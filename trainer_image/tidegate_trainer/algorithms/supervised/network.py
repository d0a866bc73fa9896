"""The residual policy and value network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tidegate_trainer import connect4
from tidegate_trainer.algorithms.supervised.config import SupervisedConfig

__all__ = ["INPUT", "OUTPUTS", "PolicyValueNetwork", "build_network"]

INPUT = "board"
OUTPUTS = ("policy", "value")

_HEAD_CHANNELS = 8
_VALUE_UNITS = 32
_SQUEEZE = 4


class SqueezeExcitation(nn.Module):
    """Weighs channels by what the whole board holds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        units = max(channels // _SQUEEZE, 4)
        self.weigh = nn.Sequential(nn.Linear(channels, units), nn.ReLU(), nn.Linear(units, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel."""
        weights: Tensor = self.weigh(x.mean((2, 3)))
        return x * weights[:, :, None, None]


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, channels: int, squeeze_excitation: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(channels, channels),
            nn.ReLU(),
            *_convolution(channels, channels),
            SqueezeExcitation(channels) if squeeze_excitation else nn.Identity(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the body's output to its input."""
        return functional.relu(x + self.body(x))


class PolicyValueNetwork(nn.Module):
    """Board planes (N, 3, 6, 7) to move logits (N, 7) and the expected result (N, 1) in [-1, 1]."""

    def __init__(self, blocks: int, channels: int, squeeze_excitation: bool) -> None:
        super().__init__()
        cells = connect4.ROWS * connect4.COLUMNS
        self.stem = nn.Sequential(*_convolution(connect4.PLANES, channels), nn.ReLU())
        self.blocks = nn.Sequential(*[ResidualBlock(channels, squeeze_excitation) for _ in range(blocks)])
        self.head = nn.Sequential(*_convolution(channels, _HEAD_CHANNELS, size=1), nn.ReLU(), nn.Flatten())
        self.policy = nn.Linear(_HEAD_CHANNELS * cells, connect4.COLUMNS)
        self.value = nn.Sequential(
            nn.Linear(_HEAD_CHANNELS * cells, _VALUE_UNITS), nn.ReLU(), nn.Linear(_VALUE_UNITS, 1), nn.Tanh()
        )

    def forward(self, board: Tensor) -> tuple[Tensor, Tensor]:
        """Return (policy, value)."""
        features = self.head(self.blocks(self.stem(board)))
        return self.policy(features), self.value(features)


def build_network(config: SupervisedConfig, seed: int, base: dict[str, Tensor] | None = None) -> PolicyValueNetwork:
    """Build the network with weights from the seed, or from the base model.

    Raises:
        RuntimeError: the base model has another shape.
    """
    torch.manual_seed(seed)
    network = PolicyValueNetwork(config.blocks, config.channels, config.squeeze_excitation)
    if base is not None:
        network.load_state_dict(base)
    # Channels last is half again as fast on CPUs and the layout of the tensor cores.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _convolution(inputs: int, outputs: int, size: int = 3) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False), nn.BatchNorm2d(outputs)
