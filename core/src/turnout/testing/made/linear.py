"""Cases of matrix products, convolutions and pooling."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from turnout.testing.made.draft import Draft, Group, admitted
from turnout.testing.made.draw import DTYPES, draw, is_float, strided

__all__ = ["groups"]


def groups() -> Iterator[Group]:
    """Products, convolutions and pooling, with every element type."""
    makers = {
        "MatMul": _matmul,
        "Gemm": _gemm,
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "Einsum": _einsum,
        **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pool),
        **dict.fromkeys(("GlobalMaxPool", "GlobalAveragePool"), _global_pool),
    }
    for operator, make in makers.items():
        for name in admitted(operator):
            yield Group(operator, name, functools.partial(make, operator, DTYPES[name]))
    for name in ("uint8", "int8"):
        yield Group("MatMulInteger", name, functools.partial(_matmul_integer, DTYPES[name]))


_MATRICES: Mapping[str, tuple[str, Sequence[int], Sequence[int]]] = {
    "3x5 by 5x4": ("plain", (3, 5), (5, 4)),
    "vector by matrix": ("plain", (5,), (5, 4)),
    "matrix by vector": ("plain", (3, 5), (5,)),
    "vector by vector": ("scalar", (5,), (5,)),
    "1x1": ("odd", (1, 1), (1, 1)),
    "7x13 by 13x11": ("odd", (7, 13), (13, 11)),
    "65x33 by 33x47": ("large", (65, 33), (33, 47)),
    "batches": ("broadcasting", (2, 1, 3, 5), (4, 5, 2)),
    "one matrix for a batch": ("broadcasting", (2, 3, 5), (5, 4)),
    "no rows": ("empty", (0, 5), (5, 4)),
    "nothing between": ("empty", (3, 0), (0, 4)),
}


def _matmul(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    def pair(first: Sequence[int], second: Sequence[int]) -> list[Any]:
        return [draw(dtype, first, "a"), draw(dtype, second, "b")]

    for title, (kind, first, second) in _MATRICES.items():
        yield Draft(kind, pair(first, second), title=title)
    yield Draft("constant", pair((3, 5), (5, 4)), constants=[1])
    yield Draft("strided", [strided(value) for value in pair((3, 5), (5, 4))])
    yield Draft("strided", [pair((5, 3), (5, 4))[0].T, pair((5, 3), (5, 4))[1]], title="transposed")
    yield Draft("open", pair((3, 5), (5, 4)), more=[pair((1, 1), (1, 1)), pair((0, 2), (2, 3)), pair((6, 7), (7, 8))])
    if is_float(dtype):
        a, b = pair((3, 5), (5, 4))
        a[1, 2] = np.nan
        yield Draft("special", [a, b], title="NaN")


def _gemm(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    def three(first: Sequence[int], second: Sequence[int], third: Sequence[int]) -> list[Any]:
        return [draw(dtype, first, "a"), draw(dtype, second, "b"), draw(dtype, third, "c")]

    yield Draft("plain", three((3, 5), (5, 4), (3, 4)))
    yield Draft("plain", three((3, 5), (5, 4), ())[:2], title="no C")
    yield Draft("attributes", three((5, 3), (4, 5), (3, 4)), {"transA": 1, "transB": 1}, title="transA transB")
    whole = not is_float(dtype)
    scales = {"alpha": 2.0, "beta": 3.0} if whole else {"alpha": 0.5, "beta": 0.25}
    yield Draft("attributes", three((3, 5), (5, 4), (3, 4)), scales, title="alpha beta")
    for third in ((4,), (1, 4), (3, 1), (1,), ()):
        yield Draft("broadcasting", three((3, 5), (5, 4), third), title=str(list(third)))
    yield Draft("constant", three((3, 5), (5, 4), (4,)), constants=[1, 2])
    yield Draft("empty", three((0, 5), (5, 4), (4,)))
    yield Draft("empty", three((3, 0), (0, 4), (4,)), title="nothing between")
    yield Draft("large", three((65, 33), (33, 47), (47,)))


def _matmul_integer(dtype: np.dtype[Any]) -> Iterator[Draft]:
    a, b = draw(dtype, (3, 5), "a", -9, 9), draw(dtype, (5, 4), "b", -9, 9)
    yield Draft("plain", [a, b])
    yield Draft("plain", [a, b, np.array(3, dtype), np.array(2, dtype)], title="zero points")
    yield Draft("constant", [a, b, np.array(3, dtype), np.array(2, dtype)], constants=[1, 2, 3])
    yield Draft("empty", [a[:0], b])


def _conv(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    def parts(x: Sequence[int], weights: Sequence[int], bias: bool = False) -> list[Any]:
        made = [draw(dtype, x, "x", -1, 1), draw(dtype, weights, "w", -1, 1)]
        return [*made, draw(dtype, weights[:1], "b", -1, 1)] if bias else made

    yield Draft("plain", parts((2, 3, 7, 6), (4, 3, 3, 3)))
    yield Draft("plain", parts((2, 3, 7, 6), (4, 3, 3, 3), bias=True), title="bias")
    yield Draft("plain", parts((2, 3, 9), (4, 3, 3)), title="1 dimension")
    yield Draft("plain", parts((1, 2, 4, 5, 6), (3, 2, 2, 2, 3)), title="3 dimensions")
    variants: Mapping[str, Mapping[str, Any]] = {
        "pads": {"pads": [1, 0, 2, 1]},
        "strides": {"strides": [2, 3]},
        "dilations": {"dilations": [2, 2]},
        "SAME_UPPER": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        "SAME_LOWER": {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        "VALID": {"auto_pad": "VALID"},
    }
    for title, attributes in variants.items():
        yield Draft("attributes", parts((1, 2, 7, 6), (3, 2, 3, 2)), attributes, title=title)
    yield Draft("attributes", parts((1, 4, 5, 5), (6, 2, 3, 3)), {"group": 2}, title="group=2")
    yield Draft("attributes", parts((1, 3, 5, 5), (3, 1, 3, 3)), {"group": 3}, title="depthwise")
    yield Draft("odd", parts((1, 1, 1, 1), (1, 1, 1, 1)))
    yield Draft("constant", parts((2, 3, 7, 6), (4, 3, 3, 3), bias=True), constants=[1, 2])
    yield Draft("large", parts((1, 13, 17, 19), (7, 13, 3, 3)))
    yield Draft("empty", parts((0, 3, 7, 6), (4, 3, 3, 3)))


def _conv_transpose(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    def parts(x: Sequence[int], weights: Sequence[int]) -> list[Any]:
        return [draw(dtype, x, "x", -1, 1), draw(dtype, weights, "w", -1, 1)]

    yield Draft("plain", parts((1, 3, 4, 5), (3, 2, 3, 3)))
    yield Draft("plain", parts((1, 3, 5), (3, 2, 3)), title="1 dimension")
    yield Draft("attributes", parts((1, 3, 4, 5), (3, 2, 3, 3)), {"strides": [2, 2], "pads": [1, 1, 1, 1]}, title="strides pads")
    yield Draft("attributes", parts((1, 3, 4, 5), (3, 2, 3, 3)), {"strides": [2, 2], "output_padding": [1, 1]}, title="output_padding")
    yield Draft("attributes", parts((1, 4, 4, 5), (4, 1, 3, 3)), {"group": 2}, title="group=2")


def _einsum(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    a, b = draw(dtype, (2, 3, 5), "a"), draw(dtype, (2, 5, 4), "b")
    yield Draft("plain", [a, b], {"equation": "bij,bjk->bik"})
    yield Draft("attributes", [a], {"equation": "bij->b"}, title="sum")
    yield Draft("attributes", [a], {"equation": "bij->jbi"}, title="transpose")


def _pool(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (2, 3, 7, 6), "x", 0.5, 3.0)
    kernel: Mapping[str, Any] = {"kernel_shape": [3, 2]}
    yield Draft("plain", [x], kernel)
    yield Draft("plain", [draw(dtype, (2, 3, 9), "x", 0.5, 3.0)], {"kernel_shape": [3]}, title="1 dimension")
    yield Draft("plain", [draw(dtype, (1, 2, 4, 5, 6), "x", 0.5, 3.0)], {"kernel_shape": [2, 2, 3]}, title="3 dimensions")
    variants: Mapping[str, Mapping[str, Any]] = {
        "strides": {"strides": [2, 2]},
        "pads": {"pads": [1, 0, 1, 1]},
        "dilations": {"dilations": [2, 2]},
        "ceil_mode": {"ceil_mode": 1, "strides": [2, 2]},
        "SAME_UPPER": {"auto_pad": "SAME_UPPER"},
    }
    for title, attributes in variants.items():
        yield Draft("attributes", [x], {**kernel, **attributes}, title=title)
    if operator == "AveragePool":
        yield Draft("attributes", [x], {**kernel, "pads": [1, 0, 1, 1], "count_include_pad": 1}, title="count_include_pad")
    if operator == "MaxPool":
        yield Draft("attributes", [x], {**kernel, "strides": [2, 2]}, outputs=2, title="indices")


def _global_pool(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    yield Draft("plain", [draw(dtype, (2, 3, 7, 6), "x")])
    yield Draft("odd", [draw(dtype, (1, 3, 9), "x")])
