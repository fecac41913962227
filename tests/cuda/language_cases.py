"""Cases of the kernels of language models: graphs of one node, inputs, and what NumPy makes of them in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from turnout.graph import ir

__all__ = ["EXPLAINED", "FAMILIES", "TYPES", "TextCase"]

Floats = NDArray[Any]
MICROSOFT = "com.microsoft"
TYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
EXPLAINED = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2}
"""By type, the largest difference that its rounding explains, as a share of the largest number."""


@dataclass
class TextCase:
    """what: in a few words. type: what it computes in. wanted: outputs in float64. kernel: its key in the budget, "" for none."""

    what: str
    type: str
    model: ir.Model
    inputs: dict[str, Any]
    wanted: dict[str, Floats]
    kernel: str = ""


def one_node(operator: str, inputs: dict[str, Any], outputs: dict[str, Any], domain: str = MICROSOFT, **attributes: Any) -> ir.Model:
    """inputs: name to array or None, in the operator's order; outputs: name to (dtype, shape)."""
    values = {name: _value(name, array.dtype, array.shape) for name, array in inputs.items() if array is not None}
    made = [_value(name, *kind) for name, kind in outputs.items()]
    node = ir.node(operator, [values.get(name) for name in inputs], attributes, domain=domain, outputs=made, version=1, name=operator)
    graph = ir.Graph(list(values.values()), made, nodes=[node], opset_imports={"": 24, domain: 1}, name="one")
    return ir.Model(graph, ir_version=11)


def _value(name: str, dtype: Any, shape: Any) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype))), shape=ir.Shape(shape))


def packed(numbers: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Numbers along the last axis, several to a byte, the first lowest; the last byte is filled up with zeros."""
    each = 8 // bits
    padded = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, -numbers.shape[-1] % each)])
    parts = padded.reshape(*padded.shape[:-1], -1, each).astype(np.uint16)
    return (parts << (bits * np.arange(each, dtype=np.uint16))).sum(-1).astype(np.uint8)


def quantised(random: np.random.Generator, n: int, k: int, bits: int, block: int, zero: str, dtype: Any) -> tuple[list[Any], Floats]:
    """Values, scales and zero points as MatMulNBits has them, and the matrix that they stand for: float64 [n, k]."""
    blocks = -(-k // block)
    numbers = random.integers(0, 1 << bits, (n, blocks, block), dtype=np.uint8)
    scales = random.uniform(0.5, 1.5, (n, blocks)).astype(dtype)
    zeros: Any = None
    points = np.full((n, blocks), 1 << (bits - 1), np.float64)
    if zero == "packed":
        whole = random.integers(0, 1 << bits, (n, blocks), dtype=np.uint8)
        zeros, points = packed(whole, bits), whole.astype(np.float64)
    elif zero == "typed":
        zeros = random.uniform(0, 1 << bits, (n, blocks)).astype(dtype)
        points = zeros.astype(np.float64)
    weights = (numbers - points[..., None]) * scales.astype(np.float64)[..., None]
    return [packed(numbers, bits), scales, zeros], weights.reshape(n, -1)[:, :k]


# what is tested ---------------------------------------------------------------------------------------------------------


def products() -> Iterator[TextCase]:
    """MatMulNBits: bits, blocks, zero points and types; one row and many; sizes that are no multiple of a block or a tile."""
    shapes = [(1, 70, 96), (1, 9, 80), (1, 40, 1100), (3, 33, 256), (4, 64, 64), (7, 50, 128), (16, 96, 544), (40, 70, 160), (130, 140, 64)]
    kinds = [
        (4, 32, "packed"),
        (4, 16, "none"),
        (8, 32, "packed"),
        (8, 128, "typed"),
        (4, 256, "typed"),
        (2, 32, "packed"),
        (2, 16, "none"),
    ]
    random = np.random.default_rng(0)
    for i, (tokens, n, k) in enumerate(shapes):
        for j, (bits, block, zero) in enumerate(kinds):
            name = list(TYPES)[(i + j) % 3]
            yield _product(random, name, (1, tokens), n, k, bits, block, zero, bias=(i + j) % 2 == 0)


def _product(random: Any, name: str, front: Any, n: int, k: int, bits: int, block: int, zero: str, *, bias: bool) -> TextCase:
    (values, scales, zeros), weights = quantised(random, n, k, bits, block, zero, TYPES[name])
    x = random.standard_normal((*front, k)).astype(TYPES[name])
    added = random.standard_normal(n).astype(TYPES[name]) if bias else None
    inputs = {"x": x, "values": values, "scales": scales, "zeros": zeros, "order": None, "bias": added}
    how = {"K": k, "N": n, "bits": bits, "block_size": block}
    model = one_node("MatMulNBits", inputs, {"y": (TYPES[name], (*front, n))}, **how)
    wanted = x.astype(np.float64) @ weights.T + (0 if added is None else added.astype(np.float64))
    what = f"{name} {front} x {n} x {k}, {bits} bits in {block}, zero {zero}"
    kernel = f"MatMulNBits {bits} bits, {front[-1]} rows, {name}" if (bits, zero) == (4, "packed") or front[-1] == 1 else ""
    return TextCase(what, name, model, _given(inputs), {"y": wanted}, kernel)


def _given(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: array for name, array in inputs.items() if array is not None}


def gathers() -> Iterator[TextCase]:
    """GatherBlockQuantized, with places that count from the end."""
    random = np.random.default_rng(1)
    for bits, block, zero, name in [(4, 32, "packed", "float32"), (8, 16, "none", "float16"), (2, 64, "packed", "bfloat16")]:
        (values, scales, zeros), weights = quantised(random, 50, 128, bits, block, zero, TYPES[name])
        places = random.integers(-50, 50, (2, 9))
        inputs = {"data": values.reshape(50, -1), "places": places, "scales": scales, "zeros": zeros}
        how = {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
        model = one_node("GatherBlockQuantized", inputs, {"y": (TYPES[name], (2, 9, 128))}, **how)
        yield TextCase(f"{bits} bits in {block}", name, model, _given(inputs), {"y": weights[places]}, f"GatherBlockQuantized {bits} bits")


FAMILIES: dict[str, Callable[[], Iterator[TextCase]]] = {"MatMulNBits": products, "GatherBlockQuantized": gathers}
