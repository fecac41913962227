"""KernelProvider: a provider as a table of functions on NumPy arrays. Its refusals write themselves.

    class Mine(KernelProvider):
        name = "mine"

        @kernel("Relu", dtypes=("float32",))
        def relu(self, x):
            return np.maximum(x, 0)

A kernel takes the node's inputs by position (None for one that is left out) and its attributes by keyword: those that the node has, and
the operator's defaults for others that it has a parameter for. It returns the output, or a tuple or list of outputs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from turnout.device import Device
from turnout.errors import RunError
from turnout.provider import Executable, No, Provider, Yes

if TYPE_CHECKING:
    import onnx_ir as ir

    from turnout.operator import Operator

__all__ = ["Kernel", "KernelExecutable", "KernelProvider", "kernel"]


@dataclass(frozen=True)
class Kernel:
    """One line of the table: the operator, the versions of it that this is right for, and the element types it takes.

    since: the first operator set version whose definition it follows; until: the last one, None for every later one.
    dtypes: NumPy names of the element types that inputs and outputs may have; None for all. Those that the operator's definition lets
    have none of them (the axes of a reduction, the indices of Gather, the condition of Where) may be whatever it admits.
    """

    function: Callable[..., Any]
    op_type: str
    domain: str = ""
    since: int = 1
    until: int | None = None
    dtypes: tuple[str, ...] | None = None

    def refusal(self, node: ir.Node) -> str:
        """Why it does not take the node; "" where it does."""
        from turnout.graph import describe, element_type, ir
        from turnout.operator import operator_of

        version = node.version or 1
        if version < self.since or (self.until is not None and version > self.until):
            span = f"{self.since} and later" if self.until is None else f"{self.since} to {self.until}"
            return f"{self.op_type} kernel is for operator set {span}, not {version}"
        if self.dtypes is None:
            return ""
        asked = _asked(operator_of(node), self.dtypes, len(node.inputs), len(node.outputs))
        for value, matters in zip((*node.inputs, *node.outputs), asked, strict=True):
            if value is None or not matters:
                continue
            if not isinstance(value.type, ir.TensorType):
                return f"{self.op_type} kernel takes tensors, not {describe(value)}"
            dtype = element_type(value)
            name = "string" if dtype == ir.DataType.STRING else dtype.numpy().name if dtype is not None else "an unknown type"
            if name not in self.dtypes:
                return f"{self.op_type} kernel takes {', '.join(self.dtypes)}, not {name}"
        return ""


@functools.cache
def _asked(operator: Operator | None, dtypes: tuple[str, ...], inputs: int, outputs: int) -> tuple[bool, ...]:
    """For each input, then each output, whether its definition admits one of the types at all, so that they speak of it."""
    schema = None if operator is None else operator.schema
    if schema is None:
        return (True,) * (inputs + outputs)
    names = {f"tensor({_ONNX_NAMES.get(dtype, dtype)})" for dtype in dtypes}
    found: list[bool] = []
    for count, parameters in ((inputs, schema.inputs), (outputs, schema.outputs)):
        speaks = [bool(names & set(parameter.types)) for parameter in parameters]
        found += [speaks[min(place, len(speaks) - 1)] for place in range(count)]  # the last one may stand for many
    return tuple(found)


_ONNX_NAMES = {"float32": "float", "float64": "double"}


def kernel(
    op_type: str, *, domain: str = "", since: int = 1, until: int | None = None, dtypes: Sequence[str] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Marks a method of a KernelProvider as the kernel of an operator; put it twice on one method for two operators."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        made = Kernel(function, op_type, domain, since, until, None if dtypes is None else tuple(dtypes))
        function.__dict__.setdefault("turnout_kernels", []).append(made)
        return function

    return mark


class KernelProvider(Provider):
    """A provider whose operators are methods marked with `@kernel`. Add `probe` where there is more to it than the host."""

    kernels: ClassVar[Mapping[tuple[str, str], Sequence[Kernel]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        table: dict[tuple[str, str], list[Kernel]] = {key: list(rows) for key, rows in cls.kernels.items()}
        for method in vars(cls).values():
            for made in getattr(method, "turnout_kernels", ()):
                table.setdefault((made.domain, made.op_type), []).insert(0, made)
        cls.kernels = table

    def probe(self) -> Sequence[Device]:
        return [Device(self.name, description=type(self).__doc__ or self.name)]

    def supports(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        picked = self.pick(node)
        return picked if isinstance(picked, No) else Yes()

    def pick(self, node: ir.Node) -> Kernel | No:
        """The kernel for a node, or why there is none."""
        rows = self.kernels.get((node.domain, node.op_type), ())
        reason = f"no kernel for {node.op_type}"
        for row in rows:
            reason = row.refusal(node)
            if not reason:
                return row
        return No(reason)

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        return KernelExecutable(self, graph)


class KernelExecutable(Executable):
    """Runs a graph node by node with the kernels that `pick` chose."""

    def __init__(self, provider: KernelProvider, graph: ir.GraphView) -> None:
        from turnout.graph import constant_array

        self._provider = provider
        self._inputs = [value.name for value in graph.inputs]
        self._outputs = [value.name for value in graph.outputs]
        self._constants = {value.name: constant_array(value) for value in graph.initializers.values()}
        self._calls = [_call(provider, node) for node in graph]

    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
        from turnout.tensor import host_results

        named = self._constants | dict(zip(self._inputs, values, strict=True))
        for row, title, inputs, attributes, outputs, single in self._calls:
            try:
                result = row.function(self._provider, *(None if name is None else named[name] for name in inputs), **attributes)
            except Exception as error:
                raise RunError(f"{self._provider.name}: the {title} kernel failed: {type(error).__name__}: {error}") from error
            values = _outputs(result, single)
            if len(values) < len(outputs):
                raise RunError(f"{self._provider.name}: the {title} kernel gave {len(values)} values for {len(outputs)} outputs")
            named.update(zip(outputs, values, strict=False))
        return host_results([named[name] for name in self._outputs], values)


Call = tuple[Kernel, str, "list[str | None]", dict[str, Any], "list[str | None]", bool]
"""The kernel; the operator; the names of the inputs; the attributes; the names of the outputs; whether a list is one output, a sequence."""


def _call(provider: KernelProvider, node: ir.Node) -> Call:
    from turnout.graph import ir

    row = provider.pick(node)
    assert isinstance(row, Kernel), "compile is given only what supports said Yes to"
    attributes = _defaults(row, node) | {name: attribute.value for name, attribute in node.attributes.items()}
    inputs = [None if value is None else value.name for value in node.inputs]
    single = len(node.outputs) == 1 and isinstance(node.outputs[0].type, ir.SequenceType)
    return row, node.op_type, inputs, attributes, [value.name for value in node.outputs], single


def _defaults(row: Kernel, node: ir.Node) -> dict[str, Any]:
    """What the operator's definition says of attributes that the node lacks and the kernel has a parameter for."""
    from onnx import helper

    from turnout.operator import operator_of

    operator = operator_of(node)
    if operator is None or operator.schema is None:
        return {}
    known = operator.schema.attributes
    found = {name: known[name].default_value for name in inspect.signature(row.function).parameters if name in known}
    values = {name: helper.get_attribute_value(default) for name, default in found.items() if default.type}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def _outputs(result: Any, single: bool) -> Sequence[Any]:
    """The outputs, from what a kernel returned."""
    return result if isinstance(result, tuple) or (isinstance(result, list) and not single) else (result,)
