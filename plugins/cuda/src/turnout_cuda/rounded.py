"""Rows of float32 on their way into the tensor cores, where the model says that a product need not be that exact."""

from __future__ import annotations

import math

from turnout_cuda.array import Array
from turnout_cuda.call import Call
from turnout_cuda.templates import launch_file

__all__ = ["as_halves", "may_round"]

_HALF = 2
"""The accuracy_level of MatMulNBits from which on halves will do: 4 allows 8-bit integers (onnxruntime, docs/ContribOperators.md)."""


def may_round(call: Call, x: Array) -> bool:
    """Whether many rows of this x may be halves on their way into the product, and there are tensor cores for it."""
    return x.element.name == "float32" and call.arch != "sm_75" and int(call.attribute("accuracy_level", 0)) >= _HALF


def as_halves(call: Call, x: Array) -> tuple[Array, Array]:
    """(x in float16, each row scaled by a power of two; float32 [rows], what to multiply a product's rows with)."""
    width = x.shape[-1]
    rows = x.size // width
    y, powers = call.new(x.shape, "float16"), call.new([rows], "float32")
    launch_file(
        call,
        "rounded.cu",
        constants={"VECTOR": math.gcd(width, 4)},
        arrays={"x": x, "y": y, "powers": powers},
        writes=("y", "powers"),
        numbers={"width": width},
        grid=(rows, 1, 1),
        block=256,
        name="rounded",
    )
    return y, powers
