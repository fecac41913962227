"""Plans without a device: which kernels a model launches at given inputs. For the command, the budget of registers, and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from turnout.graph import constant_array, partition
from turnout_cuda.array import Array, Buffer, Launch, Step
from turnout_cuda.build import Target
from turnout_cuda.element import element_of
from turnout_cuda.partition import Partition
from turnout_cuda.trace import State, Trace

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["launches", "steps"]


class _Nowhere:
    """Stands in for a Context: what is brought there has no address."""

    def __init__(self, fuses: bool, arch: str) -> None:
        self.fuses = fuses
        self.target = Target(arch)

    def upload(self, array: np.ndarray[Any, Any]) -> Any:
        return self

    address = 0
    cublaslt = "these are plans of our own kernels"


def steps(model: ir.Model, inputs: Sequence[Any], *, fuses: bool = True, arch: str = "sm_80") -> list[Step]:
    """The launches and copies of a model at these inputs, up to the first value that a shape depends on and only a device has.

    Raises CompileError where a node has no kernel, and RunError where the shapes do not fit.
    """
    graph = model.graph
    view = partition(list(graph), graph.inputs, graph.outputs, graph.opset_imports, name="dry")
    own = Partition(view)
    arrays: dict[str, Array] = {}
    for value in view.initializers.values():
        arrays[value.name or ""] = _array(constant_array(value))
    for place, (name, value) in enumerate(zip(own.inputs, inputs, strict=True)):
        array = _array(value)
        if name not in own.host_values:
            array.host, array.buffer = None, Buffer(array.nbytes, "input", place)
        arrays[name] = array
    for name, array in arrays.items():
        array.readers = own.readers.get(name, 0)
    return Trace(own, _Nowhere(fuses, arch), State(0, arrays)).segment().steps  # type: ignore[arg-type]


def _array(values: Any) -> Array:
    values = np.asarray(values)
    element = element_of(values.dtype)
    assert element is not None
    return Array(values.shape, element, host=values)


def launches(model: ir.Model, inputs: Sequence[Any], *, fuses: bool = True, arch: str = "sm_80") -> Mapping[str, Launch]:
    """The kernels of a model at these inputs, by entry name."""
    return {step.entry: step for step in steps(model, inputs, fuses=fuses, arch=arch) if isinstance(step, Launch)}
