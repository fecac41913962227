"""Gathering and scattering: elements whose places are data. An index below zero counts from the end."""

from __future__ import annotations

import math

from turnout_cuda.array import Array
from turnout_cuda.call import Call, Given
from turnout_cuda.element import ANY, ELEMENTS, INDEX
from turnout_cuda.fuse import broadcast_strides
from turnout_cuda.kernel import operator
from turnout_cuda.operators.move import gathered
from turnout_cuda.source import coordinates

__all__ = ["WRAP"]

WRAP = """DEVICE long long wrapped(long long place, long long size) {
    place += place < 0 ? size : 0;
    return place < 0 ? 0 : place < size ? place : size - 1;
}"""
"""What lies outside is moved to the nearest end: ONNX calls it an error, which a kernel cannot raise, and no other memory is touched."""


@operator("Gather", takes=(ANY, INDEX))
def gather(call: Call) -> Array:
    x, places, axis = call.x, call.input(1), call.axis()
    y = call.new([*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]], x.element)
    if y.size and not x.shape[axis]:
        raise call.wrong("there is nothing to gather from")
    body = "y[i] = x[((i / inner / many) * size + (index)wrapped(places[i / inner % many], size)) * inner + i % inner];"
    inner = math.prod(x.shape[axis + 1 :])
    return gathered(call, y, body, x, places, functions=WRAP, inner=inner, many=places.size, size=x.shape[axis])


@operator("GatherElements", since=11, takes=(ANY, INDEX))
def gather_elements(call: Call) -> Array:
    x, places, axis = call.x, call.input(1), call.axis()
    steps = [step or 1 for step in broadcast_strides(x.shape, x.shape)]
    decode = coordinates("i", ["", *(f"n{k}" for k in range(1, x.ndim))], "c")
    at = " + ".join(f"(index)wrapped(places[i], size) * s{k}" if k == axis else f"c{k} * s{k}" for k in range(x.ndim))
    y = call.new(places.shape, x.element)
    return gathered(call, y, f"{decode} y[i] = x[{at}];", x, places, functions=WRAP, n=list(places.shape), s=steps, size=x.shape[axis])


def _place_of(depth: int, name: str = "places") -> str:
    """C++ for the offset that a row of indices names, in units of what lies below the indexed axes."""
    text = "0"
    for k in range(depth):
        text = f"({text} * d{k} + (index)wrapped({name}[row * {depth} + {k}], d{k}))"
    return text


@operator("GatherND", since=11, takes=(ANY, INDEX))
def gather_nd(call: Call) -> Array:
    x, places, batch = call.x, call.input(1), int(call.attribute("batch_dims", 0))
    depth = places.shape[-1]
    y = call.new([*places.shape[:-1], *x.shape[batch + depth :]], x.element)
    inner = math.prod(x.shape[batch + depth :])
    rows = math.prod(places.shape[batch:-1])
    size = math.prod(x.shape[batch : batch + depth])
    body = f"const index row = i / inner; y[i] = x[(row / rows * size + {_place_of(depth)}) * inner + i % inner];"
    dims = list(x.shape[batch : batch + depth])
    return gathered(call, y, body, x, places, functions=WRAP, inner=inner, rows=rows, size=size, d=dims)


_JOIN = {"none": "u", "add": "o + u", "mul": "o * u", "min": "smaller(o, u)", "max": "larger(o, u)"}


def _copied(call: Call) -> Array:
    y = call.new(call.x.shape, call.x.element)
    call.copy(call.x, y, y.nbytes)
    return y


def _storing(call: Call, at: str, update: str) -> str:
    """C++ that joins an element of the updates to one of y."""
    join = _JOIN[call.attribute("reduction", "none")]
    if join == "u":
        return f"y[{at}] = updates[{update}];"
    return f"const Y_ o = up(y[{at}]), u = up(updates[{update}]); y[{at}] = down<Y>({join});"


def _refuses_reduction(node: object) -> str:
    """Only types that a kernel computes in can be joined."""
    found = node.attributes.get("reduction")  # type: ignore[attr-defined]
    value = node.inputs[0]  # type: ignore[attr-defined]
    if found is None or found.value == "none" or value is None or value.dtype is None:
        return ""
    name = next((one.name for one in ELEMENTS.values() if one.onnx == int(value.dtype)), "")
    return f"no kernel joins elements of {name} by {found.value}" if name.startswith("complex") else ""


@operator("Scatter", since=9, until=10, takes=(ANY, INDEX, ANY))
@operator("ScatterElements", since=11, takes=(ANY, INDEX, ANY), refuses=_refuses_reduction)
def scatter_elements(call: Call) -> Array:
    """One thread for each line of updates along the axis: whatever meets in an element meets in one thread, in order."""
    x, places, updates, axis = call.x, call.input(1), call.input(2), call.axis()
    y = _copied(call)
    steps = [step or 1 for step in broadcast_strides(x.shape, x.shape)]
    own = [step or 1 for step in broadcast_strides(places.shape, places.shape)]
    lines = [size for k, size in enumerate(places.shape) if k != axis]
    decode = coordinates("i", ["", *(f"n{k}" for k in range(1, len(lines)))], "c")
    others = [k for k in range(x.ndim) if k != axis]
    to = " + ".join([f"c{place} * s{k}" for place, k in enumerate(others)]) or "0"
    of = " + ".join([f"c{place} * o{k}" for place, k in enumerate(others)]) or "0"
    body = (
        f"{decode} const index to = {to}, of = {of}; for (index j = 0; j < many; ++j) {{ const index from = of + j * o{axis};"
        f" const index at = to + (index)wrapped(places[from], size) * s{axis}; {_storing(call, 'at', 'from')} }}"
    )
    many = places.shape[axis] if places.ndim else 1
    return call.each(
        y,
        body,
        count=math.prod(lines) if many else 0,
        also=["y"],
        functions=WRAP,
        places=places,
        updates=updates,
        n=lines or [1],
        s=steps,
        o=own,
        many=many,
        size=x.shape[axis],
    )


@operator("ScatterND", since=11, takes=(ANY, INDEX, ANY), refuses=_refuses_reduction)
def scatter_nd(call: Call) -> Array:
    """With a reduction, one thread for each element of a slice takes all updates in order; without, one for each element of them."""
    x, places, updates = call.x, call.input(1), call.input(2)
    y = _copied(call)
    depth = places.shape[-1]
    inner, rows = math.prod(x.shape[depth:]), math.prod(places.shape[:-1])
    if call.attribute("reduction", "none") == "none":
        count, loop = rows * inner, "const index row = i / inner; "
    else:
        count, loop = inner if rows else 0, "for (index row = 0; row < rows; ++row) "
    body = f"{loop}{{ const index at = {_place_of(depth)} * inner + i % inner, from = row * inner + i % inner; "
    body += _storing(call, "at", "from") + " }"
    dims = list(x.shape[:depth])
    return call.each(y, body, count=count, also=["y"], functions=WRAP, places=places, updates=updates, inner=inner, rows=rows, d=dims)


@operator("TensorScatter", since=24, takes=(ANY, ANY, INDEX))
def tensor_scatter(call: Call) -> Array:
    """A cache with new rows written into it at each batch's own place."""
    x, updates, starts, axis = call.x, call.input(1), call.optional(2), call.axis("axis", -2)
    y = x if call.may_overwrite(0, 0) else _copied(call)
    inner, many, size = math.prod(x.shape[axis + 1 :]), updates.shape[axis], x.shape[axis]
    start = "starts[i / share]" if starts is not None else "0"
    row = f"(index){start} + i / inner % many"
    if call.attribute("mode", "linear") == "circular":
        row = f"({row}) % size"
    body = f"const index row = {row}; if (row >= 0 && row < size) y[(i / inner / many * size + row) * inner + i % inner] = updates[i];"
    given: Given = {} if starts is None else {"starts": starts}
    share = updates.size // max(x.shape[0], 1)
    return call.each(y, body, count=updates.size, also=["y"], updates=updates, inner=inner, many=many, size=size, share=share, **given)
