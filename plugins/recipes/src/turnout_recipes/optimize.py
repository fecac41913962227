"""optimize: a model and a recipe in, a smaller ONNX file and a report out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from turnout.errors import InvalidInput
from turnout.formats import open_source
from turnout.graph import constant_array, ir, label
from turnout_recipes.blocks import Blocks, dequantised, rounded
from turnout_recipes.recipe import Layer, Recipe, Report

__all__ = ["optimize"]

Progress = Callable[[float], None]


def optimize(source: Any, target: Path, recipe: Recipe, progress: Progress = lambda fraction: None) -> Report:
    """Writes the model with smaller weights to `target` (weights to `target.data`), and gives the report.

    source: whatever `turnout.load` takes. Of its weights, one matrix at a time is in memory beside what is written.
    Raises InvalidInput where nothing in it can be quantised, or where source and target are one file; what `open_source` raises.
    """
    opened = open_source(source)
    if opened.path is not None and target.exists() and os.path.samefile(opened.path, target):
        raise InvalidInput(f"{target} is the model itself", hint="name another file")
    model = opened.model()
    kept: dict[str, str] = {}
    work = list(_candidates(model.graph, recipe, kept))
    if not work:
        why = next(iter(kept.values()), "it has no product with a constant matrix of floats")
        raise InvalidInput(f"nothing in {opened.name} can be quantised: {why}", hint="a model that was quantised before stays as it is")
    layers = []
    for done, (node, name) in enumerate(work):
        if (layer := _replace(model.graph, node, name, recipe, kept)) is not None:
            layers.append(layer)
        progress((done + 1) / len(work))
    if not layers:
        raise InvalidInput(f"nothing in {opened.name} can be quantised: {next(iter(kept.values()))}")
    _drop_unused(model.graph)
    model.graph.opset_imports["com.microsoft"] = 1
    _write(model, target)
    return Report(source=opened.name, recipe=recipe, layers=layers, kept=kept)


def _candidates(graph: ir.Graph, recipe: Recipe, kept: dict[str, str]) -> Iterator[tuple[ir.Node, str]]:
    """MatMul and Gemm with a constant matrix on the right."""
    for position, node in enumerate(graph):
        if node.domain or node.op_type not in ("MatMul", "Gemm") or len(node.inputs) < 2:
            continue
        name, weight = label(node, position), node.inputs[1]
        if weight is None or weight.const_value is None or weight in graph.inputs or len(weight.const_value.shape) != 2:
            continue
        if any(fnmatchcase(name, pattern) for pattern in recipe.keep):
            kept[name] = "the recipe keeps it"
        elif weight.dtype not in (ir.DataType.FLOAT, None):
            kept[name] = f"its weights are {weight.dtype.name.lower()}, not float32"
        elif node.op_type == "Gemm" and not _plain(node):
            kept[name] = "a Gemm with a scale or a transposed A is not a plain product"
        elif min(sizes := weight.const_value.shape.numpy()) < recipe.block:
            kept[name] = f"a matrix of {sizes} is smaller than a block"
        else:
            yield node, name


def _plain(node: ir.Node) -> bool:
    get = node.attributes.get_float
    return get("alpha", 1.0) == 1.0 and get("beta", 1.0) == 1.0 and not node.attributes.get_int("transA")


def _replace(graph: ir.Graph, node: ir.Node, name: str, recipe: Recipe, kept: dict[str, str]) -> Layer | None:
    value = node.inputs[1]
    assert value is not None
    weight = np.asarray(constant_array(value))
    if node.op_type == "Gemm" and node.attributes.get_int("transB"):
        weight = weight.T
    if not np.isfinite(weight).all():
        kept[name] = "its weights are not all finite"
        return None
    blocks = rounded(weight, recipe.bits, recipe.block)
    norm = float(np.linalg.norm(weight))
    error = float(np.linalg.norm(dequantised(blocks) - weight)) / norm if norm else 0.0
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    product = _product(graph, node, name, blocks, recipe, weight.shape[1])
    last = product
    if bias is not None:
        last = ir.Node("", "Add", [product.outputs[0], bias], name=f"{name}.bias")
        last.outputs[0].name = f"{name}.biased"
    _stand_in(graph, node, [product] if last is product else [product, last])
    return Layer(name=name, shape=(weight.shape[0], weight.shape[1]), error=error, before=weight.nbytes, after=blocks.nbytes)


def _product(graph: ir.Graph, node: ir.Node, name: str, blocks: Blocks, recipe: Recipe, columns: int) -> ir.Node:
    inputs = [node.inputs[0]]
    for part, array in (("values", blocks.values), ("scales", blocks.scales), ("zeros", blocks.zeros)):
        value = ir.Value(name=f"{name}.{part}", const_value=ir.tensor(array, name=f"{name}.{part}"))
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
        graph.register_initializer(value)
        inputs.append(value)
    attributes = {"K": blocks.rows, "N": columns, "bits": blocks.bits, "block_size": blocks.block, "accuracy_level": recipe.accuracy_level}
    made = ir.Node("com.microsoft", "MatMulNBits", inputs, [ir.AttrInt64(key, value) for key, value in attributes.items()], name=name)
    made.outputs[0].name = f"{name}.product"
    return made


def _stand_in(graph: ir.Graph, node: ir.Node, nodes: list[ir.Node]) -> None:
    """The nodes take the node's place; what comes out of the last keeps its name and readers."""
    old, new = node.outputs[0], nodes[-1].outputs[0]
    new.name, new.shape, new.type = old.name, old.shape, old.type
    graph.insert_before(node, nodes)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = None
    graph.remove(node, safe=True)


def _drop_unused(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in graph.outputs and value not in graph.inputs:
            del graph.initializers[name]


def _write(model: ir.Model, target: Path) -> None:
    """The weights' file and the model's take their places when both are whole; until then nothing there is touched."""
    data = f"{target.name}.data"
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        ir.save(model, Path(folder) / target.name, external_data=data, size_threshold_bytes=1024)
        for name in (data, target.name):
            if (Path(folder) / name).exists():
                os.replace(Path(folder) / name, target.parent / name)
