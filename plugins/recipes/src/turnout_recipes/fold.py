"""Where the scales of AWQ go: into what makes the value that is divided by them, so that no run pays for them.

A norm's weights take them; so do the columns of a product behind a gate (up) or an attention (values), and their bias. Where nothing can,
a Mul of its own stands before the products.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from turnout.graph import ir, is_constant
from turnout_recipes.products import Product

__all__ = ["Fold", "fold_of"]

Floats = NDArray[np.float32]


@dataclass
class Fold:
    """What is divided by s.

    name: for the report; "" where nothing can be, and x itself has to be multiplied. vectors: constants whose elements from `start` on
    are. product: a product whose columns from `start` on are. heads: (key heads, heads for each, size) where the columns hold key heads
    that are read by several heads each.
    """

    name: str = ""
    vectors: list[ir.Value] = field(default_factory=list)
    product: Product | None = None
    start: int = 0
    heads: tuple[int, int, int] | None = None

    def tie(self, size: Floats) -> Floats:
        """Sizes of channels, alike for those that are divided by one number."""
        if self.heads is None:
            return size
        groups, each, head = self.heads
        mean = size.reshape(groups, each, head).mean(1, keepdims=True)
        return np.broadcast_to(mean, (groups, each, head)).reshape(-1).astype(np.float32)

    def divisors(self, s: Floats) -> Floats:
        """By what the columns are divided, from what x is divided by."""
        if self.heads is None:
            return s
        groups, each, head = self.heads
        return np.ascontiguousarray(s.reshape(groups, each, head)[:, 0]).reshape(-1)


def fold_of(x: ir.Value, readers: Collection[ir.Node], products: Mapping[ir.Node, Product]) -> Fold:
    """readers: the products that x is divided for; nobody else may read it."""
    if x.is_graph_output() or any(use.node not in readers for use in x.uses()):
        return Fold()
    node, size = x.producer(), _last(x)
    if node is None or size is None:
        return Fold()
    if node.op_type in ("RMSNormalization", "LayerNormalization", "SimplifiedLayerNormalization"):
        vectors = [value for value in node.inputs[1:] if value is not None]
        if len(node.outputs) == 1 and all(_own(value, size) for value in vectors):
            return Fold(node.name or node.op_type, vectors)
    if node.op_type == "Mul":
        for value in node.inputs:
            if value is not None and (found := _columns(value, size, products)) is not None:
                return found
    if node.op_type == "Reshape":
        return _behind_attention(node, products) or Fold()
    return Fold()


def _own(value: ir.Value, size: int) -> bool:
    """A constant vector that nobody else reads."""
    return is_constant(value) and len(value.uses()) == 1 and value.shape is not None and value.shape.numpy() == (size,)


def _columns(value: ir.Value | None, size: int, products: Mapping[ir.Node, Product]) -> Fold | None:
    """The product whose columns are this value, through a bias and a Split."""
    start, vectors = 0, []
    for node in _path(value):
        if node in products:
            if products[node].bias is not None:
                vectors.append(products[node].bias)
            sound = all(bias is not None and _own(bias, products[node].shape[1]) for bias in vectors)
            return Fold(products[node].name, [bias for bias in vectors if bias is not None], products[node], start) if sound else None
        if node.op_type == "Split":
            place = next(i for i, made in enumerate(node.outputs) if made is value)
            sizes = [_last(made) for made in node.outputs]
            if node.attributes.get_int("axis", 0) not in (-1, 2) or None in sizes:
                return None
            start += sum(one for one in sizes[:place] if one is not None)
        elif node.op_type == "Add" and len(constants := [one for one in node.inputs if one is not None and is_constant(one)]) == 1:
            vectors += constants
        else:
            return None
        value = next(one for one in node.inputs if one is not None and not is_constant(one))
    return None


def _path(value: ir.Value | None) -> Iterator[ir.Node]:
    """The nodes behind a value, as long as nobody else reads what is on the way."""
    while value is not None and len(value.uses()) == 1 and not value.is_graph_output() and (node := value.producer()) is not None:
        yield node
        value = next((one for one in node.inputs if one is not None and not is_constant(one)), None)


def _behind_attention(reshape: ir.Node, products: Mapping[ir.Node, Product]) -> Fold | None:
    """The product that makes the values of an attention, as turnout-gguf builds one: each key head may serve several heads."""
    attention = _before(_before(reshape, "Transpose"), "Attention")
    cached = None if attention is None or len(attention.inputs) < 3 else attention.inputs[2]
    scatter = None if cached is None else cached.producer()
    if attention is None or scatter is None or scatter.op_type != "TensorScatter":
        return None
    queries, fresh = attention.inputs[0], scatter.inputs[1]
    apart = _before(None if fresh is None else fresh.producer(), "Reshape", itself="Transpose")
    if queries is None or queries.shape is None or apart is None or fresh is None or fresh.shape is None:
        return None
    heads, groups, head = queries.shape[1], fresh.shape[1], fresh.shape[3]
    if not (isinstance(heads, int) and isinstance(groups, int) and isinstance(head, int)):
        return None
    found = _columns(apart.inputs[0], groups * head, products)
    if found is not None and heads != groups:
        found.heads = groups, heads // groups, head
    return found


def _before(node: ir.Node | None, operator: str, itself: str = "") -> ir.Node | None:
    """The node that makes the first input of this one, if it is of that operator."""
    if node is None or (itself and node.op_type != itself) or node.inputs[0] is None or len(node.inputs[0].uses()) != 1:
        return None
    made = node.inputs[0].producer()
    return made if made is not None and made.op_type == operator else None


def _last(value: ir.Value) -> int | None:
    size = value.shape[-1] if value.shape is not None and len(value.shape) else None
    return size if isinstance(size, int) else None
