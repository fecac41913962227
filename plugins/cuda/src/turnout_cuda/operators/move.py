"""Operators that move elements and compute nothing: whatever has the size of an element moves alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from turnout_cuda.array import Array
from turnout_cuda.call import Call, Given
from turnout_cuda.element import ANY, ELEMENTS, INDEX
from turnout_cuda.fuse import broadcast_strides, collapse
from turnout_cuda.kernel import operator
from turnout_cuda.source import coordinates
from turnout_cuda.templates import launch_file

__all__ = ["strided"]


def strided(call: Call, x: Array, shape: Sequence[int], steps: Sequence[int], start: int = 0, name: str = "") -> Array:
    """The elements of x from `start` on, at these strides along each axis of the new shape; strides may be 0 or negative."""
    y = call.new(shape, x.element)
    dense = broadcast_strides(shape, shape)
    sizes, (_, strides) = collapse(shape, [[step or 1 for step in dense], steps])
    if not sizes:
        sizes, strides = [1], [1]
    target, width = call.ready(y), 1
    if strides[-1] == 1:  # neighbours stay neighbours: as many as a load takes move as one
        width = math.gcd(_VECTOR // x.element.size, sizes[-1], start, *strides[:-1])
        target, x = _as_wide(target, width), _as_wide(call.ready(x), width)
        sizes, strides = [*sizes[:-1], sizes[-1] // width], [*(step // width for step in strides[:-1]), 1]
    decode = coordinates("i", ["", *(f"n{axis}" for axis in range(1, len(sizes)))], "c")
    place = " + ".join(f"c{axis} * s{axis}" for axis in range(len(sizes)))
    body = f"{decode} y[i] = x[start + {place}];"
    call.each(target, body, bits=True, name=name, x=x, n=sizes, s=strides, start=start // width)
    return y


_VECTOR = 16
"""Bytes of the widest load."""
_BITS = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64", 16: "complex128"}


def _as_wide(array: Array, width: int) -> Array:
    """The same memory as elements of so many times the size; the array itself where that is the same."""
    if width == 1:
        return array
    return Array((array.size // width,), ELEMENTS[_BITS[array.element.size * width]], array.buffer)


def transposed(call: Call, x: Array, order: Sequence[int]) -> Array:
    """The axes in another order."""
    dense = [step or 1 for step in broadcast_strides(x.shape, x.shape)]
    shape, steps = [x.shape[axis] for axis in order], [dense[axis] for axis in order]
    own = [step or 1 for step in broadcast_strides(shape, shape)]
    sizes, (targets, sources) = collapse(shape, [own, steps])
    if 1 in sources[:-1] and x.size < 2**31 - _TILE**2:
        along = sources.index(1)
        if min(sizes[along], sizes[-1]) >= _NARROW:
            return _by_tiles(call, x, call.new(shape, x.element), along, sizes, targets, sources)
    return strided(call, x, shape, steps, name="Transpose")


_TILE, _NARROW = 64, 16
"""Elements of a tile's edge; and of an axis that is not worth one."""


def _by_tiles(call: Call, x: Array, y: Array, along: int, sizes: list[int], targets: list[int], sources: list[int]) -> Array:
    """x's neighbours become y's axis `along`, y's are far apart in x. targets, sources: elements from one to the next, by y's axes."""
    size, last = x.element.size, len(sizes) - 1
    edge = _TILE if size <= 4 else _TILE // 2
    others = [axis for axis in range(last) if axis != along]
    ends = sizes[along], sizes[last], *(step for axis, step in enumerate(sources) if axis != along), *targets[:-1]
    numbers = {"along": sizes[along], "across": sizes[last], "step": targets[along], "stride": sources[last]}
    numbers |= {"firsts": -(-sizes[along] // edge), "tiles": -(-sizes[last] // edge)}
    place = "const index first = rest % firsts * TILE; rest /= firsts; const index other = rest % tiles * TILE; rest /= tiles;"
    for number, axis in enumerate(reversed(others)):
        place += f" {{ const index c = rest % n{number}; rest /= n{number}; from += c * s{number}; to += c * t{number}; }}"
        numbers |= {f"n{number}": sizes[axis], f"s{number}": sources[axis], f"t{number}": targets[axis]}
    moved = {"x": call.ready(x).as_type(_BITS[size]), "y": call.ready(y).as_type(_BITS[size])}
    launch_file(
        call,
        "transpose.cu",
        constants={"TILE": edge, "VECTOR": math.gcd(_VECTOR // size, *ends), "PLACE": place},
        arrays=moved,
        writes=("y",),
        numbers=numbers,
        grid=(numbers["firsts"] * numbers["tiles"] * math.prod(sizes[axis] for axis in others), 1, 1),
        block=256,
        name="Transpose",
    )
    return y


@operator("Transpose")
def transpose(call: Call) -> Array:
    x = call.x
    order = call.attribute("perm") or list(range(x.ndim))[::-1]
    if sorted(order) != list(range(x.ndim)):
        raise call.wrong(f"perm {order} does not name each axis once")
    moved = [axis for axis in order if x.shape[axis] != 1]
    if moved == sorted(moved):
        return call.view(x, [x.shape[axis] for axis in order])
    return transposed(call, x, order)


@operator("Concat", since=4)
def concat(call: Call) -> Array:
    parts = [call.input(place) for place in range(len(call.inputs))]
    axis = call.axis("axis", 1)
    for part in parts:
        if part.ndim != call.x.ndim or part.shape[:axis] + part.shape[axis + 1 :] != call.x.shape[:axis] + call.x.shape[axis + 1 :]:
            raise call.wrong(f"the parts differ on another axis than {axis}")
    total = sum(part.shape[axis] for part in parts)
    y = call.new([*call.x.shape[:axis], total, *call.x.shape[axis + 1 :]], call.x.element)
    inner, outer, start = math.prod(call.x.shape[axis + 1 :]), math.prod(call.x.shape[:axis]), 0
    for part in parts:
        width = part.shape[axis] * inner
        if outer == 1:
            call.copy(part, y, part.nbytes, target_offset=start * inner * part.element.size)
        else:
            body = "y[i / width * total + start + i % width] = part[i];"
            call.each(y, body, bits=True, count=part.size, part=part, width=width, total=total * inner, start=start * inner)
        start += part.shape[axis]
    return y


@operator("Split", takes=(ANY, INDEX), host=(1,))
def split(call: Call) -> list[Array]:
    x, axis = call.x, call.axis("axis", 0)
    count = int(call.attribute("num_outputs", 0)) or len(call.node.outputs)
    chunk = -(-x.shape[axis] // count)
    sizes = call.ints(1, "split") or [max(0, min(chunk, x.shape[axis] - k * chunk)) for k in range(count)]
    if sum(sizes) != x.shape[axis]:
        raise call.wrong(f"the parts {sizes} are not the whole of axis {axis}")
    inner, outer, start, made = math.prod(x.shape[axis + 1 :]), math.prod(x.shape[:axis]), 0, []
    for size in sizes:
        y = call.new([*x.shape[:axis], size, *x.shape[axis + 1 :]], x.element)
        if outer == 1:
            call.copy(x, y, y.nbytes, source_offset=start * inner * x.element.size)
        else:
            body = "y[i] = x[i / width * total + start + i % width];"
            call.each(y, body, bits=True, x=x, width=size * inner, total=x.shape[axis] * inner, start=start * inner)
        made.append(y)
        start += size
    return made


@operator("Slice", takes=(ANY, INDEX), host=(1, 2, 3, 4))
def slice_(call: Call) -> Array:
    x = call.x
    starts, ends = call.ints(1, "starts") or [], call.ints(2, "ends") or []
    axes = call.ints(3, "axes", list(range(len(starts)))) or []
    strides = call.ints(4, "", [1] * len(starts)) or []
    steps = [step or 1 for step in broadcast_strides(x.shape, x.shape)]
    shape, first = list(x.shape), 0
    for start, end, axis, stride in zip(starts, ends, axes, strides, strict=True):
        axis = call.checked_axis(axis, x.ndim)
        # as Python slices, where an end before the beginning is None
        last = None if stride < 0 and end < -x.shape[axis] else end
        chosen = range(x.shape[axis])[slice(start, last, stride)]
        shape[axis] = len(chosen)
        first += (chosen.start if len(chosen) else 0) * steps[axis]
        steps[axis] *= stride
    if tuple(shape) == x.shape and first == 0:
        return call.view(x, shape)
    return strided(call, x, shape, steps, first, "Slice")


@operator("Expand", since=8, takes=(ANY, INDEX), host=(1,), lazy=True)
def expand(call: Call) -> Array:
    return call.formula("{0}", [call.x], call.x.element, call.broadcast(call.x.shape, call.ints(1) or []))


@operator("Tile", since=6, takes=(ANY, INDEX), host=(1,))
def tile(call: Call) -> Array:
    x, repeats = call.x, call.ints(1) or []
    if len(repeats) != x.ndim:
        raise call.wrong(f"{len(repeats)} repeats are given for {x.ndim} axes")
    shape = [size * times for size, times in zip(x.shape, repeats, strict=True)]
    steps = [step or 1 for step in broadcast_strides(x.shape, x.shape)]
    decode = coordinates("i", ["", *(f"n{axis}" for axis in range(1, len(shape)))], "c")
    place = " + ".join(f"c{axis} % d{axis} * s{axis}" for axis in range(len(shape))) or "0"
    y = call.new(shape, x.element)
    return call.each(y, f"{decode} y[i] = x[{place}];", bits=True, x=x, n=shape, d=list(x.shape), s=steps)


_FOLD = {
    "constant": "inside = inside && s{k} >= 0 && s{k} < d{k};",
    "edge": "s{k} = s{k} < 0 ? 0 : s{k} >= d{k} ? d{k} - 1 : s{k};",
    "wrap": "s{k} = (s{k} % d{k} + d{k}) % d{k};",
    "reflect": "if (d{k} == 1) s{k} = 0; else {{ const index p = 2 * (d{k} - 1); s{k} = (s{k} % p + p) % p;"
    " if (s{k} >= d{k}) s{k} = p - s{k}; }}",
}


@operator("Pad", since=2, takes=(ANY, INDEX, ANY, INDEX), host=(1, 3))
def pad(call: Call) -> Array:
    x, mode = call.x, call.attribute("mode", "constant")
    if mode not in _FOLD:
        raise call.wrong(f"there is no mode {mode!r}")
    given = call.ints(1, "pads") or []
    axes = [call.checked_axis(axis, x.ndim) for axis in call.ints(3, "", list(range(x.ndim))) or []]
    before, after = [0] * x.ndim, [0] * x.ndim
    for number, axis in enumerate(axes):
        before[axis], after[axis] = given[number], given[number + len(axes)]
    shape = [size + b + a for size, b, a in zip(x.shape, before, after, strict=True)]
    value = call.optional(2)
    if value is None:
        value = call.constant(np.full(1, call.attribute("value", 0), x.element.dtype))
    decode = coordinates("i", ["", *(f"n{axis}" for axis in range(1, x.ndim))], "c")
    steps = [step or 1 for step in broadcast_strides(x.shape, x.shape)]
    fold = " ".join(f"index s{k} = c{k} - b{k}; {_FOLD[mode].format(k=k)}" for k in range(x.ndim))
    place = " + ".join(f"s{k} * t{k}" for k in range(x.ndim)) or "0"
    body = f"bool inside = true; {decode} {fold} y[i] = inside ? x[{place}] : value[0];"
    y = call.new(shape, x.element)
    return call.each(y, body, bits=True, x=x, value=value, n=shape, b=before, d=list(x.shape), t=steps)


@operator("DepthToSpace")
def depth_to_space(call: Call) -> Array:
    x, b = call.x, int(call.attribute("blocksize"))
    n, c, h, w = x.shape
    if c % (b * b):
        raise call.wrong(f"{c} channels are not a multiple of {b} times {b}")
    if call.attribute("mode", "DCR") == "DCR":
        y = transposed(call, call.view(x, (n, b, b, c // (b * b), h, w)), (0, 3, 4, 1, 5, 2))
    else:
        y = transposed(call, call.view(x, (n, c // (b * b), b, b, h, w)), (0, 1, 4, 2, 5, 3))
    return call.view(y, (n, c // (b * b), h * b, w * b))


@operator("SpaceToDepth")
def space_to_depth(call: Call) -> Array:
    x, b = call.x, int(call.attribute("blocksize"))
    n, c, h, w = x.shape
    if h % b or w % b:
        raise call.wrong(f"{h} by {w} is not a multiple of {b}")
    order = (0, 3, 5, 1, 2, 4) if call.attribute("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    y = transposed(call, call.view(x, (n, c, h // b, b, w // b, b)), order)
    return call.view(y, (n, c * b * b, h // b, w // b))


@operator("ReverseSequence", since=10, takes=(ANY, INDEX))
def reverse_sequence(call: Call) -> Array:
    x, lengths = call.x, call.input(1)
    batch, time = call.axis("batch_axis", 1), call.axis("time_axis", 0)
    steps = [step or 1 for step in broadcast_strides(x.shape, x.shape)]
    body = (
        "const index b = i / batch_step % batches, t = i / time_step % times, l = places[b];"
        " y[i] = x[t < l ? i + (l - 1 - 2 * t) * time_step : i];"
    )
    numbers: Given = {"batch_step": steps[batch], "time_step": steps[time], "batches": x.shape[batch], "times": x.shape[time]}
    return gathered(call, call.new(x.shape, x.element), body, x, lengths, **numbers)


@operator("Trilu", since=14, takes=(ANY, INDEX), host=(1,))
def trilu(call: Call) -> Array:
    x = call.x
    rows, columns = x.shape[-2:]
    keep = ">=" if call.attribute("upper", 1) else "<="
    body = f"const index r = i / columns % rows, c = i % columns; y[i] = c - r {keep} k ? x[i] : Y();"
    return call.each(call.new(x.shape, x.element), body, bits=True, x=x, rows=rows, columns=columns, k=int(call.number(1, "", 0) or 0))


@operator("Compress", since=9, takes=(ANY, frozenset({"bool"})), host=(1,))
def compress(call: Call) -> Array:
    x = call.x
    chosen = np.flatnonzero(call.host(1).reshape(-1))
    axis = call.attribute("axis")
    if axis is None:
        x, axis = call.view(x, (x.size,)), 0
    axis = call.checked_axis(int(axis), x.ndim)
    if len(chosen) and chosen[-1] >= x.shape[axis]:
        raise call.wrong("the condition is longer than the axis")
    y = call.new([*x.shape[:axis], len(chosen), *x.shape[axis + 1 :]], x.element)
    body = "y[i] = x[(i / inner / count_ * axis + places[i / inner % count_]) * inner + i % inner];"
    places = call.constant(chosen.astype(np.int32))
    inner = math.prod(x.shape[axis + 1 :])
    return gathered(call, y, body, x, places, inner=inner, axis=x.shape[axis], count_=len(chosen))


def gathered(call: Call, y: Array, body: str, x: Array, places: Array, functions: str = "", **numbers: Any) -> Array:
    """Elements moved by places: x and y are taken as bits, the places as the whole numbers that they are."""
    bits = _BITS[x.element.size]
    call.each(call.ready(y).as_type(bits), body, functions=functions, x=call.ready(x).as_type(bits), places=places, **numbers)
    return y


@operator("CenterCropPad", since=18, takes=(ANY, INDEX), host=(1,))
def center_crop_pad(call: Call) -> Array:
    x, target = call.x, call.ints(1) or []
    axes = [call.checked_axis(axis, x.ndim) for axis in call.attribute("axes", list(range(x.ndim)))]
    shape, shift = list(x.shape), [0] * x.ndim
    for axis, size in zip(axes, target, strict=True):
        shape[axis] = size
        have = x.shape[axis]
        shift[axis] = (have - size) // 2 if have > size else -((size - have) // 2)
    decode = coordinates("i", ["", *(f"n{axis}" for axis in range(1, x.ndim))], "c")
    steps = [step or 1 for step in broadcast_strides(x.shape, x.shape)]
    inside = " && ".join(f"c{k} + b{k} >= 0 && c{k} + b{k} < d{k}" for k in range(x.ndim)) or "true"
    place = " + ".join(f"(c{k} + b{k}) * s{k}" for k in range(x.ndim)) or "0"
    body = f"{decode} y[i] = {inside} ? x[{place}] : Y();"
    return call.each(call.new(shape, x.element), body, bits=True, x=x, n=shape, b=shift, d=list(x.shape), s=steps)
