"""A graph as an ONNX model without its weights, and the weights beside it.

Weights never pass through protobuf, whose limit is 2 GB: those in a file stay there and ONNX Runtime maps them, those
in memory are handed over as values, which it copies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from turnout.errors import CompileError
from turnout.graph import ir, place_of, subgraphs, type_name
from turnout_ort.opening import Model
from turnout_ort.values import Tied, from_weight

if TYPE_CHECKING:
    import onnx

__all__ = ["INLINE", "to_model"]

INLINE = 1024  # bytes; smaller constants stay in the model, where shape inference and folding see them
_IR_VERSION = 10  # every ONNX Runtime since 1.18 reads it; later ones only add types, which are not checked against it
_NO_FILE = "given-by-turnout"  # location of weights in memory; it has to be there, and is never opened


def to_model(graph: ir.GraphView, newest: Mapping[str, int]) -> Model:
    """The graph as a model, with operator sets no newer than `newest` (by domain).

    A lower operator set changes nothing: `supports` has let through only operators whose definition is as old.
    Raises CompileError where an input has no type.
    """
    for value in graph.inputs:
        if not type_name(value):
            raise CompileError(f"input {value.name!r} of the partition has no type, and ONNX Runtime wants one")
    bare = ir.GraphView(graph.inputs, graph.outputs, nodes=list(graph), name=graph.name or "partition")
    proto = ir.serde.serialize_graph(bare)  # type: ignore[arg-type] # its own protocol misses read-only attributes
    names = _name_nodes(proto.node)
    weights, folder, files = _add_weights(proto, graph.initializers)
    model = _wrap(proto, _opsets(graph, newest))
    return Model(model.SerializeToString(), names, weights, folder, files)


def _wrap(graph: onnx.GraphProto, opsets: Mapping[str, int]) -> onnx.ModelProto:
    import onnx

    model = onnx.ModelProto(ir_version=_IR_VERSION, producer_name="turnout", graph=graph)
    for domain, version in opsets.items():
        model.opset_import.add(domain=domain, version=version)
    return model


def _name_nodes(nodes: Iterable[onnx.NodeProto]) -> dict[str, int]:
    names = {}
    for position, node in enumerate(nodes):
        node.name = f"{node.name or node.op_type}#{position}"
        names[node.name] = position
    return names


def _opsets(graph: ir.GraphView, newest: Mapping[str, int]) -> dict[str, int]:
    """Only the domains in use: ONNX Runtime refuses a model for a domain that is too new, used or not."""
    wanted = {"", *_domains(graph)}
    opsets = {domain: graph.opset_imports.get(domain, 1) for domain in wanted}
    if "" not in graph.opset_imports:
        opsets[""] = graph.opset_imports.get("ai.onnx", newest.get("", 1))
    return {domain: min(version, newest.get(domain, version)) for domain, version in sorted(opsets.items())}


def _domains(nodes: Iterable[ir.Node]) -> Iterator[str]:
    for node in nodes:
        yield "" if node.domain == "ai.onnx" else node.domain
        for _, body in subgraphs(node):
            yield from _domains(body)


def _add_weights(proto: onnx.GraphProto, initializers: Mapping[str, ir.Value]) -> tuple[dict[str, Tied], Path | None, set[str]]:
    """Adds the weights; those that have to be handed over, and the folder and the names of the files that ONNX Runtime maps."""
    weights: dict[str, Tied] = {}
    places: dict[str, _Place] = {}
    files: set[str] = set()
    for name, value in initializers.items():
        if value.const_value is None:
            raise CompileError(f"initializer {name!r} has no value")
        if (place := _place(value.const_value)) is not None:
            places[name] = place
    folder = _folder(places.values())
    for name, value in initializers.items():
        tensor, there = value.const_value, places.get(name)
        assert tensor is not None
        entry = proto.initializer.add()
        if tensor.dtype == ir.DataType.STRING or tensor.nbytes < INLINE:
            ir.serde.serialize_tensor_into(entry, from_=tensor)
        elif there is not None and there.folder == folder:
            files.add(there.name)
            _refer(entry, tensor, location=there.name, offset=there.offset, length=there.length)
        else:
            weights[name] = from_weight(tensor)
            _refer(entry, tensor, location=_NO_FILE)
        entry.name = name
    return weights, folder if files else None, files


class _Place(NamedTuple):
    """Where a weight's bytes lie: file `name` of a folder, at `offset`."""

    folder: Path
    name: str
    offset: int
    length: int


def _place(tensor: ir.TensorProtocol) -> _Place | None:
    """None for a weight that lies in memory alone."""
    if isinstance(tensor, ir.ExternalTensor):
        return _Place(Path(tensor.base_dir).resolve(), str(tensor.location), tensor.offset or 0, tensor.length or tensor.nbytes)
    found = place_of(tensor)
    if found is None:
        return None
    file = found[0].resolve()  # ONNX Runtime follows no link out of the folder
    return _Place(file.parent, file.name, found[1], tensor.nbytes)


def _folder(places: Iterable[_Place]) -> Path | None:
    """The folder in which most bytes lie: a session knows one."""
    sizes: Counter[Path] = Counter()
    for place in places:
        sizes[place.folder] += place.length
    return max(sizes, key=lambda folder: sizes[folder], default=None)


def _refer(entry: onnx.TensorProto, tensor: ir.TensorProtocol, **where: Any) -> None:
    import onnx

    entry.data_type = int(tensor.dtype)
    entry.dims.extend(tensor.shape.numpy())
    entry.data_location = onnx.TensorProto.EXTERNAL
    for key, value in where.items():
        if value is not None:
            entry.external_data.add(key=key, value=str(value))
