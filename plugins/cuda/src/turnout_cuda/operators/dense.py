"""Products of a few rows with a dense matrix, whose bytes are what takes the time; and of float32 rows with halves."""

from __future__ import annotations

import math

import numpy as np

from turnout_cuda.array import Array
from turnout_cuda.call import Call
from turnout_cuda.hopper import MULTIPROCESSORS
from turnout_cuda.kernel import operator
from turnout_cuda.operators.blocks import FEW, TEXT_FLOATS
from turnout_cuda.operators.cache import OWN
from turnout_cuda.products import product
from turnout_cuda.templates import launch_file

__all__ = ["few_rows"]

_THREADS, _ACROSS, _EACH = 256, 16, 8
"""Threads of a block, those that stand side by side along n, and the rows of the matrix that each has under way at once."""
_BLOCKS = 2 * MULTIPROCESSORS
"""Blocks that fill a large GPU. Where n makes fewer, they share k too."""


def few_rows(call: Call, x: Array, w: Array) -> Array | None:
    """x @ w for a matrix w [K, N] and so few rows that its bytes are what takes the time; None where they are more, or types differ."""
    tokens, n = x.size // max(x.shape[-1], 1) if x.ndim else 0, w.shape[-1]
    if w.ndim != 2 or x.ndim < 2 or not 0 < tokens <= FEW or not w.size or {x.element.name, w.element.name} - TEXT_FLOATS:
        return None
    k = w.shape[0]
    vector = math.gcd(n, 16 // w.element.size)
    strips = -(-n // (vector * _ACROSS))
    splits = max(1, min(-(-_BLOCKS // strips), k // (_THREADS // _ACROSS * _EACH)))
    share = -(-k // (splits * _EACH)) * _EACH
    splits = -(-k // share)
    y = call.new([*x.shape[:-1], n], x.element)
    arrays, writes = {"x": x, "w": w, "y": y}, ["y"]
    if splits > 1:
        arrays["parts"] = call.new((splits, tokens, n), "float32")
        arrays["counts"] = call.constant(np.zeros(strips, np.int32))
        writes += ["parts", "counts"]
    constants = {"TOKENS": tokens, "VECTOR": vector, "ACROSS": _ACROSS, "THREADS": _THREADS, "EACH": _EACH, "SPLIT": int(splits > 1)}
    launch_file(
        call,
        "dense_gemv.cu",
        constants={**constants, "EVEN": int(k % _EACH == 0), "CONSTANT": int(call.is_constant(w))},
        arrays=arrays,
        writes=writes,
        numbers={"N": n, "K": k, "share": share},
        grid=(strips, splits, 1),
        block=_THREADS,
        name=f"gemv_{w.element.name}",
        operations=2 * tokens * n * k,
    )
    return y


@operator("DenseProduct", domain=OWN, takes=(TEXT_FLOATS,))
def dense_product(call: Call) -> Array:
    """x @ w for float32 rows and a matrix of halves, which stays one: sums are float32."""
    x, w = call.x, call.input(1)
    if w.ndim != 2 or x.shape[-1] != w.shape[0]:
        raise call.wrong("the matrices do not fit")
    made = few_rows(call, x, w)
    return made if made is not None else _many_rows(call, x, w)


def _many_rows(call: Call, x: Array, w: Array) -> Array:
    k, n = w.shape
    y = call.new([*x.shape[:-1], n], x.element)
    rows, left, right = x.size // max(k, 1), "up(a_[m * K + k])", "up(b_[k * N + n])"
    return product(call, y, (rows, n, k), left, right, store="y[m * N + n] = down<Y>(a);", a_=x, b_=w)
