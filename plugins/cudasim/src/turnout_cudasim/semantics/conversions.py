"""cvt: between integers and floats of every size, with rounding and saturation (PTX ISA, section 9.7.9.21)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from turnout_cudasim.semantics.floats import _narrow

__all__ = [
    "decode",
    "encode",
    "float_to_int",
    "int_to_float",
    "int_to_int_saturated",
    "int_to_odd",
    "pack_integers",
    "round_integral",
    "to_f2",
    "to_f4",
    "to_tf32",
]

f2, f4, f8, u2, u4, u8, i8 = np.float16, np.float32, np.float64, np.uint16, np.uint32, np.uint64, np.int64

TINY_F2 = f4(2.0**-14)
HALVES = np.arange(1 << 16, dtype=u2).view(f2).astype(f4)  # every float16: looking up is faster than NumPy's conversion
ROUND_INTEGRAL = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@dataclass(frozen=True)
class Small:
    """A float format that NumPy lacks: sign, `exponent` bits with `bias`, `mantissa` bits. `largest` is its greatest finite value."""

    exponent: int
    mantissa: int
    bias: int
    largest: float
    infinity: int | None  # its code, if it has one
    nan: int | None
    signed: bool = True


FORMATS = {
    "f16": Small(5, 10, 15, 65504.0, 0x7C00, 0x7FFF),
    "bf16": Small(8, 7, 127, float.fromhex("0x1.fep127"), 0x7F80, 0x7FFF),
    "tf32": Small(8, 10, 127, float.fromhex("0x1.ffcp127"), 0xFF << 10, 0x3FFFF),
    "e4m3": Small(4, 3, 7, 448.0, None, 0x7F),
    "e5m2": Small(5, 2, 15, 57344.0, 0x7C, 0x7F),
    "e2m1": Small(2, 1, 1, 6.0, None, None),
    "e2m3": Small(2, 3, 1, 7.5, None, None),
    "e3m2": Small(3, 2, 3, 28.0, None, None),
    "ue8m0": Small(8, 0, 127, 2.0**127, None, 0xFF, signed=False),
}


def decode(code: Any, format_: str, flushed: bool = False) -> Any:
    """Codes of a small format to float32, exactly; `flushed`: float16's subnormals as zeros of their sign."""
    if format_ == "f16":
        value = HALVES.take(code)
        return np.where(np.abs(value) < TINY_F2, np.copysign(f4(0), value), value) if flushed else value
    if format_ == "bf16":
        return (code.astype(u4) << u4(16)).view(f4)
    return _decoding_table(format_)[code.astype(np.intp)]


_TABLES: dict[str, Any] = {}


def _decoding_table(format_: str) -> Any:
    if format_ not in _TABLES:
        small = FORMATS[format_]
        width = small.exponent + small.mantissa + small.signed
        codes = np.arange(1 << 8 if width <= 8 else 1 << width)
        magnitude = codes & ((1 << (small.exponent + small.mantissa)) - 1)
        exponent, mantissa = magnitude >> small.mantissa, magnitude & ((1 << small.mantissa) - 1)
        normal = np.ldexp(1 + mantissa / (1 << small.mantissa), exponent - small.bias)
        subnormal = np.ldexp(mantissa / (1 << small.mantissa), 1 - small.bias)
        value = np.where(exponent > 0, normal, subnormal) if small.mantissa else np.ldexp(1.0, exponent - small.bias)
        if small.infinity is not None:
            value = np.where(magnitude == small.infinity, np.inf, np.where(magnitude > small.infinity, np.nan, value))
        elif small.nan is not None:
            value = np.where(magnitude == small.nan, np.nan, value)
        sign = (codes >> (small.exponent + small.mantissa)) & 1 if small.signed else 0
        _TABLES[format_] = np.where(sign, -value, value).astype(f4)
    return _TABLES[format_]


def encode(value: Any, format_: str, mode: str = "n", *, finite: bool = False, relu: bool = False) -> Any:
    """Floats to codes of a small format. `mode`: n (nearest, ties to even), na (ties away), z, m, p. `finite`: no infinities."""
    small = FORMATS[format_]
    x = np.asarray(value, f8)
    if relu:
        x = np.where(x > 0, x, np.where(np.isnan(x), x, 0.0))
    if format_ == "bf16" and mode == "n" and np.asarray(value).dtype == f4 and not finite:
        return _encode_bf16(x.astype(f4))
    magnitude = np.abs(x)
    exponent = np.frexp(np.where(np.isfinite(magnitude), magnitude, 1.0))[1] - 1
    step = np.maximum(exponent, 1 - small.bias if small.mantissa else -small.bias) - small.mantissa
    scaled = np.ldexp(magnitude, -step)
    negative = np.signbit(x)
    rounded = _round(scaled, mode, negative)
    result = np.ldexp(rounded, step)
    saturates = finite or small.infinity is None
    # Directed rounding stops at the largest finite value on the side that it does not favour.
    stops = saturates | (mode == "z") | ((mode == "m") & ~negative) | ((mode == "p") & negative)
    over = np.isfinite(magnitude) & (result > small.largest)
    result = np.where(over, np.where(stops, small.largest, np.inf), result)
    result = np.where(np.isinf(magnitude), small.largest if saturates else np.inf, result)
    code = _code(result, small)
    sign = (negative.astype(i8) << (small.exponent + small.mantissa)) if small.signed else 0
    code = code | sign
    nan = np.isnan(x)
    if nan.any():
        code = np.where(nan, small.nan if small.nan is not None else _code(np.asarray(small.largest), small), code)
    width = small.exponent + small.mantissa + small.signed
    return code.astype(u4 if width > 16 else u2 if width > 8 else np.uint8)


def _code(magnitude: Any, small: Small) -> Any:
    """The code, without sign, of a magnitude that the format holds."""
    finite = np.where(np.isfinite(magnitude), magnitude, 0.0)
    exponent = np.frexp(finite)[1] - 1
    biased = exponent + small.bias
    if small.mantissa == 0:
        return np.maximum(biased, 0).astype(i8)
    normal = biased >= 1
    mantissa = np.where(
        normal,
        np.ldexp(finite, small.mantissa - exponent) - (1 << small.mantissa),
        np.ldexp(finite, small.bias - 1 + small.mantissa),
    ).astype(i8)
    code = np.where(normal, biased.astype(i8) << small.mantissa, 0) + mantissa
    code = np.where(finite == 0, 0, code)
    return code if small.infinity is None else np.where(np.isinf(magnitude), small.infinity, code)


def _encode_bf16(x: Any) -> Any:
    """The common case: float32 to bfloat16, nearest even."""
    raw = x.view(u4)
    rounded = ((raw + (u4(0x7FFF) + ((raw >> u4(16)) & u4(1)))) >> u4(16)).astype(u2)
    nan = np.isnan(x)
    return np.where(nan, u2(0x7FFF), rounded) if nan.any() else rounded


def _round(scaled: Any, mode: str, negative: Any) -> Any:
    if mode == "n":
        return np.rint(scaled)
    if mode == "na":
        return np.floor(scaled + 0.5)
    if mode == "z":
        return np.floor(scaled)
    up = negative if mode == "m" else ~negative
    return np.where(up, np.ceil(scaled), np.floor(scaled))


def to_f2(value: Any, mode: str = "n", *, relu: bool = False, finite: bool = False) -> Any:
    """To float16."""
    if mode == "n" and not finite:
        x = np.where(value > 0, value, np.where(np.isnan(value), value, value.dtype.type(0))) if relu else value
        result = x.astype(f2)
        nan = np.isnan(x)
        return np.where(nan, u2(0x7FFF).view(f2), result) if nan.any() else result
    return encode(value, "f16", mode, finite=finite, relu=relu).view(f2)


def to_f4(value: Any, mode: str = "n") -> Any:
    """float64 to float32."""
    return value.astype(f4) if mode == "n" else _narrow(value, mode)


def to_tf32(value: Any, mode: str = "n", *, relu: bool = False, finite: bool = False) -> Any:
    """float32 to tf32, kept in 32 bits whose lower 13 are zero."""
    return encode(value, "tf32", mode, relu=relu, finite=finite).astype(u4) << u4(13)


def float_to_int(value: Any, mode: str, code: str) -> Any:
    """Round to an integer and clamp; NaN gives 0, or the highest bit alone where the source or the result has 64 bits."""
    x = ROUND_INTEGRAL[mode](np.asarray(value, f8))
    limits = np.iinfo(code)
    wide = limits.bits == 64 or np.asarray(value).dtype == f8
    nan = (limits.min or 1 << (limits.bits - 1)) if wide else 0
    if limits.bits < 64:
        return np.where(np.isnan(x), nan, np.clip(x, limits.min, limits.max)).astype(i8).astype(code)
    top = 2.0 ** (63 if code == "i8" else 64)
    inside = (x > float(limits.min) if code == "i8" else x >= 0) & (x < top)
    result = np.where(inside, x, 0).astype(code)
    clamped = np.where(x >= top, limits.max, np.where(inside, result, np.dtype(code).type(limits.min)))
    return np.where(np.isnan(x), np.dtype(code).type(nan), clamped)


def int_to_float(value: Any, mode: str, code: str) -> Any:
    """Integers to floats in any direction."""
    if mode == "n":
        if code == "f2":
            return value.astype(f8).astype(f2)
        return value.astype(code)
    if code == "f2":
        return encode(value.astype(f8), "f16", mode).view(f2)
    if code == "f4" and value.dtype.itemsize < 8:
        return _narrow(value.astype(f8), mode)
    nearest = value.astype(code)
    back = _as_big(nearest)
    exact = np.asarray(value).astype(object)
    down, up = np.asarray(back > exact, bool), np.asarray(back < exact, bool)
    kind = np.dtype(code).type
    lower, higher = np.nextafter(nearest, kind(-np.inf)), np.nextafter(nearest, kind(np.inf))
    if mode == "z":
        positive = np.asarray(value >= 0)
        down, up = down & positive, up & ~positive
    elif mode == "m":
        up = np.zeros_like(up)
    else:
        down = np.zeros_like(down)
    return np.where(down, lower, np.where(up, higher, nearest))


def int_to_odd(value: Any) -> Any:
    """Integers to float64; those that do not fit are rounded to odd, so that rounding once more gives what rounding once would."""
    long = value.astype(np.int64 if value.dtype.kind == "i" else u8)
    top = long >> long.dtype.type(53)
    low = long & long.dtype.type(0x7FF)
    odd = (long - low) | np.where(low != 0, long.dtype.type(0x800), long.dtype.type(0))
    return np.where((top == 0) | (top == long.dtype.type(0) - long.dtype.type(value.dtype.kind == "i")), long, odd).astype(f8)


def _as_big(value: Any) -> Any:
    return np.frompyfunc(int, 1, 1)(np.asarray(value).astype(object))


def int_to_int_saturated(value: Any, code: str) -> Any:
    """Clamp to the limits of the narrower type."""
    limits, own = np.iinfo(code), np.iinfo(value.dtype)
    low, high = max(limits.min, own.min), min(limits.max, own.max)
    return np.clip(value, value.dtype.type(low), value.dtype.type(high)).astype(code)


def round_integral(value: Any, mode: str) -> Any:
    """cvt.r?i between floats."""
    return ROUND_INTEGRAL[mode](value)


def pack_integers(a: Any, b: Any, code: str, c: Any = None) -> Any:
    """cvt.pack.sat: two 32-bit integers, saturated, above what `c` had."""
    width = {"i2": 16, "u2": 16, "i1": 8, "u1": 8}[code]
    low = int_to_int_saturated(b, code).astype(f"u{width // 8}").astype(u4)
    high = int_to_int_saturated(a, code).astype(f"u{width // 8}").astype(u4)
    pair = (high << u4(width)) | low
    return pair if c is None else (c << u4(2 * width)) | pair
