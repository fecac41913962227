"""Running models: every way to give inputs, every kind of value, buffers that are bound, threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper, parser

import turnout
from turnout import Tensor
from turnout.errors import InvalidInput

HEAD = '<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 3]>'
DEVICES = ["cpu", ["toy", "cpu"], "reference"]  # one partition, several, ONNX's own evaluator
devices = pytest.mark.parametrize("device", DEVICES, ids=str)


def model_of(graph: str) -> onnx.ModelProto:
    return parser.parse_model(f"{HEAD} {graph}")


def load(graph: str, device: Any = "cpu") -> turnout.Model:
    return turnout.load(model_of(graph), device=device)


TWO = """g (float[N,3] a, float[3] b) => (float[N,3] sum, float[N,3] product, float[N,3] kept) {
    product = Mul(a, b)
    sum = Add(a, b)
    kept = Abs(a)
}"""
A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.array([1, 2, 3], np.float32)


# ways to give inputs ------------------------------------------------------------------------------------------------


@devices
def test_every_way_to_call_gives_the_same_in_the_models_order(device: Any) -> None:
    with load(TWO, device) as model:
        ways = [model.run(A, B), model.run({"b": B, "a": A}), model.run(b=B, a=A), model.run(A, b=B), model.run({"a": A}, b=B)]
        ways.append(model.run(A.tolist(), Tensor(B)))
        ways.append(model.bind(A, B).run())
        ways.append(model.bind({"b": B}, a=A).run())
    for outputs in ways:
        assert list(outputs) == ["sum", "product", "kept"]
        assert outputs["sum"].tolist() == (A + B).tolist()
        assert outputs["product"].tolist() == (A * B).tolist()


@devices
def test_arrays_of_any_layout(device: Any) -> None:
    views = [A.T.copy().T, np.repeat(A, 2, 0)[::2], A[::-1], np.broadcast_to(A[:1], (4, 3)), A[:0], A.astype(A.dtype.newbyteorder())]
    frozen = A.copy()
    frozen.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + A.tobytes(), np.float32, 6, 1).reshape(2, 3)
    with load(TWO, device) as model:
        for view in (*views, frozen, unaligned, np.asarray(A).view(np.recarray)):
            found = model.run(view, B)["sum"]
            assert found.dtype == np.float32
            assert np.array_equal(found, view + B)
            assert np.array_equal(model.bind(view, B).run()["sum"], view + B)


@pytest.mark.parametrize("device", ["cpu", "reference"])
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
def test_any_shape_goes_through(device: str, array: np.ndarray[Any, Any]) -> None:
    dims = ",".join("ABCD"[: array.ndim])
    with load(f"g (float[{dims}] x) => (float[{dims}] y) {{ y = Identity(x) }}", device) as model:
        found = model.run(array)["y"]
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()


AWKWARD = ["self", "outputs", "arrays", "device", "a b", "1", "x:0", "ü", "class", "StatefulPartitionedCall:0", "", "named"]


@pytest.mark.parametrize("name", [name for name in AWKWARD if name])
def test_names_that_are_no_identifiers(name: str) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", [name, "y_" + name], ["out " + name])],
        "g",
        [helper.make_tensor_value_info(one, TensorProto.FLOAT, [3]) for one in (name, "y_" + name)],
        [helper.make_tensor_value_info("out " + name, TensorProto.FLOAT, [3])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    for device in DEVICES:
        with turnout.load(made, device=device) as model:
            found = [model.run({name: B, "y_" + name: B}), model.run(**{name: B, "y_" + name: B}), model.run(B, B)]
            found.append(model.bind({name: B, "y_" + name: B}).run())
            found.append(model.bind({name: B, "y_" + name: B}, outputs={"out " + name: np.zeros(3, np.float32)}).run())
            for outputs in found:
                assert list(outputs) == ["out " + name]
                assert outputs["out " + name].tolist() == [2, 4, 6]


def test_what_a_model_says_of_itself() -> None:
    with load("g (float[N,3] a, string[2] s, seq(float[?]) q, optional(int64[2]) o, int4[4] i) => (float[N,3] y) { y = Relu(a) }") as model:
        found = {info.name: (info.kind, info.dtype, info.shape, str(info)) for info in model.inputs}
        assert found["a"] == ("tensor", np.dtype(np.float32), ("N", 3), "float32[N,3]")
        assert found["s"] == ("tensor", np.dtype(object), (2,), "string[2]")
        assert found["q"][:3] == ("sequence", np.dtype(np.float32), None)
        assert found["o"][:3] == ("optional", np.dtype(np.int64), None)
        assert found["i"][:3] == ("tensor", np.dtype(ml_dtypes.int4), (4,))
        assert [info.name for info in model.outputs] == ["y"]


# kinds of graph -----------------------------------------------------------------------------------------------------


@devices
def test_graphs_of_next_to_nothing(device: Any) -> None:
    with load("g (float[3] x) => (float[3] x) { }", device) as model:
        assert model.run(B)["x"].tolist() == B.tolist()
        assert model.bind(B, outputs={"x": np.zeros(3, np.float32)}).run()["x"].tolist() == B.tolist()
    with load("g () => (float[2] w) <float[2] w = {1, 2}> { }", device) as model:
        assert model.run()["w"].tolist() == [1, 2]
        assert model.bind().run()["w"].tolist() == [1, 2]
    with load("g (float[3] x) => () { }", device) as model:
        assert model.run(B) == {}
    with load("g () => (float[2] y) { y = Constant<value = float[2] {1, 2}>() }", device) as model:
        assert model.run()["y"].tolist() == [1, 2]
        with pytest.raises(InvalidInput, match="1 arrays for 0 inputs"):
            model.run(B)


@devices
def test_values_that_pass_by(device: Any) -> None:
    """An input and a weight are outputs as they are, and one input is read by nobody."""
    text = """g (float[3] x, float[3] unused) => (float[3] y, float[3] x, float[2] w) <float[2] w = {1, 2}> {
        y = Relu(x)
    }"""
    with load(text, device) as model:
        outputs = model.run(x=B, unused=A[0])
        assert {name: array.tolist() for name, array in outputs.items()} == {"y": [1, 2, 3], "x": [1, 2, 3], "w": [1, 2]}


@devices
def test_what_a_caller_does_to_a_result_is_nothing_to_the_model(device: Any) -> None:
    text = "g (float[2] x) => (float[2] y, float[2] w) <float[2] w = {1, 2}> { y = Add(x, w) }"
    x = np.zeros(2, np.float32)
    with load(text, device) as model:
        outputs = model.run(x)
        outputs["w"] += 8
        outputs["y"] += 8
        assert {name: array.tolist() for name, array in model.run(x).items()} == {"y": [1, 2], "w": [1, 2]}


@devices
def test_nodes_that_nobody_reads(device: Any) -> None:
    with load("g (float[3] x) => (float[3] y) { y = Relu(x) dead = Neg(x) deader = Exp(dead) }", device) as model:
        assert model.run(B)["y"].tolist() == [1, 2, 3]
        assert model.bind(B).run()["y"].tolist() == [1, 2, 3]


@devices
def test_an_output_twice(device: Any) -> None:
    with load("g (float[2] x) => (float[2] y, float[2] y) { y = Neg(x) }", device) as model:
        assert {name: array.tolist() for name, array in model.run(np.ones(2, np.float32)).items()} == {"y": [-1, -1]}


@devices
def test_defaults_may_be_overridden(device: Any) -> None:
    text = "g (float[2] x, float[2] bias = {10, 20}) => (float[2] y) { y = Add(x, bias) }"
    x = np.array([1, 2], np.float32)
    with load(text, device) as model:
        assert [info.required for info in model.inputs] == [True, False]
        for _ in range(2):
            assert model.run(x=x)["y"].tolist() == [11, 22]
            assert model.run(x)["y"].tolist() == [11, 22]
            assert model.run(x, x)["y"].tolist() == [2, 4]
            assert model.run(bias=x, x=x)["y"].tolist() == [2, 4]
        assert model.bind(x).run()["y"].tolist() == [11, 22]
        assert model.bind(x, x).run()["y"].tolist() == [2, 4]


@devices
def test_large_defaults_may_be_overridden(device: Any, tmp_path: Path) -> None:
    made = model_of("g (float[900] x, float[900] bias) => (float[900] y) { y = Add(x, bias) }")
    made.graph.initializer.append(numpy_helper.from_array(np.full(900, 5, np.float32), "bias"))
    onnx.save(made, tmp_path / "model.onnx")
    ones = np.ones(900, np.float32)
    for given_model in (made, made.SerializeToString(), tmp_path / "model.onnx"):
        with turnout.load(given_model, device=device) as model:
            assert model.run(ones)["y"].tolist() == [6] * 900
            assert model.run(ones, ones)["y"].tolist() == [2] * 900


# kinds of values ----------------------------------------------------------------------------------------------------

ONLY_HOLDERS = ["cpu", "reference"]
holders = pytest.mark.parametrize("device", ONLY_HOLDERS)


@holders
def test_strings(device: str) -> None:
    with load("g (string[N] s) => (string[N] t, string[M] joined) { t = Identity(s) joined = Concat<axis = 0>(s, t) }", device) as model:
        for words in (["a", "ü字", ""], [], np.array(["x", "yy"]), np.array(["x", "yy"], object)):
            outputs = model.run(words)
            assert outputs["t"].tolist() == list(words)
            assert outputs["joined"].tolist() == [*words, *words]
            assert all(isinstance(word, str) for word in outputs["t"])
        assert model.run(np.array([b"raw", b"bytes"]))["t"].tolist() == ["raw", "bytes"]
        assert model.run([b"raw"])["t"].tolist() == ["raw"]
        assert model.run(np.array([b"raw", "ü"], object))["t"].tolist() == ["raw", "ü"]
        for wrong in (np.array(["a", 1], object), ["a", None], [["a"], ["b", "c"]], np.ones(2), [b"\xff"]):
            with pytest.raises(InvalidInput, match="'s'"):
                model.run(wrong)


@holders
def test_sequences(device: str) -> None:
    text = """g (seq(float[?]) q, float[M] x) => (seq(float[?]) more, float[?] first, int64 length) {
        more = SequenceInsert(q, x)
        zero = Constant<value_int = 0>()
        first = SequenceAt(more, zero)
        length = SequenceLength(more)
    }"""
    with load(text, device) as model:
        outputs = model.run(q=[B, [4, 5]], x=A[1])
        assert [one.tolist() for one in outputs["more"]] == [[1, 2, 3], [4, 5], [3, 4, 5]]
        assert outputs["first"].tolist() == [1, 2, 3]
        assert outputs["length"] == 3
        assert [one.tolist() for one in model.run(q=(), x=A[1])["more"]] == [[3, 4, 5]]
        assert [one.tolist() for one in model.bind(q=[B], x=B).run()["more"]] == [[1, 2, 3]] * 2
        for wrong in (B, [B.astype(np.float64)], [None], None, [["text"]]):
            with pytest.raises(InvalidInput, match="'q'") as caught:
                model.run(q=wrong, x=B)
            assert caught.value.hint


@holders
def test_optionals(device: str) -> None:
    text = """g (optional(float[?]) o) => (bool there, float[?] y) {
        there = OptionalHasElement(o)
        y = If (there) <then_branch = t () => (float[?] u) { u = OptionalGetElement(o) },
                        else_branch = e () => (float[?] v) { v = Constant<value = float[1] {-1}>() }>
    }"""
    with load(text, device) as model:
        for given_value, there, kept in ((B, True, [1, 2, 3]), ([4, 5], True, [4, 5]), (None, False, [-1])):
            outputs = model.run(o=given_value)
            assert (bool(outputs["there"]), outputs["y"].tolist()) == (there, kept)
        assert not model.run()["there"]


NARROW = {
    "bfloat16": ml_dtypes.bfloat16,
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8e5m2": ml_dtypes.float8_e5m2,
    "float8e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "int4": ml_dtypes.int4,
    "uint4": ml_dtypes.uint4,
}


@holders
@pytest.mark.parametrize("kind", NARROW)
def test_types_that_numpy_does_not_have(kind: str, device: str) -> None:
    """In, through a cast and out again; the values are ones that every one of these types has."""
    dtype = np.dtype(NARROW[kind])
    number = TensorProto.DataType.Value(kind.upper())
    text = f"""g ({kind}[N] x, float[N] f) => (float[N] wide, {kind}[N] narrow) {{
        wide = Cast<to = 1>(x)
        narrow = Cast<to = {number}>(f)
    }}"""
    values = np.array([0, 1, 2, 3, 4], np.float32)
    with load(text, device) as model:
        assert [info.dtype for info in model.inputs] == [dtype, np.float32]
        for given_value in (values.astype(dtype), values.tolist()):
            outputs = model.run(x=given_value, f=values)
            assert [array.dtype for array in outputs.values()] == [np.float32, dtype]
            for array in outputs.values():
                assert array.astype(np.float32).tolist() == values.tolist()
        bound = model.bind(x=values.astype(dtype), f=values, outputs={"narrow": np.zeros(5, dtype)})
        assert bound.run()["narrow"].astype(np.float32).tolist() == values.tolist()
        with pytest.raises(InvalidInput, match="'x'"):
            model.run(x=values, f=values)


@pytest.mark.parametrize("device", ["cpu", ["toy", "cpu"], ["reference", "cpu"]], ids=str)
def test_sparse_weights_and_constants(device: Any) -> None:
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([7, 8], np.float32), "s"), numpy_helper.from_array(np.array([1, 5]), "i"), [2, 3]
    )
    made = model_of("g (float[2,3] x) => (float[2,3] y) { c = Constant<value_int = 1>() a = Add(x, s) y = Mul(a, c) }")
    made.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("sparse_value", sparse))
    made.graph.sparse_initializer.append(sparse)
    dense = np.array([[0, 7, 0], [0, 0, 8]], np.float32)
    with turnout.load(made, device=device) as model:
        assert model.run(A)["y"].tolist() == ((A + dense) * dense).tolist()


@pytest.mark.parametrize("labels", ["strings", "int64s"])
def test_classifiers_give_maps(labels: str) -> None:
    kind, written, keys = {
        "strings": (TensorProto.STRING, '["no", "yes"]', {"no", "yes"}),
        "int64s": (TensorProto.INT64, "[10, 20]", {10, 20}),
    }[labels]
    made = model_of(
        f"""g (float[N,2] x) => (label, scores) {{
            label, raw = ai.onnx.ml.LinearClassifier<coefficients = [1.0, 0.0, 0.0, 1.0], intercepts = [0.0, 0.0],
                post_transform = "SOFTMAX", classlabels_{labels.replace("64", "")} = {written}>(x)
            scores = ai.onnx.ml.ZipMap<classlabels_{labels} = {written}>(raw)
        }}"""
    )
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("label", kind, ["N"]))
    of_maps = helper.make_sequence_type_proto(helper.make_map_type_proto(kind, helper.make_tensor_type_proto(TensorProto.FLOAT, [])))
    made.graph.output[1].CopyFrom(helper.make_value_info("scores", of_maps))
    x = np.array([[1, 0], [0, 2]], np.float32)
    theirs = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})
    for given_model in (made, made.SerializeToString()):
        with turnout.load(given_model) as model:
            assert [info.kind for info in model.outputs] == ["tensor", "map"]
            outputs = model.run(x)
            assert outputs["label"].tolist() == theirs[0].tolist()
            assert outputs["scores"] == theirs[1]
            assert set(outputs["scores"][0]) == keys


def test_a_map_goes_in() -> None:
    made = model_of('g (m) => (float[1,3] y) { y = ai.onnx.ml.DictVectorizer<string_vocabulary = ["a", "b", "c"]>(m) }')
    kind = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    made.graph.input[0].CopyFrom(helper.make_value_info("m", kind))
    # what is no file can only be handed over as a graph, whose values have no map type: it goes to the reference
    for given_model, device in ((made.SerializeToString(), None), (made, ["cpu", "reference"])):
        with turnout.load(given_model, device=device) as model:
            assert model.inputs[0].kind == "map"
            assert model.run(m={"a": 1.0, "c": 2.0})["y"].ravel().tolist() == [1, 0, 2]


# bind ---------------------------------------------------------------------------------------------------------------


@devices
def test_bound_outputs_are_written_in_place_and_inputs_read_anew(device: Any) -> None:
    a, b = A.copy(), B.copy()
    buffers = {name: np.full((2, 3), -1, np.float32) for name in ("sum", "product", "kept")}
    with load(TWO, device) as model:
        bound = model.bind(a, b, outputs=buffers)
        first = bound.run()
        for name, buffer in buffers.items():
            assert first[name] is buffer
        assert buffers["sum"].tolist() == (A + B).tolist()
        a += 100
        b *= 2
        assert bound.run() is first
        assert buffers["sum"].tolist() == (a + b).tolist()
        assert buffers["product"].tolist() == (a * b).tolist()
        assert all(kept is given_array for kept, given_array in zip(bound.inputs, (a, b), strict=True))


def test_binding_copies_nothing() -> None:
    """One partition on the host: what is bound is the very memory of the inputs and outputs."""
    x, y = np.zeros(1 << 20, np.float32), np.empty(1 << 20, np.float32)
    with load("g (float[N] x) => (float[N] y) { y = Neg(x) }") as model:
        bound = model.bind(Tensor(x), outputs={"y": y})
        assert np.shares_memory(bound.inputs[0], x)
        x[:] = 3
        assert np.shares_memory(bound.run()["y"], y)
        assert (y == -3).all()
        frozen = np.full(1 << 20, 2, np.float32)
        frozen.flags.writeable = False
        assert model.bind(frozen).inputs[0] is frozen


@devices
def test_some_outputs_bound(device: Any) -> None:
    buffer = np.zeros((2, 3), np.float32)
    with load(TWO, device) as model:
        bound = model.bind(A, B, outputs={"product": buffer})
        first = bound.run()
        assert first["product"] is buffer
        assert list(first) == ["sum", "product", "kept"]
        kept = first["sum"]
        assert not np.shares_memory(kept, buffer)
        bound.inputs[0][:] += 1
        second = bound.run()
        assert second["sum"].tolist() == (A + B).tolist()
        assert kept.tolist() == (A - 1 + B).tolist()  # an output of unknown size is new each time
        A[:] -= 1


@devices
def test_outputs_of_known_shape_get_buffers_once(device: Any) -> None:
    x = np.ones(4, np.float32)
    with load("g (float[4] x) => (float[4] y) { y = Add(x, x) }", device) as model:
        bound = model.bind(x)
        first = bound.run()["y"]
        x[:] = 5
        assert bound.run()["y"] is first
        assert first.tolist() == [10] * 4


@devices
def test_a_buffer_of_the_wrong_size_for_this_input(device: Any) -> None:
    buffer = np.zeros((5, 3), np.float32)
    with load(TWO, device) as model, pytest.raises(turnout.errors.RunError, match=r"sum|OrtValue shape"):
        model.bind(A, B, outputs={"sum": buffer}).run()


# results belong to the caller ---------------------------------------------------------------------------------------


@devices
def test_results_live_longer_than_the_model(device: Any) -> None:
    model = load(TWO, device)
    outputs = model.run(A, B)
    bound = model.bind(A, B, outputs={"kept": np.zeros((2, 3), np.float32)}).run()
    model.close()
    model.close()
    del model
    assert outputs["sum"].tolist() == (A + B).tolist()
    assert bound["kept"].tolist() == A.tolist()


@devices
def test_results_do_not_change_under_the_caller(device: Any) -> None:
    with load(TWO, device) as model:
        first = model.run(A, B)
        copies = {name: array.copy() for name, array in first.items()}
        model.run(A * 100, B)
        assert all(np.array_equal(first[name], copies[name]) for name in first)


@devices
def test_inputs_are_left_alone(device: Any) -> None:
    a, b = A.copy(), B.copy()
    with load(TWO, device) as model:
        outputs = model.run(a, b)
    assert np.array_equal(a, A)
    assert np.array_equal(b, B)
    assert not any(np.shares_memory(array, given_array) for array in outputs.values() for given_array in (a, b))


# the same model, however it is given --------------------------------------------------------------------------------


@devices
def test_path_bytes_proto_and_graph_are_the_same_model(device: Any, tmp_path: Path) -> None:
    weight = np.random.default_rng(1).standard_normal((3, 300)).astype(np.float32)
    made = model_of(
        """g (float[N,3] x, bool c) => (float[N,300] y) {
            h = MatMul(x, w)
            y = If (c) <then_branch = t () => (float[N,300] u) { u = Add(h, h) }, else_branch = e () => (float[N,300] v) { v = Relu(h) }>
        }"""
    )
    made.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    before = made.SerializeToString(deterministic=True)
    graph = onnx_ir.serde.deserialize_model(made)
    printed, nodes = str(graph), list(graph.graph)
    results, prints = [], set()
    for given_model in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), memoryview(path.read_bytes()), made, graph):
        with turnout.load(given_model, device=device) as model:
            prints.add(model.fingerprint)
            results.append([model.run(A, np.array(condition))["y"] for condition in (True, False)])
    for both in results[1:]:
        assert all(np.array_equal(one, other) for one, other in zip(both, results[0], strict=True))
    np.testing.assert_allclose(results[0][0], 2 * A @ weight, rtol=1e-5)
    assert len(prints) == 1
    assert made.SerializeToString(deterministic=True) == before
    assert (str(graph), list(graph.graph)) == (printed, nodes)


def test_a_graph_that_was_given_can_be_changed_and_given_again() -> None:
    graph = onnx_ir.serde.deserialize_model(model_of("g (float[3] x) => (float[3] y) { y = Neg(x) }"))
    assert turnout.load(graph).run(B)["y"].tolist() == [-1, -2, -3]
    graph.graph[0].op_type = "Relu"
    assert turnout.load(graph).run(B)["y"].tolist() == [1, 2, 3]


# threads ------------------------------------------------------------------------------------------------------------


@devices
def test_eight_threads_at_once(device: Any) -> None:
    """Each its own inputs and its own results, also where turnout runs control flow itself."""
    text = """g (float[N] x, int64 n) => (float[N] y) {
        t = Constant<value = bool {1}>()
        y = Loop (n, t, x) <body = b (int64 i, bool c, float[N] s) => (bool d, float[N] z) { d = Identity(c) z = Add(s, x) }>
    }"""
    start = threading.Barrier(8)

    def work(number: int) -> bool:
        x = np.full(64, number, np.float32)
        start.wait()
        return all((model.run(x=x, n=np.array(count))["y"] == number * (count + 1)).all() for count in range(40))

    with load(text, device) as model, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=5))
def test_pieces_agree_with_the_whole(values: list[float]) -> None:
    x = np.array(values, np.float32)
    text = "g (float[N] x) => (float[N] y, float[N] z) { a = Add(x, x) b = Exp(a) c = Mul(b, a) d = Tanh(c) y = Relu(d) z = Mul(a, d) }"
    found = [load(text, device).run(x) for device in DEVICES]
    for other in found[1:]:
        for name, array in found[0].items():
            np.testing.assert_allclose(other[name], array, rtol=1e-5, atol=1e-30)
