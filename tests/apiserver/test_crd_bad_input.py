"""Every bad object here is refused by the API server with a message that names the field and says what to write."""

import copy
from typing import Any

import pytest

pytestmark = pytest.mark.apiserver

DIGEST = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
BOARD = {"name": "board", "dataType": "FP32", "shape": [-1, 3, 6, 7]}
POLICY = {"name": "policy", "dataType": "FP32", "shape": [-1, 7]}
POSITIONS = {"name": "positions", "uri": "builtin://connect4-solved"}
GOAL = {"name": "win", "role": "Goal", "direction": "Increase"}
GUARDRAIL = {"name": "errorRate", "role": "Guardrail", "direction": "Decrease", "margin": 0.002}
VARIANTS = [{"name": "control", "weight": 50}, {"name": "wide", "modelVersion": "connect4-1.2.0", "weight": 50}]
DELETE = object()

SPECS: dict[str, dict[str, Any]] = {
    "TrainingJob": {"model": "connect4", "trainer": {"algorithm": "supervised"}, "datasets": [POSITIONS]},
    "ModelVersion": {
        "model": "connect4",
        "version": "1.1.0",
        "artifact": {"uri": "s3://models/model.onnx", "sha256": DIGEST},
        "signature": {"inputs": [BOARD], "outputs": [POLICY]},
        "validation": {"latency": {"p99Milliseconds": 10}},
    },
    "Deployment": {
        "modelVersion": "connect4-1.1.0",
        "serving": {"resources": {"cpu": "1"}},
        "analysis": {"metrics": [{"name": "errorRate", "max": 0.05}]},
    },
    "ABTest": {
        "deployment": "connect4",
        "variants": VARIANTS,
        "assignment": {"header": "x-user-id"},
        "metrics": [GOAL, GUARDRAIL],
    },
    "Route": {
        "deployment": "connect4",
        "backends": [
            {"modelVersion": "connect4-1.1.0", "workload": "connect4-a", "percent": 10, "role": "Canary"},
            {"modelVersion": "connect4-1.0.0", "workload": "connect4-b", "percent": 90, "role": "Stable"},
        ],
    },
}


def metric(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "errorRate"} | fields]


def release_window(**fields: Any) -> list[dict[str, Any]]:
    return [{"start": "09:00", "end": "16:00"} | fields]


def steps(*values: dict[str, Any]) -> dict[str, Any]:
    return {"steps": list(values)}


# kind · path below the object · value · field in the message · remedy in the message
BAD: list[tuple[str, str, Any, str, str]] = [
    # trainer
    ("TrainingJob", "spec.trainer", {}, "spec.trainer", "exactly one of algorithm and image"),
    ("TrainingJob", "spec.trainer.image", "me/trainer:1", "spec.trainer", "exactly one of algorithm and image"),
    ("TrainingJob", "spec.trainer.algorithm", "alchemy", "spec.trainer.algorithm", 'supported values: "supervised"'),
    ("TrainingJob", "spec.trainer.command", ["sh"], "spec.trainer.command", "needs image"),
    ("TrainingJob", "spec.trainer.args", ["-v"], "spec.trainer.args", "needs image"),
    ("TrainingJob", "spec.trainer.env", [{"name": "A"}], "spec.trainer.env", "needs image"),
    ("TrainingJob", "spec.trainer.env", [{"name": "1A"}], "spec.trainer.env[0].name", "write letters, digits and '_'"),
    ("TrainingJob", "spec.trainer.config", "epochs=3", "spec.trainer.config", "must be of type object"),
    # the rest of a TrainingJob
    ("TrainingJob", "spec.model", DELETE, "spec.model", "Required value"),
    ("TrainingJob", "spec.model", "Connect 4", "spec.model", "write lower-case letters, digits and '-'"),
    ("TrainingJob", "spec.model", "m" * 41, "spec.model", "may not be more than 40 bytes"),
    ("TrainingJob", "spec.datasets", [], "spec.datasets", "should have at least 1 items"),
    ("TrainingJob", "spec.datasets", [POSITIONS, POSITIONS], "spec.datasets", "rename one"),
    ("TrainingJob", "spec.datasets.0.uri", "/data/x.npz", "spec.datasets[0].uri", "begins with builtin://"),
    ("TrainingJob", "spec.datasets.0.sha256", "abc", "spec.datasets[0].sha256", "64 lower-case hexadecimal digits"),
    ("TrainingJob", "spec.resources", {"gpus": -1}, "spec.resources.gpus", "greater than or equal to 0"),
    ("TrainingJob", "spec.resources", {"gpus": 0.5}, "spec.resources.gpus", "must be of type integer"),
    ("TrainingJob", "spec.resources", {"memory": "lots"}, "spec.resources.memory", "write a quantity above 0"),
    ("TrainingJob", "spec.resources", {"cpu": 0}, "spec.resources.cpu", "write a quantity above 0"),
    ("TrainingJob", "spec.scheduling", {"tolerations": [{}]}, "spec.scheduling.tolerations[0].key", "operator Exists"),
    (
        "TrainingJob",
        "spec.scheduling",
        {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
        "spec.scheduling.tolerations[0].value",
        "Exists takes no value",
    ),
    (
        "TrainingJob",
        "spec.scheduling",
        {"tolerations": [{"key": "a", "tolerationSeconds": 5}]},
        "spec.scheduling.tolerations[0].tolerationSeconds",
        "needs effect NoExecute",
    ),
    ("TrainingJob", "spec.checkpoint", {"interval": "10"}, "spec.checkpoint.interval", "write a duration from 1s"),
    ("TrainingJob", "spec.checkpoint", {"interval": "0s"}, "spec.checkpoint.interval", "write a duration from 1s"),
    ("TrainingJob", "spec.checkpoint", {"keep": 0}, "spec.checkpoint.keep", "greater than or equal to 1"),
    (
        "TrainingJob",
        "spec.evaluation",
        {"gates": [{"metric": "moveAccuracy"}]},
        "spec.evaluation.gates[0]",
        "set min or max",
    ),
    (
        "TrainingJob",
        "spec.evaluation",
        {"gates": [{"metric": "moveAccuracy", "min": 0.9, "max": 0.8}]},
        "spec.evaluation.gates[0].max",
        "raise max or lower min",
    ),
    ("TrainingJob", "spec.output", {"versionBump": "huge"}, "spec.output.versionBump", 'supported values: "major"'),
    ("TrainingJob", "spec.output", {"deploy": {}}, "spec.output.deploy.name", "Required value"),
    ("TrainingJob", "spec.seed", -1, "spec.seed", "greater than or equal to 0"),
    ("TrainingJob", "spec.backoffLimit", 21, "spec.backoffLimit", "less than or equal to 20"),
    ("TrainingJob", "spec.activeDeadlineSeconds", 0, "spec.activeDeadlineSeconds", "greater than or equal to 1"),
    ("TrainingJob", "spec.gpu", 1, "spec.gpu", "unknown field"),
    # ModelVersion
    ("ModelVersion", "spec.version", "1.1", "spec.version", "semantic version such as 1.2.0"),
    ("ModelVersion", "spec.version", "v1.1.0", "spec.version", "semantic version such as 1.2.0"),
    ("ModelVersion", "spec.artifact.uri", "models/m.onnx", "spec.artifact.uri", "begins with mlflow-artifacts:/"),
    ("ModelVersion", "spec.artifact.sha256", DELETE, "spec.artifact.sha256", "Required value"),
    ("ModelVersion", "spec.artifact.sha256", DIGEST.upper(), "spec.artifact.sha256", "64 lower-case hexadecimal"),
    ("ModelVersion", "spec.artifact.format", "Pickle", "spec.artifact.format", 'supported values: "ONNX"'),
    ("ModelVersion", "spec.signature.inputs", [BOARD, BOARD], "spec.signature.inputs", "a name of its own"),
    ("ModelVersion", "spec.signature.outputs", [], "spec.signature.outputs", "should have at least 1 items"),
    (
        "ModelVersion",
        "spec.signature.inputs.0.dataType",
        "float32",
        "spec.signature.inputs[0].dataType",
        'supported values: "BOOL"',
    ),
    (
        "ModelVersion",
        "spec.validation.latency.p99Milliseconds",
        0,
        "spec.validation.latency.p99Milliseconds",
        "should be greater than 0",
    ),
    (
        "ModelVersion",
        "spec.validation.goldenSet",
        {"uri": "s3://m/g.npz", "metric": "luck", "min": 0.8},
        "spec.validation.goldenSet.metric",
        'supported values: "moveAccuracy", "accuracy"',
    ),
    (
        "ModelVersion",
        "spec.validation.goldenSet",
        {"uri": "s3://m/g.npz", "metric": "accuracy", "min": 80},
        "spec.validation.goldenSet.min",
        "less than or equal to 1",
    ),
    ("ModelVersion", "spec.stage", "Prod", "spec.stage", 'supported values: "None", "Staging", "Production"'),
    # Deployment: its name, its serving
    ("Deployment", "metadata.name", "d" * 47, "metadata.name", "write at most 46 characters"),
    ("Deployment", "metadata.name", "4-in-a-row", "metadata.name", "a lower-case letter, then"),
    ("Deployment", "metadata.name", "connect.four", "metadata.name", "a lower-case letter, then"),
    ("Deployment", "spec.modelVersion", DELETE, "spec.modelVersion", "Required value"),
    (
        "Deployment",
        "spec.modelVersion",
        "connect4:1.1.0",
        "spec.modelVersion",
        "the name of an object in this namespace",
    ),
    ("Deployment", "spec.serving.replicas", 0, "spec.serving.replicas", "greater than or equal to 1"),
    ("Deployment", "spec.serving.resources.cpu", "-1", "spec.serving.resources.cpu", "write a quantity above 0"),
    (
        "Deployment",
        "spec.serving.triton",
        {"maxBatchSize": 5000},
        "spec.serving.triton.maxBatchSize",
        "less than or equal to 4096",
    ),
    # Deployment: its strategy
    ("Deployment", "spec.strategy", {"type": "Yolo"}, "spec.strategy.type", 'supported values: "Canary", "Gradual"'),
    (
        "Deployment",
        "spec.strategy",
        {"type": "Immediate", "canary": {}},
        "spec.strategy.canary",
        "remove it or set type: Canary",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"immediate": {"bake": "1m"}},
        "spec.strategy.immediate",
        "remove it or set type: Immediate",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"gradual": {"duration": "1h"}},
        "spec.strategy.gradual",
        "remove it or set type: Gradual",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"shadow": {"duration": "1h"}},
        "spec.strategy.shadow",
        "remove it or set type: Shadow",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"type": "Shadow", "gradual": {"duration": "1h"}, "shadow": {"then": "Canary"}},
        "spec.strategy.gradual",
        "or shadow.then: Gradual",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"type": "Shadow", "shadow": {"agreement": "Tolerance"}},
        "spec.strategy.shadow.tolerance",
        "set both or neither",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"type": "Shadow", "shadow": {"tolerance": 0.1}},
        "spec.strategy.shadow.tolerance",
        "set both or neither",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"type": "Shadow", "shadow": {"then": "Shadow"}},
        "spec.strategy.shadow.then",
        'supported values: "Canary", "Gradual", "Immediate"',
    ),
    (
        "Deployment",
        "spec.strategy",
        {"type": "Gradual", "gradual": {"duration": "30s"}},
        "spec.strategy.gradual.tick",
        "lower tick or raise duration",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"type": "Gradual", "gradual": {"duration": "24h"}},
        "spec.strategy.gradual.tick",
        "more than 1000 ticks; raise tick",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"type": "Gradual", "gradual": {"tick": "0s"}},
        "spec.strategy.gradual.tick",
        "write a duration from 1s to 24h",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"canary": {"initialPercent": 0}},
        "spec.strategy.canary.initialPercent",
        "should be greater than 0",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"canary": {"incrementPercent": 101}},
        "spec.strategy.canary.incrementPercent",
        "less than or equal to 100",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"canary": {"interval": "30"}},
        "spec.strategy.canary.interval",
        "write a duration from 1s to 720h",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"canary": {"interval": "31d"}},
        "spec.strategy.canary.interval",
        "write a duration from 1s to 720h",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"canary": steps({"setPercent": 5}) | {"initialPercent": 5}},
        "spec.strategy.canary.initialPercent",
        "no effect beside steps; remove one",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"canary": steps({"setPercent": 5, "hold": "5m"})},
        "spec.strategy.canary.steps[0]",
        "set exactly one of setPercent, hold, pause, gate and analysis",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"canary": steps({"gate": {"url": "https://gates/go", "secret": "Change Board"}})},
        "spec.strategy.canary.steps[0].gate.secret",
        "write the name of an object in this namespace",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"canary": steps({"gate": {}})},
        "spec.strategy.canary.steps[0].gate.url",
        "Required value",
    ),
    *(
        (
            "Deployment",
            "spec.strategy",
            {"canary": steps({"gate": {"url": url}})},
            "spec.strategy.canary.steps[0].gate.url",
            "begins with http:// or https://, without a password",
        )
        for url in (
            "ftp://gates/go",
            "gates.example/go",
            "https://ann:secret@gates/go",
            "http://gates/#a",
            "http://a b",
        )
    ),
    (
        "Deployment",
        "spec.strategy",
        {"canary": steps({"gate": {"url": "http://gates/go", "timeout": "30s"}})},
        "spec.strategy.canary.steps[0].gate.timeout",
        "write a duration from 1s to 5s",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"canary": steps({"gate": {"url": "http://gates/go", "interval": "0s"}})},
        "spec.strategy.canary.steps[0].gate.interval",
        "write a duration from 1s to 24h",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"canary": steps({"gate": {"url": "http://gates/go", "retries": 3}})},
        "spec.strategy.canary.steps[0].gate.retries",
        "unknown field",
    ),
    (
        "Deployment",
        "spec.rollback",
        {"gate": {"url": "http://gates/back", "interval": "5s"}},
        "spec.rollback.gate.interval",
        "unknown field",
    ),
    *(
        (
            "Deployment",
            "spec.strategy",
            {"canary": steps(*before, {"analysis": {}}, {"setPercent": 20})},
            "spec.strategy.canary.steps",
            "write a setPercent above 0 before the analysis step",
        )
        for before in ((), ({"hold": "1m"},), ({"setPercent": 0},))
    ),
    (
        "Deployment",
        "spec.strategy",
        {"canary": steps({"setPercent": 5}, {"analysis": {"metrics": []}})},
        "spec.strategy.canary.steps[1].analysis.metrics",
        "should have at least 1 items",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"canary": steps({"setPercent": 5}, {"analysis": {"count": 0}})},
        "spec.strategy.canary.steps[1].analysis.count",
        "greater than or equal to 1",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"canary": steps({"setPercent": 5}, {"analysis": {"metrics": ["errorRate", "accuracy"]}})},
        "spec.strategy",
        "names a metric that spec.analysis.metrics lacks",
    ),
    *(
        (
            "Deployment",
            "spec",
            {
                "modelVersion": "connect4-1.1.0",
                "strategy": {"canary": steps({"setPercent": 5}, {"analysis": analysis})},
                "analysis": {"metrics": metric(max=1, dryRun=True)},
            },
            "spec.strategy",
            remedy,
        )
        for analysis, remedy in (
            ({}, "needs a metric that decides"),
            ({"metrics": ["errorRate"]}, "or has as a dry run"),
        )
    ),
    (
        "Deployment",
        "spec",
        {"modelVersion": "connect4-1.1.0", "strategy": {"canary": steps({"setPercent": 5}, {"analysis": {}})}},
        "spec.strategy",
        "add one to spec.analysis.metrics",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"canary": steps({"setPercent": 50}, {"setPercent": 20})},
        "spec.strategy.canary.steps",
        "order setPercent from small to large",
    ),
    (
        "Deployment",
        "spec.strategy",
        {"canary": steps({"setPercent": 150})},
        "spec.strategy.canary.steps[0].setPercent",
        "less than or equal to 100",
    ),
    ("Deployment", "spec.strategy", {"canary": steps()}, "spec.strategy.canary.steps", "should have at least 1 items"),
    (
        "Deployment",
        "spec.strategy",
        {"canary": steps({"pause": {"duration": "5m"}})},
        "spec.strategy.canary.steps[0].pause",
        "unknown field",
    ),
    # Deployment: its analysis
    ("Deployment", "spec.analysis.interval", "500ms", "spec.analysis.interval", "write a duration from 1s to 24h"),
    ("Deployment", "spec.analysis.interval", "0s", "spec.analysis.interval", "write a duration from 1s to 24h"),
    ("Deployment", "spec.analysis.window", "10s", "spec.analysis.window", "raise window"),
    ("Deployment", "spec.analysis.metrics", metric(), "spec.analysis.metrics[0]", "set min, max, maxMilliseconds"),
    (
        "Deployment",
        "spec.analysis.metrics",
        [{"name": "latencyP75", "max": 5}],
        "spec.analysis.metrics[0].name",
        "set source: Outcomes, query or compare",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        metric(max=1, query="up"),
        "spec.analysis.metrics[0].query",
        "remove query or choose another name",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        metric(max=1, source="Outcomes"),
        "spec.analysis.metrics[0].source",
        "remove source or choose another name",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        [{"name": "clicks", "query": "up", "source": "Outcomes", "min": 1}],
        "spec.analysis.metrics[0].source",
        "no effect beside query; remove one",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        [{"name": "clicks", "query": "up", "min": 1, "minSamples": 10}],
        "spec.analysis.metrics[0].minSamples",
        "remove minSamples",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        metric(maxMilliseconds=50),
        "spec.analysis.metrics[0].maxMilliseconds",
        "write max instead",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        metric(max=0.05, failAbove=0.01),
        "spec.analysis.metrics[0].failAbove",
        "has to be at least that",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        metric(max=0.05, failBelow=0.01),
        "spec.analysis.metrics[0].failBelow",
        "failBelow needs min",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        metric(min=0.5, max=0.1),
        "spec.analysis.metrics[0].max",
        "raise max or lower min",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        metric(max=0.05, maxDrop=0.1),
        "spec.analysis.metrics[0].maxDrop",
        "remove it or set max",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        metric(max=1) + metric(max=2),
        "spec.analysis.metrics",
        "two metrics have one name; rename one",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        metric(max=1, noData="Ignore"),
        "spec.analysis.metrics[0].noData",
        'supported values: "Hold", "Fail", "Pass"',
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        [{"name": "vsStable", "compare": {"metric": "requestRate"}}],
        "spec.analysis.metrics[0].compare",
        "or, with source: Outcomes, an outcome of your own",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        [{"name": "vsStable", "compare": {"metric": "win"}}],
        "spec.analysis.metrics[0].compare",
        "or, with source: Outcomes, an outcome of your own",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        [{"name": "vsStable", "compare": {"metric": "errorRate"}, "source": "Outcomes"}],
        "spec.analysis.metrics[0].compare",
        "or, with source: Outcomes, an outcome of your own",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        [{"name": "vsStable", "compare": {}}],
        "spec.analysis.metrics[0].compare.metric",
        "Required value",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        [{"name": "vsStable", "compare": {"metric": "errorRate", "alpha": 0}}],
        "spec.analysis.metrics[0].compare.alpha",
        "should be greater than 0",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        [{"name": "vsStable", "compare": {"metric": "errorRate", "margin": -0.1}}],
        "spec.analysis.metrics[0].compare.margin",
        "greater than or equal to 0",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        [{"name": "vsStable", "compare": {"metric": "errorRate", "minSamples": 0}}],
        "spec.analysis.metrics[0].compare.minSamples",
        "greater than or equal to 1",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        [{"name": "vsStable", "compare": {"metric": "errorRate", "test": "TTest"}}],
        "spec.analysis.metrics[0].compare.test",
        'supported values: "Sequential"',
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        [{"name": "vsStable", "compare": {"metric": "errorRate"}, "max": 0.1}],
        "spec.analysis.metrics[0].max",
        "write it as a metric of its own",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        [{"name": "vsStable", "compare": {"metric": "errorRate"}, "min": 0.1}],
        "spec.analysis.metrics[0].min",
        "write it as a metric of its own",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        [{"name": "vsStable", "compare": {"metric": "errorRate"}, "query": "up"}],
        "spec.analysis.metrics[0].query",
        "write it as a metric of its own",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        [{"name": "vsStable", "compare": {"metric": "win"}, "source": "Outcomes", "maxDrop": 0.1}],
        "spec.analysis.metrics[0].maxDrop",
        "write it as a metric of its own",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        [{"name": "vsStable", "compare": {"metric": "errorRate"}, "minSamples": 5}],
        "spec.analysis.metrics[0].minSamples",
        "write compare.minSamples",
    ),
    (
        "Deployment",
        "spec.analysis.metrics",
        metric(compare={"metric": "errorRate"}),
        "spec.analysis.metrics[0].name",
        "a name of its own, for example errorRateVsStable",
    ),
    (
        "Deployment",
        "spec",
        {
            "modelVersion": "connect4-1.1.0",
            "strategy": {"type": "Immediate"},
            "analysis": {"metrics": [{"name": "vsStable", "compare": {"metric": "errorRate"}}]},
        },
        "spec.analysis",
        "Immediate leaves none to the stable one; set max or min",
    ),
    (
        "Deployment",
        "spec",
        {
            "modelVersion": "connect4-1.1.0",
            "strategy": {"type": "Immediate"},
            "analysis": {"metrics": [{"name": "accuracy", "source": "Outcomes", "maxDrop": 0.1}]},
        },
        "spec.analysis",
        "compare and maxDrop need both versions to get traffic",
    ),
    # Deployment: the rest
    ("Deployment", "spec.traffic", {"provider": "Magic"}, "spec.traffic.provider", 'supported values: "Envoy"'),
    (
        "Deployment",
        "spec.traffic",
        {"sticky": {"header": "user id"}},
        "spec.traffic.sticky.header",
        "write the name of an HTTP header",
    ),
    ("Deployment", "spec.rollback", {"window": 21}, "spec.rollback.window", "less than or equal to 20"),
    ("Deployment", "spec.rollback", {"drainDelay": "2h"}, "spec.rollback.drainDelay", "write a duration from 0s to 1h"),
    (
        "Deployment",
        "spec.releaseWindows",
        release_window(start="9:00"),
        "spec.releaseWindows[0].start",
        "write a time of day from 00:00 to 23:59",
    ),
    (
        "Deployment",
        "spec.releaseWindows",
        release_window(start="24:00"),
        "spec.releaseWindows[0].start",
        "write a time of day from 00:00 to 23:59",
    ),
    (
        "Deployment",
        "spec.releaseWindows",
        release_window(end="24:30"),
        "spec.releaseWindows[0].end",
        "write a time of day from 00:00 to 24:00",
    ),
    (
        "Deployment",
        "spec.releaseWindows",
        release_window(end="09:00"),
        "spec.releaseWindows[0].end",
        "for a whole day write start 00:00 and end 24:00",
    ),
    (
        "Deployment",
        "spec.releaseWindows",
        release_window(days=["Monday", "Monday"]),
        "spec.releaseWindows[0].days",
        "a day is named twice; remove one",
    ),
    (
        "Deployment",
        "spec.releaseWindows",
        release_window(days=["monday"]),
        "spec.releaseWindows[0].days[0]",
        'supported values: "Monday", "Tuesday"',
    ),
    (
        "Deployment",
        "spec.releaseWindows",
        release_window(days=[]),
        "spec.releaseWindows[0].days",
        "should have at least 1 items",
    ),
    (
        "Deployment",
        "spec.releaseWindows",
        release_window(timeZone="Local time"),
        "spec.releaseWindows[0].timeZone",
        "write the IANA name of a time zone",
    ),
    ("Deployment", "spec.releaseWindows", [{"start": "09:00"}], "spec.releaseWindows[0].end", "Required value"),
    ("Deployment", "spec.errorBudget", {}, "spec.errorBudget.objective", "Required value"),
    ("Deployment", "spec.errorBudget", {"objective": 100}, "spec.errorBudget.objective", "less than 100"),
    (
        "Deployment",
        "spec.errorBudget",
        {"objective": 99.9, "window": "30s"},
        "spec.errorBudget.window",
        "write a duration from 1m to 720h",
    ),
    (
        "Deployment",
        "spec.errorBudget",
        {"objective": 99.9, "noData": "Fail"},
        "spec.errorBudget.noData",
        'supported values: "Hold", "Pass"',
    ),
    ("Deployment", "spec.modelversion", "x", "spec.modelversion", "unknown field"),
    # ABTest
    ("ABTest", "spec.variants.0.weight", 40, "spec.variants", "have to sum to 100; change weight"),
    ("ABTest", "spec.variants.0.modelVersion", "connect4-1.0.0", "spec.variants", "remove its modelVersion"),
    ("ABTest", "spec.variants.1.modelVersion", DELETE, "spec.variants", "the second variant needs modelVersion"),
    ("ABTest", "spec.variants.1.name", "control", "spec.variants", "two variants have one name; rename one"),
    ("ABTest", "spec.variants.1.name", "Wide Net", "spec.variants[1].name", "write lower-case letters"),
    ("ABTest", "spec.variants", VARIANTS[:1], "spec.variants", "should have at least 2 items"),
    ("ABTest", "spec.assignment", {}, "spec.assignment.header", "Required value"),
    ("ABTest", "spec.assignment.salt", "grün", "spec.assignment.salt", "write printable ASCII characters"),
    ("ABTest", "spec.metrics", [GUARDRAIL], "spec.metrics", "give one metric role: Goal"),
    ("ABTest", "spec.metrics", [GOAL, GOAL | {"name": "draw"}], "spec.metrics", "give one metric role: Goal"),
    ("ABTest", "spec.metrics", [GOAL, GUARDRAIL | {"name": "win"}], "spec.metrics", "two metrics have one name"),
    ("ABTest", "spec.metrics.1.margin", DELETE, "spec.metrics[1].margin", "a guardrail needs a margin above 0"),
    ("ABTest", "spec.metrics.0.margin", 0.1, "spec.metrics[0].margin", "remove it or set role: Guardrail"),
    ("ABTest", "spec.metrics.1.source", "Outcomes", "spec.metrics[1].source", "errorRate comes from Envoy"),
    ("ABTest", "spec.metrics.1.direction", "Increase", "spec.metrics[1].direction", "set direction: Decrease"),
    (
        "ABTest",
        "spec.metrics.0.minimumDetectableEffect",
        2,
        "spec.metrics[0].minimumDetectableEffect",
        "should be less than 1",
    ),
    ("ABTest", "spec.analysis", {"confidence": 95}, "spec.analysis.confidence", "should be less than 1"),
    ("ABTest", "spec.analysis", {"method": "Sequential"}, "spec.analysis.method", 'supported values: "FixedHorizon"'),
    ("ABTest", "spec.maxDuration", "100d", "spec.maxDuration", "write a duration from 10s to 2160h"),
    # Route
    ("Route", "spec.backends.0.percent", 20, "spec.backends", "have to sum to 100; change percent"),
    ("Route", "spec.backends.0.percent", -10, "spec.backends[0].percent", "greater than or equal to 0"),
    ("Route", "spec.backends.0.workload", "connect4-b", "spec.backends", "two backends name one workload"),
    ("Route", "spec.backends.0.workload", "Connect4", "spec.backends[0].workload", "write the name of a workload"),
    ("Route", "spec.timeout", "0s", "spec.timeout", "write a duration from 1s to 1h"),
]


def make(kind: str) -> dict[str, Any]:
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": "connect4"},
        "spec": copy.deepcopy(SPECS[kind]),
    }


def change(manifest: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    target: Any = manifest
    for part in parents:
        target = target[part]
    if value is DELETE:
        del target[last]
    else:
        target[last] = copy.deepcopy(value)


@pytest.mark.parametrize("kind", SPECS)
def test_the_good_object_that_the_bad_ones_are_made_of_is_accepted(api, kind):
    answer = api.try_create(make(kind))
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize(
    ("kind", "path", "value", "field", "remedy"),
    BAD,
    ids=[f"{kind}-{path}-{index}" for index, (kind, path, *_) in enumerate(BAD)],
)
def test_a_bad_object_is_refused_with_field_and_remedy(api, kind, path, value, field, remedy):
    manifest = make(kind)
    change(manifest, path, value)
    answer = api.try_create(manifest)
    assert answer.status_code in {400, 422}, answer.text
    message = answer.json()["message"]
    assert field in message
    assert remedy in message
    assert "evaluation error" not in message
    assert "no such key" not in message


def test_an_explicit_null_counts_as_not_written(api):
    manifest = make("Deployment")
    manifest["spec"]["strategy"] = None
    manifest["spec"]["analysis"]["window"] = None
    answer = api.try_create(manifest)
    assert answer.status_code == 201, answer.text
    assert answer.json()["spec"]["strategy"] == {"type": "Canary"}
    assert "window" not in answer.json()["spec"]["analysis"]


def test_a_whole_number_is_a_quantity_too(api):
    manifest = make("Deployment")
    manifest["spec"]["serving"]["resources"] = {"cpu": 2, "memory": "1.5Gi"}
    assert api.try_create(manifest).status_code == 201


def test_a_deployment_name_at_the_limit_is_accepted(api):
    manifest = make("Deployment")
    manifest["metadata"]["name"] = "d" * 46
    assert api.try_create(manifest).status_code == 201


def test_a_route_without_backends_is_accepted(api):
    manifest = make("Route")
    manifest["spec"]["backends"] = []
    assert api.try_create(manifest).status_code == 201
