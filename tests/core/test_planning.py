"""Who runs what, and why: each rule of planning on a graph small enough to read."""

import gc
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import pytest

import turnout
from turnout import plugins
from turnout.device import Link
from turnout.errors import CompileError, NoProvider, NoSuchDevice, NotGenerative, SlowPathWarning
from turnout.explain import Explanation
from turnout.graph import ir
from turnout.provider import Claim, Rewrite
from turnout.testing.fakes import FakeProvider, installed

BUS = Link(10e-6, 12e9)


def parsed(body: str, inputs: str = "float[4] x", outputs: str = "float[4] y", more: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g ({inputs}) => ({outputs}) {{ {body} }} {more}')


CHAIN = "a = Relu(x)  b = Neg(a)  c = Abs(b)  y = Tanh(c)"
X = np.array([1, -2, 3, -4], np.float32)


def devices_of(model: turnout.Model) -> dict[str, str]:
    return {node.operator: node.device for node in model.explain().nodes}


def test_each_node_goes_to_the_first_that_takes_it():
    first, second = FakeProvider("first", {"Neg", "Abs"}), FakeProvider("second")
    with installed(first, second), turnout.load(parsed(CHAIN), device=["first", "second"]) as model:
        assert devices_of(model) == {"Relu": "second:0", "Neg": "first:0", "Abs": "first:0", "Tanh": "second:0"}
        np.testing.assert_array_equal(model.run(x=X)["y"], np.tanh(np.abs(-np.maximum(X, 0))))


def test_order_is_the_callers():
    first, second = FakeProvider("first"), FakeProvider("second")
    with installed(first, second), turnout.load(parsed(CHAIN), device=["second", "first"]) as model:
        assert set(devices_of(model).values()) == {"second:0"}
        assert model.explain().not_used[0].device == "first:0"


def test_a_name_is_a_demand():
    with installed(FakeProvider("picky", {"Relu", "Neg"})), pytest.raises(NoProvider) as caught:
        turnout.load(parsed(CHAIN), device="picky")
    assert "picky:0 cannot run 2 of the nodes: Abs (1), Tanh (1)" in str(caught.value)
    assert "picky has no Abs" in str(caught.value)
    assert caught.value.plan is not None
    assert caught.value.hint == "allow another device to help: device=['picky', 'reference']"


def test_the_reference_is_not_offered_for_operators_that_it_has_not():
    model = parsed("y = Twice(x)")
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.add(domain="com.microsoft", version=1)
    with installed(FakeProvider("picky", {"Relu"})), pytest.raises(NoProvider) as caught:
        turnout.load(model, device="picky")
    assert caught.value.hint == "allow another device to help, in a list after picky; `turnout devices` shows which there are"


def test_the_reference_is_the_last_resort_and_warns_once():
    """ONNX has Acos of bfloat16; ONNX Runtime's CPU provider has not."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 22]> g (bfloat16[2] x) => (bfloat16[2] y) { a = Acos(x)  y = Acos(a) }'
    )
    with pytest.warns(SlowPathWarning, match="2 nodes run on the reference provider.*CPU kernel of Acos") as caught:
        turnout.load(model)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        turnout.load(model, device=["cpu", "reference"])  # it was named: no reason to warn


def test_copies_only_where_a_value_crosses_devices():
    far, near = FakeProvider("far", {"Neg", "Abs"}, link=BUS), FakeProvider("near")
    with installed(far, near), turnout.load(parsed(CHAIN), device=["far", "near"]) as model:
        assert [(copy.value, copy.source, copy.target, copy.bytes) for copy in model.explain().copies] == [
            ("a", "near:0", "far:0", 16),
            ("c", "far:0", "near:0", 16),
        ]


def test_a_partition_is_not_cut_without_need():
    """Two strands that meet: each device gets one partition, though the nodes stand interleaved in the file."""
    left, right = FakeProvider("left", {"Relu", "Neg"}), FakeProvider("right")
    body = "a = Relu(x)  p = Abs(x)  b = Neg(a)  q = Tanh(p)  c = Relu(b)  r = Abs(q)  y = Add(c, r)"
    with installed(left, right), turnout.load(parsed(body), device=["left", "right"]) as model:
        assert len(model.explain().partitions) <= 3


@pytest.mark.parametrize(("gain", "vetoed"), [(1e-6, True), (100e-6, False)])
def test_an_island_must_pay_for_its_copies(gain, vetoed):
    far = FakeProvider("far", {"Abs"}, link=BUS, seconds=1e-6)
    near = FakeProvider("near", seconds=1e-6 + gain)
    with installed(far, near), turnout.load(parsed(CHAIN), device=["far", "near"]) as model:
        assert (devices_of(model)["Abs"] == "near:0") is vetoed
        assert any("would be less than" in remark for remark in model.explain().remarks) is vetoed


def test_no_veto_without_times_on_both_sides():
    far, near = FakeProvider("far", {"Abs"}, link=BUS, seconds=1e-6), FakeProvider("near")
    with installed(far, near), turnout.load(parsed(CHAIN), device=["far", "near"]) as model:
        assert devices_of(model)["Abs"] == "far:0"


def by_type(graph: ir.Graph, *operators: str) -> list[ir.Node]:
    return [node for node in graph if node.op_type in operators]


def test_a_fused_claim_is_taken_whole():
    fuser = FakeProvider("fuser", (), fuses=lambda graph: [Claim(by_type(graph, "Neg", "Abs"), "NegAbs")])
    with installed(fuser, FakeProvider("rest")), turnout.load(parsed(CHAIN), device=["fuser", "rest"]) as model:
        assert fuser.compiled == [["Neg", "Abs"]]
        np.testing.assert_array_equal(model.run(x=X)["y"], np.tanh(np.maximum(X, 0)))


def test_claims_that_would_wait_for_each_other_do_not_both_stand():
    """{a, d} and {b, c} are convex each, but a -> c and b -> d: neither can go first."""
    body = "a = Relu(x)  b = Neg(x)  c = Abs(a)  d = Tanh(b)  y = Add(c, d)"
    claims = [("Relu", "Tanh"), ("Neg", "Abs")]
    fuser = FakeProvider("fuser", (), fuses=lambda graph: [Claim(by_type(graph, *pair), "+".join(pair)) for pair in claims])
    with installed(fuser, FakeProvider("rest")), turnout.load(parsed(body), device=["fuser", "rest"]) as model:
        assert fuser.compiled == [["Relu", "Tanh"]]
        assert "wait for each other" in str(model.explain().node("Neg#1"))
        np.testing.assert_array_equal(model.run(x=X)["y"], np.maximum(X, 0) + np.tanh(-X))


def neg_as_sub(graph: ir.Graph) -> list[Rewrite]:
    (neg,) = by_type(graph, "Neg")
    zero = ir.val("zero", const_value=ir.tensor(np.zeros(1, np.float32)))
    twin = ir.Value(name=neg.outputs[0].name, type=neg.outputs[0].type, shape=neg.outputs[0].shape)
    return [Rewrite([neg], "Sub from zero", replacement=[ir.Node("", "Sub", [zero, neg.inputs[0]], outputs=[twin], version=21)])]


def test_a_provider_is_asked_in_its_own_dialect():
    dialect = FakeProvider("dialect", {"Relu", "Sub", "Abs", "Tanh"}, rewrites=neg_as_sub)
    with installed(dialect), turnout.load(parsed(CHAIN), device="dialect") as model:
        assert dialect.compiled == [["Relu", "Sub", "Abs", "Tanh"]]
        assert devices_of(model)["Neg"] == "dialect:0"  # claims are counted in the model's own nodes
        assert model.explain().partitions[0].rewritten == {"Sub from zero": 1}
        np.testing.assert_array_equal(model.run(x=X)["y"], np.tanh(np.maximum(X, 0)))


def test_a_rewrite_that_the_provider_refuses_is_said_and_dropped():
    dialect = FakeProvider("dialect", {"Relu", "Abs", "Tanh"}, rewrites=neg_as_sub)
    with installed(dialect, FakeProvider("rest")), turnout.load(parsed(CHAIN), device=["dialect", "rest"]) as model:
        assert devices_of(model)["Neg"] == "rest:0"
        assert "dialect has no Sub" in str(model.explain().node("Neg#1"))


def test_what_fails_to_compile_is_planned_elsewhere_and_said():
    failing = FakeProvider("failing", fails={"Abs"})
    with installed(failing, FakeProvider("rest")), turnout.load(parsed(CHAIN), device=["failing", "rest"]) as model:
        assert devices_of(model) == {"Relu": "failing:0", "Neg": "failing:0", "Abs": "rest:0", "Tanh": "failing:0"}
        assert "cannot compile Abs after all" in str(model.explain().node("Abs#2"))


def test_what_fails_to_compile_on_the_one_device_named_raises():
    with installed(FakeProvider("failing", fails={"Abs"})), pytest.raises(CompileError, match="cannot compile Abs after all"):
        turnout.load(parsed(CHAIN), device="failing")


class Raising(FakeProvider):
    def supports(self, node, graph, device):
        raise ZeroDivisionError("a bug")


def test_a_provider_that_raises_does_not_take_the_others_down():
    with installed(Raising("raising"), FakeProvider("rest")), turnout.load(parsed(CHAIN), device=["raising", "rest"]) as model:
        assert set(devices_of(model).values()) == {"rest:0"}
        assert any("broken plugin: ZeroDivisionError" in remark for remark in model.explain().remarks)


def test_an_operator_nobody_takes_is_expanded_into_its_body():
    simple = FakeProvider("simple", {"Div", "Exp", "Sub", "Mul", "Add", "Max", "Min", "Cast", "Less", "Where", "Identity"})
    with installed(simple), turnout.load(parsed("y = Celu<alpha = 2.0>(x)"), device="simple") as model:
        assert "Celu" not in devices_of(model)
        assert any("Celu x1 was expanded" in remark for remark in model.explain().remarks)
        np.testing.assert_allclose(model.run(x=X)["y"], np.where(X < 0, 2 * (np.exp(X / 2) - 1), X), rtol=1e-6)


def test_a_function_of_the_model_is_expanded():
    more = '<opset_import: ["" : 21], domain: "mine"> Double (v) => (w) { w = Add(v, v) }'
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21, "mine" : 1]> g (float[4] x) => (float[4] y) { t = mine.Double(x) y = mine.Double(t) } '
        + more
    )
    with installed(FakeProvider("adder", {"Add"})), turnout.load(model, device="adder") as loaded:
        np.testing.assert_array_equal(loaded.run(x=X)["y"], 4 * X)


IF = """y = If (flag) <
    then_branch = yes () => (float[4] p) { t = Relu(x)  p = Neg(t) },
    else_branch = no () => (float[4] q) { q = Abs(x) }>"""


def test_control_flow_that_nobody_takes_is_run_by_turnout():
    relu, rest = FakeProvider("relu", {"Relu"}), FakeProvider("rest")
    with installed(relu, rest), turnout.load(parsed(IF, "float[4] x, bool flag"), device=["relu", "rest"]) as model:
        assert devices_of(model) == {"If": "host", "Relu": "relu:0", "Neg": "rest:0", "Abs": "rest:0"}
        np.testing.assert_array_equal(model.run(x=X, flag=np.array(True))["y"], -np.maximum(X, 0))
        np.testing.assert_array_equal(model.run(x=X, flag=np.array(False))["y"], np.abs(X))


def test_control_flow_is_taken_whole_only_with_all_of_its_bodies():
    with turnout.load(parsed(IF, "float[4] x, bool flag"), device="cpu") as model:
        assert devices_of(model) == {"If": "cpu:0"}


def test_a_plan_has_a_fingerprint_that_says_when_anything_changed():
    def fingerprint(model: onnx.ModelProto, *names: str) -> str:
        with turnout.load(model, device=list(names)) as loaded:
            return loaded.fingerprint

    with installed(FakeProvider("first"), FakeProvider("second", {"Abs"})):
        same = fingerprint(parsed(CHAIN), "first")
        assert same == fingerprint(parsed(CHAIN), "first")
        assert same != fingerprint(parsed(CHAIN.replace("Abs", "Neg")), "first")
        assert same != fingerprint(parsed(CHAIN), "second", "first")
        assert len(same) == 16


def test_an_explanation_is_plain_data_with_a_published_schema():
    import jsonschema

    schema = json.loads((Path(__file__).parents[2] / "docs" / "explanation.schema.json").read_text())
    assert schema == Explanation.model_json_schema(), "run: uv run python docs/schemas.py"
    far, rest = FakeProvider("far", {"Neg"}, link=BUS), FakeProvider("rest")
    with installed(far, rest), turnout.load(parsed(CHAIN), device=["far", "rest"]) as model:
        story = model.explain().to_dict()
    jsonschema.validate(story, schema)
    assert json.loads(json.dumps(story)) == story


def test_one_nodes_story_and_a_misspelt_one():
    with installed(FakeProvider("rest")), turnout.load(parsed(CHAIN), device="rest") as model:
        assert "runs on rest:0" in str(model.explain().node("Abs#2"))
        with pytest.raises(KeyError, match="did you mean"):
            model.explain().node("Abz#2")
        assert "<details>" in model.explain().to_html()


def test_an_explanation_outlives_the_model():
    with installed(FakeProvider("rest")):
        model = turnout.load(parsed(CHAIN), device="rest")
        model.close()
        assert "4 nodes" in str(model.explain())


def test_devices_that_are_not_here_say_why_and_what_to_do(monkeypatch):
    with monkeypatch.context() as without:
        without.setattr(plugins, "providers", list)
        with pytest.raises(NoSuchDevice) as caught:
            turnout.load(parsed(CHAIN), device="directml")
    assert caught.value.hint == "pip install turnout-directml"
    with pytest.raises(NoSuchDevice, match="no device 'cpu:7'") as caught:
        turnout.load(parsed(CHAIN), device="cpu:7")
    assert "cpu:0" in caught.value.hint


def test_text_wants_a_plugin():
    with turnout.load(parsed(CHAIN), device="cpu") as model, pytest.raises(NotGenerative) as caught:
        model.generate("hello")
    assert "turnout-text" in caught.value.hint


def test_what_a_provider_says_of_a_yes_is_told():
    """ONNX Runtime's CPU provider has no float16 kernel of Tanh, and runs it all the same."""
    half = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float16[2] x) => (float16[2] y) { y = Tanh(x) }')
    with turnout.load(half, device="cpu") as model:
        assert "float16, computed in float32" in str(model.explain().node("Tanh#0"))


def test_the_weights_are_not_kept_twice():
    weight = np.zeros((256, 1024), np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [1, 256])],
        [onnx.helper.make_tensor_value_info("y", 1, [1, 1024])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    data = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    before = sys.getrefcount(data)
    with turnout.load(data, device="cpu") as model:
        model.explain()
        gc.collect()
        assert sys.getrefcount(data) == before
        assert model.run(x=np.ones((1, 256), np.float32))["y"].shape == (1, 1024)


@pytest.mark.parametrize("device", [3, {"cpu"}, [3]])
def test_what_is_no_device_name_is_said(device):
    with pytest.raises(NoSuchDevice, match=r"no device name|neither a name nor a list"):
        turnout.load(parsed(CHAIN), device=device)


def test_options_that_are_no_mapping_are_said():
    with pytest.raises(turnout.TurnoutError, match="no mapping"):
        turnout.load(parsed(CHAIN), options=3)
