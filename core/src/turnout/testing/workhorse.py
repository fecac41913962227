"""One small model that the provider takes, for what does not depend on the operator: lifetimes, threads, faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from turnout.formats import open_source
from turnout.testing.subject import Subject

__all__ = ["NONE", "Workhorse", "workhorse"]

NONE = "it takes none of Add, Mul, Sub, MatMul, Relu, Neg and Identity in float32, which this check needs"

Array = np.ndarray[Any, Any]

_WITH_WEIGHT: Mapping[str, Callable[[Array, Array], Array]] = {
    "Add": lambda x, w: x + w,
    "Mul": lambda x, w: x * w,
    "Sub": lambda x, w: x - w,
    "MatMul": lambda x, w: x @ w,
}
_PLAIN: Mapping[str, Callable[[Array], Array]] = {
    "Relu": lambda x: np.maximum(x, 0),
    "Neg": lambda x: -x,
    "Identity": lambda x: x,
}


@dataclass(frozen=True)
class Workhorse:
    """A model of one operator, `y = op(x)` or `y = op(x, w)` with a weight of whole numbers, for square matrices of any size."""

    operator: str

    def model(self, size: int = 8, weight: float = 2.0, rows: int | str | None = None) -> onnx.ModelProto:
        """The model. rows: another number of rows, or a name for one that is left open."""
        inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [rows or size, size])]
        names, weights = ["x"], []
        if self.operator in _WITH_WEIGHT:
            names.append("w")
            weights.append(onnx.numpy_helper.from_array(self.weight(size, weight), "w"))
        node = helper.make_node(self.operator, names, ["y"])
        outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [rows or size, size])]
        graph = helper.make_graph([node], f"workhorse {self.operator}", inputs, outputs, weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)

    def weight(self, size: int = 8, weight: float = 2.0) -> Array:
        """The weight: the same number everywhere, but for MatMul in the diagonal only."""
        return (
            np.eye(size, dtype=np.float32) * np.float32(weight) if self.operator == "MatMul" else np.full((size, size), weight, np.float32)
        )

    def wanted(self, x: Array, weight: float = 2.0) -> Array:
        """The output that is due; exact, for small whole numbers."""
        if self.operator in _PLAIN:
            return _PLAIN[self.operator](x)
        return _WITH_WEIGHT[self.operator](x, self.weight(x.shape[-1], weight)[: x.shape[0] if self.operator != "MatMul" else None])


def workhorse(subject: Subject) -> Workhorse | None:
    """The first that the provider takes; None where it takes none of them."""
    for operator in (*_WITH_WEIGHT, *_PLAIN):
        one = Workhorse(operator)
        try:
            if subject.refusal(open_source(one.model()).model()) is None:
                return one
        except Exception:  # an answer that raises is a matter of honesty, and reported there
            continue
    return None
