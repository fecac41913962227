"""Rounding a matrix to blocks of small integers, in the form of com.microsoft's MatMulNBits.

    weight ~ scale * (value - zero point), value in 0 .. 2^bits - 1

One scale and one integer zero point per block of a column. The range always holds zero, so a zero weight stays zero. Layout: onnxruntime,
docs/ContribOperators.md, MatMulNBits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blocks", "dequantised", "joined", "packed", "rounded", "unpacked"]


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix [rows, columns] in blocks of a column.

    values: uint8 [columns, blocks, bytes]. scales: float32 [columns, blocks]. zeros: uint8 [columns, bytes].
    """

    bits: int
    block: int
    rows: int
    values: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scales.nbytes + self.zeros.nbytes


def rounded(
    weight: NDArray[np.float32], bits: int, block: int, *, symmetric: bool = False, shrink: NDArray[np.float32] | None = None
) -> Blocks:
    """Each weight to the nearest value of its block. weight: float32 [rows, columns], finite.

    symmetric: the zero point is the middle of the range, for every block. shrink: by how much a block's range is made narrower, float32
    [columns, blocks]; weights beyond it take its ends.
    """
    rows, columns = weight.shape
    padded = np.zeros((columns, -(-rows // block) * block), np.float32)
    padded[:, :rows] = weight.T
    grouped = padded.reshape(columns, -1, block)
    low, high = grouped.min(-1), grouped.max(-1)
    if shrink is not None:
        low, high = low * shrink, high * shrink
    scales, zeros = _middle(low, high, bits) if symmetric else _range(low, high, bits)
    values = np.clip(np.rint(grouped / scales[..., None]) + zeros[..., None], 0, 2**bits - 1).astype(np.uint8)
    return Blocks(bits, block, rows, packed(values, bits), scales, packed(zeros.astype(np.uint8), bits))


Floats = NDArray[np.float32]


def _range(low: Floats, high: Floats, bits: int) -> tuple[Floats, Floats]:
    """Scales and zero points for values from `low` to `high`, and 0, which is always among them."""
    top = np.float32(2**bits - 1)
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scales = _sound(high / top - low / top)  # divided first: the difference of two large numbers may overflow
    zeros: Floats = np.clip(np.rint(-low / scales), 0, top).astype(np.float32)
    return scales, zeros


def _middle(low: Floats, high: Floats, bits: int) -> tuple[Floats, Floats]:
    """The weight furthest from 0 becomes the lowest value, whichever sign it has: the range has one value more below its middle."""
    middle = np.float32(2 ** (bits - 1))
    furthest: Floats = np.where(-low > high, low, high).astype(np.float32)
    scales = _sound(-furthest / middle)
    return scales, np.full(scales.shape, middle, np.float32)


def _sound(scales: Floats) -> Floats:
    scales = scales.astype(np.float32)
    scales[np.abs(scales) < np.finfo(np.float32).tiny] = 1  # a block of zeros, or of numbers that count as none
    return scales


def joined(parts: Sequence[Blocks]) -> Blocks:
    """The columns of some matrices as one matrix."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    values, scales, zeros = (np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "scales", "zeros"))
    return Blocks(first.bits, first.block, first.rows, values, scales, zeros)


def dequantised(blocks: Blocks, columns: slice = slice(None)) -> NDArray[np.float32]:
    """float32 [rows, columns]: the matrix that a product with these blocks computes with, or some columns of it."""
    blocks = Blocks(blocks.bits, blocks.block, blocks.rows, blocks.values[columns], blocks.scales[columns], blocks.zeros[columns])
    values, zeros = unpacked(blocks.values, blocks.bits), unpacked(blocks.zeros, blocks.bits)[:, : blocks.scales.shape[1]]
    found = (values.astype(np.float32) - zeros[..., None]) * blocks.scales[..., None]
    flat: NDArray[np.float32] = found.reshape(len(found), -1)[:, : blocks.rows].T
    return flat


def packed(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Values of the last axis side by side, the first in the lowest bits of a byte."""
    if bits == 8:
        return values
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1), np.uint8)], axis=-1)
    return np.ascontiguousarray(values[..., 0::2] | values[..., 1::2] << 4)


def unpacked(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """What `packed` was given, and a zero where that was odd. 8 bits: the array itself."""
    if bits == 8:
        return values
    return np.stack([values & 15, values >> 4], axis=-1).reshape(*values.shape[:-1], -1)
