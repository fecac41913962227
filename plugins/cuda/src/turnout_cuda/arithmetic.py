"""Shape arithmetic: the few operators whose small results decide shapes, computed on the host with NumPy while a plan is made."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from turnout_cuda.element import ELEMENTS, element_of

__all__ = ["LARGEST", "ON_HOST"]

Values = Any
Function = Callable[..., Values]

LARGEST = 4096
"""Elements: what is larger is no shape."""


def _cast(attributes: Mapping[str, Any], x: Values) -> Values:
    element = element_of(int(attributes["to"]))
    return x.astype((element or ELEMENTS["int64"]).dtype)


def _axes(attributes: Mapping[str, Any], axes: Values | None) -> tuple[int, ...] | None:
    found = attributes.get("axes") if axes is None else axes.tolist()
    return None if found is None else tuple(int(axis) for axis in found)


def _squeeze(attributes: Mapping[str, Any], x: Values, axes: Values | None = None) -> Values:
    return np.squeeze(x, _axes(attributes, axes))


def _unsqueeze(attributes: Mapping[str, Any], x: Values, axes: Values | None = None) -> Values:
    return np.expand_dims(x, _axes(attributes, axes) or ())


def _slice(attributes: Mapping[str, Any], x: Values, *given: Values | None) -> Values:
    names = ("starts", "ends", "axes", "steps")
    rows: list[Any] = []
    for place, name in enumerate(names):
        values = given[place] if place < len(given) else None
        rows.append(attributes.get(name) if values is None else values.tolist())
    starts, ends, axes, steps = rows
    where = [slice(None)] * x.ndim
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        step = steps[k] if steps else 1
        last = None if step < 0 and end < -x.shape[axes[k] if axes else k] else end
        where[axes[k] if axes else k] = slice(start, last, step)
    return x[tuple(where)]


def _gather(attributes: Mapping[str, Any], x: Values, indices: Values) -> Values:
    return np.take(x, indices, axis=int(attributes.get("axis", 0)))


def _concat(attributes: Mapping[str, Any], *parts: Values) -> Values:
    return np.concatenate(parts, axis=int(attributes["axis"]))


def _div(attributes: Mapping[str, Any], a: Values, b: Values) -> Values:
    if a.dtype.kind not in "iu":
        return a / b
    with np.errstate(all="ignore"):
        quotient = np.abs(a) // np.where(b == 0, 1, np.abs(b))
    return (quotient * np.sign(a) * np.sign(b)).astype(a.dtype)


def _constant_of_shape(attributes: Mapping[str, Any], shape: Values) -> Values:
    value = attributes.get("value")
    filled = np.zeros(1, np.float32) if value is None else value.numpy() if hasattr(value, "numpy") else np.asarray(value)
    return np.full(tuple(shape.tolist()), filled.reshape(-1)[0], filled.dtype)


def _reduce(function: Any) -> Function:
    def reduce(attributes: Mapping[str, Any], x: Values, axes: Values | None = None) -> Values:
        over = _axes(attributes, axes)
        if over == () and attributes.get("noop_with_empty_axes"):
            return x
        return np.asarray(function(x, axis=over or None, keepdims=bool(attributes.get("keepdims", 1)))).astype(x.dtype)

    return reduce


def _reshape(attributes: Mapping[str, Any], x: Values, shape: Values) -> Values:
    sizes = [x.shape[k] if size == 0 and not attributes.get("allowzero") else size for k, size in enumerate(shape.tolist())]
    return x.reshape(sizes)


def _plain(function: Any) -> Function:
    return lambda attributes, *inputs: function(*inputs)


ON_HOST: Mapping[str, Function] = {
    "Abs": _plain(np.abs),
    "Add": _plain(np.add),
    "And": _plain(np.logical_and),
    "Cast": _cast,
    "Ceil": _plain(np.ceil),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _div,
    "Equal": _plain(np.equal),
    "Expand": lambda attributes, x, shape: x * np.ones(tuple(shape.tolist()), x.dtype),
    "Floor": _plain(np.floor),
    "Gather": _gather,
    "Greater": _plain(np.greater),
    "Identity": _plain(np.array),
    "Less": _plain(np.less),
    "Max": lambda attributes, *inputs: functools.reduce(np.maximum, inputs),
    "Min": lambda attributes, *inputs: functools.reduce(np.minimum, inputs),
    "Mul": _plain(np.multiply),
    "Neg": _plain(np.negative),
    "Not": _plain(np.logical_not),
    "Or": _plain(np.logical_or),
    "Range": _plain(lambda start, limit, delta: np.arange(start.item(), limit.item(), delta.item()).astype(start.dtype)),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Sqrt": _plain(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(np.subtract),
    "Unsqueeze": _unsqueeze,
    "Where": _plain(np.where),
}
"""Operator to the function of its attributes and inputs. Shape and Size need no values, and are known to the plan without."""
