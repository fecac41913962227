"""Loads and stores: where an address lies, whether it may be touched, and the bytes themselves.

An instruction's addresses are first checked together, by their least, their greatest and their common low bits, which the instructions
of a basic block share that use the same register; only where that is not enough, one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from turnout_cudasim.memory import LOCAL_WINDOW, LOWEST_BASE, PARAMETER_WINDOW, SHARED_WINDOW
from turnout_cudasim.report import Kind
from turnout_cudasim.threads import Threads

__all__ = ["Address", "is_in_space", "load", "load_vector", "store", "store_vector"]

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


class Address:
    """Where threads point to. Accesses at constant offsets from it share what is found out about it: least, greatest and low bits."""

    __slots__ = ("bits", "high", "low", "units", "value")

    def __init__(self, value: Any) -> None:
        self.value = value  # generic or of a state space, in bytes
        if value.ndim:
            self.low, self.high = int(value.min()), int(value.max())
            self.bits = int(np.bitwise_or.reduce(value))
        else:
            self.low = self.high = self.bits = int(value)
        self.units: dict[tuple[str, int], Any] = {}

    def unit(self, t: Threads, name: str, start: int, size: int) -> Any:
        """The index, in elements of `size` bytes, in the memory `name`, whose addresses begin at `start`."""
        found = self.units.get((name, size))
        if found is None:
            index = self.value - start if start else self.value
            if name in ("shared", "local"):
                index = index + (t.shared_base if name == "shared" else t.local_base)
            found = self.units[name, size] = index >> (size.bit_length() - 1) if size > 1 else index
        return found


Place = tuple[
    str, Any, int, bool
]  # the memory, the index of each thread's first element, an offset to add, whether all bytes are known written


def _place(t: Threads, space: str, at: Address, offset: int, size: int, count: int, site: int) -> Place | None:
    """Where `count` elements of `size` bytes lie, checked. None: in several state spaces."""
    found = _near(t, space, at, offset, size, size * count)
    if found is not None:
        return found
    place = locate(t, space, at.value + offset if offset else at.value, size * count, site)
    if place is None:
        return None
    name, index = place
    return name, index // size if size > 1 else index, 0, False


def _near(t: Threads, space: str, at: Address, offset: int, size: int, total: int) -> Place | None:
    """The same by the least and the greatest address alone; None where that cannot tell."""
    low, high = at.low + offset, at.high + offset
    if (at.bits | offset) & (total - 1):
        return None
    batch, start = t.batch, 0
    if space == "generic":
        space = window_of(low)
        if space != window_of(high):
            return None
        start = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAMETER_WINDOW}.get(space, 0)
    elif space == "param" and low >= PARAMETER_WINDOW:
        start = PARAMETER_WINDOW
    written = False
    if space == "global":
        owner, start, limit = batch.owner, batch.memory.base, 0
        if owner is None or owner.closed or low < owner.address or high + total > owner.end:
            return None
        written = owner.written
    else:
        limit = batch.shared_bytes if space in ("shared", "cluster") else batch.local_bytes if space == "local" else batch.parameter_bytes
        if low < start or high - start + total > limit:
            return None
    name = {"cluster": "shared", "param": "parameters"}.get(space, space)
    first, more = at.unit(t, name, start, size), offset // size
    return (name, first, more, written) if at.low >= start else (name, first + more, 0, written)  # no index may be below zero


def load(t: Threads, space: str, code: str, at: Address, offset: int, site: int, volatile: bool = False) -> Any:
    """One value per thread."""
    size = int(code[1])
    place = _place(t, space, at, offset, size, 1, site)
    if place is None:
        return _by_space(t, code, 1, at.value + offset, site, volatile)[0]
    view = _readable(t, place, code, 1, site, volatile)
    _, first, more, _ = place
    if not first.ndim:
        return view[int(first) + more]
    return view[more:].take(first) if more >= 0 else view.take(first + more)


def load_vector(
    t: Threads, space: str, code: str, count: int, at: Address, offset: int, site: int, volatile: bool = False
) -> tuple[Any, ...]:
    """`count` neighbouring values per thread."""
    place = _place(t, space, at, offset, int(code[1]), count, site)
    if place is None:
        return _by_space(t, code, count, at.value + offset, site, volatile)
    view = _readable(t, place, code, count, site, volatile)
    _, first, more, _ = place
    if not first.ndim:
        start = int(first) + more
        return tuple(view[start : start + count])
    rows = view[: view.size // count * count].reshape(-1, count).take((first + more) // count, axis=0)
    return tuple(np.ascontiguousarray(rows.T))


def _readable(t: Threads, place: Place, code: str, count: int, site: int, volatile: bool) -> Any:
    """The memory of a place, as an array of a type; reads of what nobody wrote, and races, are reported."""
    name, first, more, written = place
    size = int(code[1])
    if name == "global":
        if not written:
            check_written(t, (first + more) * size, size * count, site)
        if t.batch.earlier is not None:
            t.batch.earlier.touch(t, (first + more) * size, size * count, site, writes=False)
        return t.batch.memory.views[code]
    if name == "shared":
        check_shared_read(t, (first + more) * size, size * count, site, volatile)
    return t.batch.view(name, code)


def store(t: Threads, space: str, code: str, at: Address, offset: int, value: Any, site: int, volatile: bool = False) -> None:
    """One value per thread; where threads share an address, one of them wins."""
    store_vector(t, space, code, at, offset, (value,), site, volatile)


def store_vector(
    t: Threads, space: str, code: str, at: Address, offset: int, values: tuple[Any, ...], site: int, volatile: bool = False
) -> None:
    """Neighbouring values of every thread."""
    size = int(code[1])
    total = size * len(values)
    place = _place(t, space, at, offset, size, len(values), site)
    if place is None:
        _store_by_space(t, code, at.value + offset, values, site, volatile)
        return
    name, first, more, written = place
    if more:
        first = first + more
    batch = t.batch
    if name == "global":
        if not written:
            _mark_written(t, first * size, total)
        if batch.earlier is not None:
            batch.earlier.touch(t, first * size, total, site, writes=True)
        view = batch.memory.views[code]
    else:
        if name == "parameters":
            t.fault(Kind.OUT_OF_BOUNDS, site, "writes to a kernel parameter")
        if name == "shared":
            check_shared_write(t, first * size, total, site, values, code, volatile)
        view = batch.view(name, code)
    for n, value in enumerate(values):
        here = first + n if n else first
        if not here.ndim:
            view[int(here)] = value if not getattr(value, "ndim", 0) else value[-1]
        else:
            view[here] = value


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
        if owner is None or owner.closed or low < owner.address or high + size > owner.end:
            owner = batch.memory.allocation(low)
            if owner is None or owner.closed or high + size > owner.end:
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
            results, load_vector(t.take(chosen), "generic", code, count, Address(address[chosen]), 0, site, volatile), strict=True
        ):
            result[chosen] = value
    return results


def _store_by_space(t: Threads, code: str, address: Any, values: tuple[Any, ...], site: int, volatile: bool) -> None:
    for chosen in _groups(address):
        some = tuple(t.spread(v)[chosen] for v in values)
        store_vector(t.take(chosen), "generic", code, Address(address[chosen]), 0, some, site, volatile)


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
        if owner is None or owner.closed or here + size > owner.end:
            kind = Kind.USE_AFTER_FREE if owner is not None and owner.freed else Kind.OUT_OF_BOUNDS
            where = memory.describe(here if owner is None or owner.closed else owner.end)
            if owner is not None and not owner.closed:
                where = f"across the end of {owner.name}"
            t.fault(kind, site, f"{_verb(t, site)} {size} bytes {where}", at)
            return
        known.append((owner.address, owner.end))
        unknown &= ~((addresses >= owner.address) & (addresses + size <= owner.end))


def check_written(t: Threads, index: Any, size: int, site: int) -> None:
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
