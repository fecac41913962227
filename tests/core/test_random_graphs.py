"""Random graphs, split at random between fake providers, give what ONNX's evaluator gives for the whole."""

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

import turnout
from turnout.device import Link
from turnout.graph import ir
from turnout.provider import Claim, Rewrite
from turnout.testing.fakes import FakeProvider, FakeTensor, installed

UNARY = ("Neg", "Relu", "Abs", "Tanh", "Identity")
BINARY = ("Add", "Mul", "Sub", "Max")
FLOAT = onnx.TensorProto.FLOAT


def graph_of(draw: st.DrawFn, known: list[str], prefix: str, depth: int) -> tuple[list[onnx.NodeProto], list[str]]:
    """Random nodes over the known values, and the names that they give; If and Loop nodes have random bodies that capture values."""
    nodes: list[onnx.NodeProto] = []
    made: list[str] = []
    for number in range(draw(st.integers(1, 8 if depth == 0 else 3))):
        pick = st.sampled_from(known + made)
        name = f"{prefix}{number}"
        kind = draw(st.sampled_from(["unary", "binary", "binary", "constant", "if", "loop"] if depth < 2 else ["unary", "binary"]))
        if kind == "unary":
            nodes.append(oh.make_node(draw(st.sampled_from(UNARY)), [draw(pick)], [name]))
        elif kind == "binary":
            nodes.append(oh.make_node(draw(st.sampled_from(BINARY)), [draw(pick), draw(pick)], [name]))
        elif kind == "constant":
            values = draw(st.lists(st.integers(-3, 3), min_size=4, max_size=4))
            nodes.append(oh.make_node("Constant", [], [name], value=oh.make_tensor(name, FLOAT, [4], values)))
        elif kind == "if":
            nodes.append(oh.make_node("If", ["flag"], [name], **_branches(draw, known + made, name, depth)))
        else:
            nodes.append(oh.make_node("Loop", ["trips", "always", draw(pick)], [name], body=_body(draw, known + made, name, depth)))
        made.append(name)
    return nodes, made


def _branches(draw: st.DrawFn, known: list[str], prefix: str, depth: int) -> dict[str, onnx.GraphProto]:
    branches = {}
    for which in ("then_branch", "else_branch"):
        nodes, made = graph_of(draw, known, f"{prefix}_{which}_", depth + 1)
        branches[which] = oh.make_graph(nodes, which, [], [oh.make_tensor_value_info(made[-1], FLOAT, [4])])
    return branches


def _body(draw: st.DrawFn, known: list[str], prefix: str, depth: int) -> onnx.GraphProto:
    carried, going = f"{prefix}_v", f"{prefix}_going"
    nodes, made = graph_of(draw, [*known, carried], f"{prefix}_body_", depth + 1)
    return oh.make_graph(
        [oh.make_node("Identity", [going], [f"{going}_on"]), *nodes],
        "body",
        [
            oh.make_tensor_value_info(f"{prefix}_i", onnx.TensorProto.INT64, []),
            oh.make_tensor_value_info(going, onnx.TensorProto.BOOL, []),
            oh.make_tensor_value_info(carried, FLOAT, [4]),
        ],
        [oh.make_tensor_value_info(f"{going}_on", onnx.TensorProto.BOOL, []), oh.make_tensor_value_info(made[-1], FLOAT, [4])],
    )


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    nodes, made = graph_of(draw, ["x", "y", "w"], "t", 0)
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    graph = oh.make_graph(
        nodes,
        "random",
        [
            oh.make_tensor_value_info("x", FLOAT, [4]),
            oh.make_tensor_value_info("y", FLOAT, [4]),
            oh.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []),
            oh.make_tensor_value_info("trips", onnx.TensorProto.INT64, []),
            oh.make_tensor_value_info("always", onnx.TensorProto.BOOL, []),
        ],
        [oh.make_tensor_value_info(name, FLOAT, [4]) for name in outputs],
        [oh.make_tensor("w", FLOAT, [4], [1, -2, 3, 0.5])],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 21)], ir_version=10)


def fusing(choice: int):
    """Claims over runs of nodes that are not always convex: the planner has to find out."""

    def claims(graph: ir.Graph) -> list[Claim]:
        nodes = [node for node in graph if node.op_type not in ("If", "Loop")]
        size = 2 + choice % 3
        step = 1 + choice % 2
        return [Claim(nodes[at : at + size * step : step], f"Fused{at}") for at in range(choice % 3, len(nodes) - 1, size + 1)]

    return claims


def neg_as_sub(graph: ir.Graph) -> list[Rewrite]:
    """Neg(x) in a dialect that has only Sub: 0 - x."""
    rewrites = []
    for node in graph:
        if node.op_type == "Neg":
            zero = ir.val(f"{node.outputs[0].name}_zero", const_value=ir.tensor(np.zeros(1, np.float32)))
            new = ir.Node("", "Sub", [zero, node.inputs[0]], outputs=[_twin(node.outputs[0])], version=21)
            rewrites.append(Rewrite([node], "Sub from zero", replacement=[new]))
    return rewrites


def _twin(value: ir.Value) -> ir.Value:
    return ir.Value(name=value.name, type=value.type, shape=value.shape)


@st.composite
def crowds(draw: st.DrawFn) -> list[FakeProvider]:
    """Providers with random tastes, near and far, some of which fuse, rewrite, give times or fail to compile; the last takes all."""
    operators = [*UNARY, *BINARY]
    crowd = []
    for number in range(draw(st.integers(1, 3))):
        tastes = draw(st.sets(st.sampled_from(operators), min_size=1))
        salt = draw(st.integers(0, 7))
        crowd.append(
            FakeProvider(
                f"fake{number}",
                tastes,
                link=draw(st.sampled_from([None, Link(1e-6, 1e9)])),
                seconds=draw(st.sampled_from([None, 1e-7, 1e-5])),
                takes=lambda node, salt=salt: (len(node.outputs[0].name) + salt) % 4 != 0,
                fuses=fusing(salt) if draw(st.booleans()) else lambda graph: (),
                rewrites=neg_as_sub if "Sub" in tastes and draw(st.booleans()) else lambda graph: (),
                fails=draw(st.sampled_from([(), ("Tanh",)])),
            )
        )
    return [*crowd, FakeProvider("last", link=draw(st.sampled_from([None, Link(1e-6, 1e9)])), seconds=2e-6)]


RANDOM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
SPLIT = given(model=models(), crowd=crowds(), flag=st.booleans(), trips=st.integers(0, 3))


@settings(RANDOM, max_examples=400)
@SPLIT
def test_a_split_graph_gives_what_the_whole_gives(model, crowd, flag, trips):
    check(model, crowd, flag, trips)


@pytest.mark.slow
@settings(RANDOM, max_examples=2000)
@SPLIT
def test_many_split_graphs_give_what_the_whole_gives(model, crowd, flag, trips):
    check(model, crowd, flag, trips)


def check(model, crowd, flag, trips):
    feed = {
        "x": np.array([1, -2, 0.5, 4], np.float32),
        "y": np.array([-1, 3, 2, -0.25], np.float32),
        "flag": np.array(flag),
        "trips": np.array(trips, np.int64),
        "always": np.array(True),  # ONNX's evaluator takes a Loop without a condition for one that never runs
    }
    with np.errstate(all="ignore"), installed(*crowd), turnout.load(model, device=[one.name for one in crowd]) as loaded:
        results = loaded.run(feed)
        expected = ReferenceEvaluator(model).run(None, feed)
        assert sum(part.nodes for part in loaded.explain().partitions) == len(loaded.explain().nodes)
        there = loaded._program.run_on_device(loaded._host_values(feed)) if flag else []
    for (value, device), wanted in zip(there, expected, strict=False):
        assert isinstance(value, FakeTensor) != device.on_host
        np.testing.assert_array_equal(getattr(value, "value", value), wanted)
    for result, wanted in zip(results.values(), expected, strict=True):
        np.testing.assert_array_equal(result, wanted)
