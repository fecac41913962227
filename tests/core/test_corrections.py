"""Where ONNX's evaluator is wrong or lacks an operator, the reference provider gives what ONNX Runtime gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper as oh

import turnout
from turnout.errors import NoProvider

Array = np.ndarray[Any, Any]
few = settings(max_examples=25, deadline=None)
RNG = np.random.default_rng(7)


def model(operator: str, inputs: Mapping[str, Array], version: int, outputs: int = 1, **attributes: Any) -> onnx.ModelProto:
    names = [f"y{place}" for place in range(outputs)]
    infos = [oh.make_tensor_value_info(name, oh.np_dtype_to_tensor_dtype(array.dtype), array.shape) for name, array in inputs.items()]
    node = oh.make_node(operator, list(inputs), names, **attributes)
    graph = oh.make_graph([node], "one", infos, [onnx.ValueInfoProto(name=name) for name in names])
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", version)], ir_version=8)


def compare(operator: str, inputs: Mapping[str, Array], version: int, outputs: int = 1, **attributes: Any) -> None:
    proto = model(operator, inputs, version, outputs, **attributes)
    try:
        wanted = turnout.load(proto, device="cpu").run(inputs)
    except NoProvider:
        assume(False)  # ONNX Runtime is wrong about it, or lacks it
    got = turnout.load(proto, device="reference").run(inputs)
    for name, value in wanted.items():
        assert (got[name].shape, got[name].dtype) == (value.shape, value.dtype)
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def floats(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def each(rank: int, low: int, high: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(low, high), min_size=rank, max_size=rank)


@st.composite
def windows(draw: st.DrawFn) -> tuple[Array, dict[str, Any]]:
    """A tensor of one to three spatial axes, and how to go over it."""
    rank = draw(st.integers(1, 3))
    kernel, strides = draw(each(rank, 1, 3)), draw(each(rank, 1, 3))
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    if draw(st.booleans()):
        attributes["pads"] = [draw(st.integers(0, size - 1)) for size in kernel * 2]
    elif draw(st.booleans()):
        attributes["auto_pad"] = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    return floats(draw(st.integers(1, 2)), draw(st.integers(1, 3)), *draw(each(rank, 5, 8))), attributes


@few
@given(windows(), st.sampled_from([10, 12, 22]), st.integers(0, 1), st.integers(1, 2), st.integers(0, 1))
def test_max_pool(how: tuple[Array, dict[str, Any]], version: int, ceil: int, outputs: int, order: int) -> None:
    x, attributes = how
    compare("MaxPool", {"x": x}, version, outputs, ceil_mode=ceil, storage_order=order, dilations=[2] * (x.ndim - 2), **attributes)
    compare("MaxPool", {"x": (x * 9).astype(np.int8)}, 12, outputs, ceil_mode=ceil, storage_order=order, **attributes)


@few
@given(windows(), st.sampled_from([10, 11, 19, 22]), st.integers(0, 1), st.integers(0, 1))
def test_average_pool(how: tuple[Array, dict[str, Any]], version: int, ceil: int, include: int) -> None:
    x, attributes = how
    compare("AveragePool", {"x": x}, version, ceil_mode=ceil, count_include_pad=include, **attributes)


@few
@given(windows(), st.sampled_from([11, 18, 22]), st.integers(1, 3))
def test_lp_pool(how: tuple[Array, dict[str, Any]], version: int, p: int) -> None:
    x, attributes = how
    compare("LpPool", {"x": x}, version, p=p, **attributes)


@few
@given(windows(), st.integers(1, 3), st.booleans())
def test_conv_transpose_in_groups(how: tuple[Array, dict[str, Any]], groups: int, biased: bool) -> None:
    x, attributes = how
    assume("auto_pad" not in attributes)
    inputs = {"x": floats(1, 2 * groups, *x.shape[2:]), "w": floats(2 * groups, 2, *attributes["kernel_shape"])}
    compare("ConvTranspose", inputs | ({"b": floats(2 * groups)} if biased else {}), 11, group=groups, **attributes)


@few
@given(st.sampled_from([1, 11, 12, 13]), st.integers(0, 2), st.sampled_from(["Softmax", "LogSoftmax", "Hardmax"]))
def test_softmax_and_its_kin(version: int, axis: int, operator: str) -> None:
    compare(operator, {"x": floats(2, 3, 4)}, version, axis=axis)
    compare(operator, {"x": floats(2, 3, 4)}, version)


@few
@given(each(8, -1, 2), st.sampled_from([2, 11, 18]))
def test_pads_that_cut(pads: list[int], version: int) -> None:
    x = floats(3, 4, 3, 4)
    if version == 2:
        compare("Pad", {"x": x}, version, pads=pads)
    else:
        compare("Pad", {"x": x, "pads": np.array(pads)}, version)


@few
@given(st.integers(-2, 1), st.booleans())
def test_one_hot(axis: int, vector: bool) -> None:
    depth = np.array([4] if vector else 4)
    compare("OneHot", {"at": np.array([-4, 0, 3, 5]), "depth": depth, "values": np.array([2, 5], np.float32)}, 11, axis=axis)


@few
@given(st.sampled_from([1, 3, 5]), st.integers(1, 6))
def test_lrn(size: int, channels: int) -> None:
    compare("LRN", {"x": floats(2, channels, 4, 3)}, 13, size=size, alpha=0.3)


CHANNELS = {name: RNG.random(3).astype(np.float32) + 0.5 for name in ("scale", "bias", "mean", "variance")}
BYTES = {"x": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "scale": CHANNELS["scale"], "zero": np.array([1, 2, 3], np.uint8)}
X, SCALES = floats(2, 3, 4, 5), np.array([1, 1, 2, 1.5], np.float32)

OLD: Sequence[tuple[str, Mapping[str, Array], Sequence[int], Mapping[str, Any]]] = [
    ("BatchNormalization", {"x": X, **CHANNELS}, (7, 8, 9, 13, 15), {"epsilon": 0.1}),
    ("DequantizeLinear", BYTES, (13,), {"axis": 1}),
    ("DequantizeLinear", {**BYTES, "scale": np.array(0.5, np.float32), "zero": np.array(3, np.uint8)}, (10, 13), {}),
    ("GlobalLpPool", {"x": X}, (2,), {"p": 3}),
    ("MeanVarianceNormalization", {"x": X}, (9, 13), {"axes": [0, 2]}),
    ("Resize", {"x": X, "scales": SCALES}, (10,), {"mode": "linear"}),
    ("Resize", {"x": X, "scales": SCALES}, (10,), {"mode": "nearest"}),
    ("Scatter", {"x": X[0, 0], "at": np.array([[0, -1, 2]]), "new": floats(1, 3)}, (10,), {"axis": 1}),
    ("Upsample", {"x": X, "scales": SCALES}, (9,), {"mode": "linear"}),
    ("Upsample", {"x": X}, (7,), {"mode": "nearest", "scales": SCALES.tolist()}),
]


@pytest.mark.parametrize(("operator", "inputs", "versions", "attributes"), OLD, ids=[row[0] for row in OLD])
def test_older_definitions(operator: str, inputs: Mapping[str, Array], versions: Sequence[int], attributes: Mapping[str, Any]) -> None:
    for version in versions:
        compare(operator, inputs, version, **attributes)


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Pow", "PRelu"])
def test_the_second_operand_began_at_an_axis_of_the_first(operator: str) -> None:
    a, b = np.abs(X) + 1, np.array([1, 2, 3], np.float32)
    if operator == "PRelu":
        a, b, attributes = X, b, {}
        wanted = np.where(a < 0, a * b[:, None, None], a)
    else:
        attributes = {"axis": 1, "broadcast": 1}
        function = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power}[operator]
        wanted = function(a, b[:, None, None])
    proto = model(operator, {"a": a, "b": b}, 6, **attributes)
    np.testing.assert_allclose(turnout.load(proto, device="reference").run(a=a, b=b)["y0"], wanted, rtol=1e-6)


def test_normalizing_float16_does_not_end_in_a_body_of_float32() -> None:
    x = X.astype(np.float16)
    proto = model("MeanVarianceNormalization", {"x": x}, 13)
    with pytest.warns(turnout.errors.SlowPathWarning):
        loaded = turnout.load(proto)
    result = loaded.run(x=x)["y0"]
    assert result.dtype == np.float16
    np.testing.assert_allclose(result.mean((0, 2, 3), np.float32), 0, atol=1e-3)
    np.testing.assert_allclose(result.std((0, 2, 3), np.float32), 1, atol=1e-2)


def test_an_attribute_that_the_evaluator_has_no_place_for_is_refused() -> None:
    proto = model("InstanceNormalization", {"x": X, "scale": CHANNELS["scale"], "bias": CHANNELS["bias"]}, 5, consumed_inputs=[0, 1, 2])
    with pytest.raises(NoProvider, match="does not know InstanceNormalization's attribute consumed_inputs"):
        turnout.load(proto, device="reference")
