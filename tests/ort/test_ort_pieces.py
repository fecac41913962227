"""Graphs in pieces compute what they compute as a whole, however they are run."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from turnout.errors import CompileError, InvalidInput, RunError
from turnout_ort import pieces
from turnout_ort.build import build as built
from turnout_ort.pieces import Chain, cut

_WIDTH = 8


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every graph is worth cutting, wherever it can be."""
    monkeypatch.setattr(pieces, "_LEAST", 1)
    monkeypatch.setattr(pieces, "_NODE", 1)
    monkeypatch.setattr(pieces, "_SLACK", 0.5)


def _model(readers: list[tuple[int, int]], outputs: set[int], seed: int = 0) -> onnx.ModelProto:
    """Products with a weight each, of the sum of two earlier values: value 0 is the input x, value i + 1 made by readers[i]."""
    random = np.random.default_rng(seed)
    nodes, weights = [], []
    for number, (one, other) in enumerate(readers, 1):
        weights.append(onnx.numpy_helper.from_array(random.integers(-1, 2, (_WIDTH, _WIDTH)).astype(np.float32), f"w{number}"))
        nodes.append(helper.make_node("Add", [f"v{one}", f"v{other}"], [f"s{number}"]))
        nodes.append(helper.make_node("MatMul", [f"s{number}", f"w{number}"], [f"v{number}"]))
    ports = [helper.make_tensor_value_info(f"v{at}", onnx.TensorProto.FLOAT, ["N", _WIDTH]) for at in range(len(readers) + 1)]
    graph = helper.make_graph(nodes, "g", ports[:1], [ports[at] for at in sorted(outputs)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


_LINE = [(at, at) for at in range(6)]  # each value is made of the last


@st.composite
def _models(draw: st.DrawFn) -> onnx.ModelProto:
    count = draw(st.integers(2, 7))
    readers = [draw(st.tuples(st.integers(0, at), st.integers(0, at))) for at in range(count)]
    return _model(readers, draw(st.sets(st.integers(1, count), min_size=1)), draw(st.integers(0, 9)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_models(), st.integers(2, 5), st.data())
def test_pieces_compute_what_the_whole_does(provider: Any, device: Any, read: Any, view: Any, model: Any, most: int, data: Any) -> None:
    def options() -> Any:
        return provider.session_options(device, None)

    graph = view(read(model))
    whole, cut_up = built(graph, options), built(graph, options, most)
    xs = [np.random.default_rng(rows).integers(-2, 3, (rows, _WIDTH)).astype(np.float32) for rows in (3, 1, 4)]
    for x in xs:
        wanted = whole.run([x])
        for found in (cut_up.run([x]), cut_up.run_by_name({"v0": x})):
            assert all((one == other).all() for one, other in zip(found, wanted, strict=True))
    x = xs[0].copy()
    buffers = [data.draw(st.sampled_from([None, np.zeros((3, _WIDTH), np.float32)])) for _ in graph.outputs]
    buffers = [None if buffer is None else buffer.copy() for buffer in buffers]
    bound = cut_up.bind([x], buffers)
    before = None
    for values in (xs[0], -xs[0], xs[0] * 2):
        x[...] = values
        found, wanted = bound(), whole.run([values])
        assert all((one == other).all() for one, other in zip(found, wanted, strict=True))
        assert all(buffer is None or buffer is one for buffer, one in zip(buffers, found, strict=True))
        if before is not None:  # what an earlier run made is its caller's
            kept, expected = before
            assert all(buffer is not None or (a == b).all() for buffer, a, b in zip(buffers, kept, expected, strict=True))
        before = found, [one.copy() for one in found]
    assert set(cut_up.placement()) == {"CPUExecutionProvider"}


def test_a_line_is_cut_where_one_value_crosses_and_into_like_parts(read: Any, view: Any) -> None:
    parts = cut(view(read(_model(_LINE, {6}))), 3)
    assert [[node.op_type for node in part].count("MatMul") for part in parts] == [2, 2, 2]
    assert [[value.name for value in part.inputs] for part in parts] == [["v0"], ["v2"], ["v4"]]
    assert [len(part.initializers) for part in parts] == [2, 2, 2]


def test_sessions_of_pieces_are_a_chain(provider: Any, device: Any, read: Any, view: Any) -> None:
    made = built(view(read(_model(_LINE, {6}))), lambda: provider.session_options(device, None), 3)
    assert isinstance(made._session, Chain)


_NONZERO = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[N,2] x) => (float[M,2] z)
    <float[2,2] w = {1, 2, 3, 4}, float[2,2] u = {1, 2, 3, 4}, int64[2] shape = {-1, 2}> {
        a = MatMul(x, w)  n = NonZero(a)  f = Cast<to = 1>(n)  t = Reshape(f, shape)  z = MatMul(t, u)
    }"""


def test_nothing_is_cut_where_sizes_differ_from_run_to_run(provider: Any, device: Any, read: Any, view: Any) -> None:
    """A value that crosses has one place in memory for all runs over the same arrays."""
    graph = view(read(_NONZERO))
    for part in cut(graph, 2)[1:]:
        assert all(value.name == "a" for value in part.inputs)
    made = built(graph, lambda: provider.session_options(device, None), 2)
    x = np.array([[0, 0], [1, 1]], np.float32)
    bound = made.bind([x], [None])
    assert bound()[0].shape == (2, 2)
    x[...] = 1
    assert bound()[0].shape == (4, 2)


@pytest.mark.parametrize(
    "text",
    [
        """g (bfloat16[N,2] x) => (float[N,2] z) <float[2,2] w = {1, 2, 3, 4}, float[2,2] u = {1, 2, 3, 4}> {
            c = Cast<to = 1>(x)  a = MatMul(c, w)  z = MatMul(a, u) }""",
        """g (float[N,2] x) => (seq(float[N,2]) z) <float[2,2] w = {1, 2, 3, 4}, float[2,2] u = {1, 2, 3, 4}> {
            a = MatMul(x, w)  b = MatMul(a, u)  z = SequenceConstruct(b) }""",
    ],
    ids=["bfloat16", "a sequence"],
)
def test_only_graphs_between_plain_arrays_are_cut(read: Any, view: Any, text: str) -> None:
    assert len(cut(view(read(f'<ir_version: 10, opset_import: ["" : 21]> {text}')), 2)) == 1


def test_small_graphs_stay_whole(monkeypatch: pytest.MonkeyPatch, read: Any, view: Any) -> None:
    monkeypatch.setattr(pieces, "_LEAST", 4 * _WIDTH**2)
    assert len(cut(view(read(_model(_LINE, {6}))), 2)) == 1  # 6 matrices


def test_what_is_repacked_counts_for_the_time_that_it_takes(read: Any) -> None:
    """Matrices of 8 bits for more than those of 4; none that has three axes, which MatMul reads as it lies."""
    text = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        g (float[N,32] x, uint8[16,1,16] a, uint8[16,1,32] b, float[16] s)
        => (float[N,16] w, float[N,16] v, float[N,16] y, float[1,N,16] z) {
        w = com.microsoft.MatMulNBits <K = 32, N = 16, bits = 4, block_size = 32> (x, a, s)
        v = com.microsoft.MatMulNBits <K = 32, N = 16, bits = 8, block_size = 32> (x, b, s)
        y = MatMul(x, m)  z = MatMul(x, n) }"""
    model = onnx.parser.parse_model(text)
    for name, shape in (("m", (32, 16)), ("n", (1, 32, 16))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name))
    assert [pieces._repacked(node) for node in read(model)] == [512, 640, 512, 0]


def test_wrong_inputs_are_told_as_ever(provider: Any, device: Any, read: Any, view: Any) -> None:
    made = built(view(read(_model(_LINE, {6}))), lambda: provider.session_options(device, None), 3)
    with pytest.raises(InvalidInput, match="v0"):
        made.run([np.zeros((2, _WIDTH + 1), np.float32)])
    with pytest.raises(InvalidInput, match="v0"):
        made.bind([np.zeros((2, _WIDTH), np.float64)], [None])
    with pytest.raises((InvalidInput, RunError)):
        made.run([])


def test_the_node_at_fault_is_found_in_the_whole(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece counts its nodes anew."""
    monkeypatch.setattr("turnout_cpu.provider.CpuProvider.at_once", lambda self: 2)
    text = """<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,2] x) => (float[N,2] z) <float[2,2] w = {1, 2, 3, 4}, float[2,2] u = {1, 2, 3, 4}>
        { a = MatMul(x, w)  b = Cast<to = 16>(a)  c = Relu(b)  d = Cast<to = 1>(c)  z = MatMul(d, u) }"""
    with pytest.raises(CompileError, match="Could not find an implementation for Relu") as caught:
        build(text)
    assert caught.value.nodes == (2,)
