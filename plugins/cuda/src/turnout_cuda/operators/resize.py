"""Resize and its kin: where each new element reads, and with which weights, is worked out on the host, axis by axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from turnout_cuda.array import Array
from turnout_cuda.call import Call, Given
from turnout_cuda.element import FLOATS, INDEX, NUMBERS
from turnout_cuda.kernel import operator
from turnout_cuda.source import coordinates

Taps = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
"""For each new element of an axis: places of old ones, and their weights."""


def _coordinates(mode: str, out: int, size: int, scale: float, roi: tuple[float, float]) -> np.ndarray[Any, Any]:
    """Where the new elements lie among the old ones (ONNX, Resize, coordinate_transformation_mode)."""
    x, length = np.arange(out, dtype=np.float64), scale * size
    if mode == "align_corners":
        return x * ((size - 1) / (length - 1)) if length != 1 else 0 * x
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_crop_and_resize":
        start, end = roi
        inside = x * (end - start) * (size - 1) / (length - 1) if length != 1 else 0 * x + (end - start) * (size - 1) / 2
        return inside + start * (size - 1)
    if mode == "pytorch_half_pixel" and length == 1:
        return 0 * x - 0.5
    shift = size / 2 * (1 - out / length) if mode == "half_pixel_symmetric" else 0.0
    return np.asarray(shift + (x + 0.5) / scale - 0.5)


def _cubic(a: float) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Keys, "Cubic convolution interpolation", 1981."""

    def weight(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        x = np.abs(x)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

    return weight


def _linear(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(np.clip(1 - np.abs(x), 0, 1))


def _taps(call: Call, where: np.ndarray[Any, Any], size: int, scale: float) -> Taps:
    mode = call.attribute("mode", "nearest")
    if mode == "nearest":
        places = _nearest(where, call.attribute("nearest_mode", "round_prefer_floor"))
        return np.clip(places, 0, size - 1)[:, None], np.ones((len(where), 1))
    kernel, reach = (_cubic(call.attribute("cubic_coeff_a", -0.75)), 2) if mode == "cubic" else (_linear, 1)
    shrink = min(scale, 1.0) if call.attribute("antialias", 0) else 1.0
    first = math.floor(-reach / shrink) + 1
    below = np.ceil(where) - 1  # the neighbour below; a place that is whole is the neighbour above
    steps = np.arange(first, 2 - first)  # as many below as above
    places = below[:, None] + steps[None, :]
    weights = kernel((places - where[:, None]) * shrink)
    if call.attribute("exclude_outside", 0):
        weights = np.where((places < 0) | (places >= size), 0.0, weights)
    if call.attribute("exclude_outside", 0) or shrink < 1:
        weights = weights / weights.sum(axis=1, keepdims=True)
    return np.clip(places, 0, size - 1).astype(np.int64), weights


def _nearest(where: np.ndarray[Any, Any], mode: str) -> np.ndarray[Any, Any]:
    rounded: np.ndarray[Any, Any] = {
        "round_prefer_floor": np.ceil(where - 0.5),
        "round_prefer_ceil": np.floor(where + 0.5),
        "floor": np.floor(where),
        "ceil": np.ceil(where),
    }[mode]
    return np.asarray(rounded.astype(np.int64))


def _interpolate(call: Call, x: Array, axes: Sequence[int], taps: Sequence[Taps], outside: Sequence[np.ndarray[Any, Any] | None]) -> Array:
    """The sum over all combinations of taps; where an axis is outside, the extrapolation value."""
    shape = list(x.shape)
    for axis, (places, _) in zip(axes, taps, strict=True):
        shape[axis] = len(places)
    y = call.new(shape, x.element)
    decode = coordinates("i", ["", *(f"n{k}" for k in range(1, len(shape)))], "c")
    given: Given = {"n": shape, "d": list(x.shape)}
    loops, close, factor, source = "", "", "", {k: f"c{k}" for k in range(len(shape))}
    work = "double" if x.element.name == "float64" else "float"
    weighted = any(places.shape[1] > 1 for places, _ in taps)
    for place, (axis, (places, weights)) in enumerate(zip(axes, taps, strict=True)):
        many = places.shape[1]
        given[f"p{place}"] = call.constant(places.astype(np.int32))
        if weighted:
            given[f"w{place}"] = call.constant(weights.astype(np.float64 if work == "double" else np.float32))
            factor += f" * w{place}[t{place}]"
        loops += f"for (index t{place} = c{axis} * {many}; t{place} < (c{axis} + 1) * {many}; ++t{place}) {{ "
        close += "}"
        source[axis] = f"p{place}[t{place}]"
    at = "0"
    for k in range(len(shape)):
        at = f"({at} * d{k} + {source[k]})"
    body = f"{decode} {work} sum = 0; {loops} sum += ({work})up(x[{at}]){factor}; {close} "
    store = "y[i] = down<Y>(sum);" if x.element.name in FLOATS else "y[i] = down<Y>((long long)sum);"
    masks = [(place, axis, one) for place, (axis, one) in enumerate(zip(axes, outside, strict=True)) if one is not None and one.any()]
    if masks:
        given |= {f"m{place}": call.constant(one) for place, _, one in masks}
        test = " || ".join(f"m{place}[c{axis}]" for place, axis, _ in masks)
        given["beyond"] = call.real("extrapolation_value", 0.0)
        store = f"if ({test}) sum = ({work})beyond; {store}"
    if weighted or masks:
        return call.each(y, body + store, x=x, **given)
    nearest = "0"
    for k in range(len(shape)):
        nearest = f"({nearest} * d{k} + {source[k].replace(f'[t{axes.index(k)}]', f'[c{k}]') if k in axes else source[k]})"
    return call.each(y, f"{decode} y[i] = x[{nearest}];", x=x, **given)


def _scales(
    call: Call, x: Array, scales: Sequence[float] | None, sizes: Sequence[int] | None, axes: Sequence[int]
) -> tuple[list[float], list[int]]:
    if sizes is None:
        assert scales is not None
        return list(scales), [math.floor(x.shape[axis] * scale) for axis, scale in zip(axes, scales, strict=True)]
    found = [size / x.shape[axis] if x.shape[axis] else 1.0 for axis, size in zip(axes, sizes, strict=True)]
    policy = call.attribute("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        one = (min if policy == "not_larger" else max)(found)
        return [one] * len(found), [math.floor(x.shape[axis] * one + 0.5) for axis in axes]
    return found, list(sizes)


@operator("Resize", since=11, takes=(NUMBERS - {"uint64"}, FLOATS, frozenset({"float32"}), INDEX), host=(1, 2, 3))
def resize(call: Call) -> Array:
    x = call.x
    axes = [call.checked_axis(axis, x.ndim) for axis in call.attribute("axes", list(range(x.ndim)))]
    scales = [float(one) for one in call.host(2).reshape(-1)] if call.optional(2) is not None else None
    sizes = call.ints(3)
    if sizes is None and not scales:
        raise call.wrong("neither scales nor sizes are given")
    factors, out = _scales(call, x, scales, sizes or None, axes)
    mode = call.attribute("coordinate_transformation_mode", "half_pixel")
    roi = [float(one) for one in call.host(1).reshape(-1)] if call.optional(1) is not None else []
    taps, outside, chosen = [], [], []
    for place, (axis, scale, size) in enumerate(zip(axes, factors, out, strict=True)):
        area = (roi[place], roi[place + len(axes)]) if len(roi) == 2 * len(axes) else (0.0, 1.0)
        if size == x.shape[axis] and scale == 1.0 and (mode != "tf_crop_and_resize" or area == (0.0, 1.0)):
            continue
        where = _coordinates(mode, size, x.shape[axis], scale, area)
        beyond = (where < 0) | (where > x.shape[axis] - 1) if mode == "tf_crop_and_resize" else None
        taps.append(_taps(call, where, x.shape[axis], scale))
        outside.append(beyond)
        chosen.append(axis)
    if not chosen:
        return call.view(x, x.shape)
    return _interpolate(call, x, chosen, taps, outside)


@operator("Upsample", since=9, until=9, takes=(NUMBERS - {"uint64"}, frozenset({"float32"})), host=(1,))
def upsample(call: Call) -> Array:
    x = call.x
    scales = [float(one) for one in call.host(1).reshape(-1)]
    taps, axes = [], []
    for axis, scale in enumerate(scales):
        size = math.floor(x.shape[axis] * scale)
        if scale == 1.0:
            continue
        where = np.arange(size) / scale
        axes.append(axis)
        if call.attribute("mode", "nearest") == "nearest":
            taps.append((np.clip(np.floor(where).astype(np.int64), 0, x.shape[axis] - 1)[:, None], np.ones((size, 1))))
        else:
            taps.append(_taps(call, where, x.shape[axis], scale))
    return _interpolate(call, x, axes, taps, [None] * len(axes)) if axes else call.view(x, x.shape)
