"""Operators that ONNX's evaluator (1.23) gets wrong or cannot compute for valid inputs, by their definitions.

Each row says what is wrong with the evaluator. A definition takes the inputs and attributes of a node and gives its outputs, or None where
the evaluator can be asked after all.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import helper

__all__ = ["DEFINITIONS", "WRONG"]

Attributes = Mapping[str, Any]
Definition = Callable[[Sequence[Any], Attributes], "list[Any] | None"]

WRONG: Mapping[str, str] = {
    "Cast": "it cannot cast between types of less than a byte, nor strings to bfloat16 and float8",
    "ConvTranspose": "it reshapes wrongly where there is more than one group",
    "Flatten": "it cannot tell the columns of a tensor without rows",
    "GlobalMaxPool": "it takes every input for an image",
    "LRN": "it counts channels by the batch",
    "LogSoftmax": "it takes the logarithm of a softmax that has underflowed",
    "MaxPool": "it puts pads on the wrong axes, and marks them with NaN, which integers do not have",
    "Mean": "it adds up in the memory of the first operand, whatever its shape",
    "MeanVarianceNormalization": "its body has a float32 constant, whatever the type",
    "OneHot": "it broadcasts along the wrong axis unless that is the last",
    "PRelu": "it multiplies a zero by the slope, which may be an infinity",
    "Pad": "it does not know negative pads",
    "ReduceSumSquare": "it gives 64 bits for integers of 32",
    "Softsign": "it computes in the memory of a scalar",
}
"""What is wrong with the evaluator, by operator."""


def _softsign(inputs: Sequence[Any], attributes: Attributes) -> list[Any]:
    (x,) = inputs
    return [np.asarray(x / (np.array(1, x.dtype) + abs(x)))]


def _mean(inputs: Sequence[Any], attributes: Attributes) -> list[Any]:
    return [functools.reduce(np.add, inputs) / np.array(len(inputs), inputs[0].dtype)]


def _prelu(inputs: Sequence[Any], attributes: Attributes) -> list[Any]:
    x, slope = inputs
    return [np.where(x < 0, slope * x, x).astype(x.dtype)]


def _log_softmax(inputs: Sequence[Any], attributes: Attributes) -> list[Any] | None:
    (x,) = inputs
    if not x.size:
        return [x]
    axis = attributes.get("axis", -1)
    wide = x.astype(np.float64)
    shifted = wide - wide.max(axis=axis, keepdims=True)
    return [(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))).astype(x.dtype)]


def _reduce_sum_square(inputs: Sequence[Any], attributes: Attributes) -> list[Any] | None:
    x, axes = inputs[0], inputs[1] if len(inputs) > 1 else None
    if x.dtype not in (np.int32, np.uint32):
        return None
    if axes is not None and not axes.size and attributes.get("noop_with_empty_axes"):
        return [x * x]
    over = None if axes is None else tuple(axes.tolist())
    return [np.sum(x * x, axis=over, keepdims=bool(attributes.get("keepdims", 1)), dtype=x.dtype)]


def _mean_variance(inputs: Sequence[Any], attributes: Attributes) -> list[Any]:
    (x,) = inputs
    axes = tuple(attributes.get("axes", (0, 2, 3)))
    wide = x.astype(np.float64)
    deviation = np.sqrt((wide**2).mean(axes, keepdims=True) - wide.mean(axes, keepdims=True) ** 2)
    return [((wide - wide.mean(axes, keepdims=True)) / (deviation + 1e-9)).astype(x.dtype)]


def _lrn(inputs: Sequence[Any], attributes: Attributes) -> list[Any]:
    (x,) = inputs
    size, channels = attributes["size"], x.shape[1]
    wide = x.astype(np.float64)
    total = np.zeros_like(wide)
    for channel in range(channels):
        first, last = max(0, channel - (size - 1) // 2), min(channels - 1, channel + -((1 - size) // 2))
        total[:, channel] = (wide[:, first : last + 1] ** 2).sum(axis=1)
    alpha = float(np.float32(attributes.get("alpha", 1e-4)))  # attributes are float32, whatever the type
    scale = attributes.get("bias", 1.0) + alpha / size * total
    return [(wide / scale ** attributes.get("beta", 0.75)).astype(x.dtype)]


def _flatten(inputs: Sequence[Any], attributes: Attributes) -> list[Any]:
    (x,) = inputs
    axis = attributes.get("axis", 1) % (x.ndim + 1) if attributes.get("axis", 1) >= 0 else attributes["axis"] + x.ndim
    return [x.reshape(int(np.prod(x.shape[:axis], dtype=int)), int(np.prod(x.shape[axis:], dtype=int)))]


def _pad(inputs: Sequence[Any], attributes: Attributes) -> list[Any] | None:
    x, pads = inputs[0], inputs[1]
    if (pads >= 0).all():
        return None
    before, after = pads[: x.ndim], pads[x.ndim :]
    return [x[tuple(slice(-low, size + high) for low, high, size in zip(before, after, x.shape, strict=True))]]


def _one_hot(inputs: Sequence[Any], attributes: Attributes) -> list[Any]:
    indices, depth, (off, on) = inputs
    rows = np.arange(int(depth.reshape(()))) == indices[..., None].astype(np.int64)
    return [np.moveaxis(np.where(rows, on, off), -1, attributes.get("axis", -1))]


def _global_max_pool(inputs: Sequence[Any], attributes: Attributes) -> list[Any]:
    (x,) = inputs
    return [x.max(axis=tuple(range(2, x.ndim)), keepdims=True)]


def _max_pool(inputs: Sequence[Any], attributes: Attributes) -> list[Any] | None:
    (x,) = inputs
    kernel = attributes["kernel_shape"]
    if "ceil_mode" in attributes or not ({"pads", "auto_pad"} & set(attributes) or x.dtype == np.int8):
        return None
    dilations, strides = attributes.get("dilations", [1] * len(kernel)), attributes.get("strides", [1] * len(kernel))
    pads = list(attributes.get("pads", [0] * 2 * len(kernel)))
    if attributes.get("auto_pad") == "SAME_UPPER":  # with strides of one
        pads = [*((size - 1) // 2 for size in kernel), *(size // 2 for size in kernel)]
    lowest = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    edges = [(0, 0), (0, 0), *zip(pads[: len(kernel)], pads[len(kernel) :], strict=True)]
    padded = np.pad(x, edges, constant_values=lowest)
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    windows = []
    for offsets in itertools.product(*map(range, kernel)):
        cut = [
            slice(offset * dilation, size - span + 1 + offset * dilation, stride)
            for offset, dilation, size, span, stride in zip(offsets, dilations, padded.shape[2:], spans, strides, strict=True)
        ]
        windows.append(padded[(slice(None), slice(None), *cut)])
    return [functools.reduce(np.maximum, windows)]


def _conv_transpose(inputs: Sequence[Any], attributes: Attributes) -> list[Any] | None:
    x, weights = inputs
    groups = attributes.get("group", 1)
    if groups == 1:
        return None
    (batch, channels, rows, columns), (_, made, height, width) = x.shape, weights.shape
    total = np.zeros((batch, groups, made, rows + height - 1, columns + width - 1))
    for row, column in itertools.product(range(height), range(width)):
        parts = x.reshape(batch, groups, channels // groups, rows, columns).astype(np.float64)
        taps = weights[:, :, row, column].reshape(groups, channels // groups, made).astype(np.float64)
        total[..., row : row + rows, column : column + columns] += np.einsum("bgcij,gcm->bgmij", parts, taps)
    return [total.reshape(batch, groups * made, *total.shape[3:]).astype(x.dtype)]


def _cast(inputs: Sequence[Any], attributes: Attributes) -> list[Any]:
    """Of whole numbers that both types hold."""
    (x,) = inputs
    target = helper.tensor_dtype_to_np_dtype(attributes["to"])
    wide = x.astype(np.complex128) if x.dtype.kind == "c" or target.kind == "c" else x.astype(np.float64)
    return [wide.astype(target)]


DEFINITIONS: Mapping[str, Definition] = {
    "Cast": _cast,
    "ConvTranspose": _conv_transpose,
    "Flatten": _flatten,
    "GlobalMaxPool": _global_max_pool,
    "LRN": _lrn,
    "LogSoftmax": _log_softmax,
    "MaxPool": _max_pool,
    "Mean": _mean,
    "MeanVarianceNormalization": _mean_variance,
    "OneHot": _one_hot,
    "PRelu": _prelu,
    "Pad": _pad,
    "ReduceSumSquare": _reduce_sum_square,
    "Softsign": _softsign,
}
"""The right outputs, by operator. Only for the newest definition of each."""
