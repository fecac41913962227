"""The softmax family and the normalizations: rows taken together, then written anew."""

from __future__ import annotations

import math
from collections.abc import Sequence

from turnout.graph import attribute, ir
from turnout_cuda.array import Array
from turnout_cuda.call import Call, Given
from turnout_cuda.element import FLOATS
from turnout_cuda.kernel import operator
from turnout_cuda.operators.elementwise import HALVES
from turnout_cuda.operators.reduce import EXPONENTIALS
from turnout_cuda.rows import SUM, Accumulator, reduce_rows, rewrite_rows

__all__ = ["softmax_axes"]

SQUARES = Accumulator("R", "0", "a += (R)x * (R)x;", "a + b")
LARGEST = Accumulator(
    "R",
    "R(-INFINITY)",
    "a = fmax((R)x, a);",  # a NaN makes the sum one
    "fmax(a, b)",
    # e to the x by the hardware's power of two: off by a few units in the last place for what counts in a sum
    'DEVICE float raised(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f)); return y; }\n'
    "DEVICE double raised(double x) { return exp(x); }",
)
_VARIANCE = ("const R mean = a / n;", "b += ((R)x - mean) * ((R)x - mean);", "const R scaled = R(1) / sqrt(b / n + (R)epsilon);")
"""Two walks rather than one of squares: a mean that is large against the deviation would cancel."""


def softmax_axes(call: Call) -> list[int]:
    """The axes that a softmax takes together: before operator set 13 all from `axis` on."""
    if call.version < 13:
        return list(range(call.axis("axis", 1), call.x.ndim))
    return [call.axis("axis", -1)] if call.x.ndim else []


@operator("Softmax", takes=(FLOATS,), lazy=True)
def softmax(call: Call) -> Array:
    return _softmax(call, "raised((R)x - a) * over", "exp((R)x - a.top) / a.sum", "const R over = R(1) / b;")


@operator("LogSoftmax", takes=(FLOATS,), lazy=True)
def log_softmax(call: Call) -> Array:
    return _softmax(call, "(R)x - a - logarithm", "(R)x - a.top - log(a.sum)", "const R logarithm = log(b);")


def _softmax(call: Call, each: str, in_fewer: str, after: str) -> Array:
    """The largest, then the sum, then the elements where a row is held; the sum along with the largest where it is read again."""
    x, between = call.x, ("", "b += raised((R)x - a);", after)
    y, fewer = call.new(x.shape, x.element), (EXPONENTIALS, in_fewer)
    return rewrite_rows(call, x, y, softmax_axes(call), LARGEST, each, call.node.op_type, between=between, in_fewer=fewer)


@operator("LayerNormalization", since=17, takes=(FLOATS,), lazy=True)
def layer_normalization(call: Call) -> Sequence[Array | None]:
    x, axis, epsilon = call.x, call.axis("axis", -1), call.real("epsilon", 1e-5)
    axes, row = list(range(axis, x.ndim)), x.shape[axis:]
    given: Given = {"scale": call.spread(call.input(1), row)}
    each = "((R)x - mean) * scaled * (R)up(scale[r])"
    bias = call.optional(2)
    if bias is not None:
        given["bias"] = call.spread(bias, row)
        each += " + (R)up(bias[r])"
    if call.wants(1) or call.wants(2):
        call.ready(x)
    y = call.new(x.shape, x.element)
    rewrite_rows(call, x, y, axes, SUM, each, "LayerNormalization", between=_VARIANCE, epsilon=epsilon, **given)
    mean = deviation = None
    if call.wants(1) or call.wants(2):
        shape = [*x.shape[:axis], *([1] * len(row))]
        stash = call.element_out(1 if call.wants(1) else 2) or x.element
        mean = reduce_rows(call, x, call.new(shape, stash), axes, SUM, "a / n", "mean")
        centred = call.ready(call.formula("{0} - {1}", [x, mean], stash, x.shape))
        finish = f"R(1) / sqrt(a / n + R({epsilon!r}))"
        deviation = reduce_rows(call, centred, call.new(shape, stash), axes, SQUARES, finish, "deviation")
    return [y, mean, deviation]


@operator("RMSNormalization", since=23, takes=(FLOATS,), lazy=True)
def rms_normalization(call: Call) -> Array:
    x, axis = call.x, call.axis("axis", -1)
    scale = call.spread(call.input(1), x.shape[axis:])
    y = call.new(x.shape, x.element)
    scaled = ("const R scaled = R(1) / sqrt(a / n + (R)epsilon);",)
    epsilon = call.real("epsilon", 1e-5)
    axes = list(range(axis, x.ndim))
    each = "(R)x * scaled * (R)up(scale[r])"
    return rewrite_rows(call, x, y, axes, SQUARES, each, "RMSNormalization", between=scaled, scale=scale, epsilon=epsilon)


def _per_channel(call: Call, groups: int, parameters: int, name: str) -> Array:
    """Each of an image's groups of channels normalized by itself, then scaled by channel or, with as few parameters, by group."""
    x = call.x
    if x.ndim < 2 or not groups or x.shape[1] % groups or parameters % groups:
        raise call.wrong(f"{groups} groups do not divide the channels")
    rows, spatial = x.shape[0] * groups, math.prod(x.shape[2:])
    view = call.view(x, (rows, x.size // max(rows, 1)))
    y = call.new(view.shape, x.element)
    rewrite_rows(
        call,
        view,
        y,
        [1],
        SUM,
        "((R)x - mean) * scaled * (R)up(scale[row % groups * share + r / width]) + (R)up(bias[row % groups * share + r / width])",
        name,
        between=_VARIANCE,
        scale=call.input(1),
        bias=call.input(2),
        epsilon=call.real("epsilon", 1e-5),
        groups=groups,
        share=parameters // groups,
        width=spatial * (x.shape[1] // max(parameters, 1)),
    )
    return call.view(y, x.shape)


@operator("InstanceNormalization", since=6, takes=(FLOATS,))
def instance_normalization(call: Call) -> Array:
    channels = call.x.shape[1] if call.x.ndim > 1 else 0
    return _per_channel(call, channels, channels, "InstanceNormalization")


@operator("GroupNormalization", since=18, takes=(HALVES,))
def group_normalization(call: Call) -> Array:
    return _per_channel(call, int(call.attribute("num_groups")), call.input(1).size, "GroupNormalization")


@operator(
    "BatchNormalization",
    since=9,
    takes=(FLOATS,),
    lazy=True,
    refuses=lambda node: "BatchNormalization in training mode has no kernel" if _training(node) else "",
)
def batch_normalization(call: Call) -> Array:
    x = call.x
    shape = (-1, *([1] * (x.ndim - 2)))
    channels = [call.view(call.input(place), (call.input(place).size, *shape[1:])) for place in range(1, 5)]
    w = x.element.work
    text = f"({{0}} - ({w}){{3}}) / sqrt(({w}){{4}} + ({w}){call.real('epsilon', 1e-5)!r}) * ({w}){{1}} + ({w}){{2}}"
    return call.formula(text, [x, *channels], x.element, x.shape)


def _training(node: ir.Node) -> bool:
    return bool(attribute(node, "training_mode", 0)) or sum(bool(value.name) for value in node.outputs) > 1


@operator("MeanVarianceNormalization", since=9, takes=(FLOATS,))
def mean_variance_normalization(call: Call) -> Array:
    axes = [call.checked_axis(axis, call.x.ndim) for axis in call.attribute("axes", [0, 2, 3])]
    between = (*_VARIANCE[:2], "const R scaled = R(1) / (sqrt(b / n) + R(1e-9));")
    y = call.new(call.x.shape, call.x.element)
    return rewrite_rows(call, call.x, y, axes, SUM, "((R)x - mean) * scaled", "MeanVarianceNormalization", between=between)


@operator("LpNormalization", takes=(FLOATS,))
def lp_normalization(call: Call) -> Array:
    if call.attribute("p", 2) == 1:
        how, norm = Accumulator("R", "0", "a += fabs((R)x);", "a + b"), "const R norm = a;"
    else:
        how, norm = SQUARES, "const R norm = sqrt(a);"
    y = call.new(call.x.shape, call.x.element)
    each = "norm == 0 ? R(0) : (R)x / norm"
    return rewrite_rows(call, call.x, y, [call.axis("axis", -1)], how, each, "LpNormalization", between=(norm,))


@operator("LRN", takes=(FLOATS,))
def lrn(call: Call) -> Array:
    x, size = call.x, int(call.attribute("size"))
    inner = math.prod(x.shape[2:])
    w = x.element.work
    body = (
        "const index c = i / inner % channels, first = c - before < 0 ? 0 : c - before;"
        " const index last = c + after < channels ? c + after : channels - 1;"
        f" {w} sum = 0; for (index k = first; k <= last; ++k) {{ const {w} v = up(x[i + (k - c) * inner]); sum += v * v; }}"
        f" y[i] = down<Y>(up(x[i]) / pow(({w})bias + ({w})alpha * sum, ({w})beta));"
    )
    numbers: Given = {name: call.real(name, default) for name, default in (("beta", 0.75), ("bias", 1.0))}
    return call.each(
        call.new(x.shape, x.element),
        body,
        x=x,
        inner=inner,
        channels=x.shape[1],
        before=(size - 1) // 2,
        after=size // 2,
        alpha=call.real("alpha", 1e-4) / size,
        **numbers,
    )
