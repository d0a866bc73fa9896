"""Init container of a serving pod: bring the model, verify it, and only then show it to Triton.

The model folder is made whole under ``.incoming`` and renamed into the repository, so whatever kills the puller, Triton
can load the old model, the new one or none, and never half of one. Started again it finds the verified model and does
nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from tidegate_serving.artifacts import ArtifactError, Fetcher, digest_of
from tidegate_serving.contract import ContractError, Failure, ServingDocument, read_document
from tidegate_serving.model_config import build_model_config
from tidegate_serving.termination import shorten, write_termination

__all__ = ["is_in_place", "main", "pull"]

INCOMING = ".incoming"
MODEL_FILE = Path("1", "model.onnx")
CONFIG_FILE = "config.pbtxt"
EXIT_RETRYABLE, EXIT_FINAL = 1, 3
MESSAGE_LIMIT = 2000


def pull(document: ServingDocument, fetcher: Fetcher, threads: int | None = None) -> str:
    """Put the model that the document asks for into the repository; returns what was done, for the log."""
    repository = Path(document.repository)
    config = build_model_config(document, threads)
    shutil.rmtree(repository / INCOMING, ignore_errors=True)
    if is_in_place(repository / document.model_name, document, config):
        return f"{document.model_version} is already in place"
    new = repository / INCOMING / "new"
    (new / MODEL_FILE).parent.mkdir(parents=True)
    try:
        artifact = document.artifact
        fetched = fetcher.fetch(artifact.uri, new / MODEL_FILE, artifact.sha256, artifact.size_bytes)
        (new / CONFIG_FILE).write_text(config)
        publish(new, repository / document.model_name)
    finally:
        shutil.rmtree(repository / INCOMING, ignore_errors=True)
    return f"{document.model_version} is in place, {fetched.size} bytes, sha256 {fetched.sha256}"


def is_in_place(folder: Path, document: ServingDocument, config: str) -> bool:
    """Whether exactly the model that is asked for lies there: the digest is computed, not believed."""
    try:
        same_config = (folder / CONFIG_FILE).read_text() == config
        return same_config and digest_of(folder / MODEL_FILE) == document.artifact.sha256
    except OSError:
        return False


def publish(new: Path, folder: Path) -> None:
    """Rename the whole folder into place, after moving away an old one: at no moment is there a mixture."""
    if folder.exists():
        folder.rename(new.with_name("old"))
    new.rename(folder)


def thread_count(environment: Mapping[str, str], instances: int) -> int | None:
    """Cores for each instance from TIDEGATE_THREADS, the cores that the Triton container reserves, rounded up."""
    limit = environment.get("TIDEGATE_THREADS")
    return max(1, int(limit) // instances) if limit else None


def main(environment: Mapping[str, str] | None = None) -> int:
    """Run as the init container; the exit code and the termination message tell the operator how it ended."""
    environment = os.environ if environment is None else environment
    try:
        document = read_document(ServingDocument, environment, "TIDEGATE_SERVING")
        mlflow_url = document.mlflow_url or environment.get("MLFLOW_TRACKING_URI")
        fetcher = Fetcher(mlflow_url, environment=environment)
        print(pull(document, fetcher, thread_count(environment, document.triton.instances)), flush=True)
    except ArtifactError as error:
        return fail(Failure(reason=error.reason, message=str(error), retryable=error.retryable), environment)
    except ContractError as error:
        return fail(Failure(reason="InvalidDocument", message=str(error), retryable=False), environment)
    except OSError as error:
        return fail(
            Failure(reason="RepositoryUnwritable", message=repository_remedy(error), retryable=True), environment
        )
    return 0


def repository_remedy(error: OSError) -> str:
    """What to do when the volume of the repository refuses to be written."""
    return f"cannot write the model repository: {error}; mount a writable volume there for user {os.getuid()}"


def fail(failure: Failure, environment: Mapping[str, str]) -> int:
    """Leave the failure in the termination message."""
    shortened = failure.model_copy(update={"message": shorten(failure.message, MESSAGE_LIMIT)})
    write_termination(shortened.model_dump_json(by_alias=True), environment)
    return EXIT_RETRYABLE if failure.retryable else EXIT_FINAL


if __name__ == "__main__":
    sys.exit(main())
