"""From what an ONNX file may hold to what an operator graph holds: constants and sparse tensors become initializers, in every body.

Here too is what protobuf cannot see: values that nobody defines, two values of one name, external data that lies about itself.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper

from turnout.errors import InvalidModel

__all__ = ["bodies", "check_inline", "check_names", "check_tensors", "tidy_graph"]


def tidy_graph(graph: onnx.GraphProto) -> None:
    """Rewrites a graph and its bodies in place.

    Raises InvalidModel for names that are no text, and for constants that are defined twice or contradict themselves.
    """
    _check_text(graph)
    for sparse in graph.sparse_initializer:
        graph.initializer.append(_dense(sparse, sparse.values.name))
    del graph.sparse_initializer[:]
    constants = [_constant(node) for node in graph.node]
    _check_new(graph, [tensor.name for tensor in constants if tensor is not None])
    if any(tensor is not None for tensor in constants):
        kept = [node for node, tensor in zip(graph.node, constants, strict=True) if tensor is None]
        graph.initializer.extend(tensor for tensor in constants if tensor is not None)
        kept_copy = onnx.GraphProto(node=kept)
        del graph.node[:]
        graph.node.extend(kept_copy.node)
    for info in (*graph.input, *graph.output, *graph.value_info):
        _open_dimensions(info.type.tensor_type.shape)
    for node in graph.node:
        for body in bodies(node):
            tidy_graph(body)


def _check_new(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    taken = {info.name for info in (*graph.input, *graph.initializer)} if names else set()
    for name in names:
        if name in taken:
            raise InvalidModel(f"a Constant gives {name!r}, which is defined already", hint="export the model again")
        taken.add(name)


def _open_dimensions(shape: onnx.TensorShapeProto) -> None:
    """Some exporters (Paddle's) write -1 where they mean a dimension that is not known."""
    for dim in shape.dim:
        if dim.dim_value < 0:
            dim.ClearField("dim_value")


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node, under its output's name; None for any other node (or one that refers to a function's attribute)."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1 or not node.output:
        return None
    (attribute,) = node.attribute
    name = node.output[0]
    if attribute.ref_attr_name:
        return None
    if attribute.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(attribute.t)
        tensor.name = name
        return tensor
    if attribute.name == "sparse_value":
        return _dense(attribute.sparse_tensor, name)
    if attribute.name in ("value_string", "value_strings"):
        strings = attribute.strings if attribute.name == "value_strings" else [attribute.s]
        dims = [len(strings)] if attribute.name == "value_strings" else []
        return onnx.TensorProto(name=name, data_type=onnx.TensorProto.STRING, dims=dims, string_data=strings)
    numbers = {
        "value_float": np.float32(attribute.f),
        "value_floats": np.array(attribute.floats, np.float32),
        "value_int": np.int64(attribute.i),
        "value_ints": np.array(attribute.ints, np.int64),
    }
    if attribute.name not in numbers:
        return None
    return onnx.numpy_helper.from_array(np.asarray(numbers[attribute.name]), name)


def _dense(sparse: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    """SparseTensorProto (onnx.proto: COO, indices linear [nnz] or by coordinate [nnz, rank]) as a dense tensor."""
    try:
        values = onnx.numpy_helper.to_array(sparse.values)
        indices = onnx.numpy_helper.to_array(sparse.indices)
        dense = np.zeros(tuple(sparse.dims), values.dtype)
        if len(indices) != len(values) or (indices < 0).any():
            raise ValueError(f"{len(values)} values at {len(indices)} places, the lowest {indices.min(initial=0)}")
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
    except Exception as error:  # onnx's readers raise whatever Python raises
        raise InvalidModel(f"the sparse tensor {name!r} contradicts itself: {error}", hint="export the model again") from None
    return onnx.numpy_helper.from_array(dense, name)


def check_names(graph: onnx.GraphProto, outer: Set[str] = frozenset(), outer_seen: Set[str] = frozenset()) -> bool:
    """Whether nodes stand in the order that ONNX asks for (each value defined before it is read, in bodies too).

    outer, outer_seen: for a body, the values of the graphs around it, and those of them that are defined before its node.
    Raises InvalidModel where a value is read that nobody defines, or is defined twice.
    """
    names = [info.name for info in graph.input]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InvalidModel(f"there are two inputs {twice[0]!r}", hint="export the model again")
    given = set(names) | {tensor.name for tensor in graph.initializer}
    everything = given.union(outer, _defined(graph, given))
    seen = given.union(outer_seen)
    in_order = True
    for position, node in enumerate(graph.node):
        for name in filter(None, node.input):
            if name not in everything:
                raise InvalidModel(f"{_title(node, position)} reads {name!r}, which nothing defines", hint="export the model again")
            in_order &= name in seen
        if node.op_type in _CONTROL and node.domain in ("", "ai.onnx"):
            _check_control(node, position)
        for body in bodies(node):
            in_order &= check_names(body, everything, seen)
        seen.update(node.output)
    for info in graph.output:
        if info.name not in everything:
            raise InvalidModel(f"the output {info.name!r} is given by no node", hint="export the model again")
        in_order &= info.name in seen
    return in_order


def _check_text(graph: onnx.GraphProto) -> None:
    """Protobuf gives a string that is no UTF-8 as bytes."""
    texts = [info.name for info in (*graph.input, *graph.output, *graph.initializer, *graph.value_info)]
    texts += [sparse.values.name for sparse in graph.sparse_initializer]
    for node in graph.node:
        texts += [node.op_type, node.domain, node.name, *node.input, *node.output, *(attribute.name for attribute in node.attribute)]
    for text in texts:
        if not isinstance(text, str):
            raise InvalidModel(f"the name {text!r} in it is no text", hint="fetch or export the file again; it is damaged")


def _defined(graph: onnx.GraphProto, given: set[str]) -> set[str]:
    made: set[str] = set()
    for position, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in given or name in made:
                raise InvalidModel(f"{_title(node, position)} gives {name!r}, which is defined already", hint="export the model again")
            made.add(name)
    return made


_CONTROL = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}


def _check_control(node: onnx.NodeProto, position: int) -> None:
    """Raises InvalidModel where a body is missing, or takes or gives another number of values than its node."""
    found = {attribute.name: attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH}
    extra = {"If": 0, "Loop": 1, "Scan": 0}[node.op_type]  # Loop: whether to go on
    for name in _CONTROL[node.op_type]:
        if name not in found:
            raise InvalidModel(f"{_title(node, position)} has no {name}", hint="export the model again")
        if len(found[name].output) != len(node.output) + extra:
            raise InvalidModel(
                f"{_title(node, position)} has {len(node.output)} outputs, and its {name} gives {len(found[name].output)}",
                hint="export the model again",
            )
    inputs = {"If": (0,), "Loop": (max(len(node.input), 2),), "Scan": (len(node.input), len(node.input) - 1)}[node.op_type]
    for name in _CONTROL[node.op_type]:
        if len(found[name].input) not in inputs:  # Scan had an input of lengths before operator set 9
            raise InvalidModel(
                f"{_title(node, position)} has {len(node.input)} inputs, and its {name} takes {len(found[name].input)}",
                hint="export the model again",
            )


def _title(node: onnx.NodeProto, position: int) -> str:
    return f"node {node.name or position} ({node.op_type})"


def check_tensors(graph: onnx.GraphProto, model: Path | None) -> None:
    """Raises InvalidModel where a tensor holds more or less than its shape and type want.

    And where external data is missing, too short, not where it may be, or impossible to find (`model` None).
    """
    for tensor in _tensors(graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external_tensor(tensor, model)
        else:
            check_inline(tensor)


def check_inline(tensor: onnx.TensorProto) -> None:
    """Raises InvalidModel where a tensor that is not external holds more or less than its shape and type want."""
    count = _elements(tensor)
    if tensor.data_type == onnx.TensorProto.STRING:
        have, want, unit = len(tensor.string_data), count, "strings"
    elif tensor.HasField("raw_data"):
        have, want, unit = len(tensor.raw_data), _nbytes(tensor), "bytes"
    else:
        have, want, unit = _entries(tensor, count)
    if have != want:
        raise InvalidModel(
            f"the tensor {tensor.name!r} of shape {list(tensor.dims)} holds {have} {unit}, not {want}", hint="export the model again"
        )


def _entries(tensor: onnx.TensorProto, count: int) -> tuple[int, int, str]:
    """(how many entries the tensor's typed field has, how many it wants, what to call them); small types share an entry."""
    parts = 2 if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128) else 1
    want = min(count * parts, _nbytes(tensor))
    return len(getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type))), want, "values"


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for body in bodies(node):
            yield from _tensors(body)


def _check_external_tensor(tensor: onnx.TensorProto, model: Path | None) -> None:
    where = {entry.key: entry.value for entry in tensor.external_data}
    location = where.get("location", "")
    if not isinstance(location, str) or "\0" in location:
        raise InvalidModel(f"weight {tensor.name!r} is kept in {location!r}, which is no file's name", hint="export the model again")
    what = f"weight {tensor.name!r} is kept in {location!r}"
    if model is None:
        raise InvalidModel(f"{what}, but the model was given as bytes", hint="load it by its path")
    _check_inside(location, model, what)
    path = model.parent / location
    if not _is_file(path):
        raise InvalidModel(f"{what}, and there is no such file beside the model", hint=f"put {location} into {model.parent}")
    try:
        offset, length = int(where.get("offset", 0)), int(where.get("length", -1))
        available = path.stat().st_size
    except ValueError:
        raise InvalidModel(f"{what} with an offset or length that is no number", hint="export the model again") from None
    wanted = _nbytes(tensor)
    length = wanted if length < 0 else length
    if length != wanted:
        raise InvalidModel(f"{what} as {length} bytes, but its shape and type want {wanted}", hint="export the model again")
    if offset < 0 or offset + length > available:
        raise InvalidModel(
            f"{what} at bytes {offset} to {offset + length}, but that file has {available}",
            hint="the download or copy did not finish; fetch it again",
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _check_inside(location: str, model: Path, what: str) -> None:
    """The file must lie in the model's folder, or, where the model itself is a link (as in a hub's cache), beside what it links to."""
    lexically = bool(location) and not Path(location).is_absolute() and not os.path.normpath(location).startswith("..")
    homes = (model.parent.resolve(), model.resolve().parent)
    if not lexically or not any((model.parent / location).resolve().is_relative_to(home) for home in homes):
        raise InvalidModel(
            f"{what}, outside the model's folder: turnout refuses to read it",
            hint="a model has no business there; if you trust it, move the file beside the model and export again",
        )


def _elements(tensor: onnx.TensorProto) -> int:
    if any(dim < 0 for dim in tensor.dims):
        raise InvalidModel(f"the tensor {tensor.name!r} has a negative dimension", hint="export the model again")
    return math.prod(tensor.dims)


def _nbytes(tensor: onnx.TensorProto) -> int:
    import onnx_ir as ir

    try:
        return -(-_elements(tensor) * ir.DataType(tensor.data_type).bitwidth // 8)
    except (ValueError, TypeError):
        raise InvalidModel(
            f"the tensor {tensor.name!r} has element type {tensor.data_type}, which turnout does not know here",
            hint="export the model with a newer exporter, or update turnout",
        ) from None
