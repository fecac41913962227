"""Bulk copies and TMA, and addresses across a cluster (PTX ISA, sections 9.7.9.25.4 to 9.7.9.28)."""

from __future__ import annotations

from typing import Any

import numpy as np

from turnout_cudasim import tensormap
from turnout_cudasim.access import IN_FLIGHT, RANK_SHIFT, WRITTEN, locate, remote_index, window_of
from turnout_cudasim.atomics import COMBINE, half_combiner
from turnout_cudasim.mbarriers import barrier_at, turn
from turnout_cudasim.memory import PARAMETER_WINDOW, SHARED_WINDOW
from turnout_cudasim.report import Kind
from turnout_cudasim.threads import Threads

__all__ = ["bulk_load", "bulk_reduce", "bulk_store", "map_address", "tensor_load", "tensor_store"]


def map_address(t: Threads, address: Any, rank: Any, generic: bool) -> Any:
    """mapa: the same place in another block of the cluster."""
    offset = (address.astype(np.int64) - (SHARED_WINDOW if generic else 0)) & ((1 << RANK_SHIFT) - 1)
    mapped = offset + ((rank.astype(np.int64) + 1) << RANK_SHIFT)
    return (mapped + SHARED_WINDOW).astype(np.uint64) if generic else mapped.astype(np.uint32)


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
    barrier = barrier_at(t, place, site, position)
    barrier.regions.append(region)
    barrier.transactions -= count
    turn(t, barrier)


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
            _touch(one, np.arange(origin - memory.base, origin - memory.base + count, 16), 16, site, writes=False)
            data = memory.read(origin, count).copy()
            _check_written_range(t, origin, count, position, site)
        for place, where in _targets(t, target, signal, None if masks is None else masks[position], position, count, site):
            t.batch.shared[place : place + count] = data
            _signal(t, where, (place, place + count), count, site, position)


def _touch(one: Threads, index: Any, size: int, site: int, *, writes: bool) -> None:
    """One thread's copy touches `size` bytes at each byte `index` of the arena."""
    if one.batch.earlier is not None:
        one.batch.earlier.touch(one.take(np.zeros(len(index), np.intp)), index, size, site, writes=writes)


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
        _touch(one, np.arange(target - memory.base, target - memory.base + count, 16), 16, site, writes=True)
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
        index = (box.address - t.batch.memory.base) + offsets[inside].ravel()
        _touch(t.take(np.array([position])), index, box.element_size, site, writes=False)
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
            _touch(one, (box.address - t.batch.memory.base) + offsets[inside].ravel(), box.element_size, site, writes=True)
        box.take_from_shared(t.batch.memory, t.batch.shared, at, at - at % t.batch.shared_stride, offsets, inside, operation)
