"""The validation Job on good and bad models: every check, its message, and the termination message as a whole."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.serving import onnx_models
from tests.serving.file_server import FileServer, free_port, send
from tests.serving.onnx_models import SIGNATURE, boards, digest, policy_value, validation_document
from tests.serving.triton_process import wait_until
from tidegate_serving import validate
from tidegate_serving.artifacts import Fetcher, Patience
from tidegate_serving.checks import check_latency
from tidegate_serving.contract import CheckName, ValidationDocument, ValidationResult
from tidegate_serving.limits import allowed_cores, memory_limit
from tidegate_serving.onnx_model import load_model, random_inputs
from tidegate_serving.termination import LIMIT
from tidegate_serving.validate import Validation, fit, main

ALL = [name.value for name in CheckName]
SERVING_IMAGE = Path(__file__).parents[2] / "serving_image"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return policy_value(tmp_path / "source" / "model.onnx")


def run(document: dict[str, Any], folder: Path, memory: int | None = None) -> ValidationResult:
    fetcher = Fetcher(patience=Patience(attempts=1, timeout=0.5), environment={})
    work = folder / "work"
    work.mkdir()
    return Validation(ValidationDocument.model_validate(document), fetcher, work, threads=1, memory=memory).run()


def outcomes(result: ValidationResult) -> dict[str, str]:
    assert [check.name for check in result.checks] == ALL
    return {check.name.value: check.outcome.value for check in result.checks}


def message(result: ValidationResult, name: str) -> str:
    return next(check.message for check in result.checks if check.name == name)


def record(path: Path, **arrays: Any) -> dict[str, Any]:
    np.savez(path, **arrays)
    return {"uri": path.as_uri(), "sha256": digest(path)}


def answers(model: Path, rows: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return dict(zip(("policy", "value"), session.run(["policy", "value"], {"board": rows}), strict=True))


def parity(model: Path, folder: Path, shift: float = 0.0, **changes: Any) -> dict[str, Any]:
    rows = boards(70)
    recorded = {f"out_{name}": array + shift for name, array in answers(model, rows).items()}
    return record(folder / "parity.npz", **({"in_board": rows} | recorded | changes)) | {"tolerance": 1e-4}


def golden(model: Path, folder: Path, right: int, least: float, **changes: Any) -> dict[str, Any]:
    """100 positions of which `right` are answered rightly; column 0 is never legal."""
    rows = boards(100)
    legal = np.ones((100, 7), bool)
    legal[:, 0] = False
    policy = np.where(legal, answers(model, rows)["policy"], -np.inf)
    optimal = np.zeros((100, 7), bool)
    best = policy.argmax(axis=1)
    optimal[np.arange(100), np.where(np.arange(100) < right, best, 1 + best % 6)] = True
    arrays = {"in_board": rows, "legal": legal, "optimal": optimal} | changes
    return record(folder / "golden.npz", **arrays) | {"metric": "moveAccuracy", "min": least}


def test_a_good_model_passes_everything(model: Path, tmp_path: Path) -> None:
    document = validation_document(
        model,
        parity=parity(model, tmp_path),
        latency={"p99Milliseconds": 1000, "batchSize": 4},
        goldenSet=golden(model, tmp_path, right=93, least=0.9),
    )
    result = run(document, tmp_path)
    assert set(outcomes(result).values()) == {"Passed"}
    assert result.outcome == "Passed"
    assert result.metrics["moveAccuracy"] == pytest.approx(0.93)
    assert result.metrics["parityMaxAbsDifference"] < 1e-5
    assert 0 < result.metrics["latencyP50Milliseconds"] <= result.metrics["latencyP99Milliseconds"]
    assert result.model_dump(mode="json", by_alias=True)["signature"] == SIGNATURE
    assert result.size_bytes == model.stat().st_size


def test_what_nobody_asked_for_is_skipped(model: Path, tmp_path: Path) -> None:
    result = run(validation_document(model, signature=None), tmp_path)
    asked = {"Checksum", "Loadable", "FiniteOutputs"}
    assert outcomes(result) == {name: "Passed" if name in asked else "Skipped" for name in ALL}
    assert result.signature is not None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda good: good[: len(good) // 2], "damaged or cut off"),
        (lambda _: b"", "ONNX"),
        (lambda _: b"PK\x03\x04" + bytes(90), "a zip archive, as torch.save"),
        (lambda _: b"<!DOCTYPE html><html>log in</html>", "a web page"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (lambda _: b"\x80\x04\x95pickle", "a Python pickle"),
        (lambda _: os.urandom(500), "ONNX"),
    ],
    ids=["truncated", "empty", "zip", "html", "git lfs", "pickle", "noise"],
)
def test_a_file_that_is_no_model(content: Callable[[bytes], bytes], words: str, model: Path, tmp_path: Path) -> None:
    model.write_bytes(content(model.read_bytes()))
    document = validation_document(model)
    document["artifact"]["sizeBytes"] = None
    result = run(document, tmp_path)
    assert outcomes(result) == dict.fromkeys(ALL, "Skipped") | {"Checksum": "Passed", "Loadable": "Failed"}
    assert words in message(result, "Loadable")
    assert "upload that" in message(result, "Loadable")
    assert message(result, "Parity") == "not possible after Loadable failed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": "0" * 64}, "make a new ModelVersion with this digest"),
        ({"sizeBytes": 10**6}, "only a part of the file was uploaded"),
    ],
)
def test_another_file_than_promised(change: dict[str, Any], words: str, model: Path, tmp_path: Path) -> None:
    document = validation_document(model)
    result = run(document | {"artifact": document["artifact"] | change}, tmp_path)
    assert outcomes(result) == dict.fromkeys(ALL, "Skipped") | {"Checksum": "Failed"}
    assert words in message(result, "Checksum")


def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded(model: Path, tmp_path: Path) -> None:
    result = run(validation_document(model), tmp_path, memory=50 << 20)
    assert outcomes(result)["Loadable"] == "Failed"
    assert "the validation pod has 50 MiB; raise its memory" in message(result, "Loadable")


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        ({"name": "planes"}, "input planes is missing, the model has board"),
        ({"dataType": "FP64"}, "input board is FP32, promised is FP64"),
        ({"shape": [-1, 2, 6, 7]}, "input board has shape [-1, 3, 6, 7], promised is [-1, 2, 6, 7]"),
        ({"shape": [-1, 126]}, "promised is [-1, 126]"),
    ],
)
def test_another_signature(signature: dict[str, Any], words: str, model: Path, tmp_path: Path) -> None:
    inputs = [SIGNATURE["inputs"][0] | signature]
    result = run(validation_document(model, signature=SIGNATURE | {"inputs": inputs}), tmp_path)
    assert outcomes(result)["Signature"] == "Failed"
    assert set(list(outcomes(result).values())[3:]) == {"Skipped"}
    assert words in message(result, "Signature")
    assert "Correct spec.signature or export" in message(result, "Signature")


def test_an_output_that_is_missing(tmp_path: Path) -> None:
    result = run(validation_document(policy_value(tmp_path / "m.onnx", policy="logits")), tmp_path)
    assert "output policy is missing, the model has logits, value" in message(result, "Signature")


def test_a_fixed_batch_is_no_free_batch(tmp_path: Path) -> None:
    result = run(validation_document(policy_value(tmp_path / "m.onnx", batch=8)), tmp_path)
    assert "has shape [8, 3, 6, 7], promised is [-1, 3, 6, 7]" in message(result, "Signature")


def test_nan_is_named_and_the_other_checks_are_made_all_the_same(tmp_path: Path) -> None:
    model = onnx_models.not_a_number(tmp_path / "m.onnx")
    document = validation_document(model, goldenSet=golden(model, tmp_path, right=100, least=0.9))
    result = run(document, tmp_path)
    assert (outcomes(result)["FiniteOutputs"], outcomes(result)["GoldenSet"]) == ("Failed", "Passed")
    assert "output value has" in message(result, "FiniteOutputs")
    assert "NaN of 8 values on random inputs" in message(result, "FiniteOutputs")


def test_recorded_inputs_are_checked_too(model: Path, tmp_path: Path) -> None:
    rows = boards(70)
    rows[3] = np.inf
    result = run(validation_document(model, parity=parity(model, tmp_path, in_board=rows)), tmp_path)
    assert "on recorded inputs" in message(result, "FiniteOutputs")
    assert outcomes(result)["Parity"] == "Failed"


def test_a_model_that_refuses_random_inputs_needs_recorded_ones(tmp_path: Path) -> None:
    model = onnx_models.table_lookup(tmp_path / "m.onnx")
    alone = run(validation_document(model, signature=None), tmp_path)
    assert "or give a parity set" in message(alone, "FiniteOutputs")
    (tmp_path / "work" / "model.onnx").unlink()
    (tmp_path / "work").rmdir()
    recorded = record(tmp_path / "p.npz", in_index=np.zeros(64, np.int64), out_row=np.ones((64, 2), np.float32))
    result = run(validation_document(model, signature=None, parity=recorded), tmp_path)
    assert message(result, "FiniteOutputs") == "all outputs finite on recorded inputs"


def test_outputs_that_drifted_from_the_framework(model: Path, tmp_path: Path) -> None:
    result = run(validation_document(model, parity=parity(model, tmp_path, shift=0.01)), tmp_path)
    assert outcomes(result)["Parity"] == "Failed"
    assert "allowed 0.0001; the export changed the model" in message(result, "Parity")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"in_board": np.zeros((0, 3, 6, 7), np.float32)}, "are empty or differ in rows"),
        ({"out_policy": np.zeros((70, 6), np.float32)}, "recorded was [70, 6]"),
        ({"out_policy": np.full((70, 7), np.nan, np.float32)}, "largest difference nan (output policy"),
    ],
)
def test_a_parity_set_that_is_wrong(changes: dict[str, Any], words: str, model: Path, tmp_path: Path) -> None:
    result = run(validation_document(model, parity=parity(model, tmp_path, **changes)), tmp_path)
    assert words in message(result, "Parity")
    assert (outcomes(result)["Parity"], outcomes(result)["FiniteOutputs"]) == ("Failed", "Passed")


def test_a_parity_set_of_other_arrays_or_no_arrays(model: Path, tmp_path: Path) -> None:
    other = record(tmp_path / "p.npz", inputs=boards(64))
    assert "lacks in_board (it has inputs)" in message(
        run(validation_document(model, parity=other), tmp_path), "Parity"
    )


def test_a_pickle_in_an_npz_is_not_run(model: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (os.system, ("touch /nowhere/evil",))

    set_file = record(tmp_path / "p.npz", in_board=np.array([Evil()], dtype=object))
    result = run(validation_document(model, parity=set_file), tmp_path)
    assert "no .npz file of plain arrays" in message(result, "Parity")


@pytest.mark.parametrize("content", [b"text", b"PK\x03\x04broken", b""])
def test_a_set_that_is_no_npz(content: bytes, model: Path, tmp_path: Path) -> None:
    (tmp_path / "p.npz").write_bytes(content)
    document = validation_document(model, parity={"uri": (tmp_path / "p.npz").as_uri(), "sha256": None})
    assert "write it with numpy.savez" in message(run(document, tmp_path), "Parity")


def test_a_replaced_parity_set_fails_its_own_check(model: Path, tmp_path: Path) -> None:
    changed = parity(model, tmp_path) | {"sha256": "0" * 64}
    result = run(validation_document(model, parity=changed), tmp_path)
    assert outcomes(result)["Parity"] == "Failed"
    assert "parity.npz has sha256" in message(result, "Parity")


def test_a_slow_model_is_refused_with_its_numbers(model: Path, tmp_path: Path) -> None:
    document = validation_document(model, latency={"p99Milliseconds": 1e-6, "batchSize": 2})
    result = run(document, tmp_path)
    check = result.checks[ALL.index("Latency")]
    assert (check.outcome, check.measured) == (
        "Failed",
        pytest.approx(result.metrics["latencyP99Milliseconds"], abs=1e-3),
    )
    assert "with 2 rows, allowed p99 1e-06 ms; make the model smaller" in check.message


def test_one_quiet_round_is_enough(model: Path) -> None:
    """A busy neighbour in the first round does not reject a fast model."""
    loaded, now, runs = load_model(model, 1), 0.0, 0

    def clock() -> float:
        nonlocal now, runs
        runs += 1
        now += 0.05 if runs < 500 else 0.0001
        return now

    found = check_latency(loaded, 1, 5.0, None, clock)
    assert found.measured == pytest.approx(0.1, rel=0.5)


def test_a_batch_that_the_model_does_not_take(tmp_path: Path) -> None:
    model = policy_value(tmp_path / "m.onnx", batch=8)
    latency = {"p99Milliseconds": 100, "batchSize": 1}
    result = run(validation_document(model, signature=None, latency=latency), tmp_path)
    assert "takes 8 rows only" in message(result, "Latency")


def test_a_fixed_batch_is_fed_in_full_batches(tmp_path: Path) -> None:
    free, fixed = policy_value(tmp_path / "free.onnx"), policy_value(tmp_path / "fixed.onnx", batch=8)
    found = load_model(fixed, 1).run_rows({"board": boards(70)})
    np.testing.assert_allclose(found["policy"], answers(free, boards(70))["policy"], rtol=1e-5)


def test_a_model_that_plays_worse_than_promised(model: Path, tmp_path: Path) -> None:
    result = run(validation_document(model, goldenSet=golden(model, tmp_path, right=79, least=0.8)), tmp_path)
    assert outcomes(result)["GoldenSet"] == "Failed"
    assert "moveAccuracy 0.7900 over 100 rows, required 0.8, short by 0.0100" in message(result, "GoldenSet")
    assert result.metrics["moveAccuracy"] == pytest.approx(0.79)


def test_accuracy_of_labels(model: Path, tmp_path: Path) -> None:
    rows = boards(50)
    labels = answers(model, rows)["policy"].argmax(axis=1)
    labels[:5] = (labels[:5] + 1) % 7
    golden_set = record(tmp_path / "g.npz", in_board=rows, labels=labels) | {"metric": "accuracy", "min": 0.9}
    result = run(validation_document(model, goldenSet=golden_set), tmp_path)
    assert (result.outcome, result.metrics["accuracy"]) == ("Passed", pytest.approx(0.9))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"legal": np.ones((99, 7), bool)}, "legal of the golden set has 99 rows and the inputs have 100"),
        ({"optimal": np.ones((100, 6), bool)}, "does not fit the model"),
    ],
)
def test_a_golden_set_that_does_not_fit(changes: dict[str, Any], words: str, model: Path, tmp_path: Path) -> None:
    result = run(validation_document(model, goldenSet=golden(model, tmp_path, 100, 0.5, **changes)), tmp_path)
    assert words in message(result, "GoldenSet")


def test_move_accuracy_needs_a_policy(tmp_path: Path) -> None:
    model = policy_value(tmp_path / "m.onnx", policy="logits")
    arrays = {"in_board": boards(5), "legal": np.ones((5, 7), bool), "optimal": np.ones((5, 7), bool)}
    golden_set = record(tmp_path / "g.npz", **arrays) | {"metric": "moveAccuracy", "min": 0.5}
    result = run(validation_document(model, signature=None, goldenSet=golden_set), tmp_path)
    assert "needs an output policy, the model has logits, value" in message(result, "GoldenSet")


def test_text_goes_in_and_out(tmp_path: Path) -> None:
    model = load_model(onnx_models.echo_text(tmp_path / "m.onnx"), 1)
    assert model.run(random_inputs(model.signature, 2, 0))["echo"].tolist() == [["text"], ["text"]]


def run_main(document: Any, tmp_path: Path, **environment: str) -> tuple[int, dict[str, Any]]:
    file, log = tmp_path / "validation.json", tmp_path / "termination-log"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    code = main({"TIDEGATE_VALIDATION": str(file), "TIDEGATE_TERMINATION_LOG": str(log)} | environment)
    text = log.read_text()
    assert len(text.encode()) <= LIMIT
    ValidationResult.model_validate_json(text)
    return code, json.loads(text)


def test_a_verdict_ends_with_exit_code_0(model: Path, tmp_path: Path) -> None:
    code, result = run_main(validation_document(model), tmp_path)
    assert (code, result["outcome"], [check["name"] for check in result["checks"]]) == (0, "Passed", ALL)
    code, result = run_main(validation_document(onnx_models.not_a_number(tmp_path / "n.onnx")), tmp_path)
    assert (code, result["outcome"]) == (0, "Failed")


@pytest.mark.parametrize(
    ("document", "code", "reason"),
    [
        ("{", 3, "InvalidDocument"),
        ("[]", 3, "InvalidDocument"),
        ('{"contractVersion": "v9"}', 3, "InvalidDocument"),
    ],
)
def test_a_broken_document(document: str, code: int, reason: str, tmp_path: Path) -> None:
    found, result = run_main(document, tmp_path)
    assert (found, result["outcome"], result["reason"], result["retryable"]) == (code, "Error", reason, False)


def test_sources_that_are_away_or_gone(
    model: Path, tmp_path: Path, files: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = Fetcher(patience=Patience(attempts=1))
    monkeypatch.setattr(validate, "Fetcher", lambda *_, **__: hasty)
    files.answers = [send(b"", 404)]
    away, gone = f"http://127.0.0.1:{free_port()}/m", f"{files.url}/m"
    artifact = validation_document(model)["artifact"]
    for uri, code, reason, retryable in ((away, 1, "ArtifactUnavailable", True), (gone, 3, "ArtifactNotFound", False)):
        found, result = run_main(validation_document(model, artifact=artifact | {"uri": uri}), tmp_path)
        assert (found, result["outcome"], result["reason"], result["retryable"]) == (code, "Error", reason, retryable)
        found, result = run_main(validation_document(model, parity={"uri": uri, "sha256": None}), tmp_path)
        assert (found, result["reason"]) == (code, reason)


def test_an_unforeseen_error_is_reported(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(self: Validation) -> None:
        raise ZeroDivisionError("why")

    monkeypatch.setattr(Validation, "run", explode)
    code, result = run_main(validation_document(model), tmp_path)
    assert (code, result["reason"], result["message"]) == (1, "InternalError", "ZeroDivisionError: why; report this")


def test_last_words_stand_there_when_the_kernel_kills(model: Path, tmp_path: Path) -> None:
    """Killed between load and result, the message is what was written before."""
    code = (
        "import os, signal, sys\n"
        "from tidegate_serving import validate\n"
        "validate.load_model = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.exit(validate.main())\n"
    )
    assert run_process(["-c", code], validation_document(model), tmp_path).wait(60) == -signal.SIGKILL
    result = ValidationResult.model_validate_json((tmp_path / "termination-log").read_text())
    assert (result.outcome, result.reason, result.retryable) == ("Error", "OutOfMemory", False)


def test_the_validation_tells_nobody_about_the_model(model: Path, tmp_path: Path) -> None:
    """ONNX Runtime's official build has telemetry that is on by default and keeps its state in the home folder."""
    home = tmp_path / "home"
    home.mkdir()
    bare = {"HOME": str(home), "PATH": os.environ["PATH"]}
    process = run_process(["-m", "tidegate_serving.validate"], validation_document(model), tmp_path, bare)
    assert process.wait(60) == 0
    assert list(home.iterdir()) == []


def test_a_stopped_validation_says_so(model: Path, tmp_path: Path, files: FileServer) -> None:
    files.answers = [lambda request: request.rfile.read(1)]
    artifact = validation_document(model)["artifact"] | {"uri": f"{files.url}/m"}
    process = run_process(["-m", "tidegate_serving.validate"], validation_document(model, artifact=artifact), tmp_path)
    wait_until(lambda: files.paths, "the download begins")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    result = ValidationResult.model_validate_json((tmp_path / "termination-log").read_text())
    assert (result.reason, result.retryable) == ("Interrupted", True)


def run_process(
    arguments: list[str], document: dict[str, Any], tmp_path: Path, base: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    (tmp_path / "validation.json").write_text(json.dumps(document))
    environment = (base or dict(os.environ)) | {
        "PYTHONPATH": str(SERVING_IMAGE),
        "TIDEGATE_VALIDATION": str(tmp_path / "validation.json"),
        "TIDEGATE_TERMINATION_LOG": str(tmp_path / "termination-log"),
    }
    return subprocess.Popen([sys.executable, *arguments], env=environment, stderr=subprocess.DEVNULL)


def test_a_long_result_still_fits() -> None:
    tensor = {"name": "n" * 60, "dataType": "FP32", "shape": [-1, 3]}
    checks = [{"name": name, "outcome": "Failed", "message": "ä" * 900 + " REMEDY"} for name in ALL]
    result = ValidationResult.model_validate(
        {"outcome": "Failed", "checks": checks, "signature": {"inputs": [tensor] * 80, "outputs": [tensor]}}
    )
    text = fit(result)
    assert len(text.encode()) <= LIMIT
    fitted = ValidationResult.model_validate_json(text)
    assert [check.name for check in fitted.checks] == ALL
    assert all(check.message.endswith("REMEDY") for check in fitted.checks)


@pytest.mark.parametrize(
    ("files_of_group", "memory", "cores"),
    [
        ({"memory.max": "max", "cpu.max": "max 100000"}, None, None),
        ({"memory.max": "1048576", "cpu.max": "150000 100000"}, 1048576, 2),
        ({"memory.max": "1048576", "cpu.max": "50000 100000"}, 1048576, 1),
        ({"memory/memory.limit_in_bytes": str(2**63 - 4096), "cpu/cpu.cfs_quota_us": "-1"}, None, None),
        (
            {
                "memory/memory.limit_in_bytes": "4096",
                "cpu/cpu.cfs_quota_us": "100000",
                "cpu/cpu.cfs_period_us": "100000",
            },
            4096,
            1,
        ),
        ({}, None, None),
    ],
)
def test_limits_of_the_container(
    files_of_group: dict[str, str], memory: int | None, cores: int | None, tmp_path: Path
) -> None:
    for name, text in files_of_group.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert memory_limit(tmp_path) == memory
    available = len(os.sched_getaffinity(0))
    assert allowed_cores(tmp_path) == min(available, cores or available)


def test_an_npz_may_be_compressed(model: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    rows = boards(64)
    np.savez_compressed(buffer, in_board=rows, **{f"out_{n}": a for n, a in answers(model, rows).items()})
    assert zipfile.is_zipfile(buffer)
    (tmp_path / "p.npz").write_bytes(buffer.getvalue())
    document = validation_document(model, parity={"uri": (tmp_path / "p.npz").as_uri(), "sha256": None})
    assert outcomes(run(document, tmp_path))["Parity"] == "Passed"
