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
    """surprise: -log probability of each token but the first, float64. logits: of what follows each but the last, as halves."""

    surprise: NDArray[np.float64]
    logits: NDArray[np.float16]

    @classmethod
    def of(cls, logits: NDArray[np.floating], tokens: NDArray[np.int64]) -> Predictions:
        """logits: [tokens, vocabulary]."""
        rows = [-_log_shares(row)[token] for row, token in zip(logits[:-1], tokens[1:], strict=True)]
        return cls(np.array(rows, np.float64), logits[:-1].astype(np.float16))


def _log_shares(row: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log probabilities from logits."""
    wide: NDArray[np.float64] = row.astype(np.float64)
    wide -= wide.max()
    wide -= np.log(np.exp(wide).sum())
    return wide


def _divergence(before: NDArray[np.floating], after: NDArray[np.floating]) -> float:
    """Kullback and Leibler's, of one token's prediction."""
    exact = _log_shares(before)
    return float((np.exp(exact) * (exact - _log_shares(after))).sum())


def quality(before: Sequence[Predictions], after: Sequence[Predictions]) -> Quality:
    """Both for the same texts."""
    count = sum(len(one.surprise) for one in before)
    first, second = (float(np.exp(sum(one.surprise.sum() for one in runs) / count)) for runs in (before, after))
    pairs = [(one, other) for run, again in zip(before, after, strict=True) for one, other in zip(run.logits, again.logits, strict=True)]
    alike = sum(int(one.argmax() == other.argmax()) for one, other in pairs)
    divergence = sum(_divergence(one, other) for one, other in pairs) / count
    return Quality(tokens=count, before=first, after=second, divergence=divergence, agreement=alike / count)
