"""Matrix instructions of warps and warpgroups: ldmatrix, stmatrix, movmatrix, mma, wmma, wgmma."""

from __future__ import annotations

from typing import Any

import numpy as np

from turnout_cudasim.access import Address, check_shared_read, check_shared_write, load, locate, store
from turnout_cudasim.memory import SHARED_WINDOW
from turnout_cudasim.report import Kind
from turnout_cudasim.semantics.fragments import BITS, by_register, layout_wmma, multiply, pack, to_fragment, to_matrix, unpack
from turnout_cudasim.threads import Threads

__all__ = ["check_whole", "ldmatrix", "matrix", "mma", "movmatrix", "stmatrix", "wgmma", "wmma_load", "wmma_mma", "wmma_store"]

u4, u8 = np.uint32, np.uint64


def check_whole(t: Threads, site: int) -> None:
    """All lanes of a warp must be here."""
    if not t.whole_warps:
        t.fault(Kind.SHUFFLE_MASK, site, "a matrix instruction needs all 32 lanes of its warp")


def _rows(t: Threads, space: str, address: Any, count: int, site: int) -> tuple[Any, Threads]:
    """The first bytes, in shared memory, of the `count` x 8 rows that the first lanes of each warp point to: (warps, 8 * count)."""
    check_whole(t, site)
    pointing = t.leading(8 * count)
    if space == "generic":
        address = address - SHARED_WINDOW
    place = locate(pointing, "shared", t.spread(address).reshape(-1, 32)[:, : 8 * count].ravel(), 16, site)
    assert place is not None
    return t.spread(place[1]) if not getattr(place[1], "ndim", 0) else place[1], pointing


def ldmatrix(t: Threads, space: str, address: Any, count: int, transposed: bool, site: int) -> tuple[Any, ...]:
    """`count` 8x8 matrices of 16-bit elements; lane l gets elements 2(l%4), 2(l%4)+1 of row l/4 (of column l/4 if transposed)."""
    index, pointing = _rows(t, space, address, count, site)
    check_shared_read(pointing, index, 16, site)
    shared = t.batch.view("shared", "u4")
    words = shared.reshape(-1, 4).take(index // 16, axis=0).reshape(-1, count, 8, 4)  # (warp, matrix, row, word)
    if transposed:
        halves = words.view(np.uint16)
        words = np.ascontiguousarray(halves.swapaxes(2, 3)).view(u4)
    return tuple(np.ascontiguousarray(words[:, n]).ravel() for n in range(count))


def stmatrix(t: Threads, space: str, address: Any, values: tuple[Any, ...], transposed: bool, site: int) -> None:
    """The inverse of ldmatrix."""
    count = len(values)
    index, pointing = _rows(t, space, address, count, site)
    words = np.stack([t.spread(v).reshape(-1, 8, 4) for v in values], 1)
    if transposed:
        words = np.ascontiguousarray(np.ascontiguousarray(words).view(np.uint16).swapaxes(2, 3)).view(u4)
    check_shared_write(pointing, index, 16, site, None, "u4")
    t.batch.view("shared", "u4").reshape(-1, 4)[index // 16] = words.reshape(-1, 4)


def movmatrix(t: Threads, value: Any, site: int) -> Any:
    """Transpose an 8x8 matrix that the warp holds."""
    check_whole(t, site)
    halves = np.ascontiguousarray(t.spread(value)).reshape(-1, 8, 4).view(np.uint16)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).view(u4).ravel()


def _side_by_side(t: Threads, registers: tuple[Any, ...]) -> Any:
    """(threads, registers)"""
    table = np.empty((t.count, len(registers)), registers[0].dtype)
    for n, register in enumerate(registers):
        table[:, n] = register
    return table


def _stacked(t: Threads, registers: tuple[Any, ...], lanes: int = 32) -> Any:
    """Registers side by side: (warps, lanes, registers)."""
    return _side_by_side(t, registers).reshape(-1, lanes, len(registers))


def _apart(fragment: Any) -> tuple[Any, ...]:
    """(warps, lanes, registers) to one array per register."""
    registers = fragment.shape[-1]
    return tuple(np.ascontiguousarray(fragment.reshape(-1, registers).T))


def _finish(result: Any, d_type: str, saturate: bool) -> Any:
    if d_type == "s32":
        return np.clip(result, -(2**31), 2**31 - 1) if saturate else result
    return result


def matrix(t: Threads, layout: str, type_: str, rows: int, columns: int, registers: tuple[Any, ...]) -> Any:
    """An operand of mma.sync out of its registers: (warps, rows, columns)."""
    return to_matrix(unpack(_stacked(t, registers), type_), layout, rows, columns, BITS[type_])


def mma(t: Threads, a: Any, b: Any, c: tuple[Any, ...], d_type: str, c_type: str, operation: str = "", saturate: bool = False) -> Any:
    """mma.sync: D = A B + C, of matrices A and B and of C's registers."""
    product = multiply(a, b, operation)
    shape = product.shape[1:]
    if "f16" in (d_type, c_type):
        total = to_fragment(product, "c", *shape, 32) + unpack(_stacked(t, c), c_type).reshape(len(product), 32, -1)
        return _apart(pack(total, d_type))
    elements = product.reshape(len(product), -1).take(by_register("c", *shape, 32), axis=1)  # (warps, registers, lanes)
    kind = np.dtype(f"i{c[0].dtype.itemsize}" if c_type == "s32" else f"f{c[0].dtype.itemsize}")
    totals = [elements[:, n] + (r.view(kind).reshape(-1, 32) if r.ndim else r.view(kind)) for n, r in enumerate(c)]
    return tuple(pack(_finish(total, d_type, saturate), d_type).ravel() for total in totals)


# ---- wmma


def wmma_load(
    t: Threads, space: str, shape: tuple[int, int], registers: int, type_: str, row_major: bool, address: Any, stride: Any, site: int
) -> tuple[Any, ...]:
    """A matrix of rows x columns whose rows (or columns) are `stride` elements apart."""
    check_whole(t, site)
    bits = BITS[type_]
    words = bits < 8  # elements smaller than a byte come in words
    elements = registers * max(1, 32 // bits) if bits < 64 else registers
    offsets = _wmma_offsets(t, shape, elements, row_major, stride)
    if words:
        per = 32 // bits
        return tuple(load(t, space, "u4", Address(address + (offsets[:, n * per] * bits) // 8), 0, site) for n in range(registers))
    code = f"u{bits // 8}"
    columns = [load(t, space, code, Address(address + offsets[:, n] * (bits // 8)), 0, site) for n in range(elements)]
    stacked = np.ascontiguousarray(np.stack([t.spread(c) for c in columns], -1))
    return _apart((stacked if bits >= 32 else stacked.view(u4)).reshape(1, t.count, -1))


def wmma_store(
    t: Threads,
    space: str,
    shape: tuple[int, int],
    type_: str,
    row_major: bool,
    address: Any,
    stride: Any,
    values: tuple[Any, ...],
    site: int,
) -> None:
    """Store a matrix of accumulators."""
    check_whole(t, site)
    bits = BITS[type_]
    held = np.ascontiguousarray(np.stack([t.spread(v) for v in values], -1))
    cells = held if bits >= 32 else held.view(f"u{bits // 8}")
    offsets = _wmma_offsets(t, shape, cells.shape[1], row_major, stride)
    for n in range(cells.shape[1]):
        store(t, space, f"u{bits // 8}", Address(address + offsets[:, n] * (bits // 8)), 0, np.ascontiguousarray(cells[:, n]), site)


def _wmma_offsets(t: Threads, shape: tuple[int, int], elements: int, row_major: bool, stride: Any) -> Any:
    """Element offsets of each thread's elements: (threads, elements)."""
    row, column = (np.tile(part, (t.count // 32, 1)) for part in layout_wmma(*shape, elements))
    pitch = t.spread(stride).astype(np.int64)[:, None]
    return row * pitch + column if row_major else column * pitch + row


def wmma_mma(
    t: Threads, shape: tuple[int, int, int], types: tuple[str, str, str, str], a: Any, b: Any, c: Any, site: int,
    operation: str = "", saturate: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    """wmma.mma: D = A B + C."""
    check_whole(t, site)
    m, n, k = shape
    d_type, a_type, b_type, c_type = types
    x, y, z = (unpack(_stacked(t, r), ty) for r, ty in ((a, a_type), (b, b_type), (c, c_type)))
    x = to_matrix(x, "wmma", m, k, x.shape[-1])
    y = to_matrix(y, "wmma", k, n, y.shape[-1])
    z = to_matrix(z, "wmma", m, n, z.shape[-1])
    result = _finish(multiply(x, y, operation) + z, d_type, saturate)
    return _apart(pack(to_fragment(result, "wmma", m, n, m * n // 32), d_type))


# ---- wgmma

SWIZZLE_BYTES = {0: 0, 1: 128, 2: 64, 3: 32}  # by the descriptor's bits 62 and 63


def swizzled(address: Any, width: int) -> Any:
    """The shared memory address of a byte under a swizzle of 128, 64 or 32 bytes: bits 4-6 are mixed with bits 7-9."""
    mask = width // 16 - 1 if width else 0
    return address ^ (((address >> 7) & mask) << 4)


def _descriptor_offsets(descriptor: Any, rows: int, row_bytes: int, element: int, k_major: bool) -> tuple[Any, int]:
    """Shared memory addresses of a matrix operand: (descriptors, rows, elements along the depth), and the swizzle width.

    `rows` runs along M or N, `row_bytes` is the depth in bytes. Layouts: CUTLASS's canonical ones (PTX ISA, section 9.7.15.5.1).
    """
    start = ((descriptor & u8(0x3FFF)) << u8(4)).astype(np.int64)[:, None, None]
    leading = (((descriptor >> u8(16)) & u8(0x3FFF)) << u8(4)).astype(np.int64)[:, None, None]
    stride = (((descriptor >> u8(32)) & u8(0x3FFF)) << u8(4)).astype(np.int64)[:, None, None]
    width = SWIZZLE_BYTES[int(descriptor[0] >> u8(62))]
    row = np.arange(rows)[None, :, None]
    depth = np.arange(row_bytes // element)[None, None, :]
    if k_major:
        byte = depth * element
        if width:
            address = start + row % 8 * width + row // 8 * stride + byte
        else:
            address = start + row % 8 * 16 + row // 8 * stride + byte % 16 + byte // 16 * leading
    else:
        per = 16 // element  # elements along M or N in 16 bytes
        if width:
            chunk = per * (width // 16)
            address = start + row % chunk * element + row // chunk * leading + depth % 8 * width + depth // 8 * stride
        else:
            address = start + row % per * element + row // per * stride + depth % 8 * 16 + depth // 8 * leading
    return swizzled(address, width), width


def _operand(t: Threads, descriptor: Any, rows: int, k: int, type_: str, k_major: bool, site: int) -> Any:
    """A matrix operand in shared memory: (warpgroups, rows, k)."""
    groups = t.spread(descriptor).reshape(-1, 128)
    bits = BITS[type_]
    element = max(1, bits // 8)
    address, _ = _descriptor_offsets(groups[:, 0], rows, k * bits // 8, element, k_major)
    if int(address.min()) < 0 or int(address.max()) + element > t.batch.shared_bytes:
        t.fault(
            Kind.OUT_OF_BOUNDS, site, f"its descriptor reaches offset {int(address.max())} of {t.batch.shared_bytes} bytes of shared memory"
        )
    base = t.shared_base
    index = address + (base if not getattr(base, "ndim", 0) else base.reshape(-1, 128)[:, 0][:, None, None])
    state = t.batch.shared_state.take(index)
    if (state != 1).any() and t.batch.fault_limit(site):
        kind = Kind.UNWAITED_COPY if (state == 2).any() else Kind.NEVER_WRITTEN
        t.fault(
            kind,
            site,
            "an operand in shared memory is " + ("still being copied" if kind == Kind.UNWAITED_COPY else "not written everywhere"),
        )
    view = t.batch.view("shared", f"u{element}")
    return unpack(np.ascontiguousarray(view.take(index // element)), "f32" if type_ == "f32" else type_)


def wgmma(
    t: Threads, shape: tuple[int, int, int], types: tuple[str, str, str], d: Any, a: Any, b: Any, accumulate: Any, scales: tuple[int, int],
    transposed: tuple[bool, bool], site: int, operation: str = "", saturate: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    """wgmma.mma_async: D = A B (+ D), done at once. `a`: a descriptor, or the registers of 64 rows."""
    m, n, k = shape
    d_type, a_type, b_type = types
    if t.count % 128 or not t.whole_warps:
        t.fault(Kind.SHUFFLE_MASK, site, "wgmma needs all 128 threads of its warpgroup")
    if isinstance(a, tuple):
        x = to_matrix(unpack(_stacked(t, a), a_type), "a", 16, k, BITS[a_type]).reshape(-1, m, k)
    else:
        x = _operand(t, a, m, k, a_type, not transposed[0], site)
    y = _operand(t, b, n, k, b_type, not transposed[1], site).swapaxes(1, 2)
    z = to_matrix(unpack(_stacked(t, d, 128), d_type), "wgmma", n)
    keep = t.spread(accumulate).reshape(-1, 128)[:, 0][:, None, None]
    z = np.where(keep, z, z.dtype.type(0))
    if scales != (1, 1):
        x = x * (scales[0] * scales[1])
    result = _finish(multiply(x, y, operation) + z, d_type, saturate)
    return _apart(pack(to_fragment(result, "wgmma", n), d_type))
