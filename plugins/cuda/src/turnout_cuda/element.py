"""Element types: how ONNX, NumPy and a kernel name them.

A tensor lies in device memory as NumPy would have it: one element after the other, int4 and its kin one to a byte, as ml_dtypes has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

__all__ = [
    "ANY",
    "BOOL",
    "ELEMENTS",
    "FLOATS",
    "INDEX",
    "INTS",
    "NUMBERS",
    "SIGNED",
    "UNSIGNED",
    "Element",
    "Types",
    "element_of",
]


@dataclass(frozen=True)
class Element:
    """An element type.

    name: as turnout and NumPy say it ("float32"). c: the type in a kernel, which prelude.cuh defines where CUDA C++ has none. work: the
    type that a kernel computes in: `up` brings an element there, `down` back, with one rounding. onnx: number in TensorProto.DataType.
    """

    name: str
    c: str
    work: str
    size: int
    onnx: int
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return self.name


Types = frozenset[str]
"""A set of element types, by name: what a kernel takes."""

_ROWS: tuple[tuple[str, str, str, int, Any], ...] = (
    ("float32", "float", "float", 1, np.float32),
    ("float64", "double", "double", 11, np.float64),
    ("float16", "f16", "float", 10, np.float16),
    ("bfloat16", "bf16", "float", 16, ml_dtypes.bfloat16),
    ("bool", "bool", "bool", 9, np.bool_),
    ("int8", "signed char", "int", 3, np.int8),
    ("int16", "short", "int", 5, np.int16),
    ("int32", "int", "int", 6, np.int32),
    ("int64", "long long", "long long", 7, np.int64),
    ("uint8", "unsigned char", "unsigned", 2, np.uint8),
    ("uint16", "unsigned short", "unsigned", 4, np.uint16),
    ("uint32", "unsigned", "unsigned", 12, np.uint32),
    ("uint64", "unsigned long long", "unsigned long long", 13, np.uint64),
    ("float8e4m3fn", "e4m3", "float", 17, ml_dtypes.float8_e4m3fn),
    ("float8e4m3fnuz", "e4m3uz", "float", 18, ml_dtypes.float8_e4m3fnuz),
    ("float8e5m2", "e5m2", "float", 19, ml_dtypes.float8_e5m2),
    ("float8e5m2fnuz", "e5m2uz", "float", 20, ml_dtypes.float8_e5m2fnuz),
    ("float8e8m0", "e8m0", "float", 24, ml_dtypes.float8_e8m0fnu),
    ("float4e2m1", "e2m1", "float", 23, ml_dtypes.float4_e2m1fn),
    ("int4", "i4", "int", 22, ml_dtypes.int4),
    ("uint4", "u4", "unsigned", 21, ml_dtypes.uint4),
    ("int2", "i2", "int", 26, ml_dtypes.int2),
    ("uint2", "u2", "unsigned", 25, ml_dtypes.uint2),
    ("complex64", "bits64", "bits64", 14, np.complex64),
    ("complex128", "bits128", "bits128", 15, np.complex128),
)

ELEMENTS = {name: Element(name, c, work, np.dtype(kind).itemsize, onnx, np.dtype(kind)) for name, c, work, onnx, kind in _ROWS}
_BY_NUMBER = {one.onnx: one for one in ELEMENTS.values()}
_BY_DTYPE = {one.dtype: one for one in ELEMENTS.values()}

FLOATS: Types = frozenset({"float32", "float64", "float16", "bfloat16"})
SIGNED: Types = frozenset({"int8", "int16", "int32", "int64"})
UNSIGNED: Types = frozenset({"uint8", "uint16", "uint32", "uint64"})
INTS: Types = SIGNED | UNSIGNED
NUMBERS: Types = FLOATS | INTS
BOOL: Types = frozenset({"bool"})
INDEX: Types = frozenset({"int32", "int64"})
ANY: Types = frozenset(ELEMENTS)


def element_of(kind: Any) -> Element | None:
    """The element type of an ONNX number or a NumPy dtype; None for those that a device does not hold (strings)."""
    if isinstance(kind, np.dtype):
        return _BY_DTYPE.get(kind)
    return _BY_NUMBER.get(int(kind))
