"""Kernels behind programmatic edges: what they touch before griddepcontrol.wait must not be what an earlier kernel may still be at.

A kernel of a graph behind such an edge starts, on a GPU, while the kernels before it may be running: all of the chain of programmatic edges
that leads to it, as each of them may have let its next one start at once. In the simulator they have ended; so that the missing wait
is found all the same, each piece of global memory remembers which launch of the graph wrote it last, and which read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from turnout_cudasim.report import Kind

if TYPE_CHECKING:
    from turnout_cudasim.memory import Memory
    from turnout_cudasim.threads import Threads

__all__ = ["await_earlier"]

GRANULE = 4  # bytes of global memory that are remembered together


class Traces:
    """Who wrote and who read device memory: the number of the launch, for launches of graphs with programmatic edges. 0: nobody."""

    def __init__(self, memory: Memory) -> None:
        self.writer, self.reader = (np.zeros(memory.size // GRANULE + 4, np.uint32) for _ in range(2))  # the pages come lazily
        self.names: dict[int, str] = {}


class Earlier:
    """One launch: `number` is its own, `pending` are those that may be running when it starts (both in a graph whose first is `first`)."""

    def __init__(self, traces: Traces, name: str, first: int, number: int, pending: Any) -> None:
        self.traces, self.first, self.number = traces, first, number
        traces.names[number] = name
        self.may_run = np.zeros(number - first + 1, bool)
        self.may_run[pending] = True
        self.any_pending = bool(len(pending))
        self.waited = not self.any_pending  # whether some thread of the launch has waited, and with it the launch's end

    def _running(self, tags: Any) -> Any:
        """Which of these launches may be running still."""
        place = tags.astype(np.int64) - self.first
        known = (place >= 0) & (place < len(self.may_run))
        return known & self.may_run[np.where(known, place, 0)]

    def touch(self, t: Threads, index: Any, size: int, site: int, *, writes: bool) -> None:
        """Threads access `size` bytes each at bytes `index` of the arena."""
        units = np.asarray(index) // GRANULE
        if size > GRANULE:
            units = units[..., None] + np.arange(size // GRANULE)
        if self.any_pending and not t.batch.waited[t.index].all():
            self._check(t, np.atleast_1d(index), units, size, site, writes)
        (self.traces.writer if writes else self.traces.reader)[units] = self.number

    def _check(self, t: Threads, index: Any, units: Any, size: int, site: int, writes: bool) -> None:
        rows = units.reshape(len(index), -1)
        written = self._running(self.traces.writer[rows])
        found = written | self._running(self.traces.reader[rows]) if writes else written
        wrong = found.any(1) & ~t.batch.waited[t.index][: len(index)]
        if not wrong.any() or not t.batch.fault_limit(site):
            return
        at = int(wrong.argmax())
        unit = int(rows[at, found[at].argmax()])
        by, verb = (self.traces.writer, "writes") if written[at].any() else (self.traces.reader, "reads")
        where = t.batch.memory.describe(int(index[at]) + t.batch.memory.base)
        other = f"which {self.traces.names[int(by[unit])]} {verb}"
        message = f"{'writes' if writes else 'reads'} {size} bytes {where}, {other}, before griddepcontrol.wait"
        t.fault(Kind.EARLY_ACCESS, site, message, at)

    def finish(self, t: Threads, site: int) -> None:
        """The launch ends."""
        if not self.waited:
            message = "no thread executes griddepcontrol.wait: what follows may start before what came before has ended"
            t.fault(Kind.EARLY_ACCESS, site, message)


def await_earlier(t: Threads) -> None:
    """griddepcontrol.wait"""
    earlier = t.batch.earlier
    if earlier is not None:
        t.batch.waited[t.index] = True
        earlier.waited = True
