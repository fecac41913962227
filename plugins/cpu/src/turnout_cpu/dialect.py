"""ONNX Runtime's own operators for the CPU, where they are quicker than ONNX's: one rule per function.

A rule looks at one node of the graph, with what is around it, and gives the rewrite that ends there, or None. Source of what the
operators do: their descriptions in onnxruntime, docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from turnout.attention import CachedAttention, dims_of, made_by, same_value
from turnout.graph import attribute, ir
from turnout.provider import Rewrite
from turnout.rules import Readers, by_rules
from turnout_cpu.nodes import MICROSOFT, constant, made
from turnout_cpu.products import product_in_halves, product_of_nibbles

__all__ = ["attention_with_cache", "norm", "norm_of_sum", "rewrites"]


def rewrites(graph: ir.Graph) -> Iterator[Rewrite]:
    """All rewrites of a graph, none over another."""
    return by_rules(graph, (attention_with_cache, norm_of_sum, norm, product_in_halves, product_of_nibbles))


# the rules --------------------------------------------------------------------------------------------------------------


def norm(node: ir.Node, readers: Readers) -> Rewrite | None:
    """RMSNormalization over the last axis: SimplifiedLayerNormalization."""
    if not _is_norm(node):
        return None
    new = made("", "SimplifiedLayerNormalization", node.inputs, [same_value(node.outputs[0])], axis=-1, epsilon=_epsilon(node), version=1)
    return Rewrite([node], "SimplifiedLayerNormalization", replacement=[new])


def norm_of_sum(node: ir.Node, readers: Readers) -> Rewrite | None:
    """Add and RMSNormalization of the sum, which is read elsewhere too: SkipSimplifiedLayerNormalization, which gives both."""
    add = made_by(node.inputs[0], "Add") if _is_norm(node) else None
    if add is None or any(dims_of(value) != dims_of(add.outputs[0]) or len(dims_of(value)) != 3 for value in add.inputs):
        return None
    nothing = [ir.Value(name="") for _ in range(2)]
    outputs = [same_value(node.outputs[0]), *nothing, same_value(add.outputs[0])]
    inputs = [*add.inputs, node.inputs[1]]
    new = made(MICROSOFT, "SkipSimplifiedLayerNormalization", inputs, outputs, epsilon=_epsilon(node))
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
        made("", "Cast", [parts.lengths], [lengths], to=int(ir.DataType.INT32)),
        made("", "Squeeze", [lengths], [total]),
        made("", "Sub", [lengths, _one()], [last]),
    ]
    attributes: dict[str, Any] = {"num_heads": parts.heads, "kv_num_heads": parts.key_heads, "do_rotary": 1}
    attributes["rotary_interleaved"] = attribute(parts.turn, "interleaved", 0)
    attributes |= {name: float(attribute(node, name, 0)) for name in ("scale", "softcap") if name in node.attributes}
    if parts.window:
        attributes["local_window_size"] = parts.window
    projections = parts.projections if parts.split is None else [parts.split.inputs[0], None, None]
    inputs = [*projections, parts.past_key, parts.past_value, last, total, *parts.tables, parts.positions]
    outputs = [same_value(value) for value in (parts.seen, parts.present_key, parts.present_value)]
    fused = made(MICROSOFT, "GroupQueryAttention", inputs, outputs, **attributes)
    return Rewrite(parts.nodes, "GroupQueryAttention", replacement=[*counts, fused])


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


def _epsilon(node: ir.Node) -> float:
    return float(attribute(node, "epsilon", 1e-5))


def _one() -> ir.Value:
    return constant("one", np.array([1], np.int32))
