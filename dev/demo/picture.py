"""Draws a recording: shares, failed requests, latency and accuracy over time."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes

from dev.demo.recorder import Recording

mpl.use("Agg")
from matplotlib import pyplot as plt

PANELS = (
    ("weights", "share of traffic, %", None),
    ("errors", "failed requests, %", 100.0),
    ("latency", "latency p99, ms", 1.0),
    ("accuracy", "right moves, %", 100.0),
)


LEAD_IN = 15
"""Seconds of quiet that are shown before the second version gets traffic."""


def draw(recording: Recording, path: Path) -> None:
    """Write the picture as a file; the ending of the name decides the format."""
    versions = sorted({version for sample in recording.samples for version in sample.weights})
    figure, axes = plt.subplots(len(PANELS), 1, figsize=(12, 11), sharex=True, constrained_layout=True)
    for axis, (name, label, factor) in zip(axes, PANELS, strict=True):
        for version in versions:
            times, values = _points(recording, name, version, factor)
            style = {"drawstyle": "steps-post"} if name == "weights" else {"marker": ".", "markersize": 4}
            axis.plot(times, values, label=version, **style)
        axis.set_ylabel(label)
        axis.grid(visible=True, alpha=0.3)
        _mark_rollbacks(recording, axis)
    axes[0].legend(loc="center left", fontsize="small")
    axes[2].set_yscale("log")
    axes[-1].set_xlabel("seconds")
    axes[-1].set_xlim(left=begin(recording))
    figure.suptitle("Tidegate: releases under live traffic (red lines: the gate closes)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def begin(recording: Recording) -> float:
    """Return when it becomes interesting: shortly before a second version appears."""
    both = (sample.at for sample in recording.samples if len(sample.weights) > 1)
    return max(0.0, next(both, 0.0) - LEAD_IN)


def _points(recording: Recording, name: str, version: str, factor: float | None) -> tuple[list[float], list[float]]:
    times, values = [], []
    for sample in recording.samples:
        value = sample.weights.get(version) if factor is None else sample.series[name].get(version)
        if value is not None:
            times.append(sample.at)
            values.append(value * (factor or 1.0))
    return times, values


def _mark_rollbacks(recording: Recording, axis: Axes) -> None:
    for decision in recording.decisions.values():
        if decision["action"] == "RollBack":
            axis.axvline(recording.seconds(decision["at"]), color="red", linewidth=0.8, linestyle="--")
