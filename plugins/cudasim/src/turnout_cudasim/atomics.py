"""Atomic operations: the threads of a batch go one after the other, in the order of their numbers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from turnout_cudasim.access import ALL_WRITTEN, _groups, check_shared_read, locate
from turnout_cudasim.report import Kind
from turnout_cudasim.semantics.packed import half_arithmetic, pairs
from turnout_cudasim.semantics.packed import join as join_halves
from turnout_cudasim.threads import Threads

__all__ = ["atomic", "reduce_vector"]

Combine = Callable[[Any, Any, Any], Any]  # (old, operand, second operand) -> new


def _increment(old: Any, limit: Any, _: Any) -> Any:
    return np.where(old >= limit, old.dtype.type(0), old + old.dtype.type(1))


def _decrement(old: Any, limit: Any, _: Any) -> Any:
    return np.where((old == 0) | (old > limit), limit, old - old.dtype.type(1))


def half_combiner(operation: str, format_: str) -> Combine:
    return lambda old, b, _: half_arithmetic(operation, format_, old, b)


def _pairs(operation: str, format_: str) -> Combine:
    def combine(old: Any, b: Any, _: Any) -> Any:
        (ol, oh), (bl, bh) = pairs(old, "u2"), pairs(b, "u2")
        return join_halves(half_arithmetic(operation, format_, ol, bl), half_arithmetic(operation, format_, oh, bh))

    return combine


COMBINE: dict[str, Combine] = {
    "add": lambda old, b, _: old + b,
    "min": lambda old, b, _: np.fmin(old, b) if old.dtype.kind == "f" else np.minimum(old, b),
    "max": lambda old, b, _: np.fmax(old, b) if old.dtype.kind == "f" else np.maximum(old, b),
    "and": lambda old, b, _: old & b,
    "or": lambda old, b, _: old | b,
    "xor": lambda old, b, _: old ^ b,
    "exch": lambda old, b, _: b,
    "cas": lambda old, b, c: np.where(old == b, c, old),
    "inc": _increment,
    "dec": _decrement,
}
ORDERLESS = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


def atomic(
    t: Threads, operation: str, space: str, code: str, address: Any, b: Any, c: Any, site: int, want_old: bool = True, format_: str = ""
) -> Any:
    """Change memory, and return what each thread found there. `format_`: f16, bf16, f16x2, bf16x2 for values held as integers."""
    size = int(code[1])
    address = t.spread(address)
    place = locate(t, space, address, size, site)
    if place is None:
        old = np.zeros(t.count, code)
        for chosen in _groups(address):
            part = t.take(chosen)
            second = None if c is None else t.spread(c)[chosen]
            old[chosen] = atomic(part, operation, "generic", code, address[chosen], t.spread(b)[chosen], second, site, True, format_)
        return old
    name, index = place
    view = _prepare(t, name, index, size, site, code)
    at = index // size
    b = t.spread(b)
    c = None if c is None else t.spread(c)
    if format_:
        combine = _pairs(operation, format_[:-2]) if format_.endswith("x2") else half_combiner(operation, format_)
    else:
        combine = COMBINE[operation]
    if not want_old and not format_ and operation in ORDERLESS and view.dtype.kind in "iu":
        ORDERLESS[operation].at(view, at, b)
        return None
    if operation == "add" and not format_ and view.dtype.kind in "iu":
        return _add_in_turn(view, at, b)
    return _in_turn(view, at, b, c, combine)


def _prepare(t: Threads, name: str, index: Any, size: int, site: int, code: str) -> Any:
    batch = t.batch
    if name == "global":
        memory = batch.memory
        owner = batch.owner
        if batch.earlier is not None:
            batch.earlier.touch(t, index, size, site, writes=True)
        if owner is not None and not owner.written:
            bad = memory.written_views[code].take(index // size) != ALL_WRITTEN[size]
            if bad.any() and batch.fault_limit(site):
                at = int(bad.argmax())
                where = memory.describe(int(index[at]) + memory.base)
                t.fault(Kind.NEVER_WRITTEN, site, f"changes {size} bytes that nobody wrote, {where}", at)
            memory.written_views[code][index // size] = ALL_WRITTEN[size]
            batch.touched.add(owner.address)
        return memory.views[code]
    if name == "shared":
        check_shared_read(t, index, size, site, volatile=True)
        if batch.races is not None:
            raced = batch.races.write(t, index, size, atomic=True)
            if raced is not None and batch.fault_limit(site):
                other = batch.races.other_party(t, int(raced.argmax()), index, size)
                t.fault(Kind.SHARED_RACE, site, f"an atomic on shared memory; no barrier since {other}", int(raced.argmax()))
    return batch.view(name, code)


def _add_in_turn(view: Any, at: Any, b: Any) -> Any:
    """Integer sums: each thread finds the old value plus what those before it at the same place have added."""
    order = np.argsort(at, kind="stable")
    place, value = at[order], b[order].astype(view.dtype)
    before = np.cumsum(value, dtype=view.dtype) - value
    first = np.r_[True, place[1:] != place[:-1]]
    start = np.maximum.accumulate(np.where(first, np.arange(len(place)), 0))
    found = view[place] + (before - before[start])
    np.add.at(view, at, b.astype(view.dtype))
    old = np.empty_like(found)
    old[order] = found
    return old


def _in_turn(view: Any, at: Any, b: Any, c: Any, combine: Combine) -> Any:
    """One round for each thread that shares a place: all firsts, all seconds ..."""
    order = np.argsort(at, kind="stable")
    place = at[order]
    first = np.r_[True, place[1:] != place[:-1]]
    start = np.maximum.accumulate(np.where(first, np.arange(len(place)), 0))
    turn = np.arange(len(place)) - start
    old = np.empty(len(at), view.dtype)
    by_turn = np.argsort(turn, kind="stable")
    edges = np.searchsorted(turn[by_turn], np.arange(int(turn.max()) + 2))
    for low, high in pairwise(edges):
        who = order[by_turn[low:high]]
        where = at[who]
        old[who] = view[where]
        view[where] = combine(view[where], b[who], None if c is None else c[who])
    return old


def reduce_vector(
    t: Threads, operation: str, space: str, code: str, address: Any, values: tuple[Any, ...], site: int, format_: str
) -> tuple[Any, ...]:
    """Vector forms: each element on its own. Returns what was found."""
    size = int(code[1])
    return tuple(atomic(t, operation, space, code, address + n * size, value, None, site, True, format_) for n, value in enumerate(values))
