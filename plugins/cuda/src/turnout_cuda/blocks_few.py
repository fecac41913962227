"""How cu/blocks_few.cu multiplies a few rows by a matrix in blocks: how much of it is under way, and what shared memory that takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from turnout_cuda.array import Array
from turnout_cuda.call import Call
from turnout_cuda.roofline import CHIPS

if TYPE_CHECKING:
    from turnout_cuda.operators.blocks import Blocks

__all__ = ["Few", "few"]

_MOST = 16
"""Rows of x."""
_UNITS = 4
"""16-byte pieces of a row in a stage: those that one load of matrices brings to registers."""
_SHARED = {"sm_80": 163 << 10, "sm_90a": 227 << 10, "sm_100": 227 << 10, "sm_103": 227 << 10}
"""Bytes of shared memory that a block may have; 99 KiB on all other chips."""


@dataclass(frozen=True)
class Few:
    """constants: what the kernel is compiled for. grid, block: blocks, and threads of each. shared: bytes of a block."""

    constants: dict[str, int | str]
    grid: int
    block: int
    shared: int


@dataclass(frozen=True)
class _Stages:
    """warps: of a block. units: 16-byte pieces of a row in a stage. depth: stages of a warp that are under way. own: rows of the matrix
    that a block makes at a time."""

    warps: int
    units: int
    depth: int
    own: int


def few(call: Call, x: Array, blocks: Blocks) -> Few | None:
    """None where another kernel has to: before sm_80, for more rows, blocks of less than 16 bytes, or an x that is too large to be kept."""
    tokens, piece = x.size // max(blocks.k, 1), 128 // blocks.bits
    if not blocks.k or call.arch == "sm_75" or tokens > _MOST or blocks.block % piece:
        return None
    chip, most = CHIPS.get(call.arch, CHIPS["sm_80"]), _SHARED.get(call.arch, 99 << 10)
    for stages in _choices(-(-blocks.k // (_UNITS * piece)), blocks.n, chip.processors):
        made = _with(call, x, blocks, stages, tokens, chip.processors)
        if blocks.n >= stages.own and made.shared <= most:
            return made
    return None


def _choices(steps: int, n: int, processors: int) -> Iterator[_Stages]:
    """Best first. steps: stages of a row. What an H100 took longer for: fewer warps, several blocks, stages of eight pieces.

    All warps have to be busy, and all multiprocessors, so that small matrices are made 16 rows at a time.
    """
    warps = min((12, 16, 8, 4), key=lambda count: -(-steps // count) * count)
    if n >= 32 * processors:
        yield _Stages(warps, _UNITS, 3, 32)
    yield _Stages(warps, _UNITS, 4, 16)
    yield _Stages(8, _UNITS, 3, 16)
    yield _Stages(4, _UNITS, 3, 16)


def _with(call: Call, x: Array, blocks: Blocks, stages: _Stages, tokens: int, processors: int) -> Few:
    step, pieces = stages.units * (128 // blocks.bits), 3 if x.element.name == "float32" else 1  # a float32 is the sum of three bfloat16
    stage, parts = stages.own * stages.units * 16, {}
    for name, size, of_step, of_row in _beside(blocks, max(step // blocks.block, 1)):
        part = math.gcd(of_step, of_row, 16)
        parts[f"{name}_PART"] = part if part >= 4 else size  # the hardware copies 4, 8 or 16 bytes by itself
        stage += -(-stages.own * of_step // 16) * 16
    columns, used = tokens * pieces, -(-blocks.k // step)
    shared = stages.warps * (stages.depth * stage + 2 * columns * stages.own * 4) + used * step * columns * 2
    word = 32 // blocks.bits
    constants: dict[str, int | str] = {
        **{name.upper(): value for name, value in asdict(stages).items()},
        **parts,
        "TOKENS": tokens,
        "PIECES": pieces,
        "H": "bf16" if pieces > 1 else x.element.c,
        "EVEN": int(blocks.k % word == 0 and blocks.k * x.element.size % min(16, word * x.element.size) == 0),
        "FULL": int(blocks.blocks * blocks.block % step == 0),
        "CONSTANT": int(all(call.is_constant(one) for one in blocks.arrays.values())),
    }
    return Few(constants, min(-(-blocks.n // stages.own), processors), 32 * stages.warps, shared)


def _beside(blocks: Blocks, count: int) -> Iterator[tuple[str, int, int, int]]:
    """What blocks bring beside their numbers: its name in the kernel, and the bytes of an element, of `count` blocks, and of a row."""
    for name, array in (("SCALES", blocks.scales), ("ZEROS", blocks.zeros), ("OFFSETS", blocks.offsets)):
        if array is None:
            continue
        bits = blocks.bits if name == "ZEROS" and blocks.zero == 1 else array.element.size * 8
        yield name, array.element.size, max(count * bits // 8, 1), -(-blocks.blocks * bits // 8)
