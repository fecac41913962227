"""Cases of operators that work element by element: every type, shapes of every sort, broadcasting, and what is not a number."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from turnout.testing.made.draft import Draft, Group, admitted, schema_of
from turnout.testing.made.draw import DTYPES, Array, draw, dtypes_of, is_float, specials, strided

__all__ = ["BINARY", "UNARY", "groups"]

ANY, POSITIVE, UNIT, ABOVE_ONE, SMALL = (-3.0, 3.0), (0.1, 4.0), (-0.9, 0.9), (1.1, 4.0), (1.0, 3.0)

_UNARY = {
    "Abs Asinh Atan Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Mish Neg": ANY,
    "Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Swish Tan Tanh ThresholdedRelu Not BitwiseNot": ANY,
    "Log Sqrt Reciprocal": POSITIVE,
    "Acos Asin Atanh": UNIT,
    "Acosh": ABOVE_ONE,
}
_BINARY = {
    "Add Sub Mul Max Min Sum Mean And Or Xor Equal Less Greater LessOrEqual GreaterOrEqual BitwiseAnd BitwiseOr BitwiseXor PRelu": ANY,
    "Div Mod Pow BitShift": SMALL,
}
UNARY, BINARY = ({name: ends for names, ends in table.items() for name in names.split()} for table in (_UNARY, _BINARY))
"""Operator to the range that its inputs are drawn from."""

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {"BitShift": {"direction": "LEFT"}}

_VARIANTS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "BitShift": [{"direction": "RIGHT"}],
    "Celu": [{"alpha": 0.5}],
    "Elu": [{"alpha": 2.5}],
    "Gelu": [{"approximate": "tanh"}],
    "HardSigmoid": [{"alpha": 0.5, "beta": 0.25}],
    "IsInf": [{"detect_negative": 0}, {"detect_positive": 0}],
    "LeakyRelu": [{"alpha": 0.25}],
    "Selu": [{"alpha": 2.0, "gamma": 1.5}],
    "Shrink": [{"lambd": 1.5, "bias": 0.5}],
    "Swish": [{"alpha": 0.5}],
    "ThresholdedRelu": [{"alpha": 0.25}],
}
"""Operator to attributes other than the defaults."""

SILENT = {
    "Mean": "whether a sum of the largest numbers overflows before it is divided is left open",
    "Max": "ONNX does not say which of a number and NaN is the larger",
    "Min": "ONNX does not say which of a number and NaN is the smaller",
    "Sign": "ONNX does not say which sign NaN has",
    "Mod": "ONNX leaves the remainder of and by what is not a finite number open",
    "Celu": "its definition is a difference of infinities there",
    "Mish": "its definition is a product of zero and infinity there",
    "Gelu": "its definition is a product of zero and infinity there",
    "Swish": "its definition is a product of zero and infinity there",
    "HardSwish": "its definition is a product of zero and infinity there",
    "Selu": "its definition is a product of zero and infinity there",
    "Elu": "its definition is a product of zero and infinity there",
    "Shrink": "ONNX does not say on which side of its threshold NaN is",
    "ThresholdedRelu": "ONNX does not say on which side of its threshold NaN is",
    "Sin": "reducing the largest numbers to one period is left to the library",
    "Cos": "reducing the largest numbers to one period is left to the library",
    "Tan": "reducing the largest numbers to one period is left to the library",
}
"""Operators that are not tried with NaN, infinities and the largest numbers, and why."""

_SHAPES = {
    "scalar": (),
    "empty": (2, 0, 3),
    "odd": (1, 7, 13),
    "large": (257, 63),
    "deep": (1, 2, 1, 3, 1, 2),
}

_BROADCASTS: Sequence[tuple[tuple[int, ...], tuple[int, ...]]] = (
    ((3, 5), (5,)),
    ((5,), (3, 5)),
    ((2, 1, 4), (3, 1)),
    ((), (2, 3)),
    ((2, 3), (1,)),
    ((2, 3, 4, 5), (3, 1, 1)),
    ((1, 5), (0, 1)),
    ((1,), (2, 0)),
)


def groups() -> Iterator[Group]:
    """Every elementwise operator with every element type that its newest definition admits."""
    for operator, (low, high) in UNARY.items():
        yield from _groups(operator, _unary(operator, low, high))
    for operator, (low, high) in BINARY.items():
        yield from _groups(operator, _binary(operator, low, high))
    yield from _groups("Clip", _clip)
    yield from _groups("Where", _where)


Maker = Callable[[np.dtype[Any]], Iterator[Draft]]


def _groups(operator: str, make: Maker) -> Iterator[Group]:
    for name in admitted(operator, "T" if operator == "Where" else ""):
        yield Group(operator, name, functools.partial(make, DTYPES[name]))


def _unary(operator: str, low: float, high: float) -> Maker:
    def make(dtype: np.dtype[Any]) -> Iterator[Draft]:
        def one(shape: Sequence[int]) -> Array:
            return draw(dtype, shape, operator, low, high)

        yield Draft("plain", [one((3, 5))])
        for kind, shape in _SHAPES.items():
            yield Draft(kind, [one(shape)])
        yield Draft("strided", [strided(one((4, 5)))])
        yield Draft("open", [one((3, 5))], more=[[one(shape)] for shape in ((1, 1), (0, 4), (7, 2))])
        for attributes in _VARIANTS.get(operator, ()):
            yield Draft("attributes", [one((3, 5))], attributes, title=_title(attributes))
        if is_float(dtype) and dtype.itemsize > 1 and operator not in SILENT:
            yield Draft("special", [specials(dtype)])
        yield from _older(operator, dtype, [one((3, 5))])

    return make


def _binary(operator: str, low: float, high: float) -> Maker:
    def make(dtype: np.dtype[Any]) -> Iterator[Draft]:
        defaults = {"fmod": 1} if operator == "Mod" and is_float(dtype) else _DEFAULTS.get(operator, {})

        def pair(first: Sequence[int], second: Sequence[int]) -> list[Array]:
            return [draw(dtype, first, f"{operator} a", low, high), draw(dtype, second, f"{operator} b", low, high)]

        yield Draft("plain", pair((3, 5), (3, 5)), defaults)
        for kind, shape in _SHAPES.items():
            yield Draft(kind, pair(shape, shape), defaults)
        yield Draft("strided", [strided(value) for value in pair((4, 5), (4, 5))], defaults)
        yield Draft("constant", pair((3, 5), (5,)), defaults, constants=[1])
        yield Draft("open", pair((3, 5), (5,)), defaults, more=[pair((1, 1), (1,)), pair((0, 4), (4,)), pair((7, 2), (2,))])
        for first, second in _BROADCASTS:
            if operator != "PRelu" or np.broadcast_shapes(first, second) == first:
                yield Draft("broadcasting", pair(first, second), defaults, title=f"{_text(first)} {_text(second)}")
        for attributes in _VARIANTS.get(operator, ()):
            yield Draft("attributes", pair((3, 5), (3, 5)), attributes, title=_title(attributes))
        if is_float(dtype) and dtype.itemsize > 1 and operator not in SILENT:
            yield Draft("special", [specials(dtype)[:, None], specials(dtype)], defaults)
        yield from _older(operator, dtype, pair((3, 5), (3, 5)), defaults)

    return make


def _older(operator: str, dtype: np.dtype[Any], inputs: list[Any], attributes: Mapping[str, Any] = {}) -> Iterator[Draft]:
    """The older definitions since operator set 7: they say the same of inputs of one shape."""
    version = schema_of(operator).since_version - 1
    while version >= 7 and _admits(operator, version, dtype):
        yield Draft("older", inputs, attributes, version=version)
        version = schema_of(operator, version).since_version - 1


def _admits(operator: str, version: int, dtype: np.dtype[Any]) -> bool:
    from onnx.defs import SchemaError

    try:
        schema = schema_of(operator, version)
    except SchemaError:
        return False
    parameter = schema.inputs[0].type_str
    return any(DTYPES[name] == dtype for name in dtypes_of(schema, parameter))


def _clip(dtype: np.dtype[Any]) -> Iterator[Draft]:
    x = draw(dtype, (3, 5), "Clip", -8.0, 8.0)
    low, high = np.array(1, dtype), np.array(3, dtype)
    yield Draft("plain", [x, low, high])
    yield Draft("plain", [x, low], title="min")
    yield Draft("plain", [x, None, high], title="max")
    yield Draft("plain", [x], title="neither")
    yield Draft("constant", [x, low, high], constants=[1, 2])
    yield Draft("empty", [x[:0], low, high])
    yield Draft("scalar", [x[:1, 0].reshape(()), low, high])
    yield Draft("strided", [strided(x), low, high])
    yield Draft("large", [draw(dtype, (257, 63), "Clip", -8.0, 8.0), low, high])


def _where(dtype: np.dtype[Any]) -> Iterator[Draft]:
    def three(*shapes: Sequence[int]) -> list[Array]:
        return [
            draw(np.dtype(bool), shapes[0], "condition"),
            draw(dtype, shapes[1], "Where a"),
            draw(dtype, shapes[2], "Where b"),
        ]

    yield Draft("plain", three((3, 5), (3, 5), (3, 5)))
    yield Draft("scalar", three((), (), ()))
    yield Draft("empty", three((0, 5), (0, 5), (5,)))
    yield Draft("broadcasting", three((3, 1), (5,), (1, 1)))
    yield Draft("broadcasting", three((), (2, 3), (3,)), title="scalar")
    yield Draft("broadcasting", three((2, 3, 1), (3, 4), (2, 1, 1)), title="rank 3")
    yield Draft("strided", [strided(value) for value in three((4, 5), (4, 5), (4, 5))])
    yield Draft("large", three((257, 63), (257, 63), (63,)))


def _title(attributes: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in attributes.items())


def _text(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
