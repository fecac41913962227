"""A graph as an ONNX model without its weights, and the weights beside it.

Weights never pass through protobuf, whose limit is 2 GB: those in a file stay there and ONNX Runtime maps them, those
in memory are handed over as values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnout.errors import CompileError
from turnout.graph import ir, subgraphs, type_name
from turnout_ort.values import Tied, from_weight

if TYPE_CHECKING:
    import onnx

__all__ = ["Model", "to_model"]

_INLINE = 1024  # bytes; smaller constants stay in the model, where shape inference and folding see them
_IR_VERSION = 10  # every ONNX Runtime since 1.18 reads it; later ones only add types, which are not checked against it
_NO_FILE = "given-by-turnout"  # location of weights in memory; it has to be there, and is never opened


@dataclass
class Model:
    """What a session is built from.

    proto: the model's bytes. names: unique node name to position in the graph. weights: those in memory, by name.
    folder: where the files of the other weights lie, None where there are none.
    """

    proto: bytes
    names: dict[str, int]
    weights: dict[str, Tied] = field(default_factory=dict)
    folder: Path | None = None


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
    weights, folder = _add_weights(proto, graph.initializers)
    model = _wrap(proto, _opsets(graph, newest))
    return Model(model.SerializeToString(), names, weights, folder)


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


def _add_weights(proto: onnx.GraphProto, initializers: Mapping[str, ir.Value]) -> tuple[dict[str, Tied], Path | None]:
    weights: dict[str, Tied] = {}
    folder: Path | None = None
    for name, value in initializers.items():
        tensor = value.const_value
        if tensor is None:
            raise CompileError(f"initializer {name!r} has no value")
        entry = proto.initializer.add()
        if tensor.dtype == ir.DataType.STRING or tensor.nbytes < _INLINE:
            ir.serde.serialize_tensor_into(entry, from_=tensor)
        elif isinstance(tensor, ir.ExternalTensor) and folder in (None, Path(tensor.base_dir).resolve()):
            folder = Path(tensor.base_dir).resolve()
            _refer(entry, tensor, location=str(tensor.location), offset=tensor.offset or 0, length=tensor.length)
        else:
            weights[name] = from_weight(tensor)
            _refer(entry, tensor, location=_NO_FILE)
        entry.name = name
    return weights, folder


def _refer(entry: onnx.TensorProto, tensor: ir.TensorProtocol, **where: Any) -> None:
    import onnx

    entry.data_type = int(tensor.dtype)
    entry.dims.extend(tensor.shape.numpy())
    entry.data_location = onnx.TensorProto.EXTERNAL
    for key, value in where.items():
        if value is not None:
            entry.external_data.add(key=key, value=str(value))
