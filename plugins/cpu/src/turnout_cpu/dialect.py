"""ONNX Runtime's own operators for the CPU, where they are quicker than ONNX's: one rule per function.

A rule looks at one node of the graph, with what is around it, and gives the rewrite that ends there, or None. Source of what the
operators do: their descriptions in onnxruntime, docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.attention import CachedAttention, dims_of, made_by, same_value
from turnout.graph import attribute, ir
from turnout.provider import Rewrite
from turnout.rules import Readers, by_rules

__all__ = ["attention_with_cache", "norm", "norm_of_sum", "product_in_halves", "rewrites"]

_MICROSOFT = "com.microsoft"


def rewrites(graph: ir.Graph) -> Iterator[Rewrite]:
    """All rewrites of a graph, none over another."""
    return by_rules(graph, (attention_with_cache, norm_of_sum, norm, product_in_halves))


# the rules --------------------------------------------------------------------------------------------------------------


def norm(node: ir.Node, readers: Readers) -> Rewrite | None:
    """RMSNormalization over the last axis: SimplifiedLayerNormalization."""
    if not _is_norm(node):
        return None
    new = _node("", "SimplifiedLayerNormalization", node.inputs, [same_value(node.outputs[0])], axis=-1, epsilon=_epsilon(node), version=1)
    return Rewrite([node], "SimplifiedLayerNormalization", replacement=[new])


def norm_of_sum(node: ir.Node, readers: Readers) -> Rewrite | None:
    """Add and RMSNormalization of the sum, which is read elsewhere too: SkipSimplifiedLayerNormalization, which gives both."""
    add = made_by(node.inputs[0], "Add") if _is_norm(node) else None
    if add is None or any(dims_of(value) != dims_of(add.outputs[0]) or len(dims_of(value)) != 3 for value in add.inputs):
        return None
    nothing = [ir.Value(name="") for _ in range(2)]
    outputs = [same_value(node.outputs[0]), *nothing, same_value(add.outputs[0])]
    inputs = [*add.inputs, node.inputs[1]]
    new = _node(_MICROSOFT, "SkipSimplifiedLayerNormalization", inputs, outputs, epsilon=_epsilon(node))
    return Rewrite([add, node], "SkipSimplifiedLayerNormalization", replacement=[new])


def attention_with_cache(node: ir.Node, readers: Readers) -> Rewrite | None:
    """Attention over caches that TensorScatter writes into, rotary positions included: GroupQueryAttention.

    It updates the caches in place where they are bound so. It takes more than one token after others for one text only, so that the
    batch has to be 1. Where Q, K and V come from one Split it reads what was split.
    """
    parts = CachedAttention.find(node)
    if parts is None or dims_of(node.inputs[0])[0] != 1 or not _is_table(parts):
        return None
    if not readers.only(parts.nodes, (parts.seen, parts.present_key, parts.present_value)):
        return None
    name = node.name or parts.seen.name
    lengths = ir.Value(name=f"{name}.lengths", type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape([1]))
    total = ir.Value(name=f"{name}.total", type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape([]))
    last = ir.Value(name=f"{name}.last", type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape([1]))
    counts = [
        _node("", "Cast", [parts.lengths], [lengths], to=int(ir.DataType.INT32)),
        _node("", "Squeeze", [lengths], [total]),
        _node("", "Sub", [lengths, _one()], [last]),
    ]
    attributes: dict[str, Any] = {"num_heads": parts.heads, "kv_num_heads": parts.key_heads, "do_rotary": 1}
    attributes["rotary_interleaved"] = attribute(parts.turn, "interleaved", 0)
    attributes |= {name: float(attribute(node, name, 0)) for name in ("scale", "softcap") if name in node.attributes}
    if parts.window:
        attributes["local_window_size"] = parts.window
    projections = parts.projections if parts.split is None else [parts.split.inputs[0], None, None]
    inputs = [*projections, parts.past_key, parts.past_value, last, total, *parts.tables, parts.positions]
    outputs = [same_value(value) for value in (parts.seen, parts.present_key, parts.present_value)]
    fused = _node(_MICROSOFT, "GroupQueryAttention", inputs, outputs, **attributes)
    return Rewrite(parts.nodes, "GroupQueryAttention", replacement=[*counts, fused])


def product_in_halves(node: ir.Node, readers: Readers) -> Rewrite | None:
    """MatMulNBits for which float16's accuracy will do: what rounding x to 8 bits loses is rounded to 8 bits and multiplied too.

    ONNX Runtime's kernels that round each block of x to 8 bits (accuracy_level 4) are several times as fast as those which do not. What
    they make of a block is its product with the identity; it and the rest are two rows, which cost little more than one: the same
    weights are read.
    """
    x = node.inputs[0] if _wants_halves(node) else None
    if x is None:
        return None
    columns, bits, size = (attribute(node, name, 4) for name in ("K", "bits", "block_size"))
    how = {"bits": bits, "block_size": size, "accuracy_level": 4}
    y = node.outputs[0]
    names = ("blocks", "rounded.blocks", "rounded", "rest", "halves", "products", "product", "product.rest")
    blocks, rounded_blocks, rounded, rest, halves, products, *sums = (_unshaped(f"{y.name}.{name}", x) for name in names)
    new = [
        _node("", "Reshape", [x, _numbers(0, -1, size)], [blocks]),
        _node(_MICROSOFT, "MatMulNBits", [blocks, *_identity(bits, size)], [rounded_blocks], K=size, N=size, **how),
        _node("", "Reshape", [rounded_blocks, _numbers(0, -1, columns)], [rounded]),
        _node("", "Sub", [x, rounded], [rest]),
        _node("", "Concat", [rounded, rest], [halves], axis=1),
        _node(_MICROSOFT, "MatMulNBits", [halves, *node.inputs[1:]], [products], K=columns, N=attribute(node, "N", 0), **how),
        _node("", "Split", [products], sums, axis=1, num_outputs=2),
        _node("", "Add", sums, [same_value(y)]),
    ]
    return Rewrite([node], "MatMulNBits in two halves", replacement=new)


# what the rules look for ------------------------------------------------------------------------------------------------


def _is_norm(node: ir.Node) -> bool:
    if node.op_type != "RMSNormalization" or node.domain not in ("", "ai.onnx") or attribute(node, "axis", -1) != -1:
        return False
    x, weight = node.inputs[:2]
    is_float = all(value is not None and value.dtype == ir.DataType.FLOAT for value in (x, weight))
    return is_float and len(dims_of(weight)) == 1 and attribute(node, "stash_type", 1) == 1


def _is_table(parts: CachedAttention) -> bool:
    """Whether GroupQueryAttention takes these cosines: a row for each position, and sizes that its kernel has."""
    head, dims = dims_of(parts.past_key)[3], dims_of(parts.tables[0])
    part = attribute(parts.turn, "rotary_embedding_dim", 0)
    if len(dims) != 2 or not isinstance(head, int) or not isinstance(dims[1], int):
        return False
    return head % 16 == 0 and dims[1] % 8 == 0 and 2 * dims[1] == (part or head)


def _wants_halves(node: ir.Node) -> bool:
    """Whether it is a product with whole blocks and without a bias, which wants less than float32's accuracy, and more than 8 bits'."""
    if node.op_type != "MatMulNBits" or attribute(node, "accuracy_level", 0) not in (2, 3):
        return False
    bits, size = attribute(node, "bits", 4), attribute(node, "block_size", 0)
    is_sound = bits in (2, 4, 8) and size >= 16 and attribute(node, "K", 0) % size == 0 and not any(node.inputs[4:])
    return is_sound and node.inputs[0] is not None and node.inputs[0].dtype == ir.DataType.FLOAT and len(dims_of(node.inputs[0])) == 3


def _epsilon(node: ir.Node) -> float:
    return float(attribute(node, "epsilon", 1e-5))


# making nodes -----------------------------------------------------------------------------------------------------------


def _node(
    domain: str, operator: str, inputs: Sequence[Any], outputs: Sequence[ir.Value], version: int | None = None, **how: Any
) -> ir.Node:
    known = version or (1 if domain == _MICROSOFT else 21)
    name = next(value.name for value in outputs if value.name)
    return ir.node(operator, list(inputs), how, domain=domain, outputs=list(outputs), version=known, name=f"{name}.{operator}")


def _one() -> ir.Value:
    return _constant("one", np.array([1], np.int32))


def _numbers(*numbers: int) -> ir.Value:
    return _constant(f"numbers.{'.'.join(map(str, numbers))}", np.array(numbers, np.int64))


def _identity(bits: int, size: int) -> list[ir.Value]:
    """Values and scales of the identity as MatMulNBits takes it, in one block a row; half of all codes is its zero point."""
    codes = np.eye(size, dtype=np.uint8) + np.uint8(1 << (bits - 1))
    fields = codes.reshape(size, 1, -1, 8 // bits) << np.arange(0, 8, bits, dtype=np.uint8)
    name = f"identity.{bits}.{size}"
    scales = _constant(f"{name}.scales", np.ones((size, 1), np.float32))
    return [_constant(f"{name}.values", np.bitwise_or.reduce(fields, -1)), scales]


def _constant(name: str, array: NDArray[Any]) -> ir.Value:
    tensor = ir.Tensor(array)
    return ir.Value(name=f"turnout.cpu.{name}", type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)


def _unshaped(name: str, like: ir.Value) -> ir.Value:
    return ir.Value(name=name, type=like.type)
