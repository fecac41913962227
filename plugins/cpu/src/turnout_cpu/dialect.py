"""ONNX Runtime's own operators for the CPU, where they are quicker than ONNX's: one rule per function.

A rule looks at one node of the graph, with what is around it, and gives the rewrite that ends there, or None. Source of what the
operators do: their descriptions in onnxruntime, docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from turnout.graph import attribute, constant_array, ir, is_constant
from turnout.provider import Rewrite

__all__ = ["Readers", "attention_with_cache", "norm", "norm_of_sum", "rewrites"]

_MICROSOFT = "com.microsoft"


class Readers:
    """Which nodes of a graph read a value."""

    def __init__(self, graph: ir.Graph) -> None:
        self.of: dict[ir.Value, list[ir.Node]] = {}
        for node in graph:
            for value in node.inputs:
                if value is not None:
                    self.of.setdefault(value, []).append(node)
        self.outputs = set(graph.outputs)

    def only(self, nodes: Iterable[ir.Node], made: Iterable[ir.Value]) -> bool:
        """Whether nobody but the nodes reads what they make, except for the values `made`."""
        inside, given = set(nodes), set(made)
        inner = (value for node in inside for value in node.outputs if value not in given)
        return all(value not in self.outputs and inside.issuperset(self.of.get(value, ())) for value in inner)


def rewrites(graph: ir.Graph) -> Iterator[Rewrite]:
    """All rewrites of a graph, none over another."""
    readers = Readers(graph)
    taken: set[ir.Node] = set()
    for rule in (attention_with_cache, norm_of_sum, norm):
        for node in graph:
            found = None if node in taken else rule(node, readers)
            if found is not None and taken.isdisjoint(found.nodes):
                taken.update(found.nodes)
                yield found


# the rules --------------------------------------------------------------------------------------------------------------


def norm(node: ir.Node, readers: Readers) -> Rewrite | None:
    """RMSNormalization over the last axis: SimplifiedLayerNormalization."""
    if not _is_norm(node):
        return None
    new = _node("", "SimplifiedLayerNormalization", node.inputs, [_same(node.outputs[0])], axis=-1, epsilon=_epsilon(node), version=1)
    return Rewrite([node], "SimplifiedLayerNormalization", replacement=[new])


def norm_of_sum(node: ir.Node, readers: Readers) -> Rewrite | None:
    """Add and RMSNormalization of the sum, which is read elsewhere too: SkipSimplifiedLayerNormalization, which gives both."""
    add = _made_by(node.inputs[0], "Add") if _is_norm(node) else None
    if add is None or any(_dims(value) != _dims(add.outputs[0]) or len(_dims(value)) != 3 for value in add.inputs):
        return None
    nothing = [ir.Value(name="") for _ in range(2)]
    outputs = [_same(node.outputs[0]), *nothing, _same(add.outputs[0])]
    inputs = [*add.inputs, node.inputs[1]]
    new = _node(_MICROSOFT, "SkipSimplifiedLayerNormalization", inputs, outputs, epsilon=_epsilon(node))
    return Rewrite([add, node], "SkipSimplifiedLayerNormalization", replacement=[new])


def attention_with_cache(node: ir.Node, readers: Readers) -> Rewrite | None:
    """Attention over caches that TensorScatter writes into, rotary positions included: GroupQueryAttention.

    It updates the caches in place where they are bound so. It takes more than one token after others for one text only, so that the
    batch has to be 1. Where Q, K and V come from one Split it reads what was split.
    """
    parts = _Attention.find(node)
    if parts is None or not readers.only(parts.nodes, (parts.seen, parts.present_key, parts.present_value)):
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
    inputs = [*parts.projections, parts.past_key, parts.past_value, last, total, *parts.tables, parts.positions]
    outputs = [_same(value) for value in (parts.seen, parts.present_key, parts.present_value)]
    fused = _node(_MICROSOFT, "GroupQueryAttention", inputs, outputs, **parts.attributes)
    return Rewrite(parts.nodes, "GroupQueryAttention", replacement=[*counts, fused])


class _Attention:
    """The parts of an attention that is built as `attention_with_cache` says. Where one is not, a line below ends in None."""

    def __init__(self, nodes: Sequence[ir.Node], attributes: dict[str, Any], **values: Any) -> None:
        self.nodes = list(dict.fromkeys(nodes))
        self.attributes = attributes
        self.seen: ir.Value = values["seen"]
        self.present_key: ir.Value = values["present_key"]
        self.present_value: ir.Value = values["present_value"]
        self.past_key: ir.Value = values["past_key"]
        self.past_value: ir.Value = values["past_value"]
        self.lengths: ir.Value = values["lengths"]
        self.projections: list[ir.Value | None] = values["projections"]
        self.tables: list[ir.Value] = values["tables"]
        self.positions: ir.Value = values["positions"]

    @classmethod
    def find(cls, node: ir.Node) -> _Attention | None:
        if (
            node.op_type != "Attention"
            or node.domain not in ("", "ai.onnx")
            or len(node.inputs) != 7
            or not attribute(node, "is_causal", 0)
        ):
            return None
        query, keys, values, mask, no_key, no_value, lengths = node.inputs
        if no_key is not None or no_value is not None or lengths is None or set(node.attributes) - {"is_causal", "scale", "softcap"}:
            return None
        if query is None or _dims(query)[:1] != (1,) or len(_dims(query)) != 4:
            return None
        scatter_key, scatter_value = (_made_by(value, "TensorScatter") for value in (keys, values))
        if scatter_key is None or scatter_value is None or scatter_key.attributes or scatter_value.attributes:
            return None
        start = scatter_key.inputs[2] if len(scatter_key.inputs) == 3 else None
        if start is None or len(scatter_value.inputs) != 3 or scatter_value.inputs[2] is not start:
            return None
        if not _is_end(lengths, start, _dims(query)[2]):
            return None
        window = _window(mask, start) if mask is not None else 0
        turned = [_heads(value) for value in (query, scatter_key.inputs[1], scatter_value.inputs[1])]
        joined = _joined(node)
        if window is None or joined is None or any(one is None for one in turned):
            return None
        (q_heads, q), (k_heads, k), (v_heads, v) = turned  # type: ignore[misc]
        turn, other = (_made_by(value, "RotaryEmbedding") for value in (q, k))
        if turn is None or other is None or not _turn_alike(turn, other) or not _is_table(turn, _dims(query)[3]):
            return None
        heads, key_heads = _dims(query)[1], _dims(scatter_key.inputs[0])[1]
        if not isinstance(heads, int) or not isinstance(key_heads, int):
            return None
        attributes: dict[str, Any] = {"num_heads": heads, "kv_num_heads": key_heads, "do_rotary": 1}
        attributes["rotary_interleaved"] = attribute(turn, "interleaved", 0)
        attributes |= {name: float(attribute(node, name, 0)) for name in ("scale", "softcap") if name in node.attributes}
        if window:
            attributes["local_window_size"] = window
        projections: list[ir.Value | None] = [turn.inputs[0], other.inputs[0], v]
        nodes = [*q_heads, *k_heads, *v_heads, turn, other, scatter_key, scatter_value, node, *joined]
        split = _split(projections)
        if split is not None:
            projections = [split.inputs[0], None, None]
            nodes.insert(0, split)
        return cls(
            nodes,
            attributes,
            seen=joined[-1].outputs[0],
            present_key=keys,
            present_value=values,
            past_key=scatter_key.inputs[0],
            past_value=scatter_value.inputs[0],
            lengths=lengths,
            projections=projections,
            tables=list(turn.inputs[1:3]),
            positions=turn.inputs[3],
        )


# what the rules look for ------------------------------------------------------------------------------------------------


def _is_norm(node: ir.Node) -> bool:
    if node.op_type != "RMSNormalization" or node.domain not in ("", "ai.onnx") or attribute(node, "axis", -1) != -1:
        return False
    x, weight = node.inputs[:2]
    is_float = all(value is not None and value.dtype == ir.DataType.FLOAT for value in (x, weight))
    return is_float and len(_dims(weight)) == 1 and attribute(node, "stash_type", 1) == 1


def _is_end(lengths: ir.Value, start: ir.Value, tokens: Any) -> bool:
    """Whether lengths = start + the number of this run's tokens."""
    add = _made_by(lengths, "Add")
    if add is None or add.inputs[0] is not start:
        return False
    squeeze = _made_by(add.inputs[1], "Squeeze")
    shape = None if squeeze is None else _made_by(squeeze.inputs[0], "Shape")
    if shape is None or (attribute(shape, "start", 0), attribute(shape, "end", 0)) != (1, 2):
        return False
    dims = _dims(shape.inputs[0])
    return len(dims) == 2 and dims[1] == tokens and tokens is not None


def _window(mask: ir.Value, start: ir.Value) -> int | None:
    """The window w of a mask that is: place in the cache > position - w; None for any other mask."""
    greater = _made_by(mask, "Greater")
    if greater is None or _made_by(greater.inputs[0], "Range") is None:
        return None
    places, wide = _made_by(greater.inputs[0], "Range"), _made_by(greater.inputs[1], "Unsqueeze")
    before = None if wide is None else _made_by(wide.inputs[0], "Sub")
    if places is None or before is None or wide is None or _ints(wide.inputs[1]) != (1, 3):
        return None
    if (_ints(places.inputs[0]), _ints(places.inputs[2])) != ((0,), (1,)) or not _is_position(before.inputs[0], start):
        return None
    window = _ints(before.inputs[1])
    return window[0] if window is not None and len(window) == 1 and window[0] > 0 else None


def _is_position(value: ir.Value | None, start: ir.Value) -> bool:
    """Whether this is start + 0, 1, 2 ..."""
    add = _made_by(value, "Add")
    first = None if add is None else _made_by(add.inputs[0], "Unsqueeze")
    row = None if add is None else _made_by(add.inputs[1], "Range")
    if first is None or row is None or first.inputs[0] is not start:
        return False
    return (_ints(row.inputs[0]), _ints(row.inputs[2])) == ((0,), (1,))


def _heads(value: ir.Value | None) -> tuple[list[ir.Node], ir.Value] | None:
    """[batch, tokens, heads * head] seen as [batch, heads, tokens, head]: the nodes that do so, and the value before them."""
    transpose = _made_by(value, "Transpose")
    reshape = None if transpose is None else _made_by(transpose.inputs[0], "Reshape")
    if transpose is None or reshape is None or list(transpose.attributes["perm"].as_ints()) != [0, 2, 1, 3]:
        return None
    x = reshape.inputs[0]
    if x is None or len(_dims(x)) != 3 or len(_dims(reshape.outputs[0])) != 4:
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
    straight = list(nodes[0].attributes["perm"].as_ints()) == [0, 2, 1, 3] and len(_dims(value)) == 3
    return nodes if straight else None


def _turn_alike(one: ir.Node, other: ir.Node) -> bool:
    same = len(one.inputs) == len(other.inputs) == 4 and all(a is b for a, b in zip(one.inputs[1:], other.inputs[1:], strict=True))
    return same and all(attribute(one, name, 0) == attribute(other, name, 0) for name in ("interleaved", "rotary_embedding_dim"))


def _is_table(turn: ir.Node, head: Any) -> bool:
    """Whether GroupQueryAttention takes these cosines: a row for each position, and sizes that its kernel has."""
    dims, part = _dims(turn.inputs[1]), attribute(turn, "rotary_embedding_dim", 0)
    if len(dims) != 2 or not isinstance(head, int) or not isinstance(dims[1], int):
        return False
    return head % 16 == 0 and dims[1] % 8 == 0 and 2 * dims[1] == (part or head)


def _split(values: Sequence[ir.Value | None]) -> ir.Node | None:
    """The Split of the last axis whose outputs these are, all and in order."""
    split = _made_by(values[0], "Split")
    if split is None or list(split.outputs) != list(values) or attribute(split, "axis", 0) not in (-1, 2):
        return None
    return split


def _made_by(value: ir.Value | None, operator: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == operator and node.domain in ("", "ai.onnx") else None


def _dims(value: ir.Value | None) -> tuple[Any, ...]:
    """Sizes, and names of free dimensions; () where the rank is unknown."""
    if value is None or value.shape is None:
        return ()
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


def _ints(value: ir.Value | None) -> tuple[int, ...] | None:
    """The numbers of a small constant."""
    if value is None or not is_constant(value) or value.const_value is None or value.const_value.size > 8:
        return None
    return tuple(int(number) for number in np.ravel(constant_array(value)))


def _epsilon(node: ir.Node) -> float:
    return float(attribute(node, "epsilon", 1e-5))


# making nodes -----------------------------------------------------------------------------------------------------------


def _node(
    domain: str, operator: str, inputs: Sequence[Any], outputs: Sequence[ir.Value], version: int | None = None, **how: Any
) -> ir.Node:
    known = version or (1 if domain == _MICROSOFT else 21)
    name = next(value.name for value in outputs if value.name)
    return ir.node(operator, list(inputs), how, domain=domain, outputs=list(outputs), version=known, name=f"{name}.{operator}")


def _same(value: ir.Value) -> ir.Value:
    """A value of the same name, type and shape, for another node to make."""
    return ir.Value(name=value.name, type=value.type, shape=value.shape)


def _one() -> ir.Value:
    one = ir.Tensor(np.array([1], np.int32))
    return ir.Value(name="turnout.cpu.one", type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape([1]), const_value=one)
