"""Operators that change a shape and no element, and those that make tensors of a shape that is known on the host."""

from __future__ import annotations

import math

import numpy as np

from turnout_cuda.array import Array
from turnout_cuda.call import Call
from turnout_cuda.element import ANY, BOOL, FLOATS, INDEX, NUMBERS, element_of
from turnout_cuda.kernel import operator


@operator("Reshape", since=5, takes=(ANY, INDEX), host=(1,))
def reshape(call: Call) -> Array:
    x, sizes = call.x, call.ints(1) or []
    if not call.attribute("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 and axis < x.ndim else size for axis, size in enumerate(sizes)]
    if -1 in sizes:
        rest = math.prod(size for size in sizes if size != -1)
        if not rest or x.size % rest:
            raise call.wrong(f"{x.size} elements cannot take the shape {sizes}")
        sizes = [x.size // rest if size == -1 else size for size in sizes]
    return call.view(x, sizes)


@operator("Flatten")
def flatten(call: Call) -> Array:
    x, axis = call.x, int(call.attribute("axis", 1))
    if not -x.ndim <= axis <= x.ndim:
        raise call.wrong(f"there is no axis {axis}")
    axis += x.ndim if axis < 0 else 0
    return call.view(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@operator("Squeeze", takes=(ANY, INDEX), host=(1,))
def squeeze(call: Call) -> Array:
    x, given = call.x, call.ints(1, "axes")
    axes = [k for k, size in enumerate(x.shape) if size == 1] if given is None else [call.checked_axis(k, x.ndim) for k in given]
    if any(x.shape[axis] != 1 for axis in axes):
        raise call.wrong(f"the axes {axes} are not all of size 1")
    return call.view(x, [size for k, size in enumerate(x.shape) if k not in axes])


@operator("Unsqueeze", takes=(ANY, INDEX), host=(1,))
def unsqueeze(call: Call) -> Array:
    x, given = call.x, call.ints(1, "axes") or []
    ndim = x.ndim + len(given)
    axes = {call.checked_axis(axis, ndim) for axis in given}
    sizes = iter(x.shape)
    return call.view(x, [1 if axis in axes else next(sizes) for axis in range(ndim)])


@operator("Shape")
@operator("Size")
def shape(call: Call) -> Array:
    raise AssertionError("shape arithmetic never reaches a kernel")


@operator("Dropout", since=7, takes=(FLOATS, FLOATS, BOOL), host=(2,), refuses=lambda node: _random(node))
def dropout(call: Call) -> list[Array | None]:
    mask = None
    if call.wants(1):
        mask = call.fill(call.new(call.x.shape, "bool"), 1)
    return [call.view(call.x, call.x.shape), mask]


def _random(node: object) -> str:
    """Training needs random numbers, which have no kernel."""
    inputs = node.inputs  # type: ignore[attr-defined]
    mode = inputs[2] if len(inputs) > 2 else None
    if mode is None:
        return ""
    if mode.const_value is None:
        return "Dropout's training mode must be known before the run, since there is no kernel for it"
    return "Dropout in training mode has no kernel" if bool(mode.const_value.numpy()) else ""


@operator("ConstantOfShape", since=9, takes=(INDEX,), host=(0,))
def constant_of_shape(call: Call) -> Array:
    value = call.attribute("value", np.zeros(1, np.float32)).reshape(-1)[:1]
    sizes = [int(size) for size in call.host(0).reshape(-1)]
    if any(size < 0 for size in sizes):
        raise call.wrong(f"{sizes} is no shape")
    element = element_of(value.dtype)
    assert element is not None
    y = call.new(sizes, element)
    if not value.tobytes().strip(b"\0"):
        return call.fill(y)
    return call.each(y, "y[i] = value[0];", bits=True, value=call.constant(value))


@operator("EyeLike", since=9, takes=(NUMBERS | BOOL,))
def eye_like(call: Call) -> Array:
    x = call.x
    element = element_of(call.attribute("dtype")) if call.attribute("dtype") is not None else x.element
    assert element is not None
    body = "y[i] = down<Y>(i % columns - i / columns == k ? 1 : 0);"
    return call.each(call.new(x.shape, element), body, columns=max(x.shape[1], 1), k=int(call.attribute("k", 0)))


@operator("Range", since=11, takes=(NUMBERS,), host=(0, 1, 2))
def range_(call: Call) -> Array:
    start, limit, delta = (call.host(place).reshape(-1)[0] for place in range(3))
    if delta == 0:
        raise call.wrong("the step is 0")
    count = max(0, math.ceil((float(limit) - float(start)) / float(delta)))
    ends = [call.constant(np.array([end], call.x.element.dtype)) for end in (start, delta)]
    y = call.new((count,), call.x.element)
    return call.each(y, "y[i] = down<Y>(up(start[0]) + (Y_)i * up(delta[0]));", start=ends[0], delta=ends[1])
