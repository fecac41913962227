"""What core asks of a graph. The graph itself is `onnx_ir`'s: turnout has no second one.

Import `ir` from here. It is onnx_ir, loaded at the first look at anything in it: with onnx and protobuf that takes longer than to reopen a
model whose load was kept. onnx_ir itself loads sympy, two seconds on a slow machine, for arithmetic on symbolic dimensions that few need.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

__all__ = [
    "alias_of",
    "attribute",
    "captures",
    "constant_array",
    "declare_alias",
    "declare_place",
    "describe",
    "element_type",
    "input_at",
    "ir",
    "is_constant",
    "label",
    "nbytes",
    "partition",
    "place_of",
    "shape_of",
    "subgraphs",
    "type_name",
    "whole_file",
]


class _LateSympy(types.ModuleType):
    """Stands in for sympy while onnx_ir is imported; afterwards onnx_ir's first real use of an attribute loads sympy."""

    importing = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.importing:  # onnx_ir keeps a few functions (Max, floor ...) in tables that it builds as it is imported
            return lambda *args, **kwargs: getattr(self, name)(*args, **kwargs)
        import sympy

        return getattr(sympy, name)


def _import_onnx_ir() -> types.ModuleType:
    if "onnx_ir" in sys.modules or "sympy" in sys.modules:
        import onnx_ir
    else:
        late = sys.modules["sympy"] = _LateSympy("sympy")
        try:
            import onnx_ir
        finally:
            late.importing = False
            del sys.modules["sympy"]  # whoever else imports sympy gets the real one
    return onnx_ir


class _LateIr(types.ModuleType):
    """Stands in for onnx_ir until something in it is looked at, and then has all that it has."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        module = _import_onnx_ir()
        self.__dict__.update({key: value for key, value in vars(module).items() if not key.startswith("__")})
        return getattr(module, name)


if TYPE_CHECKING:
    import onnx_ir as ir
else:
    ir = _LateIr("onnx_ir")

_WHOLE_FILE = "turnout.whole_file"
_ALIAS = "turnout.alias"  # a key of a value's metadata, so that it stays with the model in a file
_PLACE = "turnout.place"


def subgraphs(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """The bodies of a node: (attribute name, graph)."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.name, attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                yield attribute.name, graph


def captures(node: ir.Node) -> list[ir.Value]:
    """Values from outside the node that its bodies read, each once, in order of first use; its own inputs are not among them."""
    found: dict[ir.Value, None] = {}
    for _, body in subgraphs(node):
        _outside(body, found)
    return list(found)


def _outside(body: ir.Graph, found: dict[ir.Value, None]) -> None:
    own = set(body.inputs) | set(body.initializers.values())
    inner: dict[ir.Value, None] = {}
    for node in body:
        inner.update(dict.fromkeys(value for value in node.inputs if value is not None))
        for _, nested in subgraphs(node):
            _outside(nested, inner)
        own.update(node.outputs)
    inner.update(dict.fromkeys(body.outputs))
    found.update((value, None) for value in inner if value not in own and value.name)


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """What the node says of an attribute, as onnx_ir holds it (int, float, str, tuple, tensor ...); the default where it is silent."""
    said = node.attributes.get(name)
    return default if said is None else said.value


def input_at(node: ir.Node, position: int) -> ir.Value | None:
    """The node's input there; None where it is left out, or where there are fewer."""
    return node.inputs[position] if position < len(node.inputs) else None


def shape_of(value: ir.Value | None) -> list[int | None] | None:
    """The sizes of a value, None for one that is not known; None as a whole where the rank is not known, or the value left out."""
    if value is None or value.shape is None:
        return None
    return [dim if isinstance(dim, int) else None for dim in value.shape]


def is_constant(value: ir.Value) -> bool:
    """Whether the value is a weight or constant: known before any run. (As an input of the graph it may still be overridden.)"""
    return value.const_value is not None and value.producer() is None


def constant_array(value: ir.Value) -> Any:
    """A constant as a NumPy array: ONNX's dtypes through ml_dtypes, strings as objects of `str`."""
    assert value.const_value is not None
    array = value.const_value.numpy()
    if value.const_value.dtype != ir.DataType.STRING:
        return array
    import numpy as np

    return np.array([s.decode() if isinstance(s, bytes) else s for s in array.reshape(-1)], object).reshape(array.shape)


def declare_alias(output: ir.Value, source: ir.Value) -> None:
    """Says that a graph's output may lie in the memory of this input, of the same type and shape (a cache that is updated in place)."""
    output.metadata_props[_ALIAS] = source.name or ""


def alias_of(output: ir.Value) -> str | None:
    """The name of the input in whose memory this output may lie, None where it must have its own."""
    return output.metadata_props.get(_ALIAS) or None


def declare_place(tensor: ir.TensorProtocol, file: Path, offset: int) -> None:
    """Says that a weight's bytes, in its own order, lie in this file from this byte on: whoever keeps the model need not copy them."""
    tensor.meta[_PLACE] = file, offset


def place_of(tensor: ir.TensorProtocol) -> tuple[Path, int] | None:
    """The file in which a weight's bytes lie, and where; None where it was not declared."""
    found: tuple[Path, int] | None = tensor.meta.get(_PLACE)
    return found


def label(node: ir.Node, position: int) -> str:
    """The node's name, or operator and position for the many nodes that have none: `Relu#3`."""
    return node.name or f"{node.op_type}#{position}"


def element_type(value: ir.Value) -> ir.DataType | None:
    """Element type of a tensor, or of the tensors inside a sequence or optional; None where unknown."""
    return value.type.dtype if value.type is not None else None


def type_name(value: ir.Value) -> str:
    """The type as ONNX writes it: `tensor(float)`, `seq(tensor(int64))`, `optional(tensor(float))`; "" where unknown."""
    return _type_name(value.type)


def _type_name(kind: Any) -> str:
    if type(kind) is ir.TensorType:  # nearly all; onnx_ir's types are slow to tell apart with isinstance
        return _tensor_type_name("tensor", kind)
    if kind is None:
        return ""
    if isinstance(kind, ir.SequenceType):
        inner = _type_name(kind.elem_type)
        return f"seq({inner})" if inner else ""
    if isinstance(kind, ir.OptionalType):
        inner = _type_name(kind.elem_type)
        return f"optional({inner})" if inner else ""
    return _tensor_type_name("sparse_tensor" if isinstance(kind, ir.SparseTensorType) else "tensor", kind)


def _tensor_type_name(wrapper: str, kind: Any) -> str:
    if kind.dtype == ir.DataType.UNDEFINED:
        return ""
    return f"{wrapper}({kind.dtype.name.lower()})"


def describe(value: ir.Value) -> str:
    """Type and shape for a person: `float32[1,N,4]`, `seq(tensor(int64))`; `?` for what is unknown."""
    if not isinstance(value.type, ir.TensorType):
        return type_name(value) or "?"
    name = "string" if value.type.dtype == ir.DataType.STRING else value.type.dtype.name.lower()
    name = {"float": "float32", "double": "float64"}.get(name, name)
    if value.shape is None:
        return f"{name}[...]"
    dims = (str(dim) if isinstance(dim, int) else (dim.value or "?") for dim in value.shape)
    return f"{name}[{','.join(dims)}]"


def nbytes(value: ir.Value) -> int | None:
    """Bytes of a tensor whose shape is known in full, else None."""
    if not isinstance(value.type, ir.TensorType) or value.shape is None or value.type.dtype == ir.DataType.STRING:
        return None
    count = 1
    for dim in value.shape:
        if not isinstance(dim, int):
            return None
        count *= dim
    return -(-count * value.type.dtype.bitwidth // 8)


def partition(
    nodes: Sequence[ir.Node],
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    opsets: Mapping[str, int],
    *,
    name: str,
    file: Path | bytes | None = None,
) -> ir.GraphView:
    """A view of some nodes of a graph as a graph of its own; nodes and weights stay where they are.

    Constants that the nodes (or their bodies) read become its initializers. Domains that a rewrite brought along are added to `opsets`.
    """
    opsets = dict(opsets)
    constants: dict[str, ir.Value] = {}
    given = {value.name for value in inputs}
    for node in nodes:
        opsets.setdefault(node.domain, node.version or 1)
        for value in (*node.inputs, *captures(node)):
            if value is not None and is_constant(value) and value.name not in given:
                constants.setdefault(value.name or "", value)
    view = ir.GraphView(inputs, outputs, nodes=nodes, initializers=list(constants.values()), opset_imports=opsets, name=name)
    if file is not None:
        view.meta[_WHOLE_FILE] = file
    return view


def whole_file(graph: ir.GraphView) -> Path | bytes | None:
    """The unchanged file (a path, or its bytes) that this graph is the whole of, or None."""
    return graph.meta.get(_WHOLE_FILE)
