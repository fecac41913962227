"""Kernels that take the elements along some axes together, and either keep one result (a reduction) or write each element anew (softmax,
normalizations).

A row is what is taken together. Where its elements are neighbours in memory, several lanes share a row, with vector loads where they fit;
where the rows are neighbours, each thread takes a row, so that the loads of a warp are neighbours then too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from turnout_cuda.array import Array
from turnout_cuda.call import Call
from turnout_cuda.fuse import broadcast_strides, collapse
from turnout_cuda.roofline import arithmetic
from turnout_cuda.source import coordinates

__all__ = ["Accumulator", "accumulated", "reduce_rows", "rewrite_rows"]

BLOCK = 256


@dataclass(frozen=True)
class Accumulator:
    """How elements are taken together, in C++.

    state: a type. start: its value before the first element. step: a statement that takes x, the r-th element of the row, into the state a.
    join: an expression that makes one state of two, a and b. functions: what these need. R is the type to compute in: float, or double
    for float64 and whole numbers; S the type to sum in: that, or 64 bits for whole numbers.
    """

    state: str
    start: str
    step: str
    join: str
    functions: str = ""


SUM = Accumulator("S", "0", "a += x;", "a + b")


def accumulated(element: Any) -> tuple[str, str]:
    """The types R and S for an element type."""
    if element.work in ("float", "double"):
        return element.work, element.work
    return "double", "unsigned long long" if element.name.startswith("u") else "long long"


@dataclass(frozen=True)
class _Layout:
    """Rows: sizes and strides of the axes that tell rows apart, and of those along a row."""

    kept: list[int]
    kept_steps: list[int]
    along: list[int]
    along_steps: list[int]

    @property
    def rows(self) -> int:
        return math.prod(self.kept)

    @property
    def length(self) -> int:
        return math.prod(self.along)


def _layout(shape: Sequence[int], axes: Sequence[int]) -> _Layout:
    strides = broadcast_strides(shape, shape)
    dense = [step or 1 for step in strides]
    kept, (kept_steps,) = collapse([s for k, s in enumerate(shape) if k not in axes], [[s for k, s in enumerate(dense) if k not in axes]])
    along, (along_steps,) = collapse([shape[k] for k in axes], [[dense[k] for k in axes]])
    return _Layout(kept, kept_steps, along, along_steps)


@dataclass(frozen=True)
class _Source:
    """Where the elements of x come from: its own memory, or arrays of which they are a formula, computed as they are read.

    arrays: each with its C++ name and where its element is: "at" as in x, "r" by the place in the row, "0" the only one. declared: C++ for
    the formula, "" where there is none.
    """

    arrays: Sequence[tuple[Array, str, str]]
    declared: str = ""

    def value(self) -> str:
        """The element at `at`, which is the r-th of its row."""
        if not self.declared:
            return "up(input[at])"
        return f"element({', '.join(f'up({name}[{place}])' for _, name, place in self.arrays)})"

    def loads(self, width: int) -> str:
        """Loads of `width` neighbours."""
        text = ""
        for array, name, place in self.arrays:
            kind = f"pack<{array.element.c}, {width}>"
            if not self.declared:
                kind = f"pack<X, {width}>"
            if place != "0":
                text += f"const {kind} {self._loaded(name)} = *(const {kind}*)({name} + {place}0); "
        return text

    def loaded(self) -> str:
        """The j-th of the elements that were loaded."""
        if not self.declared:
            return "up(loaded.at[j])"
        parts = (f"{name}[0]" if place == "0" else f"{self._loaded(name)}.at[j]" for _, name, place in self.arrays)
        return f"element({', '.join(f'up({part})' for part in parts)})"

    def _loaded(self, name: str) -> str:
        return f"{name}_" if self.declared else "loaded"


_MOST_READ = 2
"""Arrays of x's size that a formula may read where rows are walked more than once: beyond, computing x first moves fewer bytes."""


def _source(call: Call, x: Array, axes: Sequence[int], walks: int) -> _Source:
    found = call.inlined(x)
    if found is not None:
        length = math.prod(x.shape[axis] for axis in axes)
        trailing = list(axes) == list(range(x.ndim - len(axes), x.ndim))
        places = [_place(leaf, x, length if trailing else 0, axes) for leaf in found.leaves]
        if all(places) and (walks == 1 or places.count("at") <= _MOST_READ):
            work = ", ".join(f"{leaf.element.work} a{k}" for k, leaf in enumerate(found.leaves))
            body = " ".join((*found.lines, f"return up(down<X>({found.last}));"))
            arrays = [(leaf, f"x{k}", place) for k, (leaf, place) in enumerate(zip(found.leaves, places, strict=True))]
            return _Source(arrays, f"DEVICE W element({work}) {{ {body} }}")
    return _Source([(call.ready(x), "input", "at")])


def _place(leaf: Array, x: Array, length: int, axes: Sequence[int]) -> str:
    """Where a leaf's element for an element of x is; "" where that takes more than a look."""
    if leaf.shape == x.shape:
        return "at"
    if leaf.size == 1:
        return "0"
    row = tuple(x.shape[axis] for axis in axes)
    spread = leaf.shape[: -len(row)] if len(leaf.shape) > len(row) else ()
    return "r" if leaf.size == length and leaf.shape[-len(row) :] == row and math.prod(spread) == 1 else ""


def reduce_rows(call: Call, x: Array, y: Array, axes: Sequence[int], how: Accumulator, finish: str, name: str) -> Array:
    """y gets one element for each row of x along the axes: `finish` is an expression in the state a and the row's length n."""
    return _launch(call, x, y, axes, how, f"if (!lane) y[row] = down<Y>({finish});", "", name, {})


def rewrite_rows(
    call: Call,
    x: Array,
    y: Array,
    axes: Sequence[int],
    how: Accumulator,
    each: str,
    name: str,
    *,
    between: Sequence[str] = (),
    **given: Any,
) -> Array:
    """y gets an element for each of x: `each` is an expression in x, its place `at`, its number r in the row, and the row's state a.

    between: up to three parts that come before that: statements; one that takes x into the sum b, for which the row is walked a second
    time; statements that may read b. given: arrays and numbers that the expressions name.
    """
    return _launch(call, x, y, axes, how, "", each, name, given, between)


def _launch(
    call: Call,
    x: Array,
    y: Array,
    axes: Sequence[int],
    how: Accumulator,
    finish: str,
    each: str,
    name: str,
    given: dict[str, Any],
    between: Sequence[str] = (),
) -> Array:
    if not y.size:
        return y
    source = _source(call, x, sorted(axes), 1 + bool(each) + (len(between) > 1))
    layout = _layout(x.shape, sorted(axes))
    rows, length = layout.rows, layout.length
    neighbours = not layout.along or layout.along_steps[-1] == 1
    lanes = 1
    if length > 1 and (neighbours or (rows < 2048 and length >= 256)):
        lanes = 32 if length <= 1024 else 256
    width = 1
    if neighbours and lanes > 1:
        read = max(array.element.size for array, _, place in source.arrays if place != "0")
        width = max(1, 16 // max(read, y.element.size if each else 1))
        if len(layout.along) > 1 or length % width or any(step % width for step in layout.kept_steps):
            width = 1
    wide = max([x.size, y.size, *(v for v in given.values() if isinstance(v, int))]) > 2**31 - 1 - 16 * BLOCK
    index = "long long" if wide else "int"
    pointers, numbers = [], []
    arguments: list[tuple[str, Any]] = [("pointer", array) for array, _, _ in source.arrays]
    arguments.append(("pointer", y))
    for key, value in given.items():
        if isinstance(value, Array):
            pointers.append(f"const {value.element.c}* {key}, ")
            arguments.append(("pointer", call.ready(value)))
        else:
            numbers.append(f", {'double' if isinstance(value, float) else 'index'} {key}")
    arguments += [(index, rows), (index, length)]
    sizes = "".join(f", index {prefix}n{k}" for prefix, axes_ in (("k", layout.kept), ("a", layout.along)) for k in range(len(axes_)))
    steps = "".join(f", index {prefix}s{k}" for prefix, axes_ in (("k", layout.kept), ("a", layout.along)) for k in range(len(axes_)))
    arguments += [(index, value) for value in (*layout.kept, *layout.along, *layout.kept_steps, *layout.along_steps)]
    arguments += [("double" if isinstance(v, float) else index, v) for v in given.values() if not isinstance(v, Array)]
    inputs = "const X* input, " if not source.declared else "".join(f"const {one.element.c}* {own}, " for one, own, _ in source.arrays)
    r_type, s_type = accumulated(x.element)
    text = "\n".join(
        [
            f"typedef {index} index; typedef {r_type} R; typedef {s_type} S; typedef {x.element.c} X; typedef {x.element.work} W;",
            f"typedef {y.element.c} Y;" + ("\n" + source.declared if source.declared else ""),
            how.functions,
            f"typedef {how.state} A;",
            f"struct Join {{ static DEVICE A join(A a, A b) {{ return {how.join}; }} }};",
            f'extern "C" __global__ void __launch_bounds__({BLOCK}) ENTRY({inputs}Y* y, {"".join(pointers)}index rows, index n'
            f"{sizes}{steps}{''.join(numbers)}) {{",
            f"    const int lane = threadIdx.x % {lanes};",
            f"    const index row = (index)blockIdx.x * {BLOCK // lanes} + threadIdx.x / {lanes};",
            "    const bool there = row < rows;",
            "    index base = 0;",
            f"    {{ {_offset('row', layout.kept, 'k', 'base')} }}",
            f"    A a = {how.start};",
            f"    if (there) {_loop(source, layout, lanes, width, how.step)}",
            f"    a = together<{lanes}, {BLOCK}, Join>(a);" if lanes > 1 else "",
            _between(source, between, layout, lanes, width),
            "    if (!there) return;",
            f"    {finish}",
            f"    {_loop(source, layout, lanes, width, '', each) if each else ''}",
            "}",
        ]
    )
    blocks = math.ceil(rows / (BLOCK // lanes))
    arrays = [value for value in given.values() if isinstance(value, Array)]
    read_here = [array for array, _, _ in source.arrays]
    same = [(y, one) for one, _, place in source.arrays if each and place == "at" and one.element.size == y.element.size]
    again = arithmetic(source.declared) * (1 + bool(each) + (len(between) > 1))
    taken = sum(map(arithmetic, (how.step, how.functions, each, *between[1:2]))) + again
    operations = rows * (length * taken + sum(map(arithmetic, (finish, *between[0:1], *between[2:]))))
    reads = [*read_here, *arrays]
    call.launch(text + "\n", name, (blocks, 1, 1), BLOCK, arguments, reads=reads, writes=[y], in_place=same, operations=operations)
    return y


def _offset(of: str, sizes: Sequence[int], prefix: str, into: str) -> str:
    """C++ that adds the offset of a linear index over the axes to a variable."""
    if not sizes:
        return ""
    names = ["", *(f"{prefix}n{k}" for k in range(1, len(sizes)))]
    terms = " + ".join(f"{prefix}c{k} * {prefix}s{k}" for k in range(len(sizes)))
    return f"{coordinates(of, names, prefix + 'c')} {into} += {terms};"


def _loop(source: _Source, layout: _Layout, lanes: int, width: int, step: str, each: str = "") -> str:
    """A walk over the row's elements, which either takes each into the state or writes it anew."""
    head = f"for (index r0 = lane * {width}; r0 < n; r0 += {lanes * width}) {{ index at0 = base; "
    head += f"{{ {_offset('r0', layout.along, 'a', 'at0')} }} "
    if width == 1:
        act = f"y[at] = down<Y>({each});" if each else step
        return head + f"const index r = r0, at = at0; const W x = {source.value()}; {act} }}"
    load = source.loads(width)
    inner = f"for (int j = 0; j < {width}; ++j) {{ const index r = r0 + j, at = at0 + j; const W x = {source.loaded()}; "
    if not each:
        return head + load + inner + step + " } }"
    store = f"pack<Y, {width}> made; {inner}made.at[j] = down<Y>({each}); }} *(pack<Y, {width}>*)(y + at0) = made; }}"
    return head + load + store


def _between(source: _Source, parts: Sequence[str], layout: _Layout, lanes: int, width: int) -> str:
    """What stands between the first walk over a row and the one that writes."""
    if len(parts) < 2:
        return f"    {''.join(parts)}"
    before, statement, after = parts
    plus = "struct Plus { static DEVICE R join(R a, R b) { return a + b; } };"
    walk = f"R b = 0; if (there) {_loop(source, layout, lanes, width, statement)}"
    join = f" b = together<{lanes}, {BLOCK}, Plus>(b);" if lanes > 1 else ""
    return f"    {plus} {before} {walk}{join} {after}"
