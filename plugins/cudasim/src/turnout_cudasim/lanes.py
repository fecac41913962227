"""What the lanes of a warp do together: shuffles, votes, matches, reductions (PTX ISA, section 9.7.9.6 and 9.7.13)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from turnout_cudasim.report import Kind
from turnout_cudasim.threads import Threads

__all__ = ["active_mask", "check_mask", "elect", "match_all", "match_any", "reduce_lanes", "shuffle", "step_aside", "vote"]

u4, u8 = np.uint32, np.uint64
LANES = np.arange(32)
FULL = 0xFFFFFFFF


def _rows(t: Threads, value: Any) -> tuple[Any, Any, Any]:
    """(warp, lane) -> value for the warps of these threads, and where each thread finds itself: (rows, row of thread, active mask)."""
    warps, row = np.unique(t.warp_row, return_inverse=True)
    table = np.zeros((len(warps), 32), np.asarray(value).dtype)
    table[row, t.lane] = value
    active = np.zeros(len(warps), u4)
    np.bitwise_or.at(active, row, u4(1) << t.lane.astype(u4))
    return table, row, active


def active_mask(t: Threads) -> Any:
    """The lanes that run this together."""
    if t.whole_warps:
        return u4(FULL)
    _, row, active = _rows(t, 0)
    return active[row]


def check_mask(t: Threads, mask: Any, site: int) -> None:
    """The mask must name the lane itself, and be the same for all lanes it names."""
    if not getattr(mask, "ndim", 0) and int(mask) == FULL:
        return
    mask = t.spread(mask)
    own = (mask >> t.lane.astype(u4)) & u4(1)
    if not own.all():
        at = int((own == 0).argmax())
        t.fault(Kind.SHUFFLE_MASK, site, f"lane {int(t.lane[at])} is not in its own mask {int(mask[at]):#010x}", at)


def shuffle(t: Threads, mode: str, value: Any, by: Any, bounds: Any, mask: Any, site: int, want_range: bool = False) -> Any:
    """shfl.sync: the value of another lane, one's own where that lane is out of range; with `want_range`, also whether it was in range."""
    check_mask(t, mask, site)
    value = t.spread(value)
    if t.whole_warps and not getattr(by, "ndim", 0) and not getattr(bounds, "ndim", 0):
        source, inside = _plan(mode, int(by), int(bounds))
        result = value.reshape(-1, 32).take(source, axis=1).ravel()
        return (result, np.tile(inside, t.count // 32)) if want_range else result
    source, inside = _source_lanes(mode, t.lane, t.spread(by).astype(np.int64), t.spread(bounds).astype(np.int64))
    if t.whole_warps:
        result = value.take(np.arange(t.count) - t.lane + source)
        return (result, inside) if want_range else result
    table, row, active = _rows(t, value)
    absent = ((active[row] >> source.astype(u4)) & u4(1)) == 0
    if absent.any():
        at = int(absent.argmax())
        lanes = f"{int(active[row[at]]):#010x}"
        message = f"lane {int(t.lane[at])} reads from lane {int(source[at])}, which does not take part (active lanes {lanes})"
        t.fault(Kind.SHUFFLE_MASK, site, message, at)
    result = table[row, source]
    return (result, inside) if want_range else result


def _source_lanes(mode: str, lane: Any, by: Any, bounds: Any) -> tuple[Any, Any]:
    by = by & 31
    clamp, segment = bounds & 31, (bounds >> 8) & 31
    high = (lane & segment) | (clamp & ~segment)
    low = lane & segment
    if mode == "up":
        source = lane - by
        inside = source >= high
    elif mode == "down":
        source = lane + by
        inside = source <= high
    elif mode == "bfly":
        source = lane ^ by
        inside = source <= high
    else:
        source = low | (by & ~segment)
        inside = source <= high
    return np.where(inside, source, lane), inside


@lru_cache(maxsize=1024)
def _plan(mode: str, by: int, bounds: int) -> tuple[Any, Any]:
    return _source_lanes(mode, LANES, np.int64(by), np.int64(bounds))


def vote(t: Threads, mode: str, predicate: Any, mask: Any, site: int) -> Any:
    """vote.sync: ballot, all, any, uni over the lanes of the mask."""
    check_mask(t, mask, site)
    named = mask if not getattr(mask, "ndim", 0) else None
    if t.whole_warps:
        if not getattr(predicate, "ndim", 0):
            ballot: Any = u4(FULL if predicate else 0)
        else:
            packed = np.packbits(predicate.reshape(-1, 32), axis=1, bitorder="little").view(u4)
            ballot = np.repeat(packed.ravel(), 32)
        active: Any = u4(FULL)
    else:
        table, row, present = _rows(t, t.spread(predicate))
        ballot = np.packbits(table, axis=1, bitorder="little").view(u4).ravel()[row]
        active = present[row]
    voters = active & (mask if named is None else named)
    yes = ballot & voters
    if mode == "ballot":
        return yes
    if mode == "any":
        return yes != 0
    if mode == "all":
        return yes == voters
    return (yes == voters) | (yes == 0)


def match_any(t: Threads, value: Any, mask: Any, site: int) -> Any:
    """The lanes of the mask that hold the same value."""
    check_mask(t, mask, site)
    table, row, active = _rows(t, t.spread(value))
    same = table[:, :, None] == table[:, None, :]
    ballots = np.packbits(same, axis=2, bitorder="little").view(u4)[:, :, 0]
    return ballots[row, t.lane] & active[row] & mask


def match_all(t: Threads, value: Any, mask: Any, site: int) -> tuple[Any, Any]:
    """The mask and true if all its lanes hold the same value, else 0 and false."""
    check_mask(t, mask, site)
    agreed = (match_any(t, value, mask, site) ^ (active_mask(t) & mask)) == 0
    return np.where(agreed, mask, u4(0)), np.broadcast_to(agreed, (t.count,))


REDUCTIONS = {
    "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "fmin": np.fmin, "fmax": np.fmax,
}  # fmt: skip


def reduce_lanes(t: Threads, operation: str, value: Any, mask: Any, site: int) -> Any:
    """redux.sync: one value for all lanes that name the same mask."""
    check_mask(t, mask, site)
    value, mask = t.spread(value), t.spread(mask)
    if t.whole_warps and (mask == u4(FULL)).all():
        return np.repeat(REDUCTIONS[operation].reduce(value.reshape(-1, 32), axis=1, dtype=value.dtype), 32)
    key = t.warp_row.astype(u8) << u8(32) | mask.astype(u8)
    _, group = np.unique(key, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0])
    totals = REDUCTIONS[operation].reduceat(value[order], starts)
    return totals[group].astype(value.dtype)


def elect(t: Threads, mask: Any, site: int) -> tuple[Any, Any]:
    """elect.sync: the lowest lane of the mask, and whether one is it."""
    check_mask(t, mask, site)
    mask = t.spread(mask) & active_mask(t)
    leader = np.bitwise_count((mask & (~mask + u4(1))) - u4(1)).astype(u4)
    return leader, leader == t.lane


def step_aside(t: Threads) -> None:
    """Let other threads go first."""
    t.batch.aside = True
