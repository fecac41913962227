"""If, Loop and Scan, run by turnout: their bodies are programs, planned like any graph. Semantics: ONNX's operator specification."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from turnout.errors import OutOfMemory, RunError, TurnoutError
from turnout.graph import element_type, ir

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Body", "runner"]


class Body(Protocol):
    """A compiled body: one host value per input, then per captured value; one per output."""

    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> list[Any]: ...


Runner = Callable[[Sequence[Any], Sequence[Any]], list[Any]]
"""(the node's own inputs, captured values) to its outputs."""


def runner(node: ir.Node, bodies: Mapping[str, Body], title: str) -> Runner:
    """The function that runs this node. It raises RunError, whatever its bodies and values are like."""
    run = _runner(node, bodies, title)

    def guarded(own: Sequence[Any], captured: Sequence[Any]) -> list[Any]:
        try:
            return run(own, captured)
        except TurnoutError:
            raise
        except MemoryError as error:
            raise OutOfMemory(f"{title}: out of memory", hint="run with smaller inputs") from error
        except Exception as error:
            raise RunError(f"{title} failed: {type(error).__name__}: {error}") from error

    return guarded


def _runner(node: ir.Node, bodies: Mapping[str, Body], title: str) -> Runner:
    if node.op_type == "If":
        return _if(bodies["then_branch"], bodies["else_branch"], title)
    if node.op_type == "Loop":
        return _loop(node, bodies["body"], title)
    return _scan(node, bodies["body"], title)


def _if(then: Body, otherwise: Body, title: str) -> Runner:
    def run(own: Sequence[Any], captured: Sequence[Any]) -> list[Any]:
        return (then if _truth(own[0], title) else otherwise).run(captured)

    return run


def _truth(value: Any, title: str) -> bool:
    return bool(_single(value, f"{title}: the condition"))


def _single(value: Any, what: str) -> Any:
    array = np.asarray(value)
    if array.size != 1:
        raise RunError(f"{what} holds {array.size} values, not one")
    return array.reshape(-1)[0]


def _loop(node: ir.Node, body: Body, title: str) -> Runner:
    """Loop-1 and later: inputs M, cond, v_initial...; the body takes (iteration, cond, v...) and gives (cond, v..., scan outputs...)."""
    graph = node.attributes["body"].as_graph()
    carried = len(graph.inputs) - 2
    collected = graph.outputs[1 + carried :]

    def run(own: Sequence[Any], captured: Sequence[Any]) -> list[Any]:
        trips = None if own[0] is None else int(_single(own[0], f"{title}: the number of iterations"))
        going = len(own) < 2 or own[1] is None or _truth(own[1], title)
        state = list(own[2 : 2 + carried])
        gathered: list[list[Any]] = [[] for _ in collected]
        for trip in itertools.count() if trips is None else range(trips):
            if not going:
                break
            results = body.run([np.array(trip, np.int64), np.array(going), *state, *captured])
            going = _truth(results[0], title)
            state = results[1 : 1 + carried]
            for column, value in zip(gathered, results[1 + carried :], strict=True):
                column.append(value)
        return state + [_stack(column, value, 0, title) for column, value in zip(gathered, collected, strict=True)]

    return run


def _scan(node: ir.Node, body: Body, title: str) -> Runner:
    """Scan-9 and later: inputs are state variables, then scan inputs; the body gives state variables, then elements of scan outputs."""
    count = node.attributes["num_scan_inputs"].as_int()
    graph = node.attributes["body"].as_graph()
    states = len(node.inputs) - count
    collected = graph.outputs[states:]
    in_axes, in_backward = _list(node, "scan_input_axes", count), _list(node, "scan_input_directions", count)
    out_axes, out_backward = (
        _list(node, "scan_output_axes", len(collected)),
        _list(node, "scan_output_directions", len(collected)),
    )

    def run(own: Sequence[Any], captured: Sequence[Any]) -> list[Any]:
        state = list(own[:states])
        for value, axis in zip(own[states:], in_axes, strict=True):
            if not -np.ndim(value) <= axis < np.ndim(value):
                raise RunError(f"{title}: a scan input of shape {np.shape(value)} has no axis {axis}")
        columns = [
            np.moveaxis(np.asarray(value), axis, 0)[:: -1 if backward else 1]
            for value, axis, backward in zip(own[states:], in_axes, in_backward, strict=True)
        ]
        if len({len(column) for column in columns}) > 1:
            raise RunError(f"{title}: its scan inputs have different lengths: {[len(column) for column in columns]}")
        gathered: list[list[Any]] = [[] for _ in collected]
        for elements in zip(*columns, strict=True):
            results = body.run([*state, *(np.asarray(element, order="C") for element in elements), *captured])
            state = results[:states]
            for column, value in zip(gathered, results[states:], strict=True):
                column.append(value)
        outputs = zip(gathered, collected, out_axes, out_backward, strict=True)
        return state + [_stack(values[:: -1 if back else 1], value, axis, title) for values, value, axis, back in outputs]

    return run


def _list(node: ir.Node, name: str, count: int) -> Sequence[int]:
    """An attribute of one integer per value, zeros where it is not given."""
    return node.attributes[name].as_ints() if name in node.attributes else [0] * count


def _stack(values: Sequence[Any], value: ir.Value, axis: int, title: str) -> NDArray[Any]:
    """Per-iteration values along a new axis; with no iteration, an empty tensor of the type that the body declares."""
    if values:
        try:
            return np.stack(values, axis)
        except ValueError:
            shapes = sorted({np.shape(one) for one in values})
            raise RunError(f"{title}: the scan output {value.name} changes its shape between iterations: {shapes}") from None
    inner = [] if value.shape is None else [dim if isinstance(dim, int) else 0 for dim in value.shape]
    dtype = element_type(value)
    inner.insert(axis if axis >= 0 else len(inner) + 1 + axis, 0)
    return np.empty(inner, np.float32 if dtype is None else dtype.numpy())
