"""Seconds and accuracy of the trainer's settings, each as a pod would run it.

python -m tests.benchmarks trainer                                              # the table of docs/benchmarks.md
python -m tests.benchmarks.trainer --only small --config '{"blocks": 5}'        # other settings, only printed
python -m tests.benchmarks.trainer --config '{"device": "cuda"}' --cores 8      # the same on a GPU, only printed
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.benchmarks.report import Table

NAME = "trainer"
ABOUT = """\
Perfectly solved Connect Four positions. *Device*: what PyTorch trained on, a GPU or a processor × its threads. *Moves*:
share of held-out 11-stone positions where the chosen move keeps the game-theoretic result, beside what random legal
moves reach. *Whole*: loading torch, labelling, training, evaluating 20,000 held-out positions, exporting, parity and
storing; *train* is the training alone."""
CORES = 2
ROOT = Path(__file__).parents[2]

CONFIGS: dict[str, dict[str, Any]] = {
    "small": {
        "blocks": 3, "channels": 32, "maxExamples": 80_000, "epochs": 4, "examplesPerEpoch": 20_000,
        "batchSize": 128, "learningRate": 0.004, "device": "cpu",
    },
    "medium": {
        "blocks": 3, "channels": 32, "maxExamples": 160_000, "epochs": 4, "examplesPerEpoch": 40_000,
        "batchSize": 128, "learningRate": 0.004, "device": "cpu",
    },
    "bigger": {
        "blocks": 4, "channels": 48, "maxExamples": 300_000, "epochs": 6, "examplesPerEpoch": 50_000,
        "batchSize": 128, "learningRate": 0.004, "device": "cpu",
    },
}  # fmt: skip

COLUMNS = (
    "config", "net", "device", "examples", "whole", "CPU", "train", "examples/s",
    "moves", "random", "values", "peak MiB",
)  # fmt: skip


def measure(
    names: Iterable[str] = CONFIGS, changes: Mapping[str, Any] = MappingProxyType({}), cores: float = CORES
) -> Table:
    """Train every configuration, or those named, with changed settings."""
    rows = [_measure(name, {**CONFIGS[name], **changes}, cores) for name in names]
    return Table(NAME, "Trainer", ABOUT, COLUMNS, rows)


def main() -> None:
    """Print the table for settings of one's own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CONFIGS, action="append", help="run this one (can be repeated)")
    parser.add_argument("--config", type=json.loads, default={}, help="JSON that is added to every configuration")
    parser.add_argument("--cores", type=float, default=CORES, help="CPU cores of the pod")
    options = parser.parse_args()
    print(measure(options.only or CONFIGS, options.config, options.cores).to_markdown())


def _measure(name: str, config: dict[str, Any], cores: float) -> tuple[str, ...]:
    """Run one configuration and return its row."""
    with tempfile.TemporaryDirectory() as folder:
        began, used = time.monotonic(), cpu_seconds()
        result = run(config, cores, Path(folder))
        seconds, work = time.monotonic() - began, cpu_seconds() - used
        manifest = json.loads(Path(folder, "model", "manifest.json").read_text())
    metrics = result["metrics"]
    speed = metrics["steps"] * config["batchSize"] / metrics["trainSeconds"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return (
        name,
        f"{config['blocks']}x{config['channels']}",
        name_device(manifest["training"]),
        f"{metrics['trainingPositions']:.0f}",
        f"{seconds:.0f} s",
        f"{work:.0f} s",
        f"{metrics['trainSeconds']:.0f} s",
        f"{speed:.0f}",
        f"{100 * metrics['moveAccuracy']:.2f} %",
        f"{100 * metrics['randomMoveAccuracy']:.2f} %",
        f"{100 * metrics['valueAccuracy']:.2f} %",
        f"{peak:.0f}",
    )


def name_device(training: Mapping[str, Any]) -> str:
    """Return what a training ran on, from its manifest: a GPU's name, or the processor's kind times its threads."""
    if training["device"] == "cuda":
        return str(training["hardware"])
    return f"{training['hardware']} × {training['threads']}"


def cpu_seconds() -> float:
    """Return the CPU time of the finished child processes: on a busy machine it says more than the clock."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(config: dict[str, Any], cpu: float, folder: Path) -> dict[str, Any]:
    """Train in a process of its own and return the result."""
    document = {
        "contractVersion": "v1", "namespace": "benchmarks", "name": "trainer", "uid": "0", "model": "connect4",
        "trainer": {"algorithm": "supervised", "config": config},
        "datasets": [{"name": "positions", "uri": "builtin://connect4-solved"}],
        "checkpoint": {"intervalSeconds": 30, "uri": (folder / "checkpoints").as_uri()},
        "artifact": {"uri": (folder / "model").as_uri()},
        "resources": {"cpu": cpu},
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(document))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "trainer_image"),
        "TIDEGATE_JOB": str(folder / "job.json"),
        "TIDEGATE_TERMINATION_LOG": str(folder / "result.json"),
        "TIDEGATE_WORK": str(folder / "work"),
    }
    subprocess.run([sys.executable, "-m", "tidegate_trainer"], env=environment, check=True, capture_output=True)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


if __name__ == "__main__":
    main()
