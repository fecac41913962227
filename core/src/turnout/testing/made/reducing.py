"""Cases of operators that take an axis together: reductions, ArgMax, Softmax, CumSum, TopK, normalizations."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from turnout.testing.made.draft import Draft, Group, admitted
from turnout.testing.made.draw import DTYPES, draw, is_float, strided

__all__ = ["groups"]

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_NO_EMPTY = {"ReduceMax", "ReduceMin", "ReduceMean"}  # the largest of nothing has its own cases in ONNX; a mean of nothing is no number


def groups() -> Iterator[Group]:
    """Reductions and what else works along an axis, with every element type."""
    for name in _REDUCTIONS:
        yield from _typed(f"Reduce{name}", _reduction)
    for operator in ("ArgMax", "ArgMin"):
        yield from _typed(operator, _arg)
    for operator in ("Softmax", "LogSoftmax", "Hardmax"):
        yield from _typed(operator, _softmax)
    for operator in ("CumSum", "CumProd"):
        yield from _typed(operator, _cumulative)
    yield from _typed("TopK", _top)
    for operator in ("LayerNormalization", "RMSNormalization"):
        yield from _typed(operator, _last_axis)
    yield from _typed("InstanceNormalization", _instance)
    yield from _typed("GroupNormalization", _group)
    yield from _typed("BatchNormalization", _batch)
    yield from _typed("LpNormalization", _lp)
    yield from _typed("MeanVarianceNormalization", _mean_variance)
    yield from _typed("LRN", _lrn)


def _typed(operator: str, make: Any) -> Iterator[Group]:
    for name in admitted(operator):
        yield Group(operator, name, functools.partial(make, operator, DTYPES[name]))


def _axes(*axes: int) -> np.ndarray[Any, Any]:
    return np.array(axes, np.int64)


def _reduction(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    low, high = (0.5, 2.0) if "Log" in operator or "Prod" in operator else (-3.0, 3.0)
    if not is_float(dtype) and dtype.kind != "b":
        low, high = 1.0, 3.0

    def one(*shape: int) -> Any:
        return draw(dtype, shape, operator, low, high)

    def many(*shape: int) -> Any:
        if operator != "ReduceProd":
            return one(*shape)
        return draw(dtype, shape, operator, 0.9, 1.1) if is_float(dtype) else np.ones(shape, dtype)  # so that products stay in range

    x = one(2, 3, 5)
    yield Draft("plain", [x, _axes(1)], constants=[1])
    yield Draft("plain", [x, _axes(1)], title="axes as an input")
    yield Draft("attributes", [x, _axes(-1)], {"keepdims": 0}, [1], title="keepdims=0")
    yield Draft("attributes", [x, _axes(0, 2)], {"keepdims": 0}, [1], title="two axes")
    yield Draft("attributes", [x, _axes(2, 0, 1)], constants=[1], title="all axes")
    yield Draft("attributes", [x], title="no axes")
    yield Draft("attributes", [x], {"keepdims": 0}, title="no axes, keepdims=0")
    yield Draft("attributes", [x, _axes()], {"noop_with_empty_axes": 1}, [1], title="noop_with_empty_axes=1")
    yield Draft("odd", [one(1, 7, 13), _axes(2)], constants=[1])
    yield Draft("large", [many(131, 63), _axes(1)], constants=[1])
    yield Draft("large", [many(63, 131), _axes(0)], constants=[1], title="first axis")
    yield Draft("strided", [strided(one(4, 5)), _axes(1)], constants=[1])
    yield Draft("open", [x, _axes(1)], constants=[1], more=[[one(1, 1, 1), _axes(1)], [one(4, 2, 7), _axes(1)]])
    yield Draft("empty", [one(0, 3), _axes(1)], constants=[1], title="nothing to reduce")
    if operator not in _NO_EMPTY:
        yield Draft("empty", [one(2, 0), _axes(1)], constants=[1], title="reduces nothing")
    if is_float(dtype):
        yield Draft("special", [_with_nan(x), _axes(1)], constants=[1], title="NaN")
    if operator in ("ReduceSum", "ReduceMax", "ReduceMin") and is_float(dtype):
        yield Draft("special", [_with_infinity(x), _axes(1)], constants=[1], title="infinity")


def _with_nan(x: Any) -> Any:
    return np.where(np.arange(x.size).reshape(x.shape) == 3, np.array(np.nan, x.dtype), x)


def _with_infinity(x: Any) -> Any:
    return np.where(np.arange(x.size).reshape(x.shape) == 3, np.array(-np.inf, x.dtype), x)


def _arg(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (3, 4, 5), operator)
    yield Draft("plain", [x])
    yield Draft("attributes", [x], {"axis": 1, "keepdims": 0}, title="axis=1 keepdims=0")
    yield Draft("attributes", [x], {"axis": -1}, title="axis=-1")
    yield Draft("attributes", [x], {"axis": 2, "select_last_index": 1}, title="select_last_index=1")
    yield Draft("odd", [draw(dtype, (1, 7, 13), operator)], {"axis": 2})
    yield Draft("large", [draw(dtype, (131, 63), operator)], {"axis": 1})
    yield Draft("strided", [strided(draw(dtype, (4, 5), operator))], {"axis": 1})
    yield Draft("empty", [draw(dtype, (0, 5), operator)], {"axis": 1})


def _softmax(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (2, 3, 5), operator)
    yield Draft("plain", [x])
    for axis in (0, 1, -2):
        yield Draft("attributes", [x], {"axis": axis}, title=f"axis={axis}")
    yield Draft("odd", [draw(dtype, (1, 7, 13), operator)])
    yield Draft("large", [draw(dtype, (17, 251), operator)])
    yield Draft("strided", [strided(draw(dtype, (4, 5), operator))])
    yield Draft("empty", [draw(dtype, (0, 5), operator)])
    yield Draft("open", [x], more=[[draw(dtype, shape, operator)] for shape in ((1, 1, 1), (0, 2, 3), (4, 2, 7))])
    if operator != "Hardmax":
        yield Draft("special", [_with_nan(x)], title="NaN")
        yield Draft("special", [_with_infinity(x)] if operator == "Softmax" else [x * np.array(10, dtype)], title="far apart")


def _cumulative(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    x, axis = draw(dtype, (3, 4), operator, 0.5, 2.0), np.array(1, np.int64)
    yield Draft("plain", [x, axis], constants=[1])
    yield Draft("plain", [x, axis], title="axis as an input")
    for attributes in ({"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
        yield Draft("attributes", [x, axis], attributes, [1], title=" ".join(attributes))
    yield Draft("attributes", [x, np.array(-2, np.int32)], constants=[1], title="axis=-2")
    yield Draft("empty", [draw(dtype, (0, 4), operator), axis], constants=[1])
    yield Draft("strided", [strided(x), axis], constants=[1])
    yield Draft("odd", [draw(dtype, (1, 7), operator, 0.5, 2.0), axis], constants=[1])


def _top(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = np.random.default_rng(7).permutation(60).reshape(3, 4, 5).astype(dtype)  # all different: ONNX leaves ties open
    k = np.array([2], np.int64)
    yield Draft("plain", [x, k], constants=[1], outputs=2)
    yield Draft("plain", [x, k], outputs=2, title="k as an input")
    yield Draft("attributes", [x, k], {"axis": 1}, [1], outputs=2, title="axis=1")
    yield Draft("attributes", [x, k], {"largest": 0}, [1], outputs=2, title="largest=0")
    yield Draft("odd", [x[:1, :1], np.array([5], np.int64)], constants=[1], outputs=2)
    yield Draft("empty", [x, np.array([0], np.int64)], constants=[1], outputs=2)
    yield Draft("strided", [strided(x), k], constants=[1], outputs=2)


def _parameters(dtype: np.dtype[Any], size: int, operator: str) -> tuple[Any, Any]:
    return draw(dtype, (size,), f"{operator} scale", 0.5, 2.0), draw(dtype, (size,), f"{operator} bias")


def _last_axis(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    def inputs(x: Any, size: int) -> list[Any]:
        scale, bias = _parameters(dtype, size, operator)
        return [x, scale, bias] if operator == "LayerNormalization" else [x, scale]

    x = draw(dtype, (2, 3, 16), operator)
    yield Draft("plain", inputs(x, 16))
    yield Draft("constant", inputs(x, 16), constants=[1, 2] if operator == "LayerNormalization" else [1])
    yield Draft("attributes", inputs(x, 16), {"epsilon": 0.125}, title="epsilon")
    yield Draft("odd", inputs(draw(dtype, (1, 7, 13), operator), 13))
    yield Draft("large", inputs(draw(dtype, (31, 250), operator), 250))
    yield Draft("strided", [strided(x), *inputs(x, 16)[1:]])
    yield Draft("empty", inputs(draw(dtype, (0, 16), operator), 16))


def _instance(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    for kind, shape in (("plain", (2, 3, 4, 5)), ("odd", (1, 3, 7)), ("large", (2, 3, 13, 17))):
        yield Draft(kind, [draw(dtype, shape, operator), *_parameters(dtype, 3, operator)])
    yield Draft("attributes", [draw(dtype, (2, 3, 4), operator), *_parameters(dtype, 3, operator)], {"epsilon": 0.125})


def _group(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    for kind, shape in (("plain", (2, 4, 3, 5)), ("odd", (1, 4, 7)), ("large", (2, 4, 13, 17))):
        yield Draft(kind, [draw(dtype, shape, operator), *_parameters(dtype, 4, operator)], {"num_groups": 2})
    yield Draft("attributes", [draw(dtype, (2, 4, 3), operator), *_parameters(dtype, 4, operator)], {"num_groups": 1, "epsilon": 0.125})


def _batch(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    def inputs(*shape: int) -> list[Any]:
        scale, bias = _parameters(dtype, 3, operator)
        mean, variance = draw(dtype, (3,), "mean"), draw(dtype, (3,), "variance", 0.5, 2.0)
        return [draw(dtype, shape, operator), scale, bias, mean, variance]

    yield Draft("plain", inputs(2, 3, 4, 5))
    yield Draft("constant", inputs(2, 3, 4, 5), constants=[1, 2, 3, 4])
    yield Draft("attributes", inputs(2, 3, 4), {"epsilon": 0.125})
    yield Draft("odd", inputs(1, 3, 7))
    yield Draft("empty", inputs(0, 3, 4))
    yield Draft("scalar", inputs(2, 3))


def _lp(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (2, 3, 5), operator, 0.5, 2.0)
    yield Draft("plain", [x])
    yield Draft("attributes", [x], {"p": 1, "axis": 1}, title="p=1 axis=1")
    yield Draft("odd", [draw(dtype, (1, 7, 13), operator, 0.5, 2.0)])


def _mean_variance(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    yield Draft("plain", [draw(dtype, (2, 3, 4, 5), operator)])
    yield Draft("attributes", [draw(dtype, (2, 3, 4, 5), operator)], {"axes": [2, 3]}, title="axes=[2,3]")


def _lrn(operator: str, dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (2, 5, 3, 4), operator)
    yield Draft("plain", [x], {"size": 3})
    yield Draft("attributes", [x], {"size": 5, "alpha": 0.5, "beta": 0.5, "bias": 2.0})
