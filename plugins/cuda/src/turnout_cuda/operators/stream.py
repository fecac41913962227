"""What stands between the products of a decoder: norms of sums, gates, and products with blocks that have offsets."""

from __future__ import annotations

import math
from typing import Any

from turnout_cuda.array import Array
from turnout_cuda.call import Call
from turnout_cuda.kernel import operator
from turnout_cuda.operators.blocks import MICROSOFT, TEXT_FLOATS, Blocks, block_product
from turnout_cuda.operators.cache import OWN
from turnout_cuda.operators.normalize import rms_normalization
from turnout_cuda.templates import launch_file

operator("SimplifiedLayerNormalization", takes=(TEXT_FLOATS,), refuses=lambda node: _second_output(node))(rms_normalization)


def _second_output(node: Any) -> str:
    if any(value.name for value in node.outputs[1:]):
        return "the SimplifiedLayerNormalization kernel does not give the deviation"
    return ""


def _refuses_skip(node: Any) -> str:
    if any(value.name for value in node.outputs[1:3]):
        return "the SkipSimplifiedLayerNormalization kernel gives neither mean nor deviation"
    return ""


@operator("SkipSimplifiedLayerNormalization", domain=MICROSOFT, takes=(TEXT_FLOATS,), refuses=_refuses_skip)
def skip_simplified_layer_normalization(call: Call) -> list[Array | None]:
    """The RMS norm of x + skip (+ bias), and that sum."""
    x, more, scale, bias = call.x, call.input(1), call.input(2), call.optional(3)
    width = x.shape[-1]
    if more.size != x.size:
        more = call.ready(call.spread(more, x.shape))
    if scale.size != width or (bias is not None and bias.size != width):
        raise call.wrong(f"scales of {width} elements are due")
    y, summed = call.new(x.shape, x.element), call.new(x.shape, x.element)
    if x.size:
        vector = math.gcd(width, 16 // x.element.size)
        threads = min(1024, -(-width // (32 * vector)) * 32)
        held = -(-width // (threads * vector))
        launch_file(
            call,
            "add_norm.cu",
            constants={"VECTOR": vector, "THREADS": threads, "HELD": held, "BIAS": int(bias is not None)},
            arrays={"x": x, "more": more, "scale": scale, "bias": scale if bias is None else bias, "y": y, "summed": summed},
            writes=("y", "summed"),
            numbers={"width": width, "epsilon": call.real("epsilon", 1e-5)},
            grid=(x.size // width, 1, 1),
            block=threads,
        )
    return [y, None, None, summed if call.wants(3) else None]


@operator("GatedUnit", domain=OWN, takes=(TEXT_FLOATS,))
def gated_unit(call: Call) -> Array:
    """The first half of each row through the gate, times the second half. gate: "silu", or "gelu" by its tanh formula."""
    x = call.x
    width, threads = x.shape[-1] // 2, 128
    y = call.new([*x.shape[:-1], width], x.element)
    vector = math.gcd(width, 16 // x.element.size)
    columns = -(-width // (threads * vector))
    if y.size:
        launch_file(
            call,
            "gated.cu",
            constants={"VECTOR": vector, "THREADS": threads, "GATE": _SILU if call.attribute("gate", "silu") == "silu" else _GELU},
            arrays={"x": x, "y": y},
            writes=("y",),
            numbers={"width": width, "columns": columns},
            grid=(y.size // width * columns, 1, 1),
            block=threads,
        )
    return y


_SILU = "g / (1 + exp(-g))"
_GELU = "g * 0.5f * (1 + tanhf(0.7978845608f * (g + 0.044715f * g * g * g)))"


@operator(
    "BlockProduct", domain=OWN, takes=(TEXT_FLOATS, frozenset({"uint8"}), TEXT_FLOATS, frozenset({"uint8"}) | TEXT_FLOATS, TEXT_FLOATS)
)
def product_with_offsets(call: Call) -> Array:
    """MatMulNBits with a number for each block [N, blocks] that is added to all of its weights."""
    blocks = Blocks(call, call.input(1), call.input(2), call.optional(3), call.input(4))
    if call.input(4).size != blocks.n * blocks.blocks:
        raise call.wrong("an offset for each block is due")
    return block_product(call, call.x, blocks, None)
