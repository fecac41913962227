"""A partition on DirectML: one session for each shape of its inputs, under the adapter's lock."""

from __future__ import annotations

import dataclasses
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from turnout.device import HOST
from turnout.errors import CompileError, RunError
from turnout.graph import captures, ir
from turnout.provider import Executable
from turnout.reference import REFERENCE
from turnout_directml.adapters import EP, Lock
from turnout_directml.capture import captured
from turnout_directml.dialect import OPSET
from turnout_directml.resident import ResidentSession, fetched, outlines
from turnout_ort.build import blame, ports
from turnout_ort.failures import input_error, sentence
from turnout_ort.opening import Model, open_model
from turnout_ort.registry import schemas
from turnout_ort.runtime import onnxruntime
from turnout_ort.serialize import to_model
from turnout_ort.session import PlainSession, make_executable
from turnout_ort.values import Port

__all__ = ["open_graph"]

log = logging.getLogger("turnout")

Settings = Callable[[bool, bool], Any]
"""New SessionOptions: whether ONNX Runtime's CPU provider is forbidden, and whether commands are recorded."""

_NO_FUSION = "ep.dml.disable_graph_fusion"

Shapes = tuple[tuple[int, ...], ...]


def open_graph(
    graph: ir.GraphView, settings: Settings, lock: Lock, *, shapes: int, resident: bool = False, capture: bool = False
) -> Executable:
    """The partition, compiled. Where its inputs' shapes are known it is one session; else one for each of `shapes` shapes.

    resident: outputs stay on the adapter, where they can. capture: the commands of a run are recorded and replayed, where that can be.

    Raises CompileError with the positions of the nodes at fault.
    """
    newest = _newest()
    model = to_model(graph, newest)
    fixed = all(_is_fixed(value) for value in graph.inputs)
    with lock:
        try:
            # With free shapes this session only shows that the nodes are taken, and is dropped: what computes shapes is on the CPU
            # in it, and is gone once the shapes are fixed.
            session = _open(model, lambda: settings(fixed, False))
        except Exception as error:
            raise blame(error, graph, model, lambda: settings(False, False), newest) from error
        first = _executable(session, *ports(session, graph), model, lock if resident else None)
        if fixed and capture:
            first = _recorded(model, settings, first.inputs, first.outputs) or first
    return Sessions(
        model,
        settings,
        lock,
        first,
        shapes if not fixed else None,
        read=_read(graph),
        resident=resident,
        capture=capture,
        reference=lambda: REFERENCE.compile(graph, HOST, None),
    )


def _recorded(model: Model, settings: Settings, inputs: Sequence[Port], outputs: Sequence[Port]) -> PlainSession | None:
    """The model as a session that replays its commands; None where DirectML does not take it so."""
    try:
        session = _open(model, lambda: settings(True, True))
    except Exception as error:
        log.info("graph_capture: %s", sentence(error))
        return None
    return captured(session, inputs, outputs, model.weights)


def _executable(session: Any, inputs: Sequence[Port], outputs: Sequence[Port], model: Model, lock: Lock | None) -> PlainSession:
    """lock: of the adapter where outputs stay; None where they come to the host."""
    if lock is not None and all(port.native for port in (*inputs, *outputs)):
        return ResidentSession(session, inputs, outputs, model.weights, lock)
    return make_executable(session, inputs, outputs, model.weights)


def _read(graph: ir.GraphView) -> list[bool]:
    """Of each input, whether a node reads it."""
    names = {value.name for node in graph for value in (*node.inputs, *captures(node)) if value is not None}
    return [value.name in names for value in graph.inputs]


def _newest() -> dict[str, int]:
    """The newest operator sets of a model for DirectML."""
    return {**schemas().newest, "": min(OPSET, schemas().newest[""])}


def _is_fixed(value: ir.Value) -> bool:
    return value.shape is not None and all(isinstance(dim, int) for dim in value.shape)


def _open(model: Model, options: Callable[[], Any]) -> Any:
    try:
        session = open_model(model, options)
    except Exception:
        model = _outputs_apart(model)
        try:
            session = open_model(model, options)
        except Exception:
            session = open_model(model, lambda: _apart(options()))
    first = session.get_providers()[0]
    if first != EP:
        raise CompileError(f"ONNX Runtime gave the session to {first}", hint="`turnout doctor` tells whether the adapter is well")
    return session


def _on_cpu() -> Any:
    settings = onnxruntime().SessionOptions()
    settings.log_severity_level = 4
    return settings


def _outputs_apart(model: Model) -> Model:
    """The model, with a copy for each output that its own nodes read too.

    DirectML fuses an activation into the Add, Conv or Gemm before it, and does not look whether what lies between is an output.
    """
    import onnx

    proto = onnx.ModelProto.FromString(model.proto)
    read = {name for node in proto.graph.node for name in node.input}
    made = {name for node in proto.graph.node for name in node.output}
    inside = {output.name: f"{output.name}/inside" for output in proto.graph.output if output.name in read & made}
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [inside.get(name, name) for name in names]
    proto.graph.node.extend(onnx.helper.make_node("Identity", [new], [name]) for name, new in inside.items())
    return dataclasses.replace(model, proto=proto.SerializeToString())


def _apart(settings: Any) -> Any:
    """Settings under which DirectML runs node by node: it compiles parts of the graph into one, and some drivers refuse that."""
    settings.add_session_config_entry(_NO_FUSION, "1")
    return settings


class Sessions(Executable):
    """A model on one adapter.

    limit: how many shapes keep a session; the one that was not used for longest goes first. None where all shapes are known, and
    `first` is the one session; else `first` only knows the inputs and outputs. read: of each input, whether a node reads it. resident:
    whether outputs stay on the adapter. capture: whether later sessions are recorded. reference: makes what runs empty tensors that even
    ONNX Runtime's CPU provider has no kernel for.
    """

    checks_inputs = True

    def __init__(
        self,
        model: Model,
        settings: Settings,
        lock: Lock,
        first: PlainSession,
        limit: int | None,
        *,
        read: Sequence[bool],
        resident: bool,
        capture: bool,
        reference: Callable[[], Executable],
    ) -> None:
        self.inputs, self.outputs = first.inputs, first.outputs
        self._model = model
        self._settings = settings
        self._read = read
        self._resident = resident
        self._capture = capture
        self._reference = reference
        self._lock = lock
        self._only = first if limit is None else None
        self._limit = limit or 1
        self._kept: OrderedDict[Shapes, Executable] = OrderedDict()
        self._placement = first.placement()

    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
        with self._lock:
            session = self._session(values)
            return session.run(values if isinstance(session, ResidentSession) else [fetched(value) for value in values], out)

    def bind(self, values: Sequence[Any], out: Sequence[Any]) -> Callable[[], Sequence[Any]]:
        """Binds anew for each run: what is bound is copied to the adapter when it is bound, and the buffers may change in between."""
        with self._lock:
            self._session(values).bind(values, out)  # refuses now what does not fit
        return lambda: self.run(values, out)

    def _session(self, values: Sequence[Any]) -> Executable:
        wrong = input_error(self.inputs, outlines(values))
        if wrong is not None:
            raise wrong
        if self._only is not None:
            return self._only
        shapes = tuple(tuple(value.shape) if hasattr(value, "shape") else () for value in values)
        found = self._kept.pop(shapes, None) or self._make(shapes)
        self._kept[shapes] = found
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return found

    def _make(self, shapes: Shapes) -> Executable:
        model = _with_shapes(self._model, shapes)
        empty = next((port.name for port, shape, read in zip(self.inputs, shapes, self._read, strict=True) if read and 0 in shape), None)
        if self._capture and empty is None:
            made = _recorded(model, self._settings, self.inputs, self.outputs)
            if made is not None:
                self._placement = made.placement()
                return made
        try:
            if empty is None:
                session = _open(model, lambda: self._settings(True, False))
            else:
                log.warning("input %r is an empty tensor, which DirectML does not have: ONNX Runtime's CPU provider runs it", empty)
                session = open_model(model, _on_cpu)
        except Exception as error:
            if empty is not None:  # a type that the CPU provider has no kernel for
                return self._reference()
            said = ", ".join(f"{port.name} {list(shape)}" for port, shape in zip(self.inputs, shapes, strict=True))
            raise RunError(
                f"DirectML cannot run the partition with {said}: {sentence(error)}",
                hint="allow another device to help: device=['directml', 'cpu']",
            ) from error
        made = _executable(session, self.inputs, self.outputs, self._model, self._lock if self._resident and empty is None else None)
        self._placement = made.placement()
        return made

    def placement(self) -> Mapping[str, int]:
        return self._placement

    def close(self) -> None:
        with self._lock:
            self._kept.clear()
            self._only = None
            self._model = dataclasses.replace(self._model, weights={})


def _with_shapes(model: Model, shapes: Shapes) -> Model:
    """The model with the shapes of its inputs fixed."""
    import onnx

    proto = onnx.ModelProto.FromString(model.proto)
    for info, shape in zip(proto.graph.input, shapes, strict=True):
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.shape.Clear()
            for size in shape:
                info.type.tensor_type.shape.dim.add(dim_value=size)
    return dataclasses.replace(model, proto=proto.SerializeToString())
