"""Reading ONNX: the wire format against protobuf itself, and what is tidied on the way to a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from turnout.errors import InvalidModel, UnknownFormat
from turnout.formats import open_source, wire
from turnout.formats.tidy import check_names, check_tensors, tidy_graph


def model_of(text: str, *initializers: TensorProto) -> onnx.ModelProto:
    """`text` is a graph in ONNX's own notation."""
    made = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 3]> {text}')
    made.graph.initializer.extend(initializers)
    return made


def raw(name: str, data: bytes, dims: list[int], kind: int = TensorProto.UINT8) -> TensorProto:
    return TensorProto(name=name, data_type=kind, dims=dims, raw_data=data)


# wire.py ------------------------------------------------------------------------------------------------------------


@st.composite
def tensors(draw: Any) -> TensorProto:
    size = draw(st.sampled_from([0, 1, 100, 1023, 1024, 1025, 1100, 5000]))
    name = draw(st.text(max_size=8))
    tensor = raw(name, draw(st.binary(min_size=1, max_size=3)).ljust(size, b"\x3a")[:size], [size])
    if draw(st.booleans()):
        tensor.doc_string = draw(st.text(max_size=2000))
    if draw(st.integers(0, 5)) == 0:
        tensor.ClearField("raw_data")
        tensor.float_data.extend([1.5] * size)
    if draw(st.integers(0, 5)) == 0:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="x")
    return tensor


@st.composite
def models(draw: Any) -> onnx.ModelProto:
    made = model_of("g (float[2] x) => (float[2] y) { y = Relu(x) }", *draw(st.lists(tensors(), max_size=5)))
    made.producer_name = draw(st.text(max_size=300))
    made.graph.doc_string = draw(st.text(max_size=2000))
    if draw(st.booleans()):
        made.metadata_props.add(key="note", value="v" * draw(st.integers(0, 3000)))
    return made


def put_back(skeleton: bytes, weights: list[wire.Weight], buffer: bytes) -> onnx.ModelProto:
    made = onnx.ModelProto.FromString(skeleton)
    made.graph.initializer.extend(
        raw(one.name, buffer[one.offset : one.offset + one.nbytes], list(one.shape), one.data_type) for one in weights
    )
    return made


def comparable(model: onnx.ModelProto) -> tuple[list[bytes], bytes]:
    """(initializers without their notes, sorted; everything else)."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > wire.LARGE:
            tensor.ClearField("doc_string")
    initializers = sorted(tensor.SerializeToString(deterministic=True) for tensor in model.graph.initializer)
    del model.graph.initializer[:]
    return initializers, model.SerializeToString(deterministic=True)


@given(models())
def test_skeleton_and_weights_are_the_whole(model: onnx.ModelProto) -> None:
    data = model.SerializeToString()
    skeleton, weights = wire.split(memoryview(data))
    assert comparable(put_back(skeleton, weights, data)) == comparable(model)
    assert all(weight.nbytes > wire.LARGE for weight in weights)
    left = onnx.ModelProto.FromString(skeleton).graph.initializer
    assert not any(len(one.raw_data) > wire.LARGE and one.name and one.data_location == TensorProto.DEFAULT for one in left)


@given(models(), models())
def test_parts_of_a_graph_are_merged_as_protobuf_merges_them(one: onnx.ModelProto, other: onnx.ModelProto) -> None:
    data = one.SerializeToString() + other.SerializeToString()
    skeleton, weights = wire.split(memoryview(data))
    assert comparable(put_back(skeleton, weights, data)) == comparable(onnx.ModelProto.FromString(data))


@given(models(), st.data())
def test_what_protobuf_cannot_read_is_not_read(model: onnx.ModelProto, data: st.DataObject) -> None:
    """Cut short or changed anywhere: an error, or what protobuf makes of the same bytes."""
    whole = model.SerializeToString()
    if data.draw(st.booleans()):
        broken = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        at = data.draw(st.integers(0, len(whole) - 1))
        broken = whole[:at] + bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[at + 1 :]
    try:
        skeleton, weights = wire.split(memoryview(broken))
        made = put_back(skeleton, weights, broken)
    except (ValueError, DecodeError):
        return
    assert comparable(made) == comparable(onnx.ModelProto.FromString(broken))


@given(st.integers(0, 2**63 - 1))
def test_numbers_of_the_wire_format(number: int) -> None:
    encoded = wire._varint_bytes(number)
    assert wire._varint(memoryview(encoded), 0, len(encoded)) == (number, len(encoded))
    assert TensorProto.FromString(b"\x08" + encoded).dims == [number]


@pytest.mark.parametrize("broken", [b"\xff" * 11, b"\x80", b"\x0b", b"\x3a\x05ab", b"\x3a\x02\x2a\x05", b"\x09\x00"])
def test_broken_wire_format(broken: bytes) -> None:
    with pytest.raises(ValueError, match=r"byte \d+"):
        wire.split(memoryview(broken))


def test_packed_and_single_dimensions_are_the_same() -> None:
    packed = b"\x0a\x03\x02\x80\x04" + b"\x10\x02" + b"\x42\x01w" + b"\x4a\x80\x08" + bytes(1024) + b"\x4a\x81\x08" + bytes(1025)
    graph = b"\x2a" + wire._varint_bytes(len(packed)) + packed
    data = b"\x3a" + wire._varint_bytes(len(graph)) + graph
    _, (weight,) = wire.split(memoryview(data))
    assert (weight.name, weight.data_type, weight.shape, weight.nbytes) == ("w", 2, (2, 512), 1025)  # of two, the last counts


# tidy.py ------------------------------------------------------------------------------------------------------------

CONSTANTS = {
    "value = float[2] {1, 2}": np.array([1, 2], np.float32),
    "value_int = 3": np.array(3, np.int64),
    "value_ints = [1, 2, 3]": np.array([1, 2, 3], np.int64),
    "value_float = 0.5": np.array(0.5, np.float32),
    "value_floats = [0.5, 1.5]": np.array([0.5, 1.5], np.float32),
    'value_string = "ü"': np.array("ü", object),
    'value_strings = ["a", "b"]': np.array(["a", "b"], object),
}


@pytest.mark.parametrize("attribute", CONSTANTS)
def test_constants_become_initializers(attribute: str) -> None:
    graph = model_of(f"g () => (float y) {{ c = Constant<{attribute}>() y = Identity(c) }}").graph
    tidy_graph(graph)
    assert [node.op_type for node in graph.node] == ["Identity"]
    (tensor,) = graph.initializer
    found = numpy_helper.to_array(tensor)
    assert (tensor.name, found.shape, found.dtype) == ("c", CONSTANTS[attribute].shape, CONSTANTS[attribute].dtype)
    assert np.array_equal(found, CONSTANTS[attribute])


def test_constants_in_bodies_become_initializers_there() -> None:
    graph = model_of(
        """g (bool b) => (float y) {
            y = If (b) <then_branch = t () => (float u) { u = Constant<value = float {1}>() },
                        else_branch = e () => (float v) { c = Constant<value = float {2}>() v = Neg(c) }>
        }"""
    ).graph
    tidy_graph(graph)
    bodies = {attribute.name: attribute.g for attribute in graph.node[0].attribute}
    assert [(len(body.node), [one.name for one in body.initializer]) for body in bodies.values()] == [(0, ["u"]), (1, ["c"])]


@pytest.mark.parametrize("linear", [True, False])
def test_sparse_tensors_become_dense(linear: bool) -> None:
    indices = np.array([1, 5]) if linear else np.array([[0, 1], [1, 2]])
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([7, 8], np.float32), "s"), numpy_helper.from_array(indices, "i"), [2, 3]
    )
    graph = model_of("g () => (float[2,3] y) { c = Constant<value_int = 1>() y = Identity(s) }").graph
    graph.node[0].attribute[0].CopyFrom(helper.make_attribute("sparse_value", sparse))
    graph.sparse_initializer.append(sparse)
    tidy_graph(graph)
    assert not graph.sparse_initializer
    for tensor in graph.initializer:
        assert numpy_helper.to_array(tensor).tolist() == [[0, 7, 0], [0, 0, 8]]
    assert [tensor.name for tensor in graph.initializer] == ["s", "c"]


@pytest.mark.parametrize(
    ("values", "indices", "dims"),
    [
        ([1], [6], [2, 3]),
        ([1], [-1], [2, 3]),
        ([1, 2], [0], [2, 3]),
        ([1], [0, 1], [2, 3]),
        ([1], [[0, 3]], [2, 3]),
        ([1], [0], [-2, 3]),
        ([1], [0], [2**40, 2**40]),
    ],
    ids=str,
)
def test_sparse_tensors_that_contradict_themselves(values: Any, indices: Any, dims: Any) -> None:
    graph = model_of("g () => (float[2,3] y) { y = Identity(s) }").graph
    sparse = graph.sparse_initializer.add(dims=dims)
    sparse.values.CopyFrom(numpy_helper.from_array(np.array(values, np.float32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array(indices), "i"))
    with pytest.raises(InvalidModel, match="sparse tensor 's'"):
        tidy_graph(graph)


def test_a_dimension_of_minus_one_is_an_unknown_one() -> None:
    """Paddle's exporter writes it so."""
    model = model_of("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    (value,) = open_source(model).model().graph.inputs
    assert value.shape == onnx_ir.Shape([None])


ORDERS = {
    "{ a = Relu(x) y = Relu(a) }": True,
    "{ y = Relu(a) a = Relu(x) }": False,
    "{ y = If (b) <then_branch = t () => (float u) { u = Relu(x) }, else_branch = e () => (float v) { v = Neg(x) }> }": True,
    "{ y = If (b) <then_branch = t () => (float u) { u = Relu(a) }, else_branch = e () => (float v) { v = Neg(x) }> a = Relu(x) }": False,
    "{ y = If (b) <then_branch = t () => (float u) { u = Relu(w) w = Neg(x) }, else_branch = e () => (float v) { v = Neg(x) }> }": False,
}


@pytest.mark.parametrize("nodes", ORDERS)
def test_nodes_in_any_order(nodes: str) -> None:
    model = model_of(f"g (float x, bool b) => (float y) {nodes}")
    assert check_names(model.graph) is ORDERS[nodes]
    graph = open_source(model).model().graph
    seen: set[Any] = set(graph.inputs)
    for node in graph:
        assert all(value in seen for value in node.inputs)
        seen.update(node.outputs)


@pytest.mark.parametrize(
    ("nodes", "name"),
    [
        ("{ y = Relu(nowhere) }", "nowhere"),
        ("{ a = Relu(x) }", "y"),
        ("{ y = Relu(x) y = Neg(x) }", "y"),
        ("{ x = Relu(b) y = Neg(x) }", "x"),
        ("{ y = If (b) <then_branch = t () => (float u) { u = Neg(v) }, else_branch = e () => (float v) { v = Neg(x) }> }", "v"),
        ("{ y = If (b) <then_branch = t () => (float u) { u = Neg(x) }, else_branch = e () => (float w) { v = Neg(x) }> }", "w"),
    ],
)
def test_values_that_nothing_or_too_much_defines(nodes: str, name: str) -> None:
    graph = model_of(f"g (float x, float b) => (float y) {nodes}").graph
    with pytest.raises(InvalidModel, match=f"'{name}'") as caught:
        check_names(graph)
    assert caught.value.hint


GOOD = [
    raw("w", bytes(6), [2, 3]),
    raw("w", bytes(3), [5], TensorProto.INT4),
    raw("w", b"", [0, 3]),
    raw("w", bytes(2), [1], TensorProto.BFLOAT16),
    TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], float_data=[1, 2]),
    TensorProto(name="w", data_type=TensorProto.UINT4, dims=[3], int32_data=[1, 2]),
    TensorProto(name="w", data_type=TensorProto.COMPLEX64, dims=[2], float_data=[1, 2, 3, 4]),
    TensorProto(name="w", data_type=TensorProto.FLOAT16, dims=[], int32_data=[1]),
    TensorProto(name="w", data_type=TensorProto.UINT32, dims=[1], uint64_data=[1]),
    TensorProto(name="w", data_type=TensorProto.STRING, dims=[2], string_data=[b"a", b"b"]),
    *(helper.make_tensor("w", kind, [3], [1, 0, 1]) for kind in sorted(set(TensorProto.DataType.values()) - {0, 8})),
]
BAD = [
    raw("w", bytes(5), [2, 3]),
    raw("w", bytes(7), [2, 3]),
    raw("w", bytes(6), [-2, -3]),
    raw("w", bytes(6), [6], 99),
    raw("w", bytes(6), [6], TensorProto.STRING),
    raw("w", bytes(6), [2**62, 2**62]),
    TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], float_data=[1]),
    TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], int32_data=[1]),
    TensorProto(name="w", data_type=TensorProto.STRING, dims=[3], string_data=[b"a"]),
    TensorProto(name="w", dims=[1], float_data=[1]),
]


@pytest.mark.parametrize("where", ["initializer", "attribute", "body"])
@pytest.mark.parametrize(("tensor", "right"), [(one, True) for one in GOOD] + [(one, False) for one in BAD])
def test_tensors_hold_what_their_shape_and_type_want(tensor: TensorProto, right: bool, where: str) -> None:
    graph = onnx.GraphProto()
    if where == "initializer":
        graph.initializer.append(tensor)
    elif where == "attribute":
        graph.node.add(op_type="Constant").attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    else:
        body = onnx.GraphProto(initializer=[tensor])
        graph.node.add(op_type="If").attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(body)
    if right:
        check_tensors(graph, None)
    else:
        with pytest.raises(InvalidModel, match="'w'") as caught:
            check_tensors(graph, None)
        assert caught.value.hint


# infer.py -----------------------------------------------------------------------------------------------------------

CRASHING = {
    "EyeLike": "r = EyeLike<dtype = 1, k = 1>(u)",
    "RegexFullMatch": 'r = RegexFullMatch<pattern = "a">(u)',
    "DictVectorizer": 'r = ai.onnx.ml.DictVectorizer<string_vocabulary = ["a"]>(u)',
    "LabelEncoder": "r = ai.onnx.ml.LabelEncoder<keys_floats = [1.0], values_int64s = [1]>(u)",
}


@pytest.mark.parametrize("name", CRASHING)
@pytest.mark.parametrize("inside", ["graph", "body", "function"])
def test_inference_survives_values_without_a_type(name: str, inside: str) -> None:
    """onnx's own ends the process here."""
    nodes = {
        "graph": f"{{ u = com.acme.Unknown(x) {CRASHING[name]} }}",
        "body": f"{{ u = com.acme.Unknown(x) r = If (b) <then_branch = t () => (r1) {{ {CRASHING[name].replace('r =', 'r1 =')} }}, "
        f"else_branch = e () => (r2) {{ {CRASHING[name].replace('r =', 'r2 =')} }}> }}",
        "function": f"{{ v = com.acme.Unknown(x) r = local.f(v) }} "
        f'<domain: "local", opset_import: ["" : 21, "ai.onnx.ml" : 3]> f (u) => (r) {{ {CRASHING[name]} }}',
    }
    head = '<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 3, "com.acme" : 1, "local" : 1]>'
    model = open_source(parser.parse_model(f"{head} g (float[3] x, bool b) => (r) {nodes[inside]}")).model()
    operators = [node.op_type for graph in (model.graph, *model.graph.subgraphs()) for node in graph]
    operators += [node.op_type for function in model.functions.values() for node in function]
    assert name in operators


def test_inference_goes_on_once_the_type_is_known() -> None:
    """Each of these types follows from the one before it."""
    nodes = "{ a = Relu(x) b = ai.onnx.ml.LabelEncoder<keys_floats = [1.0], values_int64s = [1]>(a) c = Identity(b) "
    nodes += 'd = ai.onnx.ml.LabelEncoder<keys_int64s = [1], values_strings = ["q"]>(c) y = RegexFullMatch<pattern = "q">(d) }'
    model = open_source(model_of(f"g (float[3] x) => (y) {nodes}")).model()
    types = [node.outputs[0].dtype.name for node in model.graph]
    assert types == ["FLOAT", "INT64", "INT64", "STRING", "BOOL"]


def test_maps_are_values_of_no_known_type() -> None:
    model = open_source(model_of('g (float[N,2] x) => (y) { y = ai.onnx.ml.ZipMap<classlabels_strings = ["a", "b"]>(x) }')).model()
    assert model.graph.outputs[0].type is None


# onnx.py ------------------------------------------------------------------------------------------------------------


def mixed_weights() -> onnx.ModelProto:
    """Large and small weights, and one of each type that is not a whole number of bytes or not NumPy's own."""
    kinds = [TensorProto.FLOAT, TensorProto.INT4, TensorProto.UINT4, TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.BOOL]
    ones = [1.0, 0.0, 1.0]
    small = [helper.make_tensor(f"small{kind}", kind, [3], ones) for kind in kinds]
    large = [helper.make_tensor(f"large{kind}", kind, [3, 3001], ones * 3001) for kind in kinds]
    packed = [numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name) for tensor in (*small, *large)]
    nodes = [helper.make_node("Identity", [tensor.name], [f"out_{tensor.name}"]) for tensor in packed]
    outputs = [helper.make_tensor_value_info(f"out_{tensor.name}", tensor.data_type, list(tensor.dims)) for tensor in packed]
    graph = helper.make_graph(nodes, "weights", [], outputs, packed)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("way", ["path", "bytes", "proto", "ir", "external"])
def test_weights_are_the_same_whichever_way_they_come(way: str, tmp_path: Path) -> None:
    model = mixed_weights()
    path = tmp_path / "model.onnx"
    given_model: Any = path
    if way == "bytes":
        given_model = bytearray(model.SerializeToString())
    elif way == "proto":
        given_model = mixed_weights()
    elif way == "ir":
        given_model = onnx_ir.serde.deserialize_model(mixed_weights())
    else:
        onnx.save(mixed_weights(), path, save_as_external_data=way == "external", size_threshold=0, location="weights.bin")
    read = open_source(given_model).model().graph.initializers
    assert set(read) == {tensor.name for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        expected = numpy_helper.to_array(tensor)
        found = read[tensor.name].const_value.numpy()
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()


def test_nothing_given_is_changed() -> None:
    proto = mixed_weights()
    before = proto.SerializeToString(deterministic=True)
    open_source(proto).model()
    assert proto.SerializeToString(deterministic=True) == before
    model = onnx_ir.serde.deserialize_model(mixed_weights())
    nodes, printed = list(model.graph), str(model)
    open_source(model).model()
    assert (list(model.graph), str(model)) == (nodes, printed)


def test_every_node_knows_its_operator_set() -> None:
    model = model_of(
        """g (bool b, float[N] x) => (float[N] y, float[N] z) {
            y = If (b) <then_branch = t () => (float[N] u) { u = Relu(x) }, else_branch = e () => (float[N] v) { v = Neg(x) }>
            z = ai.onnx.ml.Scaler<offset = [0.0], scale = [2.0]>(x)
        }"""
    )
    model.opset_import[0].domain = "ai.onnx"
    branch, scaler = open_source(model).model().graph
    assert (branch.version, scaler.version) == (21, 3)
    assert [node.version for attribute in branch.attributes.values() for node in attribute.as_graph()] == [21, 21]


def test_shapes_are_inferred_past_large_weights(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.zeros((64, 32), np.float32), "w")
    model = model_of("g (float[N,64] x) => (y) { h = MatMul(x, w) y = Relu(h) }", weight)
    onnx.save(model, tmp_path / "m.onnx")
    (output,) = open_source(tmp_path / "m.onnx").model().graph.outputs
    assert (output.dtype, str(output.shape)) == (onnx_ir.DataType.FLOAT, "[N,32]")


def test_objects_that_are_no_model() -> None:
    for wrong in (None, 3, [], object(), helper.make_graph([], "g", [], [])):
        with pytest.raises(UnknownFormat, match=type(wrong).__name__) as caught:
            open_source(wrong)
        assert "ModelProto" in caught.value.hint
