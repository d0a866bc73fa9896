"""What leaves the pod: the model and the files beside it, and the base model that comes in the same way.

A model's folder holds `model.onnx`, `weights.safetensors` (to start another training from), `parity.npz`,
`golden.npz` and `manifest.json`. The manifest names the hash of every other file and is written last.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pydantic.alias_generators import to_camel

from tidegate_trainer import __version__
from tidegate_trainer.artifacts import ArtifactMissingError, ArtifactStore, join, sha256_of
from tidegate_trainer.contract import Artifact, BaseModelArtifact, File, Succeeded, TrainingJob
from tidegate_trainer.errors import Reason, TrainingError
from tidegate_trainer.training import StopSignal, Trained

if TYPE_CHECKING:
    import torch

__all__ = ["GOLDEN", "MANIFEST", "MODEL", "PARITY", "WEIGHTS", "load_base_weights", "release"]

MODEL = "model.onnx"
WEIGHTS = "weights.safetensors"
PARITY = "parity.npz"
GOLDEN = "golden.npz"
MANIFEST = "manifest.json"

_VERSIONED = ("numpy", "onnx", "onnxruntime", "torch", "bitbully-databases")


def release(
    job: TrainingJob, config: dict[str, Any], trained: Trained, store: ArtifactStore, stop: StopSignal
) -> Succeeded:
    """Export, check and store a trained network; return the job's result.

    Raises:
        TrainingError: ParityFailed, StorageUnavailable, DiskFull, or Stopped.
    """
    from tidegate_trainer import onnx_export

    model = onnx_export.export(trained.network, trained.inputs, trained.outputs)
    recorded = onnx_export.record_outputs(trained.network, trained.inputs, trained.outputs)
    difference = onnx_export.check_parity(model, trained.inputs, recorded)
    arrays = {f"in_{name}": one for name, one in trained.inputs.items()}
    arrays |= {f"out_{name}": one for name, one in recorded.items()}
    files = {
        MODEL: model,
        WEIGHTS: _weights(trained.network),
        PARITY: onnx_export.to_npz(arrays),
        GOLDEN: onnx_export.to_npz(trained.golden_set),
    }
    hashes = {name: sha256_of(content) for name, content in files.items()}
    result = _result(job, trained, hashes, len(model), difference, onnx_export.signature_of(model))
    files[MANIFEST] = json.dumps(_manifest(job, config, trained, hashes, result), indent=2).encode()
    for name, content in files.items():
        stop.leave_if_requested("the trained network is in the checkpoint")
        store.write(join(job.artifact.uri, name), content)
    return result


def load_base_weights(base: BaseModelArtifact, store: ArtifactStore) -> dict[str, torch.Tensor]:
    """Return the weights beside a base model, checked against its manifest.

    Raises:
        TrainingError: BaseModelUnusable when the files beside the model are missing or belong to another one.
    """
    folder = base.uri.rsplit("/", 1)[0]
    try:
        files = json.loads(store.read(join(folder, MANIFEST)))["files"]
        weights = store.read(join(folder, WEIGHTS))
    except ArtifactMissingError as error:
        raise _unusable(base, f"{error} is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _unusable(base, f"{MANIFEST} is not a trainer's manifest") from error
    if base.sha256 not in files.values():
        raise _unusable(base, f"{MANIFEST} describes another model")
    if files.get(WEIGHTS) != sha256_of(weights):
        raise _unusable(base, f"{WEIGHTS} is not the file its manifest names")
    from safetensors.torch import load

    return load(weights)


def _unusable(base: BaseModelArtifact, why: str) -> TrainingError:
    message = f"baseModel.uri: {base.uri} cannot be trained further, {why}; name a model this trainer made"
    return TrainingError(Reason.BASE_MODEL_UNUSABLE, message)


def _weights(network: torch.nn.Module) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})


def _result(
    job: TrainingJob, trained: Trained, hashes: dict[str, str], size: int, difference: float, signature: Any
) -> Succeeded:
    folder = job.artifact.uri
    return Succeeded(
        artifact=Artifact(uri=join(folder, MODEL), sha256=hashes[MODEL], size_bytes=size),
        parity=File(uri=join(folder, PARITY), sha256=hashes[PARITY]),
        golden_set=File(uri=join(folder, GOLDEN), sha256=hashes[GOLDEN]),
        signature=signature,
        metrics={name: round(value, 6) for name, value in trained.metrics.items()},
        parity_max_abs_difference=difference,
        mlflow_run_id=job.mlflow.run_id if job.mlflow else None,
        code=__version__,
        datasets=trained.datasets,
        manifest_uri=join(folder, MANIFEST),
    )


def _manifest(
    job: TrainingJob, config: dict[str, Any], trained: Trained, hashes: dict[str, str], result: Succeeded
) -> dict[str, Any]:
    return {
        "manifestVersion": "v1",
        "model": job.model,
        "trainingJob": {"namespace": job.namespace, "name": job.name, "uid": job.uid},
        "algorithm": job.trainer.algorithm,
        "config": {to_camel(name): value for name, value in config.items()},
        "seed": job.seed,
        "baseModel": job.base_model.model_dump(by_alias=True) if job.base_model else None,
        "files": hashes,
        "versions": {"tidegate-trainer": __version__, "python": platform.python_version(), **_versions()},
        "training": trained.notes,
        **result.model_dump(by_alias=True, mode="json", include=_MANIFEST_FIELDS),
    }


_MANIFEST_FIELDS = {"signature", "metrics", "parity_max_abs_difference", "mlflow_run_id", "datasets"}


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
