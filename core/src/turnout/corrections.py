"""Operators that ONNX's evaluator (1.23) gets wrong, or lacks, done right by their definitions.

Each says what is wrong with the evaluator's own. The evaluator takes the place of an operator for a whole graph, so each row of `_ROWS`
also says up to which operator set it is for. The conformance kit checks all of this against answers of its own
(`turnout.testing.made.definitions`): the two are written apart on purpose.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import helper
from onnx.defs import get_schema
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

__all__ = ["corrected", "correction"]

Array = np.ndarray[Any, Any]


def own(operator: str, version: int) -> Any:
    """The evaluator's own class for an operator; it raises one of half a dozen errors where it has none."""
    return importlib.import_module("onnx.reference.ops._op_list").load_op("", operator, version, evaluator_cls=ReferenceEvaluator)


class Corrected(OpRun):
    """An operator whose attributes have the defaults of its own version: the evaluator gives all of them those of the newest."""

    op_domain = ""

    def __init__(self, onnx_node: Any, run_params: Any) -> None:
        self.version = run_params["opsets"][onnx_node.domain]
        super().__init__(onnx_node, run_params, get_schema(onnx_node.op_type, self.version, ""))

    @functools.cached_property
    def own(self) -> Any:
        """The evaluator's own, for what that gets right."""
        return own(self.onnx_node.op_type, self.version)(self.onnx_node, self.run_params)


class BatchNormalization(Corrected):
    """The evaluator's own, before operator set 14, takes whatever has a momentum for training, and momentum has a default."""

    def _run(self, x: Array, scale: Array, bias: Array, mean: Array, variance: Array, **attributes: Any) -> tuple[Array, ...]:
        if len(self.onnx_node.output) > 1 or (self.version < 7 and not attributes["is_test"]):
            return tuple(self.own._run(x, scale, bias, mean, variance, **attributes))
        shape = (1, -1) + (1,) * (x.ndim - 2)
        if not attributes.get("spatial", 1):  # one number for each element of a sample
            shape = (1, *x.shape[1:])
        scale, bias, mean, variance = (value.reshape(shape) for value in (scale, bias, mean, variance))
        return (((x - mean) / np.sqrt(variance + attributes["epsilon"]) * scale + bias).astype(x.dtype),)


class Broadcasting(Corrected):
    """The evaluator broadcasts as NumPy does; before operator set 7 the second operand began at an axis of the first."""

    def _run(self, a: Array, b: Array, axis: int | None = None, broadcast: int = 0, **_: Any) -> tuple[Array]:
        if broadcast and b.ndim:
            start = a.ndim - b.ndim if axis is None else axis % a.ndim
            b = b.reshape(b.shape + (1,) * (a.ndim - start - b.ndim))
        return (np.asarray(self.own._run(a, b)[0]),)


class Cast(Corrected):
    """Cast and CastLike. The evaluator's own cannot cast between types of less than a byte, nor strings to bfloat16 and float8."""

    def _run(self, x: Array, like: Array | None = None, to: int = 0, **attributes: Any) -> tuple[Array]:
        to = to if like is None else helper.np_dtype_to_tensor_dtype(like.dtype)
        cast = own("Cast", self.version)(helper.make_node("Cast", ["x"], ["y"], to=to), self.run_params)
        try:
            return (cast._run(x, to=to, **attributes)[0],)
        except (TypeError, ValueError):  # float32 holds all that those types can
            return (cast._run(x.astype(np.float32), to=to, **attributes)[0],)


class ConvTranspose(Corrected):
    """The evaluator's own reshapes wrongly where there is more than one group."""

    def _run(self, x: Array, w: Array, b: Array | None = None, **attributes: Any) -> tuple[Array]:
        groups = attributes["group"]
        xs, ws = np.split(x, groups, axis=1), np.split(w, groups)
        bs = [None] * groups if b is None else np.split(b, groups)
        alone = attributes | {"group": 1}
        return (np.concatenate([self.own._run(*parts, **alone)[0] for parts in zip(xs, ws, bs, strict=True)], axis=1),)


class DequantizeLinear(Corrected):
    """The evaluator has none before operator set 19, which brought new types and changed nothing else."""

    def _run(self, x: Array, scale: Array, zero: Array | None = None, axis: int = 1) -> tuple[Array]:
        shape = [-1 if place == axis % x.ndim else 1 for place in range(x.ndim)] if scale.size > 1 else ()
        zeros = 0 if zero is None else zero.reshape(shape).astype(np.int32)
        return (((x.astype(np.int32) - zeros) * scale.reshape(shape)).astype(scale.dtype),)


class Flatten(Corrected):
    """The evaluator's own cannot tell the columns of a tensor without rows."""

    def _run(self, x: Array, axis: int = 1) -> tuple[Array]:
        axis = axis + x.ndim if axis < 0 else axis
        return (x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:])),)


class FlatSoftmax(Corrected):
    """Softmax, LogSoftmax and Hardmax before operator set 13: over all axes from `axis` on at once. The evaluator's own takes one axis."""

    def _run(self, x: Array, axis: int = 1) -> tuple[Array]:
        if not x.size:
            return (x,)
        rows = x.reshape(math.prod(x.shape[: axis % (x.ndim + 1)]), -1)
        if self.onnx_node.op_type == "LogSoftmax":
            return (_log_softmax(rows, 1).reshape(x.shape),)
        return (self.own._run(rows, axis=1)[0].reshape(x.shape),)


class GlobalLpPool(Corrected):
    """The evaluator has none."""

    def _run(self, x: Array, p: float = 2) -> tuple[Array]:
        sums = (np.abs(x) ** np.array(p, x.dtype)).sum(axis=tuple(range(2, x.ndim)), keepdims=True)
        return ((sums ** np.array(1 / p, x.dtype)).astype(x.dtype),)


class GlobalMaxPool(Corrected):
    """The evaluator's own takes every input for an image: it is wrong unless there are two spatial axes."""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class LogSoftmax(Corrected):
    """The evaluator's own takes the logarithm of a softmax that may have underflowed."""

    def _run(self, x: Array, axis: int = -1) -> tuple[Array]:
        return (_log_softmax(x, axis) if x.size else x,)


def _log_softmax(x: Array, axis: int) -> Array:
    shifted = x - x.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)), x.dtype)


class LRN(Corrected):
    """The evaluator's own counts channels by the batch, and knows images only."""

    def _run(self, x: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> tuple[Array]:
        edges = [(0, 0), ((size - 1) // 2, size // 2), *[(0, 0)] * (x.ndim - 2)]
        squares = np.pad(x.astype(np.float64) ** 2, edges)
        sums = np.lib.stride_tricks.sliding_window_view(squares, size, axis=1).sum(axis=-1)
        return ((x / (float(bias) + float(alpha) / size * sums) ** float(beta)).astype(x.dtype),)


class MatMulInteger(Corrected):
    """The evaluator's own does not know that a vector of zero points is one per row of the first matrix."""

    def _run(self, a: Array, b: Array, a_zero_point: Array | None = None, b_zero_point: Array | None = None) -> tuple[Array]:
        a, b = a.astype(np.int32), b.astype(np.int32)
        if a_zero_point is not None:
            zeros = a_zero_point.astype(np.int32)
            a = a - (zeros[:, None] if zeros.ndim == 1 and zeros.size > 1 else zeros)
        return (a @ (b if b_zero_point is None else b - b_zero_point.astype(np.int32)),)


class Mean(Corrected):
    """The evaluator's own adds up in the memory of the first operand, whatever its shape."""

    def _run(self, *inputs: Array, **_: Any) -> tuple[Array]:
        total = functools.reduce(np.add, (one.astype(np.float64) for one in inputs))
        return (np.asarray(total / len(inputs), inputs[0].dtype),)


class MeanVarianceNormalization(Corrected):
    """The body that ONNX gives it has a float32 constant, whatever the type."""

    def _run(self, x: Array, axes: Sequence[int] = (0, 2, 3)) -> tuple[Array]:
        wide = x.astype(np.float64)
        centred = wide - wide.mean(axis=tuple(axes), keepdims=True)
        return ((centred / (wide.std(axis=tuple(axes), keepdims=True) + 1e-9)).astype(x.dtype),)


class OneHot(Corrected):
    """The evaluator's own does not take a depth that is a vector of one number."""

    def _run(self, indices: Array, depth: Array, values: Array, axis: int = -1) -> tuple[Array]:
        size = int(depth.reshape(()))
        at = indices.astype(np.int64)
        if self.version >= 11:  # before that, whatever was negative was out of range
            at = np.where(at < 0, at + size, at)
        off, on = values
        return (np.moveaxis(np.where(at[..., None] == np.arange(size), on, off), -1, axis).astype(values.dtype),)


class Pad(Corrected):
    """The evaluator's own does not know negative pads, which cut."""

    def _run(self, x: Array, *inputs: Any, **attributes: Any) -> tuple[Array]:
        pads = np.asarray(inputs[0] if inputs else attributes["pads"], np.int64)
        axes = [axis % x.ndim for axis in inputs[2].tolist()] if len(inputs) > 2 and inputs[2] is not None else range(x.ndim)
        cuts = [slice(None)] * x.ndim
        for axis, low, high in zip(axes, *pads.reshape(2, -1).tolist(), strict=True):
            cuts[axis] = slice(max(-low, 0), x.shape[axis] + min(high, 0))
        kept = pads.clip(0)
        if inputs:
            return (self.own._run(x[tuple(cuts)], kept, *inputs[1:], **attributes)[0],)
        return (self.own._run(x[tuple(cuts)], **attributes | {"pads": kept})[0],)


class Pooling(Corrected):
    """What AveragePool, LpPool and MaxPool share. The evaluator's own put pads on the wrong axes, cannot round up what auto_pad pads,
    and mark pads with NaN, which integers do not have.
    """

    def _run(
        self,
        x: Array,
        kernel_shape: Sequence[int],
        auto_pad: str = "NOTSET",
        ceil_mode: int = 0,
        dilations: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        **more: Any,
    ) -> tuple[Array, ...]:
        rank = len(kernel_shape)
        steps, apart = strides or [1] * rank, dilations or [1] * rank
        given = pads if pads and auto_pad == "NOTSET" else [0] * rank * 2
        spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel_shape, apart, strict=True)]
        sizes = zip(x.shape[2:], spans, steps, given[:rank], given[rank:], strict=True)
        axes = [_pooled(*size, auto_pad, bool(ceil_mode)) for size in sizes]

        def windows(array: Array, filler: Any, inner: Any = None) -> Array:
            """[..., pooled axes, window]: pads hold `inner`, and what lies beyond them, where the count was rounded up, `filler`."""
            kept = [(0, 0)] * (array.ndim - rank)
            padded = np.pad(array, [*kept, *(axis.pads for axis in axes)], constant_values=filler if inner is None else inner)
            padded = np.pad(padded, [*kept, *((0, axis.beyond) for axis in axes)], constant_values=filler)
            seen = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(-rank, 0)))
            chosen = [slice(0, axis.windows * step, step) for axis, step in zip(axes, steps, strict=True)]
            inside = [slice(None, None, dilation) for dilation in apart]
            taps: Array = seen[tuple[Any, ...]((..., *chosen, *inside))]
            return taps.reshape(*taps.shape[:-rank], -1)

        return self._pool(x, windows, more)

    def _pool(self, x: Array, windows: Callable[..., Array], attributes: Mapping[str, Any]) -> tuple[Array, ...]:
        raise NotImplementedError


class _Axis(NamedTuple):
    """An axis that is pooled: how many windows, the pads before and after, and what the last window needs beyond those."""

    windows: int
    pads: tuple[int, int]
    beyond: int


def _pooled(length: int, span: int, step: int, before: int, after: int, auto_pad: str, ceil: bool) -> _Axis:
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        count = -(-length // step)
        total = max((count - 1) * step + span - length, 0)
        before = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
        return _Axis(count, (before, total - before), 0)
    room = length + before + after - span
    count = (-(-room // step) if ceil else room // step) + 1
    if ceil and (count - 1) * step >= length + before:  # no window begins in the pad after
        count -= 1
    return _Axis(count, (before, after), max((count - 1) * step - room, 0))


class AveragePool(Pooling):
    """The mean of each window, of what is in the tensor or, with count_include_pad, in its pads."""

    def _pool(self, x: Array, windows: Callable[..., Array], attributes: Mapping[str, Any]) -> tuple[Array, ...]:
        counts = windows(np.ones(x.shape[2:]), 0, int(bool(attributes.get("count_include_pad")))).sum(axis=-1)
        return ((windows(x.astype(np.float64), 0).sum(axis=-1) / counts).astype(x.dtype),)


class LpPool(Pooling):
    """The p-norm of each window."""

    def _pool(self, x: Array, windows: Callable[..., Array], attributes: Mapping[str, Any]) -> tuple[Array, ...]:
        p = float(attributes["p"])
        return (((np.abs(windows(x.astype(np.float64), 0)) ** p).sum(axis=-1) ** (1 / p)).astype(x.dtype),)


class MaxPool(Pooling):
    """The largest of each window and, where they are asked for, the places of those in the whole tensor."""

    def _pool(self, x: Array, windows: Callable[..., Array], attributes: Mapping[str, Any]) -> tuple[Array, ...]:
        taps = windows(x, np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf)
        y = taps.max(axis=-1)
        if len(self.onnx_node.output) < 2 or not self.onnx_node.output[1]:
            return (y,)
        size = math.prod(x.shape[2:])
        places = windows(np.arange(size).reshape(x.shape[2:], order="F" if attributes.get("storage_order") else "C"), -1)
        first = ((taps == y[..., None]) & (places >= 0)).argmax(axis=-1)
        within = np.take_along_axis(np.broadcast_to(places, taps.shape), first[..., None], -1)[..., 0]
        images = np.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
        return y, (within + images * size).astype(np.int64)


class PRelu(Corrected):
    """The evaluator's own multiplies a zero by the slope, which may be an infinity; it guesses which axis one slope per channel is for."""

    def _run(self, x: Array, slope: Array, **_: Any) -> tuple[Array]:
        if self.version < 7 and slope.size > 1:
            slope = slope.reshape(-1, *[1] * (x.ndim - 2))
        return (np.where(x < 0, slope * x, x).astype(x.dtype),)


class ReduceSumSquare(Corrected):
    """The evaluator's own gives 64 bits for integers of 32."""

    def _run(self, x: Array, *axes: Array, **attributes: Any) -> tuple[Array]:
        return (np.asarray(self.own._run(x, *axes, **attributes)[0], x.dtype),)


class Resizing(Corrected):
    """Upsample, and Resize at operator set 10: a Resize of today that takes pixels where they begin. The evaluator's own do less."""

    def _run(self, x: Array, *scales: Array, mode: str = "nearest", **attributes: Any) -> tuple[Array]:
        factors = scales[0] if scales else np.array(attributes["scales"], np.float32)
        node = helper.make_node("Resize", ["x", "", "s"], ["y"])
        resize = own("Resize", 13)(node, self.run_params)
        modes = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return (resize._run(x, None, factors, **modes)[0].astype(x.dtype),)


class Scatter(Corrected):
    """The evaluator knows it only by its new name, ScatterElements."""

    def _run(self, data: Array, indices: Array, updates: Array, axis: int = 0) -> tuple[Array]:
        y = data.copy()
        places: list[Array] = list(np.indices(indices.shape))
        places[axis] = np.where(indices < 0, indices + data.shape[axis], indices)
        y[tuple(places)] = updates
        return (y,)


class Softsign(Corrected):
    """The evaluator's own computes in the memory of a scalar, which has none."""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.asarray(x / (np.array(1, x.dtype) + abs(x)), x.dtype),)


class StringNormalizer(Corrected):
    """The evaluator's own strips accents and changes the locale of the whole process."""

    def _run(
        self, x: Any, case_change_action: Any = None, is_case_sensitive: Any = None, locale: Any = None, stopwords: Any = None
    ) -> tuple[Any]:
        alike = str if is_case_sensitive else str.lower
        stops = {alike(word) for word in stopwords or ()}
        change = {"LOWER": str.lower, "UPPER": str.upper}.get(case_change_action, str)
        kept = [change(text) for text in x.reshape(-1) if alike(text) not in stops] or [""]
        return (np.array(kept, object).reshape((1, -1) if x.ndim == 2 else -1),)


_ROWS: Sequence[tuple[str, type[Corrected], int | None]] = (
    ("AveragePool", AveragePool, None),
    ("BatchNormalization", BatchNormalization, 13),
    *((name, Broadcasting, 6) for name in ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")),
    ("Cast", Cast, None),
    ("CastLike", Cast, None),
    ("ConvTranspose", ConvTranspose, None),
    ("DequantizeLinear", DequantizeLinear, 18),
    ("Flatten", Flatten, None),
    ("GlobalLpPool", GlobalLpPool, None),
    ("GlobalMaxPool", GlobalMaxPool, None),
    *((name, FlatSoftmax, 12) for name in ("Hardmax", "LogSoftmax", "Softmax")),
    ("LogSoftmax", LogSoftmax, None),
    ("LpPool", LpPool, None),
    ("LRN", LRN, None),
    ("MatMulInteger", MatMulInteger, None),
    ("MaxPool", MaxPool, None),
    ("Mean", Mean, None),
    ("MeanVarianceNormalization", MeanVarianceNormalization, None),
    ("OneHot", OneHot, None),
    ("Pad", Pad, None),
    ("PRelu", PRelu, None),
    ("ReduceSumSquare", ReduceSumSquare, None),
    ("Resize", Resizing, 10),
    ("Scatter", Scatter, None),
    ("Softsign", Softsign, None),
    ("StringNormalizer", StringNormalizer, None),
    ("Upsample", Resizing, None),
)
"""Operator, what takes its place, and the last operator set for which it does; None where that is the newest too."""


@functools.cache
def corrected(version: int) -> list[type[Corrected]]:
    """What takes the place of the evaluator's own at an operator set, as the evaluator wants it: classes named after operators."""
    found: dict[str, type[Corrected]] = {}
    for name, kind, last in _ROWS:
        if name not in found and (last is None or version <= last):
            found[name] = type(name, (kind,), {"__doc__": kind.__doc__, "__module__": kind.__module__})
    return list(found.values())


def correction(operator: str, version: int) -> type[Corrected] | None:
    """What takes the place of one operator of ONNX's main domain; None where the evaluator's own is right."""
    return next((kind for kind in corrected(version) if kind.__name__ == operator), None)
