"""Rounding a matrix to blocks of small integers, in the form of com.microsoft's MatMulNBits.

    weight ~ scale * (value - zero point), value in 0 .. 2^bits - 1

One scale and one integer zero point per block of a column. The range always holds zero, so a zero weight stays zero. Layout: onnxruntime,
docs/ContribOperators.md, MatMulNBits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blocks", "dequantised", "rounded"]


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


def rounded(weight: NDArray[np.float32], bits: int, block: int) -> Blocks:
    """Each weight to the nearest value of its block. weight: float32 [rows, columns], finite."""
    rows, columns = weight.shape
    padded = np.zeros((columns, -(-rows // block) * block), np.float32)
    padded[:, :rows] = weight.T
    grouped = padded.reshape(columns, -1, block)
    top = np.float32(2**bits - 1)
    low, high = np.minimum(grouped.min(-1), 0), np.maximum(grouped.max(-1), 0)
    scales = (high / top - low / top).astype(np.float32)  # divided first: the difference of two large numbers may overflow
    scales[scales < np.finfo(np.float32).tiny] = 1  # a block of zeros, or of numbers that count as none
    zeros = np.clip(np.rint(-low / scales), 0, top)
    values = np.clip(np.rint(grouped / scales[..., None]) + zeros[..., None], 0, top).astype(np.uint8)
    return Blocks(bits, block, rows, _packed(values, bits), scales, _packed(zeros.astype(np.uint8), bits))


def dequantised(blocks: Blocks) -> NDArray[np.float32]:
    """float32 [rows, columns]: the matrix that a product with these blocks computes with."""
    values, zeros = _unpacked(blocks.values, blocks.bits), _unpacked(blocks.zeros, blocks.bits)[:, : blocks.scales.shape[1]]
    found = (values.astype(np.float32) - zeros[..., None]) * blocks.scales[..., None]
    flat: NDArray[np.float32] = found.reshape(len(found), -1)[:, : blocks.rows].T
    return flat


def _packed(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Values of the last axis side by side, the first in the lowest bits of a byte."""
    if bits == 8:
        return values
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1), np.uint8)], axis=-1)
    return np.ascontiguousarray(values[..., 0::2] | values[..., 1::2] << 4)


def _unpacked(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
