"""Building sessions: the whole file where it is one, else the graph; and which nodes are at fault where that fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from turnout.errors import CompileError
from turnout.graph import alias_of, captures, ir, label, partition, type_name, whole_file
from turnout_ort.failures import culprit, sentence
from turnout_ort.opening import Model, Options, open_model, open_models, session_of
from turnout_ort.pieces import cut
from turnout_ort.registry import schemas
from turnout_ort.serialize import to_model
from turnout_ort.session import PlainSession, make_executable
from turnout_ort.values import Port

__all__ = ["alone", "assigned", "blame", "build", "in_place", "ports", "signature", "trivial"]

_TRIALS = 64  # distinct nodes to try alone after a session failed; each takes about half a millisecond


def build(graph: ir.GraphView, options: Options, at_once: int = 1) -> PlainSession:
    """The graph as an executable.

    at_once: sessions that may be made at the same time, each of a piece of the graph. Raises CompileError with the positions of the nodes
    at fault.
    """
    session, keep = _whole(graph, options), None
    if session is None:
        models = [to_model(piece, schemas().newest) for piece in cut(graph, at_once)]
        try:
            session, keep = open_models([(model, options) for model in models]), [model.weights for model in models]
        except Exception as error:
            if len(models) > 1:
                return build(graph, options)  # whatever is at fault is found in the whole
            raise blame(error, graph, models[0], options, schemas().newest) from error
    return make_executable(session, *ports(session, graph), keep, in_place(graph))


# (domain, operator): output -> the input in whose memory its kernel can leave it
_UPDATES = {
    ("", "TensorScatter"): {0: 0},
    ("com.microsoft", "GroupQueryAttention"): {1: 3, 2: 4},
}


def in_place(graph: ir.GraphView) -> frozenset[int]:
    """Outputs that may be bound to the memory of the input that they alias: made of it by such a kernel, and read by nobody else."""
    readers = Counter(value.name for node in graph for value in (*node.inputs, *captures(node)) if value is not None)
    updates = set()
    for node in graph:
        for made, source in _UPDATES.get((node.domain, node.op_type), {}).items():
            past = node.inputs[source] if source < len(node.inputs) else None
            if past is not None and made < len(node.outputs) and readers[past.name] == 1:
                updates.add((past.name, node.outputs[made].name))
    return frozenset(i for i, value in enumerate(graph.outputs) if (alias_of(value), value.name) in updates)


def _whole(graph: ir.GraphView, options: Options) -> Any | None:
    """A session on the unchanged file; None where there is none, or where ONNX Runtime does not take it as it is.

    It may take the graph all the same: an operator set that is newer than it, without an operator that is, stops only
    the file.
    """
    file = whole_file(graph)
    if file is None:
        return None
    try:
        session = session_of(str(file) if isinstance(file, Path) else file, options())
    except Exception:
        return None  # the graph is tried next, and its error, which knows the nodes, is the one to report
    known = {meta.name for meta in (*session.get_inputs(), *session.get_overridable_initializers())}
    return session if all(value.name in known for value in graph.inputs) else None


def ports(session: Any, graph: ir.GraphView) -> tuple[list[Port], list[Port]]:
    """The inputs and the outputs of a session, in the graph's order."""
    known = (*session.get_inputs(), *session.get_overridable_initializers(), *session.get_outputs())
    types = {meta.name: meta.type for meta in known}
    return [_port(value, types) for value in graph.inputs], [_port(value, types) for value in graph.outputs]


def _port(value: ir.Value, types: dict[str, str]) -> Port:
    shape = None if value.shape is None else tuple(dim if isinstance(dim, int) else None for dim in value.shape)
    name = value.name or ""
    return Port(name, types.get(name) or type_name(value), shape)


def blame(error: Exception, graph: ir.GraphView, model: Model, options: Options, newest: Mapping[str, int]) -> CompileError:
    """The CompileError for a session that could not be made, with the positions of the nodes at fault: named, or failing alone too."""
    named = culprit(error, model.names)
    nodes = sorted({*([] if named is None else [named]), *_failing_alone(graph, options, newest)})
    where = f" (at {', '.join(label(graph[i], i) for i in nodes[:3])})" if nodes else ""
    return CompileError(f"ONNX Runtime did not take the partition: {sentence(error)}{where}", nodes=nodes)


def _failing_alone(graph: ir.GraphView, options: Options, newest: Mapping[str, int]) -> Iterator[int]:
    """Positions of the nodes that no session takes even alone; alike nodes are tried once."""
    verdicts: dict[str, bool] = {}
    for position, node in enumerate(graph):
        key = signature(node)
        if key not in verdicts and len(verdicts) < _TRIALS:
            verdicts[key] = _runs_alone(node, graph.opset_imports, options, newest)
        if not verdicts.get(key, True):
            yield position


def _runs_alone(node: ir.Node, opsets: Mapping[str, int], options: Options, newest: Mapping[str, int]) -> bool:
    graph = alone(node, opsets)
    if graph is None:
        return True
    try:
        open_model(to_model(graph, newest), lambda: _small(options))
    except Exception:
        return False
    return True


def alone(node: ir.Node, opsets: Mapping[str, int]) -> ir.GraphView | None:
    """The node as a graph of its own, or None where the type of an input is unknown."""
    read = dict.fromkeys(value for value in (*node.inputs, *captures(node)) if value is not None)
    inputs = [value for value in read if value.const_value is None or value.producer() is not None]
    outputs = [value for value in node.outputs if value.name]
    if not all(type_name(value) for value in inputs):
        return None
    return partition([node], inputs, outputs, opsets, name="alone")


def assigned(node: ir.Node, opsets: Mapping[str, int], options: Options) -> set[str]:
    """The execution providers that a session of this one node puts it on; raises what ONNX Runtime raises."""
    graph = alone(node, opsets)
    if graph is None:
        return set()
    session = open_model(to_model(graph, schemas().newest), lambda: _small(options))
    return {part.ep_name for part in session.get_provider_graph_assignment_info()}


def trivial(settings: Any) -> None:
    """Makes a session that only hands its input on, and lets go of it; raises what ONNX Runtime raises."""
    import onnx

    text = '<ir_version: 8, opset_import: ["": 13]> trivial (float[1] x) => (float[1] y) { y = Identity(x) }'
    session_of(onnx.parser.parse_model(text).SerializeToString(), settings)


def _small(options: Options) -> Any:
    """Settings for a session that is only tried: no thread pool."""
    settings = options()
    settings.intra_op_num_threads = 1
    return settings


def signature(node: ir.Node) -> str:
    """All that a provider can look at in a node, constants' values aside: equal for nodes taken or refused alike."""
    attributes = sorted((name, str(attribute)) for name, attribute in node.attributes.items())
    values = [_describe(value) for value in (*node.inputs, *node.outputs)]
    return repr((node.domain, node.op_type, node.version, values, attributes))


def _describe(value: ir.Value | None) -> str:
    return "" if value is None else f"{type_name(value)}{value.shape}{value.const_value is None}"
