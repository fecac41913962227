"""Shape inference by onnx, with a rail where it would take the process with it.

Five operators' inference reads the type of their input without asking whether it has one (onnx 1.23; in C++, so that it is a crash and no
exception), which is so wherever an operator that onnx does not know comes before them. They are hidden from it until that type is known.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

import onnx
import onnx.shape_inference

from turnout.formats.tidy import bodies

__all__ = ["infer"]

_CRASHING = frozenset({"DictVectorizer", "EyeLike", "LabelEncoder", "RegexFullMatch", "TreeEnsemble"})
_LONG = 1 << 16
"""onnx's propagation of shapes' values takes every vector for a shape, and holds an object for each of its elements."""
_HIDDEN = "hidden from inference: "

log = logging.getLogger("turnout")


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types and shapes that can be inferred, and without the types that onnx_ir cannot hold. May change `model`."""
    while True:
        hidden = _hide(model)
        inferred = _infer(model)
        _show(inferred)
        if not hidden or not hidden & _typed(inferred.graph):
            break
        model = inferred
    for graph in _graphs(inferred.graph):
        _clear_maps(graph)
    return inferred


def _infer(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
        if _longest_vector(inferred) > _LONG:
            return inferred
        return onnx.shape_inference.infer_shapes(inferred, data_prop=True)
    except Exception as error:  # the C++ library raises many kinds; a model whose shapes it cannot infer may still run
        log.info("shape inference gave up: %s", error)
        return model


def _longest_vector(model: onnx.ModelProto) -> int:
    """The length of the longest value of one dimension."""
    lengths = [0]
    for graph in _graphs(model.graph):
        for value in (*graph.input, *graph.value_info, *graph.output):
            dims = value.type.tensor_type.shape.dim
            if len(dims) == 1:
                lengths.append(dims[0].dim_value)
    return max(lengths)


def _hide(model: onnx.ModelProto) -> set[str]:
    """Renames the operators that would crash; gives the values without a type that are to blame."""
    risky = [node for node in _with_bodies(model.graph.node) if node.op_type in _CRASHING]
    typed = _typed(model.graph) if risky else set()
    untyped = [node for node in risky if not node.input or node.input[0] not in typed]
    inside = [node for node in _of_functions(model) if node.op_type in _CRASHING]  # whose types only a call knows
    for node in (*untyped, *inside):
        node.op_type = _HIDDEN + node.op_type
    return {name for node in untyped for name in node.input[:1]}


def _show(model: onnx.ModelProto) -> None:
    for node in (*_with_bodies(model.graph.node), *_of_functions(model)):
        node.op_type = node.op_type.removeprefix(_HIDDEN)


def _typed(graph: onnx.GraphProto) -> set[str]:
    """Every value, in bodies too, whose type is written down."""
    return {
        value.name
        for one in _graphs(graph)
        for values in (one.input, one.output, one.value_info, one.initializer)
        for value in values
        if isinstance(value, onnx.TensorProto) or value.type.WhichOneof("value")
    }


def _of_functions(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for function in model.functions:
        yield from _with_bodies(function.node)


def _with_bodies(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from _with_bodies(body.node)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in _with_bodies(graph.node):
        yield from bodies(node)


def _clear_maps(graph: onnx.GraphProto) -> None:
    """A value of a type that onnx_ir does not have becomes one whose type is not known."""
    values: Sequence[onnx.ValueInfoProto] = (*graph.input, *graph.output, *graph.value_info)
    for value in values:
        kind = value.type
        while kind.WhichOneof("value") in ("sequence_type", "optional_type"):
            kind = kind.sequence_type.elem_type if kind.HasField("sequence_type") else kind.optional_type.elem_type
        if kind.WhichOneof("value") in ("map_type", "opaque_type"):
            value.ClearField("type")
