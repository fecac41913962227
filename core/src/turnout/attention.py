"""Attention over a cache, as canonical graphs write it: found here for whoever lowers it into an operator of his own.

queries, keys and values, [batch, tokens, heads * head], perhaps parts of one Split
RotaryEmbedding of queries and keys, by the same tables and positions
Reshape and Transpose of all three, to [batch, heads, tokens, head]
TensorScatter of keys and values into the caches, from where their tokens end
Attention over the caches, causal, with a mask that is a window or none, up to nonpad_kv_seqlen = what was there + tokens
Transpose and Reshape back
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from turnout.graph import attribute, constant_array, ir, is_constant

__all__ = ["CachedAttention", "dims_of", "made_by", "numbers_of", "same_value"]


@dataclass
class CachedAttention:
    """The parts of such an attention.

    nodes: all that it is made of. attention, turn: the node Attention, and the RotaryEmbedding of the queries. projections: queries, keys
    and values as [batch, tokens, heads * head]; where they are the parts of one Split, in order, `split` is that node, and among the nodes.
    lengths: int64 [batch], the tokens in the cache after the run. tables: cosines and sines. window: tokens that are seen, 0 for all.
    """

    nodes: list[ir.Node]
    attention: ir.Node
    turn: ir.Node
    split: ir.Node | None
    projections: list[ir.Value]
    past_key: ir.Value
    past_value: ir.Value
    present_key: ir.Value
    present_value: ir.Value
    seen: ir.Value
    lengths: ir.Value
    tables: list[ir.Value]
    positions: ir.Value
    heads: int
    key_heads: int
    window: int

    @classmethod
    def find(cls, node: ir.Node) -> CachedAttention | None:
        """The parts of the attention whose Attention node this is; None where it is built in another way."""
        if (
            node.op_type != "Attention"
            or node.domain not in ("", "ai.onnx")
            or len(node.inputs) != 7
            or not attribute(node, "is_causal", 0)
        ):
            return None
        query, keys, values, mask, no_key, no_value, lengths = node.inputs
        if no_key is not None or no_value is not None or lengths is None or not attribute(node, "is_causal", 0):
            return None
        if set(node.attributes) - {"is_causal", "scale", "softcap"} or query is None or len(dims_of(query)) != 4:
            return None
        if keys is None or values is None:
            return None
        scatter_key, scatter_value = (made_by(value, "TensorScatter") for value in (keys, values))
        if scatter_key is None or scatter_value is None or scatter_key.attributes or scatter_value.attributes:
            return None
        start = scatter_key.inputs[2] if len(scatter_key.inputs) == 3 else None
        if start is None or len(scatter_value.inputs) != 3 or scatter_value.inputs[2] is not start:
            return None
        window = 0 if mask is None else _window(mask, start)
        turned = [_heads(value) for value in (query, scatter_key.inputs[1], scatter_value.inputs[1])]
        joined = _joined(node)
        if not _is_end(lengths, start, dims_of(query)[2]) or window is None or joined is None or any(one is None for one in turned):
            return None
        (q_heads, q), (k_heads, k), (v_heads, v) = turned  # type: ignore[misc]
        turn, other = (made_by(value, "RotaryEmbedding") for value in (q, k))
        heads, key_heads = dims_of(query)[1], dims_of(scatter_key.inputs[0])[1]
        if turn is None or other is None or not _turn_alike(turn, other) or not isinstance(heads, int) or not isinstance(key_heads, int):
            return None
        projections = [turn.inputs[0], other.inputs[0], v]
        split = _split(projections)
        nodes = [*([] if split is None else [split]), *q_heads, *k_heads, *v_heads, turn, other, scatter_key, scatter_value, node, *joined]
        inputs: list[Any] = [*projections, scatter_key.inputs[0], scatter_value.inputs[0], *turn.inputs[1:]]
        if any(value is None for value in inputs):
            return None
        return cls(
            nodes=list(dict.fromkeys(nodes)),
            attention=node,
            turn=turn,
            split=split,
            projections=inputs[:3],
            past_key=inputs[3],
            past_value=inputs[4],
            present_key=keys,
            present_value=values,
            seen=joined[-1].outputs[0],
            lengths=lengths,
            tables=inputs[5:7],
            positions=inputs[7],
            heads=heads,
            key_heads=key_heads,
            window=window,
        )


def made_by(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == operator and node.domain in ("", "ai.onnx") else None


def dims_of(value: ir.Value | None) -> tuple[Any, ...]:
    """Sizes, and names of free dimensions; () where the rank is unknown."""
    if value is None or value.shape is None:
        return ()
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


def numbers_of(value: ir.Value | None) -> tuple[int, ...] | None:
    """The numbers of a small constant."""
    if value is None or not is_constant(value) or value.const_value is None or value.const_value.size > 8:
        return None
    return tuple(int(number) for number in np.ravel(constant_array(value)))


def same_value(value: ir.Value) -> ir.Value:
    """A value of the same name, type and shape, for another node to make."""
    return ir.Value(name=value.name, type=value.type, shape=value.shape)


# how the parts are told -------------------------------------------------------------------------------------------------


def _is_end(lengths: ir.Value, start: ir.Value, tokens: Any) -> bool:
    """Whether lengths = start + the number of this run's tokens."""
    add = made_by(lengths, "Add")
    if add is None or add.inputs[0] is not start:
        return False
    squeeze = made_by(add.inputs[1], "Squeeze")
    shape = None if squeeze is None else made_by(squeeze.inputs[0], "Shape")
    if shape is None or (attribute(shape, "start", 0), attribute(shape, "end", 0)) != (1, 2):
        return False
    dims = dims_of(shape.inputs[0])
    return len(dims) == 2 and dims[1] == tokens and tokens is not None


def _window(mask: ir.Value, start: ir.Value) -> int | None:
    """The window w of a mask that is: place in the cache > position - w; None for any other mask."""
    greater = made_by(mask, "Greater")
    if greater is None or made_by(greater.inputs[0], "Range") is None:
        return None
    places, wide = made_by(greater.inputs[0], "Range"), made_by(greater.inputs[1], "Unsqueeze")
    before = None if wide is None else made_by(wide.inputs[0], "Sub")
    if places is None or before is None or wide is None or numbers_of(wide.inputs[1]) != (1, 3):
        return None
    if (numbers_of(places.inputs[0]), numbers_of(places.inputs[2])) != ((0,), (1,)) or not _is_position(before.inputs[0], start):
        return None
    window = numbers_of(before.inputs[1])
    return window[0] if window is not None and len(window) == 1 and window[0] > 0 else None


def _is_position(value: ir.Value | None, start: ir.Value) -> bool:
    """Whether this is start + 0, 1, 2 ..."""
    add = made_by(value, "Add")
    first = None if add is None else made_by(add.inputs[0], "Unsqueeze")
    row = None if add is None else made_by(add.inputs[1], "Range")
    if first is None or row is None or first.inputs[0] is not start:
        return False
    return (numbers_of(row.inputs[0]), numbers_of(row.inputs[2])) == ((0,), (1,))


def _heads(value: ir.Value | None) -> tuple[list[ir.Node], ir.Value] | None:
    """[batch, tokens, heads * head] seen as [batch, heads, tokens, head]: the nodes that do so, and the value before them."""
    transpose = made_by(value, "Transpose")
    reshape = None if transpose is None else made_by(transpose.inputs[0], "Reshape")
    if transpose is None or reshape is None or list(transpose.attributes["perm"].as_ints()) != [0, 2, 1, 3]:
        return None
    x = reshape.inputs[0]
    if x is None or len(dims_of(x)) != 3 or len(dims_of(reshape.outputs[0])) != 4:
        return None
    return [reshape, transpose], x


def _joined(attention: ir.Node) -> list[ir.Node] | None:
    """Transpose and Reshape behind an attention, back to [batch, tokens, heads * head]."""
    nodes = []
    value = attention.outputs[0]
    for operator in ("Transpose", "Reshape"):
        readers = [use.node for use in value.uses()]
        if len(readers) != 1 or readers[0].op_type != operator:
            return None
        nodes.append(readers[0])
        value = readers[0].outputs[0]
    straight = list(nodes[0].attributes["perm"].as_ints()) == [0, 2, 1, 3] and len(dims_of(value)) == 3
    return nodes if straight else None


def _turn_alike(one: ir.Node, other: ir.Node) -> bool:
    same = len(one.inputs) == len(other.inputs) == 4 and all(a is b for a, b in zip(one.inputs[1:], other.inputs[1:], strict=True))
    return same and all(attribute(one, name, 0) == attribute(other, name, 0) for name in ("interleaved", "rotary_embedding_dim"))


def _split(values: Sequence[ir.Value | None]) -> ir.Node | None:
    """The Split of the last axis whose outputs these are, all and in order."""
    split = made_by(values[0], "Split")
    if split is None or list(split.outputs) != list(values) or attribute(split, "axis", 0) not in (-1, 2):
        return None
    return split
