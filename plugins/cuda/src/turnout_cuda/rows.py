"""Kernels that take the elements along some axes together, and either keep one result (a reduction) or write each element anew (softmax,
normalizations).

A row is what is taken together. Where its elements are neighbours in memory, several lanes share a row, with vector loads where they fit;
what is written anew then is read once, all loads before the first use, and held in registers up to the end, where the registers of a block
suffice. Where the rows are neighbours, each thread takes a row, so that the loads of a warp are neighbours then too.
"""

from __future__ import annotations

import math
import re
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
_LEAST, _MOST = 128, 1024
"""Threads of a block that holds its rows in registers."""
_HELD = 8
"""Vectors of a row that a thread holds: with 32 registers of them, a block of 1024 threads still fits into the register file."""
_ELEMENTS = 64
"""Elements that a thread holds: the code for each is written out."""
_FEW = 1 << 15
"""Threads: with fewer of them a GPU is far from full, and rows are shared by more lanes, down to a vector each."""


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


@dataclass(frozen=True)
class _Way:
    """How threads walk over rows. lanes: of a row. width: elements of a load. held: vectors of a row that a thread holds, 0 where it reads
    them anew for each walk. whole: every lane holds as many.
    """

    lanes: int
    block: int
    width: int
    held: int = 0
    whole: bool = False


def _way(layout: _Layout, sizes: Sequence[int], *, hold: bool) -> _Way:
    """sizes: bytes of an element of each array that is walked over; hold: whether a row is wanted more than once."""
    rows, length = layout.rows, layout.length
    neighbours = not layout.along or layout.along_steps[-1] == 1
    if length <= 1 or not (neighbours or (rows < 2048 and length >= 256)):
        return _Way(1, BLOCK, 1)
    width = 1
    if neighbours and len(layout.along) == 1:
        width = math.gcd(max(1, 16 // max(sizes)), length, *layout.kept_steps)
        vectors = length // width
        most = min(_HELD, _ELEMENTS // width)
        if hold and vectors <= most * _MOST:
            return _held(rows, vectors, width, most)
    return _Way(32 if length <= 1024 else BLOCK, BLOCK, width)


def _held(rows: int, vectors: int, width: int, most: int) -> _Way:
    lanes = 1 << (vectors - 1).bit_length()
    if lanes > 32:
        lanes = 32
        while most * lanes < vectors or (rows * lanes < _FEW and lanes < min(vectors, _MOST)):
            lanes *= 2
        held = -(-vectors // lanes)
        fewer = -(-vectors // (held * 32)) * 32  # as many each, with no lane too many
        lanes = fewer if fewer * held == vectors else lanes
    held = -(-vectors // lanes)
    block = lanes * max(1, _LEAST // lanes)
    return _Way(lanes, block, width, held, held * lanes == vectors)


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
    return _launch(call, x, y, axes, _Work(how, finish=f"if (!lane) y[row] = down<Y>({finish});"), name, {})


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
    in_fewer: tuple[Accumulator, str] | None = None,
    **given: Any,
) -> Array:
    """y gets an element for each of x: `each` is an expression in x, its place `at`, its number r in the row, and the row's state a.

    between: up to three parts that come before that: statements; one that takes x into the sum b, for which the row is walked a second
    time; statements that may read b. in_fewer: another `how` and `each`, with nothing between, for rows that each walk reads anew.
    given: arrays and numbers that the expressions name.
    """
    fewer = None if in_fewer is None else _Work(in_fewer[0], each=in_fewer[1])
    return _launch(call, x, y, axes, _Work(how, each=each, between=between, fewer=fewer), name, given)


@dataclass(frozen=True)
class _Work:
    """What is done with a row: see rewrite_rows. finish: a statement, in place of `each`."""

    how: Accumulator
    each: str = ""
    between: Sequence[str] = ()
    finish: str = ""
    fewer: _Work | None = None

    @property
    def walks(self) -> int:
        return 1 + bool(self.each) + (len(self.between) > 1)


def _launch(call: Call, x: Array, y: Array, axes: Sequence[int], work: _Work, name: str, given: dict[str, Any]) -> Array:
    if not y.size:
        return y
    layout, writes = _layout(x.shape, sorted(axes)), bool(work.each)
    written, hold = [y.element.size] if writes else [], writes and call.builds
    way = _way(layout, [x.element.size, *written], hold=hold)
    source = _source(call, x, sorted(axes), 1 if way.held else work.walks)
    way = _way(layout, [*(array.element.size for array, _, place in source.arrays if place != "0"), *written], hold=hold)
    if not way.held and work.fewer is not None:
        work = work.fewer
    rows, length, how = layout.rows, layout.length, work.how
    wide = max([x.size, y.size, *(v for v in given.values() if isinstance(v, int))]) > 2**31 - 1 - 16 * _MOST
    index = "long long" if wide else "int"
    pointers, numbers = [], []
    arguments: list[tuple[str, Any]] = [("pointer", array) for array, _, _ in source.arrays]
    arguments.append(("pointer", y))
    for key, value in given.items():
        if isinstance(value, Array):
            pointers.append(f"const {value.element.c}* __restrict__ {key}, ")
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
    alike = {key: value for key, value in given.items() if isinstance(value, Array) and value.size == length}
    text = "\n".join(
        [
            f"typedef {index} index; typedef {r_type} R; typedef {s_type} S; typedef {x.element.c} X; typedef {x.element.work} W;",
            f"typedef {y.element.c} Y;" + ("\n" + source.declared if source.declared else ""),
            how.functions,
            f"typedef {how.state} A;",
            f"struct Join {{ static DEVICE A join(A a, A b) {{ return {how.join}; }} }};",
            "struct Plus { static DEVICE R join(R a, R b) { return a + b; } };" if len(work.between) > 1 else "",
            f'extern "C" __global__ void __launch_bounds__({way.block}) ENTRY({inputs}Y* y, {"".join(pointers)}index rows, index n'
            f"{sizes}{steps}{''.join(numbers)}) {{",
            "    let_next_kernel_start();",
            "    await_earlier_kernels();",
            f"    const int lane = threadIdx.x % {way.lanes};",
            f"    const index row = (index)blockIdx.x * {way.block // way.lanes} + threadIdx.x / {way.lanes};",
            "    const bool there = row < rows;",
            "    index base = 0;",
            f"    {{ {_offset('row', layout.kept, 'k', 'base')} }}",
            *_body(source, layout, way, work, alike),
            "}",
        ]
    )
    blocks = math.ceil(rows / (way.block // way.lanes))
    arrays = [value for value in given.values() if isinstance(value, Array)]
    read_here = [array for array, _, _ in source.arrays]
    same = [(y, one) for one, _, place in source.arrays if writes and place == "at" and one.element.size == y.element.size]
    taken = sum(map(arithmetic, (how.step, how.functions, work.each, *work.between[1:2])))
    taken += arithmetic(source.declared) * (1 if way.held else work.walks)
    operations = rows * (length * taken + sum(map(arithmetic, (work.finish, *work.between[0:1], *work.between[2:]))))
    reads = [*read_here, *arrays]
    call.launch(text + "\n", name, (blocks, 1, 1), way.block, arguments, reads=reads, writes=[y], in_place=same, operations=operations)
    return y


def _body(source: _Source, layout: _Layout, way: _Way, work: _Work, alike: dict[str, Array]) -> list[str]:
    """The walks over a row, and what stands between them. alike: arrays of a row's length, which are read as the row is."""
    before, statement, after = work.between if len(work.between) == 3 else ("".join(work.between), "", "")
    joined = f" = together<{way.lanes}, {way.block}, " if way.lanes > 1 else ""

    def walk(step: str) -> str:
        if way.held:
            return _over_held(way, f"const W x = up(kept[k].at[j]); {step}")
        return _loop(source, layout, way, step)

    lines = [_held_loads(source, way)] if way.held else []
    lines += [f"    A a = {work.how.start};", f"    if (there) {{ {walk(work.how.step)} }}"]
    lines += [f"    a{joined}Join>(a);"] if joined else []
    lines.append(f"    {before}")
    if statement:
        lines += ["    R b = 0;", f"    if (there) {{ {walk(statement)} }}"]
        lines += [f"    b{joined}Plus>(b);"] if joined else []
        lines.append(f"    {after}")
    lines += ["    if (!there) return;", f"    {work.finish}"]
    if work.each:
        lines.append(f"    {_held_stores(way, work.each, alike) if way.held else _loop(source, layout, way, '', work.each)}")
    return lines


def _offset(of: str, sizes: Sequence[int], prefix: str, into: str) -> str:
    """C++ that adds the offset of a linear index over the axes to a variable."""
    if not sizes:
        return ""
    names = ["", *(f"{prefix}n{k}" for k in range(1, len(sizes)))]
    terms = " + ".join(f"{prefix}c{k} * {prefix}s{k}" for k in range(len(sizes)))
    return f"{coordinates(of, names, prefix + 'c')} {into} += {terms};"


def _loop(source: _Source, layout: _Layout, way: _Way, step: str, each: str = "") -> str:
    """A walk over the row's elements in memory, which either takes each into the state or writes it anew."""
    width = way.width
    head = "" if way.lanes == 1 or each else "\n#pragma unroll 4\n"
    head += f"for (index r0 = lane * {width}; r0 < n; r0 += {way.lanes * width}) {{ index at0 = base; "
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


def _vectors(way: _Way, act: str) -> str:
    """Something done for each of the vectors k that a thread holds, the first element of which is the r0-th of the row."""
    guard = "" if way.whole else "if (r0 < n) "
    place = f"const index r0 = (k * {way.lanes} + lane) * {way.width}, at0 = base + r0;"
    return f"\n#pragma unroll\n    for (int k = 0; k < {way.held}; ++k) {{ {place} {guard}{{ {act} }} }}"


def _over_held(way: _Way, act: str) -> str:
    return _vectors(way, f"for (int j = 0; j < {way.width}; ++j) {{ const index r = r0 + j, at = at0 + j; {act} }}")


def _held_loads(source: _Source, way: _Way) -> str:
    load = f"kept[k] = *(const pack<X, {way.width}>*)(input + at0);"
    if source.declared:
        load = f"{source.loads(way.width)} for (int j = 0; j < {way.width}; ++j) kept[k].at[j] = down<X>({source.loaded()});"
    return f"    pack<X, {way.width}> kept[{way.held}];\n    if (there) {{ {_vectors(way, load)} }}"


def _held_stores(way: _Way, each: str, alike: dict[str, Array]) -> str:
    load = ""
    for key, array in alike.items():
        each, found = re.subn(rf"\b{key}\[r\]", f"{key}_.at[j]", each)
        kind = f"pack<{array.element.c}, {way.width}>"
        load += f"const {kind} {key}_ = *(const {kind}*)({key} + r0); " if found else ""
    inner = f"for (int j = 0; j < {way.width}; ++j) {{ const index r = r0 + j, at = at0 + j; const W x = up(kept[k].at[j]);"
    store = f"{load}pack<Y, {way.width}> made; {inner} made.at[j] = down<Y>({each}); }} *(pack<Y, {way.width}>*)(y + at0) = made;"
    return _vectors(way, store)
