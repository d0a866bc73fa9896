"""Settings of the supervised algorithm (`spec.trainer.config`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tidegate_trainer.contract import Document

__all__ = ["SupervisedConfig"]


class SupervisedConfig(Document):
    """Network, optimisation and data settings; an unknown field is refused."""

    model: Literal["resnet"] = Field("resnet", description="Residual convolutional network.")
    blocks: int = Field(3, ge=1, le=40, description="Residual blocks.")
    channels: int = Field(32, ge=4, le=512, description="Channels of every convolution.")
    squeeze_excitation: bool = Field(False, description="Squeeze-and-excitation in every block.")

    epochs: int = Field(8, ge=1, le=10_000, description="Epochs; each ends with a look at the validation positions.")
    examples_per_epoch: int | None = Field(
        None,
        ge=1,
        description="Examples in an epoch; null: every training example once. Epochs go on where the last one ended.",
    )
    batch_size: int = Field(128, ge=2, le=65_536)
    optimizer: Literal["adamw"] = "adamw"
    learning_rate: float = Field(
        0.005, gt=0, le=1, description="Highest rate; a warm-up leads to it, a cosine to zero."
    )
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Share of all steps in which the rate rises.")
    weight_decay: float = Field(0.01, ge=0, le=1)
    value_loss_weight: float = Field(0.25, ge=0, le=100, description="Weight of the value loss beside the policy loss.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the policy target spread over all moves.")
    gradient_clip: float = Field(5.0, gt=0, description="Largest norm of the gradient.")
    early_stopping_patience: int | None = Field(
        None, ge=1, description="Epochs without a better validation before the training ends; null: never."
    )
    max_seconds: float | None = Field(
        None,
        gt=0,
        description="Longest training time over all pods; where it ends a training, the result depends on speed.",
    )

    max_examples: int | None = Field(None, ge=100, description="Training examples at most; null: all there are.")
    augment_mirror: bool = Field(True, description="Mirror half of the examples, chosen anew each time.")
    held_out_fraction: float = Field(
        0.05, gt=0, le=0.5, description="Share of all positions kept for the evaluation and never trained on."
    )
    validation_fraction: float = Field(
        0.01, gt=0, le=0.2, description="Share of all positions that chooses the best epoch; not trained on either."
    )
    max_evaluation_examples: int = Field(
        20_000, ge=64, description="Held-out positions evaluated at most; a quarter of it for the validation."
    )

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA when there is one.")
    threads: int | None = Field(None, ge=1, le=256, description="CPU threads; null: the CPU cores of the pod.")

    @model_validator(mode="after")
    def _batch_fits(self) -> SupervisedConfig:
        smallest = min(size for size in (self.max_examples, self.examples_per_epoch, self.batch_size) if size)
        if smallest < self.batch_size:
            raise ValueError("batchSize is larger than maxExamples or examplesPerEpoch; make it smaller")
        return self
