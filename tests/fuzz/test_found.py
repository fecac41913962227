"""Files that hurt once, made small: what went wrong is in the name. None may do more than raise an error of turnout's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import turnout
from turnout.errors import CompileError, InvalidModel, OutOfMemory, RunError

pytestmark = pytest.mark.filterwarnings("ignore::turnout.errors.SlowPathWarning")


def text(source: str, opset: int = 21, functions: str = "", more: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}{more}]> {source} {functions}')


def in_child(model: onnx.ModelProto, tmp_path: Path, feed: str = "None") -> str:
    """What loading (and running) it says, in a process that may die of it."""
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    script = f"""
import warnings, numpy as np, turnout
warnings.simplefilter("ignore")
try:
    model = turnout.load({str(path)!r})
    feed = {feed}
    print("loaded" if feed is None else [value.tolist() for value in model.run(feed).values()])
except turnout.TurnoutError as error:
    print(type(error).__name__, error)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


# what onnx's inference or ONNX Runtime dies of, refused before either sees it


def misshapen() -> dict[str, tuple[onnx.ModelProto, str]]:
    split = text("g (float[4] x) => (float[2] a) { a, b, c = Split<num_outputs=2>(x) }")
    batch = text("g (float[2,2] x, int64[2,1] i) => (float[] y) { y = GatherND<batch_dims=-2>(x, i) }")
    axis = text("g (float[2,2] x, float[2] s) => (float[] y) { y = LayerNormalization<axis=2147483648>(x, s) }")
    equation = text('g (float[2,2] x) => (float[] y) { y = Einsum<equation="ij">(x) }')
    equation.graph.node[0].attribute[0].s = b"\xff\xfe"
    endless = text('g (float[2,2] x) => (float[2,2] y) { y = Einsum<equation="ij-">(x) }')
    return {
        "an arrow without a head": (endless, "has the equation b'ij-'"),
        "more outputs than num_outputs": (split, "has 3 outputs, and num_outputs is 2"),
        "batch dimensions below none": (batch, "has -2 batch dimensions"),
        "an axis beyond 32 bits": (axis, "has the axis 2147483648"),
        "an equation of no letters": (equation, "has the equation"),
    }


@pytest.mark.parametrize("name", misshapen())
def test_what_a_library_below_dies_of(name: str, tmp_path: Path) -> None:
    model, says = misshapen()[name]
    said = in_child(model, tmp_path)
    assert said.startswith("InvalidModel")
    assert says in said


def test_an_optional_input_that_is_left_out_with_an_empty_name(tmp_path: Path) -> None:
    model = text(
        'g (float[2,4] x, float[4] s) => (float[2,4] y) { n = LayerNormalization(x, s, "") r = RMSNormalization(n, s) y = Gelu(r) }', 23
    )
    assert model.graph.node[0].input[2] == ""
    said = in_child(model, tmp_path, '{"x": np.ones((2, 4), np.float32), "s": np.ones(4, np.float32)}')
    assert said.startswith("[[[")


def test_an_output_of_split_that_is_left_out(tmp_path: Path) -> None:
    model = oh.make_model(
        oh.make_graph(
            [oh.make_node("Split", ["x"], ["", "rest"], num_outputs=2)],
            "g",
            [oh.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4])],
            [oh.make_tensor_value_info("rest", onnx.TensorProto.FLOAT, [2])],
        ),
        opset_imports=[oh.make_opsetid("", 21)],
        ir_version=10,
    )
    assert in_child(model, tmp_path, '{"x": np.arange(4, dtype=np.float32)}').strip() == "[[2.0, 3.0]]"


def test_inference_of_tree_ensembles_without_an_input_type(tmp_path: Path) -> None:
    node = oh.make_node(
        "TreeEnsemble",
        ["odd"],
        ["y"],
        domain="ai.onnx.ml",
        nodes_modes=oh.make_tensor("m", onnx.TensorProto.UINT8, [1], [0]),
        nodes_featureids=[0],
        nodes_splits=oh.make_tensor("s", onnx.TensorProto.FLOAT, [1], [0.0]),
        nodes_truenodeids=[0],
        nodes_trueleafs=[1],
        nodes_falsenodeids=[0],
        nodes_falseleafs=[1],
        leaf_targetids=[0],
        leaf_weights=oh.make_tensor("w", onnx.TensorProto.FLOAT, [1], [1.0]),
        tree_roots=[0],
    )
    strange = oh.make_node("Strange", ["x"], ["odd"], domain="nobody")
    graph = oh.make_graph([strange, node], "g", [oh.make_tensor_value_info("x", 1, [2, 1])], [onnx.ValueInfoProto(name="y")])
    imports = [oh.make_opsetid("", 21), oh.make_opsetid("ai.onnx.ml", 5), oh.make_opsetid("nobody", 1)]
    assert "Strange" in in_child(oh.make_model(graph, opset_imports=imports, ir_version=10), tmp_path)


# what takes time or memory without end


def test_inference_does_not_hold_an_object_for_each_element_of_a_long_vector(tmp_path: Path) -> None:
    source = "g (float[4611686018427387904] x, float[4] z) => (float[4] y) { a = Tanh(x) b = Mul(a, a) y = Tanh(z) }"
    assert in_child(text(source), tmp_path)


def test_functions_that_call_each_other_twice_thirty_deep() -> None:
    functions = [
        f'<domain: "own", opset_import: ["own" : 1]> f{n} (x) => (y) {{ a = own.f{n + 1}(x) y = own.f{n + 1}(a) }}' for n in range(30)
    ]
    functions.append('<domain: "own", opset_import: ["" : 21]> f30 (x) => (y) { y = Neg(x) }')
    model = text("g (float[2] x) => (float[2] y) { y = own.f0(x) }", functions="\n".join(functions), more=', "own" : 1')
    with pytest.raises(InvalidModel, match="expand to 1073741824 nodes"):
        turnout.load(model)


def test_functions_that_call_each_other_in_a_circle() -> None:
    functions = """<domain: "own", opset_import: ["own" : 1]> f (x) => (y) { y = own.h(x) }
                   <domain: "own", opset_import: ["own" : 1]> h (x) => (y) { y = own.f(x) }"""
    with pytest.raises(InvalidModel, match="calls itself"):
        turnout.load(text("g (float[2] x) => (float[2] y) { y = own.f(x) }", functions=functions, more=', "own" : 1'))


def test_trees_that_lead_back_to_where_they_came_from() -> None:
    node = oh.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=[0, 0],
        nodes_nodeids=[0, 1],
        nodes_featureids=[0, 0],
        nodes_values=[0.5, 0.5],
        nodes_modes=["BRANCH_LEQ", "BRANCH_LEQ"],
        nodes_truenodeids=[1, 0],
        nodes_falsenodeids=[1, 0],
        target_treeids=[0],
        target_nodeids=[1],
        target_ids=[0],
        target_weights=[1.0],
    )
    info = oh.make_tensor_value_info
    graph = oh.make_graph([node], "g", [info("x", 1, [1, 1])], [info("y", 1, [1, 1])])
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 21), oh.make_opsetid("ai.onnx.ml", 3)], ir_version=10)
    with pytest.raises(CompileError, match="lead back"):
        turnout.load(model, device="reference")


def test_a_scan_without_end_of_inputs() -> None:
    source = """g (float[2] s, float[3,2] x) => (float[2] y, float[3,2] z) {
        y, z = Scan<num_scan_inputs = 9223372036854775807, body = b (float[2] a, float[2] r) => (float[2] c, float[2] d) {
            c = Add(a, r) d = Identity(c) }>(s, x) }"""
    with pytest.raises(InvalidModel, match="num_scan_inputs is 9223372036854775807"):
        turnout.load(text(source))


# what contradicts itself, and came out as an exception of Python's


def contradictions() -> dict[str, tuple[Callable[[], onnx.ModelProto], str]]:
    def branch_of_itself() -> onnx.ModelProto:
        return text("""g (bool flag, float[3] x) => (float[3] y) {
            y = If(flag) <then_branch = a () => (float[3] t) { t = Neg(x) }, else_branch = b () => (float[3] e) {
                i = If(flag) <then_branch = c () => (float[3] u) { u = Neg(x) }, else_branch = d () => (float[3] e) { v = Abs(x) }>
                e = Mul(i, x) }> }""")

    def of_function(body: str, result: str = "y") -> Callable[[], onnx.ModelProto]:
        function = f'<domain: "own", opset_import: ["" : 21]> f (x) => ({result}) {{ {body} }}'
        return lambda: text("g (float[2] x) => (float[2] z) { z = own.f(x) }", functions=function, more=', "own" : 1')

    def named_in_latin() -> onnx.ModelProto:
        model = of_function("within = Neg(x) y = Neg(within)")()
        return onnx.ModelProto.FromString(model.SerializeToString().replace(b"within", b"w\xb6thin"))

    def wrong_attribute() -> onnx.ModelProto:
        model = text("g (float[2] x) => (float[2] y) { y = LeakyRelu(x) }")
        model.graph.node[0].attribute.append(oh.make_attribute("alpha", [1, 2]))
        return model

    def two_attributes() -> onnx.ModelProto:
        model = wrong_attribute()
        del model.graph.node[0].attribute[:]
        model.graph.node[0].attribute.extend([oh.make_attribute("alpha", 0.5)] * 2)
        return model

    def far_opset() -> onnx.ModelProto:
        model = text("g (float[2] x) => (float[2] y) { y = Neg(x) }", more=', "ai.onnx.ml" : 3')
        model.opset_import[1].version = -(2**63)
        return model

    def odd_sparse() -> onnx.ModelProto:
        model = text("g (float[2] x) => (float[2] y) { y = Add(x, w) }")
        values = onnx.TensorProto(name="w", data_type=1000, dims=[1], raw_data=b"abcd")
        model.graph.sparse_initializer.append(oh.make_sparse_tensor(values, oh.make_tensor("i", onnx.TensorProto.INT64, [1], [0]), [2]))
        return model

    def reference_to_nothing() -> onnx.ModelProto:
        model = branch_of_itself()
        model.graph.node[0].attribute[1].ClearField("g")
        model.graph.node[0].attribute[1].ref_attr_name = "e"
        return model

    return {
        "an attribute of no function": (reference_to_nothing, "refers to an attribute of a function"),
        "a branch that gives what waits for it": (branch_of_itself, "nothing"),
        "a function that reads what it does not define": (of_function("y = Add(x, nowhere)"), "reads 'nowhere'"),
        "a function that gives what it does not define": (of_function("t = Neg(x)"), "gives 'y', which nothing in it defines"),
        "a function with two outputs of one name": (of_function("y = Neg(x)", "y, y"), "two inputs or outputs of one name"),
        "a call with too many inputs": (
            lambda: text(
                "g (float[2] x) => (float[2] z) { z = own.f(x, x) }",
                functions='<domain: "own", opset_import: ["" : 21]> f (x) => (y) { y = Neg(x) }',
                more=', "own" : 1',
            ),
            "more inputs or outputs than the function",
        ),
        "a name that is no text": (named_in_latin, "no text"),
        "an attribute of another kind": (wrong_attribute, "'alpha' of kind INTS, and the operator takes FLOAT"),
        "an attribute given twice": (two_attributes, "two attributes 'alpha'"),
        "an attribute that is not given": (lambda: text("g (float[2] x) => (float[2] y) { y = Cast(x) }"), "no attribute 'to'"),
        "too few inputs": (lambda: text("g (float[2] x) => (float[2] y) { y = Add(x) }"), "has 1 inputs, and the operator takes 2"),
        "an input left out": (lambda: text('g (float[2] x) => (float[2] y) { y = Add("", x) }'), "leaves out its input 0"),
        "an operator set from far away": (far_opset, "operator set -9223372036854775808"),
        "a sparse tensor of no type": (odd_sparse, "sparse tensor 'w'"),
    }


@pytest.mark.parametrize("name", contradictions())
def test_a_model_that_contradicts_itself(name: str) -> None:
    make, says = contradictions()[name]
    with pytest.raises(InvalidModel, match=says):
        turnout.load(make())


def test_a_place_of_external_data_that_is_no_text(tmp_path: Path) -> None:
    model = text("g (float[1] x) => (float[1] y) { y = Add(x, w) }")
    weight = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="place")
    model.graph.initializer.append(weight)
    path = tmp_path / "model.onnx"
    for odd in (b"pl\xb6ce", b"pl\0ce"):
        path.write_bytes(model.SerializeToString().replace(b"place", odd))
        with pytest.raises(InvalidModel, match="no file's name"):
            turnout.load(path)
    model.graph.initializer[0].external_data[0].value = "a" * 3000
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidModel, match="no such file"):
        turnout.load(path)


# control flow that turnout runs itself, on values that do not fit


LOOP = """g (int64[K] trips, bool[J] go, float[2] x) => (float[2] y) {
    y = Loop(trips, go, x) <body = b (int64 i, bool c, float[2] v) => (bool d, float[2] w) { d = Identity(c) w = Add(v, v) }> }"""
SCAN = """g (float[2] s, float[] x) => (float[2] y) {
    y = Scan<num_scan_inputs = 1, body = b (float[2] a, float e) => (float[2] c) { c = Add(a, e) }>(s, x) }"""
X = np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("source", "feed", "says"),
    [
        (LOOP, {"trips": np.zeros(0, np.int64), "go": np.array([True]), "x": X}, "number of iterations holds 0 values"),
        (LOOP, {"trips": np.array([1]), "go": np.array([True, False]), "x": X}, "condition holds 2 values"),
        (SCAN, {"s": X, "x": np.array(1, np.float32)}, "has no axis 0"),
    ],
)
def test_values_that_do_not_fit_control_flow(source: str, feed: dict[str, np.ndarray], says: str) -> None:
    with turnout.load(text(source), device="reference") as model, pytest.raises(RunError, match=says):
        model.run(feed)


def test_a_loop_that_runs_out_of_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import turnout.execute

    model = turnout.load(text(LOOP), device="reference")
    original = turnout.execute.Program.run

    def run(self: turnout.execute.Program, values: list[object]) -> list[object]:
        if len(values) == 3 and values[0].shape == ():  # the body
            raise MemoryError
        return original(self, values)

    monkeypatch.setattr(turnout.execute.Program, "run", run)
    with pytest.raises(OutOfMemory, match="out of memory"):
        model.run(trips=np.array([1]), go=np.array([True]), x=X)


def test_a_model_without_outputs_runs_and_gives_nothing() -> None:
    model = text("g (float[2] x) => () { y = Neg(x) }")
    assert turnout.load(model).run(x=X) == {}
