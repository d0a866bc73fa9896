"""The validation Job of a ModelVersion: fetch the artifact, make all checks, leave the result as termination message.

Exit codes: 0 with a verdict (Passed or Failed), 1 when the checks could not be made now, 3 when they never can be, 143
after SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tidegate_serving.artifacts import ArtifactError, ChecksumMismatch, Fetcher
from tidegate_serving.checks import (
    CheckFailed,
    Finding,
    check_finite_outputs,
    check_golden_set,
    check_latency,
    check_parity,
    check_signature,
    input_rows,
    read_arrays,
)
from tidegate_serving.contract import (
    CheckName,
    CheckOutcome,
    CheckResult,
    ContractError,
    ValidationDocument,
    ValidationResult,
    read_document,
)
from tidegate_serving.limits import allowed_cores, memory_limit
from tidegate_serving.onnx_model import CannotLoad, CannotRun, Feeds, OnnxModel, load_model
from tidegate_serving.termination import LIMIT, shorten, write_termination

__all__ = ["Validation", "fit", "main"]

MEBIBYTE = 1 << 20
RUNTIME_BYTES = 72 * MEBIBYTE
"""Memory of this process with a model of no size, measured."""
LOAD_FACTOR = 1.25
"""Peak memory while loading over the size of the file; measured 1.25 to 1.5, and only what cannot fit is refused."""
EXIT_RETRYABLE, EXIT_FINAL, EXIT_INTERRUPTED = 1, 3, 143
PREREQUISITES = frozenset({CheckName.CHECKSUM, CheckName.LOADABLE, CheckName.SIGNATURE})
"""Without these the checks after them mean nothing; the others stand for themselves."""


@dataclass(slots=True)
class Validation:
    """The checks of one ModelVersion, made once, in order."""

    document: ValidationDocument
    fetcher: Fetcher
    folder: Path
    threads: int
    memory: int | None = None
    """Memory limit in bytes, where there is one."""
    before_load: Callable[[], None] = lambda: None
    """Called before the step that may need more memory than there is."""
    _model: OnnxModel | None = None
    _parity: Feeds | None = None
    _size: int | None = None
    _results: list[CheckResult] = field(default_factory=list)
    _metrics: dict[str, float] = field(default_factory=dict)

    def run(self) -> ValidationResult:
        """Make all checks. An artifact that cannot be brought raises; whatever else is wrong is in the result."""
        blocked: CheckName | None = None
        for name, wanted, check in self._checks():
            result = self._make(name, wanted, check, blocked)
            if result.outcome is CheckOutcome.FAILED and name in PREREQUISITES:
                blocked = name
            self._results.append(result)
        failed = any(result.outcome is CheckOutcome.FAILED for result in self._results)
        return ValidationResult(
            outcome="Failed" if failed else "Passed",
            checks=tuple(self._results),
            metrics=self._metrics,
            signature=self._model.signature if self._model else None,
            size_bytes=self._size,
        )

    def _checks(self) -> Iterator[tuple[CheckName, bool, Callable[[], Finding]]]:
        """The checks in their order, whether they are asked for, and how they are made."""
        document = self.document
        yield CheckName.CHECKSUM, True, self._check_checksum
        yield CheckName.LOADABLE, True, self._check_loadable
        yield CheckName.SIGNATURE, document.signature is not None, self._check_signature
        yield CheckName.FINITE_OUTPUTS, True, self._check_finite_outputs
        yield CheckName.PARITY, document.parity is not None, self._check_parity
        yield CheckName.LATENCY, document.latency is not None, self._check_latency
        yield CheckName.GOLDEN_SET, document.golden_set is not None, self._check_golden_set

    def _make(
        self, name: CheckName, wanted: bool, check: Callable[[], Finding], blocked: CheckName | None
    ) -> CheckResult:
        """One check, or why it was not made."""
        if blocked is not None:
            return CheckResult(name=name, outcome=CheckOutcome.SKIPPED, message=f"not possible after {blocked} failed")
        if not wanted:
            return CheckResult(name=name, outcome=CheckOutcome.SKIPPED, message="not asked for")
        try:
            found = check()
        except (CheckFailed, CannotLoad, CannotRun, ChecksumMismatch) as error:
            self._metrics |= getattr(error, "metrics", {})
            measured = getattr(error, "measured", None)
            return CheckResult(name=name, outcome=CheckOutcome.FAILED, message=str(error), measured=measured)
        self._metrics |= found.metrics
        return CheckResult(name=name, outcome=CheckOutcome.PASSED, message=found.message, measured=found.measured)

    def _check_checksum(self) -> Finding:
        artifact = self.document.artifact
        fetched = self.fetcher.fetch(artifact.uri, self._model_file, artifact.sha256, artifact.size_bytes)
        self._size = fetched.size
        return Finding(f"{fetched.size} bytes with sha256 {fetched.sha256}")

    def _check_loadable(self) -> Finding:
        size = self._model_file.stat().st_size
        needed = int(LOAD_FACTOR * size) + RUNTIME_BYTES
        if self.memory is not None and needed > self.memory:
            raise CheckFailed(
                f"a model of {size // MEBIBYTE} MiB needs about {needed // MEBIBYTE} MiB to load and the validation "
                f"pod has {self.memory // MEBIBYTE} MiB; raise its memory, and that of spec.serving.resources",
                measured=float(needed),
            )
        self.before_load()
        self._model = load_model(self._model_file, self.threads)
        return Finding("ONNX Runtime loads it")

    def _check_signature(self) -> Finding:
        assert self.document.signature is not None
        return check_signature(self.model.signature, self.document.signature)

    def _check_finite_outputs(self) -> Finding:
        return check_finite_outputs(self.model, self._recorded_inputs())

    def _check_parity(self) -> Finding:
        assert self.document.parity is not None
        return check_parity(self.model, self._parity_arrays(), self.document.parity.tolerance)

    def _check_latency(self) -> Finding:
        latency = self.document.latency
        assert latency is not None
        return check_latency(self.model, latency.batch_size, latency.p99_milliseconds, self._recorded_inputs())

    def _check_golden_set(self) -> Finding:
        golden = self.document.golden_set
        assert golden is not None
        fetched = self.fetcher.fetch(golden.uri, self.folder / "golden.npz", golden.sha256)
        return check_golden_set(self.model, read_arrays(fetched.path, "golden set"), golden.metric, golden.min)

    @property
    def model(self) -> OnnxModel:
        """The loaded model; the checks that need it are not made when Loadable failed."""
        assert self._model is not None
        return self._model

    @property
    def _model_file(self) -> Path:
        return self.folder / "model.onnx"

    def _parity_arrays(self) -> Feeds:
        """The recorded rows, fetched once."""
        parity = self.document.parity
        assert parity is not None
        if self._parity is None:
            fetched = self.fetcher.fetch(parity.uri, self.folder / "parity.npz", parity.sha256)
            self._parity = read_arrays(fetched.path, "parity set")
        return self._parity

    def _recorded_inputs(self) -> Feeds | None:
        """The recorded inputs where there are usable ones; what is wrong with them is the Parity check's to say."""
        if self.document.parity is None:
            return None
        try:
            return input_rows(self.model, self._parity_arrays(), "parity set")
        except (CheckFailed, ChecksumMismatch):
            return None


def fit(result: ValidationResult) -> str:
    """The result as JSON within the bytes that Kubernetes keeps: messages become shorter, then the signature goes."""
    for limit, signature in ((600, True), (400, True), (400, False), (200, False), (80, False)):
        checks = tuple(c.model_copy(update={"message": shorten(c.message, limit)}) for c in result.checks)
        kept = result.signature if signature else None
        shorter = result.model_copy(update={"checks": checks, "signature": kept})
        text = shorter.model_dump_json(by_alias=True, exclude_none=True)
        if len(text.encode()) <= LIMIT:
            return text
    return text[:LIMIT]


def failure(reason: str, message: str, retryable: bool) -> ValidationResult:
    """The result when no verdict is possible."""
    return ValidationResult(outcome="Error", reason=reason, message=shorten(message, 2000), retryable=retryable)


def leave_last_words(document: ValidationDocument, memory: int | None, environment: Mapping[str, str]) -> None:
    """Write what is true if nothing follows: the kernel kills for lack of memory without another word."""
    limit = f" with a limit of {memory // MEBIBYTE} MiB" if memory else ""
    message = f"validating {document.name} was killed{limit}, most likely for lack of memory; raise the pod's memory"
    write_termination(fit(failure("OutOfMemory", message, retryable=False)), environment, quiet=True)


def interrupt(environment: Mapping[str, str]) -> None:
    """SIGTERM: the node is drained or the Job deleted."""
    write_termination(fit(failure("Interrupted", "the validation was stopped; it starts again", True)), environment)
    os._exit(EXIT_INTERRUPTED)


def validate(environment: Mapping[str, str], folder: Path) -> ValidationResult:
    """Read the document and make the checks; errors of the surroundings become a result too."""
    try:
        document = read_document(ValidationDocument, environment, "TIDEGATE_VALIDATION")
        memory = memory_limit()
        fetcher = Fetcher(document.mlflow_url or environment.get("MLFLOW_TRACKING_URI"), environment=environment)
        threads = int(environment.get("TIDEGATE_THREADS") or allowed_cores())
        before_load = partial(leave_last_words, document, memory, environment)
        return Validation(document, fetcher, folder, threads, memory, before_load).run()
    except ArtifactError as error:
        return failure(error.reason, str(error), error.retryable)
    except ContractError as error:
        return failure("InvalidDocument", str(error), retryable=False)
    except MemoryError:
        return failure("OutOfMemory", "no memory left; raise the memory of the validation pod", retryable=False)
    except Exception as error:  # the operator must hear of it
        return failure("InternalError", f"{type(error).__name__}: {error}; report this", retryable=True)


def main(environment: Mapping[str, str] | None = None) -> int:
    """Run as the Job's container."""
    environment = os.environ if environment is None else environment
    signal.signal(signal.SIGTERM, lambda *_: interrupt(environment))
    with tempfile.TemporaryDirectory(prefix="tidegate-") as folder:
        result = validate(environment, Path(folder))
    write_termination(fit(result), environment)
    if result.outcome != "Error":
        return 0
    return EXIT_RETRYABLE if result.retryable else EXIT_FINAL


if __name__ == "__main__":
    sys.exit(main())
