"""Supervised training from data sets to an evaluated network."""

from __future__ import annotations

import logging
import os
import platform
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tidegate_trainer.algorithms.supervised.config import SupervisedConfig
from tidegate_trainer.algorithms.supervised.evaluation import evaluate
from tidegate_trainer.algorithms.supervised.examples import to_examples
from tidegate_trainer.algorithms.supervised.loop import Loop, TrainingState
from tidegate_trainer.algorithms.supervised.network import INPUT, OUTPUTS, PolicyValueNetwork, build_network
from tidegate_trainer.connect4 import Labelled
from tidegate_trainer.contract import Resources
from tidegate_trainer.datasets import Sizes, Splits, load_splits
from tidegate_trainer.errors import Reason, TrainingError
from tidegate_trainer.progress import Phase
from tidegate_trainer.training import Context, Trained

__all__ = ["Supervised"]

log = logging.getLogger(__name__)

_LEAST_HELD_OUT = 64
_PARITY_ROWS = 256
_GOLDEN_ROWS = 2_000


class Supervised:
    """Learns moves and results from exactly labelled positions."""

    def train(self, context: Context) -> Trained:
        """Load, train, evaluate."""
        config: SupervisedConfig = context.config
        device = _prepare_torch(config, context.job.resources)
        splits = _load(context, config)
        context.stop.leave_if_requested()
        network = _build(context, config).to(device)
        training, validation = to_examples(splits.training, device), to_examples(splits.validation, device)
        context.progress.enter(Phase.TRAINING, f"training on {len(training)} positions, {device.type}")
        state = Loop(context, network, training, validation).run()
        context.progress.enter(Phase.EVALUATING, f"evaluating on {len(splits.held_out)} held-out positions")
        measured = evaluate(network, to_examples(splits.held_out, device))
        _tell(measured)
        return _describe(network, splits, state, measured, device)


def _prepare_torch(config: SupervisedConfig, resources: Resources) -> torch.device:
    """Choose device and threads, and ask for the same result from the same seed."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(config.threads or max(1, min(int(resources.cpu), available)))
    device = _choose_device(config, resources.gpus)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    return device


def _choose_device(config: SupervisedConfig, gpus: int) -> torch.device:
    """Return the device, and tell when a GPU that the pod was given cannot be used.

    Raises:
        TrainingError: InvalidConfig, when CUDA is asked for and there is none.
    """
    if config.device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    driver = f"the node's driver may be too old: the pod was given {gpus} GPU(s), torch {torch.__version__} sees none"
    if config.device == "cuda":
        remedy = f"look at the node ({driver})" if gpus else "set spec.resources.gpus"
        message = f"trainer.config.device: cuda is asked for and there is none; use auto, or {remedy}"
        raise TrainingError(Reason.INVALID_CONFIG, message)
    if gpus:
        log.warning("training on the CPU: %s", driver)
    return torch.device("cpu")


def _load(context: Context, config: SupervisedConfig) -> Splits:
    context.progress.enter(Phase.PREPARING, "loading and labelling positions")
    sizes = Sizes(
        config.held_out_fraction, config.validation_fraction, config.max_evaluation_examples, config.max_examples
    )
    splits = load_splits(context.job.datasets, sizes, context.store)
    found = len(splits.training), len(splits.validation), len(splits.held_out)
    if found[0] < 2 or found[1] < 1 or found[2] < _LEAST_HELD_OUT:
        message = (
            f"the data sets give {found[0]} training, {found[1]} validation and {found[2]} held-out positions; "
            f"at least {_LEAST_HELD_OUT} must be held out: add data or raise trainer.config.heldOutFraction"
        )
        raise TrainingError(Reason.INVALID_CONFIG, message)
    log.info("%d training, %d validation, %d held-out positions", *found)
    return splits


def _build(context: Context, config: SupervisedConfig) -> PolicyValueNetwork:
    try:
        return build_network(config, context.job.seed, context.base_weights)
    except RuntimeError as error:
        message = (
            "the base model has another shape than trainer.config says; give it the base model's blocks, channels and "
            f"squeezeExcitation, or train without a base model ({str(error).splitlines()[-1].strip()})"
        )
        raise TrainingError(Reason.BASE_MODEL_UNUSABLE, message) from error


def _tell(measured: dict[str, float]) -> None:
    log.info(
        "held out: moves %.2f %% (random %.2f %%), values %.2f %%",
        100 * measured["moveAccuracy"], 100 * measured["randomMoveAccuracy"], 100 * measured["valueAccuracy"],
    )  # fmt: skip


def _describe(
    network: PolicyValueNetwork, splits: Splits, state: TrainingState, measured: dict[str, float], device: torch.device
) -> Trained:
    figures = {
        "heldOutPositions": float(len(splits.held_out)),
        "trainingPositions": float(len(splits.training)),
        "trainLoss": state.train_loss,
        "bestEpoch": float(state.best_epoch),
        "epochs": float(state.epoch),
        "steps": float(state.step),
        "trainSeconds": round(state.seconds, 2),
    }
    return Trained(
        network=network.cpu().eval(),
        inputs={INPUT: splits.held_out.take(slice(0, _PARITY_ROWS)).boards},
        outputs=OUTPUTS,
        metrics=measured | figures,
        golden_set=_golden_set(splits.held_out.take(slice(0, _GOLDEN_ROWS))),
        datasets=splits.hashes,
        notes=_notes(device),
    )


def _golden_set(held_out: Labelled) -> dict[str, NDArray[np.generic]]:
    return {f"in_{INPUT}": held_out.boards, "optimal": held_out.optimal, "legal": held_out.legal}


def _notes(device: torch.device) -> dict[str, Any]:
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    planes = "0 own stones, 1 opponent's stones, 2 cells a stone can land on; row 0 is the top"
    return {"device": device.type, "hardware": hardware, "threads": torch.get_num_threads(), "planes": planes}
