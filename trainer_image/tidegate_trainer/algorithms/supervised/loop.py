"""The training loop: steps, epochs, the best weights, checkpoints and their resumption."""

from __future__ import annotations

import io
import logging
import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tidegate_trainer.algorithms.supervised.config import SupervisedConfig
from tidegate_trainer.algorithms.supervised.evaluation import evaluate, policy_loss, value_loss
from tidegate_trainer.algorithms.supervised.examples import BatchOrder, Examples
from tidegate_trainer.errors import Reason, TrainingError
from tidegate_trainer.training import Context

__all__ = ["Loop", "TrainingState", "learning_rate"]

log = logging.getLogger(__name__)

_CUDA_STRIDE = 10
"""Steps between two looks at the loss on a GPU, because a look makes it wait for its queue."""


@dataclass(slots=True)
class TrainingState:
    """What changes while a network trains, besides its own weights and the optimizer's; all of it is in checkpoints."""

    step: int = 0
    epoch: int = 0
    """Epochs ended, their validation included."""
    loss_sum: float = 0.0
    """Of the running epoch, for its mean."""
    loss_steps: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    epochs_without_gain: int = 0
    seconds: float = 0.0
    """Training time of all pods together."""
    train_loss: float = math.nan
    finished: bool = False


def learning_rate(config: SupervisedConfig, step: int, steps: int) -> float:
    """Return the rate of `step` (from 0) of `steps`: a linear warm-up, then a cosine to zero."""
    warmup = max(1, round(config.warmup_fraction * steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _stride(device: torch.device) -> int:
    return _CUDA_STRIDE if device.type == "cuda" else 1


class Loop:
    """Trains one network on one set of examples."""

    def __init__(self, context: Context, network: nn.Module, training: Examples, validation: Examples) -> None:
        """Prepare the loop, from the context's checkpoint if there is one."""
        config: SupervisedConfig = context.config
        self._context, self._config = context, config
        self._network, self._training, self._validation = network, training, validation
        device = training.boards.device
        self._order = BatchOrder(len(training), config.batch_size, context.job.seed, config.augment_mirror, device)
        wanted = config.examples_per_epoch or len(training)
        self.steps_per_epoch = max(1, wanted // self._order.batch_size)
        self.steps = config.epochs * self.steps_per_epoch
        self._optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._stride = _stride(device)
        self.state = TrainingState()
        self._saved_at = time.monotonic()
        if context.resumed:
            self._restore(context.resumed.payload)

    def run(self) -> TrainingState:
        """Train to the end and leave the best epoch's weights in the network.

        Raises:
            TrainingError: NaNLoss, or Stopped after a checkpoint.
        """
        while not self.state.finished:
            self._epoch()
        self._network.load_state_dict(self.state.best_weights)
        return self.state

    def _epoch(self) -> None:
        state = self.state
        end = (state.epoch + 1) * self.steps_per_epoch
        self._network.train()
        while state.step < end and not self._out_of_time:
            self._advance(min(self._stride, end - state.step))
            self._between_steps()
        self._finish_epoch()

    def _advance(self, steps: int) -> None:
        """Take some steps, then look at the loss once."""
        state, began = self.state, time.monotonic()
        loss = float(torch.stack([self._step() for _ in range(steps)]).sum())
        state.seconds += time.monotonic() - began
        if not math.isfinite(loss):
            message = (
                f"the loss became {loss} by step {state.step} of {self.steps} (epoch {state.epoch + 1}); lower "
                f"trainer.config.learningRate ({self._config.learning_rate:g}) or gradientClip, or look for bad data"
            )
            raise TrainingError(Reason.NAN_LOSS, message)
        state.loss_sum += loss
        state.loss_steps += steps

    def _step(self) -> Tensor:
        """Take one optimisation step and return its loss."""
        config, state = self._config, self.state
        batch = self._training.batch(*self._order.at(state.step))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(config, state.step, self.steps)
        policy, value = self._network(batch.boards)
        loss = policy_loss(policy, batch, config.label_smoothing)
        loss = loss + config.value_loss_weight * value_loss(value, batch)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._network.parameters(), config.gradient_clip)
        self._optimizer.step()
        state.step += 1
        return loss.detach()

    @property
    def _out_of_time(self) -> bool:
        limit = self._config.max_seconds
        return limit is not None and self.state.seconds >= limit

    def _between_steps(self) -> None:
        """Report, keep a checkpoint when it is time, and leave when asked to."""
        context, state = self._context, self.state
        self._report({"loss": state.loss_sum / state.loss_steps})
        if context.stop.requested:
            self._save()
            done = context.checkpoints.flush()
            where = "kept" if done else "kept in the pod only"
            context.stop.leave_if_requested(f"checkpoint {where} at step {state.step} of {self.steps}")
        if time.monotonic() - self._saved_at >= context.job.checkpoint.interval_seconds:
            self._save()

    def _finish_epoch(self) -> None:
        state, config = self.state, self._config
        state.epoch += 1
        state.train_loss = state.loss_sum / state.loss_steps if state.loss_steps else state.train_loss
        state.loss_sum, state.loss_steps = 0.0, 0
        measured = evaluate(self._network, self._validation)
        self._choose_best(measured["policyLoss"] + config.value_loss_weight * measured["valueLoss"])
        self._tell_epoch(measured)
        patience = config.early_stopping_patience
        tired = patience is not None and state.epochs_without_gain >= patience
        state.finished = state.epoch >= config.epochs or tired or self._out_of_time
        if state.finished:
            self._save()

    def _choose_best(self, loss: float) -> None:
        state = self.state
        if loss < state.best_loss:
            state.best_loss, state.best_epoch, state.epochs_without_gain = loss, state.epoch, 0
            weights = self._network.state_dict()
            state.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        else:
            state.epochs_without_gain += 1

    def _tell_epoch(self, measured: dict[str, float]) -> None:
        state = self.state
        accuracy, floor = measured["moveAccuracy"], measured["randomMoveAccuracy"]
        log.info(
            "epoch %d/%d: loss %.3f, validation moves %.2f %% (random %.2f %%), values %.2f %%, best epoch %d",
            state.epoch, self._config.epochs, state.train_loss, 100 * accuracy, 100 * floor,
            100 * measured["valueAccuracy"], state.best_epoch,
        )  # fmt: skip
        metrics = {"loss": state.train_loss, "validationMoveAccuracy": accuracy}
        self._report(metrics)
        logged = {f"validation_{name}": value for name, value in measured.items()} | {"loss": state.train_loss}
        self._context.tracker.log_metrics(logged, state.step)

    def _report(self, metrics: dict[str, float]) -> None:
        state, config = self.state, self._config
        epoch = min(state.step // self.steps_per_epoch + 1, config.epochs)
        problem = self._context.checkpoints.problem
        self._context.progress.train(
            state.step, self.steps, epoch=epoch, epochs=config.epochs, metrics=metrics, message=problem
        )

    def _save(self) -> None:
        content = {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "state": asdict(self.state),
        }
        file = io.BytesIO()
        torch.save(content, file)
        self._context.checkpoints.save(file.getvalue(), self._context.progress.state.percent)
        self._saved_at = time.monotonic()

    def _restore(self, payload: bytes) -> None:
        content: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        self._network.load_state_dict(content["network"])
        self._optimizer.load_state_dict(content["optimizer"])
        self.state = TrainingState(**content["state"])
        log.info("resumed at step %d of %d", self.state.step, self.steps)
