"""A rail in front of sessions that hold a kernel which ends the process where it gets an empty tensor (ONNX Runtime 1.32)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from turnout.errors import RunError
from turnout.graph import ir, label
from turnout.provider import Executable

__all__ = ["behind_rail", "guarded", "needed"]


def guarded(executable: Executable, graph: ir.GraphView) -> Executable:
    """The executable, with a look at those of its inputs that must not be empty; as it is where there are none."""
    return behind_rail(executable, needed(graph))


def behind_rail(executable: Executable, places: Sequence[tuple[int, str]]) -> Executable:
    """The same for inputs that are known: those of `needed`."""
    return Guarded(executable, dict(places)) if places else executable


def needed(graph: ir.GraphView) -> list[tuple[int, str]]:
    """(position of an input, the node that must not get it empty).

    An empty value makes empty values of those computed from it; only first inputs are followed, which is where data goes.
    """
    from turnout_ort.quirks import fragile

    places = {value: position for position, value in enumerate(graph.inputs)}
    found = []
    for position, node in enumerate(graph):
        value = fragile(node)
        while value is not None and value not in places:
            producer = value.producer()
            value = producer.inputs[0] if producer is not None and producer.inputs else None
        if value is not None and not _is_fixed(value):
            found.append((places[value], label(node, position)))
    return found


def _is_fixed(value: ir.Value) -> bool:
    return value.shape is not None and all(isinstance(dim, int) for dim in value.shape)


class Guarded(Executable):
    """An executable that refuses to run on empty tensors where they would end the process."""

    def __init__(self, executable: Executable, places: Mapping[int, str]) -> None:
        self._inner = executable
        self._needed = list(places.items())
        self.checks_inputs = executable.checks_inputs  # type: ignore[misc]  # as the one inside does

    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
        self._check(values)
        return self._inner.run(values, out)

    def bind(self, values: Sequence[Any], out: Sequence[Any]) -> Callable[[], Sequence[Any]]:
        self._check(values)
        return self._inner.bind(values, out)

    def _check(self, values: Sequence[Any]) -> None:
        for position, node in self._needed:
            if getattr(values[position], "size", 1) == 0:
                raise RunError(
                    f"{node} got an empty tensor, and ONNX Runtime would end the process",
                    hint="leave the run out where there is nothing to compute, or load the model with device='reference'",
                )

    def placement(self) -> Mapping[str, int]:
        return self._inner.placement()

    def close(self) -> None:
        self._inner.close()
