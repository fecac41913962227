"""Repacking: the form that MatMulNBits takes holds the same weights, by its own definition and in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from made import BY_NAME, blocks
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from turnout_gguf.blocks import QUANTISED, dequantise
from turnout_gguf.repack import Packed, form_of, repack

ROWS, COLUMNS = 48, 768


def packed(name: str, narrowest: int = 2) -> tuple[NDArray[np.float32], Packed]:
    """(the weights, the same repacked)."""
    kind = BY_NAME[name]
    raw = blocks(kind, ROWS, COLUMNS, seed=kind.number)
    return dequantise(raw, kind), repack(raw, kind, form_of(kind, narrowest))


def fields(packed: NDArray[np.uint8], bits: int) -> NDArray[np.int64]:
    """[..., bytes] to [..., values], lowest bits first, one by one."""
    return np.stack([(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)], -1).reshape(*packed.shape[:-1], -1).astype(np.int64)


def weights_of(matrix: Packed) -> NDArray[np.float64]:
    """The definition of the form, in float64."""
    form = matrix.form
    zero_points = fields(matrix.zero_points, form.bits)[:, : matrix.scales.shape[1], None]
    weights = (fields(matrix.values, form.bits) - zero_points) * matrix.scales.astype(np.float64)[:, :, None]
    if matrix.offsets is not None:
        weights += matrix.offsets[:, :, None]
    return weights.reshape(ROWS, COLUMNS)


@pytest.mark.parametrize("name", [name for name, layout in QUANTISED.items() if not layout.has_minimum])
def test_types_without_a_minimum_come_out_bit_by_bit(name: str) -> None:
    weights, matrix = packed(name)
    assert matrix.offsets is None
    assert np.array_equal(weights_of(matrix).astype(np.float32), weights)


@pytest.mark.parametrize("name", [name for name, layout in QUANTISED.items() if layout.has_minimum])
def test_types_with_a_minimum_differ_by_the_rounding_of_the_offset_at_most(name: str) -> None:
    weights, matrix = packed(name)
    assert matrix.offsets is not None
    # two roundings to float32: of the offset here, of the weight in ggml
    largest = np.abs(weights).max() + np.abs(matrix.offsets).max()
    assert np.abs(weights_of(matrix) - weights).max() <= largest * 2.0**-23


def run(node_type: str, matrix: Packed, x: NDArray[np.generic], attributes: dict[str, int]) -> NDArray[np.float32]:
    """One of the two operators on a matrix, in ONNX Runtime."""
    gathers = node_type == "GatherBlockQuantized"
    values = matrix.values.reshape(ROWS, -1) if gathers else matrix.values
    weights = {"b": values, "scales": matrix.scales, "zero": matrix.zero_points}
    order = ["b", "x", "scales", "zero"] if gathers else ["x", "b", "scales", "zero"]
    node = helper.make_node(
        node_type, order, ["y"], domain="com.microsoft", bits=matrix.form.bits, block_size=matrix.form.block, **attributes
    )
    given = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "one", [given], [made], [numpy_helper.from_array(array, name) for name, array in weights.items()])
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("name", QUANTISED)
def test_matmulnbits_of_onnx_runtime_agrees(name: str) -> None:
    weights, matrix = packed(name)
    x = np.random.default_rng(1).standard_normal((5, COLUMNS)).astype(np.float32)
    y = run("MatMulNBits", matrix, x, {"K": COLUMNS, "N": ROWS, "accuracy_level": 0})
    if matrix.offsets is not None:
        y = y + x.reshape(5, -1, matrix.form.block).sum(-1) @ matrix.offsets.T
    exact = x.astype(np.float64) @ weights.T.astype(np.float64)
    assert np.abs(y - exact).max() < 1e-6 * (np.abs(x) @ np.abs(weights.T)).max()


@pytest.mark.parametrize("name", QUANTISED)
def test_gatherblockquantized_of_onnx_runtime_agrees(name: str) -> None:
    weights, matrix = packed(name, narrowest=4)
    rows = np.array([3, 0, 47, 3], np.int64)
    y = run("GatherBlockQuantized", matrix, rows, {"gather_axis": 0, "quantize_axis": 1})
    if matrix.offsets is None:
        assert np.array_equal(y, weights[rows])
    else:
        y = (y.reshape(4, -1, matrix.form.block) + matrix.offsets[rows][:, :, None]).reshape(4, COLUMNS)
        assert np.abs(y - weights[rows]).max() <= 2.0**-22 * (np.abs(weights).max() + np.abs(matrix.offsets).max())


def test_large_matrices_are_repacked_in_parts_that_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = packed("Q4_K")
    monkeypatch.setattr("turnout_gguf.repack._AT_ONCE", 5 * 256)
    _, parts = packed("Q4_K")
    assert np.array_equal(whole.values, parts.values)
    assert np.array_equal(whole.scales, parts.scales)
    assert whole.offsets is not None
    assert parts.offsets is not None
    assert np.array_equal(whole.offsets, parts.offsets)
