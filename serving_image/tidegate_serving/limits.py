"""What the container may use, read from its control group (version 2, or 1 where the node still has it)."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["allowed_cores", "memory_limit"]

CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60
"""Version 1 writes "no limit" as a number near 2**63."""


def read(file: str, cgroup: Path) -> str | None:
    """The content of one file of the control group, or None."""
    try:
        return (cgroup / file).read_text().strip()
    except OSError:
        return None


def memory_limit(cgroup: Path = CGROUP) -> int | None:
    """Bytes that this container may use, or None without a limit."""
    text = read("memory.max", cgroup) or read("memory/memory.limit_in_bytes", cgroup)
    if text is None or not text.isdigit():
        return None
    return int(text) if int(text) < UNLIMITED else None


def allowed_cores(cgroup: Path = CGROUP) -> int:
    """Whole cores that this container may use: the quota rounded up, else the affinity of the process."""
    cores = len(os.sched_getaffinity(0))
    quota, _, period = (read("cpu.max", cgroup) or "").partition(" ")
    if not quota:
        quota = read("cpu/cpu.cfs_quota_us", cgroup) or ""
        period = read("cpu/cpu.cfs_period_us", cgroup) or ""
    if not quota.isdigit() or not period.isdigit():
        return cores
    return max(1, min(cores, math.ceil(int(quota) / int(period))))
