"""How many threads to compute with, where nobody says.

llama.cpp's threads wait for each other after every operator, so all of them are as slow as the one that another program keeps from its
core. One core is left free for others, processors that are one core's second thread are not counted, and a share of a machine (affinity,
cgroups) counts as what it is. `turnout_llamacpp.library` also lets those that wait sleep rather than spin, which matters more.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["default_threads"]

_CGROUP = Path("/sys/fs/cgroup/cpu.max")


def default_threads() -> int:
    """Physical cores that this process may use, less one, and at least one."""
    return max(1, int(min(_physical(_usable()), _quota())) - 1)


def _usable() -> frozenset[int]:
    """The processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _physical(usable: frozenset[int]) -> int:
    """Cores among them; where the system does not tell which processors share one, half of more than four are taken for seconds."""
    cores = set()
    for processor in usable:
        siblings = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text(encoding="ascii").strip())
        except OSError:
            return len(usable) if len(usable) <= 4 else len(usable) // 2
    return len(cores)


def _quota() -> float:
    """Processors' worth of time that a cgroup leaves us."""
    try:
        quota, period = _CGROUP.read_text(encoding="ascii").split()
        return max(1.0, float(quota) / float(period))
    except (OSError, ValueError):  # none, or "max"
        return float("inf")
