"""Canonical decoders in the operators that this provider runs fastest: one rule per function.

A rule looks at one node of the graph, with what is around it, and gives the rewrite that ends there, or None.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from turnout.attention import CachedAttention, dims_of, made_by, same_value
from turnout.graph import attribute, constant_array, input_at, ir, is_constant
from turnout.provider import Rewrite
from turnout.rules import Readers, by_rules

__all__ = ["attention_with_cache", "gated_unit", "halves", "norm_of_sum", "offsets", "rewrites"]

_MICROSOFT, _OWN = "com.microsoft", "turnout.cuda"
_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_FLOATS = (ir.DataType.FLOAT, *_HALVES)


def rewrites(graph: ir.Graph) -> Iterator[Rewrite]:
    """All rewrites of a graph, none over another."""
    return by_rules(graph, (attention_with_cache, offsets, gated_unit, norm_of_sum, halves))


def attention_with_cache(node: ir.Node, readers: Readers) -> Rewrite | None:
    """Attention over caches that TensorScatter writes into, rotary positions included: CachedAttention, which updates them in place."""
    parts = CachedAttention.find(node)
    if parts is None or not readers.only(parts.nodes, (parts.seen, parts.present_key, parts.present_value)):
        return None
    head, dims, turned = dims_of(parts.past_key)[3], dims_of(parts.tables[0]), attribute(parts.turn, "rotary_embedding_dim", 0)
    if not isinstance(head, int) or len(dims) != 2 or dims[1] != (turned or head) // 2 or parts.past_key.dtype not in _FLOATS:
        return None
    how: dict[str, Any] = {"num_heads": parts.heads, "kv_num_heads": parts.key_heads, "local_window_size": parts.window or -1}
    how["rotary_interleaved"] = attribute(parts.turn, "interleaved", 0)
    how |= {name: float(attribute(node, name, 0)) for name in ("scale", "softcap") if name in node.attributes}
    projections = parts.projections if parts.split is None else [parts.split.inputs[0], None, None]
    how["accuracy_level"] = _accuracy(readers.of.get(parts.seen, ()))
    inputs = [*projections, parts.past_key, parts.past_value, parts.lengths, *parts.tables, parts.positions]
    return _rewrite(parts.nodes, _OWN, "CachedAttention", inputs, (parts.seen, parts.present_key, parts.present_value), **how)


def _accuracy(readers: Iterable[ir.Node]) -> int:
    """How exactly products want what they read: the accuracy_level that all MatMulNBits among them allow, 0 where there are none."""
    return min((attribute(one, "accuracy_level", 0) for one in readers if one.op_type == "MatMulNBits"), default=0)


def offsets(node: ir.Node, readers: Readers) -> Rewrite | None:
    """Sums of x over blocks, and the products that add them times their offsets to a MatMulNBits of x: BlockProduct, one for each."""
    apart = made_by(node.inputs[0], "Reshape") if node.op_type == "ReduceSum" else None
    x = None if apart is None else apart.inputs[0]
    if apart is None or x is None:
        return None
    nodes, new = [apart, node], []
    for times in readers.of.get(node.outputs[0], ()):
        table = input_at(times, 1)
        adds = readers.of.get(times.outputs[0], ())
        if times.op_type != "MatMul" or table is None or not is_constant(table) or len(adds) != 1 or adds[0].op_type != "Add":
            return None
        if not _is_matrix(dims_of(table), dims_of(node.outputs[0])):
            return None
        (add,) = adds
        product = next((value.producer() for value in add.inputs if value is not None and value is not times.outputs[0]), None)
        if product is None or (product.domain, product.op_type) != (_MICROSOFT, "MatMulNBits") or product.inputs[0] is not x:
            return None
        if dims_of(apart.outputs[0])[-1:] != (attribute(product, "block_size", 0),) or len(product.inputs) > 4:
            return None
        how = {name: attribute(product, name, 0) for name in ("K", "N", "bits", "block_size", "accuracy_level")}
        inputs = [*product.inputs, *[None] * (4 - len(product.inputs)), _turned(table)]
        nodes += [times, product, add]
        new.append(_node(_OWN, "BlockProduct", inputs, [same_value(add.outputs[0])], **how))
    if not new or not readers.only(nodes, [one.outputs[0] for one in nodes if one.op_type == "Add"]):
        return None
    return Rewrite(nodes, "BlockProduct", replacement=new)


def gated_unit(node: ir.Node, readers: Readers) -> Rewrite | None:
    """Split in halves, of which one goes through a gate and meets the other: GatedUnit."""
    if node.op_type != "Mul" or node.domain not in ("", "ai.onnx"):
        return None
    for gated, up in (node.inputs, reversed(node.inputs)):
        split = made_by(up, "Split")
        if split is None or len(split.outputs) != 2 or up is not split.outputs[1] or attribute(split, "axis", 0) not in (-1, 2):
            continue
        dims = [dims_of(value)[-1:] for value in split.outputs]
        gate, nodes = _gate(gated, split.outputs[0])
        every = [split, *nodes, node]
        if gate and dims[0] == dims[1] and readers.only(every, node.outputs) and split.outputs[0].dtype in _FLOATS:
            return _rewrite(every, _OWN, "GatedUnit", [split.inputs[0]], node.outputs, gate=gate)
    return None


def _gate(gated: ir.Value | None, x: ir.Value) -> tuple[str, list[ir.Node]]:
    """(the gate that this is of x, its nodes); ("", []) where it is none that the kernel knows."""
    gelu, times = made_by(gated, "Gelu"), made_by(gated, "Mul")
    if gelu is not None and gelu.inputs[0] is x and attribute(gelu, "approximate", "none") == "tanh":
        return "gelu", [gelu]
    sigmoid = None if times is None else next((one for value in times.inputs if (one := made_by(value, "Sigmoid")) is not None), None)
    if times is not None and sigmoid is not None and sigmoid.inputs[0] is x and x in times.inputs:
        return "silu", [sigmoid, times]
    return "", []


def norm_of_sum(node: ir.Node, readers: Readers) -> Rewrite | None:
    """Add and RMSNormalization of the sum, which is read elsewhere too: SkipSimplifiedLayerNormalization, which gives both."""
    if node.op_type != "RMSNormalization" or attribute(node, "axis", -1) != -1 or attribute(node, "stash_type", 1) != 1:
        return None
    add = made_by(node.inputs[0], "Add")
    scale = input_at(node, 1)
    if add is None or scale is None or add.outputs[0].dtype not in _FLOATS or scale.dtype != add.outputs[0].dtype:
        return None
    if any(dims_of(value) != dims_of(add.outputs[0]) or len(dims_of(value)) != 3 for value in add.inputs):
        return None
    outputs = [same_value(node.outputs[0]), ir.Value(name=""), ir.Value(name=""), same_value(add.outputs[0])]
    inputs, epsilon = [*add.inputs, scale], float(attribute(node, "epsilon", 1e-5))
    new = _node(_MICROSOFT, "SkipSimplifiedLayerNormalization", inputs, outputs, epsilon=epsilon)
    return Rewrite([add, node], "SkipSimplifiedLayerNormalization", replacement=[new])


def halves(node: ir.Node, readers: Readers) -> Rewrite | None:
    """MatMul with a matrix of halves that is cast to float32 for it: DenseProduct, which reads the halves."""
    cast = made_by(input_at(node, 1), "Cast") if node.op_type == "MatMul" and node.domain in ("", "ai.onnx") else None
    table = None if cast is None else cast.inputs[0]
    if cast is None or table is None or not is_constant(table) or table.dtype not in _HALVES or len(dims_of(table)) != 2:
        return None
    x = node.inputs[0]
    if x is None or x.dtype != ir.DataType.FLOAT or len(dims_of(x)) < 2 or not readers.only([cast, node], node.outputs):
        return None
    return _rewrite([cast, node], _OWN, "DenseProduct", [x, table], node.outputs)


# making nodes -----------------------------------------------------------------------------------------------------------


def _rewrite(
    nodes: Sequence[ir.Node], domain: str, operator: str, inputs: Sequence[Any], outputs: Sequence[ir.Value], **how: Any
) -> Rewrite:
    return Rewrite(nodes, operator, replacement=[_node(domain, operator, inputs, [same_value(value) for value in outputs], **how)])


def _node(domain: str, operator: str, inputs: Sequence[Any], outputs: Sequence[ir.Value], **how: Any) -> ir.Node:
    return ir.node(operator, list(inputs), how, domain=domain, outputs=list(outputs), version=1, name=f"{outputs[0].name}.{operator}")


def _is_matrix(dims: Sequence[Any], times: Sequence[Any]) -> bool:
    """Whether what has these dimensions is multiplied with as one matrix, which adds no axes."""
    return 2 <= len(dims) <= len(times) and all(size == 1 for size in dims[:-2])


def _turned(table: ir.Value) -> ir.Value:
    """The constant's last two axes, changed over, made when it is asked for; those before have one element."""
    assert table.dtype is not None
    rows, columns = dims_of(table)[-2:]
    shape = ir.Shape([columns, rows])
    whole = ir.LazyTensor(
        lambda: ir.Tensor(np.ascontiguousarray(constant_array(table).reshape(rows, columns).T)),
        dtype=table.dtype,
        shape=shape,
        name=f"{table.name}.turned",
    )
    return ir.Value(name=f"{table.name}.turned", type=table.type, shape=shape, const_value=whole)
