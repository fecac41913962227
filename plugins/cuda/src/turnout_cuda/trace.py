"""Trace: a partition's nodes at known shapes, turned into launches and copies in order.

A trace goes on until a shape depends on a value that only the device has (NonZero, a Reshape by a computed shape). There the segment
ends: it runs, the value is read, and a new trace goes on from there. Traces are remembered by what they depended on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from turnout.errors import RunError, TurnoutError
from turnout_cuda import fuse
from turnout_cuda.array import Array, Buffer, Move, Step
from turnout_cuda.call import Call
from turnout_cuda.element import element_of

if TYPE_CHECKING:
    from turnout_cuda.context import Context
    from turnout_cuda.cublaslt import CublasLt
    from turnout_cuda.partition import Partition

__all__ = ["Segment", "State", "Trace"]


class _Waits(Exception):
    """A launch rule asked for values that only the device has."""

    def __init__(self, array: Array, *, launched: bool = False) -> None:
        super().__init__()
        self.array = array
        self.launched = launched


_MEASURED = "measured by node "


@dataclass
class State:
    """How far a trace has come: the next node, and the arrays that are known by then.

    in_place: outputs that the caller wants in the memory of an input, each with that input's name.
    """

    position: int
    arrays: dict[str, Array]
    in_place: dict[str, str] = field(default_factory=dict)


@dataclass
class Segment:
    """What runs without the host looking at values. waits: the array whose values the next segment depends on; None in the last one."""

    steps: list[Step]
    outputs: list[Array]
    state: State
    constants: list[Any] = field(default_factory=list)
    waits: Array | None = None
    waits_for: str = ""


class Trace:
    """One tracing."""

    def __init__(self, partition: Partition, context: Context, state: State) -> None:
        self._partition = partition
        self._context = context
        self.fuses = context.fuses
        self.arch = context.target.arch
        self._state = state
        self._steps: list[Step] = []
        self._constants: list[Any] = []

    def segment(self) -> Segment:
        """Traces up to the end, or to the first value that has to be waited for."""
        nodes = self._partition.nodes
        arrays = self._state.arrays
        while self._state.position < len(nodes):
            position = self._state.position
            try:
                self._node(position)
            except _Waits as waits:
                return self._until(waits.array)
            for name in self._partition.dead_after[position]:
                arrays.pop(name, None)
            self._state.position += 1
        outputs = self._outputs()
        return Segment(self._steps, outputs, self._state, self._constants)

    def _node(self, position: int) -> None:
        partition = self._partition
        node, declaration = partition.nodes[position]
        arrays = self._state.arrays
        inputs = [None if value is None or not value.name else arrays[value.name] for value in node.inputs]
        if position in partition.on_host:
            made: Sequence[Array | None] = [self._computed(node, inputs, partition.on_host[position])]
        else:
            if not declaration.lazy:
                for place, array in enumerate(inputs):
                    if array is not None and place not in declaration.host:
                        self.settle(array)
            steps = len(self._steps)
            try:
                result = declaration.rule(Call(self, node, inputs))
            except _Waits as waits:
                if not waits.launched:
                    del self._steps[steps:]
                raise
            except (TurnoutError, MemoryError):
                raise
            except (ValueError, IndexError, TypeError, KeyError, OverflowError, ZeroDivisionError) as error:
                raise RunError(f"{node.op_type}: these shapes and attributes do not fit: {error}") from error
            made = [result] if isinstance(result, Array) else result
        for value, array in zip(node.outputs, made, strict=False):
            if value.name and array is not None:
                readers = partition.readers.get(value.name, 0)
                if array in inputs:  # the same array under a second name: nobody may compute it into somebody else
                    self.settle(array)
                    array = self.view(array, array.shape)
                array.readers = readers
                arrays[value.name] = array

    def _computed(self, node: Any, inputs: Sequence[Array | None], function: Any) -> Array:
        """A node of shape arithmetic."""
        if node.op_type in ("Shape", "Size"):
            (x,) = inputs
            assert x is not None
            values = np.array(x.shape if node.op_type == "Shape" else x.size, np.int64)
            if node.op_type == "Shape":
                start, end = (node.attributes.get(name) for name in ("start", "end"))
                values = values[start.value if start else None : end.value if end else None]
        else:
            given = [None if one is None else self.on_host(one) for one in inputs]
            attributes = {name: attribute.value for name, attribute in node.attributes.items()}
            try:
                values = np.asarray(function(attributes, *given))
            except Exception as error:
                raise RunError(f"{node.op_type}: these values do not fit: {error}") from error
        element = element_of(values.dtype)
        assert element is not None
        return Array(values.shape, element, host=values)

    # what a Call asks for

    def emit(self, step: Step) -> None:
        """Adds a step."""
        self._steps.append(step)

    @property
    def cublaslt(self) -> CublasLt | str:
        """The library for plain products, or why there is none."""
        return self._context.cublaslt

    def on_host(self, array: Array) -> np.ndarray[Any, Any]:
        """An array's values on the host."""
        if array.host is None:
            raise _Waits(array)
        return np.asarray(array.host)

    def may_overwrite(self, output: str, source: str) -> bool:
        """Whether the output is wanted in the memory of that input of the partition, which no other node reads."""
        return self._state.in_place.get(output) == source and self._partition.readers.get(source) == 1

    def measured(self, make: Callable[[], Sequence[Array]]) -> list[Array]:
        """Arrays that a rule launched before the wait, with the first one's values; or else they are launched now, and waited for."""
        arrays, position = self._state.arrays, self._state.position
        names = [name for name in arrays if name.startswith(f"{_MEASURED}{position} ")]
        if names:
            return [arrays.pop(name) for name in names]
        made = [self.settle(array) for array in make()]
        arrays.update((f"{_MEASURED}{position} {place}", array) for place, array in enumerate(made))
        raise _Waits(made[0], launched=True)

    def settle(self, array: Array) -> Array:
        """The array with its values in device memory."""
        if array.buffer is None:
            if array.formula is not None:
                fuse.compute(self, array, f"fused_{array.element}")
            else:
                tensor = self._context.upload(np.asarray(array.host))
                self._constants.append(tensor)
                array.buffer = Buffer(array.nbytes, "constant", tensor.address)
        return array

    def view(self, array: Array, shape: Sequence[int]) -> Array:
        """The same memory under another shape."""
        self.settle(array)
        sizes = [int(size) for size in shape]
        if math.prod(sizes) != array.size:
            raise RunError(f"{list(array.shape)} has {array.size} elements, and {sizes} would have {math.prod(sizes)}")
        host = None if array.host is None else np.asarray(array.host).reshape(sizes)
        return Array(sizes, array.element, array.buffer, host=host)

    # ends

    def _until(self, array: Array) -> Segment:
        """The segment that ends here, because the values of an array have to be read."""
        self.settle(array)
        name = next(key for key, one in self._state.arrays.items() if one is array)
        for other in self._state.arrays.values():
            if other.formula is not None:
                self.settle(other)
        for other in self._state.arrays.values():
            if other.buffer is not None and other.buffer.home == "scratch":
                other.buffer.home = "kept"
        return Segment(self._steps, [], self._state, self._constants, array, name)

    def _outputs(self) -> list[Array]:
        """The outputs, each in memory of its own that the caller may keep."""
        found: list[Array] = []
        taken: set[Buffer] = set()
        for name in self._partition.outputs:
            array = self.settle(self._state.arrays[name])
            assert array.buffer is not None
            if not self._is_in_place(name, array) and (array.buffer.home in ("input", "constant") or array.buffer in taken):
                array = self._copied(array)
            assert array.buffer is not None
            if array.buffer.home == "scratch":
                array.buffer.home = "output"
            taken.add(array.buffer)
            found.append(array)
        return found

    def _is_in_place(self, name: str, array: Array) -> bool:
        source = self._state.in_place.get(name)
        assert array.buffer is not None
        return source is not None and array.buffer.home == "input" and self._partition.inputs[array.buffer.address] == source

    def _copied(self, array: Array) -> Array:
        own = Array(array.shape, array.element, Buffer(array.nbytes, "output"))
        assert own.buffer is not None
        if array.nbytes:
            self.emit(Move(own.buffer, array.buffer, array.nbytes))
        return own
