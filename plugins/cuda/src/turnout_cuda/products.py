"""Matrix products of every sort as one tiled kernel: operands are expressions, so that a convolution is a product too."""

from __future__ import annotations

import math
import re
from typing import Any

from turnout_cuda.array import Array
from turnout_cuda.call import Call
from turnout_cuda.element import Element
from turnout_cuda.hopper import MULTIPROCESSORS, cut, wgmma
from turnout_cuda.source import file

__all__ = ["product", "sum_of"]

_TILE, _WIDE, _STAGES = 64, 128, 4
"""Rows and columns of a block's tile; rows of one for wgmma, and the slices that are under way there."""


def sum_of(element: Element) -> str:
    """The type in which products of such elements are summed."""
    return {"float": "float", "double": "double", "long long": "long long", "unsigned long long": "unsigned long long"}.get(
        element.work, "int" if element.work in ("int", "bool") else "unsigned"
    )


def product(
    call: Call,
    y: Array,
    sizes: tuple[int, int, int],
    left: str,
    right: str,
    *,
    store: str,
    batch: int = 1,
    before: str = "",
    functions: str = "",
    along: tuple[bool, bool] = (True, False),
    sums: str = "",
    halves: str = "",
    plain: tuple[str, str, bool, str] | None = None,
    name: str = "",
    **given: Any,
) -> Array:
    """y from sums over k of left times right; sizes: M, N and K.

    left, right: C++ for the element at m, k and at k, n, which lie inside. store: statements for the sum a at m, n.
    halves: the type of both operands in C++, where tensor cores may take it. plain: where both are matrices that lie densely from a place
    on, and so does the result for each z: C++ for these two places, whether the right one is stored N by K, and C++ for what becomes of
    the sum a at m, n. before: statements for batch z, once a block. along: whether neighbours of the operand in memory lie along k.
    given: arrays and numbers.
    """
    m, n, k = sizes
    if not y.size or not batch:
        return y
    arrays = {key: call.ready(value) for key, value in given.items() if isinstance(value, Array)}
    numbers: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, (list, tuple)):
            numbers.update({f"{key}{place}": one for place, one in enumerate(value)})
        elif not isinstance(value, Array):
            numbers[key] = value
    largest = max([y.size, *(one.size for one in arrays.values()), m * n, m * k, n * k])
    index = "long long" if largest > 2**31 - 4096 else "int"
    parameters = [f"const {one.element.c}* {key}" for key, one in arrays.items()]
    parameters += [f"{y.element.c}* y", "index M", "index N", "index K"]
    parameters += [f"{'double' if isinstance(value, float) else 'index'} {key}" for key, value in numbers.items()]
    arguments: list[tuple[str, Any]] = [("pointer", one) for one in arrays.values()]
    arguments += [("pointer", y), (index, m), (index, n), (index, k)]
    arguments += [("double" if isinstance(value, float) else index, value) for value in numbers.values()]
    sums = sums or sum_of(y.element)
    tensor = halves in ("f16", "bf16") and sums == "float"
    wide = plain is not None and tensor and _is_wide(call, sizes, plain[2])
    head = f"#define HALVES {int(tensor)}\ntypedef {index} index; typedef {sums} A; typedef {y.element.c} Y; typedef {halves or sums} H;"
    high, width, split = _TILE, _TILE, 1
    if plain is not None and wide:
        rows = math.ceil(m / _WIDE) * batch
        width, split = cut(k, (256, 128), lambda width: rows * math.ceil(n / width), lambda width: 4 * width + 100)
        facts = {"STAGES": _STAGES, "WIDTH": width, "SPLIT": split, "TURNED": int(plain[2]), "VALUE": plain[3]}
        facts |= wgmma(width, halves, turned=plain[2])
        head += "".join(f"\n#define {name} {value}" for name, value in facts.items())
        left, right = plain[:2]
        high = _WIDE
    blocks = math.ceil(m / high) * math.ceil(n / width) * batch
    if wide:
        parameters.append("index tiles")
        arguments.append((index, blocks))
    kernel = file("hopper.cuh") + file("wide_gemm.cu") if wide else file("fragments.cuh") + file("gemm.cu")
    text = f"{head}\n{functions}\n{kernel}"
    filled = {
        "LEFT_ALONG_K": str(int(along[0])),
        "RIGHT_ALONG_K": str(int(along[1])),
        "PARAMETERS": ", ".join(parameters),
        "BATCH": before,
        "LEFT": left,
        "RIGHT": right,
        "STORE": store,
    }
    for key, value in filled.items():
        text = _word(key, value, text)
    grid, threads, shared = (blocks, 1, 1), 256, 0
    if wide:
        at_once = min(blocks, MULTIPROCESSORS) if split == 1 else blocks * split
        grid, threads, shared = (at_once, 1, 1), 384, _STAGES * 2 * 64 * (_WIDE + width) + 1024
    named, operations = (name or call.node.op_type) + ("_wide" if wide else ""), 2 * m * n * k * batch
    call.launch(text, named, grid, threads, arguments, reads=list(arrays.values()), writes=[y], shared=shared, operations=operations)
    return y


def _is_wide(call: Call, sizes: tuple[int, int, int], turned: bool) -> bool:
    """Whether Hopper's wgmma takes it: rows begin at multiples of 16 bytes; of few rows the right matrix is what takes the time."""
    m, n, k = sizes
    return call.arch == "sm_90a" and m >= 16 and min(n, k) >= 64 and k % 8 == 0 and (turned or n % 8 == 0)


def _word(key: str, value: str, text: str) -> str:
    return re.sub(rf"\b{key}\b", lambda _: value, text)
