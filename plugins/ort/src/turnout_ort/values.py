"""Values between NumPy and ONNX Runtime, for every element type.

NumPy's own types pass through as they are. bfloat16, float8 and the types of 4 and 2 bits are ml_dtypes arrays here,
which ONNX Runtime does not know: it gets the same memory under an integer type, and its memory is read the same way.
Types of less than a byte are one element per byte in ml_dtypes and packed, first element lowest, in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from turnout.tensor import dtype_named
from turnout_ort.runtime import bindings, cpu_memory, onnxruntime

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FOREIGN", "NATIVE", "Foreign", "Port", "Tied", "from_array", "from_weight"]

Array = np.ndarray[Any, Any]

NATIVE = {
    f"tensor({onnx_name})": np.dtype(name)
    for onnx_name, name in (
        ("float", "float32"),
        ("double", "float64"),
        *((name, name) for name in ("float16", "bool", "int8", "int16", "int32", "int64")),
        *((name, name) for name in ("uint8", "uint16", "uint32", "uint64")),
    )
}
"""ONNX type to the NumPy type that ONNX Runtime takes and gives."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """An element type that NumPy does not have: its number in ONNX, its name in ml_dtypes, its size in bits."""

    number: int
    name: str
    bits: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return dtype_named(self.name)

    @property
    def packed(self) -> bool:
        return self.bits < 8

    @property
    def carrier(self) -> np.dtype[Any]:
        """The integer type of the same size, under which ONNX Runtime accepts the memory."""
        return np.dtype(np.uint16 if self.bits == 16 else np.uint8)


FOREIGN = {
    f"tensor({onnx_name})": Foreign(number, name, bits)
    for onnx_name, number, name, bits in (
        ("bfloat16", 16, "bfloat16", 16),
        ("float8e4m3fn", 17, "float8_e4m3fn", 8),
        ("float8e4m3fnuz", 18, "float8_e4m3fnuz", 8),
        ("float8e5m2", 19, "float8_e5m2", 8),
        ("float8e5m2fnuz", 20, "float8_e5m2fnuz", 8),
        ("uint4", 21, "uint4", 4),
        ("int4", 22, "int4", 4),
        ("float4e2m1", 23, "float4_e2m1fn", 4),
        ("float8e8m0", 24, "float8_e8m0fnu", 8),
        ("uint2", 25, "uint2", 2),
        ("int2", 26, "int2", 2),
    )
}
"""ONNX type to the type that NumPy does not have."""


@dataclass(frozen=True, slots=True)
class Tied:
    """An ONNX Runtime value and the array whose memory it is, since the value does not keep the array alive."""

    value: Any
    array: Any


def alias(array: Array, foreign: Foreign | None) -> Tied:
    """A value over the array's own memory: contiguous, in native byte order, and not of a packed type."""
    made = bindings().OrtValue
    if foreign is None:
        return Tied(made.ortvalue_from_numpy(array, cpu_memory()), array)
    carried = array.view(foreign.carrier)
    return Tied(made.ortvalue_from_numpy_with_onnx_type(carried, foreign.number), carried)


def packed(shape: Sequence[int], data: Array, foreign: Foreign) -> Tied:
    """A value of a packed type from its bytes.

    ONNX Runtime wants memory of the caller's, with one entry per element; it reads only the first bytes of it.
    """
    memory = np.empty(shape, np.uint8)
    memory.reshape(-1)[: data.size] = data
    return Tied(bindings().OrtValue.ortvalue_from_numpy_with_onnx_type(memory, foreign.number), memory)


def _pack(array: Array, bits: int) -> Array:
    per_byte = 8 // bits
    elements = array.reshape(-1).view(np.uint8) & (2**bits - 1)
    rows = np.zeros((-(-elements.size // per_byte), per_byte), np.uint8)
    rows.reshape(-1)[: elements.size] = elements
    shifted: Array = rows << (np.arange(per_byte, dtype=np.uint8) * np.uint8(bits))
    return np.asarray(np.bitwise_or.reduce(shifted, axis=1))


def _unpack(data: Array, shape: Sequence[int], foreign: Foreign) -> Array:
    bits = foreign.bits
    shifts = np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)
    elements: Array = ((data[:, None] >> shifts) & (2**bits - 1)).reshape(-1)[: prod(shape)]
    return elements.view(foreign.dtype).reshape(shape)


class _Bytes:
    """The memory of a value through NumPy's array interface; the array made of it keeps the value alive."""

    def __init__(self, value: Any) -> None:
        self.value = value
        size, address = value.tensor_size_in_bytes(), value.data_ptr()
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}


def _memory(value: Any) -> Array:
    return np.asarray(_Bytes(value)) if value.tensor_size_in_bytes() else np.empty(0, np.uint8)


def to_numpy(value: Any, foreign: Foreign | None) -> Array:
    """The array of a tensor that ONNX Runtime made, over its memory (a packed type is unpacked)."""
    if foreign is None:
        array: Array = value.numpy()
        return array
    shape = value.shape()
    if foreign.packed:
        return _unpack(_memory(value), shape, foreign)
    return _memory(value).view(foreign.dtype).reshape(shape)


def from_weight(tensor: ir.TensorProtocol) -> Tied:
    """A weight as a value of the public kind, over its own memory unless its type is packed."""
    foreign = FOREIGN.get(f"tensor({tensor.dtype.name.lower()})")
    if foreign is not None and foreign.packed:
        tied = packed(tensor.shape.numpy(), np.frombuffer(tensor.tobytes(), np.uint8), foreign)
    else:
        return from_array(np.asarray(tensor.numpy(), order="C"), foreign)
    return Tied(onnxruntime().OrtValue(tied.value), tied.array)


def from_array(array: Array, foreign: Foreign | None) -> Tied:
    """A weight's array, contiguous and of no packed type, as a value of the public kind: over its own memory."""
    tied = alias(array if array.dtype.isnative else _plain_copy(array), foreign)
    return Tied(onnxruntime().OrtValue(tied.value), tied.array)


@dataclass(frozen=True)
class Port:
    """An input or output of a session.

    type: as ONNX writes it. shape: sizes, None for a dimension that is free; None as a whole where the rank is unknown.
    """

    name: str
    type: str
    shape: tuple[int | None, ...] | None

    @property
    def foreign(self) -> Foreign | None:
        return FOREIGN.get(self.type)

    @property
    def native(self) -> bool:
        """True where arrays pass as they are: a tensor of a type that NumPy has, strings aside."""
        return self.type in NATIVE

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The array type; None for strings and for what is not a tensor."""
        foreign = self.foreign
        return NATIVE.get(self.type) if foreign is None else foreign.dtype

    def aliasable(self, array: Any) -> bool:
        """Whether ONNX Runtime can read and write this very array."""
        foreign = self.foreign
        return (
            isinstance(array, np.ndarray)
            and array.dtype == self.dtype
            and array.flags.c_contiguous
            and array.flags.aligned
            and not (foreign is not None and foreign.packed)
        )

    def alias(self, array: Array) -> Tied:
        return alias(array, self.foreign)

    def tie(self, array: Array) -> Tied:
        """The array as a value, copied only where it cannot be aliased."""
        foreign = self.foreign
        if foreign is not None and foreign.packed:
            return packed(array.shape, _pack(array, foreign.bits), foreign)
        return self.alias(array if self.aliasable(array) else _plain_copy(array))

    def feed(self, value: Any) -> Any:
        """The value as `run` takes it: arrays, OrtValues for types that NumPy does not have, lists, dicts and None."""
        if value is None or isinstance(value, dict):
            return value
        if isinstance(value, list):
            return [_plain(element) for element in value]
        if self.foreign is not None:
            tied = self.tie(value)
            return onnxruntime().OrtValue(tied.value, tied.array)
        return _plain(value)

    def problem(self, value: Any) -> str:
        """What is wrong with an array for this port, as the end of a sentence; "" where nothing is."""
        if self.type != "tensor(string)" and self.dtype is None:
            return ""
        if not isinstance(value, np.ndarray):
            return f"is {_a(type(value).__name__)}, not an array"
        if self.dtype is not None and value.dtype.newbyteorder("=") != self.dtype:
            return f"is {value.dtype}, not {self.dtype}"
        if self.dtype is None and value.dtype.kind not in "OUST":
            return f"is {value.dtype}, not strings"
        if self.shape is None:
            return ""
        if value.ndim != len(self.shape):
            return f"has rank {value.ndim} ({_shape(value.shape)}), not {len(self.shape)} ({_shape(self.shape)})"
        if any(want is not None and want != have for want, have in zip(self.shape, value.shape, strict=True)):
            return f"has shape {_shape(value.shape)}, not {_shape(self.shape)}"
        return ""


def _plain(value: Any) -> Any:
    """An array that ONNX Runtime reads rightly: it mistakes foreign byte order for its own, and bytes for wide text."""
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.kind == "S":
        return np.char.decode(value, "utf-8").astype(object)
    if value.dtype.kind == "T":
        return value.astype(object)
    return value if value.dtype.isnative else _plain_copy(value)


def _plain_copy(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("="), order="C", copy=True)


def _shape(dims: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if dim is None else str(dim) for dim in dims) + "]"


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
