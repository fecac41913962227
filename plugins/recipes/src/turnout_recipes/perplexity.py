"""How well a model predicts a text, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from turnout_recipes.recipe import Quality

__all__ = ["Predictions", "quality"]


@dataclass
class Predictions:
    """surprise: -log probability of each token but the first, float64. likeliest: the token that each but the last would be followed by."""

    surprise: NDArray[np.float64]
    likeliest: NDArray[np.int64]

    @classmethod
    def of(cls, logits: NDArray[np.floating], tokens: NDArray[np.int64]) -> Predictions:
        """logits: [tokens, vocabulary]."""
        rows = [_surprise(row, token) for row, token in zip(logits[:-1], tokens[1:], strict=True)]
        return cls(np.array(rows), logits[:-1].argmax(-1))


def _surprise(row: NDArray[np.floating], token: int) -> float:
    wide = row.astype(np.float64)
    top = wide.max()
    return float(np.log(np.exp(wide - top).sum()) + top - wide[token])


def quality(before: Sequence[Predictions], after: Sequence[Predictions]) -> Quality:
    """Both for the same texts."""
    count = sum(len(one.surprise) for one in before)
    first, second = (float(np.exp(sum(one.surprise.sum() for one in runs) / count)) for runs in (before, after))
    alike = sum(int((one.likeliest == other.likeliest).sum()) for one, other in zip(before, after, strict=True))
    return Quality(tokens=count, before=first, after=second, agreement=alike / count)
