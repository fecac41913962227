"""Partition: what is known of a graph before any shape is: its kernels, who reads what, and what is computed on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from turnout.errors import CompileError
from turnout.graph import alias_of
from turnout_cuda import arithmetic
from turnout_cuda.kernel import Declaration, find

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Partition"]


class Partition:
    """A graph's nodes with their declarations, in order.

    on_host: position of a node of shape arithmetic to its function. host_values: names of values that are read on the host.
    aliases: outputs that may lie in the memory of an input, each with its name. readers: how many nodes and outputs read a value.
    dead_after: by position, the values that no later node reads.
    """

    def __init__(self, graph: ir.GraphView) -> None:
        self.inputs = [value.name or "" for value in graph.inputs]
        self.outputs = [value.name or "" for value in graph.outputs]
        self.aliases = {value.name or "": source for value in graph.outputs if (source := alias_of(value)) in self.inputs}
        self.nodes: list[tuple[ir.Node, Declaration]] = []
        for position, node in enumerate(graph):
            found = find(node)
            if isinstance(found, str):
                raise CompileError(found, nodes=[position])
            self.nodes.append((node, found))
        self.readers: dict[str, int] = {}
        for name in [value.name for node, _ in self.nodes for value in node.inputs if value is not None] + self.outputs:
            self.readers[name or ""] = self.readers.get(name or "", 0) + 1
        for name in self.outputs:
            self.readers[name] += 1  # an output is never computed into another value's kernel
        self.dead_after = self._deaths()
        constants = {value.name or "" for value in graph.initializers.values()}
        self.on_host, self.host_values = self._shape_arithmetic(graph, constants)

    def _deaths(self) -> list[list[str]]:
        last: dict[str, int] = {}
        for position, (node, _) in enumerate(self.nodes):
            for value in (*node.outputs, *(one for one in node.inputs if one is not None)):
                last[value.name or ""] = position
        found: list[list[str]] = [[] for _ in self.nodes]
        for name, position in last.items():
            if name not in self.outputs:
                found[position].append(name)
        return found

    def _shape_arithmetic(self, graph: ir.GraphView, constants: set[str]) -> tuple[dict[int, Any], set[str]]:
        """Nodes that the host computes: they follow from shapes, and shapes follow from them."""
        known = set(constants) | {value.name or "" for value in graph.inputs if _small(value)}
        able: dict[int, Any] = {}
        for position, (node, _) in enumerate(self.nodes):
            function = arithmetic.ON_HOST.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            named = [value.name for value in node.inputs if value is not None and value.name]
            if node.op_type in ("Shape", "Size"):
                able[position] = None
                known.add(node.outputs[0].name or "")
            elif function is not None and all(name in known for name in named) and len(node.outputs) == 1:
                able[position] = function
                known.add(node.outputs[0].name or "")
        wanted: set[str] = set()
        chosen: dict[int, Any] = {}
        for position in range(len(self.nodes) - 1, -1, -1):
            node, declaration = self.nodes[position]
            if node.op_type in ("Shape", "Size"):
                chosen[position] = None
            elif position in able and (node.outputs[0].name or "") in wanted:
                chosen[position] = able[position]
                wanted.update(value.name or "" for value in node.inputs if value is not None)
            else:
                wanted.update(
                    value.name or "" for place, value in enumerate(node.inputs) if value is not None and place in declaration.host
                )
        return chosen, wanted


def _small(value: ir.Value) -> bool:
    """Whether an input may hold a shape: of rank 0 or 1."""
    return value.shape is not None and len(value.shape) <= 1
