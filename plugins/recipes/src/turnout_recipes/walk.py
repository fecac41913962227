"""Running a graph piece by piece, so that memory holds the weights of one piece, and every value at a cut can be looked at.

A piece is a graph of its own, planned and run by turnout like any other; what later pieces read is kept for each of the inputs that are run
side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import turnout
from turnout.graph import captures, ir, is_constant, partition

__all__ = ["Frontier", "Walk"]

Frontier = dict[str, Any]
"""Values by name, as far as one input has come."""


class Walk:
    """A graph cut before some of its nodes.

    device: as `turnout.load` takes it. outputs: the names of those that are wanted; nodes for others are not run.
    """

    def __init__(self, model: ir.Model, cuts: Sequence[ir.Node], outputs: Sequence[str], device: Any = None) -> None:
        self._model = model
        self._device = device
        wanted = [value for value in model.graph.outputs if value.name in outputs]
        self._pieces = _pieces(_needed(model.graph, wanted), cuts)
        self.cuts: list[ir.Node | None] = [None, *(piece[0] for piece in self._pieces[1:])]
        self._reads = [_read(piece) for piece in self._pieces]
        self._live: list[dict[str, ir.Value]] = []  # after each piece
        live: dict[str, ir.Value] = {value.name or "": value for value in wanted}
        for piece, reads in zip(reversed(self._pieces), reversed(self._reads), strict=True):
            self._live.insert(0, live)
            made = {value.name for node in piece for value in node.outputs}
            live = {name: value for name, value in live.items() if name not in made} | dict(reads)

    def __len__(self) -> int:
        return len(self._pieces)

    def run(self, frontiers: list[Frontier], start: int = 0) -> Iterator[tuple[int, ir.Node | None]]:
        """Moves all inputs from piece to piece; gives each piece's number and the node it begins with, before it is run.

        frontiers: changed in place; at the end they hold the wanted outputs.
        """
        for number in range(start, len(self._pieces)):
            yield number, self.cuts[number]
            self._run(number, frontiers)

    def _run(self, number: int, frontiers: list[Frontier]) -> None:
        piece, live = self._pieces[number], self._live[number]
        made = {value.name: value for node in piece for value in node.outputs if value.name}
        outputs = [value for name, value in made.items() if name in live]
        if outputs:
            inputs = list(self._reads[number].values())
            view = partition(piece, inputs, outputs, self._model.graph.opset_imports, name=f"piece {number}")
            shell = ir.Model(view, ir_version=self._model.ir_version, functions=tuple(self._model.functions.values()))  # type: ignore[arg-type]
            with turnout.load(shell, device=self._device) as part:
                for frontier in frontiers:
                    frontier.update(part.run({value.name: frontier[value.name] for value in inputs if value.name}))
        for frontier in frontiers:
            for name in frontier.keys() - live.keys():
                del frontier[name]


def _needed(graph: ir.Graph, wanted: Sequence[ir.Value]) -> list[ir.Node]:
    """The nodes on which these values depend, in the graph's order."""
    open_values, found = list(wanted), set()
    while open_values:
        node = open_values.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            open_values += [value for value in (*node.inputs, *captures(node)) if value is not None]
    return [node for node in graph if node in found]


def _pieces(nodes: Sequence[ir.Node], cuts: Sequence[ir.Node]) -> list[list[ir.Node]]:
    pieces: list[list[ir.Node]] = [[]]
    marks = set(cuts)
    for node in nodes:
        if node in marks and pieces[-1]:
            pieces.append([])
        pieces[-1].append(node)
    return pieces


def _read(piece: Sequence[ir.Node]) -> Mapping[str, ir.Value]:
    """What a piece reads that it does not make, by name."""
    made = {value for node in piece for value in node.outputs}
    read = (value for node in piece for value in (*node.inputs, *captures(node)))
    return {value.name or "": value for value in read if value is not None and value not in made and not is_constant(value)}
