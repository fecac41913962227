"""Which products of a graph can have smaller weights, and what stands in their place afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.graph import constant_array, ir, is_constant, label
from turnout_recipes.blocks import Blocks
from turnout_recipes.recipe import Recipe

__all__ = ["Product", "add_constant", "drop_unused", "products", "stand_in"]


@dataclass(frozen=True, eq=False)
class Product:
    """x @ matrix, and for a Gemm + bias. turned: the constant has columns first. shape: rows and columns of the matrix."""

    name: str
    node: ir.Node
    constant: ir.Value
    turned: bool
    shape: tuple[int, int]

    @property
    def x(self) -> ir.Value:
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def bias(self) -> ir.Value | None:
        return self.node.inputs[2] if self.node.op_type == "Gemm" and len(self.node.inputs) > 2 else None

    def weight(self) -> NDArray[np.float32]:
        """The matrix, float32 [rows, columns], read anew."""
        array: NDArray[np.float32] = np.asarray(constant_array(self.constant))
        return array.T if self.turned else array


def products(graph: ir.Graph, recipe: Recipe, kept: dict[str, str]) -> Iterator[Product]:
    """MatMul and Gemm with a constant matrix on the right, in order; what is left out goes into `kept`, with the reason."""
    for position, node in enumerate(graph):
        if node.domain or node.op_type not in ("MatMul", "Gemm") or len(node.inputs) < 2:
            continue
        constant, turned = _matrix(node.inputs[1])
        if constant is None or constant in graph.inputs:
            continue
        name, (rows, columns) = label(node, position), constant.const_value.shape.numpy()  # type: ignore[union-attr]
        turned ^= node.op_type == "Gemm" and bool(node.attributes.get_int("transB"))
        shape = (columns, rows) if turned else (rows, columns)
        if any(fnmatchcase(name, pattern) for pattern in recipe.keep):
            kept[name] = "the recipe keeps it"
        elif constant.dtype not in (ir.DataType.FLOAT, None):
            kept[name] = f"its weights are {constant.dtype.name.lower()}, not float32"
        elif node.op_type == "Gemm" and not _plain(node):
            kept[name] = "a Gemm with a scale or a transposed A is not a plain product"
        elif min(shape) < recipe.block:
            kept[name] = f"a matrix of {shape} is smaller than a block"
        else:
            yield Product(name, node, constant, turned, shape)


def _matrix(value: ir.Value | None) -> tuple[ir.Value | None, bool]:
    """(the constant matrix behind a value, whether a Transpose lies between); (None, False) where there is none."""
    if value is None:
        return None, False
    if is_constant(value) and len(value.const_value.shape) == 2:  # type: ignore[union-attr]
        return value, False
    node = value.producer()
    if node is None or node.op_type != "Transpose" or node.domain:
        return None, False
    inner, _ = _matrix(node.inputs[0]) if node.inputs[0] is not None and node.inputs[0].producer() is None else (None, False)
    return inner, inner is not None


def _plain(node: ir.Node) -> bool:
    get = node.attributes.get_float
    return get("alpha", 1.0) == 1.0 and get("beta", 1.0) == 1.0 and not node.attributes.get_int("transA")


def add_constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """A new initializer."""
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
    graph.register_initializer(value)
    return value


def stand_in(graph: ir.Graph, product: Product, blocks: Blocks, recipe: Recipe) -> None:
    """MatMulNBits in the place of the product; what comes out keeps its name and readers."""
    node, name = product.node, product.name
    inputs = [product.x]
    for part, array in (("values", blocks.values), ("scales", blocks.scales), ("zeros", blocks.zeros)):
        inputs.append(add_constant(graph, f"{name}.{part}", array))
    how = {"K": product.shape[0], "N": product.shape[1], "bits": blocks.bits, "block_size": blocks.block}
    how["accuracy_level"] = recipe.accuracy_level
    made = ir.node("MatMulNBits", inputs, how, domain="com.microsoft", version=1, name=name)
    nodes = [made]
    old = node.outputs[0]
    made.outputs[0].name, made.outputs[0].type, made.outputs[0].shape = f"{name}.product", old.type, old.shape
    if product.bias is not None:
        nodes.append(ir.node("Add", [made.outputs[0], product.bias], name=f"{name}.bias"))
    new = nodes[-1].outputs[0]
    new.name, new.shape, new.type = old.name, old.shape, old.type
    graph.insert_before(node, nodes)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = None
    graph.remove(node, safe=True)


def drop_unused(graph: ir.Graph) -> None:
    """Takes away what nobody reads any more: nodes that turned constants, and the constants."""
    for node in reversed(list(graph)):
        if node.op_type == "Transpose" and not any(value.uses() or value in graph.outputs for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in graph.outputs and value not in graph.inputs:
            del graph.initializers[name]
