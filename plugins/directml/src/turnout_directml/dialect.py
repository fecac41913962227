"""DirectML's dialect: ONNX's operators as of operator set 21. What is newer or unknown there is written in operators that it has.

Each rule takes a node that DirectML refuses as it stands and gives the nodes to run instead, or None. Whatever a rule gives is asked
for like any other node, against the kernel registry, so that a rule may try.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from turnout.expand import body_of
from turnout.graph import attribute, element_type, input_at, ir, subgraphs
from turnout.operator import operator_of
from turnout.provider import No, Rewrite, Yes

__all__ = ["OPSET", "rewrites"]

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
            yield Rewrite([node], found[0], replacement=found[1])


def _lowered(node: ir.Node, opset: int, supports: Supports, deepest: int) -> tuple[str, list[ir.Node]] | None:
    for title, rule in RULES:
        made = rule(node, opset)
        if made is None:
            continue
        lowered: list[ir.Node] = []
        for new in made:
            deeper = None if supports(new) or not deepest else _lowered(new, opset, supports, deepest - 1)
            lowered += [new] if deeper is None else deeper[1]
        return title.format(node.op_type), lowered
    return None


class Draft:
    """The nodes that stand for one node, in order. `add` gives the first output of the node that it adds."""

    def __init__(self, node: ir.Node, opset: int) -> None:
        self.node = node
        self.nodes: list[ir.Node] = []
        self._opset = opset
        self._prefix = f"{next(value.name for value in node.outputs if value.name)}/directml"

    def add(self, op_type: str, *inputs: ir.Value | None, out: ir.Value | None = None, domain: str = "", **attributes: Any) -> ir.Value:
        """A node; `out` is the value of the old node whose place its output takes."""
        made = ir.Value(name=f"{self._prefix}.{len(self.nodes)}") if out is None else twin(out)
        version = 1 if domain else self._opset
        given = [ir.convenience.convert_attribute(name, value) for name, value in attributes.items() if value is not None]
        self.nodes.append(ir.Node(domain, op_type, inputs, given, outputs=[made], version=version))
        return made

    def constant(self, array: Any) -> ir.Value:
        """A new constant."""
        array = np.asarray(array)
        name = f"{self._prefix}.constant.{len(self.nodes)}.{array.dtype}.{'_'.join(map(str, array.ravel().tolist()))}"
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(array.shape)  # type: ignore[union-attr]
        return value

    def ints(self, *numbers: int) -> ir.Value:
        return self.constant(np.array(numbers, np.int64))


def twin(value: ir.Value) -> ir.Value:
    """A value of the same name, type and shape, for a node that stands in another's place."""
    return ir.Value(name=value.name, type=value.type, shape=value.shape)


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

    return [
        ir.Node(
            inner.domain,
            inner.op_type,
            [moved(value) for value in inner.inputs],
            list(inner.attributes.values()),
            outputs=[cast(ir.Value, moved(value)) for value in inner.outputs],
            version=inner.version,
        )
        for inner in body
    ]


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
    """TensorScatter-24 as ScatterElements: row t of the update of batch b goes to write_indices[b] + t, modulo the length if circular."""
    cache, update, first = input_at(node, 0), input_at(node, 1), input_at(node, 2)
    if node.domain not in ("", "ai.onnx") or node.op_type != "TensorScatter" or cache is None or update is None or cache.shape is None:
        return None
    rank = len(cache.shape)
    axis = attribute(node, "axis", -2) % rank
    draft = Draft(node, opset)
    shape = draft.add("Shape", update)
    count = draft.add("Squeeze", draft.add("Slice", shape, draft.ints(axis), draft.ints(axis + 1)), draft.ints(0))
    rows = draft.add("Range", draft.constant(np.int64(0)), count, draft.constant(np.int64(1)))
    rows = draft.add("Reshape", rows, draft.ints(*(-1 if one == axis else 1 for one in range(rank))))
    if first is not None:
        rows = draft.add("Add", rows, draft.add("Unsqueeze", first, draft.ints(*range(1, rank))))
    if attribute(node, "mode", "linear") == "circular":
        rows = draft.add("Mod", rows, draft.add("Slice", draft.add("Shape", cache), draft.ints(axis), draft.ints(axis + 1)))
    draft.add("ScatterElements", cache, draft.add("Expand", rows, shape), update, out=node.outputs[0], axis=axis)
    return draft.nodes


RULES: Sequence[tuple[str, Rule]] = (
    ("{} of operator set 21", as_of_21),
    ("{} and Add", bias_added_after),
    ("Gather and arithmetic", gathered_blocks),
    ("ScatterElements", scattered),
    ("{} by its definition", by_definition),
)
"""(title, rule), tried in this order."""
