"""Asynchronous copies of a thread: cp.async (PTX ISA, section 9.7.9.25.3).

What a copy will write is marked as in flight until somebody has waited for it in the way the copy asked for; reading it before is
reported. The bytes are written when they are waited for, so that even an unreported early read finds no data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from turnout_cudasim.access import IN_FLIGHT, WRITTEN, check_shared_write, check_written, locate
from turnout_cudasim.threads import Threads

__all__ = ["copy_async", "copy_commit", "copy_wait"]

POISON = 0xFF


@dataclass
class Pending:
    """One cp.async of some threads: `group` counts the commits before it."""

    threads: Any
    group: Any
    to: Any  # bytes of the batch's shared memory
    source: Any  # bytes of the arena
    size: int
    kept: Any  # bytes that come from the source; the rest becomes zero


class Copies:
    """The cp.async copies of a batch."""

    def __init__(self, count: int) -> None:
        self.commits = np.zeros(count, np.int64)
        self.pending: list[Pending] = []


def copies_of(t: Threads) -> Copies:
    if t.batch.copies is None:
        t.batch.copies = Copies(t.batch.count)
    found: Copies = t.batch.copies
    return found


def copy_async(t: Threads, to: Any, source: Any, size: int, kept: Any, site: int) -> None:
    """cp.async: 4, 8 or 16 bytes from global to shared memory, the bytes from `kept` on as zero."""
    copies = copies_of(t)
    to, source = t.spread(to), t.spread(source)
    if getattr(kept, "ndim", 0) or int(kept) != size:
        kept = np.minimum(t.spread(kept).astype(np.int64), size)
        reading = np.flatnonzero(kept > 0)
    else:
        kept, reading = None, None
    if reading is None or reading.size:
        reader = t if reading is None else t.take(reading)
        place = locate(reader, "global", source if reading is None else source[reading], size, site)
        assert place is not None
        if kept is None or int(kept.min()) == size:
            check_written(reader, place[1], size, site)
        if t.batch.earlier is not None:
            t.batch.earlier.touch(reader, place[1], size, site, writes=False)
    target = locate(t, "shared", to, size, site)
    assert target is not None
    index = t.spread(target[1])
    check_shared_write(t, index, size, site, None, "u4")
    fill(t.batch.shared, index, size, POISON)
    fill(t.batch.shared_state, index, size, IN_FLIGHT)
    copies.pending.append(Pending(t.index, copies.commits[t.index], index, source - t.batch.memory.base, size, kept))


def fill(array: Any, index: Any, size: int, value: int) -> None:
    """Bytes of one value, in words as wide as may be."""
    width = min(size, 8)
    word = int.from_bytes(bytes([value]) * width, "little")
    array.view(f"u{width}").reshape(-1, size // width)[index // size] = word


def copy_commit(t: Threads) -> None:
    """The copies so far are a group."""
    copies_of(t).commits[t.index] += 1


def copy_wait(t: Threads, left: int | None) -> None:
    """Wait until at most `left` groups are under way; None: for every copy, committed or not."""
    copies = copies_of(t)
    limit = np.full(t.batch.count, -1, np.int64)
    limit[t.index] = np.iinfo(np.int64).max if left is None else copies.commits[t.index] - left
    land(t, copies, limit)


def land(t: Threads, copies: Copies, limit: Any) -> list[tuple[Any, int]]:
    """Finish the copies of groups below `limit`; returns the bytes they wrote as (first bytes, size)."""
    landed = []
    still = []
    for copy in copies.pending:
        done = copy.group < limit[copy.threads]
        if not done.any():
            still.append(copy)
            continue
        if not done.all():
            rest = ~done
            kept = None if copy.kept is None else copy.kept[rest]
            still.append(Pending(copy.threads[rest], copy.group[rest], copy.to[rest], copy.source[rest], copy.size, kept))
            kept = None if copy.kept is None else copy.kept[done]
            copy = Pending(copy.threads[done], copy.group[done], copy.to[done], copy.source[done], copy.size, kept)
        _perform(t, copy)
        landed.append((copy.to, copy.size))
    copies.pending = still
    return landed


def _perform(t: Threads, copy: Pending) -> None:
    batch = t.batch
    size = copy.size
    if copy.kept is None:
        width = min(size, 8)
        per = size // width
        data = batch.memory.views[f"u{width}"]
        rows = data[: data.size // per * per].reshape(-1, per).take(copy.source // size, axis=0)
        batch.view("shared", f"u{width}").reshape(-1, per)[copy.to // size] = rows
    else:
        inside = np.arange(size) < copy.kept[:, None]
        source = np.where(inside, copy.source[:, None] + np.arange(size), 0)
        batch.shared.reshape(-1, size)[copy.to // size] = np.where(inside, batch.memory.bytes.take(source), 0)
    fill(batch.shared_state, copy.to, size, WRITTEN)
