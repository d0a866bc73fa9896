"""Where pods run: the user's wishes, and what a GPU needs beside its resource."""

from typing import Any

from tidegate.api.base import Scheduling

__all__ = ["GPU", "place_pod"]

GPU = "nvidia.com/gpu"


def place_pod(scheduling: Scheduling, gpus: int, gpu_runtime_class: str | None) -> dict[str, Any]:
    """Return the fields of a pod's spec that say on which nodes it runs; GPU nodes usually carry a taint."""
    tolerations = [each.to_json() for each in scheduling.tolerations]
    if gpus:
        tolerations.append({"key": GPU, "operator": "Exists", "effect": "NoSchedule"})
    fields = {
        "nodeSelector": scheduling.node_selector,
        "tolerations": tolerations,
        "priorityClassName": scheduling.priority_class_name,
        "runtimeClassName": gpu_runtime_class if gpus else None,
    }
    return {name: value for name, value in fields.items() if value}
