"""Matrices of 2, 4 or 8 bits in blocks: products with them, and rows of them.

Source of the layouts: onnxruntime, docs/ContribOperators.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from turnout_cuda.array import Array
from turnout_cuda.blocks_few import few
from turnout_cuda.call import Call, Given
from turnout_cuda.element import INDEX, Types
from turnout_cuda.hopper import cut, wgmma
from turnout_cuda.kernel import operator
from turnout_cuda.operators.index import WRAP
from turnout_cuda.rounded import as_halves, may_round
from turnout_cuda.templates import launch_file

__all__ = ["MICROSOFT", "TEXT_FLOATS", "Blocks", "block_product"]

MICROSOFT = "com.microsoft"
TEXT_FLOATS: Types = frozenset({"float32", "float16", "bfloat16"})
"""What language models compute in."""

_BYTES: Types = frozenset({"uint8"})
_WIDTHS = {2: 8, 4: 16, 8: 16}
"""Bits to the bytes of a load: 32 numbers at most, which is what registers hold of x at once."""
FEW = 4
"""Rows of x up to which the product is bound by the bytes of the matrix, and each number of it meets every row in registers."""
_WARPS = 8
_ENOUGH = 4096
"""Warps that fill a large GPU: 32 on each of 128 multiprocessors."""


class Blocks:
    """A matrix [N, K] of numbers in blocks, and how a kernel walks over it. Raises InvalidInput where its parts do not fit together.

    offsets: float [N, blocks], which is added to each weight of a block; None for none.
    """

    def __init__(self, call: Call, values: Array, scales: Array, zeros: Array | None, offsets: Array | None = None) -> None:
        self.k, self.n = int(call.attribute("K")), int(call.attribute("N"))
        self.bits, self.block = int(call.attribute("bits", 4)), int(call.attribute("block_size"))
        self.blocks = -(-self.k // self.block)
        row = self.blocks * self.block * self.bits // 8
        if values.nbytes != self.n * row or scales.size != self.n * self.blocks:
            raise call.wrong(f"the blocks are not those of a matrix of {self.n} by {self.k}")
        self.chunk = math.gcd(row, _WIDTHS[self.bits])
        self.each = self.chunk * 8 // self.bits
        self.values, self.scales, self.zeros, self.offsets = values, scales, zeros, offsets
        packed = zeros is not None and zeros.element.name == "uint8"
        due = self.n * (-(-self.blocks * self.bits // 8) if packed else self.blocks)
        if zeros is not None and zeros.size != due:
            raise call.wrong(f"{zeros.size} zero points are given where {due} are due")
        self.zero = 0 if zeros is None else 1 if packed else 2

    @property
    def constants(self) -> Mapping[str, int]:
        """What blocks.cuh wants to know."""
        return {"BITS": self.bits, "BLOCK": self.block, "CHUNK": self.chunk, "ZERO": self.zero, "OFFSETS": int(self.offsets is not None)}

    @property
    def arrays(self) -> dict[str, Array]:
        """The parts by the names that kernels know them by; scales stand in for what is not there."""
        return {
            "w": self.values,
            "scales": self.scales,
            "zeros": self.scales if self.zeros is None else self.zeros,
            "offsets": self.scales if self.offsets is None else self.offsets,
        }


def _refuses(node: object) -> str:
    found = node.attributes  # type: ignore[attr-defined]
    bits = found["bits"].value if "bits" in found else 4
    block = found["block_size"].value if "block_size" in found else 0
    if bits not in _WIDTHS:
        return f"the {node.op_type} kernel takes 2, 4 or 8 bits, not {bits}"  # type: ignore[attr-defined]
    if block not in (16, 32, 64, 128, 256):
        return f"the {node.op_type} kernel takes blocks of 16 to 256, not {block}"  # type: ignore[attr-defined]
    if len(node.inputs) > 4 and node.inputs[4] is not None:  # type: ignore[attr-defined]
        return "the MatMulNBits kernel takes no order of columns (g_idx)"
    return ""


@operator(
    "MatMulNBits",
    domain=MICROSOFT,
    takes=(TEXT_FLOATS, _BYTES, TEXT_FLOATS, _BYTES | TEXT_FLOATS, INDEX, TEXT_FLOATS),
    refuses=_refuses,
)
def matmul_n_bits(call: Call) -> Array:
    """A product with a quantised matrix. Sums are float32 throughout; accuracy_level may let many rows of float32 be halves before."""
    blocks = Blocks(call, call.input(1), call.input(2), call.optional(3))
    return block_product(call, call.x, blocks, call.optional(5))


def block_product(call: Call, x: Array, blocks: Blocks, bias: Array | None) -> Array:
    """x @ w.T + bias, of x's type."""
    if not x.ndim or x.shape[-1] != blocks.k:
        raise call.wrong(f"rows of {blocks.k} are due")
    y = call.new([*x.shape[:-1], blocks.n], x.element)
    tokens = x.size // max(blocks.k, 1)
    if not y.size:
        return y
    by_tensors, powers = few(call, x, blocks), None
    if by_tensors is None and tokens > FEW and may_round(call, x):
        x, powers = as_halves(call, x)
    even = blocks.k % blocks.each == 0 and blocks.k * x.element.size % 16 == 0
    constants = {**blocks.constants, "EVEN": int(even), "BIAS": int(bias is not None), "POWERS": int(powers is not None)}
    arrays = {"x": x, **blocks.arrays, "bias": blocks.scales if bias is None else bias, "y": y}
    if powers is not None:
        arrays["powers"] = powers
    product = _Product(call, constants, arrays, blocks, tokens)
    if by_tensors is not None:
        product.launch(
            "blocks_few.cu", by_tensors.constants, ("fragments.cuh",), by_tensors.grid, by_tensors.block, "few", shared=by_tensors.shared
        )
    elif tokens <= FEW:
        _few(product)
    elif _is_wide(call, blocks, x, tokens, powers is not None):
        _wide(product, x)
    else:
        _many(product, x)
    return y


@dataclass(frozen=True)
class _Product:
    """What the kernels of such products share. constants: what all of them want to know."""

    call: Call
    constants: Mapping[str, int]
    arrays: Mapping[str, Array]
    blocks: Blocks
    tokens: int

    def launch(
        self,
        path: str,
        constants: Mapping[str, int | str],
        includes: Sequence[str],
        grid: int,
        block: int,
        name: str,
        *,
        shared: int = 0,
        rows: bool = False,
    ) -> None:
        """rows: whether the kernel is told how many there are, which its constants do not say."""
        numbers = {"N": self.blocks.n, "K": self.blocks.k, "blocks": self.blocks.blocks}
        launch_file(
            self.call,
            path,
            constants={**self.constants, **constants},
            includes=("blocks.cuh", *includes),
            arrays=self.arrays,
            writes=("y",),
            numbers={"M": self.tokens, **numbers} if rows else numbers,
            grid=(grid, 1, 1),
            block=block,
            shared=shared,
            name=f"{name}_{self.blocks.bits}_bits",
            operations=2 * self.tokens * self.blocks.n * self.blocks.k,
        )


def _few(product: _Product) -> None:
    blocks, tokens = product.blocks, product.tokens
    rows, split = _shares(blocks, tokens)
    grid = -(-blocks.n // (_WARPS // split * rows))
    product.launch("gemv.cu", {"TOKENS": tokens, "ROWS": rows, "SPLIT": split}, (), grid, 32 * _WARPS, "gemv")


def _shares(blocks: Blocks, tokens: int) -> tuple[int, int]:
    """(rows of the matrix for a warp, warps that share a row): more rows use x better, and small matrices have to fill the chip."""
    rows = next((count for count in (4, 2) if count * tokens <= 4 and blocks.n >= count * _ENOUGH), 1 if tokens > 2 else 2)
    steps = -(-blocks.k // (32 * blocks.each))
    split = 1
    while split < _WARPS and 2 * split <= steps and blocks.n // rows * split < _ENOUGH:
        split *= 2
    return rows, split


def _many(product: _Product, x: Array) -> None:
    tokens, n, halves = product.tokens, product.blocks.n, x.element.name in ("float16", "bfloat16")
    tile = _TILES[next(count for count in _TILES if tokens <= count)]
    if tile["TM"] == 128 and -(-tokens // 128) * -(-n // 128) < 128:  # too few blocks for the chip
        tile = _TILES[64]
    grid = -(-tokens // tile["TM"]) * -(-n // tile["TN"])
    constants: dict[str, int | str] = {**tile, "HALVES": int(halves), "H": x.element.c if halves else "float"}
    product.launch("blocks_gemm.cu", constants, ("fragments.cuh",), grid, 256, "gemm", rows=True)


_WIDE_FROM = 17
"""Rows of x from which Hopper's wgmma is the faster, although a tile has many more."""


def _is_wide(call: Call, blocks: Blocks, x: Array, tokens: int, rounded: bool) -> bool:
    """Whether Hopper's wgmma takes it: rows of w, x and y that begin at multiples of 16 or 8 bytes, scales that may be halves as x is."""
    bits = blocks.bits == 4 or (blocks.bits == 8 and x.element.name == "float16")  # no bfloat16 holds all numbers of 8
    whole = bits and blocks.chunk == 16 and blocks.k % 8 == 0 and blocks.n % 4 == 0
    halves = x.element.name in ("float16", "bfloat16") and (rounded or blocks.scales.element == x.element)
    return call.arch == "sm_90a" and whole and halves and tokens >= _WIDE_FROM and min(blocks.n, blocks.k) >= 64


def _wide(product: _Product, x: Array) -> None:
    tokens, blocks = product.tokens, product.blocks
    heights, across = (128, 256) if tokens > 64 else (32,) if tokens <= 32 else (64,), -(-blocks.n // 128)
    high, split = cut(blocks.k, heights, lambda high: -(-tokens // high) * across, lambda high: max(4 * high + 150, 400))
    stages = min(8, 200_000 // _slice_bytes(high, blocks))
    facts: dict[str, int | str] = {"TOKENS": high, "SPLIT": split, "STAGES": stages, "H": x.element.c}
    product.launch(
        "blocks_wgmma.cu",
        {**facts, **wgmma(high, x.element.c, registers=True)},
        ("fragments.cuh", "hopper.cuh"),
        -(-tokens // high) * across * split,
        384,
        "wide",
        shared=stages * _slice_bytes(high, blocks) + 1024,
        rows=True,
    )


def _slice_bytes(high: int, blocks: Blocks) -> int:
    """Of shared memory: 64 along k of x, of 128 rows of w, and 16 bytes for each block there."""
    return 128 * high + 128 * 8 * blocks.bits + 128 * 16 * max(1, 64 // blocks.block)


_TILES: dict[float, dict[str, int]] = {
    16: {"TM": 16, "TN": 32, "KT": 256, "MI": 1, "NI": 2},  # four warps share k, so that there are many blocks
    64: {"TM": 64, "TN": 64, "KT": 128, "MI": 1, "NI": 4},
    math.inf: {"TM": 128, "TN": 128, "KT": 64, "MI": 2, "NI": 8},
}
"""Rows of x at most, to the tile of a block: TM by TN, KT along k; a warp makes 16 * MI by 8 * NI of it."""


_PACKED: Types = frozenset({"int4", "uint4"})


def _refuses_gather(node: object) -> str:
    found = {name: attribute.value for name, attribute in node.attributes.items()}  # type: ignore[attr-defined]
    data = node.inputs[0]  # type: ignore[attr-defined]
    rank = None if data.shape is None else len(data.shape)
    if found.get("gather_axis", 0) != 0 or found.get("bits", 4) not in _WIDTHS:
        return "the GatherBlockQuantized kernel gathers along axis 0, numbers of 2, 4 or 8 bits"
    last = found.get("quantize_axis", 1)
    if rank is None or rank < 2 or last % rank != rank - 1:
        return "the GatherBlockQuantized kernel takes blocks along the last axis"
    return ""


@operator("GatherBlockQuantized", domain=MICROSOFT, takes=(_BYTES | _PACKED, INDEX, TEXT_FLOATS, _BYTES | _PACKED), refuses=_refuses_gather)
def gather_block_quantized(call: Call) -> Array:
    """Rows of a quantised table, as numbers of its scales' type."""
    data, places, scales, zeros = call.x, call.input(1), call.input(2), call.optional(3)
    packed = data.element.name == "uint8"
    bits, block = int(call.attribute("bits", 4)), int(call.attribute("block_size", 128))
    width = data.shape[-1] * (8 // bits if packed else 1)
    blocks = -(-width // block)
    inner = math.prod(data.shape[1:-1]) * width
    if scales.size != data.shape[0] * math.prod(data.shape[1:-1]) * blocks:
        raise call.wrong(f"{scales.size} scales do not fit {data.shape[0]} rows in blocks of {block}")
    y = call.new([*places.shape, *data.shape[1:-1], width], scales.element)
    if y.size and not data.shape[0]:
        raise call.wrong("there is nothing to gather from")
    row = "const long long row = wrapped(places[i / inner], rows) * (inner / width) + i % inner / width;"
    own = "up(data[row * width + k])"
    centre = str(1 << (bits - 1)) if packed else "0"
    at_zero = "up(zeros[row * blocks + b])"
    if packed:
        mask, each = (1 << bits) - 1, 8 // bits
        own = f"(data[(row * width + k) / {each}] >> (k % {each} * {bits}) & {mask})"
        at_zero = f"(zeros[row * ((blocks + {each - 1}) / {each}) + b / {each}] >> (b % {each} * {bits}) & {mask})"
    given: Given = {} if zeros is None else {"zeros": zeros}
    number = f"(int){own} - {centre if zeros is None else f'(int){at_zero}'}"
    body = f"{row} const index k = i % width, b = k / block; y[i] = down<Y>((float)({number}) * up(scales[row * blocks + b]));"
    sizes: Given = {"inner": inner, "width": width, "rows": data.shape[0], "block": block, "blocks": blocks}
    return call.each(y, body, functions=WRAP, data=data, places=places, scales=scales, **given, **sizes)
