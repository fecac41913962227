"""Draft: the nodes that a rule writes in place of one."""

from __future__ import annotations

from typing import Any

import numpy as np

from turnout.graph import ir

__all__ = ["Draft", "twin"]


class Draft:
    """The nodes that stand for one node, in order. `add` gives the first output of the node that it adds."""

    def __init__(self, node: ir.Node, opset: int) -> None:
        self.node = node
        self.nodes: list[ir.Node] = []
        self._opset = opset
        self._prefix = f"{next(value.name for value in node.outputs if value.name)}/directml"

    def add(
        self, op_type: str, *inputs: ir.Value | None, out: ir.Value | None = None, domain: str = "", version: int = 0, **attributes: Any
    ) -> ir.Value:
        """A node; `out` is the value of the old node whose place its output takes. version: of the operator, where not the draft's."""
        made = ir.Value(name=f"{self._prefix}.{len(self.nodes)}") if out is None else twin(out)
        version = version or (1 if domain else self._opset)
        given = [ir.convenience.convert_attribute(name, value) for name, value in attributes.items() if value is not None]
        self.nodes.append(ir.Node(domain, op_type, inputs, given, outputs=[made], version=version))
        return made

    def constant(self, array: Any) -> ir.Value:
        """A new constant."""
        array = np.asarray(array)
        name = f"{self._prefix}.constant.{len(self.nodes)}.{array.dtype}{list(array.shape)}.{'_'.join(map(str, array.ravel().tolist()))}"
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(array.shape)  # type: ignore[union-attr]
        return value

    def ints(self, *numbers: int) -> ir.Value:
        return self.constant(np.array(numbers, np.int64))


def twin(value: ir.Value) -> ir.Value:
    """A value of the same name, type and shape, for a node that stands in another's place."""
    return ir.Value(name=value.name, type=value.type, shape=value.shape)
