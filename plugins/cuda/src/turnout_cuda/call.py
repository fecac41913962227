"""Call: one node at known shapes, as a launch rule sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from turnout.errors import InvalidInput, RunError
from turnout.graph import attribute
from turnout_cuda.array import Array, Buffer, Formula, Launch, Move, Outside
from turnout_cuda.element import ELEMENTS, Element, element_of
from turnout_cuda.fuse import Inlined, inlined
from turnout_cuda.source import mangled

if TYPE_CHECKING:
    import onnx_ir as ir

    from turnout_cuda.cublaslt import CublasLt
    from turnout_cuda.trace import Trace

__all__ = ["BLOCK", "Call", "Given"]

Given = dict[str, Any]
"""What a kernel names: arrays, whole numbers, lists of them, and floats."""

BLOCK = 256
"""Threads of a block, where nothing speaks for another number."""

_INT32 = 2**31 - 1
_BITS = {1: "unsigned char", 2: "unsigned short", 4: "unsigned", 8: "unsigned long long", 16: "bits128"}


class Call:
    """One node at known shapes. `inputs` are its arrays, None for one that is left out; what a rule returns are its outputs."""

    def __init__(self, trace: Trace, node: ir.Node, inputs: Sequence[Array | None]) -> None:
        self._trace = trace
        self.node = node
        self.inputs = list(inputs)
        self.version = node.version or 1
        self.arch = trace.arch

    # what the node says

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value: int, float, str, list, or a NumPy array for a tensor."""
        value = attribute(self.node, name, default)
        if hasattr(value, "numpy"):
            return value.numpy()
        return list(value) if isinstance(value, tuple) else value

    def real(self, name: str, default: float) -> float:
        """A float attribute. Attributes are float32, their defaults too, whatever the tensors are."""
        return float(np.float32(self.attribute(name, default)))

    def axis(self, name: str = "axis", default: int = 0, ndim: int | None = None) -> int:
        """An attribute that names an axis, counted from the front. Raises RunError where there is no such axis."""
        ndim = self.x.ndim if ndim is None else ndim
        return self.checked_axis(int(self.attribute(name, default)), ndim)

    def checked_axis(self, axis: int, ndim: int) -> int:
        """The axis, counted from the front. Raises RunError where there is no such axis."""
        if not -ndim <= axis < max(ndim, 1):
            raise RunError(f"{self.node.op_type}: there is no axis {axis} in a tensor of rank {ndim}")
        return axis % max(ndim, 1)

    def wants(self, position: int) -> bool:
        """Whether anybody asks for that output."""
        return position < len(self.node.outputs) and bool(self.node.outputs[position].name)

    def element_out(self, position: int = 0) -> Element | None:
        """The element type that the model declares for an output, where it does."""
        kind = self.node.outputs[position].type
        return None if kind is None else element_of(kind.dtype)

    def may_overwrite(self, output: int, position: int) -> bool:
        """Whether the caller wants that output in the memory of that input, and nobody else reads the input: write there, and return it."""
        made, given = self.node.outputs[output].name if output < len(self.node.outputs) else "", self.node.inputs[position]
        return given is not None and self._trace.may_overwrite(made or "", given.name or "")

    @property
    def builds(self) -> bool:
        """Whether any kernel can be built here; else only those are at hand that were built ahead, and follow from no sizes."""
        return self._trace.fuses

    @property
    def cublaslt(self) -> CublasLt | str:
        """The library for plain products, or why there is none."""
        return self._trace.cublaslt

    @property
    def x(self) -> Array:
        """The first input."""
        return self.input(0)

    def input(self, position: int) -> Array:
        """An input that must be there."""
        found = self.optional(position)
        if found is None:
            raise RunError(f"{self.node.op_type} wants an input {position}")
        return found

    def optional(self, position: int) -> Array | None:
        """An input, or None where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def host(self, position: int) -> np.ndarray[Any, Any]:
        """The values of an input that shapes follow from. They are waited for where only the device has them."""
        return self._trace.on_host(self.input(position))

    def host_of(self, array: Array) -> np.ndarray[Any, Any]:
        """The values of an array that `measure` gave."""
        return self._trace.on_host(array)

    def ints(self, position: int, name: str = "", default: Sequence[int] | None = None) -> list[int] | None:
        """A list of whole numbers: an input, or the attribute that it was in older definitions, or the default."""
        if self.optional(position) is not None:
            return [int(value) for value in self.host(position).reshape(-1)]
        found = self.attribute(name) if name else None
        if found is None:
            return None if default is None else list(default)
        return [int(value) for value in (found if isinstance(found, (list, np.ndarray)) else [found])]

    def number(self, position: int, name: str = "", default: float | None = None) -> float | None:
        """One number: an input that is read on the host, or an attribute, or the default."""
        if self.optional(position) is not None:
            return float(self.host(position).reshape(-1)[0])
        found = self.attribute(name) if name else None
        return default if found is None else float(found)

    def wrong(self, what: str) -> InvalidInput:
        """The error for shapes and values that do not fit each other: `raise call.wrong("...")`."""
        shapes = ", ".join(str(list(one.shape)) for one in self.inputs if one is not None)
        return InvalidInput(f"{self.node.op_type}: {what} (shapes: {shapes})", hint="give inputs whose shapes fit the model")

    # what a rule may do

    def new(self, shape: Sequence[int], element: Element | str) -> Array:
        """An array in memory that a launch is to fill: an output, or workspace."""
        element = ELEMENTS[element] if isinstance(element, str) else element
        array = Array(shape, element)
        array.buffer = Buffer(array.nbytes)
        return array

    def constant(self, values: np.ndarray[Any, Any]) -> Array:
        """A small array of known values."""
        element = element_of(values.dtype)
        assert element is not None
        return Array(values.shape, element, host=np.ascontiguousarray(values).reshape(values.shape))

    def formula(self, text: str, inputs: Sequence[Array], element: Element | str, shape: Sequence[int] | None = None) -> Array:
        """A value computed element by element, inputs broadcast: `text` is C++ over {0}, {1} ... Raises InvalidInput."""
        if shape is None:
            shape = self.broadcast(*(one.shape for one in inputs))
        element = ELEMENTS[element] if isinstance(element, str) else element
        return Array(shape, element, formula=Formula(text, list(inputs)))

    def broadcast(self, *shapes: Sequence[int]) -> tuple[int, ...]:
        """The shape that these broadcast to. Raises InvalidInput."""
        try:
            return np.broadcast_shapes(*(tuple(shape) for shape in shapes))
        except ValueError:
            raise self.wrong("the shapes do not broadcast") from None

    def view(self, array: Array, shape: Sequence[int]) -> Array:
        """The same values in the same memory under another shape."""
        return self._trace.view(array, shape)

    def measure(self, make: Callable[[], Sequence[Array]]) -> Sequence[Array]:
        """Arrays that `make` launches, the first of them with its values on the host: for shapes that follow from data.

        The rule is asked again once the values are there, and gets the same arrays then.
        """
        return self._trace.measured(make)

    def ready(self, array: Array) -> Array:
        """The array with its values in device memory, computed or brought there where they are not."""
        return self._trace.settle(array)

    def is_constant(self, array: Array) -> bool:
        """Whether no kernel writes the array: one may read it before it awaits earlier kernels."""
        buffer = self.ready(array).buffer
        return buffer is not None and buffer.home == "constant"

    def inlined(self, array: Array) -> Inlined | None:
        """The array's formula, where this node's kernel may compute it as it reads; None where it has to be in memory."""
        return inlined(self._trace, array)

    def spread(self, array: Array, shape: Sequence[int]) -> Array:
        """The array broadcast to a shape, in memory where it was not of that shape."""
        if array.shape == tuple(shape):
            return array
        self.broadcast(array.shape, shape)
        return self.formula("{0}", [array], array.element, shape)

    def fill(self, array: Array, byte: int = 0) -> Array:
        """The array with every byte set."""
        self.ready(array)
        assert array.buffer is not None
        if array.nbytes:
            self._trace.emit(Move(array.buffer, None, array.nbytes, fill=byte))
        return array

    def copy(self, source: Array, target: Array, nbytes: int, *, source_offset: int = 0, target_offset: int = 0) -> None:
        """Copies bytes inside device memory."""
        source, target = self.ready(source), self.ready(target)
        if nbytes:
            assert target.buffer is not None
            self._trace.emit(Move(target.buffer, source.buffer, nbytes, target_offset, source_offset))

    def each(
        self,
        out: Array,
        body: str,
        *,
        bits: bool = False,
        count: int | None = None,
        also: Sequence[str] = (),
        name: str = "",
        functions: str = "",
        **given: Any,
    ) -> Array:
        """One thread for each i below `count` (the elements of `out`); `body` is C++ that ends in an assignment to `y[i]`.

        given: arrays become pointers of that name and whole numbers `index` parameters of it (a list of them name0, name1 ...); floats
        become parameters of the work type float, or double. Types: `Y` and `Y_` are the element and work type of `out`, `name_t` and
        `name_w` those of an array. bits: elements only move, and are taken as what has their size. also: arrays that are written too.
        """
        arrays: dict[str, Array] = {"y": self.ready(out)}
        scalars: dict[str, Any] = {}
        for key, value in given.items():
            if isinstance(value, Array):
                arrays[key] = self.ready(value)
            elif isinstance(value, (list, tuple)):
                scalars.update({f"{key}{place}": one for place, one in enumerate(value)})
            else:
                scalars[key] = value
        count = int(out.size if count is None else count)
        if not count:
            return out
        largest: int = max(
            [count, *(one.size for one in arrays.values()), *(abs(int(v)) for v in scalars.values() if not isinstance(v, float))]
        )
        index = "int" if largest <= _INT32 - BLOCK else "long long"
        written = {"y", *also}
        head, parameters = [f"typedef {index} index;"], []
        arguments: list[tuple[str, Any]] = []
        for key, array in arrays.items():
            c = _BITS[array.element.size] if bits else array.element.c
            work = c if bits else array.element.work
            upper = key.upper() if key == "y" else f"{key}_t"
            head.append(f"typedef {c} {upper}; typedef {work} {'Y_' if key == 'y' else key + '_w'};")
            parameters.append(f"{'' if key in written else 'const '}{upper}* {'' if key in written else '__restrict__ '}{key}")
            arguments.append(("pointer", array.buffer))
        for key, value in scalars.items():
            kind = "double" if isinstance(value, float) else "index"
            parameters.append(f"{kind} {key}")
            arguments.append(("double" if kind == "double" else index, value))
        parameters.append("index count")
        arguments.append((index, count))
        text = "\n".join(head) + "\n" + functions
        text += f'\nextern "C" __global__ void __launch_bounds__({BLOCK}) ENTRY({", ".join(parameters)}) {{\n'
        text += "    let_next_kernel_start();\n    await_earlier_kernels();\n"
        text += f"    index i = (index)blockIdx.x * {BLOCK} + threadIdx.x;\n    if (i >= count) return;\n    {body}\n}}\n"
        self.launch(
            text,
            name or self.node.op_type,
            (math.ceil(count / BLOCK), 1, 1),
            BLOCK,
            arguments,
            reads=[one for key, one in arrays.items() if key not in written or key in also],
            writes=[arrays[key] for key in written],
        )
        return out

    def outside(self, step: Outside) -> None:
        """Adds a library's own work."""
        self._trace.emit(step)

    def launch(
        self,
        text: str,
        name: str,
        grid: tuple[int, int, int],
        block: int,
        arguments: Sequence[tuple[str, Any]],
        *,
        reads: Sequence[Array],
        writes: Sequence[Array],
        in_place: Sequence[tuple[Array, Array]] = (),
        shared: int = 0,
        operations: int | None = None,
    ) -> None:
        """Launches the kernel ENTRY of a source text. Arrays among the arguments stand for their memory; operations as in Launch."""
        for extent, most in zip(grid, (2**31 - 1, 65535, 65535), strict=True):
            if extent > most:
                raise RunError(f"{self.node.op_type}: {extent} blocks are more than the device launches at once", hint="use smaller inputs")
        entry = mangled(name, text)
        plain = [(kind, value.buffer if isinstance(value, Array) else value) for kind, value in arguments]

        def buffers(arrays: Sequence[Array]) -> list[Buffer]:
            return [one.buffer for one in map(self.ready, arrays) if one.buffer is not None]

        aliases = [(a.buffer, b.buffer) for a, b in in_place if a.buffer is not None and b.buffer is not None]
        source = text.replace("ENTRY", entry)
        self._trace.emit(Launch(source, entry, grid, block, plain, buffers(reads), buffers(writes), aliases, shared, operations))
