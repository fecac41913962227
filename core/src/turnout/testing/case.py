"""One case of the operator level: a model, what goes in, and what must come out."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from turnout.formats import open_source
from turnout.graph import subgraphs, type_name
from turnout.operator import operator_of
from turnout.testing.bounds import class_of, difference
from turnout.testing.result import Signature

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["Case", "host_array"]


class Case:
    """A model with one or more sets of inputs, and the outputs due for each.

    name: `kind/what`. proto: the model. runs: per run, the inputs in the model's order. wanted: per run, the outputs; None asks ONNX's
    evaluator for them, once. rtol, atol: bounds of its own, which hold where they are wider than the operators'. type_only: why its
    values cannot be compared, only types and shapes; "" where they can.
    """

    def __init__(
        self,
        name: str,
        proto: onnx.ModelProto,
        runs: Sequence[Sequence[Any]],
        wanted: Sequence[Sequence[Any]] | None = None,
        *,
        rtol: float = 0.0,
        atol: float = 0.0,
        type_only: str = "",
    ) -> None:
        self.name = name
        self.proto = proto
        self.runs = runs
        self.rtol = rtol
        self.atol = atol
        self.type_only = type_only
        self._given = wanted

    @functools.cached_property
    def model(self) -> ir.Model:
        """The graph as `turnout.load` makes it."""
        return open_source(self.proto).model()

    @functools.cached_property
    def wanted(self) -> Sequence[Sequence[Any]]:
        """Per run, the outputs that are due. Raises NotImplementedError where ONNX's evaluator fails."""
        return self._given if self._given is not None else _evaluated(self.proto, self.runs)

    @functools.cached_property
    def operators(self) -> tuple[Signature, ...]:
        """The operators in it, bodies included, each once."""
        found: dict[Signature, None] = {}
        for node in _nodes(self.model.graph):
            known = operator_of(node)
            found[node.domain, node.op_type, known.since_version if known is not None else node.version or 1] = None
        return tuple(found)

    @functools.cached_property
    def type(self) -> str:
        """The type of the first input of its node, as ONNX writes it; "" where it has several nodes."""
        nodes = list(self.model.graph)
        inputs = [value for value in nodes[0].inputs if value is not None] if len(nodes) == 1 else []
        return type_name(inputs[0]) if inputs else ""

    @functools.cached_property
    def bound(self) -> str:
        """The class of its operators; see `bounds`."""
        return class_of({name for _, name, _ in self.operators})

    def problem(self, number: int, got: Sequence[Any]) -> str:
        """What is wrong with the outputs of a run, as a sentence; "" where nothing is."""
        names = [value.name for value in self.model.graph.outputs]
        for name, value, wanted in zip(names, got, self.wanted[number], strict=True):
            found = difference(value, wanted, self.bound, rtol=self.rtol, atol=self.atol, values=not self.type_only)
            if found:
                return f"output {name!r} {found}"
        return ""

    def __repr__(self) -> str:
        return f"Case({self.name})"


def _nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        yield node
        for _, body in subgraphs(node):
            yield from _nodes(body)


def _evaluated(proto: onnx.ModelProto, runs: Sequence[Sequence[Any]]) -> list[list[Any]]:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(proto)
    names = [info.name for info in proto.graph.input]
    try:
        with np.errstate(all="ignore"):
            return [[host_array(value) for value in evaluator.run(None, dict(zip(names, run, strict=True)))] for run in runs]
    except Exception as error:
        raise NotImplementedError(f"ONNX's evaluator fails on this case itself: {type(error).__name__}: {error}") from error


def host_array(value: Any) -> Any:
    """A value of ONNX's as one of turnout's: an array (strings as objects of `str`), a list of them, or None."""
    if value is None or isinstance(value, dict):
        return value
    if isinstance(value, (list, tuple)):
        return [host_array(item) for item in value]
    if hasattr(value, "SerializeToString"):
        from onnx import numpy_helper

        value = numpy_helper.to_array(value)
    array = np.asarray(value)
    if array.dtype.kind in "OSUT":
        plain = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
        return np.array(plain, object).reshape(array.shape)
    return array
