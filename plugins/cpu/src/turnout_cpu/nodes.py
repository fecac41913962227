"""Nodes and constants for what the rules put in a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout.graph import ir

__all__ = ["MICROSOFT", "constant", "made", "numbers", "unshaped"]

MICROSOFT = "com.microsoft"


def made(domain: str, operator: str, inputs: Sequence[Any], outputs: Sequence[ir.Value], version: int | None = None, **how: Any) -> ir.Node:
    known = version or (1 if domain == MICROSOFT else 21)
    name = next(value.name for value in outputs if value.name)
    return ir.node(operator, list(inputs), how, domain=domain, outputs=list(outputs), version=known, name=f"{name}.{operator}")


def numbers(*of: int) -> ir.Value:
    return constant(f"numbers.{'.'.join(map(str, of))}", np.array(of, np.int64))


def constant(name: str, array: NDArray[Any]) -> ir.Value:
    tensor = ir.Tensor(array)
    return ir.Value(name=f"turnout.cpu.{name}", type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)


def unshaped(name: str, like: ir.Value) -> ir.Value:
    return ir.Value(name=name, type=like.type)
