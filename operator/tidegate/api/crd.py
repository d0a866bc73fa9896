"""``python -m tidegate.api.crd [--check]``: writes the CustomResourceDefinitions that the models describe.

They go to ``crds/`` for kubectl and, with switches around them, into the chart. ``--check`` writes nothing and
fails when a file is not what it would write.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tidegate.api.ab_test import ABTest
from tidegate.api.base import GROUP, VERSION, Model, Resource
from tidegate.api.deployment import Deployment
from tidegate.api.model_version import ModelVersion
from tidegate.api.route import Route
from tidegate.api.rules import RULES, JsonSchema
from tidegate.api.schema import build_schema
from tidegate.api.training_job import TrainingJob

__all__ = ["KINDS", "REPOSITORY", "Column", "KindInfo", "build_crd", "find_part", "render_files", "run"]

REPOSITORY = Path(__file__).resolve().parents[3]
HEADER = "# Written by `make generate` from operator/tidegate/api; change the models, not this file.\n"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`; those with a priority above 0 are shown with `-o wide` only."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class KindInfo:
    """How a kind is called and shown."""

    model: type[Resource]
    plural: str
    short: str
    columns: tuple[Column, ...]
    replicas: tuple[str, str] | None = None
    """Paths of the wanted and the ready replicas, for `kubectl scale`."""

    @property
    def name(self) -> str:
        """The kind, for example TrainingJob."""
        return self.model.__name__


def _condition(kind: str, part: str = "status") -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{part}'


def _backend(role: str, part: str) -> str:
    return f'.spec.backends[?(@.role=="{role}")].{part}'


READY = Column("Ready", _condition("Ready"))
MESSAGE = Column("Message", ".status.message", priority=1)
AGE = Column("Age", ".metadata.creationTimestamp", "date")

KINDS = (
    KindInfo(
        TrainingJob,
        "trainingjobs",
        "tj",
        (
            Column("Model", ".spec.model"),
            Column("Phase", ".status.phase"),
            Column("Percent", ".status.progress.percent", "number"),
            Column("Seconds Left", ".status.progress.estimatedSecondsLeft", "number"),
            Column("Version", ".status.modelVersion"),
            READY,
            MESSAGE,
            AGE,
        ),
    ),
    KindInfo(
        ModelVersion,
        "modelversions",
        "mv",
        (
            Column("Model", ".spec.model"),
            Column("Version", ".spec.version"),
            Column("Phase", ".status.phase"),
            Column("Stage", ".spec.stage"),
            Column("Served By", ".status.servedBy[*].deployment"),
            READY,
            MESSAGE,
            AGE,
        ),
    ),
    KindInfo(
        Deployment,
        "deployments",
        "mdep",
        (
            Column("Stable", ".status.stable.modelVersion"),
            Column("Canary", ".status.canary.modelVersion"),
            Column("Percent", ".status.canary.percent", "number"),
            Column("Phase", ".status.phase"),
            READY,
            MESSAGE,
            AGE,
        ),
        replicas=(".spec.serving.replicas", ".status.stable.readyReplicas"),
    ),
    KindInfo(
        ABTest,
        "abtests",
        "abt",
        (
            Column("Deployment", ".spec.deployment"),
            Column("Phase", ".status.phase"),
            Column("Recommendation", ".status.recommendation.action"),
            Column("Winner", ".status.winner"),
            READY,
            MESSAGE,
            AGE,
        ),
    ),
    KindInfo(
        Route,
        "routes",
        "mroute",
        (
            Column("Stable", _backend("Stable", "modelVersion")),
            Column("Canary", _backend("Canary", "modelVersion")),
            Column("Percent", _backend("Canary", "percent"), "number"),
            Column("Proxies", ".status.proxies.connected", "integer"),
            Column("Current", ".status.proxies.acknowledged", "integer"),
            Column("Confirmed", _condition("Ready")),
            Column("Message", _condition("Ready", "message"), priority=1),
            AGE,
        ),
    ),
)


def build_crd(kind: KindInfo) -> dict[str, Any]:
    """Make the CustomResourceDefinition of a kind."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short],
                "categories": ["tidegate"],
            },
            "versions": [_build_version(kind)],
        },
    }


def _build_version(kind: KindInfo) -> dict[str, Any]:
    subresources: dict[str, Any] = {"status": {}}
    if kind.replicas:
        wanted, ready = kind.replicas
        subresources["scale"] = {"specReplicasPath": wanted, "statusReplicasPath": ready}
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": subresources,
        "additionalPrinterColumns": [_build_column(column) for column in kind.columns],
        "schema": {"openAPIV3Schema": build_root(kind)},
    }


def _build_column(column: Column) -> dict[str, Any]:
    made = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return made | ({"priority": column.priority} if column.priority else {})


def build_root(kind: KindInfo) -> JsonSchema:
    """Make the schema of the whole object."""
    root: JsonSchema = {
        "description": (kind.model.__doc__ or "").strip(),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": build_schema(find_part(kind, "spec")),
            "status": build_schema(find_part(kind, "status"), status=True),
        },
    }
    extra = kind.model.model_config.get("json_schema_extra")
    return root | ({RULES: extra[RULES]} if isinstance(extra, dict) else {})


def find_part(kind: KindInfo, part: str) -> type[Model]:
    """Find the model of a kind's `spec` or `status`."""
    found = kind.model.model_fields[part].annotation
    if not (isinstance(found, type) and issubclass(found, Model)):
        raise TypeError(f"{kind.name}.{part} is no model")
    return found


def render_files() -> dict[Path, str]:
    """Make the text of every file, by its path."""
    files: dict[Path, str] = {}
    for kind in KINDS:
        name = f"{kind.plural}.yaml"
        text = yaml.safe_dump(build_crd(kind), sort_keys=False, width=140, allow_unicode=True)
        files[REPOSITORY / "crds" / name] = HEADER + text
        files[REPOSITORY / "charts/tidegate/templates/crds" / name] = HEADER + _wrap(text)
    return files


def _wrap(text: str) -> str:
    """Put the chart's switches around a definition; braces in descriptions are no template."""
    escaped = text.replace("{{", '{{ "{{" }}')
    name = next(line for line in escaped.splitlines(keepends=True) if line.startswith("  name: "))
    switches = (
        '  labels: {{- include "tidegate.labels" . | nindent 4 }}\n'
        "  {{- if .Values.crds.keep }}\n"
        "  annotations:\n"
        "    helm.sh/resource-policy: keep\n"
        "  {{- end }}\n"
    )
    return "{{- if .Values.crds.enabled }}\n" + escaped.replace(name, name + switches, 1) + "{{- end }}\n"


def write(files: dict[Path, str], *, check: bool) -> list[Path]:
    """Write the files that differ, or only find them; return their paths."""
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    for path in stale if not check else ():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])
    return stale


def run(files: dict[Path, str], arguments: list[str]) -> None:
    """Do what the command line says: write, or with ``--check`` fail on a difference."""
    check = "--check" in arguments
    stale = write(files, check=check)
    for path in stale:
        print(f"{'is not what the models say' if check else 'written'}: {path.relative_to(REPOSITORY)}")
    if stale and check:
        sys.exit("run `make generate` and commit what it writes")


if __name__ == "__main__":
    run(render_files(), sys.argv[1:])
