"""KernelProvider: a provider as a table of functions on NumPy arrays. Its refusals write themselves.

    class Mine(KernelProvider):
        name = "mine"

        @kernel("Relu", dtypes=("float32",))
        def relu(self, x):
            return np.maximum(x, 0)

A kernel takes the node's inputs by position (None for one that is left out) and its attributes by keyword, and returns the output, or a
tuple of outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from turnout.device import Device
from turnout.errors import RunError
from turnout.provider import Executable, No, Provider, Yes

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Kernel", "KernelExecutable", "KernelProvider", "kernel"]


@dataclass(frozen=True)
class Kernel:
    """One line of the table: the operator, the versions of it that this is right for, and the element types it takes.

    since: the first operator set version whose definition it follows; until: the last one, None for every later one.
    dtypes: NumPy names of the element types that every input and output may have; None for all.
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

        version = node.version or 1
        if version < self.since or (self.until is not None and version > self.until):
            span = f"{self.since} and later" if self.until is None else f"{self.since} to {self.until}"
            return f"{self.op_type} kernel is for operator set {span}, not {version}"
        for value in (*node.inputs, *node.outputs):
            if value is None or self.dtypes is None:
                continue
            if not isinstance(value.type, ir.TensorType):
                return f"{self.op_type} kernel takes tensors, not {describe(value)}"
            dtype = element_type(value)
            name = "string" if dtype == ir.DataType.STRING else dtype.numpy().name if dtype is not None else "an unknown type"
            if name not in self.dtypes:
                return f"{self.op_type} kernel takes {', '.join(self.dtypes)}, not {name}"
        return ""


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
        for row, title, inputs, attributes, outputs in self._calls:
            try:
                result = row.function(self._provider, *(None if name is None else named[name] for name in inputs), **attributes)
            except Exception as error:
                raise RunError(f"{self._provider.name}: the {title} kernel failed: {type(error).__name__}: {error}") from error
            named.update(zip(outputs, result if isinstance(result, tuple) else (result,), strict=False))
        return host_results([named[name] for name in self._outputs], values)


def _call(provider: KernelProvider, node: ir.Node) -> tuple[Kernel, str, list[str | None], dict[str, Any], list[str | None]]:
    row = provider.pick(node)
    assert isinstance(row, Kernel), "compile is given only what supports said Yes to"
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    inputs = [None if value is None else value.name for value in node.inputs]
    return row, node.op_type, inputs, attributes, [value.name for value in node.outputs]
