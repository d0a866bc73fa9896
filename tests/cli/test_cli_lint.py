"""`tidegate lint`: what is wrong with manifests is told with file, line, field and remedy, without a cluster."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate.cli.app import run
from tidegate.cli.exits import ExitCode
from tidegate.cli.linting import Finding, lint

EXAMPLES = Path(__file__).parents[2] / "examples"
GOOD: dict[str, Any] = {
    "apiVersion": "tidegate.dev/v1alpha1",
    "kind": "Deployment",
    "metadata": {"name": "connect4"},
    "spec": {"modelVersion": "connect4-1.1.0", "analysis": {"metrics": [{"name": "errorRate", "max": 0.05}]}},
}
BAD = """\
# a comment
apiVersion: v1
kind: Service
metadata: {name: other}
---
apiVersion: tidegate.dev/v1alpha1
kind: Deployment
metadata: {name: connect4}
spec:
  modelVersion: connect4-1.1.0
  analysis:
    interval: 1d
    metrics:
    - {name: errorRate, max: 0.05}
    - name: custom
      query: |
        sum(
          rate(x[1m]) foo
        )
      max: 3
"""


def write(folder: Path, *changes: tuple[str, Any], **fields: Any) -> Path:
    """Write the good object with these changes: the path of a field, and its value."""
    made = json.loads(json.dumps(GOOD | fields))
    for path, value in changes:
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        target: Any = made
        for part in parents:
            target = target.setdefault(part, {}) if isinstance(target, dict) else target[part]
        target[last] = value
    file = folder / "release.yaml"
    file.write_text(yaml.safe_dump(made))
    return file


def leave(*arguments: str) -> ExitCode:
    with pytest.raises(SystemExit) as left:
        run(["lint", *arguments])
    return ExitCode(left.value.code)


def test_every_example_passes() -> None:
    found = lint([EXAMPLES, EXAMPLES / "quickstart"])
    assert found.findings == ()
    assert found.objects > 10


def test_findings_name_file_line_object_field_and_place_in_the_query(tmp_path: Path) -> None:
    file = tmp_path / "release.yaml"
    file.write_text(BAD)
    name = "Deployment/connect4"
    query = "cannot be asked: invalid promql query: unexpected foo (line 2, column 15)"
    assert lint([file]).findings == (
        Finding(
            str(file), 12, name, "spec.analysis.interval", "'1d' is no duration; write for example 30s, 5m or 1h30m"
        ),
        Finding(str(file), 16, name, "spec.analysis.metrics[1].query", query),
    )
    assert lint([file]).objects == 1


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        (("apiVersion", "tidegate.dev/v1"), "apiVersion", "write tidegate.dev/v1alpha1"),
        (("kind", "Deploymint"), "kind", "did you mean Deployment?; there are TrainingJob"),
        (("metadata", {}), "metadata.name", "is required"),
        (("spec.modelVersion", None), "spec.modelVersion", "is required"),
        (("spec.serving.replica", 2), "spec.serving.replica", "there is no such field; did you mean replicas?"),
        (("spec.analysis.max_hold", "1h"), "spec.analysis.max_hold", "did you mean maxHold?"),
        (("spec.serving.replicas", "2"), "spec.serving.replicas", "valid integer"),
        (("spec.strategy.type", "Canari"), "spec.strategy.type", "'Canary', 'Gradual', 'Immediate' or 'Shadow'"),
        (
            ("spec.strategy.canary.steps", [{"gate": {"url": "ftp://a"}}]),
            "spec.strategy.canary.steps[0].gate.url",
            "http://",
        ),
        (("spec.analysis.metrics.0.name", "a b"), "spec.analysis.metrics[0].name", "write a letter"),
        (
            (
                "spec.releaseWindows",
                [{"days": ["Monday"], "start": "09:00", "end": "17:00", "timeZone": "Europe/Barlin"}],
            ),
            "spec.releaseWindows",
            "there is no time zone Europe/Barlin",
        ),
    ],
)
def test_one_fault_is_one_finding_with_its_remedy(
    tmp_path: Path, change: tuple[str, Any], field: str, said: str
) -> None:
    (found,) = lint([write(tmp_path, change)]).findings
    assert found.field == field
    assert said in found.message


def test_settings_of_a_trainer_are_checked(tmp_path: Path) -> None:
    job = yaml.safe_load((EXAMPLES / "training-job.yaml").read_text())
    job["spec"]["trainer"]["config"]["epoch"] = 3
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    (found,) = lint([tmp_path]).findings
    assert (found.field, found.object) == ("spec.trainer.config.epoch", "TrainingJob/connect4-policy")
    assert found.message == "unknown field, did you mean epochs?"


def test_what_the_api_server_ignores_is_no_fault(tmp_path: Path) -> None:
    """An explicit null counts as not written, and a status is the operator's."""
    assert lint([write(tmp_path, ("spec.serving", None), status={"phase": 7})]).findings == ()


def test_text_that_is_no_yaml_is_a_finding_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.yml"
    file.write_text("a: 1\nb: [\n")
    (found,) = lint([tmp_path]).findings
    assert (found.file, found.line) == (str(file), 3)
    assert "this is no YAML" in str(found)


def test_exit_codes_and_output_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("-f", str(write(tmp_path))) is ExitCode.OK
    assert capsys.readouterr().out == "1 object, nothing to correct\n"
    file = write(tmp_path, ("spec.paused", "yes"))
    assert leave("-f", str(file)) is ExitCode.ENDED_BADLY
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{file}:")
    assert "Deployment/connect4: spec.paused: Input should be a valid boolean" in said[0]
    assert said[1:] == ["1 object, 1 to correct"]
    assert leave("-f", str(tmp_path / "none.yaml")) is ExitCode.USAGE
    assert "none.yaml cannot be read" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert leave("-f", str(tmp_path / "empty")) is ExitCode.USAGE


def test_output_for_programs_and_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, ("spec.paused", "yes"))
    assert leave("-f", str(EXAMPLES), "-f", str(file), "-o", "json") is ExitCode.ENDED_BADLY
    told = json.loads(capsys.readouterr().out)
    (finding,) = told["findings"]
    assert set(finding) == {"file", "line", "object", "field", "message"}
    assert (finding["file"], finding["field"]) == (str(file), "spec.paused")
    assert told["objects"] > 1


def test_what_another_program_renders_is_read_from_the_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with write(tmp_path, ("spec.paused", "yes")).open() as file:
        monkeypatch.setattr("sys.stdin", file)
        (found,) = lint([Path("-")]).findings
    assert found.file == "stdin"
