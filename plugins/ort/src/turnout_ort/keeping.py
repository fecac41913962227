"""Graphs kept on disk, so that a later load needs no more than the session.

graph.json      in how many pieces it is, and what is known of inputs and outputs; then for each piece, in a folder by its number:
graph.onnx      the piece in the provider's dialect, without its larger weights
rewritten.onnx  that as ONNX Runtime rewrites it before it runs it, which takes a third of a load's time; only for its CPU provider
weights.json    where each of those lies that ONNX Runtime does not map by itself (file, offset, type, shape), the folder of the others, the
                state of all files
weights.bin     the weights that lie in no file as they are
"""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from turnout.graph import place_of, type_name
from turnout.provider import Executable
from turnout_ort.empty import behind_rail, needed
from turnout_ort.opening import Model, open_model, open_models
from turnout_ort.pieces import cut
from turnout_ort.runtime import onnxruntime
from turnout_ort.session import make_executable
from turnout_ort.values import FOREIGN, NATIVE, Port, from_array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["keep", "reopen"]

log = logging.getLogger("turnout")

_MOST = 64 << 20  # bytes of weights that are copied; a graph with more that lie nowhere is not kept
_ALIGNMENT = 64
_OWN, _GRAPH, _REWRITTEN = "weights.bin", "graph.onnx", "rewritten.onnx"


def keep(graph: ir.GraphView, folder: Path, *, guard: bool, rewrite: Callable[[], Any] | None = None, at_once: int = 1) -> bool:
    """Leaves a graph in the folder; False for one that cannot be kept.

    guard: empty tensors would end the process (empty.py). rewrite: settings under which ONNX Runtime may rewrite the graph,
    None where it may not. at_once: in how many pieces it may be, whose sessions are made at the same time.
    """
    from turnout_ort.build import in_place  # here as below, since whoever reopens a graph does not build one

    pieces = cut(graph, at_once)
    for number, piece in enumerate(pieces):
        (folder / str(number)).mkdir()
        if not _keep(piece, folder / str(number), rewrite):
            return False
    said = {
        "pieces": len(pieces),
        "inputs": [_described(value) for value in graph.inputs],
        "outputs": [_described(value) for value in graph.outputs],
        "in_place": sorted(in_place(graph)),
        "not_empty": needed(graph) if guard else [],
    }
    (folder / "graph.json").write_text(json.dumps(said), "utf-8")
    return True


def _keep(graph: ir.GraphView, folder: Path, rewrite: Callable[[], Any] | None) -> bool:
    """The same for a piece."""
    from turnout_ort.registry import schemas
    from turnout_ort.serialize import to_model

    model = to_model(graph, schemas().newest)
    if any(_is_packed(graph.initializers[name]) for name in model.weights):
        return False
    places: dict[str, Any] = {}
    files = {} if model.folder is None else {str(model.folder / name): _state(model.folder / name) for name in model.files}
    with (folder / _OWN).open("wb") as own:
        for name in model.weights:
            tensor = graph.initializers[name].const_value
            assert tensor is not None
            file, offset = place_of(tensor) or (None, -(-own.tell() // _ALIGNMENT) * _ALIGNMENT)
            if file is None:
                if offset + tensor.nbytes > _MOST:
                    return False
                own.seek(offset)
                np.ascontiguousarray(tensor.numpy()).tofile(own)
            else:
                files[str(file)] = _state(file)
            places[name] = [_OWN if file is None else str(file), offset, type_name(graph.initializers[name]), tensor.shape.numpy()]
    (folder / _GRAPH).write_bytes(model.proto)
    rewritten = None if rewrite is None else _rewritten(model, rewrite(), folder)
    if rewritten is not None:
        (folder / _REWRITTEN).write_bytes(rewritten)
    said = {"weights": places, "folder": None if model.folder is None else str(model.folder), "files": files}
    (folder / "weights.json").write_text(json.dumps(said), "utf-8")
    return True


def reopen(folder: Path, options: Callable[[], Any]) -> Executable:
    """The executable of a graph that was left in the folder. Raises ValueError where a file that it refers to is another by now."""
    said = json.loads((folder / "graph.json").read_text("utf-8"))
    pieces = [_kept(folder / str(number), options) for number in range(said["pieces"])]
    session = open_models(pieces)
    types = {meta.name: meta.type for meta in (*session.get_inputs(), *session.get_outputs())}
    inputs, outputs = (
        [Port(name, types[name], None if shape is None else tuple(shape)) for name, shape in said[which]] for which in ("inputs", "outputs")
    )
    executable = make_executable(session, inputs, outputs, [model.weights for model, _ in pieces], frozenset(said["in_place"]))
    return behind_rail(executable, [(position, node) for position, node in said["not_empty"]])


def _kept(folder: Path, options: Callable[[], Any]) -> tuple[Model, Callable[[], Any]]:
    """A piece, and the settings to open it with."""
    said = json.loads((folder / "weights.json").read_text("utf-8"))
    for file, state in said["files"].items():
        if _state(Path(file)) != state:
            raise ValueError(f"{file} was changed")
    maps = {name: _mapped(folder / name) for name in {place[0] for place in said["weights"].values()}}
    weights = {}
    for name, (file, offset, kind, shape) in said["weights"].items():
        foreign = FOREIGN.get(kind)
        dtype = NATIVE[kind] if foreign is None else foreign.dtype
        weights[name] = from_array(np.frombuffer(maps[file], dtype, math.prod(shape), offset).reshape(shape), foreign)
    settings, levels = options(), onnxruntime().GraphOptimizationLevel
    ready = settings.graph_optimization_level == levels.ORT_ENABLE_ALL and (folder / _REWRITTEN).exists()
    if ready:
        settings.graph_optimization_level = levels.ORT_DISABLE_ALL
    mapped = None if said["folder"] is None else Path(said["folder"])
    return Model((folder / (_REWRITTEN if ready else _GRAPH)).read_bytes(), {}, weights, mapped), lambda: settings


def _rewritten(model: Model, settings: Any, folder: Path) -> bytes | None:
    """The model as ONNX Runtime rewrites it, its weights where they were; None where it fails, or makes new weights of some size."""
    import onnx

    from turnout_ort.serialize import INLINE

    # what is beyond depends on the processor, and is for convolutions
    settings.graph_optimization_level = onnxruntime().GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    settings.add_session_config_entry("session.disable_prepacking", "1")
    settings.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", str(INLINE))
    # it writes the weights again, for a moment: they are referred to as before. It deletes that file first: never name a device here
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as away:
        settings.optimized_model_filepath = str(Path(away, _GRAPH))
        settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        try:
            open_model(model, lambda: settings)
            made = onnx.load(Path(away, _GRAPH), load_external_data=False)
        except Exception as error:  # it runs as it is
            log.info("ONNX Runtime's rewriting is not kept: %s", error)
            return None
    before = {entry.name: entry for entry in onnx.load_from_string(model.proto).graph.initializer}
    for entry in made.graph.initializer:
        if entry.data_location == onnx.TensorProto.EXTERNAL:
            old = before.get(entry.name)
            if old is None or (old.data_type, old.dims) != (entry.data_type, entry.dims):
                return None
            entry.CopyFrom(old)
    del made.graph.value_info[:]
    proto: bytes = made.SerializeToString()
    return proto


def _is_packed(value: ir.Value) -> bool:
    foreign = FOREIGN.get(type_name(value))
    return foreign is not None and foreign.packed


def _described(value: ir.Value) -> tuple[str | None, list[int | None] | None]:
    return value.name, None if value.shape is None else [dim if isinstance(dim, int) else None for dim in value.shape]


def _state(file: Path) -> list[int]:
    state = os.stat(file)
    return [state.st_size, state.st_mtime_ns, state.st_ino]


def _mapped(file: Path) -> mmap.mmap:
    with file.open("rb") as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
