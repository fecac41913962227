"""Values that stay in an adapter's memory from one run to the next, and the sessions that leave them there.

ONNX Runtime's Python interface has such memory on DXGI adapter 0 only. There it hands a value from session to session without a copy,
in order, since all sessions on an adapter share one command queue; but it cannot write an output into the memory of an input, so that a
state that goes round and round lies in two places by turns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from turnout_directml.adapters import RESIDENT, Lock
from turnout_ort.failures import input_error, run_error
from turnout_ort.runtime import onnxruntime
from turnout_ort.session import PlainSession
from turnout_ort.values import Port

__all__ = ["PLACE", "DeviceValue", "ResidentSession", "fetched", "outlines"]

PLACE = ("dml", RESIDENT)
"""That memory, as ONNX Runtime's Python interface names it."""

_EXTENSION = 12  # dlpack.h, kDLExtDev: DLPack has no number for Direct3D


class DeviceValue:
    """A dense tensor in the memory of adapter 0. shape: tuple of int. dtype: NumPy's. DLPack knows no such memory: `get` copies it."""

    __slots__ = ("_held", "_lock", "dtype", "shape")

    def __init__(self, value: Any, dtype: np.dtype[Any], lock: Lock) -> None:
        self._held = [value]  # a list, so that whoever lets go of it is the last who has it
        self._lock = lock
        self.shape = tuple(value.shape())
        self.dtype = dtype

    @property
    def value(self) -> Any:
        """ONNX Runtime's value. Only for whoever holds the adapter's lock."""
        return self._held[0]

    def get(self) -> np.ndarray[Any, Any]:
        """A copy in host memory, when all that was asked for before is done. Raises RunError or one of its kinds."""
        with self._lock:
            try:
                _ready()
                array: np.ndarray[Any, Any] = self._held[0].numpy()
            except Exception as error:  # the adapter is gone, or there is no memory
                raise run_error(error, (), ()) from error
            return array

    def __dlpack_device__(self) -> tuple[int, int]:
        return _EXTENSION, RESIDENT

    def __dlpack__(self, **asked: Any) -> Any:
        raise BufferError("this tensor lies in DirectML's memory, which DLPack does not know: take `numpy()` of it")

    def __del__(self) -> None:
        self._lock.drop(self._held)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self.get().astype(self.dtype if dtype is None else dtype, copy=False)

    def __repr__(self) -> str:
        return f"DeviceValue({self.dtype}{list(self.shape)} on DXGI adapter {RESIDENT})"


@functools.cache
def _memory() -> Any:
    """The adapter's memory, as bindings name it."""
    return onnxruntime().OrtDevice.make(*PLACE)._get_c_device()


@functools.cache
def _ready() -> Any:
    """A first value of ONNX Runtime's own: until it has made one, it cannot read the adapter's memory (`DXGI_ERROR_NOT_FOUND`)."""
    return onnxruntime().OrtValue.ortvalue_from_shape_and_type([1], np.float32, *PLACE)


def fetched(value: Any) -> Any:
    """The value in host memory."""
    if isinstance(value, (list, tuple)):
        return [fetched(one) for one in value]
    return value.get() if isinstance(value, DeviceValue) else value


def outlines(values: Sequence[Any]) -> list[Any]:
    """The values, with an array of the same shape and type, and of no memory, in the place of each that is on the adapter."""
    return [np.broadcast_to(np.zeros((), one.dtype), one.shape) if isinstance(one, DeviceValue) else one for one in values]


class ResidentSession(PlainSession):
    """A session on adapter 0 whose outputs stay there. Its inputs lie there too, or are arrays that ONNX Runtime brings over.

    All of its ports are tensors of NumPy's types.
    """

    def __init__(self, session: Any, inputs: Sequence[Port], outputs: Sequence[Port], keep: Any, lock: Lock) -> None:
        super().__init__(session, inputs, outputs, keep)
        self._lock = lock

    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
        """`out` takes arrays; an output that is to stay on the adapter has None there."""
        if out is not None:
            return self._run_and_copy(values, out)
        wrong = input_error(self.inputs, outlines(values))
        if wrong is not None:
            raise wrong
        with self._lock:
            binding = self._session.io_binding()._iobinding
            try:
                return self._run_bound(binding, values)
            except Exception as error:
                raise run_error(error, self.inputs, outlines(values)) from error
            finally:  # under the lock: an error would keep the binding for as long as someone looks at it
                binding.clear_binding_inputs()
                binding.clear_binding_outputs()

    def bind(self, values: Sequence[Any], out: Sequence[Any]) -> Callable[[], Sequence[Any]]:
        return lambda: self.run(values, out)

    def _run_bound(self, binding: Any, values: Sequence[Any]) -> list[Any]:
        ties = []  # arrays must outlive the run
        for port, value in zip(self.inputs, values, strict=True):
            if isinstance(value, DeviceValue):
                binding.bind_ortvalue_input(port.name, value.value)
            else:
                ties.append(port.tie(value))
                binding.bind_ortvalue_input(port.name, ties[-1].value)
        for port in self.outputs:
            binding.bind_output(port.name, _memory())
        self._session._sess.run_with_iobinding(binding, None)
        made = binding.get_outputs()
        return [self._left(made[i], port) for i, port in enumerate(self.outputs)]

    def _left(self, value: Any, port: Port) -> Any:
        """An output where it lies; an empty one, of which nothing is on the adapter, as an array."""
        assert port.dtype is not None
        return np.empty(value.shape(), port.dtype) if 0 in value.shape() else DeviceValue(value, port.dtype, self._lock)
