"""Loads and stores: where an address lies, whether it may be touched, and the bytes themselves.

An instruction's addresses are first checked together, by their least, their greatest and their common low bits; only where that
is not enough, one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from turnout_cudasim.memory import LOCAL_WINDOW, LOWEST_BASE, PARAMETER_WINDOW, SHARED_WINDOW
from turnout_cudasim.report import Kind
from turnout_cudasim.threads import Threads

__all__ = ["is_in_space", "load", "load_vector", "store", "store_vector"]

RANK_SHIFT = 24  # a shared::cluster address is (rank + 1) << 24 | offset; rank + 1 == 0 means one's own block
NEVER, WRITTEN, IN_FLIGHT = 0, 1, 2
ALL_WRITTEN: dict[int, Any] = {1: np.uint8(1), 2: np.uint16(0x0101), 4: np.uint32(0x01010101), 8: np.uint64(0x0101010101010101)}
WINDOW_SIZE = 1 << 32


def is_in_space(t: Threads, address: Any, space: str) -> Any:
    """Whether generic addresses lie in a state space."""
    if space == "global":
        return address >= LOWEST_BASE
    if space == "shared":  # one's own; that of all blocks of the cluster is "cluster"
        own = (t.special["cluster_ctarank"].astype(np.int64) + 1) << RANK_SHIFT
        offset = (address - SHARED_WINDOW) & ~np.int64((1 << RANK_SHIFT) - 1)
        return (offset == 0) | (offset == own)
    window = {"cluster": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAMETER_WINDOW}.get(space)
    return np.bool_(False) if window is None else (address >= window) & (address < window + WINDOW_SIZE)


def load(t: Threads, space: str, code: str, address: Any, site: int, volatile: bool = False) -> Any:
    """One value per thread."""
    size = int(code[1])
    place = locate(t, space, address, size, site)
    if place is None:
        return _by_space(t, code, 1, address, site, volatile)[0]
    name, index = place
    if name == "global":
        _check_written(t, index, size, site)
        view = t.batch.memory.views[code]
    else:
        if name == "shared":
            check_shared_read(t, index, size, site, volatile)
        view = t.batch.view(name, code)
    shift = size.bit_length() - 1
    return view[int(index) >> shift] if not getattr(index, "ndim", 0) else view.take(index >> shift)


def load_vector(t: Threads, space: str, code: str, count: int, address: Any, site: int, volatile: bool = False) -> tuple[Any, ...]:
    """`count` neighbouring values per thread."""
    size = int(code[1])
    total = size * count
    place = locate(t, space, address, total, site)
    if place is None:
        return _by_space(t, code, count, address, site, volatile)
    name, index = place
    if name == "global":
        _check_written(t, index, total, site)
        view = t.batch.memory.views[code]
    else:
        if name == "shared":
            check_shared_read(t, index, total, site, volatile)
        view = t.batch.view(name, code)
    first = index // size
    if not getattr(index, "ndim", 0):
        at = int(first)
        return tuple(view[at : at + count])
    rows = view[: view.size // count * count].reshape(-1, count).take(index // total, axis=0)
    return tuple(np.ascontiguousarray(rows.T))


def store(t: Threads, space: str, code: str, address: Any, value: Any, site: int, volatile: bool = False) -> None:
    """One value per thread; where threads share an address, one of them wins."""
    store_vector(t, space, code, address, (value,), site, volatile)


def store_vector(t: Threads, space: str, code: str, address: Any, values: tuple[Any, ...], site: int, volatile: bool = False) -> None:
    """Neighbouring values of every thread."""
    size = int(code[1])
    total = size * len(values)
    place = locate(t, space, address, total, site)
    if place is None:
        _store_by_space(t, code, address, values, site, volatile)
        return
    name, index = place
    batch = t.batch
    if name == "global":
        _mark_written(t, index, total)
        view = batch.memory.views[code]
    else:
        if name == "parameters":
            t.fault(Kind.OUT_OF_BOUNDS, site, "writes to a kernel parameter")
        if name == "shared":
            check_shared_write(t, index, total, site, values, code, volatile)
        view = batch.view(name, code)
    first = index // size if size > 1 else index
    for n, value in enumerate(values):
        at = first + n if n else first
        if not getattr(at, "ndim", 0):
            view[int(at)] = value if not getattr(value, "ndim", 0) else value[-1]
        else:
            view[at] = value


# ---- where


def locate(t: Threads, space: str, address: Any, size: int, site: int) -> tuple[str, Any] | None:
    """The memory that the addresses lie in, and the index of their first byte there, checked. None: they lie in several."""
    if getattr(address, "ndim", 0):
        low, high = int(address.min()), int(address.max())
        low_bits = int(np.bitwise_or.reduce(address))
    else:
        low = high = low_bits = int(address)
    if space == "generic":
        found = window_of(low)
        if found != window_of(high):
            return None
        space = found
        if space != "global":
            offset = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAMETER_WINDOW}[space]
            address, low, high = address - offset, low - offset, high - offset
    elif space == "param" and low >= PARAMETER_WINDOW:
        address, low, high = address - PARAMETER_WINDOW, low - PARAMETER_WINDOW, high - PARAMETER_WINDOW
    if low_bits & (size - 1):
        _misaligned(t, address, size, site)
    batch = t.batch
    if space == "global":
        owner = batch.owner
        if owner is None or owner.freed or low < owner.address or high + size > owner.end:
            owner = batch.memory.allocation(low)
            if owner is None or owner.freed or high + size > owner.end:
                _check_each(t, address, size, site)
            batch.owner = owner
        return "global", address - batch.memory.base
    if space in ("shared", "cluster"):
        if high >> RANK_SHIFT:
            return "shared", remote_index(t, address, size, site)
        if low < 0 or high + size > batch.shared_bytes:
            _outside(t, address, size, batch.shared_bytes, "shared", site)
        return "shared", address + t.shared_base
    if space == "local":
        if low < 0 or high + size > batch.local_bytes:
            _outside(t, address, size, batch.local_bytes, "local", site)
        return "local", address + t.local_base
    if low < 0 or high + size > batch.parameter_bytes:
        _outside(t, address, size, batch.parameter_bytes, "parameter", site)
    return "parameters", address


def window_of(address: int) -> str:
    """The state space of a generic address."""
    if address >= LOWEST_BASE:
        return "global"
    if address >= PARAMETER_WINDOW:
        return "param"
    if address >= LOCAL_WINDOW:
        return "local"
    return "shared" if address >= SHARED_WINDOW else "global"  # null pointers are reported as what they were meant for


def remote_index(t: Threads, address: Any, size: int, site: int) -> Any:
    """Shared memory of other blocks of the cluster."""
    batch = t.batch
    address = t.spread(address)
    rank = (address >> RANK_SHIFT) - 1
    offset = address & ((1 << RANK_SHIFT) - 1)
    bad = (rank >= batch.cluster_size) | (offset + size > batch.shared_bytes)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        t.fault(Kind.OUT_OF_BOUNDS, site, f"{size} bytes at shared address {int(address[at]):#x}, which no block of the cluster has", at)
    own = t.block_row
    row = np.where(rank < 0, own, own // batch.cluster_size * batch.cluster_size + rank)
    return offset + row * batch.shared_stride


def _by_space(t: Threads, code: str, count: int, address: Any, site: int, volatile: bool) -> tuple[Any, ...]:
    """Generic loads whose addresses lie in several spaces: one space after the other."""
    results = tuple(np.zeros(t.count, code) for _ in range(count))
    for chosen in _groups(address):
        for result, value in zip(
            results, load_vector(t.take(chosen), "generic", code, count, address[chosen], site, volatile), strict=True
        ):
            result[chosen] = value
    return results


def _store_by_space(t: Threads, code: str, address: Any, values: tuple[Any, ...], site: int, volatile: bool) -> None:
    for chosen in _groups(address):
        some = tuple(t.spread(v)[chosen] for v in values)
        store_vector(t.take(chosen), "generic", code, address[chosen], some, site, volatile)


def _groups(address: Any) -> list[Any]:
    edges = np.array([SHARED_WINDOW, LOCAL_WINDOW, PARAMETER_WINDOW, LOWEST_BASE])
    which = np.searchsorted(edges, address, side="right")
    return [np.flatnonzero(which == n) for n in np.unique(which)]


# ---- whether


def _misaligned(t: Threads, address: Any, size: int, site: int) -> None:
    address = t.spread(address)
    at = int(np.flatnonzero(address & (size - 1))[0])
    t.fault(Kind.MISALIGNED, site, f"{size} bytes at {int(address[at]):#x}, which is no multiple of {size}", at)


def _outside(t: Threads, address: Any, size: int, limit: int, what: str, site: int) -> None:
    address = t.spread(address)
    at = int(np.flatnonzero((address < 0) | (address + size > limit))[0])
    message = f"{_verb(t, site)} {size} bytes at offset {int(address[at])} of {what} memory, which has {limit} bytes"
    t.fault(Kind.OUT_OF_BOUNDS, site, message, at)


def _verb(t: Threads, site: int) -> str:
    name = t.batch.translation.instructions[site].name
    return "reads" if name in ("ld", "ldu", "ldmatrix") else "writes" if name in ("st", "stmatrix") else "touches"


def _check_each(t: Threads, address: Any, size: int, site: int) -> None:
    """Every address must lie in some live allocation."""
    memory = t.batch.memory
    addresses = t.spread(address)
    known: list[tuple[int, int]] = []
    unknown = np.ones(len(addresses), bool)
    while unknown.any():
        at = int(unknown.argmax())
        here = int(addresses[at])
        owner = memory.allocation(here)
        if owner is None or owner.freed or here + size > owner.end:
            kind = Kind.USE_AFTER_FREE if owner is not None and owner.freed else Kind.OUT_OF_BOUNDS
            where = memory.describe(here if owner is None or owner.freed else owner.end)
            if owner is not None and not owner.freed:
                where = f"across the end of {owner.name}"
            t.fault(kind, site, f"{_verb(t, site)} {size} bytes {where}", at)
            return
        known.append((owner.address, owner.end))
        unknown &= ~((addresses >= owner.address) & (addresses + size <= owner.end))


def _check_written(t: Threads, index: Any, size: int, site: int) -> None:
    """Global memory that is read must have been written."""
    batch = t.batch
    owner = batch.owner
    if owner is not None and owner.written and _within(index, size, owner, batch.memory.base):
        return
    found = _unwritten(batch.memory.written_views, index, size)
    if found is not None and batch.fault_limit(site):
        at = int(found)
        address = int(np.ravel(index)[at]) + batch.memory.base
        holder = batch.memory.allocation(address)
        if holder is not None and not holder.written:
            t.fault(Kind.NEVER_WRITTEN, site, f"reads {size} bytes that nobody wrote, {batch.memory.describe(address)}", at)


def _within(index: Any, size: int, owner: Any, base: int) -> bool:
    """Whether a whole access lies in `owner` (one instruction may touch several allocations)."""
    if not getattr(index, "ndim", 0):
        return bool(owner.address <= int(index) + base and int(index) + base + size <= owner.end)
    return True if owner is None else bool(int(index.min()) + base >= owner.address and int(index.max()) + base + size <= owner.end)


def _unwritten(views: dict[str, Any], index: Any, size: int) -> int | None:
    """The first access to bytes whose state is not "written"."""
    width = min(size, 8)
    states = views[f"u{width}"]
    whole = ALL_WRITTEN[width]
    for part in range(size // width):
        first = index // width + part
        if not getattr(first, "ndim", 0):
            if states[int(first)] != whole:
                return 0
            continue
        bad = states.take(first) != whole
        if bad.any():
            return int(bad.argmax())
    return None


def _mark_written(t: Threads, index: Any, size: int) -> None:
    batch = t.batch
    owner = batch.owner
    if owner is not None and owner.written and _within(index, size, owner, batch.memory.base):
        return
    width = min(size, 8)
    states = batch.memory.written_views[f"u{width}"]
    for part in range(size // width):
        states[index // width + part] = ALL_WRITTEN[width]
    if owner is not None:
        batch.touched.add(owner.address)


def check_shared_read(t: Threads, index: Any, size: int, site: int, volatile: bool = False) -> None:
    """Shared memory that is read must have been written, have arrived, and not be somebody's who is still at it."""
    batch = t.batch
    found = _unwritten(batch.shared_state_views, index, size)
    if found is not None and batch.fault_limit(site):
        at = int(np.ravel(index)[found])
        offset = at % batch.shared_stride
        states = batch.shared_state[at : at + size]
        if (states == IN_FLIGHT).any():
            message = f"reads {size} bytes at offset {offset} of shared memory, which an asynchronous copy is still writing"
            t.fault(Kind.UNWAITED_COPY, site, message, found)
        else:
            t.fault(Kind.NEVER_WRITTEN, site, f"reads {size} bytes at offset {offset} of shared memory that nobody wrote", found)
    races = batch.races
    if races is not None and not volatile:
        raced = races.read(t, t.spread(index), size)
        if raced is not None and batch.fault_limit(site):
            _race(t, raced, index, size, site, "reads")


def check_shared_write(
    t: Threads, index: Any, size: int, site: int, values: tuple[Any, ...] | None, code: str, volatile: bool = False
) -> None:
    """Note the write, and look for races; writing the value that is already there harms nobody."""
    batch = t.batch
    width = min(size, 8)
    states = batch.shared_state_views[f"u{width}"]
    for part in range(size // width):
        states[index // width + part] = ALL_WRITTEN[width]
    races = batch.races
    if races is None or volatile:
        return
    index = t.spread(index)
    raced = races.write(t, index, size)
    if values is None:
        if raced is not None and batch.fault_limit(site):
            _race(t, raced, index, size, site, "writes")
        return
    if raced is not None:
        raced = raced & _changes(t, index, values, code)
        if raced.any() and batch.fault_limit(site):
            _race(t, raced, index, size, site, "writes")
    elif len(values) == 1:
        _check_same_instruction(t, index, size, site, values[0], code)


def _changes(t: Threads, index: Any, values: tuple[Any, ...], code: str) -> Any:
    view = t.batch.view("shared", code)
    first = index // int(code[1])
    return np.logical_or.reduce([view[first + n] != value for n, value in enumerate(values)])


def _check_same_instruction(t: Threads, index: Any, size: int, site: int, value: Any, code: str) -> None:
    """Two warps that store different values to one place with the same instruction."""
    races = t.batch.races
    assert races is not None
    unit = index // races.granule
    other = (races.writer.take(unit) & 1023) != t.warp_row % races.warps
    if not other.any():
        return
    view = t.batch.view("shared", code)
    at = index // size
    before = view[at]
    view[at] = value
    lost = other & (view[at] != value)
    view[at] = before
    if lost.any() and t.batch.fault_limit(site):
        _race(t, lost, index, size, site, "writes")


def _race(t: Threads, raced: Any, index: Any, size: int, site: int, verb: str) -> None:
    batch = t.batch
    assert batch.races is not None
    at = int(raced.argmax())
    offset = int(np.ravel(index)[at]) % batch.shared_stride
    other = batch.races.other_party(t, at, index, size)
    message = f"warp {int(t.warp_row[at]) % batch.warps} {verb} {size} bytes at offset {offset} of shared memory; no barrier since {other}"
    t.fault(Kind.SHARED_RACE, site, message, at)
