"""Two halves in one register: f16x2, bf16x2, u16x2, s16x2, f32x2 (PTX ISA, sections 9.7.1, 9.7.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from turnout_cudasim.semantics import conversions, floats

__all__ = ["compare_halves", "half_arithmetic", "integer_pairs", "join", "pairs", "select_bits"]

f2, f4, f8, u2, u4, u8 = np.float16, np.float32, np.float64, np.uint16, np.uint32, np.uint64


def pairs(value: Any, code: str) -> tuple[Any, Any]:
    """Lower and upper half, as the NumPy type `code`."""
    half = np.dtype(code).itemsize
    low = value.astype(f"u{half}").view(code)
    high = (value >> value.dtype.type(8 * half)).astype(f"u{half}").view(code)
    return low, high


def join(low: Any, high: Any) -> Any:
    """Two halves as one register."""
    half = low.dtype.itemsize
    whole = np.dtype(f"u{2 * half}").type
    return low.view(f"u{half}").astype(whole) | (high.view(f"u{half}").astype(whole) << whole(8 * half))


def _canonical(result: Any) -> Any:
    nan = np.isnan(result)
    return np.where(nan, u2(0x7FFF).view(f2), result) if nan.any() else result


_F16: dict[str, Callable[..., Any]] = {
    "add": floats.add_f2,
    "sub": floats.subtract_f2,
    "mul": floats.multiply_f2,
    "fma": floats.fma_f2,
    "min": floats.minimum,
    "max": floats.maximum,
    "ex2": lambda a: np.exp2(a.astype(f4)).astype(f2),
    "tanh": lambda a: np.tanh(a.astype(f4)).astype(f2),
}
_WIDE: dict[str, Callable[..., Any]] = {  # of bfloat16, as float32 values
    "add": lambda a, b: floats._sum_to_odd(a, b),
    "sub": lambda a, b: floats._sum_to_odd(a, -b),
    "mul": lambda a, b: a * b,
    "fma": floats.fma_bf16,
    "min": floats.minimum,
    "max": floats.maximum,
    "ex2": np.exp2,
    "tanh": np.tanh,
}


def half_arithmetic(
    operation: str, format_: str, *operands: Any, nan: bool = False, relu: bool = False, saturate: bool = False, flushed: bool = False
) -> Any:
    """An operation on 16-bit floats, held as their bits (uint16). `flushed`: subnormals in and out become zeros of their sign."""
    if flushed:
        operands = tuple(_flush(o, format_) for o in operands)
        return _flush(half_arithmetic(operation, format_, *operands, nan=nan, relu=relu, saturate=saturate), format_)
    options = {"nan": nan} if operation in ("min", "max") else {}
    if operation in ("neg", "abs"):
        (bits,) = operands
        return bits ^ u2(0x8000) if operation == "neg" else bits & u2(0x7FFF)
    if format_ == "f16":
        result = _canonical(_F16[operation](*(o.view(f2) for o in operands), **options))
        if relu:
            result = np.where(result > 0, result, np.where(np.isnan(result), result, f2(0)))
        return (floats.saturate(result) if saturate else result).view(u2)
    result = _WIDE[operation](*(conversions.decode(o, "bf16") for o in operands), **options)
    if relu:
        result = np.where(result > 0, result, np.where(np.isnan(result), result, 0))
    return conversions.encode(floats.saturate(np.asarray(result)) if saturate else result, "bf16")


def _flush(code: Any, format_: str) -> Any:
    exponent = u2(0x7C00 if format_ == "f16" else 0x7F80)
    return np.where(code & exponent, code, code & u2(0x8000))


def integer_pairs(operation: str, a: Any, b: Any, code: str) -> Any:
    """add, min, max of two 16-bit integers at once."""
    function: Callable[[Any, Any], Any] = {"add": np.add, "min": np.minimum, "max": np.maximum}[operation]
    (al, ah), (bl, bh) = pairs(a, code), pairs(b, code)
    return join(function(al, bl), function(ah, bh))


def compare_halves(comparison: str, a: Any, b: Any) -> Any:
    """setp and set, for floats: the ordered comparisons, and with u those that are true of NaN."""
    ordered: dict[str, Callable[[Any, Any], Any]] = {
        "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    }  # fmt: skip
    if comparison == "num":
        return ~(np.isnan(a) | np.isnan(b))
    if comparison == "nan":
        return np.isnan(a) | np.isnan(b)
    if comparison in ordered:
        result = ordered[comparison](a, b)
        return result & (a == a) & (b == b) if comparison == "ne" else result
    result = ordered[comparison[:-1]](a, b)
    return result if comparison == "neu" else result | (a != a) | (b != b)


def select_bits(condition: Any, code: str) -> Any:
    """set: all ones or zero for integers, 1.0 or 0.0 for floats."""
    kind = np.dtype(code)
    true = kind.type(1) if kind.kind == "f" else np.array(-1).astype(kind)[()]
    return np.where(condition, true, kind.type(0))
