"""Which lane holds which element of a matrix (PTX ISA, sections 9.7.14 and 9.7.15), and products of matrices.

A fragment is kept as (warp, lane, element); a layout says, for each lane and element, its row and column.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from turnout_cudasim.semantics.conversions import HALVES, decode

LANE = np.arange(32)
GROUP, MEMBER = LANE >> 2, LANE & 3  # "groupID" and "threadID_in_group" in the ISA

Layout = tuple[Any, Any]  # rows and columns, each (lanes, elements)

BITS = {
    "f64": 64,
    "f32": 32,
    "s32": 32,
    "tf32": 32,
    "f16": 16,
    "bf16": 16,
    "s8": 8,
    "u8": 8,
    "e4m3": 8,
    "e5m2": 8,
    "s4": 4,
    "u4": 4,
    "b1": 1,
}


def _columns(first: Any, per: int) -> Any:
    """Neighbouring columns `first` ... `first + per - 1`, for registers (lanes, registers)."""
    return (first[..., None] + np.arange(per)).reshape(len(first), -1)


@lru_cache(maxsize=256)
def layout_a(rows: int, depth: int, bits: int) -> Layout:
    """A of mma.mMnNkK: registers go down 8 rows, then on by four members' columns."""
    per = max(1, 32 // bits)
    tall = rows // 8
    registers = np.arange(tall * depth // (4 * per))
    row = GROUP[:, None] + 8 * (registers % tall)
    column = MEMBER[:, None] * per + 4 * per * (registers // tall)
    return np.repeat(row, per, axis=1), _columns(column, per)


@lru_cache(maxsize=256)
def layout_b(depth: int, columns: int, bits: int) -> Layout:
    """B: the depth runs along the members, each group has one column."""
    per = max(1, 32 // bits)
    registers = np.arange(depth // (4 * per))
    row = _columns(MEMBER[:, None] * per + 4 * per * registers, per)
    return row, np.broadcast_to(GROUP[:, None], row.shape)


@lru_cache(maxsize=256)
def layout_c(rows: int, columns: int, bits: int) -> Layout:
    """C and D: two neighbouring columns per register pair (or per register of halves), then 8 rows down."""
    elements = np.arange(rows * columns // 32)
    row = GROUP[:, None] + 8 * (elements // 2)
    column = MEMBER[:, None] * 2 + elements % 2
    return row, np.broadcast_to(column, row.shape)


@lru_cache(maxsize=256)
def layout_wgmma(columns: int) -> Layout:
    """D of wgmma: (128 lanes, columns / 2), 64 rows."""
    lane = np.arange(128)
    elements = np.arange(columns // 2)
    row = 16 * (lane >> 5)[:, None] + (lane[:, None] & 31) // 4 + 8 * (elements // 2 % 2)
    column = 8 * (elements // 4) + 2 * (lane[:, None] & 3) + elements % 2
    return row, np.broadcast_to(column, row.shape)


@lru_cache(maxsize=256)
def layout_wmma(rows: int, columns: int, elements: int) -> Layout:
    """wmma fragments, whose layout is nobody's business: in row-major order, repeated if there is room for more."""
    at = (np.arange(32)[:, None] * elements + np.arange(elements)) % (rows * columns)
    return at // columns, at % columns


def unpack(registers: Any, type_: str) -> Any:
    """(..., registers) of 32 or 64 bits to (..., elements) of `type_`, as float32, float64 or integers."""
    bits = BITS[type_]
    if bits == 64:
        return registers.view(np.float64)
    if type_ == "f32":
        return registers.view(np.float32)
    if type_ == "s32":
        return registers.view(np.int32)
    if type_ == "tf32":  # the hardware looks at 19 bits
        return (registers & np.uint32(0xFFFFE000)).view(np.float32)
    if type_ == "f16":
        return HALVES.take(registers.view(np.uint16))
    if type_ == "bf16":
        return decode(registers.view(np.uint16), "bf16")
    if type_ in ("e4m3", "e5m2"):
        return decode(registers.view(np.uint8), type_)
    if bits == 8:
        return registers.view(np.int8 if type_ == "s8" else np.uint8)
    octets = registers.view(np.uint8)
    if bits == 4:
        nibbles = np.stack([octets & 15, octets >> 4], -1).reshape(*octets.shape[:-1], -1).astype(np.int8)
        return np.where(nibbles > 7, nibbles - 16, nibbles) if type_ == "s4" else nibbles
    return np.unpackbits(octets, axis=-1, bitorder="little")


def pack(values: Any, type_: str) -> Any:
    """(..., elements) of f32, f64, s32 or f16 to registers."""
    if type_ == "f16":
        halves = np.ascontiguousarray(values.astype(np.float16))
        nan = np.isnan(halves)
        codes = np.where(nan, np.uint16(0x7FFF), halves.view(np.uint16)) if nan.any() else halves.view(np.uint16)
        return np.ascontiguousarray(codes).view(np.uint32)
    code = {"f32": np.float32, "f64": np.float64, "s32": np.int32}[type_]
    return np.ascontiguousarray(values.astype(code)).view(np.uint64 if type_ == "f64" else np.uint32)


@lru_cache(maxsize=512)
def _gather(layout: str, arguments: tuple[int, ...]) -> Any:
    """For each matrix element, where it is among (lane, element) pairs: the inverse of a layout."""
    row, column = LAYOUTS[layout](*arguments)
    columns = int(column.max()) + 1
    inverse = np.zeros((int(row.max()) + 1) * columns, np.intp)
    flat = (row * columns + column).ravel()
    inverse[flat[::-1]] = np.arange(flat.size)[::-1]
    return inverse.reshape(-1, columns)


@lru_cache(maxsize=512)
def _scatter(layout: str, arguments: tuple[int, ...]) -> Any:
    row, column = LAYOUTS[layout](*arguments)
    return row * (int(column.max()) + 1) + column


@lru_cache(maxsize=512)
def by_register(layout: str, *arguments: int) -> Any:
    """For each element of a fragment and each lane, in this order, where it is in the matrix."""
    return np.ascontiguousarray(_scatter(layout, arguments).T)


LAYOUTS = {"a": layout_a, "b": layout_b, "c": layout_c, "wgmma": layout_wgmma, "wmma": layout_wmma}


def to_matrix(fragment: Any, layout: str, *arguments: int) -> Any:
    """(warps, lanes, elements) to (warps, rows, columns)."""
    return fragment.reshape(len(fragment), -1).take(_gather(layout, arguments), axis=1)


def to_fragment(matrix: Any, layout: str, *arguments: int) -> Any:
    """(warps, rows, columns) to (warps, lanes, elements)."""
    return matrix.reshape(len(matrix), -1).take(_scatter(layout, arguments), axis=1)


def multiply(a: Any, b: Any, operation: str = "") -> Any:
    """a @ b, in float32 for small floats (every product is exact), float64, or integers. `operation`: "xor" or "and" of single bits."""
    if operation:
        x, y = a.astype(np.float32), b.astype(np.float32)
        both = x @ y
        ones = both if operation == "and" else x.sum(-1, keepdims=True) + y.sum(-2, keepdims=True) - 2 * both
        return ones.astype(np.int64)
    if a.dtype.kind != "f":
        return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
    return a @ b
