"""Integer and bit instructions (PTX ISA, sections 9.7.1, 9.7.2 and 9.7.8)."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "add_carry", "add_saturated", "bfe", "bfi", "bfind", "bmsk", "brev", "clz", "divide", "dot2", "dot4", "fns", "funnel_left",
    "funnel_right", "multiply_high", "permute", "popc", "remainder", "sad", "shift_left", "shift_right", "subtract_borrow",
    "subtract_saturated", "szext", "widen",
]  # fmt: skip

u4, u8, i8 = np.uint32, np.uint64, np.int64


def _bits(a: Any) -> int:
    return int(8 * a.dtype.itemsize)


def widen(a: Any) -> Any:
    """The same value in twice the bits."""
    return a.astype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")


def multiply_high(a: Any, b: Any) -> Any:
    """The upper half of the product."""
    if a.dtype.itemsize < 8:
        return ((widen(a) * widen(b)) >> _bits(a)).astype(a.dtype)
    mask, half = u8(0xFFFFFFFF), u8(32)
    x, y = a.view(u8), b.view(u8)
    xl, xh, yl, yh = x & mask, x >> half, y & mask, y >> half
    middle = xh * yl + (xl * yl >> half)
    high = xh * yh + (middle >> half) + ((xl * yh + (middle & mask)) >> half)
    if a.dtype.kind == "i":  # the unsigned product counts 2^64 too often for each negative factor
        high = high - np.where(a < 0, y, u8(0)) - np.where(b < 0, x, u8(0))
    return high.view(a.dtype)


def divide(a: Any, b: Any) -> Any:
    """Division that cuts towards zero. By zero: all bits set, as the hardware answers."""
    if a.dtype.kind == "u":
        return np.where(b == 0, a.dtype.type(np.iinfo(a.dtype).max), a // np.where(b == 0, b.dtype.type(1), b))
    safe = np.where(b == 0, b.dtype.type(1), b)
    floor = a // safe
    quotient = floor + ((floor * safe != a) & ((a < 0) != (safe < 0))).astype(a.dtype)
    return np.where(b == 0, a.dtype.type(-1), quotient)


def remainder(a: Any, b: Any) -> Any:
    """What `divide` leaves: it has the sign of the dividend."""
    safe = np.where(b == 0, b.dtype.type(1), b)
    return np.where(b == 0, a, np.fmod(a, safe))


def add_carry(a: Any, b: Any, carry: Any) -> tuple[Any, Any]:
    """a + b + carry, and whether it overflowed; unsigned."""
    total = a + b
    over = total < a
    with_carry = total + carry.astype(a.dtype)
    return with_carry, over | (with_carry < total)


def subtract_borrow(a: Any, b: Any, borrow: Any) -> tuple[Any, Any]:
    """a - b - borrow, and whether it borrowed; unsigned."""
    difference = a - b
    under = a < b
    with_borrow = difference - borrow.astype(a.dtype)
    return with_borrow, under | (difference < with_borrow)


def add_saturated(a: Any, b: Any) -> Any:
    return _clamped(a.astype(i8) + b.astype(i8), a.dtype)


def subtract_saturated(a: Any, b: Any) -> Any:
    return _clamped(a.astype(i8) - b.astype(i8), a.dtype)


def _clamped(value: Any, dtype: Any) -> Any:
    limits = np.iinfo(dtype)
    return np.clip(value, limits.min, limits.max).astype(dtype)


def shift_left(a: Any, by: Any) -> Any:
    """Shifts of the width or more give 0."""
    width = _bits(a)
    return np.where(by >= width, a.dtype.type(0), a << np.minimum(by, width - 1).astype(a.dtype))


def shift_right(a: Any, by: Any) -> Any:
    """Shifts of the width or more give 0, or the sign."""
    width = _bits(a)
    shifted = a >> np.minimum(by, width - 1).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(by >= width, a.dtype.type(0), shifted)


def funnel_left(low: Any, high: Any, by: Any, clamp: bool) -> Any:
    """shf.l: the upper word of high:low shifted left."""
    n = (np.minimum(by, u4(32)) if clamp else by & u4(31)).astype(u8)
    return ((((high.astype(u8) << u8(32)) | low.astype(u8)) << n) >> u8(32)).astype(u4)


def funnel_right(low: Any, high: Any, by: Any, clamp: bool) -> Any:
    """shf.r: the lower word of high:low shifted right."""
    n = (np.minimum(by, u4(32)) if clamp else by & u4(31)).astype(u8)
    return (((high.astype(u8) << u8(32)) | low.astype(u8)) >> n).astype(u4)


def bfe(a: Any, position: Any, length: Any) -> Any:
    """Bit field extract; signed types repeat the field's sign, beyond the value its own."""
    width = _bits(a)
    pos, size = (position & u4(255)).astype(i8), (length & u4(255)).astype(i8)
    wide = a.astype(i8) if width < 64 else a
    if width == 64:
        field = shift_right(a.view(u8), np.minimum(pos, 64))
        kept = np.minimum(size, np.maximum(64 - pos, 0))
    else:
        field = ((wide & ((1 << width) - 1)) >> np.minimum(pos, width)).astype(u8)
        kept = np.minimum(size, np.maximum(width - pos, 0))
    mask = shift_left(u8(1), kept) - u8(1)
    value = field & mask
    if a.dtype.kind == "i":
        top = np.minimum(pos + size - 1, width - 1)
        unsigned = a.view(f"u{a.dtype.itemsize}").astype(u8)
        sign = ((unsigned >> np.maximum(top, 0).astype(u8)) & u8(1)).astype(bool) & (size > 0)
        value = np.where(sign, value | ~mask, value)
    return value.astype(f"u{a.dtype.itemsize}").view(a.dtype)


def bfi(field: Any, into: Any, position: Any, length: Any) -> Any:
    """Bit field insert."""
    width = _bits(into)
    pos, size = (position & u4(255)).astype(u8), (length & u4(255)).astype(u8)
    mask = shift_left(shift_left(u8(1), size) - u8(1), pos)
    return ((shift_left(field.astype(u8), pos) & mask) | (into.astype(u8) & ~mask)).astype(f"u{width // 8}")


def popc(a: Any) -> Any:
    return np.bitwise_count(a).astype(u4)


def _highest_bit(a: Any) -> Any:
    """The place of the highest set bit, as int64; -1 for 0."""
    if a.dtype.itemsize == 8:
        high = (a >> u8(32)).astype(u4)
        return np.where(high != 0, _highest_bit(high) + 32, _highest_bit((a & u8(0xFFFFFFFF)).astype(u4)))
    exponent = (np.asarray(a.astype(np.float64)).view(i8) >> 52) - 1023  # 32-bit integers are exact in float64
    return np.where(a == 0, i8(-1), exponent)


def clz(a: Any) -> Any:
    """Leading zeros."""
    return (_bits(a) - 1 - _highest_bit(a)).astype(u4)


def bfind(a: Any, as_shift: bool) -> Any:
    """The highest bit that is not the sign; 0xffffffff if there is none."""
    unsigned = a.view(f"u{a.dtype.itemsize}")
    value = np.where(a < 0, ~unsigned, unsigned) if a.dtype.kind == "i" else unsigned
    place = _highest_bit(value)
    found = (_bits(a) - 1 - place) if as_shift else place
    return np.where(place < 0, u4(0xFFFFFFFF), found.astype(u4))


def brev(a: Any) -> Any:
    """Bits in reverse order."""
    width = _bits(a)
    masks: dict[int, tuple[int, ...]] = {32: (0x55555555, 0x33333333, 0x0F0F0F0F, 0x00FF00FF, 0x0000FFFF)}
    masks[64] = (*(m | m << 32 for m in masks[32][:4]), 0x0000FFFF0000FFFF, 0x00000000FFFFFFFF)
    for step, mask in enumerate(masks[width]):
        shift, keep = a.dtype.type(1 << step), a.dtype.type(mask)
        a = ((a >> shift) & keep) | ((a & keep) << shift)
    return a


def permute(a: Any, b: Any, selector: Any, mode: str = "") -> Any:
    """prmt: four bytes chosen from b:a."""
    pair = (b.astype(u8) << u8(32)) | a.astype(u8)
    lowest = (selector & u4(3)).astype(u8)
    result = u4(0)
    for i in range(4):
        signed = None
        if mode == "":
            nibble = (selector >> u4(4 * i)) & u4(15)
            index, signed = (nibble & u4(7)).astype(u8), (nibble & u4(8)) != 0
        elif mode == "f4e":
            index = lowest + u8(i)
        elif mode == "b4e":
            index = (lowest - u8(i)) & u8(7)
        elif mode == "rc8":
            index = lowest
        elif mode == "rc16":
            index = (lowest & u8(1)) * u8(2) + u8(i & 1)
        else:  # ecl and ecr: clamp to the edge on the left or the right
            index = np.maximum(lowest, u8(i)) if mode == "ecl" else np.minimum(lowest, u8(i))
        byte = ((pair >> (index * u8(8))) & u8(255)).astype(u4)
        if signed is not None:
            byte = np.where(signed, (byte >> u4(7)) * u4(255), byte)
        result = result | (byte << u4(8 * i))
    return result


def sad(a: Any, b: Any, c: Any) -> Any:
    """c + |a - b|"""
    difference = np.where(a < b, b - a, a - b)
    return c + difference.astype(c.dtype)


def _bytes(a: Any, signed: bool) -> list[Any]:
    kind = "i1" if signed else "u1"
    return [(a >> u4(8 * i)).astype("u1").view(kind).astype(np.int32) for i in range(4)]


def dot4(a: Any, b: Any, c: Any, a_signed: bool, b_signed: bool) -> Any:
    """dp4a: c + the dot product of four bytes."""
    products = [x * y for x, y in zip(_bytes(a, a_signed), _bytes(b, b_signed), strict=True)]
    return (products[0] + products[1] + products[2] + products[3]).view(u4) + c


def dot2(a: Any, b: Any, c: Any, a_signed: bool, b_signed: bool, high: bool) -> Any:
    """dp2a: c + the dot product of two 16-bit values and the lower or upper two bytes."""
    kind = "i2" if a_signed else "u2"
    halves = [(a >> u4(16 * i)).astype("u2").view(kind).astype(i8) for i in range(2)]
    bytes_ = _bytes(b, b_signed)[2 if high else 0 :][:2]
    return (halves[0] * bytes_[0] + halves[1] * bytes_[1]).astype(u4) + c


def fns(mask: Any, base: Any, offset: Any) -> Any:
    """Find the n-th set bit, from a base; 0xffffffff if there is none."""
    mask, base, offset = np.broadcast_arrays(mask, base, offset.view(np.int32) if offset.dtype.kind == "u" else offset)
    result = np.full(mask.shape, 0xFFFFFFFF, u4)
    places = np.arange(32)
    bits = ((mask[..., None] >> places.astype(u4)) & u4(1)).astype(bool)
    up = bits & (places >= base[..., None])
    down = bits & (places <= base[..., None])
    rank_up = np.cumsum(up, -1)
    rank_down = np.cumsum(down[..., ::-1], -1)[..., ::-1]
    n = offset[..., None]
    hit = np.where(n > 0, up & (rank_up == n), np.where(n < 0, down & (rank_down == -n), bits & (places == base[..., None])))
    found = hit.any(-1)
    result[found] = hit.argmax(-1)[found]
    return result


def bmsk(start: Any, width: Any, clamp: bool) -> Any:
    """A mask of `width` ones from bit `start` on."""
    a, b = (start, width) if clamp else (start & u4(31), width & u4(31))
    return shift_left(shift_left(u8(1), np.minimum(b, u4(32))) - u8(1), np.minimum(a, u4(32))).astype(u4)


def szext(a: Any, size: Any, clamp: bool) -> Any:
    """Keep `size` bits, extended by zero or sign."""
    n = np.minimum(size, u4(32)) if clamp else size & u4(31)
    return bfe(a, u4(0), n)
