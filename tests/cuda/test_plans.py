"""What plans are made of: memory that does not overlap, axes that are as few as can be, formulas that become one kernel."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from turnout.errors import RunError
from turnout.formats import open_source
from turnout_cuda.array import Buffer, Launch, Move
from turnout_cuda.dry import launches, steps
from turnout_cuda.fuse import broadcast_strides, collapse
from turnout_cuda.graph import dependencies
from turnout_cuda.memory import ALIGNMENT, place


@st.composite
def plans(draw: st.DrawFn) -> list[Launch]:
    """Launches in order: each writes a new buffer and reads some of those before it, perhaps one of them in place."""
    buffers: list[Buffer] = []
    made = []
    for _ in range(draw(st.integers(1, 12))):
        reads = draw(st.lists(st.sampled_from(buffers), max_size=3, unique=True)) if buffers else []
        own = Buffer(draw(st.integers(0, 3000)))
        in_place = [(own, one) for one in reads if draw(st.booleans())]
        made.append(Launch("", "k", (1, 1, 1), 1, [], reads, [own], in_place))
        buffers.append(own)
    return made


@given(plans(), st.booleans())
def test_buffers_that_live_at_once_never_overlap(launched: list[Launch], at_once: bool) -> None:
    offsets, top = place(launched, at_once=at_once)
    lives: dict[Buffer, list[int]] = {}
    for number, step in enumerate(launched):
        for buffer in (*step.reads, *step.writes):
            lives.setdefault(buffer, []).append(number)
    allowed = {pair for step in launched for pair in step.in_place}
    for a, first in lives.items():
        assert offsets[a] % ALIGNMENT == 0
        assert offsets[a] + a.nbytes <= top
        for b, second in lives.items():
            if a is b or not (min(first) <= max(second) and min(second) <= max(first)):
                continue
            apart = offsets[a] + a.nbytes <= offsets[b] or offsets[b] + b.nbytes <= offsets[a]
            # in one place only where a kernel writes over what it reads for the last time
            assert apart or (a, b) in allowed or (b, a) in allowed


def _ancestors(launched: list[Launch], offsets: dict[Buffer, int]) -> list[set[int]]:
    before: list[set[int]] = []
    for own in dependencies(launched, offsets):
        before.append(set(own).union(*(before[number] for number in own)))
    return before


@given(plans())
def test_sharing_memory_makes_no_step_wait(launched: list[Launch]) -> None:
    offsets, _ = place(launched)
    apart = {step.writes[0]: number * 4096 for number, step in enumerate(launched)}
    assert _ancestors(launched, offsets) == _ancestors(launched, apart)


def test_memory_is_shared_all_the_same_where_it_would_be_much() -> None:
    """Eight branches of two big steps, the second of which is small: one after the other they fit into the room of one."""
    big = [Buffer(64 << 20) for _ in range(8)]
    small = [Buffer(256) for _ in range(8)]
    made = []
    for large, little in zip(big, small, strict=True):
        made += [Launch("", "k", (1, 1, 1), 1, [], [], [large]), Launch("", "k", (1, 1, 1), 1, [], [large], [little])]
    _, top = place(made)
    assert top < 65 << 20


@given(plans(), st.booleans())
def test_a_graph_orders_all_that_touches_the_same_bytes(launched: list[Launch], at_once: bool) -> None:
    offsets, _ = place(launched, at_once=at_once)
    before = _ancestors(launched, offsets)

    def touched(step: Launch) -> list[tuple[int, int, bool]]:
        rows = [(one, False) for one in step.reads] + [(one, True) for one in step.writes]
        return [(offsets[one], offsets[one] + max(one.nbytes, 1), writes) for one, writes in rows]

    for later, step in enumerate(launched):
        for earlier in range(later):
            clash = any(
                (one or other) and start < end and begin < stop
                for start, stop, one in touched(launched[earlier])
                for begin, end, other in touched(step)
            )
            assert not clash or earlier in before[later]


@given(plans())
def test_nobody_waits_for_what_another_has_waited_for(launched: list[Launch]) -> None:
    offsets, _ = place(launched)
    before = _ancestors(launched, offsets)
    for own in dependencies(launched, offsets):
        assert not any(other in before[number] for number in own for other in own)


def test_what_does_not_depend_on_each_other_may_run_at_once() -> None:
    node = helper.make_node
    found = _launched(_model(node("Softmax", ["x"], ["a"]), node("LogSoftmax", ["x"], ["b"]), node("Add", ["a", "b"], ["y"])))
    offsets, _ = place(found)
    assert dependencies(found, offsets) == [[], [], [0, 1]]


@given(st.lists(st.integers(1, 4), max_size=5), st.data())
def test_collapsing_axes_keeps_the_traversal(shape: list[int], data: st.DataObject) -> None:
    operands = [[size if data.draw(st.booleans()) else 1 for size in shape] for _ in range(2)]
    strides = [broadcast_strides(one, shape) for one in (shape, *operands)]
    sizes, fewer = collapse(shape, strides)
    for before, after in zip(strides, fewer, strict=True):
        assert _offsets(shape, before) == _offsets(sizes, after)


def _offsets(shape: list[int], strides: list[int]) -> list[int]:
    return [int(np.dot(where, strides)) for where in np.ndindex(*shape)] if shape else [0]


def _model(*nodes: onnx.NodeProto, shape: tuple[int, ...] = (4, 8), outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    graph = helper.make_graph(list(nodes), "g", [x], [onnx.ValueInfoProto(name=name) for name in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


X = np.ones((4, 8), np.float32)


def _launched(model: onnx.ModelProto, *inputs: np.ndarray) -> list[Launch | Move]:
    return steps(open_source(model).model(), inputs or (X,))


def test_a_chain_is_one_kernel() -> None:
    node = helper.make_node
    chain = [node("Mul", ["x", "x"], ["a"]), node("Sigmoid", ["a"], ["b"]), node("Add", ["b", "x"], ["c"]), node("Relu", ["c"], ["y"])]
    (launch,) = _launched(_model(*chain))
    assert isinstance(launch, Launch)
    assert "exp(" in launch.source


def test_a_value_that_two_read_is_computed_once() -> None:
    node = helper.make_node
    found = _launched(_model(node("Exp", ["x"], ["a"]), node("Neg", ["a"], ["b"]), node("Add", ["a", "b"], ["y"])))
    assert len(found) == 2
    assert sum("exp(" in step.source for step in found if isinstance(step, Launch)) == 1


def test_an_output_in_the_middle_of_a_chain_is_made_too() -> None:
    node = helper.make_node
    found = _launched(_model(node("Exp", ["x"], ["a"]), node("Neg", ["a"], ["y"]), outputs=("a", "y")))
    assert [step.writes[0].home for step in found] == ["output", "output"]


def test_reshaping_launches_nothing() -> None:
    flat = helper.make_node("Flatten", ["a"], ["b"], axis=0)
    found = _launched(_model(helper.make_node("Neg", ["x"], ["a"]), flat, helper.make_node("Neg", ["b"], ["y"])))
    assert len(found) == 2


def test_shape_arithmetic_stays_on_the_host() -> None:
    node = helper.make_node
    shape = [node("Shape", ["x"], ["s"]), node("ReduceProd", ["s"], ["p"], keepdims=1), node("Reshape", ["x", "p"], ["r"])]
    found = _launched(_model(*shape, node("Neg", ["r"], ["y"])))
    assert len(found) == 1


def test_wide_rows_are_loaded_sixteen_bytes_at_a_time() -> None:
    (launch,) = launches(open_source(_model(helper.make_node("Relu", ["x"], ["y"]))).model(), [X]).values()
    assert "pack<float, 4>" in launch.source


def test_shapes_that_do_not_fit_are_refused() -> None:
    model = _model(helper.make_node("Add", ["x", "z"], ["y"]))
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    z = helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["a", "b"])
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["c", "d"])
    del model.graph.input[:]
    model.graph.input.extend([x, z])
    with pytest.raises(RunError, match="do not broadcast"):
        _launched(model, X, np.ones((3, 8), np.float32))


def test_what_a_reduction_reads_is_computed_as_it_is_read() -> None:
    node = helper.make_node
    (launch,) = _launched(_model(node("Mul", ["x", "x"], ["a"]), node("Sqrt", ["a"], ["b"]), node("ReduceSum", ["b"], ["y"])))
    assert isinstance(launch, Launch)
    assert "sqrt(" in launch.source
    found = _launched(_model(node("Mul", ["x", "x"], ["a"]), node("Softmax", ["a"], ["b"]), node("Add", ["a", "b"], ["y"])))
    assert len(found) == 3  # two read the product: it is computed once
    assert len(_launched(_model(node("Mul", ["x", "x"], ["y"]), node("Softmax", ["y"], ["s"]), outputs=("y", "s")))) == 2
