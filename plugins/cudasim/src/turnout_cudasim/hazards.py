"""Races in shared memory, found by happened-before: each warp has a vector clock, each piece of memory remembers who touched it.

A warp's clock says how much of every other warp's work it has seen; barriers join the clocks of those who meet. An access races with an
earlier one by another warp that the clock has not seen (FastTrack, Flanagan and Freund, 2009). Within a warp nothing is checked. The unit
of memory is the kernel's smallest access; the last writer is kept for each, and every warp's last read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from turnout_cudasim.threads import Threads

WARP_BITS = 10
WARP_MASK = (1 << WARP_BITS) - 1


class Races:
    """The records of one batch. A *group* is what shares memory: a block, or a cluster; its warps are numbered from 0."""

    def __init__(self, groups: int, warps: int, shared_bytes: int, granule: int) -> None:
        self.warps, self.granule = warps, granule
        units = shared_bytes // granule
        self.clocks = np.zeros((groups, warps, warps), np.int32)
        self.clocks[:, np.arange(warps), np.arange(warps)] = 1
        self.writer = np.zeros(units, np.int32)  # clock and warp of the last write; 0: none
        self.atomic = np.zeros(units, np.int32)  # the same for atomics
        self.readers = np.zeros((units, warps), np.int32)  # each warp's clock at its last read
        self.any_atomics = False

    def _unseen(self, tags: Any, rows: Any) -> Any:
        """Which of these accesses the warps in `rows` have not seen."""
        if tags.ndim > 1:
            rows = rows[:, None]
        seen = self.clocks.ravel().take(rows * self.warps + (tags & WARP_MASK))
        return seen < tags >> WARP_BITS

    def _units(self, index: Any, size: int) -> Any:
        """Units of accesses of `size` bytes at byte `index`; several columns for accesses of several units."""
        first = index // self.granule
        count = max(1, size // self.granule)
        return first if count == 1 else first[:, None] + np.arange(count)

    def read(self, t: Threads, index: Any, size: int) -> Any:
        """Note reads by threads `t` at bytes `index`; a mask of those that race with a write, or None."""
        rows, units = t.warp_row, self._units(index, size)
        found = self._unseen(self.writer.take(units), rows)
        if self.any_atomics:
            found |= self._unseen(self.atomic.take(units), rows)
        column = rows % self.warps
        now = self.clocks.ravel().take(rows * self.warps + column)
        if units.ndim > 1:
            column, now = column[:, None], now[:, None]
        self.readers.ravel()[units * self.warps + column] = now
        return _any(found)

    def write(self, t: Threads, index: Any, size: int, *, atomic: bool = False) -> Any:
        """Note writes; a mask of those that race with a write or read, or None."""
        rows, units = t.warp_row, self._units(index, size)
        column = rows % self.warps
        found = self._unseen(self.writer.take(units), rows)
        seen = self.clocks.reshape(-1, self.warps).take(rows, axis=0)
        if units.ndim > 1:
            seen = seen[:, None, :]
        late = self.readers.take(units, axis=0) > seen
        found |= late.any(-1)
        now = self.clocks.ravel().take(rows * self.warps + column)
        tag = (now << WARP_BITS | column).astype(np.int32)
        if units.ndim > 1:
            tag = tag[:, None]
        if atomic:
            self.any_atomics = True
            self.atomic[units] = tag
        else:
            if self.any_atomics:
                found |= self._unseen(self.atomic.take(units), rows)
            self.writer[units] = tag
        return _any(found)

    def other_party(self, t: Threads, at: int, index: Any, size: int) -> str:
        """Who else touched the memory of access number `at`, for a report."""
        unit = int(np.ravel(index)[at]) // self.granule
        row = int(t.warp_row[at])
        mine = row % self.warps
        writer = int(self.writer[unit])
        if writer and writer & WARP_MASK != mine:
            return f"warp {writer & WARP_MASK} wrote it"
        readers = np.flatnonzero(self.readers[unit] > self.clocks.reshape(-1, self.warps)[row])
        return f"warp {int(readers[0])} read it" if readers.size else "another warp changed it atomically"

    # ---- who has seen whom

    def join(self, groups: Any) -> None:
        """Every warp of these groups meets every other."""
        met = self.clocks[groups].max(1, keepdims=True)
        self._advance(groups, np.broadcast_to(met, self.clocks[groups].shape).copy())

    def _advance(self, groups: Any, clocks: Any) -> None:
        own = np.arange(self.warps)
        clocks[:, own, own] += 1
        self.clocks[groups] = clocks

    def join_rows(self, rows: Any, extra: Any = None) -> Any:
        """Some warps meet (and learn what `extra` knows); returns what they know together."""
        flat = self.clocks.reshape(-1, self.warps)
        met = flat[rows].max(0)
        if extra is not None:
            met = np.maximum(met, extra)
        flat[rows] = met
        flat[rows, rows % self.warps] += 1
        return met

    def publish(self, rows: Any) -> Any:
        """What these warps know, for somebody who will wait for them; their later work is news again."""
        flat = self.clocks.reshape(-1, self.warps)
        known = flat[rows].max(0).copy()
        flat[rows, rows % self.warps] += 1
        return known

    def learn(self, rows: Any, known: Any) -> None:
        """These warps have waited for somebody who published `known`."""
        flat = self.clocks.reshape(-1, self.warps)
        flat[rows] = np.maximum(flat[rows], known)


def _any(found: Any) -> Any:
    if not found.any():
        return None
    return found.any(1) if found.ndim > 1 else found
