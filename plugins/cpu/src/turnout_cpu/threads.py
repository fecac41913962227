"""How many threads an operator is spread over where nobody says.

ONNX Runtime left to itself counts the machine's cores, whether this process may use them or not, and ties a thread to each: one that shares
its core with a busy process then keeps all others waiting, with another core idle. Told a number it ties none.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["usable_cores"]

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may keep busy, 1 at least: those of its affinity, as far as its control group's quota goes.

    0 where the system has no standard way to tell, which is ONNX Runtime's own count.
    """
    if not hasattr(os, "sched_getaffinity"):
        return 0
    cores = _cores(frozenset(os.sched_getaffinity(0)))
    return max(1, min([cores, *(int(quota) for quota in _quotas(_own_group()))]))


@functools.cache
def _cores(processors: frozenset[int]) -> int:
    """Of processors that share a core one counts: their products would wait for each other."""
    return len({_siblings(one) for one in processors})


def _siblings(processor: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list").read_text("ascii")
    except OSError:
        return str(processor)


def _own_group() -> Path:
    """This process's control group (version 2)."""
    try:
        rows = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        rows = []
    return _CGROUPS / next((row[3:].lstrip("/") for row in rows if row.startswith("0::")), "")


def _quotas(group: Path) -> Iterator[float]:
    """Processors that the group, and each that it lies in, may keep busy at once."""
    for folder in (group, *group.parents):
        try:
            quota, period = (folder / "cpu.max").read_text("ascii").split()
            yield int(quota) / int(period)
        except (OSError, ValueError):  # no such group, or "max"
            continue
