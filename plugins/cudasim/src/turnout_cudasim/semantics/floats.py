"""Floating point instructions (PTX ISA, sections 9.7.3 to 9.7.5): rounding as asked for, NVIDIA's NaN, signed zeros, flushed subnormals.

Sums that float64 cannot hold are kept *rounded to odd* (Boldo and Melquiond, 2008): the last bit of an inexact value is made 1. Rounding
such a value once more, to any narrower format in any direction, gives what rounding the exact value would have.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from turnout_cudasim.semantics.fused import fma

__all__ = [
    "add_f2", "bits", "coarse",
    "copy_sign", "cosine", "directed_add", "directed_divide", "directed_fma", "directed_multiply",
    "directed_sqrt", "exp2", "flush", "fma_bf16", "fma_f2", "log2", "maximum", "minimum", "multiply_f2", "reciprocal",
    "rsqrt", "saturate", "sine", "sqrt", "subtract_f2", "tanh", "testp",
]  # fmt: skip

f2, f4, f8, u2, u4, u8, i8 = np.float16, np.float32, np.float64, np.uint16, np.uint32, np.uint64, np.int64

NAN_F4 = u4(0x7FFFFFFF)
NAN_F8 = u8(0x7FF8000000000000)
TINY_F4 = f4(2.0**-126)


def bits(a: Any) -> Any:
    """An arithmetic result as its bits; a NaN there is NVIDIA's, 0x7fffffff, not the host's."""
    raw = a.view(f"u{a.dtype.itemsize}")
    nan = np.isnan(a)
    if not nan.any():
        return raw
    return np.where(nan, NAN_F4 if a.dtype.itemsize == 4 else NAN_F8, raw)


# ---- exact sums


def _two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """The rounded sum and its error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _odd(value: Any, error: Any) -> Any:
    """`value`, whose rounding left `error` behind, rounded to odd instead."""
    raw = np.asarray(value).view(i8)
    inexact = (error != 0) & np.isfinite(value) & np.isfinite(error) & ((raw & 1) == 0)
    if not np.any(inexact):
        return value
    away = (error > 0) == (value > 0)  # the exact value is larger in magnitude
    return np.where(inexact, raw + np.where(away, 1, -1), raw).view(f8)


def _sum_to_odd(a: Any, b: Any) -> Any:
    return _odd(*_two_sum(np.asarray(a, f8), np.asarray(b, f8)))


def _product(a: Any, b: Any) -> tuple[Any, Any]:
    """The rounded product of float64 values and its error (Dekker, with Veltkamp's splitting)."""
    product = a * b
    ah, al = _split(a)
    bh, bl = _split(b)
    return product, ((ah * bh - product) + ah * bl + al * bh) + al * bl


def _split(a: Any) -> tuple[Any, Any]:
    c = a * f8(134217729.0)
    high = c - (c - a)
    return high, a - high


# ---- float32


def flush(a: Any) -> Any:
    """.ftz: subnormal float32 values become zeros of their sign."""
    small = (np.abs(a) < TINY_F4) & (a != 0)
    return np.where(small, np.copysign(f4(0), a), a) if small.any() else a


def coarse(a: Any) -> Any:
    """The upper 32 bits of a float64; subnormals become zeros of their sign."""
    raw = np.asarray(a).view(u8) & u8(0xFFFFFFFF00000000)
    return np.where(raw & u8(0x7FF0000000000000), raw, raw & u8(1 << 63)).view(f8)


def saturate(a: Any) -> Any:
    """.sat: into [0, 1], NaN to +0."""
    zero, one = a.dtype.type(0), a.dtype.type(1)
    return np.where(a > zero, np.where(a < one, a, one), zero)


def directed_add(a: Any, b: Any, mode: str) -> Any:
    """a + b rounded towards zero (z), minus (m) or plus infinity (p)."""
    if a.dtype == f4:
        return _narrow(_sum_to_odd(a.astype(f8), np.asarray(b, f8)), mode, _zero_sign(a, b, mode))
    return _exactly(lambda x, y: x + y, mode, a, b, negative_zero=_zero_sign(a, b, mode))


def directed_multiply(a: Any, b: Any, mode: str) -> Any:
    if a.dtype == f4:
        return _narrow(a.astype(f8) * b, mode)
    return _exactly(lambda x, y: x * y, mode, a, b)


def directed_fma(a: Any, b: Any, c: Any, mode: str) -> Any:
    if a.dtype == f4:
        product = a.astype(f8) * b
        return _narrow(_sum_to_odd(product, np.asarray(c, f8)), mode, _zero_sign(product, c, mode))
    nearest = fma(a, b, c)  # and not x * y + z, which may overflow on the way
    return _exactly(lambda x, y, z: x * y + z, mode, a, b, c, negative_zero=_zero_sign(a * b, c, mode), nearest=nearest)


def directed_divide(a: Any, b: Any, mode: str) -> Any:
    if a.dtype == f4:
        x, y = a.astype(f8), np.asarray(b, f8)
        quotient = x / y
        product, error = _product(quotient, y)
        rest = (x - product) - error
        return _narrow(_odd(quotient, np.where(np.isfinite(quotient), rest * np.sign(y), 0)), mode)
    return _exactly(lambda x, y: x / y, mode, a, b)


def directed_sqrt(a: Any, mode: str) -> Any:
    if a.dtype == f4:
        x = a.astype(f8)
        root = np.sqrt(x)
        square, error = _product(root, root)
        return _narrow(_odd(root, np.where(np.isfinite(root), (x - square) - error, 0)), mode)
    nearest = np.sqrt(a)
    square, error = _product(nearest, nearest)
    return _directed_f8(nearest, np.where(np.isfinite(nearest), (a - square) - error, 0), mode, nearest)


def _zero_sign(a: Any, b: Any, mode: str) -> Any:
    """An exact zero sum of opposite values is -0 when rounding down."""
    if mode != "m":
        return None
    return (a + b == 0) & (np.signbit(a) != np.signbit(b))


def _with_zero(value: Any, negative: Any) -> Any:
    return value if negative is None else np.where(negative & (value == 0), value.dtype.type(-0.0), value)


def _narrow(value: Any, mode: str, negative_zero: Any = None) -> Any:
    """A float64 (exact, or rounded to odd) to float32 in the direction `mode`."""
    value = np.asarray(value)
    rounded = value.astype(f4)
    back = rounded.astype(f8)
    if mode == "z":
        step, limit = np.abs(back) > np.abs(value), f4(0)
    elif mode == "m":
        step, limit = back > value, f4(-np.inf)
    else:
        step, limit = back < value, f4(np.inf)
    rounded = np.where(step, np.nextafter(rounded, limit), rounded)
    return _with_zero(rounded, negative_zero)


def _directed_f8(value: Any, error: Any, mode: str, nearest: Any) -> Any:
    """Correct the nearest float64 by the sign of what rounding left over."""
    inexact = np.isfinite(value) & (error != 0)
    if mode == "z":
        step, limit = inexact & ((error > 0) != (value > 0)), f8(0)
    elif mode == "m":
        step, limit = inexact & (error < 0), f8(-np.inf)
    else:
        step, limit = inexact & (error > 0), f8(np.inf)
    return np.where(step, np.nextafter(value, limit), nearest)


def _exactly(function: Callable[..., Any], mode: str, *arguments: Any, negative_zero: Any = None, nearest: Any = None) -> Any:
    """float64 in a direction, one value at a time in exact fractions: rare, so it is written to be right.

    negative_zero: where an exact zero is -0. What merely underflows to zero keeps the sign of the exact value. nearest: where it is not
    what NumPy makes of the function.
    """
    whole = np.broadcast_arrays(*arguments)
    nearest = function(*whole) if nearest is None else nearest
    flat = [np.ravel(a) for a in whole]
    result = np.array(nearest, f8).ravel()
    negative = np.zeros(result.size, bool) if negative_zero is None else np.ravel(np.broadcast_to(negative_zero, np.shape(nearest)))
    for at in range(result.size):
        numbers = [float(a[at]) for a in flat]
        if not all(np.isfinite(numbers)):
            continue
        try:
            exact = function(*(Fraction(n) for n in numbers))
        except ZeroDivisionError:
            continue
        result[at] = -0.0 if exact == 0 and negative[at] else _round_fraction(exact, mode, float(result[at]))
    return result.reshape(np.shape(nearest))


def _round_fraction(exact: Fraction, mode: str, nearest: float) -> float:
    if exact == 0:
        return nearest
    try:
        value = float(exact)  # correctly rounded to nearest
    except OverflowError:
        value = np.inf if exact > 0 else -np.inf
    below = value == -np.inf or (value != np.inf and Fraction(value) < exact)
    above = value == np.inf or (value != -np.inf and Fraction(value) > exact)
    if above and (mode == "m" or (mode == "z" and exact > 0)):
        return float(np.nextafter(value, -np.inf))
    if below and (mode == "p" or (mode == "z" and exact < 0)):
        return float(np.nextafter(value, np.inf))
    return value


# ---- float64, float16, bfloat16


def add_f2(a: Any, b: Any) -> Any:
    return (a.astype(f4) + b.astype(f4)).astype(f2)


def subtract_f2(a: Any, b: Any) -> Any:
    return (a.astype(f4) - b.astype(f4)).astype(f2)


def multiply_f2(a: Any, b: Any) -> Any:
    return (a.astype(f4) * b.astype(f4)).astype(f2)


def fma_f2(a: Any, b: Any, c: Any) -> Any:
    """Products of float16 are exact in float32, their sums rounded to odd in float64."""
    return _sum_to_odd(a.astype(f8) * b.astype(f8), c.astype(f8)).astype(f2)


def fma_bf16(a: Any, b: Any, c: Any) -> Any:
    """On float32 values that are bfloat16; the result is float64, rounded to odd, for the caller to narrow."""
    return _sum_to_odd(a.astype(f8) * b.astype(f8), c.astype(f8))


def minimum(a: Any, b: Any, nan: bool = False) -> Any:
    """NaN loses, or wins with .NaN; -0 is less than +0."""
    least = np.minimum(a, b) if nan else np.fmin(a, b)
    zero = (a == 0) & (b == 0)
    return np.where(zero & (np.signbit(a) | np.signbit(b)), a.dtype.type(-0.0), least) if zero.any() else least


def maximum(a: Any, b: Any, nan: bool = False) -> Any:
    """NaN loses, or wins with .NaN; +0 is more than -0."""
    most = np.maximum(a, b) if nan else np.fmax(a, b)
    zero = (a == 0) & (b == 0)
    return np.where(zero & ~(np.signbit(a) & np.signbit(b)), a.dtype.type(0.0), most) if zero.any() else most


# ---- functions that the hardware approximates: here to float32's own precision


def exp2(a: Any) -> Any:
    return np.exp2(a)


def log2(a: Any) -> Any:
    return np.log2(a)


def sine(a: Any) -> Any:
    return np.sin(a)


def cosine(a: Any) -> Any:
    return np.cos(a)


def tanh(a: Any) -> Any:
    return np.tanh(a)


def sqrt(a: Any) -> Any:
    return np.sqrt(a)


def reciprocal(a: Any) -> Any:
    return a.dtype.type(1) / a


def rsqrt(a: Any) -> Any:
    return (1 / np.sqrt(a.astype(f8))).astype(a.dtype)


def copy_sign(sign: Any, magnitude: Any) -> Any:
    return np.copysign(magnitude, sign)


def testp(a: Any, what: str) -> Any:
    """Classes of floats."""
    tiny = np.finfo(a.dtype).tiny
    if what == "finite":
        return np.isfinite(a)
    if what == "infinite":
        return np.isinf(a)
    if what == "number":
        return ~np.isnan(a)
    if what == "notanumber":
        return np.isnan(a)
    normal = np.isfinite(a) & (np.abs(a) >= tiny)
    return normal if what == "normal" else np.isfinite(a) & ~normal
