"""Activation-aware scales (AWQ, Lin et al. 2023): channels that carry large activations are rounded more finely.

A product x @ W is also (x / s) @ (s W). With s larger where x is large, what is rounded in s W weighs less in the result. s is the mean
size of a channel to a power between 0 and 1: the one whose result for the calibration text is nearest to the exact one. 0 is plain
rounding, so that AWQ is never worse on that text. Afterwards each block's range is tried narrower, too.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from turnout_recipes.blocks import Blocks, dequantised, joined, rounded

__all__ = ["Seen", "narrowed", "one_thread", "output_error", "plain", "scales"]

Floats = NDArray[np.float32]

_EXPONENTS = np.arange(0, 1.01, 0.1)
_ROWS = 256  # rows of activations, and columns of a matrix, with which exponents are compared
_COLUMNS = 384
_RATIOS = (1.0, 0.92, 0.84, 0.76, 0.68)
_AT_ONCE = 1 << 22  # weights worked on at a time


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, NumPy's products stay on one thread: those of blocks are so small that a second one makes them sixteen times slower."""
    with _threads().limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _threads() -> ThreadpoolController:
    """Finding the libraries takes as long as rounding a matrix."""
    return ThreadpoolController()


@dataclass
class Seen:
    """What a value was in the calibration runs. rows: float32 [rows, channels], a sample. size: float32 [channels], the mean of |x|."""

    rows: Floats
    size: Floats

    @classmethod
    def of(cls, arrays: Sequence[NDArray[np.floating]], most: int = 1024) -> Seen:
        whole = np.concatenate([np.asarray(array).reshape(-1, array.shape[-1]) for array in arrays]).astype(np.float32, copy=False)
        size = np.abs(whole).mean(0)
        return cls(whole[_spread(len(whole), most)], size)


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Places of `most` things out of `count`, evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def scales(
    seen: Seen, weights: Sequence[Callable[[], Floats]], round_: Callable[[Floats], Blocks], tie: Callable[[Floats], Floats]
) -> tuple[Floats, float]:
    """(s, float32 [channels]; the exponent) for products that read the same value.

    weights: each makes a matrix [channels, columns]. tie: makes alike the sizes of channels that must have one scale.
    """
    x = seen.rows[_spread(len(seen.rows), _ROWS)]
    size = tie(np.maximum(seen.size, 1e-8 * max(float(seen.size.max()), 1e-30)))
    errors = np.zeros(len(_EXPONENTS))
    for make in weights:
        weight = make()
        weight = np.ascontiguousarray(weight[:, _spread(weight.shape[1], _COLUMNS)])
        for place, exponent in enumerate(_EXPONENTS):
            s = _power(size, exponent)
            off = dequantised(round_(weight * s[:, None])) / s[:, None] - weight
            errors[place] += float(np.square(x @ off).sum())
    best = int(errors.argmin())
    return _power(size, _EXPONENTS[best]), round(float(_EXPONENTS[best]), 1)


def _power(size: Floats, exponent: float) -> Floats:
    s: Floats = (size**exponent).astype(np.float32)
    centred: Floats = np.clip(s / np.sqrt(s.max() * s.min()), np.float32(1e-4), np.float32(1e4))
    return centred


def plain(weight: Floats, bits: int, block: int, *, symmetric: bool) -> Blocks:
    """Each weight to the nearest, some columns at a time."""
    step = max(1, _AT_ONCE // len(weight))
    return joined([rounded(weight[:, at : at + step], bits, block, symmetric=symmetric) for at in range(0, weight.shape[1], step)])


def narrowed(weight: Floats, x: Floats, bits: int, block: int, *, symmetric: bool) -> Blocks:
    """As `plain`, with each block's range narrowed by the ratio whose error in the block's share of x @ weight is least.

    x: float32 [rows, channels]. A block's error is d.T (x.T x) d, d the difference of its weights.
    """
    rows = len(weight)
    blocks = -(-rows // block)
    padded = np.zeros((len(x), blocks * block), np.float32)
    padded[:, :rows] = x
    apart = padded.reshape(len(x), blocks, block).transpose(1, 2, 0)
    products = apart @ apart.transpose(0, 2, 1)  # [blocks, block, block]
    step = max(1, _AT_ONCE // rows)
    parts = []
    for at in range(0, weight.shape[1], step):
        part = np.ascontiguousarray(weight[:, at : at + step])
        best = np.full((part.shape[1], blocks), np.inf, np.float32)
        shrink = np.ones_like(best)
        for ratio in _RATIOS:
            tried = rounded(part, bits, block, symmetric=symmetric, shrink=np.full_like(best, ratio))
            off = np.zeros((part.shape[1], blocks * block), np.float32)
            off[:, :rows] = (dequantised(tried) - part).T
            apart = off.reshape(-1, blocks, block).transpose(1, 0, 2)  # [blocks, columns, block]
            error = ((apart @ products) * apart).sum(-1).T
            better = error < best
            best[better], shrink[better] = error[better], ratio
        parts.append(rounded(part, bits, block, symmetric=symmetric, shrink=shrink))
    return joined(parts)


def output_error(x: Floats, weight: Floats, found: Callable[[slice], Floats]) -> float:
    """|x @ found - x @ weight| / |x @ weight|. found: makes columns of the matrix that is computed with."""
    x = x[_spread(len(x), _ROWS)]
    step = max(1, _AT_ONCE // len(weight))
    off = norm = 0.0
    for at in range(0, weight.shape[1], step):
        part = slice(at, at + step)
        exact = x @ weight[:, part]
        norm += float(np.square(exact).sum())
        off += float(np.square(x @ found(part) - exact).sum())
    return (off / norm) ** 0.5 if norm else 0.0
