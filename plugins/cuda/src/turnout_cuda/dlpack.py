"""DLPack in and out, on the device and without a copy (dlpack.h 1.1; the array API standard, `__dlpack__`, says what a stream means).

Out: the consumer's stream waits for ours, and when the consumer lets go, ours waits for his, so that memory is not used again too early.
In: the producer makes our stream wait for his; the capsule is let go when our stream has done what it was given by then.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from turnout.tensor import DLTensor, DLVersioned, dlpack_codes, dlpack_dtypes, struct_of

if TYPE_CHECKING:
    from turnout_cuda.context import Context
    from turnout_cuda.tensor import DeviceTensor

__all__ = ["ALIGNED", "CUDA", "Borrowed", "borrow", "export"]

CUDA, _MANAGED = 2, 13  # dlpack.h, kDLCUDA and kDLCUDAManaged
_LEGACY, _PER_THREAD = 1, 2  # cuda.h: the default streams, which are always there
_KINDS = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}  # dlpack.h, DLDataTypeCode
_NUMPY = {code: kind for kind, code in _KINDS.items()}

ALIGNED = 16
"""Bytes that kernels take tensors to be aligned to: a part of another tensor may not be."""

_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    """DLManagedTensor: what a capsule "dltensor" holds."""

    _fields_ = (("tensor", DLTensor), ("manager_ctx", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class Borrowed:
    """Memory of somebody else's, behind a capsule. Let go when our stream has done what it was given until then."""

    __slots__ = ("_capsule", "address", "context", "nbytes")

    def __init__(self, context: Context, capsule: Any, address: int, nbytes: int) -> None:
        self.context = context
        self._capsule = capsule
        self.address = address
        self.nbytes = nbytes

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the device may be lost
            self.context.settle()  # the capsule, which nobody consumed, tells its owner as it goes


def borrow(context: Context, value: Any) -> tuple[tuple[int, ...], np.dtype[Any], Borrowed] | None:
    """A tensor of this GPU's as shape, dtype and memory; None where it lies elsewhere, has holes, or is of a type that we do not hold."""
    kind, ordinal = value.__dlpack_device__()
    if int(kind) not in (CUDA, _MANAGED) or int(ordinal) != context.gpu.ordinal:
        return None
    if hasattr(value, "detach"):  # a torch tensor that wants a gradient refuses DLPack
        value = value.detach()
    context.enter()
    try:
        capsule = value.__dlpack__(stream=int(context.stream), max_version=(1, 1))
    except TypeError:  # a library from before DLPack 1.0
        capsule = value.__dlpack__(stream=int(context.stream))
    except BufferError:
        return None
    tensor = struct_of(capsule)
    shape = tuple(tensor.shape[: tensor.ndim])
    dtype = dlpack_dtypes().get((tensor.code, tensor.bits))
    if dtype is None and tensor.code in _NUMPY and tensor.bits % 8 == 0:
        dtype = np.dtype(f"{_NUMPY[tensor.code]}{tensor.bits // 8}")
    if dtype is None or tensor.lanes != 1 or not _dense(shape, tensor.strides[: tensor.ndim] if tensor.strides else None):
        return None
    return shape, dtype, Borrowed(context, capsule, (tensor.data or 0) + tensor.byte_offset, math.prod(shape) * dtype.itemsize)


def _dense(shape: tuple[int, ...], strides: list[int] | None) -> bool:
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides or []), strict=False):
        if size > 1 and stride != step:
            return 0 in shape
        step *= size
    return True


def export(tensor: DeviceTensor, *, stream: int | None, versioned: bool) -> Any:
    """A capsule over a tensor's memory. Raises BufferError.

    stream: the consumer's; None is the legacy default stream, and with -1 the consumer sees to the order himself.
    """
    context = tensor.memory.context
    if stream == 0:
        raise BufferError("stream 0 may mean either of CUDA's default streams: pass 1 (legacy) or 2 (per thread)")
    kind = dlpack_codes().get(tensor.dtype) or (_KINDS.get(tensor.dtype.kind, -1), 8 * tensor.dtype.itemsize)
    if kind[0] < 0:
        raise BufferError(f"DLPack has no name for {tensor.dtype} as it lies in memory here")
    follower = _LEGACY if stream is None else int(stream)
    if follower != -1:
        context.follow(context.stream, follower)
    return _Export(tensor, kind, follower, versioned).capsule()


_living: dict[int, _Export] = {}
"""What consumers hold, by the address of its struct."""


class _Export:
    """A struct that a consumer holds, and the tensor behind it."""

    def __init__(self, tensor: DeviceTensor, kind: tuple[int, int], follower: int, versioned: bool) -> None:
        self._tensor: DeviceTensor | None = tensor
        self._follower = follower
        ndim = len(tensor.shape)
        self._sizes = (ctypes.c_int64 * (2 * max(ndim, 1)))(*tensor.shape)
        step = 1
        for axis in range(ndim - 1, -1, -1):
            self._sizes[max(ndim, 1) + axis] = step
            step *= tensor.shape[axis]
        into = DLVersioned(major=1, minor=1) if versioned else _Managed()
        self.struct: Any = into
        self.name = b"dltensor_versioned" if versioned else b"dltensor"
        one = into.tensor
        one.data, one.device_type, one.device_id = tensor.address, CUDA, tensor.memory.context.gpu.ordinal
        one.ndim, one.lanes, one.byte_offset = ndim, 1, 0
        one.code, one.bits = kind
        one.shape = ctypes.cast(self._sizes, ctypes.POINTER(ctypes.c_int64))
        one.strides = ctypes.cast(ctypes.addressof(self._sizes) + 8 * max(ndim, 1), ctypes.POINTER(ctypes.c_int64))
        into.deleter = ctypes.cast(_FORGET, ctypes.c_void_p).value

    def capsule(self) -> Any:
        address = ctypes.addressof(self.struct)
        _living[address] = self
        return _new(address, self.name, _UNCLAIMED)

    def let_go(self) -> None:
        """The consumer's work on the memory comes before whatever it is used for next."""
        tensor, self._tensor = self._tensor, None
        if tensor is not None:
            context = tensor.memory.context
            context.enter()
            if self._follower in (_LEGACY, _PER_THREAD):
                context.follow(self._follower, context.stream)
            else:  # a stream that may be gone by now, or none that we know of
                context.settle(everything=True)


def _forget(address: int) -> None:
    export = _living.pop(address, None)
    if export is not None:
        try:
            export.let_go()
        except Exception as error:  # nobody is there to catch it: the device is lost, or the interpreter goes down
            _log(error)


def _unclaimed(capsule: int) -> None:
    """A capsule goes that nobody has consumed. It is no object any more, so it must not be made one."""
    for name in (b"dltensor", b"dltensor_versioned"):
        if _is_valid(capsule, name):
            _forget(_pointer(capsule, name))


_FORGET, _UNCLAIMED = _Deleter(_forget), _Deleter(_unclaimed)


def _log(error: Exception) -> None:
    import logging

    logging.getLogger("turnout").debug("a tensor was given back late: %s", error)


_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Deleter)(("PyCapsule_New", ctypes.pythonapi))
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
