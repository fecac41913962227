"""Tensor: shape, dtype, device, and DLPack in and out. And what `run` accepts, turned into host values.

NumPy has no bfloat16, float8 or int4 of its own; ml_dtypes does, but DLPack does not know NumPy's extension types. So those cross
DLPack as what they are made of: the element type in the exchanged struct is changed on the way (dlpack.h, DLDataTypeCode).
"""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from turnout.errors import InvalidInput

__all__ = [
    "DLTensor",
    "DLVersioned",
    "Tensor",
    "dlpack_codes",
    "dlpack_dtypes",
    "dtype_named",
    "held",
    "host_results",
    "host_value",
    "is_elsewhere",
    "struct_of",
]

_CPU = 1  # dlpack.h, kDLCPU
_DEVICE_NAMES = {1: "cpu", 2: "cuda", 3: "cpu", 8: "metal", 10: "rocm", 13: "cuda"}

_CARRIERS: dict[int, np.dtype[Any]] = {16: np.dtype(np.uint16), 8: np.dtype(np.uint8)}


@functools.cache
def dtype_named(name: str) -> np.dtype[Any]:
    """NumPy's type of that name, or ml_dtypes'."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes  # here as below, since few models have such types, and the import is slow

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found


@functools.cache
def dlpack_codes() -> Mapping[np.dtype[Any], tuple[int, int]]:
    """ml_dtypes' types to (DLDataTypeCode, bits); dlpack.h 1.1."""
    import ml_dtypes

    return {
        np.dtype(ml_dtypes.bfloat16): (4, 16),
        np.dtype(ml_dtypes.float8_e4m3fn): (10, 8),
        np.dtype(ml_dtypes.float8_e4m3fnuz): (11, 8),
        np.dtype(ml_dtypes.float8_e5m2): (12, 8),
        np.dtype(ml_dtypes.float8_e5m2fnuz): (13, 8),
        np.dtype(ml_dtypes.float8_e8m0fnu): (14, 8),
    }


@functools.cache
def dlpack_dtypes() -> Mapping[tuple[int, int], np.dtype[Any]]:
    """The same from the other side."""
    return {code: dtype for dtype, code in dlpack_codes().items()}


class DLTensor(ctypes.Structure):
    """DLTensor of dlpack.h; DLManagedTensor, what a capsule "dltensor" holds, begins with it."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class DLVersioned(ctypes.Structure):
    """DLManagedTensorVersioned of dlpack.h: what a capsule "dltensor_versioned" holds, and what a read-only array needs."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = ctypes.c_void_p
_pointer_of.argtypes = (ctypes.py_object, ctypes.c_char_p)
_is_named = ctypes.pythonapi.PyCapsule_IsValid
_is_named.argtypes = (ctypes.py_object, ctypes.c_char_p)


def struct_of(capsule: Any) -> DLTensor:
    """What a DLPack capsule that nobody has consumed yet points to; it lives as long as the capsule."""
    if _is_named(capsule, b"dltensor_versioned"):
        inner: DLTensor = DLVersioned.from_address(_pointer_of(capsule, b"dltensor_versioned")).tensor
        return inner
    return DLTensor.from_address(_pointer_of(capsule, b"dltensor"))


class Tensor:
    """An array of one of ONNX's element types, somewhere. `Model.run_on_device` gives those that are not in host memory.

    data: a NumPy array (host memory), or anything with `__dlpack__` (any device). Nothing is copied.
    dtype: NumPy dtype, with ml_dtypes for bfloat16, float8 and int4 (int4: one element a byte). shape: tuple of int.
    device: "cpu:0", "cuda:1" ...
    """

    __slots__ = ("_data", "device", "dtype", "shape")

    def __init__(self, data: Any, *, dtype: Any = None, shape: Sequence[int] | None = None, device: str | None = None) -> None:
        if not isinstance(data, np.ndarray) and device is None:
            kind, index = data.__dlpack_device__()
            device = f"{_DEVICE_NAMES.get(int(kind), f'dlpack-{int(kind)}')}:{index}"
            if device.startswith("cpu"):
                data = _from_dlpack(data)
        self._data = data
        self.device = device or "cpu:0"
        self.dtype = np.dtype(data.dtype if dtype is None else dtype)
        self.shape = tuple(data.shape if shape is None else shape)

    def numpy(self) -> np.ndarray[Any, Any]:
        """The tensor as a NumPy array: no copy in host memory, a copy from elsewhere."""
        return self._data if isinstance(self._data, np.ndarray) else _to_host(self._data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **asked: Any) -> Any:
        """A DLPack capsule; every ONNX element type but strings and the packed ones (int4) can cross."""
        if not isinstance(self._data, np.ndarray) or self._data.dtype.isbuiltin == 1:
            return self._data.__dlpack__(**asked)
        code = dlpack_codes().get(self._data.dtype)
        if code is None:
            return self._data.__dlpack__(**asked)
        capsule = self._data.view(_CARRIERS[code[1]]).__dlpack__(**asked)
        struct = struct_of(capsule)
        struct.code, struct.bits = code
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_CPU, 0) if isinstance(self._data, np.ndarray) else self._data.__dlpack_device__()

    def __repr__(self) -> str:
        return f"Tensor({self.dtype}[{','.join(map(str, self.shape))}] on {self.device})"


class _Capsule:
    """Hands one capsule to `np.from_dlpack`, which wants an object with the two methods."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_CPU, 0)


def _from_dlpack(value: Any) -> np.ndarray[Any, Any]:
    """Host memory behind `__dlpack__` as an array, without a copy."""
    try:
        capsule = value.__dlpack__(max_version=(1, 0))
    except TypeError:  # a library from before DLPack 1.0
        capsule = value.__dlpack__()
    struct = struct_of(capsule)
    dtype = dlpack_dtypes().get((struct.code, struct.bits))
    if dtype is None:
        return np.from_dlpack(_Capsule(capsule))
    struct.code = 1  # kDLUInt
    return np.from_dlpack(_Capsule(capsule)).view(dtype)


def _to_host(value: Any) -> np.ndarray[Any, Any]:
    """An array on another device as a host copy, by whatever way its library offers."""
    for method in ("get", "cpu"):  # CuPy; torch
        if hasattr(value, method):
            copied = getattr(value, method)()
            return copied if isinstance(copied, np.ndarray) else _from_dlpack(copied)
    return np.from_dlpack(value, device="cpu", copy=True)


def held(value: Any) -> Any:
    """What a Tensor was made of; any other value as it is."""
    return value._data if isinstance(value, Tensor) else value


def is_elsewhere(value: Any) -> bool:
    """Whether it is a tensor outside host memory."""
    find = getattr(value, "__dlpack_device__", None)
    return find is not None and not isinstance(value, np.ndarray) and int(find()[0]) != _CPU


def host_value(value: Any, dtype: np.dtype[Any] | None, name: str, kind: str = "tensor") -> Any:
    """What a caller gave for an input, as a host value: an array, a list of them for a sequence, None for an empty optional.

    Takes NumPy arrays, Tensors, anything with `__dlpack__`, `__array__` or a buffer, Python numbers, strings and (nested) lists of them;
    those have no dtype of their own, so they get the input's. Nothing is copied that is in host memory. Raises InvalidInput.
    """
    if kind == "map" or (value is None and kind == "optional"):
        return value
    if kind == "sequence":
        if not isinstance(value, (list, tuple)):
            raise InvalidInput(f"input {name!r} is a sequence, not {type(value).__name__}", hint="give a list of arrays")
        return [host_value(item, dtype, name) for item in value]
    if isinstance(value, np.ndarray) and value.dtype.kind not in _TEXT:
        return value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))
    if value is None:
        raise InvalidInput(f"input {name!r} is None", hint="give an array; only an optional input may be None")
    try:
        return _as_array(value, dtype)
    except Exception as error:
        raise InvalidInput(
            f"input {name!r}: a {type(value).__name__} could not be read as an array: {error}",
            hint="give a NumPy array, or anything with DLPack or the array protocol",
        ) from error


def _as_array(value: Any, dtype: np.dtype[Any] | None) -> np.ndarray[Any, Any]:
    if isinstance(value, Tensor):
        value = value.numpy()
    if dtype is not None and dtype.kind == "O":
        return _strings(value)
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):  # a torch tensor that wants a gradient refuses DLPack
        value = value.detach()
    if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        return _from_dlpack(value) if int(value.__dlpack_device__()[0]) == _CPU else _to_host(value)
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        return np.asarray(value)
    if isinstance(value, (bytes, bytearray, memoryview, array)):
        return np.asarray(memoryview(value))
    return _numbers(value, dtype)


_TEXT = "OSUT"  # the kinds of array that may hold strings: objects, bytes, fixed width, StringDType


def _strings(value: Any) -> np.ndarray[Any, Any]:
    """Text of any kind as an array of `str` objects; the same array where it is one."""
    made = np.asarray(value, object)
    kinds = {type(item) for item in made.reshape(-1)}
    if not all(issubclass(kind, (str, bytes)) for kind in kinds):
        raise ValueError("it holds something that is no string, or its rows have different lengths")
    if kinds <= {str}:
        return made
    texts = [item.decode() if isinstance(item, bytes) else str(item) for item in made.reshape(-1)]
    return np.array(texts, object).reshape(made.shape)


def _numbers(value: Any, dtype: np.dtype[Any] | None) -> np.ndarray[Any, Any]:
    """Python numbers as an array of the input's dtype; rounding is fine, another number is not."""
    made = np.array(value)
    if made.dtype.kind not in "biufc":
        raise ValueError("its rows have different lengths, or it holds something that is no number")
    if dtype is None:
        return made
    if made.dtype.kind == "c" and dtype.kind != "c":
        raise ValueError(f"it holds a complex number, and the input is {dtype.name}")
    with np.errstate(all="ignore"):
        converted = made.astype(dtype)
        if "int" in dtype.name or dtype.kind == "b":
            held = converted.astype(made.dtype) == made
        else:
            held = np.isfinite(converted.astype(np.complex128 if dtype.kind == "c" else np.float64)) | ~np.isfinite(made)
    if not held.all():
        raise ValueError(f"it holds a number that {dtype.name} cannot hold")
    return converted


def host_results(results: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """What functions on NumPy arrays gave, as host values: arrays rather than NumPy's numbers, strings as objects, and nothing that lies
    in the memory of an input, since a caller may write to what he was given."""
    inputs = [one for value in values for one in (value if isinstance(value, list) else [value]) if isinstance(one, np.ndarray)]
    return [_host_result(result, inputs) for result in results]


def _host_result(result: Any, inputs: Sequence[np.ndarray[Any, Any]]) -> Any:
    if isinstance(result, (list, tuple)):
        return [_host_result(one, inputs) for one in result]
    if isinstance(result, np.generic):
        result = np.asarray(result)
    if not isinstance(result, np.ndarray):
        return result
    if result.dtype.kind in "UT":
        return result.astype(object)
    return result.copy() if any(np.may_share_memory(result, one) for one in inputs) else result
