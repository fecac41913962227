"""A graph that computes in float16: every float32 of it becomes a half, but for what cannot or must not.

Nodes stay in float32, between casts, where their operator takes no float16 or where the recipe says so. What operators sum up in float32
by their own definition (the norms' mean of squares) they still do. Weights are halved when they are written, one at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from turnout.errors import InvalidInput
from turnout.graph import alias_of, constant_array, ir, is_constant, label, subgraphs
from turnout.operator import operator_of

__all__ = ["halve", "halve_tables"]

_HALF, _FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
_WIDE = (_FLOAT, ir.DataType.BFLOAT16)
_OURS = frozenset({"MatMulNBits", "GroupQueryAttention", "SkipSimplifiedLayerNormalization", "SkipLayerNormalization", "RotaryEmbedding"})
"""com.microsoft's operators that take halves."""
_TABLE = 1 << 20  # elements from which on a table that rows are looked up in is worth halving


def halve(model: ir.Model, float32: Sequence[str] = ()) -> dict[str, str]:
    """Changes the graph; gives the nodes that stay in float32, each with the reason.

    float32: patterns of names. The graph's inputs and outputs keep their types, but for a cache, which becomes one of halves. Raises
    InvalidInput where the graph has bodies.
    """
    graph = model.graph
    if any(True for node in graph for _ in subgraphs(node)):
        raise InvalidInput("a graph with If, Loop or Scan cannot be halved yet", hint="choose another precision")
    work = _Halves(graph)
    kept = {}
    work.enter()
    for position, node in enumerate(list(graph)):
        name = label(node, position)
        reason = "the recipe keeps it" if any(fnmatchcase(name, one) for one in float32) else _needs_float32(node)
        if reason and work.keep(node):
            kept[name] = reason
        elif not reason:
            work.change(node)
    work.leave()
    return kept


def _needs_float32(node: ir.Node) -> str:
    """Why a node cannot compute in halves, "" where it can."""
    operator = operator_of(node)
    schema = None if operator is None else operator.schema
    if node.domain == "com.microsoft" and node.op_type in _OURS:
        return ""
    if schema is None:
        return f"nothing is known of {node.domain}.{node.op_type}"
    for values, formals in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for place, value in enumerate(values):
            formal = formals[min(place, len(formals) - 1)] if formals else None
            if value is not None and formal is not None and value.dtype in (_FLOAT, _HALF) and "tensor(float16)" not in formal.types:
                return f"{node.op_type} takes no float16 for {formal.name}"
    return ""


class _Halves:
    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.constants: dict[ir.Value, ir.Value] = {}
        self.casts: dict[ir.Value, ir.Value] = {}

    def enter(self) -> None:
        """The graph's inputs: a cache becomes one of halves, others are cast."""
        aliased = {alias_of(value) for value in self.graph.outputs}
        for value in list(self.graph.inputs):
            if value.dtype != _FLOAT or value.const_value is not None:
                continue
            if value.name in aliased or (value.name or "").startswith("past_key_values."):
                value.dtype = _HALF
                continue
            half = ir.Value(name=f"{value.name}.half", type=ir.TensorType(_HALF), shape=value.shape)
            value.replace_all_uses_with(half)
            first = next(iter(self.graph), None)
            cast = ir.node("Cast", [value], {"to": int(_HALF)}, outputs=[half], name=f"{value.name}.half", version=21)
            if first is None:
                self.graph.append(cast)
            else:
                self.graph.insert_before(first, [cast])

    def change(self, node: ir.Node) -> None:
        """The node computes in halves."""
        for place, value in enumerate(node.inputs):
            if value is not None and is_constant(value) and value.dtype in _WIDE:
                node.replace_input_with(place, self.half(value))
        for name, attribute in list(node.attributes.items()):
            if name in ("to", "dtype") and attribute.type == ir.AttributeType.INT and attribute.value in map(int, _WIDE):
                node.attributes[name] = ir.AttrInt64(name, int(_HALF))
            elif attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype == _FLOAT:
                node.attributes[name] = ir.AttrTensor(name, ir.tensor(_clipped(attribute.value.numpy())))
        for value in node.outputs:
            if value.dtype in _WIDE:
                value.dtype = _HALF

    def keep(self, node: ir.Node) -> bool:
        """The node stays in float32; whether it has anything to do with it at all."""
        concerned = False
        for place, value in enumerate(node.inputs):
            if value is not None and value.dtype == _HALF and not is_constant(value):
                node.replace_input_with(place, self.wide(value, node))
                concerned = True
        for value in node.outputs:
            if value.dtype == _FLOAT:
                self.narrow(value, node)
                concerned = True
        return concerned

    def half(self, value: ir.Value) -> ir.Value:
        """The constant as halves, made anew when it is read."""
        if value not in self.constants:
            name, shape = f"{value.name}.half", value.const_value.shape  # type: ignore[union-attr]
            made = functools.partial(_halved, value, name)
            tensor = ir.LazyTensor(made, dtype=_HALF, shape=ir.Shape(shape.numpy()), name=name)
            new = ir.Value(name=name, type=ir.TensorType(_HALF), shape=ir.Shape(shape.numpy()), const_value=tensor)
            self.graph.register_initializer(new)
            self.constants[value] = new
        return self.constants[value]

    def wide(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        if value not in self.casts:
            new = ir.Value(name=f"{value.name}.float32", type=ir.TensorType(_FLOAT), shape=value.shape)
            cast = ir.node("Cast", [value], {"to": int(_FLOAT)}, outputs=[new], name=new.name, version=21)
            self.graph.insert_before(reader, [cast])
            self.casts[value] = new
        return self.casts[value]

    def narrow(self, value: ir.Value, maker: ir.Node) -> None:
        """Everybody else reads what it makes as halves."""
        new = ir.Value(name=f"{value.name}.half", type=ir.TensorType(_HALF), shape=value.shape)
        value.replace_all_uses_with(new)
        self.graph.insert_after(maker, [ir.node("Cast", [value], {"to": int(_HALF)}, outputs=[new], name=new.name, version=21)])
        self.casts[new] = value

    def leave(self) -> None:
        """The graph's outputs: a cache's stay halves, others are cast back."""
        for place, value in enumerate(self.graph.outputs):
            if value.dtype != _HALF or alias_of(value) or (value.name or "").startswith("present."):
                continue
            name, node = value.name, value.producer()
            if node is None:
                continue
            value.name = f"{name}.half"
            new = ir.Value(name=name, type=ir.TensorType(_FLOAT), shape=value.shape)
            self.graph.append(ir.node("Cast", [value], {"to": int(_FLOAT)}, outputs=[new], name=f"{name}.float32", version=21))
            self.graph.outputs[place] = new


def halve_tables(graph: ir.Graph) -> None:
    """Large tables in which rows are looked up are kept in halves, and the rows cast: half the file, and nobody computes with halves."""
    for node in list(graph):
        data = node.inputs[0] if node.op_type == "Gather" and node.domain == "" and node.inputs else None
        if data is None or not is_constant(data) or data.dtype != _FLOAT or len(data.uses()) != 1 or data in graph.inputs:
            continue
        if data.const_value is None or data.const_value.size < _TABLE:
            continue
        node.replace_input_with(0, _Halves(graph).half(data))
        rows = node.outputs[0]
        wide = ir.Value(name=f"{rows.name}.float32", type=ir.TensorType(_FLOAT), shape=rows.shape)
        rows.replace_all_uses_with(wide, replace_graph_outputs=True)
        rows.dtype = _HALF
        graph.insert_after(node, [ir.node("Cast", [rows], {"to": int(_FLOAT)}, outputs=[wide], name=wide.name, version=21)])


def _halved(value: ir.Value, name: str) -> ir.TensorProtocol:
    return ir.tensor(_clipped(constant_array(value)), name=name)


def _clipped(array: NDArray[Any]) -> NDArray[np.float16]:
    """As halves; what is finite stays finite (masks hold the lowest float32)."""
    top = np.float32(np.finfo(np.float16).max)
    wide = np.asarray(array, np.float32) if array.dtype == ml_dtypes.bfloat16 else np.asarray(array)
    return np.where(np.isfinite(wide), np.clip(wide, -top, top), wide).astype(np.float16)
