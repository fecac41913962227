"""DirectML's dialect: ONNX's operators as of operator set 21. What is newer or unknown there is written in operators that it has.

Each rule takes a node that DirectML refuses as it stands and gives the nodes to run instead, or None. Whatever a rule gives is asked
for like any other node, against the kernel registry, so that a rule may try.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from turnout.expand import body_of
from turnout.graph import attribute, constant_array, element_type, input_at, ir, is_constant, shape_of, subgraphs
from turnout.operator import operator_of
from turnout.provider import No, Rewrite, Yes
from turnout_directml.draft import Draft, twin
from turnout_directml.grouped import grouped_attention

__all__ = ["OPSET", "folds", "rewrites"]

OPSET = 21
"""The newest operator set of which DirectML's kernels know the definitions."""

_MICROSOFT = "com.microsoft"
_DEEPEST = 3  # a rule's nodes may need rules themselves, a few times

Supports = Callable[[ir.Node], Yes | No]
Rule = Callable[[ir.Node, int], Sequence[ir.Node] | None]


def rewrites(graph: ir.Graph, supports: Supports) -> Iterator[Rewrite]:
    """The rewrites of the nodes of a graph that DirectML does not take as they stand."""
    opset = min(graph.opset_imports.get("", OPSET), OPSET)
    for node in graph:
        if not supports(node) and (found := _lowered(node, opset, supports, _DEEPEST)) is not None:
            yield Rewrite([node], found.title, replacement=found.nodes)


@dataclass
class Lowered:
    """The nodes that a rule gave for one, themselves lowered where that was wanted. whole: DirectML takes all of them."""

    title: str
    nodes: list[ir.Node]
    whole: bool = True


def _lowered(node: ir.Node, opset: int, supports: Supports, deepest: int) -> Lowered | None:
    """By the first rule of whose nodes DirectML takes all; else by the first that gives any, whose refusals then tell why not."""
    first = None
    for title, rule in RULES:
        if (made := rule(node, opset)) is None:
            continue
        lowered = Lowered(title.format(node.op_type), [])
        for new in made:
            deeper = None if supports(new) or not deepest else _lowered(new, opset, supports, deepest - 1)
            lowered.nodes += [new] if deeper is None else deeper.nodes
            lowered.whole = lowered.whole and (bool(supports(new)) if deeper is None else deeper.whole)
        if lowered.whole:
            return lowered
        first = first or lowered
    return first


def folds(node: ir.Node) -> bool:
    """Whether what the node gives follows from the shapes of other values and constants.

    Sessions are made with all shapes known, and ONNX Runtime computes such nodes while it makes them: they need no kernel. (Not the Size
    of strings.)
    """
    operator = operator_of(node)
    if any(value is not None and element_type(value) == ir.DataType.STRING for value in node.inputs):
        return False
    return operator is not None and operator.since_version <= OPSET and _from_shapes(node)


def _from_shapes(node: ir.Node) -> bool:
    if node.op_type in ("Shape", "Size"):
        return True
    given = [value for value in node.inputs if value is not None]
    if not given or any(True for _ in subgraphs(node)):
        return False
    return all(is_constant(value) or ((made := value.producer()) is not None and _from_shapes(made)) for value in given)


# the rules


def as_of_21(node: ir.Node, opset: int) -> Sequence[ir.Node] | None:
    """The same node by the definition of operator set 21, where what it says can be said there: later ones mostly add types."""
    import onnx.defs

    operator = operator_of(node)
    if node.domain not in ("", "ai.onnx") or operator is None or operator.since_version <= OPSET or operator.schema is None:
        return None
    try:
        older = onnx.defs.get_schema(node.op_type, OPSET, "")
    except onnx.defs.SchemaError:
        return None
    kept = []
    for name, said in node.attributes.items():
        if name in older.attributes:
            kept.append(said)
        elif not _is_default(said, operator.schema.attributes.get(name)):
            return None
    if len(node.inputs) > len(older.inputs) and older.inputs[-1].option != onnx.defs.OpSchema.FormalParameterOption.Variadic:
        return None
    return [ir.Node("", node.op_type, node.inputs, kept, outputs=[twin(value) for value in node.outputs], version=OPSET)]


def _is_default(said: ir.Attr, known: Any) -> bool:
    if known is None or not known.default_value.type:
        return False
    return bool(ir.serde.deserialize_attribute(known.default_value).value == said.value)


class _NoFunctions:
    """A model without functions of its own; turnout has expanded those before it asks."""

    functions: dict[Any, Any] = {}  # noqa: RUF012 - it stays empty


def by_definition(node: ir.Node, opset: int) -> Sequence[ir.Node] | None:
    """The body by which ONNX defines the operator: Attention, RMSNormalization, RotaryEmbedding, Swish ..."""
    if node.graph is None or not isinstance(node.graph, ir.Graph):
        return None
    body = body_of(node, cast(ir.Model, _NoFunctions()))
    if body is None or any(True for inner in body for _ in subgraphs(inner)):
        return None
    prefix = f"{next(value.name for value in node.outputs if value.name)}/"
    outer = {value.name: value for value in node.inputs if value is not None}
    own = {value.name: value for value in node.outputs}
    place: dict[ir.Value, ir.Value] = {value: outer[value.name] for value in body.inputs}

    def moved(value: ir.Value | None) -> ir.Value | None:
        if value is None or value in place:
            return None if value is None else place[value]
        made = twin(value)
        if value.name and value.name not in own:
            made.name = prefix + value.name
        if value.producer() is None:
            made.const_value = value.const_value
        place[value] = made
        return made

    needless = {"Pad"} if _is_masked_whole(node) else set()
    return [
        ir.Node(
            inner.domain,
            "Identity" if inner.op_type in needless else inner.op_type,
            [moved(value) for value in (inner.inputs[:1] if inner.op_type in needless else inner.inputs)],
            [] if inner.op_type in needless else list(inner.attributes.values()),
            outputs=[cast(ir.Value, moved(value)) for value in inner.outputs],
            version=inner.version,
        )
        for inner in body
    ]


def _is_masked_whole(node: ir.Node) -> bool:
    """Whether it is an Attention whose mask is as long as its keys, so that padding the mask, as the definition does, adds nothing."""
    keys, mask, past = (input_at(node, position) for position in (1, 3, 4))
    if node.op_type != "Attention" or past is not None or keys is None or mask is None or keys.shape is None or mask.shape is None:
        return False
    return len(mask.shape) > 0 and len(keys.shape) > 1 and mask.shape[-1] == keys.shape[-2] and mask.shape[-1] is not None


def bias_added_after(node: ir.Node, opset: int) -> Sequence[ir.Node] | None:
    """MatMulNBits with a bias: DirectML's throws where it gets one."""
    bias = input_at(node, 5)
    if (node.domain, node.op_type) != (_MICROSOFT, "MatMulNBits") or bias is None:
        return None
    draft = Draft(node, opset)
    attributes = {name: said.value for name, said in node.attributes.items()}
    product = draft.add("MatMulNBits", *node.inputs[:4], domain=_MICROSOFT, **attributes)
    product.type = node.outputs[0].type
    draft.add("Add", product, bias, out=node.outputs[0])
    return draft.nodes


def gathered_blocks(node: ir.Node, opset: int) -> Sequence[ir.Node] | None:
    """GatherBlockQuantized of rows of bytes: gather the rows, take the bytes apart, (number - zero point) * scale."""
    data, ids, scales = (input_at(node, position) for position in range(3))
    if (node.domain, node.op_type) != (_MICROSOFT, "GatherBlockQuantized") or data is None or ids is None or scales is None:
        return None
    bits, block = attribute(node, "bits", 4), attribute(node, "block_size", 128)
    last = len(data.shape) - 1 if data.shape is not None else -1
    rowwise = attribute(node, "gather_axis", 0) == 0 and attribute(node, "quantize_axis", 1) in (last, -1) and last == 1
    if element_type(data) != ir.DataType.UINT8 or bits not in (4, 8) or not rowwise or ids.shape is None or opset < 13:
        return None
    draft, leading, zeros = Draft(node, opset), [0] * len(ids.shape), input_at(node, 3)
    kind = element_type(scales) or ir.DataType.FLOAT

    def numbers(packed: ir.Value) -> ir.Value:
        rows = draft.add("Cast", draft.add("Gather", packed, ids, axis=0), to=int(kind))
        if bits == 8:
            return rows
        sixteen = draft.constant(np.array(16, kind.numpy()))
        high = draft.add("Floor", draft.add("Div", rows, sixteen))
        low = draft.add("Sub", rows, draft.add("Mul", high, sixteen))
        both = draft.add("Concat", *(draft.add("Unsqueeze", half, draft.ints(-1)) for half in (low, high)), axis=-1)
        return draft.add("Reshape", both, draft.ints(*leading, -1))

    values = draft.add("Reshape", numbers(data), draft.ints(*leading, -1, block))
    if zeros is None:
        zero = draft.constant(np.array(2 ** (bits - 1), kind.numpy()))
    else:
        zero = draft.add("Unsqueeze", numbers(zeros), draft.ints(-1))
    scale = draft.add("Unsqueeze", draft.add("Gather", scales, ids, axis=0), draft.ints(-1))
    whole = draft.add("Mul", draft.add("Sub", values, zero), scale)
    draft.add("Reshape", whole, draft.ints(*leading, -1), out=node.outputs[0])
    return draft.nodes


def scattered(node: ir.Node, opset: int) -> Sequence[ir.Node] | None:
    """TensorScatter-24 by choosing: row r of the cache of batch b is row r - write_indices[b] of the update, where there is such a row.

    DirectML's ScatterElements knows no operator set after 17. In circular mode what would lie before the first row lies at the end.
    """
    cache, update, first = (input_at(node, position) for position in range(3))
    if node.domain not in ("", "ai.onnx") or node.op_type != "TensorScatter" or cache is None or update is None or cache.shape is None:
        return None
    rank = len(cache.shape)
    axis = attribute(node, "axis", -2) % rank
    draft = Draft(node, opset)

    def length(value: ir.Value) -> ir.Value:
        return draft.add("Squeeze", draft.add("Slice", draft.add("Shape", value), draft.ints(axis), draft.ints(axis + 1)), draft.ints(0))

    zero = draft.constant(np.int64(0))
    rows = draft.add("Unsqueeze", draft.add("Range", zero, length(cache), draft.constant(np.int64(1))), draft.ints(0))
    if first is not None:
        rows = draft.add("Sub", rows, draft.add("Unsqueeze", first, draft.ints(1)))
    before = draft.add("Less", rows, zero)
    if attribute(node, "mode", "linear") == "circular":
        rows = draft.add("Where", before, draft.add("Add", rows, length(cache)), rows)
        before = draft.add("Less", rows, zero)
    inside = draft.add("And", draft.add("Not", before), draft.add("Less", rows, length(update)))
    rows = draft.add("Where", inside, rows, zero)
    if cache.shape[0] == 1 or first is None:
        chosen = draft.add("Gather", update, draft.add("Squeeze", rows, draft.ints(0)), axis=axis)
    else:
        wide = draft.add("Unsqueeze", rows, draft.ints(*(one for one in range(1, rank) if one != axis)))
        chosen = draft.add("GatherElements", update, draft.add("Expand", wide, draft.add("Shape", cache)), axis=axis)
    inside = draft.add("Unsqueeze", inside, draft.ints(*(one for one in range(1, rank) if one != axis)))
    draft.add("Where", inside, chosen, cache, out=node.outputs[0])
    return draft.nodes


def simplified_norm(node: ir.Node, opset: int) -> Sequence[ir.Node] | None:
    """RMSNormalization over the last axis as SimplifiedLayerNormalization: one kernel. Of halves in float32, as `stash_type` says: the
    kernel squares in halves otherwise, and a mean square above 65504, which a decoder's first token has, is wrong or no number."""
    if node.domain not in ("", "ai.onnx") or node.op_type != "RMSNormalization" or attribute(node, "axis", -1) != -1:
        return None
    x, scale = (input_at(node, position) for position in range(2))
    if x is None or scale is None or element_type(x) != element_type(scale) or attribute(node, "stash_type", 1) != 1:
        return None
    epsilon = attribute(node, "epsilon", 1e-5)
    norm = ir.convenience.convert_attributes({"axis": -1, "epsilon": epsilon, "stash_type": 1})
    if element_type(x) != ir.DataType.FLOAT16:
        return [ir.Node("", "SimplifiedLayerNormalization", [x, scale], norm, outputs=[twin(node.outputs[0])], version=1)]
    draft = Draft(node, opset)
    wide = [draft.add("Cast", value, to=int(ir.DataType.FLOAT)) for value in (x, scale)]
    draft.nodes.append(ir.Node("", "SimplifiedLayerNormalization", wide, norm, version=1))
    draft.nodes[-1].outputs[0].name = f"{node.outputs[0].name}/directml.wide"
    draft.add("Cast", draft.nodes[-1].outputs[0], out=node.outputs[0], to=int(ir.DataType.FLOAT16))
    return draft.nodes


def rotary_of_microsoft(node: ir.Node, opset: int) -> Sequence[ir.Node] | None:
    """RotaryEmbedding as com.microsoft's, which takes the positions second. Without positions the tables, [batch, tokens, ...], have a row
    for each token: row after row, they are tables with positions."""
    x, cosines, sines, positions = (input_at(node, position) for position in range(4))
    if node.domain not in ("", "ai.onnx") or node.op_type != "RotaryEmbedding" or x is None or x.shape is None:
        return None
    if cosines is None or sines is None:
        return None
    how = {name: attribute(node, name, 0) for name in ("interleaved", "num_heads", "rotary_embedding_dim")}
    if how["rotary_embedding_dim"] and not how["num_heads"]:
        how["num_heads"] = x.shape[1] if len(x.shape) == 4 else 0
        if not isinstance(how["num_heads"], int) or not how["num_heads"]:
            return None
    draft = Draft(node, opset)
    if positions is None:
        batch, tokens, width = shape_of(cosines) or (None, None, None)
        if batch is None or tokens is None or width is None:
            return None
        positions = draft.constant(np.arange(batch * tokens).reshape(batch, tokens))
        cosines, sines = (draft.add("Reshape", table, draft.ints(batch * tokens, width)) for table in (cosines, sines))
    draft.add("RotaryEmbedding", x, positions, cosines, sines, out=node.outputs[0], domain=_MICROSOFT, **how)
    return draft.nodes


def rotary_of_a_later_part(node: ir.Node, opset: int) -> Sequence[ir.Node] | None:
    """RotaryEmbedding of a later output of a Split, which DirectML confuses with the first: with something in between, it does not."""
    if (node.domain, node.op_type) != (_MICROSOFT, "RotaryEmbedding") or node.inputs[0] is None or node.inputs[0].producer() is None:
        return None
    draft = Draft(node, opset)
    same = draft.add("Neg", draft.add("Neg", node.inputs[0]))  # ONNX Runtime takes an Identity away
    attributes = {name: said.value for name, said in node.attributes.items()}
    draft.add("RotaryEmbedding", same, *node.inputs[1:], out=node.outputs[0], domain=_MICROSOFT, **attributes)
    return draft.nodes


def left_out(node: ir.Node, opset: int) -> Sequence[ir.Node] | None:
    """Dropout outside of training as Identity."""
    training = input_at(node, 2)
    if node.domain not in ("", "ai.onnx") or node.op_type != "Dropout" or node.inputs[0] is None:
        return None
    if training is not None and (not is_constant(training) or bool(constant_array(training))):
        return None
    if any(value.name for value in node.outputs[1:]):  # the mask
        return None
    draft = Draft(node, opset)
    draft.add("Identity", node.inputs[0], out=node.outputs[0])
    return draft.nodes


RULES: Sequence[tuple[str, Rule]] = (
    ("{} of operator set 21", as_of_21),
    ("{} and Add", bias_added_after),
    ("Gather and arithmetic", gathered_blocks),
    ("Gather and Where", scattered),
    ("SimplifiedLayerNormalization", simplified_norm),
    ("com.microsoft's RotaryEmbedding", rotary_of_microsoft),
    ("RotaryEmbedding away from its Split", rotary_of_a_later_part),
    ("attention over its cache", grouped_attention),
    ("Identity", left_out),
    ("{} by its definition", by_definition),
)
"""(title, rule), tried in this order."""
