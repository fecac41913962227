"""Single products with a quantised matrix, for the tests and for the rig of arm64, which has no pytest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import turnout

K, N, BLOCK = 576, 256, 32


def product(bits: int, zero_points: bool, level: int, values: Any, scales: Any) -> turnout.Model:
    """MatMulNBits alone, as turnout-gguf writes it."""
    blocks = packed(values.reshape(N, -1, BLOCK).astype(np.uint8), bits)
    weights = [numpy_helper.from_array(blocks, "values"), numpy_helper.from_array(scales, "scales")]
    if zero_points:
        zeros = np.full((N, -(-K // BLOCK * bits // 8)), {2: 0xAA, 4: 0x88, 8: 128}[bits], np.uint8)
        weights.append(numpy_helper.from_array(zeros, "zeros"))
    how = {"K": K, "N": N, "bits": bits, "block_size": BLOCK, "accuracy_level": level, "domain": "com.microsoft"}
    node = helper.make_node("MatMulNBits", ["x", *(one.name for one in weights)], ["y"], **how)
    return alone(node, weights, K, N)


def packed(codes: Any, bits: int) -> Any:
    """As many codes of the last axis in a byte as fit, the first in the lowest bits; what is left of the last byte is 0."""
    each = 8 // bits
    filled = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % each)])
    return np.bitwise_or.reduce(filled.reshape(*codes.shape[:-1], -1, each) << np.arange(0, 8, bits, dtype=np.uint8), -1)


def alone(node: onnx.NodeProto, weights: Sequence[onnx.TensorProto], columns: int, rows: int) -> turnout.Model:
    ends = (("x", columns), ("y", rows))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "tokens", size]) for name, size in ends)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(helper.make_graph([node], "product", [x], [y], weights), opset_imports=opsets, ir_version=10)
    return turnout.load(model, device="cpu")
