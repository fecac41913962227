"""Rounding that makes up for itself (GPTQ, Frantar et al. 2022): what one weight loses, those behind it in its column take on.

Channels of activations go together, so that a weight that was rounded up can be answered by one that goes down. The weights of a column are
rounded one after another; each time the error is spread over those that are left, as the calibration text's products x.T x say is best.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from turnout_recipes.blocks import Blocks, packed, unpacked

__all__ = ["compensated"]

Floats = NDArray[np.float32]

_STRETCH = 128  # rows that answer each other: longer ones gain little, and x.T x would grow with the square of a model's width
_COLUMNS = 1024  # worked on at a time: so many stay in a processor's cache
_DAMPING = 0.01  # of the mean of the diagonal: a sample knows only so much


def compensated(weight: Floats, x: Floats, blocks: Blocks) -> Blocks:
    """The same scales and zero points with other values.

    weight: float32 [rows, columns]. x: float32 [samples, rows], what it is multiplied with. blocks: the weight, rounded in any way.
    """
    rows, columns = weight.shape
    values = unpacked(blocks.values, blocks.bits)
    zeros = unpacked(blocks.zeros, blocks.bits)[:, : values.shape[1]].astype(np.float32)
    flat = values.reshape(columns, -1)
    for start in range(0, rows, _STRETCH):
        stretch = np.arange(start, min(rows, start + _STRETCH))
        factor = _factor(x[:, stretch])
        for at in range(0, columns, _COLUMNS):
            part = slice(at, at + _COLUMNS)
            scales_, zeros_ = (array[part, stretch // blocks.block].T for array in (blocks.scales, zeros))
            flat[part, stretch] = _answered(weight[stretch, part], scales_, zeros_, factor, 2**blocks.bits - 1).T
    return Blocks(blocks.bits, blocks.block, rows, packed(values, blocks.bits), blocks.scales, blocks.zeros)


def _factor(x: Floats) -> Floats:
    """The upper factor of the inverse of x.T x: row i says how the channels after i answer an error in i."""
    wide = x.astype(np.float64)
    products = wide.T @ wide
    products[np.diag_indices_from(products)] += _DAMPING * products.diagonal().mean() + 1e-12
    factor: Floats = np.linalg.cholesky(np.linalg.inv(products)).T.astype(np.float32)
    return factor


def _answered(weight: Floats, scales: Floats, zeros: Floats, factor: Floats, top: int) -> NDArray[np.uint8]:
    """Values of a stretch; all float32 [rows, columns]."""
    left, found = weight.astype(np.float32), np.empty(weight.shape, np.uint8)
    for row in range(len(left)):
        found[row] = value = np.clip(np.rint(left[row] / scales[row]) + zeros[row], 0, top)
        error = (left[row] - (value - zeros[row]) * scales[row]) / factor[row, row]
        left[row + 1 :] -= factor[row, row + 1 :, None] * error
    return found
