"""GroupQueryAttention with what DirectML's kernel never reads (rotary positions, softcap, window), in operators that it has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from turnout.graph import attribute, element_type, input_at, ir, shape_of
from turnout_directml.draft import Draft

__all__ = ["grouped_attention"]

_MICROSOFT = "com.microsoft"
_UNKNOWN = ("smooth_softmax", "qk_output", "kv_cache_bit_width")  # attributes that ask for something else
_POSITIONS = 9  # the last input that is written below: attention_bias and head_sink come after it


def grouped_attention(node: ir.Node, opset: int) -> Sequence[ir.Node] | None:
    """softmax(mask(softcap(q k' scale))) v, where query i of a text that has had `first` tokens sees the keys up to `first + i`.

    The caches [batch, heads, rows, size] are written as TensorScatter does where they keep their length, by the model's own shapes, and
    grow by the new rows where they do not.
    """
    sizes = _Sizes.of(node)
    if sizes is None or opset < 17:
        return None
    draft = Draft(node, opset)
    query, keys, values = _projections(draft, node, sizes)
    tokens = draft.add("Slice", draft.add("Shape", node.inputs[0]), draft.ints(1), draft.ints(2))
    first = _first(draft, node.inputs[5], tokens)
    steps = draft.add("Range", draft.constant(np.int64(0)), draft.add("Squeeze", tokens, draft.ints(0)), draft.constant(np.int64(1)))
    positions = draft.add("Add", draft.add("Unsqueeze", first, draft.ints(1)), steps)
    if attribute(node, "do_rotary", 0):
        given = input_at(node, _POSITIONS)
        query, keys = (_turned(draft, node, sizes, x, positions if given is None else given) for x in (query, keys))
    keys, values = (_cached(draft, node, place, new, first) for place, new in ((0, keys), (1, values)))
    scores = _scores(draft, node, sizes, query, keys)
    seen = _seen(draft, keys, positions, int(attribute(node, "local_window_size", -1)))
    lowest = draft.constant(np.array(np.finfo(sizes.kind.numpy()).min, sizes.kind.numpy()))
    weights = draft.add("Softmax", draft.add("Where", seen, scores, lowest), axis=-1)
    grouped = draft.ints(0, sizes.key_heads, -1, 0)
    mixed = draft.add("MatMul", draft.add("Reshape", weights, grouped), values)
    parted = draft.add("Reshape", mixed, draft.ints(0, sizes.heads, -1, sizes.size))
    joined = draft.add("Transpose", parted, perm=[0, 2, 1, 3])
    draft.add("Reshape", joined, draft.ints(0, 0, sizes.heads * sizes.size), out=node.outputs[0])
    return draft.nodes


@dataclass(frozen=True, slots=True)
class _Sizes:
    """heads, key_heads: of the queries, and of keys and values. size: elements of a head. rotary: of them, those that are turned."""

    heads: int
    key_heads: int
    size: int
    kind: ir.DataType
    rotary: int = 0

    @classmethod
    def of(cls, node: ir.Node) -> _Sizes | None:
        """None where it is another operator, where it asks for more than is written here, or where a size is unknown."""
        if (node.domain, node.op_type) != (_MICROSOFT, "GroupQueryAttention") or input_at(node, 5) is None:
            return None
        if any(attribute(node, name, 0) for name in _UNKNOWN) or attribute(node, "k_quant_type", "NONE") != "NONE":
            return None
        if any(input_at(node, place) is not None for place in range(_POSITIONS + 1, len(node.inputs))) or len(node.outputs) > 3:
            return None
        heads, key_heads = attribute(node, "num_heads", 0), attribute(node, "kv_num_heads", 0)
        width, kind = (shape_of(input_at(node, 0)) or (None,))[-1], element_type(node.inputs[0])  # type: ignore[arg-type]
        if not heads or not key_heads or not isinstance(width, int) or kind not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            return None
        size = width // (heads if input_at(node, 1) is not None else heads + 2 * key_heads)
        table = (shape_of(input_at(node, 7)) or (None,))[-1]
        if attribute(node, "do_rotary", 0) and (not isinstance(table, int) or input_at(node, 8) is None):
            return None
        return cls(heads, key_heads, size, kind, 2 * table if isinstance(table, int) else 0)


def _projections(draft: Draft, node: ir.Node, sizes: _Sizes) -> list[ir.Value]:
    """Queries, keys and values, each [batch, heads, tokens, size]; one input holds them side by side where the others are missing."""
    counts = (sizes.heads, sizes.key_heads, sizes.key_heads)
    parts = list(node.inputs[:3])
    if parts[1] is None:
        ends = np.cumsum([count * sizes.size for count in counts]).tolist()
        bounds = zip([0, *ends[:-1]], ends, strict=True)
        parts = [draft.add("Slice", parts[0], draft.ints(start), draft.ints(end), draft.ints(2)) for start, end in bounds]
    apart = (draft.add("Reshape", x, draft.ints(0, 0, count, sizes.size)) for x, count in zip(parts, counts, strict=True))
    return [draft.add("Transpose", x, perm=[0, 2, 1, 3]) for x in apart]


def _first(draft: Draft, last: ir.Value | None, tokens: ir.Value) -> ir.Value:
    """How many tokens each text had before these, [batch]. last: the place of its last one; a prompt may be shorter than others."""
    lengths = draft.add("Cast", draft.add("Reshape", last, draft.ints(-1)), to=int(ir.DataType.INT64))
    before = draft.add("Sub", draft.add("Add", lengths, draft.ints(1)), tokens)
    zero = draft.constant(np.int64(0))
    return draft.add("Where", draft.add("Less", before, zero), zero, before)


def _turned(draft: Draft, node: ir.Node, sizes: _Sizes, x: ir.Value, positions: ir.Value) -> ir.Value:
    how: dict[str, Any] = {"interleaved": attribute(node, "rotary_interleaved", 0)}
    if sizes.rotary != sizes.size:
        how |= {"rotary_embedding_dim": sizes.rotary, "num_heads": sizes.heads}
    return draft.add("RotaryEmbedding", x, positions, *node.inputs[7:9], domain=_MICROSOFT, **how)


def _cached(draft: Draft, node: ir.Node, place: int, new: ir.Value, first: ir.Value) -> ir.Value:
    """The cache with the new rows, as output 1 (keys, place 0) or 2 of the node where it has those."""
    past = input_at(node, 3 + place)
    present = node.outputs[1 + place] if len(node.outputs) > 1 + place and node.outputs[1 + place].name else None
    if past is None:
        return draft.add("Identity", new, out=present)
    if not _keeps_its_length(past, present):
        past = _longer(draft, past, new)
    return draft.add("TensorScatter", past, new, first, version=24, axis=2, out=present)


def _keeps_its_length(past: ir.Value, present: ir.Value | None) -> bool:
    rows = [None if value is None or value.shape is None else value.shape[2] for value in (past, present)]
    return rows[0] == rows[1] and rows[0] is not None


def _longer(draft: Draft, past: ir.Value, new: ir.Value) -> ir.Value:
    """The cache, with room for the new rows after its own."""
    kind = element_type(past) or ir.DataType.FLOAT
    room = draft.add("Expand", draft.constant(np.zeros((), kind.numpy())), draft.add("Shape", new))
    longer = draft.add("Concat", past, room, axis=2)
    dims = list(past.shape) if past.shape is not None else [None] * 4
    longer.type, longer.shape = past.type, ir.Shape([*dims[:2], None, dims[3]])
    return longer


def _scores(draft: Draft, node: ir.Node, sizes: _Sizes, query: ir.Value, keys: ir.Value) -> ir.Value:
    """[batch, heads, tokens, rows]. The heads that share keys are multiplied as one, so that no key is repeated."""
    scale = attribute(node, "scale", 0.0) or 1 / math.sqrt(sizes.size)
    softcap = attribute(node, "softcap", 0.0)

    def number(value: float) -> ir.Value:
        return draft.constant(np.array(value, sizes.kind.numpy()))

    scaled = draft.add("Mul", query, number(scale))
    grouped = draft.add("Reshape", scaled, draft.ints(0, sizes.key_heads, -1, sizes.size))
    products = draft.add("MatMul", grouped, draft.add("Transpose", keys, perm=[0, 1, 3, 2]))
    batch_heads_tokens = draft.add("Slice", draft.add("Shape", query), draft.ints(0), draft.ints(3))
    rows = draft.add("Slice", draft.add("Shape", keys), draft.ints(2), draft.ints(3))
    scores = draft.add("Reshape", products, draft.add("Concat", batch_heads_tokens, rows, axis=0))
    if softcap:
        scores = draft.add("Mul", draft.add("Tanh", draft.add("Div", scores, number(softcap))), number(softcap))
    return scores


def _seen(draft: Draft, keys: ir.Value, positions: ir.Value, window: int) -> ir.Value:
    """Which keys a query sees, [batch, 1, tokens, rows]: those up to its own position, and of them the last `window` where it is given."""
    rows = draft.add("Squeeze", draft.add("Slice", draft.add("Shape", keys), draft.ints(2), draft.ints(3)), draft.ints(0))
    row = draft.add("Range", draft.constant(np.int64(0)), rows, draft.constant(np.int64(1)))
    own = draft.add("Unsqueeze", positions, draft.ints(1, 3))
    seen = draft.add("Not", draft.add("Less", own, row))
    if window > 0:
        near = draft.add("Less", draft.add("Sub", own, draft.ints(window)), row)
        seen = draft.add("And", seen, near)
    return seen
