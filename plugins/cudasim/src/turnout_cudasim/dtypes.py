"""PTX's fundamental types (PTX ISA, section 5.2) and the NumPy types that hold them.

A register holds raw bits or a native float. Types that NumPy lacks (bf16, the 8-bit floats, packed pairs) live in unsigned integers of
their size; the functions that compute with them know.
"""

from __future__ import annotations

import numpy as np

DType = np.dtype[np.generic]

NUMPY: dict[str, str] = {
    "pred": "?",
    "u8": "u1", "s8": "i1", "b8": "u1",
    "u16": "u2", "s16": "i2", "b16": "u2",
    "u32": "u4", "s32": "i4", "b32": "u4",
    "u64": "u8", "s64": "i8", "b64": "u8",
    "f16": "f2", "f32": "f4", "f64": "f8",
    "bf16": "u2", "e4m3": "u1", "e5m2": "u1", "e8m0": "u1",
    "tf32": "u4", "f16x2": "u4", "bf16x2": "u4", "u16x2": "u4", "s16x2": "u4", "f32x2": "u8",
    "e4m3x2": "u2", "e5m2x2": "u2", "ue8m0x2": "u2", "e2m1x2": "u1", "e2m3x2": "u2", "e3m2x2": "u2",
    "e4m3x4": "u4", "e5m2x4": "u4", "e2m1x4": "u2", "e2m3x4": "u4", "e3m2x4": "u4",
    "b128": "V16",
}  # fmt: skip

# NumPy's types as generated code calls them; in capitals, since registers may be called f4.
SCALARS = {
    "B1": np.bool_,
    "U1": np.uint8, "U2": np.uint16, "U4": np.uint32, "U8": np.uint64,
    "I1": np.int8, "I2": np.int16, "I4": np.int32, "I8": np.int64,
    "F2": np.float16, "F4": np.float32, "F8": np.float64,
}  # fmt: skip


def size(ptx_type: str) -> int:
    """Bytes of a value."""
    return np.dtype(NUMPY[ptx_type]).itemsize


def unsigned(bytes_: int) -> str:
    """The NumPy code of the unsigned integer of that size."""
    return f"u{bytes_}"
