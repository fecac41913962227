"""A provider that can pretend: to be picky, to be far away, to fuse, to rewrite, to be fast. It computes with ONNX's evaluator.

Planning is tested with these, and README's explanations are made with them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from turnout import plugins
from turnout.device import Device, Link
from turnout.errors import CompileError, RunError
from turnout.graph import ir
from turnout.hooks import hookimpl
from turnout.provider import Claim, Executable, No, Provider, Rewrite, Yes
from turnout.reference import ReferenceExecutable
from turnout.tensor import held

__all__ = ["FakeProvider", "FakeTensor", "installed"]

_EXTENSION = 12  # dlpack.h, kDLExtDev


@dataclass(frozen=True)
class FakeTensor:
    """A value in a fake device's memory: useless anywhere else, but for who asks its owner for it, or itself for a copy."""

    device: str
    value: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def dtype(self) -> Any:
        return self.value.dtype

    def get(self) -> Any:
        """A copy in host memory."""
        return self.value.copy()

    def __dlpack_device__(self) -> tuple[int, int]:
        return _EXTENSION, 0

    def __dlpack__(self, **asked: Any) -> Any:
        raise BufferError("a fake device's memory is no place for DLPack")


class FakeProvider(Provider):
    """Runs the operators it is told to, on a device that is as far away as it is told to.

    operators: what it takes; None for everything but control flow. link: given, its values live outside host memory.
    seconds: its estimate for any node, or by operator. takes: a further say about single nodes. fuses: claims, given the graph.
    rewrites: rewrites, given the graph. fails: operators that it claims and then cannot compile.
    """

    name = "fake"  # each has its own; see __init__

    def __init__(
        self,
        name: str,
        operators: Collection[str] | None = None,
        *,
        link: Link | None = None,
        seconds: float | Mapping[str, float] | None = None,
        rank: int = 50,
        takes: Callable[[ir.Node], bool] = lambda node: True,
        fuses: Callable[[ir.Graph], Sequence[Claim]] = lambda graph: (),
        rewrites: Callable[[ir.Graph], Sequence[Rewrite]] = lambda graph: (),
        fails: Collection[str] = (),
    ) -> None:
        self.name = name  # type: ignore[misc]
        self.rank = rank  # type: ignore[misc]
        self.operators = operators
        self.link = link
        self.seconds = seconds
        self.takes = takes
        self.fuses = fuses
        self.rewrites = rewrites
        self.fails = fails
        self.compiled: list[list[str]] = []
        """The operators of each partition that it compiled, in order."""

    def probe(self) -> Sequence[Device]:
        return [Device(self.name, description=f"a fake device named {self.name}", link=self.link)]

    def supports(self, node: ir.Node, graph: ir.Graph, device: Device) -> Yes | No:
        if node.op_type in ("If", "Loop", "Scan"):
            return No(f"{self.name} has no control flow")
        if self.operators is not None and node.op_type not in self.operators:
            return No(f"{self.name} has no {node.op_type}")
        if not self.takes(node):
            return No(f"{self.name} would rather not")
        return Yes(self.seconds.get(node.op_type) if isinstance(self.seconds, Mapping) else self.seconds)

    def claims(self, graph: ir.Graph, device: Device) -> Sequence[Claim]:
        return self.fuses(graph)

    def lower(self, graph: ir.Graph, device: Device) -> Sequence[Rewrite]:
        return self.rewrites(graph)

    def compile(self, graph: ir.GraphView, device: Device, options: Any) -> Executable:
        operators = [node.op_type for node in graph]
        failing = [position for position, operator in enumerate(operators) if operator in self.fails]
        if failing:
            raise CompileError(f"{self.name} cannot compile {operators[failing[0]]} after all", nodes=failing)
        self.compiled.append(operators)
        return _FakeExecutable(graph, device)

    def to_device(self, array: Any, device: Device) -> FakeTensor:
        return array if isinstance(array, FakeTensor) else FakeTensor(device.name, array)

    def from_dlpack(self, value: Any, device: Device) -> FakeTensor | None:
        own = held(value)
        return own if isinstance(own, FakeTensor) and own.device == device.name else None

    def to_host(self, value: Any, device: Device) -> Any:
        return _opened(value, device)


class _FakeExecutable(ReferenceExecutable):
    def __init__(self, graph: ir.GraphView, device: Device) -> None:
        super().__init__(graph)
        self._device = device

    def run(self, values: Sequence[Any], out: Sequence[Any] | None = None) -> Sequence[Any]:
        if self._device.on_host:
            if any(isinstance(value, FakeTensor) for value in values):
                raise RunError("a value of another device was handed over without a copy")
            return super().run(values)
        results = super().run([_opened(value, self._device) for value in values])
        return [FakeTensor(self._device.name, result) for result in results]


def _opened(value: Any, device: Device) -> Any:
    if not isinstance(value, FakeTensor) or value.device != device.name:
        raise RunError(f"{device.name} was handed {value!r}, which is not its own")
    return value.value


@contextmanager
def installed(*providers: Provider, name: str = "fakes") -> Iterator[None]:
    """The providers as an installed plugin, for the length of a `with` block."""

    class Hooks:
        @staticmethod
        @hookimpl
        def turnout_providers() -> Sequence[Provider]:
            return providers

    plugins.register(Hooks, name)
    try:
        yield
    finally:
        plugins.unregister(name)
