"""From a formula to one kernel: broadcasting, element types and vector loads are written here, and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from turnout_cuda.array import Array, Buffer, Launch
from turnout_cuda.roofline import arithmetic
from turnout_cuda.source import coordinates, mangled

if TYPE_CHECKING:
    from turnout_cuda.trace import Trace

__all__ = ["Inlined", "collapse", "compute", "inlined"]

BLOCK = 256
_VECTOR = 16
"""Bytes of the widest load."""
_STEPS, _LEAVES = 24, 12
"""A fused kernel's limits: beyond them registers run out before memory is saved."""


@dataclass
class _Body:
    """A formula's statements, and the arrays that it reads."""

    leaves: list[Array] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def compute(trace: Trace, root: Array, name: str) -> None:
    """Emits the kernel that computes a formula into a new buffer of `root`."""
    assert root.formula is not None
    body = _Body()
    last = _visit(trace, root, root, body)
    root.buffer = Buffer(root.nbytes)
    root.formula = None
    if root.size:
        _emit(trace, root, body, last, name)


@dataclass(frozen=True)
class Inlined:
    """A formula that a kernel computes as it reads: its arrays, statements over their values a0, a1 ... in work type, and the result."""

    leaves: Sequence[Array]
    lines: Sequence[str]
    last: str


def inlined(trace: Trace, root: Array) -> Inlined | None:
    """The formula of a value that one kernel reads, for that kernel to compute; None where the value has to be in memory."""
    if root.buffer is not None or root.formula is None or root.readers != 1 or not trace.fuses:
        return None
    body = _Body()
    last = _visit(trace, root, root, body)
    return Inlined(body.leaves, body.lines, last)


def _visit(trace: Trace, array: Array, root: Array, body: _Body) -> str:
    """The C++ name of an array's value in work type."""
    formula = array.formula
    own = array is root
    if formula is None or not (own or (trace.fuses and array.readers == 1 and array.shape == root.shape and _fits(body))):
        trace.settle(array)
        if array not in body.leaves:
            body.leaves.append(array)
        return f"a{body.leaves.index(array)}"
    text = formula.text.format(*(_visit(trace, one, root, body) for one in formula.inputs))
    if own:
        return text
    line = f"const {array.element.work} t{len(body.lines)} = up(down<{array.element.c}>({text}));"
    body.lines.append(line)
    return f"t{len(body.lines) - 1}"


def _fits(body: _Body) -> bool:
    return len(body.lines) < _STEPS and len(body.leaves) < _LEAVES


def collapse(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The same traversal with as few axes as it takes: axes of one element go, and neighbours that all operands walk as one become one."""
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if sizes and all(own[-1] == one[axis] * size for own, one in zip(steps, strides, strict=True)):
            sizes[-1] *= size
            for own, one in zip(steps, strides, strict=True):
                own[-1] = one[axis]
        else:
            sizes.append(size)
            for own, one in zip(steps, strides, strict=True):
                own.append(one[axis])
    return sizes, steps


def broadcast_strides(shape: Sequence[int], target: Sequence[int]) -> list[int]:
    """Elements from one to the next along each axis of the target; 0 where the array is spread over it."""
    strides, step = [0] * len(target), 1
    for axis in range(1, len(shape) + 1):
        if shape[-axis] != 1:
            strides[-axis] = step
        step *= shape[-axis]
    return strides


def _emit(trace: Trace, root: Array, body: _Body, last: str, name: str) -> None:
    leaves = body.leaves
    dense = broadcast_strides(root.shape, root.shape)
    sizes, steps = collapse(root.shape, [dense, *(broadcast_strides(leaf.shape, root.shape) for leaf in leaves)])
    steps = steps[1:]
    if not sizes:
        sizes, steps = [1], [[0] for _ in leaves]
    rank, inner = len(sizes), [one[-1] for one in steps]
    width = max(1, _VECTOR // max(root.element.size, *(leaf.element.size for leaf, step in zip(leaves, inner, strict=True) if step), 1))
    if any(step > 1 for step in inner) or (rank > 1 and (sizes[-1] % width or any(s % width for one in steps for s in one[:-1]))):
        width = 1
    wide = root.size > 2**31 - 1 - BLOCK * width
    text = _text(root, body, last, rank, inner, width, "long long" if wide else "int")
    entry = mangled(name, text)
    index = "long long" if wide else "int"
    arguments: list[tuple[str, object]] = [("pointer", leaf.buffer) for leaf in leaves]
    arguments += [("pointer", root.buffer), (index, root.size)]
    arguments += [(index, size) for size in sizes[1:]]
    if rank > 1:
        arguments += [(index, step) for one in steps for step in one]
    assert root.buffer is not None
    buffers = [leaf.buffer for leaf in leaves if leaf.buffer is not None]
    same = [
        (root.buffer, leaf.buffer)
        for leaf in leaves
        if rank == 1 and leaf.shape == root.shape and leaf.element.size == root.element.size and leaf.buffer is not None
    ]
    blocks = math.ceil(root.size / (BLOCK * width))
    operations = root.size * sum(map(arithmetic, (*body.lines, last)))
    made = text.replace("ENTRY", entry)
    trace.emit(Launch(made, entry, (blocks, 1, 1), BLOCK, arguments, buffers, [root.buffer], same, operations=operations))


def _text(root: Array, body: _Body, last: str, rank: int, inner: Sequence[int], width: int, index: str) -> str:
    leaves = list(enumerate(body.leaves))
    pointers = "".join(f"const {leaf.element.c}* x{k}, " for k, leaf in leaves)
    sizes = "".join(f", index n{axis}" for axis in range(1, rank))
    strides = "".join(f", index s{k}_{axis}" for k, _ in leaves for axis in range(rank)) if rank > 1 else ""
    parameters = ", ".join(f"{leaf.element.work} a{k}" for k, leaf in leaves)
    lines = [
        f"typedef {index} index;",
        f"typedef {root.element.c} Y;",
        f"DEVICE Y formula({parameters}) {{",
        *(f"    {line}" for line in body.lines),
        f"    return down<Y>({last});",
        "}",
        f'extern "C" __global__ void __launch_bounds__({BLOCK}) ENTRY({pointers}Y* y, index count{sizes}{strides}) {{',
        "    let_next_kernel_start();",
        "    await_earlier_kernels();",
        f"    index i = ((index)blockIdx.x * {BLOCK} + threadIdx.x) * {width};",
        "    if (i >= count) return;",
    ]
    if rank > 1:
        lines.append("    " + coordinates("i", ["", *(f"n{axis}" for axis in range(1, rank))], "c"))
        places = {k: " + ".join(f"c{axis} * s{k}_{axis}" for axis in range(rank)) for k, _ in leaves}
    else:
        places = {k: "i" if inner[k] else "0" for k, _ in leaves}
    if width == 1:
        lines += [f"    y[i] = formula({', '.join(f'up(x{k}[{places[k]}])' for k, _ in leaves)});", "}"]
        return "\n".join(lines) + "\n"
    if rank == 1:
        scalar = ", ".join(f"up(x{k}[{'i' if inner[k] else '0'}])" for k, _ in leaves)
        lines.append(f"    if (i + {width} > count) {{ for (; i < count; ++i) y[i] = formula({scalar}); return; }}")
    for k, leaf in leaves:
        kind = f"pack<{leaf.element.c}, {width}>"
        at = f"x{k} + ({places[k]})"
        lines.append(f"    const {kind} v{k} = *(const {kind}*)({at});" if inner[k] else f"    const {leaf.element.c} v{k} = *({at});")
    values = ", ".join(f"up(v{k}.at[j])" if inner[k] else f"up(v{k})" for k, _ in leaves)
    lines += [
        f"    pack<Y, {width}> r;",
        f"    for (int j = 0; j < {width}; ++j) r.at[j] = formula({values});",
        f"    *(pack<Y, {width}>*)(y + i) = r;",
        "}",
    ]
    return "\n".join(lines) + "\n"
