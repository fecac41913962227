"""Graphs as the loader makes them: types inferred, each node with the operator set version of its domain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx
import pytest

from turnout.graph import ir, partition, subgraphs
from turnout_cpu.provider import CpuProvider


def _set_versions(graph: ir.Graph, opsets: dict[str, int]) -> None:
    for node in graph:
        node.version = opsets[node.domain]
        for _, body in subgraphs(node):
            _set_versions(body, opsets)


def _nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        yield node
        for _, body in subgraphs(node):
            yield from _nodes(body)


@pytest.fixture(scope="session")
def provider() -> CpuProvider:
    return CpuProvider()


@pytest.fixture(scope="session")
def device(provider):
    return provider.probe()[0]


@pytest.fixture(scope="session")
def read() -> Callable[..., ir.Graph]:
    """ONNX text, or a model, as a graph."""

    def read(model: str | onnx.ModelProto, *, infer: bool = True, base_dir: Any = "") -> ir.Graph:
        proto = onnx.parser.parse_model(model) if isinstance(model, str) else model
        if infer:
            proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        graph = ir.serde.deserialize_model(proto).graph
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value.base_dir = base_dir
        _set_versions(graph, graph.opset_imports)
        return graph

    return read


@pytest.fixture(scope="session")
def view() -> Callable[..., ir.GraphView]:
    """A graph as one partition."""

    def view(graph: ir.Graph, **how: Any) -> ir.GraphView:
        inputs = [value for value in graph.inputs if value.const_value is None]
        return partition(list(graph), inputs, list(graph.outputs), graph.opset_imports, name="whole", **how)

    return view


@pytest.fixture(scope="session")
def build(provider, device, read, view) -> Callable[..., Any]:
    """A model, compiled whole for the CPU."""

    def build(model: str | onnx.ModelProto, options: Any = None, **how: Any) -> Any:
        return provider.compile(view(read(model, **how)), device, options)

    return build


@pytest.fixture(scope="session")
def refusal(provider, device) -> Callable[[ir.Graph], str]:
    """The first refusal among a graph's nodes, bodies included; "" where there is none."""

    def refusal(graph: ir.Graph) -> str:
        verdicts = [provider.supports(node, graph, device) for node in _nodes(graph)]
        return next((verdict.reason for verdict in verdicts if not verdict), "")

    return refusal
