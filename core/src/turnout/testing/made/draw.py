"""What made cases are made of: element types of an operator, and arrays drawn the same way every time."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["DTYPES", "Array", "draw", "dtypes_of", "is_float", "is_narrow", "specials", "strided"]

Array = np.ndarray[Any, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    **{name: np.dtype(name) for name in ("float16", "bool", "int8", "int16", "int32", "int64")},
    **{name: np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64", "complex64", "complex128")},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "float8e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "float8e8m0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "float4e2m1": np.dtype(ml_dtypes.float4_e2m1fn),
    "int4": np.dtype(ml_dtypes.int4),
    "uint4": np.dtype(ml_dtypes.uint4),
    "int2": np.dtype(ml_dtypes.int2),
    "uint2": np.dtype(ml_dtypes.uint2),
    "string": np.dtype(object),
}
"""ONNX's name of an element type to the type of the array; float32 first, since it is what nearly everybody takes."""

_WORDS = ("", "a", "Zug", "gleis 7", "turnout", "schöne Weiche", "軌道", "line\nbreak")


def dtypes_of(schema: Any, parameter: str = "T") -> list[str]:
    """The element types, by ONNX's names, that a type parameter of a schema admits for tensors."""
    for constraint in schema.type_constraints:
        if constraint.type_param_str == parameter:
            admitted = {text[7:-1] for text in constraint.allowed_type_strs if text.startswith("tensor(")}
            return [name for name in DTYPES if name in admitted]
    return []


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether it holds fractions: IEEE 754 types, bfloat16 and the small ones."""
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def is_narrow(dtype: np.dtype[Any]) -> bool:
    """Whether it is smaller than a byte or has so few values that sums of them mean nothing."""
    return dtype.kind == "V" and dtype.name != "bfloat16"


def draw(dtype: np.dtype[Any], shape: Sequence[int], seed: str, low: float = -3.0, high: float = 3.0) -> Array:
    """An array of the type between the bounds (above zero for unsigned types), the same for the same seed."""
    random = np.random.default_rng(zlib.crc32(f"{seed} {dtype} {list(shape)}".encode()))
    if dtype.kind == "O":
        return np.array([_WORDS[i] for i in random.integers(0, len(_WORDS), int(np.prod(shape)))], object).reshape(shape)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(bool)
    if dtype.kind == "c":
        return (random.uniform(low, high, shape) + 1j * random.uniform(low, high, shape)).astype(dtype)
    if is_float(dtype):
        if "e8m0" in dtype.name:
            low = max(low, 0.25)
        return np.asarray(random.uniform(low, high, shape)).astype(dtype)
    unsigned = dtype.kind == "u" or dtype.name.startswith("uint")
    bottom, top = int(np.ceil(max(low, 0.0) if unsigned else low)), int(np.floor(high))
    if dtype.name in ("int2", "uint2"):
        bottom, top = max(bottom, -2), min(top, 1)
    return np.asarray(random.integers(bottom, max(top, bottom) + 1, shape)).astype(dtype)


def specials(dtype: np.dtype[Any]) -> Array:
    """What computing with floating point numbers goes wrong on: NaN, infinities, zeros of both signs, the largest and the smallest."""
    finfo: Any = ml_dtypes.finfo
    info = finfo(dtype)
    ends = [float(info.max), float(info.min), float(info.smallest_normal), 1.0, -1.5]
    return np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, *ends]).astype(dtype)


def strided(array: Array) -> Array:
    """The same values in memory with holes between them."""
    roomy = np.zeros([2 * size for size in array.shape], array.dtype)
    spread = roomy[tuple(slice(None, None, 2) for _ in array.shape)]
    spread[...] = array
    return spread
