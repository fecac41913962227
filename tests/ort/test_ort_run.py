"""Runs: every type of value, buffers that are not copied, and errors that a person can read."""

from __future__ import annotations

import sys
import threading

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.errors import CompileError, InvalidInput, OutOfMemory, RunError
from turnout_ort.registry import registry
from turnout_ort.session import CarefulSession, PlainSession
from turnout_ort.values import FOREIGN, NATIVE

_IDENTITY = '<ir_version: 10, opset_import: ["" : 21]> g ({t} x) => ({t} y) {{ y = Identity(x) }}'
_ADD = '<ir_version: 10, opset_import: ["" : 21]> g (float[N,3] x, float[N,3] z) => (float[N,3] y) { y = Add(x, z) }'
_CAST = '<ir_version: 10, opset_import: ["" : 25]> g ({a}[N] x) => ({b}[N] y) {{ y = Cast <to = {to}> (x) }}'
_FLOAT = 1


def _casts(name: str) -> bool:
    """Whether this ONNX Runtime has a Cast for the type."""
    kernels = registry("CPUExecutionProvider")._kernels["", "Cast"]
    return any(f"tensor({name})" in types for kernel in kernels for types in kernel.types.values())


_FOREIGN = {name.removeprefix("tensor(").removesuffix(")"): foreign for name, foreign in FOREIGN.items()}
# an older onnx does not know every type that ONNX Runtime does
_CASTABLE = [name for name in _FOREIGN if _casts(name) and hasattr(onnx.TensorProto, name.upper())]


# numbers that a type holds exactly; powers of two where it is not an integer, since float8e8m0 has nothing else
_EXACT = {"int4": range(-8, 8), "uint4": range(16), "int2": range(-2, 2), "uint2": range(4)}
_POWERS = (0.25, 0.5, 1, 2, 4)


@pytest.mark.parametrize(("name", "dtype"), NATIVE.items())
def test_numpys_own_types_pass_through(build, name, dtype):
    executable = build(_IDENTITY.format(t=name.removeprefix("tensor(").removesuffix(")") + "[N,M]"))
    assert type(executable) is PlainSession
    x = np.array([[1, 0, 1], [0, 1, 1]], dtype)
    (y,) = executable.run([x])
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x)


def test_the_sample_of_foreign_types_is_not_empty():
    assert {"bfloat16", "float8e4m3fn", "float8e5m2", "int4", "uint4"} <= set(_CASTABLE)


@pytest.fixture(scope="module", params=_CASTABLE)
def casts(request, build):
    """A foreign type, and sessions that cast it to float32 and back."""
    name = request.param
    there = build(_CAST.format(a=name, b="float", to=_FLOAT))
    return name, there, build(_CAST.format(a="float", b=name, to=_FOREIGN[name].number))


@given(data=st.data())
def test_foreign_types_go_in_and_come_out(casts, data):
    name, to_float, from_float = casts
    values = data.draw(st.lists(st.sampled_from(_EXACT.get(name, _POWERS)), max_size=9))
    x = np.array(values, np.float32).astype(_FOREIGN[name].dtype)
    (wide,) = to_float.run([x])
    assert wide.tolist() == values
    (narrow,) = from_float.run([wide])
    assert narrow.dtype == x.dtype
    assert narrow.tobytes() == x.tobytes()


def test_shapes_of_foreign_types(build):
    assert type(build(_IDENTITY.format(t="bfloat16"))) is CarefulSession
    text = '<ir_version: 10, opset_import: ["" : 21]> g (bfloat16[N,M] x) => (y) { y = Transpose(x) }'
    x = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
    (y,) = build(text).run([x[:, ::2]])
    assert y.tolist() == [[0, 3], [2, 5]]
    assert build(_IDENTITY.format(t="bfloat16")).run([np.array(3, ml_dtypes.bfloat16)])[0].shape == ()
    empty = build(_IDENTITY.format(t="bfloat16[N]")).run([np.zeros(0, ml_dtypes.bfloat16)])[0]
    assert (empty.shape, empty.dtype) == ((0,), ml_dtypes.bfloat16)


def test_an_output_outlives_its_session(build):
    executable = build(_CAST.format(a="float", b="bfloat16", to=16))
    (y,) = executable.run([np.full(100_000, 3, np.float32)])
    executable.close()
    del executable
    np.zeros(200_000, np.uint8).fill(1)
    assert float(y.min()) == float(y.max()) == 3


def test_foreign_and_native_values_side_by_side(build):
    text = """<ir_version: 10, opset_import: ["" : 21]>
        g (bfloat16[N] x, float[M] f, int4[L] q) => (bfloat16[N] y, float[M] g, string[M] t, float[L] r)
        { y = Identity(x)  g = Neg(f)  t = Cast <to = 8> (f)  r = Cast <to = 1> (q) }"""
    x = np.array([1, 2], ml_dtypes.bfloat16)
    y, g, t, r = build(text).run([x, np.ones(4, np.float32)[::2], np.array([-1, 5, 7], ml_dtypes.int4)])
    assert (y.dtype, y.tolist()) == (x.dtype, [1, 2])
    assert (g.tolist(), t.tolist(), r.tolist()) == ([-1, -1], ["1", "1"], [-1, 5, 7])


@pytest.mark.parametrize("kind", ["string[N]", "seq(float[N])"])
def test_the_one_mixture_that_no_call_takes(build, kind):
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
        g (bfloat16[N] x, {kind} s) => (bfloat16[N] y, {kind} t) {{ y = Identity(x)  t = Identity(s) }}"""
    with pytest.raises(CompileError, match=r"gives tensor\(bfloat16\) \('y'\) only where all inputs are tensors of numbers"):
        build(text)


def test_foreign_inputs_and_strings(build):
    text = """<ir_version: 10, opset_import: ["" : 21]>
        g (bfloat16[N] x, string[N] s) => (float[N] y, string[N] t) { y = Cast <to = 1> (x)  t = Identity(s) }"""
    y, t = build(text).run([np.array([1, 2], ml_dtypes.bfloat16), np.array(["a", "ü"], object)])
    assert (y.tolist(), t.tolist()) == ([1, 2], ["a", "ü"])


@pytest.mark.parametrize(
    "x",
    [
        np.array(["a", "ü", ""], object),
        np.array(["a", "ü", ""]),
        np.array(["a", "ü", ""], np.dtypes.StringDType()),
        np.array([b"a", "ü".encode(), b""]),
    ],
    ids=["object", "fixed width", "variable width", "bytes"],
)
def test_strings(build, x):
    (y,) = build(_IDENTITY.format(t="string[N]")).run([x])
    assert (y.dtype, y.tolist()) == (object, ["a", "ü", ""])


def test_numbers_are_not_strings(build):
    with pytest.raises(InvalidInput, match="input 'x' is float32, not strings"):
        build(_IDENTITY.format(t="string[N]")).run([np.ones(2, np.float32)])


def test_sequences_and_optionals(build):
    text = """<ir_version: 10, opset_import: ["" : 21]>
        g (seq(float[N]) s, optional(float[N]) o) => (seq(float[N]) t, optional(float[N]) p)
        { t = Identity(s)  p = Identity(o) }"""
    executable = build(text)
    one, two = np.ones(1, np.float32), np.full(2, 2, ">f4")
    t, p = executable.run([[one, two], None])
    assert [part.tolist() for part in t] == [[1], [2, 2]]
    assert p is None
    t, p = executable.run([[], two])
    assert t == []
    assert p.tolist() == [2, 2]


def test_maps(build):
    from onnx import helper

    kind = helper.make_map_type_proto(8, helper.make_tensor_type_proto(_FLOAT, []))
    node = helper.make_node("DictVectorizer", ["x"], ["y"], domain="ai.onnx.ml", string_vocabulary=["b", "a"])
    graph = helper.make_graph([node], "g", [helper.make_value_info("x", kind)], [helper.make_tensor_value_info("y", _FLOAT, [1, 2])])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    from turnout.graph import ir, partition
    from turnout_cpu.provider import CpuProvider

    # onnx_ir has no map types: the file goes over whole, and only names and order come from the graph
    x, y = ir.Value(name="x"), ir.Value(name="y")
    bare = ir.node("DictVectorizer", [x], outputs=[y], domain="ai.onnx.ml", version=3)
    view = partition([bare], [x], [y], {"": 21, "ai.onnx.ml": 3}, name="g", file=model.SerializeToString())
    provider = CpuProvider()
    (vector,) = provider.compile(view, provider.probe()[0], None).run([{"a": 1.0, "b": 2.0}])
    assert vector.tolist() == [[2, 1]]


@pytest.mark.parametrize(
    "x",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.arange(24, dtype=np.float32).reshape(4, 6)[:, ::2],
        np.arange(12, dtype=">f4").reshape(4, 3),
        np.broadcast_to(np.float32(2), (4, 3)),
        np.frombuffer(b"\0" + np.arange(12, dtype=np.float32).tobytes(), np.uint8)[1:].view(np.float32).reshape(4, 3),
    ],
    ids=["transposed", "strided", "other byte order", "broadcast", "unaligned"],
)
def test_arrays_of_any_layout(build, x):
    executable = build(_ADD)
    zero = np.zeros((4, 3), np.float32)
    np.testing.assert_array_equal(executable.run([x, zero])[0], x.astype(np.float32))
    out = np.empty((4, 3), np.float32)
    np.testing.assert_array_equal(executable.bind([x, zero], [out])()[0], x.astype(np.float32))


def test_scalars_and_empty_arrays(build):
    executable = build(_IDENTITY.format(t="float"))
    assert executable.run([np.array(3, np.float32)])[0].shape == ()
    assert executable.bind([np.array(3, np.float32)], [None])()[0] == 3
    assert build(_IDENTITY.format(t="float[N]")).run([np.zeros(0, np.float32)])[0].shape == (0,)


def test_bound_buffers_are_the_ones_that_are_used(build):
    executable = build(_ADD)
    x, z, y = np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    run = executable.bind([x, z], [y])
    (first,) = run()
    assert first is y
    assert y.tolist() == [[2, 2, 2], [2, 2, 2]]
    x[:] = 10
    run()
    assert y.tolist() == [[11, 11, 11], [11, 11, 11]]


def test_a_bound_output_without_a_buffer_is_new_each_time(build):
    executable = build('<ir_version: 10, opset_import: ["" : 21]> g (float[N] x) => (i) { i = NonZero(x) }')
    x = np.array([0, 1, 1], np.float32)
    run = executable.bind([x], [None])
    (first,) = run()
    x[:] = [0, 0, 1]
    (second,) = run()
    assert (first.tolist(), second.tolist()) == ([[1, 2]], [[2]])


def test_some_buffers_and_some_not(build):
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[N] x) => (float[N] a, float[N] b) { a = Neg(x)  b = Abs(x) }'
    x, b = np.array([-1, 2], np.float32), np.zeros(2, np.float32)
    made, given_back = build(text).run([x], [None, b])
    assert given_back is b
    assert (made.tolist(), b.tolist()) == ([1, -2], [1, 2])


def test_buffers_of_foreign_types(build):
    executable = build(_IDENTITY.format(t="bfloat16[N]"))
    x, y = np.array([1, 2], ml_dtypes.bfloat16), np.zeros(2, ml_dtypes.bfloat16)
    run = executable.bind([x], [y])
    x[0] = 5
    assert run()[0] is y
    assert y.tolist() == [5, 2]
    packed = build(_CAST.format(a="float", b="int4", to=22))
    buffer = np.zeros(3, ml_dtypes.int4)
    assert packed.run([np.array([-1, 2, 7], np.float32)], [buffer])[0] is buffer
    assert buffer.astype(int).tolist() == [-1, 2, 7]


def test_buffers_of_strings_and_sequences(build):
    words = np.array(["", ""], object)
    assert build(_IDENTITY.format(t="string[N]")).run([np.array(["a", "b"], object)], [words])[0] is words
    assert words.tolist() == ["a", "b"]


def test_an_output_in_the_memory_of_an_input(build):
    total, step = np.zeros((1, 3), np.float32), np.array([[1, 2, 3]], np.float32)
    run = build(_ADD).bind([total, step], [total])
    for _ in range(3):
        run()
    assert total.tolist() == [[3, 6, 9]]


def test_one_executable_in_many_threads(build):
    executable = build(_ADD)
    wrong = []

    def work(number):
        x = np.full((50, 3), number, np.float32)
        sums = [executable.run([x, x])[0] for _ in range(50)]
        wrong.extend(number for y in sums if not (y == 2 * number).all())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


_GOOD = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (_GOOD.astype(np.float64), "input 'x' is float64, not float32"),
        (_GOOD.astype(ml_dtypes.bfloat16), "input 'x' is bfloat16, not float32"),
        (np.array([["a", "b", "c"]]), "input 'x' is <U1, not float32"),
        (_GOOD[0], r"input 'x' has rank 1 \(\[3\]\), not 2 \(\[any, 3\]\)"),
        (_GOOD[:, :2], r"input 'x' has shape \[2, 2\], not \[any, 3\]"),
        (None, "input 'x' is a NoneType, not an array"),
        ([[1, 2, 3]], "input 'x' is a list, not an array"),
        (np.float32(1), "input 'x' is a float32, not an array"),
    ],
)
def test_a_wrong_input_is_named(build, x, message):
    executable = build(_ADD)
    with pytest.raises(InvalidInput, match=message):
        executable.run([x, _GOOD])
    with pytest.raises(InvalidInput, match=message):
        executable.bind([x, _GOOD], [None])


def test_a_wrong_number_of_inputs(build):
    with pytest.raises(InvalidInput, match="1 inputs were given, and there are 2: x, z"):
        build(_ADD).run([_GOOD])


def test_a_wrong_input_of_a_foreign_type(build):
    executable = build(_IDENTITY.format(t="bfloat16[N]"))
    with pytest.raises(InvalidInput, match="input 'x' is uint16, not bfloat16") as caught:
        executable.run([np.zeros(2, np.uint16)])
    assert caught.value.hint == "x.astype('bfloat16')"


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros((3, 3), np.float32), "shape"),
        (np.zeros((2, 3), np.float64), "the buffer for output 'y' is float64, not float32"),
        (np.broadcast_to(np.float32(0), (2, 3)), "the buffer for output 'y' cannot be written to"),
    ],
)
def test_a_wrong_buffer(build, y, message):
    with pytest.raises(RunError, match=message):
        build(_ADD).run([_GOOD, _GOOD], [y])


def test_a_failing_node_is_named_without_noise(build):
    text = """<ir_version: 10, opset_import: ["" : 21]>
        g (float[N] x, int64[M] i) => (float[M] y) { [pick] y = Gather(x, i) }"""
    with pytest.raises(RunError) as caught:
        build(text).run([np.zeros(3, np.float32), np.array([9])])
    assert caught.value.message.startswith("ONNX Runtime: indices element out of data bounds, idx=9")
    assert caught.value.message.endswith("(in the Gather node 'pick')")
    assert type(caught.value) is RunError


def test_shapes_that_do_not_fit_together(build):
    with pytest.raises(RunError, match="Attempting to broadcast an axis by a dimension other than 1") as caught:
        build(_ADD).run([_GOOD, np.ones((3, 3), np.float32)])
    assert "/" not in caught.value.message


def test_too_much_memory(build):
    text = '<ir_version: 10, opset_import: ["" : 21]> g (int64[N] n) => (float[K] y) { y = ConstantOfShape(n) }'
    with pytest.raises(OutOfMemory, match=r"out of memory: ConstantOfShape asked for 70\.4 TB"):
        build(text).run([np.array([1 << 44])])


def test_onnx_runtime_prints_nothing(build, capfd):
    with pytest.raises(RunError):
        build(_ADD).run([_GOOD, np.ones((3, 3), np.float32)])
    assert capfd.readouterr().err == ""
    assert sys.stderr is not None
