"""Rules that rewrite a graph: each looks at a node and who reads what, and gives a Rewrite of that node and its neighbours, or None."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from turnout.graph import ir
from turnout.provider import Rewrite

__all__ = ["Readers", "Rule", "by_rules"]


class Readers:
    """Which nodes of a graph read a value."""

    def __init__(self, graph: ir.Graph) -> None:
        self.of: dict[ir.Value, list[ir.Node]] = {}
        for node in graph:
            for value in node.inputs:
                if value is not None:
                    self.of.setdefault(value, []).append(node)
        self.outputs = set(graph.outputs)

    def only(self, nodes: Iterable[ir.Node], made: Iterable[ir.Value]) -> bool:
        """Whether nobody but the nodes reads what they make, except for the values `made`."""
        inside, given = set(nodes), set(made)
        inner = (value for node in inside for value in node.outputs if value not in given)
        return all(value not in self.outputs and inside.issuperset(self.of.get(value, ())) for value in inner)


Rule: TypeAlias = Callable[["ir.Node", Readers], Rewrite | None]


def by_rules(graph: ir.Graph, rules: Iterable[Rule]) -> Iterator[Rewrite]:
    """What the rules find in a graph, those before first, none over another."""
    readers = Readers(graph)
    taken: set[ir.Node] = set()
    for rule in rules:
        for node in graph:
            found = None if node in taken else rule(node, readers)
            if found is not None and taken.isdisjoint(found.nodes):
                taken.update(found.nodes)
                yield found
