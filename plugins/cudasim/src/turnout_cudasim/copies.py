"""Asynchronous copies, mbarriers and TMA (PTX ISA, sections 9.7.9.25 to 9.7.9.28 and 9.7.13.16).

What a copy will write is marked as in flight until somebody has waited for it in the way the copy asked for; reading it before is
reported. cp.async writes its bytes when it is waited for, so that even an unreported early read finds no data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from turnout_cudasim import tensormap
from turnout_cudasim.access import (
    IN_FLIGHT,
    RANK_SHIFT,
    WRITTEN,
    _check_written,
    check_shared_write,
    locate,
    remote_index,
    window_of,
)
from turnout_cudasim.atomics import COMBINE, half_combiner
from turnout_cudasim.memory import PARAMETER_WINDOW, SHARED_WINDOW
from turnout_cudasim.report import Kind
from turnout_cudasim.threads import Threads

__all__ = [
    "bulk_load", "bulk_reduce", "bulk_store", "copy_async", "copy_commit", "copy_mbarrier_arrive", "copy_wait", "map_address",
    "mbarrier_arrive", "mbarrier_complete", "mbarrier_expect", "mbarrier_init", "mbarrier_invalidate", "mbarrier_wait", "tensor_load",
    "tensor_store",
]  # fmt: skip

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


def _copies(t: Threads) -> Copies:
    if t.batch.copies is None:
        t.batch.copies = Copies(t.batch.count)
    found: Copies = t.batch.copies
    return found


def copy_async(t: Threads, to: Any, source: Any, size: int, kept: Any, site: int) -> None:
    """cp.async: 4, 8 or 16 bytes from global to shared memory, the bytes from `kept` on as zero."""
    copies = _copies(t)
    to, source = t.spread(to), t.spread(source)
    if getattr(kept, "ndim", 0) or int(kept) != size:
        kept = np.minimum(t.spread(kept).astype(np.int64), size)
        reading = np.flatnonzero(kept > 0)
    else:
        kept, reading = None, None
    if reading is None or reading.size:
        reader = t if reading is None else t.take(reading)
        place = locate(reader, "global", source if reading is None else source[reading], size, site)
        if kept is None or int(kept.min()) == size:
            assert place is not None
            _check_written(reader, place[1], size, site)
    target = locate(t, "shared", to, size, site)
    assert target is not None
    index = t.spread(target[1])
    check_shared_write(t, index, size, site, None, "u4")
    _fill(t.batch.shared, index, size, POISON)
    _fill(t.batch.shared_state, index, size, IN_FLIGHT)
    copies.pending.append(Pending(t.index, copies.commits[t.index], index, source - t.batch.memory.base, size, kept))


def _fill(array: Any, index: Any, size: int, value: int) -> None:
    array.reshape(-1, size)[index // size] = value


def copy_commit(t: Threads) -> None:
    """The copies so far are a group."""
    _copies(t).commits[t.index] += 1


def copy_wait(t: Threads, left: int | None) -> None:
    """Wait until at most `left` groups are under way; None: for every copy, committed or not."""
    copies = _copies(t)
    limit = np.full(t.batch.count, -1, np.int64)
    limit[t.index] = np.iinfo(np.int64).max if left is None else copies.commits[t.index] - left
    _land(t, copies, limit)


def _land(t: Threads, copies: Copies, limit: Any) -> list[tuple[Any, int]]:
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
    _fill(batch.shared_state, copy.to, size, WRITTEN)


# ---- mbarriers


@dataclass
class Mbarrier:
    """An mbarrier object. `phase` counts the phases that are over; `regions` are bytes in flight that the current one waits for."""

    expected: int
    pending: int
    transactions: int = 0
    phase: int = 0
    known: Any = None  # what those who arrived have seen (see hazards.py)
    published: Any = None  # the same, of the phases that are over
    regions: list[tuple[int, int]] = field(default_factory=list)
    arrived: list[tuple[int, int]] = field(default_factory=list)  # regions of phases that are over


def _barriers(t: Threads) -> dict[int, Mbarrier]:
    if t.batch.barriers is None:
        t.batch.barriers = {}
    found: dict[int, Mbarrier] = t.batch.barriers
    return found


def _barrier_places(t: Threads, space: str, address: Any, site: int) -> Any:
    """Bytes of shared memory where each thread's mbarrier lies."""
    if space == "generic":
        address = address - SHARED_WINDOW
    place = locate(t, "shared", address, 8, site)
    assert place is not None
    return t.spread(place[1])


def _barrier(t: Threads, place: int, site: int, position: int) -> Mbarrier:
    found = _barriers(t).get(place)
    if found is None:
        offset = place % t.batch.shared_stride
        t.fault(Kind.INVALID_BARRIER, site, f"no mbarrier was initialised at offset {offset} of shared memory", position)
        found = _barriers(t)[place] = Mbarrier(1, 1)
    return found


def mbarrier_init(t: Threads, space: str, address: Any, count: Any, site: int) -> None:
    counts = t.spread(count)
    for position, place in enumerate(_barrier_places(t, space, address, site).tolist()):
        number = int(counts[position])
        if not 1 <= number < 1 << 20:
            t.fault(Kind.INVALID_BARRIER, site, f"an mbarrier for {number} arrivals; 1 to 1048575 are allowed", position)
        _barriers(t)[place] = Mbarrier(number, number)
        t.batch.shared_state[place : place + 8] = WRITTEN
        t.batch.shared[place : place + 8] = 0
    t.batch.progress += 1


def mbarrier_invalidate(t: Threads, space: str, address: Any, site: int) -> None:
    for place in _barrier_places(t, space, address, site).tolist():
        _barriers(t).pop(place, None)


def _turn(t: Threads, barrier: Mbarrier) -> None:
    """Begin the next phase if everything that was expected has come."""
    if barrier.pending == 0 and barrier.transactions == 0:
        barrier.phase += 1
        barrier.pending = barrier.expected
        barrier.arrived += barrier.regions
        barrier.regions = []
        if barrier.known is not None:
            barrier.published = barrier.known if barrier.published is None else np.maximum(barrier.published, barrier.known)
            barrier.known = None
        t.batch.progress += 1


def _publish(t: Threads, barrier: Mbarrier, positions: Any) -> None:
    races = t.batch.races
    if races is not None:
        known = races.publish(np.unique(t.warp_row[positions]))
        barrier.known = known if barrier.known is None else np.maximum(barrier.known, known)


def mbarrier_arrive(t: Threads, space: str, address: Any, count: Any, transactions: Any, drop: bool, site: int) -> Any:
    """Arrive `count` times, expecting `transactions` more bytes before; returns the phase, as the state to wait for."""
    places = _barrier_places(t, space, address, site)
    counts, bytes_ = t.spread(count).astype(np.int64), t.spread(transactions).astype(np.int64)
    states = np.zeros(t.count, np.uint64)
    for place in dict.fromkeys(places.tolist()):
        positions = np.flatnonzero(places == place)
        barrier = _barrier(t, place, site, int(positions[0]))
        _publish(t, barrier, positions)
        for position in positions.tolist():  # one after the other: a phase may end in the middle
            states[position] = barrier.phase
            barrier.transactions += int(bytes_[position])
            arrivals = int(counts[position])
            if arrivals > barrier.pending:
                message = f"{arrivals} arrivals where the mbarrier expects {barrier.pending} more"
                t.fault(Kind.INVALID_BARRIER, site, message, position)
            barrier.pending -= arrivals
            if drop:
                barrier.expected -= arrivals
            _turn(t, barrier)
    return states


def mbarrier_expect(t: Threads, space: str, address: Any, transactions: Any, site: int) -> None:
    """Expect more bytes in this phase."""
    bytes_ = t.spread(transactions).astype(np.int64)
    for position, place in enumerate(_barrier_places(t, space, address, site).tolist()):
        barrier = _barrier(t, place, site, position)
        barrier.transactions += int(bytes_[position])


def mbarrier_complete(t: Threads, space: str, address: Any, transactions: Any, site: int) -> None:
    """Simulate the arrival of bytes."""
    bytes_ = t.spread(transactions).astype(np.int64)
    for position, place in enumerate(_barrier_places(t, space, address, site).tolist()):
        barrier = _barrier(t, place, site, position)
        barrier.transactions -= int(bytes_[position])
        _turn(t, barrier)


def mbarrier_wait(t: Threads, space: str, address: Any, phase: Any, parity: bool, site: int) -> Any:
    """test_wait and try_wait: whether the phase is over. Who waits in vain lets the others go first."""
    places = _barrier_places(t, space, address, site)
    phases = t.spread(phase).astype(np.int64)
    over = np.zeros(t.count, bool)
    for place in dict.fromkeys(places.tolist()):
        positions = np.flatnonzero(places == place)
        barrier = _barrier(t, place, site, int(positions[0]))
        done = (barrier.phase & 1) != (phases[positions] & 1) if parity else barrier.phase > phases[positions]
        over[positions] = done
        if done.any():
            _see(t, barrier, positions[done])
    if not over.all():
        t.batch.aside, t.batch.waiting_at = True, site
    return over


def _see(t: Threads, barrier: Mbarrier, positions: Any) -> None:
    """What the phases that are over have brought is now there for those who waited."""
    for low, high in barrier.arrived:
        state = t.batch.shared_state[low:high]
        state[state == IN_FLIGHT] = WRITTEN
    barrier.arrived = []
    if t.batch.races is not None and barrier.published is not None:
        t.batch.races.learn(np.unique(t.warp_row[positions]), barrier.published)


def copy_mbarrier_arrive(t: Threads, space: str, address: Any, counted: bool, site: int) -> None:
    """cp.async.mbarrier.arrive: arrive when the thread's copies have landed. Without .noinc the arrival adds itself to what is expected."""
    copies = _copies(t)
    limit = np.full(t.batch.count, -1, np.int64)
    limit[t.index] = np.iinfo(np.int64).max
    landed = _land(t, copies, limit)
    places = _barrier_places(t, space, address, site)
    for place in dict.fromkeys(places.tolist()):
        positions = np.flatnonzero(places == place)
        barrier = _barrier(t, place, site, int(positions[0]))
        for first, size in landed:
            _fill(t.batch.shared_state, first, size, IN_FLIGHT)
            barrier.regions += [(at, at + size) for at in first.tolist()]
        landed = []
        _publish(t, barrier, positions)
        if counted:
            barrier.pending -= len(positions)
        _turn(t, barrier)


def map_address(t: Threads, address: Any, rank: Any, generic: bool) -> Any:
    """mapa: the same place in another block of the cluster."""
    offset = (address.astype(np.int64) - (SHARED_WINDOW if generic else 0)) & ((1 << RANK_SHIFT) - 1)
    mapped = offset + ((rank.astype(np.int64) + 1) << RANK_SHIFT)
    return (mapped + SHARED_WINDOW).astype(np.uint64) if generic else mapped.astype(np.uint32)


# ---- bulk copies and TMA


def _shared_place(t: Threads, address: int, size: int, position: int, site: int) -> int:
    """The byte of the batch's shared memory for one thread's address, checked for `size` bytes."""
    one = t.take(np.array([position]))
    if address >= SHARED_WINDOW:
        address -= SHARED_WINDOW
    spread = np.array([address], np.int64)
    if address >> RANK_SHIFT:
        return int(remote_index(one, spread, size, site)[0])
    batch = t.batch
    if address < 0 or address + size > batch.shared_bytes:
        message = f"a bulk copy of {size} bytes at offset {address} of shared memory, which has {batch.shared_bytes} bytes"
        t.fault(Kind.OUT_OF_BOUNDS, site, message, position)
    return address + int(np.ravel(one.shared_base)[0])


def _check_bulk(t: Threads, position: int, site: int, *numbers: int) -> None:
    for number in numbers:
        if number % 16:
            t.fault(Kind.MISALIGNED, site, f"a bulk copy with {number:#x}, which is no multiple of 16", position)


def _signal(t: Threads, place: int, region: tuple[int, int], count: int, site: int, position: int) -> None:
    """A bulk copy of `count` bytes is complete, as far as its mbarrier knows; its bytes are there for those who wait."""
    low, high = region
    t.batch.shared_state[low:high] = IN_FLIGHT
    barrier = _barrier(t, place, site, position)
    barrier.regions.append(region)
    barrier.transactions -= count
    _turn(t, barrier)


def _targets(t: Threads, address: int, barrier: int, mask: int | None, position: int, size: int, site: int) -> list[tuple[int, int]]:
    """Destinations and mbarriers in shared memory: of one block, or of every block that the multicast mask names."""
    place = _shared_place(t, address, size, position, site)
    signal = _shared_place(t, barrier, 8, position, site)
    if mask is None:
        return [(place, signal)]
    stride = t.batch.shared_stride
    row = int(t.block_row[position]) // t.batch.cluster_size * t.batch.cluster_size
    ranks = [rank for rank in range(t.batch.cluster_size) if mask >> rank & 1]
    return [(place % stride + (row + rank) * stride, signal % stride + (row + rank) * stride) for rank in ranks]


def bulk_load(t: Threads, to: Any, source: Any, size: Any, barrier: Any, mask: Any, from_shared: bool, site: int) -> None:
    """cp.async.bulk to shared memory, from global memory or the shared memory of the cluster."""
    memory = t.batch.memory
    columns = [t.spread(v).tolist() for v in (to, source, size, barrier)]
    masks = None if mask is None else t.spread(mask).tolist()
    for position, (target, origin, count, signal) in enumerate(zip(*columns, strict=True)):
        _check_bulk(t, position, site, target, origin, count)
        if from_shared:
            at = _shared_place(t, origin, count, position, site)
            data = t.batch.shared[at : at + count].copy()
        else:
            one = t.take(np.array([position]))
            locate(one, "global", np.array([origin], np.int64), 1, site)
            locate(one, "global", np.array([origin + count - 1], np.int64), 1, site)
            data = memory.read(origin, count).copy()
            _check_written_range(t, origin, count, position, site)
        for place, where in _targets(t, target, signal, None if masks is None else masks[position], position, count, site):
            t.batch.shared[place : place + count] = data
            _signal(t, where, (place, place + count), count, site, position)


def _check_written_range(t: Threads, address: int, size: int, position: int, site: int) -> None:
    memory = t.batch.memory
    owner = memory.allocation(address)
    if owner is None or owner.written:
        return
    at = address - memory.base
    missing = np.flatnonzero(memory.written[at : at + size] == 0)
    if missing.size and t.batch.fault_limit(site):
        where = memory.describe(address + int(missing[0]))
        t.fault(Kind.NEVER_WRITTEN, site, f"copies {missing.size} bytes that nobody wrote, the first {where}", position)


def bulk_store(t: Threads, to: Any, source: Any, size: Any, site: int) -> None:
    """cp.async.bulk from shared to global memory."""
    _to_global(t, to, source, size, None, "", site)


def bulk_reduce(t: Threads, operation: str, code: str, format_: str, to: Any, source: Any, size: Any, site: int) -> None:
    """cp.reduce.async.bulk from shared to global memory."""
    _to_global(t, to, source, size, (operation, code), format_, site)


def _to_global(t: Threads, to: Any, source: Any, size: Any, reduction: tuple[str, str] | None, format_: str, site: int) -> None:
    memory = t.batch.memory
    for position, (target, origin, count) in enumerate(zip(*(t.spread(v).tolist() for v in (to, source, size)), strict=True)):
        _check_bulk(t, position, site, target, origin, count)
        at = _shared_place(t, origin, count, position, site)
        data = t.batch.shared[at : at + count]
        _check_arrived(t, at, count, position, site)
        one = t.take(np.array([position]))
        place = locate(one, "global", np.array([target], np.int64), 1, site)
        locate(one, "global", np.array([target + count - 1], np.int64), 1, site)
        assert place is not None
        if reduction is not None:
            operation, code = reduction
            combine = half_combiner(operation, format_) if format_ else COMBINE[operation]
            data = np.ascontiguousarray(combine(memory.read(target, count).view(code), data.view(code), None)).view(np.uint8)
        memory.bytes[target - memory.base : target - memory.base + count] = data
        memory.mark_written(target, count)


def _check_arrived(t: Threads, at: int, size: int, position: int, site: int) -> None:
    state = t.batch.shared_state[at : at + size]
    if (state != WRITTEN).any() and t.batch.fault_limit(site):
        kind = Kind.UNWAITED_COPY if (state == IN_FLIGHT).any() else Kind.NEVER_WRITTEN
        what = "that a copy is still writing" if kind == Kind.UNWAITED_COPY else "that nobody wrote"
        t.fault(kind, site, f"copies {size} bytes of shared memory {what}", position)


def _tensor(t: Threads, address: int, position: int, site: int) -> tensormap.TensorMap:
    """The tensor map at a generic address: a kernel parameter, or constant or global memory."""
    if window_of(address) == "param":
        offset = address - PARAMETER_WINDOW
        raw = t.batch.launch.parameters[offset : offset + 128].tobytes()
    else:
        raw = t.batch.memory.read(address, 128).tobytes()
    try:
        return tensormap.decode(raw)
    except ValueError as error:
        t.fault(Kind.OUT_OF_BOUNDS, site, f"no tensor map at {address:#x}: {error}", position)
        raise


def tensor_load(t: Threads, to: Any, tensor: Any, coordinates: tuple[Any, ...], barrier: Any, mask: Any, site: int) -> None:
    """cp.async.bulk.tensor to shared memory: a box of the tensor; what lies outside of it comes as zero (or NaN)."""
    places = [t.spread(c).astype(np.int64).tolist() for c in coordinates]
    columns = [t.spread(v).tolist() for v in (to, tensor, barrier)]
    masks = None if mask is None else t.spread(mask).tolist()
    for position, (target, address, signal) in enumerate(zip(*columns, strict=True)):
        box = _tensor(t, address, position, site)
        corner = [_signed(axis[position]) for axis in places]
        if target % 128:
            t.fault(Kind.MISALIGNED, site, f"a tensor copy to shared address {target:#x}, which is no multiple of 128", position)
        offsets, inside = box.elements(corner)
        _check_box(t, box, offsets[inside], position, site)
        size = box.box_bytes
        for place, where in _targets(t, target, signal, None if masks is None else masks[position], position, size, site):
            box.place_in_shared(t.batch.memory, t.batch.shared, place, place - place % t.batch.shared_stride, offsets, inside)
            _signal(t, where, (place, place + size), size, site, position)


def _signed(value: int) -> int:
    return value - (1 << 32) if value >= 1 << 31 else value


def _check_box(t: Threads, box: tensormap.TensorMap, offsets: Any, position: int, site: int) -> None:
    if not offsets.size:
        return
    one = t.take(np.array([position]))
    for end in (int(offsets.min()), int(offsets.max()) + box.element_size - 1):
        locate(one, "global", np.array([box.address + end], np.int64), 1, site)
    index = (box.address - t.batch.memory.base) + offsets.ravel()
    owner = t.batch.memory.allocation(box.address)
    if owner is not None and not owner.written:
        missing = t.batch.memory.written[index] == 0
        if missing.any() and t.batch.fault_limit(site):
            where = t.batch.memory.describe(int(index[missing.argmax()]) + t.batch.memory.base)
            t.fault(Kind.NEVER_WRITTEN, site, f"a tensor copy reads what nobody wrote, {where}", position)


def tensor_store(t: Threads, tensor: Any, coordinates: tuple[Any, ...], source: Any, operation: str, site: int) -> None:
    """cp.async.bulk.tensor and cp.reduce.async.bulk.tensor from shared memory; what lies outside of the tensor is dropped."""
    places = [t.spread(c).astype(np.int64).tolist() for c in coordinates]
    for position, (address, origin) in enumerate(zip(t.spread(tensor).tolist(), t.spread(source).tolist(), strict=True)):
        box = _tensor(t, address, position, site)
        at = _shared_place(t, origin, box.box_bytes, position, site)
        _check_arrived(t, at, box.box_bytes, position, site)
        offsets, inside = box.elements([_signed(axis[position]) for axis in places])
        if offsets[inside].size:
            one = t.take(np.array([position]))
            for end in (int(offsets[inside].min()), int(offsets[inside].max()) + box.element_size - 1):
                locate(one, "global", np.array([box.address + end], np.int64), 1, site)
        box.take_from_shared(t.batch.memory, t.batch.shared, at, at - at % t.batch.shared_stride, offsets, inside, operation)
