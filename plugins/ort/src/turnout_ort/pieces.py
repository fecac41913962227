"""Graphs cut into pieces whose sessions are made at once, each on a core of its own.

Most of the time that ONNX Runtime takes to make a session of a large model goes into repacking matrices for its kernels, on one core. The
sessions of some pieces, one after another, compute the very same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from turnout.graph import attribute, captures, ir, is_constant, partition, type_name
from turnout_ort.runtime import cpu_memory
from turnout_ort.values import NATIVE

__all__ = ["Chain", "cut"]

_LEAST = 32 << 20  # elements to repack that are worth a session of their own: about a twentieth of a second
_NODE = 20_000  # elements that are repacked in the time that a node takes whatever it is
_SLACK = 0.05  # of the whole, by which a piece may be off its share where fewer values cross then


def cut(graph: ir.GraphView, most: int) -> list[ir.GraphView]:
    """The graph in at most so many pieces, which take about as long to make sessions of; it alone where that is not worth it."""
    repacked = [_repacked(node) for node in graph]
    pieces = min(most, sum(repacked) // _LEAST)
    handed_through = {value.name for value in graph.outputs} - {value.name for node in graph for value in node.outputs}
    if pieces < 2 or handed_through or not all(map(_plain, (*graph.inputs, *graph.outputs))):
        return [graph]
    bounds = [0, *_bounds([_NODE + elements for elements in repacked], _crossing(graph), pieces), len(graph)]
    made = (_piece(graph, start, end) for start, end in pairwise(bounds))
    return [piece for piece in made if piece.outputs]  # of others nobody reads anything


def _repacked(node: ir.Node) -> int:
    """Elements of a node's matrix, where its kernel repacks it, as MatMul does one of two axes; one of 8 bits is 5/4 of one of 4."""
    if node.op_type == "MatMulNBits":
        return int(attribute(node, "K", 0)) * int(attribute(node, "N", 0)) * (12 + int(attribute(node, "bits", 4))) // 16
    if node.op_type not in ("MatMul", "Gemm") or node.inputs[1] is None or node.inputs[1].const_value is None:
        return 0
    matrix = node.inputs[1].const_value
    return int(matrix.size) if len(matrix.shape) == 2 else 0


def _plain(value: ir.Value) -> bool:
    return type_name(value) in NATIVE


def _read(node: ir.Node) -> Iterator[ir.Value]:
    return (value for value in (*node.inputs, *captures(node)) if value is not None)


def _crossing(graph: ir.GraphView) -> list[int]:
    """For each node, how many values that were made before are read by it or later; as many as there are nodes, where one of those cannot
    cross: it is no plain array, or may have another size each time that the graph runs over the same arrays."""
    known = {dim for value in graph.inputs for dim in value.shape or () if not isinstance(dim, int) and dim.value}
    made = {value.name: (at, value) for at, node in enumerate(graph) for value in node.outputs}
    last = {value.name: at for at, node in enumerate(graph) for value in _read(node) if value.name in made}
    steps = [0] * (len(graph) + 1)
    for name, end in last.items():
        start, value = made[name]
        can_cross = _plain(value) and value.shape is not None and all(isinstance(dim, int) or dim in known for dim in value.shape)
        steps[start + 1] += 1 if can_cross else len(graph)
        steps[end + 1] -= 1 if can_cross else len(graph)
    return list(accumulate(steps[:-1]))


def _bounds(costs: Sequence[int], crossing: Sequence[int], pieces: int) -> list[int]:
    """Where each piece but the first begins: near where its share does, and there where the fewest values cross."""
    shares = [before / sum(costs) for before in accumulate(costs, initial=0)]
    bounds = set()
    for number in range(1, pieces):
        off = [abs(share - number / pieces) for share in shares]
        near = [(count, off[at], at) for at, count in enumerate(crossing) if at and off[at] < _SLACK and count < len(crossing)]
        bounds |= {at for _, _, at in sorted(near)[:1]}
    return sorted(bounds)


def _piece(graph: ir.GraphView, start: int, end: int) -> ir.GraphView:
    """Values are told apart by their names: those of a rewrite are others than those that its readers know."""
    nodes, given = graph[start:end], {value.name for value in graph.inputs}
    made = {value.name: value for node in nodes for value in node.outputs if value.name}
    read = {value.name: value for node in nodes for value in _read(node) if value.name}
    inputs = [value for name, value in read.items() if name not in made and (name in given or not is_constant(value))]
    wanted = {value.name for value in graph.outputs} | {value.name for node in graph[end:] for value in _read(node)}
    outputs = [value for name, value in made.items() if name in wanted]
    return partition(nodes, inputs, outputs, graph.opset_imports, name=f"{graph.name or 'partition'}.{start}")


class Chain:
    """The sessions of some pieces as the one session that `session.PlainSession` takes.

    That goes past ONNX Runtime's Python wrappers, to the `_sess` of a session and the `_iobinding` of a binding: here they are the
    objects themselves.
    """

    def __init__(self, sessions: Sequence[Any]) -> None:
        self._sess = self
        self._links = links = [_Link(session) for session in sessions]
        for at, link in enumerate(links):
            for number, name in enumerate(link.outputs):
                readers = [later for later in range(at + 1, len(links)) if name in links[later].inputs]
                if readers:
                    link.hands_on.append((number, name, readers))

    def run(self, names: Sequence[str], feed: Mapping[str, Any], options: Any) -> list[Any]:
        known = dict(feed)
        for link in self._links:
            made = link.session._sess.run(link.outputs, {name: known[name] for name in link.inputs}, options)
            known.update(zip(link.outputs, made, strict=True))
        return [known[name] for name in names]

    def io_binding(self) -> _Binding:
        return _Binding(self._links)

    def run_with_iobinding(self, binding: _Binding, options: Any) -> None:
        binding.run(options)

    def get_inputs(self) -> list[Any]:
        return [meta for link in self._links for meta in link.session.get_inputs()]

    def get_overridable_initializers(self) -> list[Any]:
        return [meta for link in self._links for meta in link.session.get_overridable_initializers()]

    def get_outputs(self) -> list[Any]:
        return [meta for link in self._links for meta in link.session.get_outputs()]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [part for link in self._links for part in link.session.get_provider_graph_assignment_info()]


class _Link:
    """A session of a chain, with the names of what it reads and makes."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.inputs = [meta.name for meta in session.get_inputs()]
        self.outputs = [meta.name for meta in session.get_outputs()]
        self.hands_on: list[tuple[int, str, list[int]]] = []
        """Outputs that later sessions read: number, name, and the positions of those."""


class _Binding:
    """Bindings of a chain's sessions. What crosses from one to another stays with ONNX Runtime, in the same memory in each run."""

    def __init__(self, links: Sequence[_Link]) -> None:
        self._iobinding = self
        self._parts = [_Part(link) for link in links]
        self._bound: dict[str, tuple[_Part, int]] = {}
        """The outputs that were bound, in order: where each is made, and its number there."""

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        for part in self._parts:
            if name in part.link.inputs:
                part.binding.bind_ortvalue_input(name, value)

    def bind_output(self, name: str, memory: Any) -> None:
        self._maker(name).bind_output(name, memory)

    def bind_ortvalue_output(self, name: str, value: Any) -> None:
        self._maker(name).bind_ortvalue_output(name, value)

    def _maker(self, name: str) -> Any:
        part = next(part for part in self._parts if name in part.link.outputs)
        self._bound[name] = part, part.link.outputs.index(name)
        part.handed_on = False
        return part.binding

    def run(self, options: Any) -> None:
        for part in self._parts:
            part.link.session._sess.run_with_iobinding(part.binding, options)
            if not part.handed_on:
                self._hand_on(part)

    def _hand_on(self, part: _Part) -> None:
        """Binds what a first run made to whoever reads it; from then on it is written there."""
        part.handed_on, made = True, part.binding.get_outputs()
        for number, name, readers in part.link.hands_on:
            for reader in readers:
                self._parts[reader].binding.bind_ortvalue_input(name, made[number])

    def get_outputs(self) -> _Made:
        return _Made(list(self._bound.values()))


class _Part:
    """The binding of one session."""

    def __init__(self, link: _Link) -> None:
        self.link = link
        self.handed_on = False
        self.binding = link.session.io_binding()._iobinding
        for name in link.outputs:  # at once, so that their order is that of the names
            self.binding.bind_output(name, cpu_memory())


class _Made:
    """Outputs in the order in which they were bound; as with ONNX Runtime's own, each is an object only once it is asked for."""

    def __init__(self, places: Sequence[tuple[_Part, int]]) -> None:
        self._places = places

    def __getitem__(self, at: int) -> Any:
        part, number = self._places[at]
        return part.binding.get_outputs()[number]
