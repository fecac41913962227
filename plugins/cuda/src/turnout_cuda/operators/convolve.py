"""Convolutions as matrix products: the right operand is read out of the image as it is needed."""

from __future__ import annotations

import math
from typing import Any

from turnout_cuda.array import Array
from turnout_cuda.call import Call, Given
from turnout_cuda.element import FLOATS, Types
from turnout_cuda.kernel import operator
from turnout_cuda.operators.convert import quantized
from turnout_cuda.products import product
from turnout_cuda.source import coordinates
from turnout_cuda.windows import Window

_BYTES: Types = frozenset({"int8", "uint8"})


def _convolve(call: Call, x: Array, w: Array, y_type: Any, value: str, left: str, take: str, sums: str = "", **given: Any) -> Array:
    """take: what becomes of an element of the image that is there; outside there is 0. value: what is stored of the sum a."""
    groups = int(call.attribute("group", 1))
    if x.ndim < 3 or w.ndim != x.ndim or w.shape[1] * groups != x.shape[1] or w.shape[0] % groups:
        raise call.wrong("image, weights and groups do not fit")
    window = Window(call, x.shape[2:], w.shape[2:])
    rank, kernel, pixels = len(window.out), math.prod(window.kernel), math.prod(window.out)
    m, n, k = w.shape[0] // groups, x.shape[0] * pixels, w.shape[1] * kernel
    inner = coordinates("k % kernel", ["", *(f"w{a}" for a in range(1, rank))], "f")
    outer = coordinates("n % pixels", ["", *(f"o{a}" for a in range(1, rank))], "p")
    places = " ".join(f"const index q{a} = p{a} * s{a} - b{a} + f{a} * e{a};" for a in range(rank))
    inside = " && ".join(f"q{a} >= 0 && q{a} < d{a}" for a in range(rank))
    at = "(n / pixels * channels + z * share + k / kernel)"
    for a in range(rank):
        at = f"({at} * d{a} + q{a})"
    numbers: Given = {
        "w": window.kernel,
        "o": window.out,
        "d": window.spatial,
        "s": window.strides,
        "b": window.begin,
        "e": window.dilations,
    }
    signature = ", ".join(["index k", "index n", "index z", *_names(numbers), "index kernel, index pixels, index channels, index share"])
    pointers = "".join(f", const {one.element.c}* {key}" for key, one in given.items() if isinstance(one, Array))
    call_names = ", ".join(["k", "n", "z", *(name[6:] for name in _names(numbers)), "kernel, pixels, channels, share", "x"])
    call_names += "".join(f", {key}" for key, one in given.items() if isinstance(one, Array))
    sums_type = sums or ("double" if x.element.name == "float64" else "float")
    functions = (
        f"DEVICE {sums_type} image({signature}, const {x.element.c}* x{pointers}) {{ {inner} {outer} {places}"
        f" return {inside} ? ({sums_type})({take.replace('ELEMENT', f'x[{at}]')}) : ({sums_type})0; }}"
    )
    y = call.new([x.shape[0], w.shape[0], *window.out], y_type)
    return product(
        call,
        y,
        (m, n, k),
        left,
        f"image({call_names})",
        store=f"const index c = z * M + m; y[(n / pixels * outputs + c) * pixels + n % pixels] = {value};",
        batch=groups,
        functions=functions,
        sums=sums_type,
        halves=x.element.c if w.element == x.element else "",
        x=x,
        weights=w,
        kernel=kernel,
        pixels=pixels,
        channels=x.shape[1],
        share=w.shape[1],
        outputs=w.shape[0],
        **numbers,
        **given,
    )


def _names(numbers: dict[str, list[int]]) -> list[str]:
    return [f"index {key}{place}" for key, values in numbers.items() for place in range(len(values))]


_WEIGHT = "up(weights[(z * M + m) * K + k])"


@operator("Conv", takes=(FLOATS,))
def conv(call: Call) -> Array:
    bias = call.optional(2)
    given: Given = {} if bias is None else {"bias": bias}
    value = "down<Y>(a + up(bias[c]))" if given else "down<Y>(a)"
    return _convolve(call, call.x, call.input(1), call.x.element, value, _WEIGHT, "up(ELEMENT)", **given)


@operator("ConvInteger", since=10, takes=(_BYTES,))
def conv_integer(call: Call) -> Array:
    given: Given = {}
    take, weight = "(int)up(ELEMENT)", f"(int){_WEIGHT}"
    if call.optional(2) is not None:
        given["xzero"] = call.input(2)
        take += " - (int)up(xzero[0])"
    if call.optional(3) is not None:
        given["wzero"] = call.input(3)
        weight += f" - (int)up(wzero[{'z * M + m' if call.input(3).size > 1 else '0'}])"
    return _convolve(call, call.x, call.input(1), "int32", "a", weight, take, "int", **given)


@operator("QLinearConv", since=10, takes=(_BYTES, FLOATS, _BYTES, _BYTES, FLOATS, _BYTES, FLOATS, _BYTES, frozenset({"int32"})))
def qlinear_conv(call: Call) -> Array:
    per = "c" if call.input(4).size > 1 else "0"
    weight = f"(int){_WEIGHT} - (int)up(wzero[{'z * M + m' if call.input(5).size > 1 else '0'}])"
    names = {"xscale": 1, "xzero": 2, "wscale": 4, "wzero": 5, "yscale": 6, "yzero": 7}
    given: Given = {name: call.input(place) for name, place in names.items()}
    total = "a"
    if call.optional(8) is not None:
        given["bias"] = call.input(8)
        total = "(a + bias[c])"
    value = f"rint((float){total} * ((float)up(xscale[0]) * (float)up(wscale[{per}]) / (float)up(yscale[0]))) + (float)up(yzero[0])"
    out = call.input(7).element
    take = "(int)up(ELEMENT) - (int)up(xzero[0])"
    return _convolve(call, call.x, call.input(3), out, quantized(value, out), weight, take, "int", **given)


@operator("ConvTranspose", takes=(FLOATS,))
def conv_transpose(call: Call) -> Array:
    """Gathered rather than scattered: each element of the result sums over those of the image whose windows reach it."""
    x, w, bias = call.x, call.input(1), call.optional(2)
    groups = int(call.attribute("group", 1))
    if x.ndim < 3 or w.ndim != x.ndim or w.shape[0] != x.shape[1] or x.shape[1] % groups:
        raise call.wrong("image, weights and groups do not fit")
    rank, kernel = x.ndim - 2, list(w.shape[2:])
    strides = list(call.attribute("strides") or [1] * rank)
    dilations = list(call.attribute("dilations") or [1] * rank)
    extra = list(call.attribute("output_padding") or [0] * rank)
    pads = list(call.attribute("pads") or [0] * (2 * rank))
    wanted, auto = call.attribute("output_shape"), call.attribute("auto_pad", "NOTSET")
    out, begin = [], []
    for a in range(rank):
        whole = (x.shape[2 + a] - 1) * strides[a] + extra[a] + (kernel[a] - 1) * dilations[a] + 1
        if wanted or auto in ("SAME_UPPER", "SAME_LOWER"):
            size = wanted[-rank + a] if wanted else x.shape[2 + a] * strides[a]
            total = max(0, whole - size)
            begin.append(total - total // 2 if auto == "SAME_LOWER" else total // 2)
            if wanted and auto == "NOTSET":
                begin[-1] = total - total // 2
        else:
            size = whole - (0 if auto == "VALID" else pads[a] + pads[rank + a])
            begin.append(0 if auto == "VALID" else pads[a])
        out.append(size)
    cells, pixels = math.prod(kernel), math.prod(out)
    share = x.shape[1] // groups
    inner = coordinates("k % kernel", ["", *(f"w{a}" for a in range(1, rank))], "f")
    outer = coordinates("n % pixels", ["", *(f"o{a}" for a in range(1, rank))], "p")
    places = " ".join(f"const index t{a} = p{a} + b{a} - f{a} * e{a}, q{a} = t{a} / s{a};" for a in range(rank))
    inside = " && ".join(f"t{a} >= 0 && t{a} % s{a} == 0 && q{a} < d{a}" for a in range(rank))
    at = "(n / pixels * channels + z * share + k / kernel)"
    for a in range(rank):
        at = f"({at} * d{a} + q{a})"
    numbers: Given = {"w": kernel, "o": out, "d": list(x.shape[2:]), "s": strides, "b": begin, "e": dilations}
    signature = ", ".join(["index k, index n, index z", *_names(numbers), "index kernel, index pixels, index channels, index share"])
    named = ", ".join(["k, n, z", *(name[6:] for name in _names(numbers)), "kernel, pixels, channels, share, x"])
    work = x.element.work
    functions = (
        f"DEVICE {work} image({signature}, const {x.element.c}* x) {{ {inner} {outer} {places}"
        f" return {inside} ? up(x[{at}]) : ({work})0; }}"
    )
    value = "down<Y>(a)" if bias is None else "down<Y>(a + up(bias[c]))"
    y = call.new([x.shape[0], w.shape[1] * groups, *out], x.element)
    given: Given = {} if bias is None else {"bias": bias}
    return product(
        call,
        y,
        (w.shape[1], x.shape[0] * pixels, share * cells),
        "up(weights[((z * share + k / kernel) * M + m) * kernel + k % kernel])",
        f"image({named})",
        store=f"const index c = z * M + m; y[(n / pixels * outputs + c) * pixels + n % pixels] = {value};",
        batch=groups,
        functions=functions,
        halves=x.element.c,
        x=x,
        weights=w,
        kernel=cells,
        pixels=pixels,
        channels=x.shape[1],
        share=share,
        outputs=w.shape[1] * groups,
        **numbers,
        **given,
    )
