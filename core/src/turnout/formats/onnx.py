"""ONNX: files, bytes, ModelProtos and onnx_ir models, all through one door.

Whatever comes in is taken apart into a skeleton (a ModelProto without large weights) and the weights, mapped where they lie. The skeleton
is tidied, checked and run through shape inference, becomes an onnx_ir model, and gets its weights back.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnout.errors import InvalidModel, UnknownFormat
from turnout.formats import Accuracy, Format, Source

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["Onnx", "OnnxSource", "set_versions", "source_of_object"]

# the first byte of a ModelProto: the tag of one of its fields (onnx.proto), as onnx and everything else writes them
_FIRST_TAGS = frozenset([0x08, 0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72, 0xA2, 0xCA])
_SEEN_VERSIONS = "ONNX IR 3 to 14"


class Onnx(Format):
    """The ONNX file format (onnx.proto), as one file or with external data beside it."""

    name = "onnx"

    def accepts(self, head: bytes, name: str) -> bool:
        return name.lower().endswith(".onnx") or head[0] in _FIRST_TAGS

    def open(self, file: Path | bytes, *, accuracy: Accuracy = "fast", options: Any = None) -> OnnxSource:
        return OnnxSource(file)


def source_of_object(model: Any) -> OnnxSource:
    """A ModelProto or an onnx_ir model as a source. Raises UnknownFormat for anything else."""
    kind = type(model)
    if kind.__name__ == "ModelProto" and hasattr(model, "SerializeToString"):
        return OnnxSource(model)
    if kind.__name__ == "Model" and kind.__module__.startswith("onnx_ir"):
        return OnnxSource(model)
    raise UnknownFormat(
        f"a {kind.__module__}.{kind.__name__} is no model that turnout can load",
        hint="give a path, the file's bytes, an onnx.ModelProto or an onnx_ir.Model",
    )


class OnnxSource(Source):
    """One ONNX model: a path, the file's bytes, a ModelProto or an onnx_ir model."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self.path = given if isinstance(given, Path) else None
        self.name = _name_of(given)
        self._mended = False
        self._metadata: dict[str, str] = {}

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The model's `metadata_props`, once its graph has been read."""
        return self._metadata

    def file(self) -> Path | bytes | None:
        if isinstance(self._given, (Path, bytes)) and not self._mended:
            return self._given
        return None

    def model(self) -> ir.Model:
        try:
            return self._model()
        except InvalidModel as error:
            raise InvalidModel(f"{self.name}: {error.message}", hint=error.hint) from error.__cause__

    def _model(self) -> ir.Model:
        from turnout.formats.check import check_functions, check_nodes, check_reads, mend
        from turnout.formats.infer import infer
        from turnout.formats.tidy import check_names, check_tensors, tidy_graph

        skeleton, weights = self._skeleton()
        if not skeleton.HasField("graph") or not skeleton.opset_import:
            raise InvalidModel("there is no graph in it, or no operator set", hint=f"turnout reads {_SEEN_VERSIONS}")
        _check_opset(skeleton)
        self._metadata = {entry.key: entry.value for entry in skeleton.metadata_props}
        tidy_graph(skeleton.graph)
        check_functions(skeleton)
        check_nodes(skeleton)
        self._mended = mend(skeleton)
        check_tensors(skeleton.graph, self.path)
        weights |= self._take_external(skeleton.graph)
        inputs = [info.name for info in skeleton.graph.input]
        _declare(skeleton.graph, weights)
        in_order = check_names(skeleton.graph)
        model = _deserialize(infer(skeleton))
        if in_order is False:
            _sort(model.graph)
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            check_reads(graph)
        _settle(model, weights, inputs)
        if self.path is not None:
            _map_inner(model, self.path.parent)
        return model

    def _skeleton(self) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
        if isinstance(self._given, (Path, bytes)):
            return self._split_file()
        import onnx

        from turnout.graph import ir

        if isinstance(self._given, onnx.ModelProto):
            return _split_proto(self._given)
        return _split_ir(self._given) if isinstance(self._given, ir.Model) else _split_proto(self._given)

    def _split_file(self) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
        import onnx
        from google.protobuf.message import DecodeError

        from turnout.formats import wire

        buffer = self._buffer()
        try:
            skeleton, found = wire.split(buffer)
            proto = onnx.ModelProto.FromString(skeleton)
        except (ValueError, DecodeError) as error:
            raise InvalidModel(
                f"its protobuf is truncated or corrupt ({error})",
                hint="fetch or export the file again; it may not be ONNX at all",
            ) from None
        return proto, {weight.name: _mapped(weight, buffer) for weight in found}

    def _buffer(self) -> memoryview:
        if isinstance(self._given, bytes):
            return memoryview(self._given)
        return _map(self._given)

    def _take_external(self, graph: onnx.GraphProto) -> dict[str, ir.TensorProtocol]:
        """Initializers whose data lies in another file, taken out of the graph as tensors that map it."""
        import onnx

        from turnout.graph import ir

        external = [tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
        if not external or self.path is None:
            return {}
        files = _Files(self.path.parent)
        taken = {tensor.name: files.tensor(ir.serde.deserialize_tensor(tensor)) for tensor in external}
        kept = onnx.GraphProto(initializer=[t for t in graph.initializer if t.name not in taken])
        del graph.initializer[:]
        graph.initializer.extend(kept.initializer)
        return taken


class _Files:
    """Files of external data beside a model, each mapped once. `check_tensors` has been over them.

    onnx_ir maps them too, but refuses files with hard links and links that lead out of the folder: package installers make the one,
    model hubs' caches the other, and `check_tensors` knows which of them are safe.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps: dict[str, memoryview] = {}

    def tensor(self, place: Any) -> ir.TensorProtocol:
        """onnx_ir's `ExternalTensor` as a tensor over the mapped file."""
        from turnout.formats.wire import Weight

        location = str(place.location)
        if location not in self._maps:
            self._maps[location] = _map(self._folder / location)
        shape = tuple(int(dim) for dim in place.shape)
        return _mapped(Weight(place.name or "", int(place.dtype), shape, place.offset or 0, place.nbytes), self._maps[location])


def _map(path: Path) -> memoryview:
    with open(path, "rb") as file:
        if file.seek(0, 2) == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _name_of(given: Any) -> str:
    if isinstance(given, Path):
        return given.name
    return "<bytes>" if isinstance(given, bytes) else str(given.graph.name or f"<{type(given).__name__}>")


def _check_opset(model: onnx.ModelProto) -> None:
    """Raises InvalidModel for an operator set of the future: nobody here can say what its operators mean."""
    import onnx.defs

    newest = onnx.defs.onnx_opset_version()
    for entry in (*model.opset_import, *(entry for function in model.functions for entry in function.opset_import)):
        if not isinstance(entry.domain, str) or not 0 <= entry.version < 1 << 31:
            raise InvalidModel(f"it asks for operator set {entry.version} of {entry.domain!r}", hint="export the model again")
        if entry.domain in ("", "ai.onnx") and not 1 <= entry.version <= newest:
            raise InvalidModel(
                f"its operator set is {entry.version}, and the installed onnx knows 1 to {newest}",
                hint="pip install --upgrade onnx, or export the model for an older operator set",
            )


def _mapped(weight: Any, buffer: memoryview) -> ir.TensorProtocol:
    """A weight as a tensor over the file's own bytes. Raises InvalidModel where its bytes do not fit its shape and type."""
    import numpy as np

    from turnout.graph import ir

    try:
        dtype = ir.DataType(weight.data_type)
        wanted = -(-weight.size * dtype.bitwidth // 8)
    except (ValueError, TypeError):
        raise InvalidModel(
            f"weight {weight.name!r} has element type {weight.data_type}, which turnout does not know",
            hint="export the model with a newer exporter, or update turnout",
        ) from None
    if wanted != weight.nbytes:
        raise InvalidModel(
            f"weight {weight.name!r} holds {weight.nbytes} bytes, "
            f"but its shape {list(weight.shape)} and type {dtype.name.lower()} want {wanted}",
            hint="export the model again",
        )
    raw = np.frombuffer(buffer, np.uint8, weight.nbytes, weight.offset)
    if dtype.bitwidth < 8:
        return ir.PackedTensor(raw, dtype, shape=ir.Shape(weight.shape), name=weight.name)
    return ir.Tensor(raw.view(dtype.numpy()).reshape(weight.shape), dtype, name=weight.name)


def _split_proto(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    import onnx

    from turnout.formats.tidy import check_inline
    from turnout.formats.wire import LARGE
    from turnout.graph import ir

    large = {t.name: t for t in proto.graph.initializer if len(t.raw_data) > LARGE and t.data_location != onnx.TensorProto.EXTERNAL}
    for tensor in large.values():
        check_inline(tensor)
    skeleton = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name == "graph":
            for part, content in value.ListFields():
                if part.name == "initializer":
                    skeleton.graph.initializer.extend(tensor for tensor in content if tensor.name not in large)
                else:
                    _copy_field(skeleton.graph, part, content)
        else:
            _copy_field(skeleton, field, value)
    return skeleton, {name: ir.TensorProtoTensor(tensor) for name, tensor in large.items()}


def _copy_field(target: Any, field: Any, value: Any) -> None:
    if isinstance(value, (str, bytes, int, float)):
        setattr(target, field.name, value)
    else:
        getattr(target, field.name).MergeFrom(value)


def _split_ir(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """The caller's model is serialized, never changed; its weights are shared with it."""
    from turnout.formats.wire import LARGE
    from turnout.graph import ir

    graph = model.graph
    weights = {
        name: value.const_value
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes > LARGE
    }
    small = [value for name, value in graph.initializers.items() if name not in weights]
    view = ir.GraphView(
        graph.inputs, graph.outputs, nodes=tuple(graph), initializers=small, opset_imports=graph.opset_imports, name=graph.name
    )
    shell = ir.Model(view, ir_version=model.ir_version, functions=tuple(model.functions.values()))  # type: ignore[arg-type]
    return ir.serde.serialize_model(shell), weights


def _declare(graph: onnx.GraphProto, weights: Mapping[str, ir.TensorProtocol]) -> None:
    """Weights that were taken out stand in as inputs, so that shape inference knows their types."""
    import onnx

    listed = {info.name for info in graph.input}
    graph.input.extend(
        onnx.helper.make_tensor_value_info(name, int(tensor.dtype), [int(dim) for dim in tensor.shape])  # type: ignore[arg-type]
        for name, tensor in weights.items()
        if name not in listed
    )


def _deserialize(proto: onnx.ModelProto) -> ir.Model:
    from turnout.graph import ir

    try:
        return ir.serde.deserialize_model(proto)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise InvalidModel(f"its graph cannot be read: {cause}", hint="export the model again") from error


def _sort(graph: ir.Graph) -> None:
    try:
        graph.sort()
    except ValueError:
        raise InvalidModel("its nodes wait for each other in a circle", hint="export the model again") from None


def _settle(model: ir.Model, weights: Mapping[str, ir.TensorProtocol], inputs: list[str]) -> None:
    """Weights become initializers again, and every node learns its operator set version."""
    graph = model.graph
    by_name = {value.name or "": value for value in graph.inputs}
    constant = model.ir_version < 4  # before IR 4 every initializer had to be listed as an input; it was not one
    for name, tensor in weights.items():
        by_name[name].const_value = tensor
    for name, value in by_name.items():
        if name not in inputs or (constant and (name in graph.initializers or name in weights)):
            graph.inputs.remove(value)
    for name in weights:
        graph.register_initializer(by_name[name])
    set_versions(graph, graph.opset_imports)
    for function in model.functions.values():
        set_versions(function.graph, function.opset_imports)


_ALIASES = {"": "ai.onnx", "ai.onnx": ""}


def set_versions(graph: ir.Graph, opsets: Mapping[str, int]) -> None:
    """Every node of the graph and its bodies learns the operator set version of its domain."""
    from turnout.graph import subgraphs

    for node in graph:
        node.version = opsets.get(node.domain) or opsets.get(_ALIASES.get(node.domain, node.domain))
        for _, body in subgraphs(node):
            body.opset_imports.update(opsets)
            set_versions(body, opsets)


def _map_inner(model: ir.Model, folder: Path) -> None:
    """External tensors in bodies and attributes become tensors over the mapped files."""
    from turnout.graph import ir

    files = _Files(folder)
    outer = [model.graph, *(function.graph for function in model.functions.values())]
    for graph in [*outer, *(body for one in outer for body in one.subgraphs())]:
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = files.tensor(value.const_value)
        for node in graph:
            for name, attribute in node.attributes.items():
                if isinstance(attribute.value, ir.ExternalTensor):
                    node.attributes[name] = ir.AttrTensor(name, files.tensor(attribute.value))
