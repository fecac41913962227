"""A partition on DirectML: one session for each shape of its inputs, under the adapter's lock."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from turnout.errors import CompileError, RunError
from turnout.graph import captures, ir
from turnout.provider import Executable
from turnout_directml.adapters import EP
from turnout_directml.dialect import OPSET
from turnout_ort.build import blame, open_model, ports
from turnout_ort.failures import input_error, sentence
from turnout_ort.registry import schemas
from turnout_ort.serialize import Model, to_model
from turnout_ort.session import PlainSession, make_executable

__all__ = ["open_graph"]

Settings = Callable[[bool], Any]
"""New SessionOptions; True forbids ONNX Runtime's CPU provider."""

_NO_FUSION = "ep.dml.disable_graph_fusion"

Shapes = tuple[tuple[int, ...], ...]


def open_graph(graph: ir.GraphView, settings: Settings, lock: threading.RLock, *, shapes: int) -> Executable:
    """The partition, compiled. Where its inputs' shapes are known it is one session; else one for each of `shapes` shapes.

    Raises CompileError with the positions of the nodes at fault.
    """
    newest = _newest()
    model = to_model(graph, newest)
    fixed = all(_is_fixed(value) for value in graph.inputs)
    with lock:
        try:
            # With free shapes this session only shows that the nodes are taken, and is dropped: what computes shapes is on the CPU
            # in it, and is gone once the shapes are fixed.
            session = _open(model, lambda: settings(fixed))
        except Exception as error:
            raise blame(error, graph, model, lambda: settings(False), newest) from error
        first = make_executable(session, *ports(session, graph), model.weights)
    return Sessions(model, settings, lock, first, shapes if not fixed else None, _read(graph))


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
        session = open_model(model, lambda: _apart(options()))
    first = session.get_providers()[0]
    if first != EP:
        raise CompileError(f"ONNX Runtime gave the session to {first}", hint="`turnout doctor` tells whether the adapter is well")
    return session


def _apart(settings: Any) -> Any:
    """Settings under which DirectML runs node by node: it compiles parts of the graph into one, and some drivers refuse that."""
    settings.add_session_config_entry(_NO_FUSION, "1")
    return settings


class Sessions(Executable):
    """A model on one adapter.

    limit: how many shapes keep a session; the one that was not used for longest goes first. None where all shapes are known, and
    `first` is the one session; else `first` only knows the inputs and outputs. read: of each input, whether a node reads it.
    """

    checks_inputs = True

    def __init__(
        self, model: Model, settings: Settings, lock: threading.RLock, first: PlainSession, limit: int | None, read: Sequence[bool]
    ) -> None:
        self.inputs, self.outputs = first.inputs, first.outputs
        self._model = model
        self._settings = settings
        self._read = read
        self._lock = lock
        self._only = first if limit is None else None
        self._limit = limit or 1
        self._kept: OrderedDict[Shapes, PlainSession] = OrderedDict()
        self._placement = first.placement()

    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
        with self._lock:
            return self._session(values).run(values, out)

    def bind(self, values: Sequence[Any], out: Sequence[Any]) -> Callable[[], Sequence[Any]]:
        """Binds anew for each run: what is bound is copied to the adapter when it is bound, and the buffers may change in between."""
        with self._lock:
            self._session(values).bind(values, out)  # refuses now what does not fit
        return lambda: self.run(values, out)

    def _session(self, values: Sequence[Any]) -> PlainSession:
        wrong = input_error(self.inputs, values)
        if wrong is not None:
            raise wrong
        given = zip(self.inputs, values, self._read, strict=True)
        empty = next((port.name for port, value, read in given if read and getattr(value, "size", 1) == 0), None)
        if empty is not None:
            raise RunError(f"input {empty!r} is an empty tensor, which DirectML does not have", hint="device=['cpu'] runs it")
        if self._only is not None:
            return self._only
        shapes = tuple(tuple(value.shape) if hasattr(value, "shape") else () for value in values)
        found = self._kept.pop(shapes, None) or self._make(shapes)
        self._kept[shapes] = found
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return found

    def _make(self, shapes: Shapes) -> PlainSession:
        try:
            session = _open(_with_shapes(self._model, shapes), lambda: self._settings(True))
        except Exception as error:
            said = ", ".join(f"{port.name} {list(shape)}" for port, shape in zip(self.inputs, shapes, strict=True))
            raise RunError(
                f"DirectML cannot run the partition with {said}: {sentence(error)}",
                hint="allow another device to help: device=['directml', 'cpu']",
            ) from error
        self._placement = (made := make_executable(session, self.inputs, self.outputs, self._model.weights)).placement()
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
