"""Choosing the next token from its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from turnout_text.options import Sampling

__all__ = ["Sampler", "log_softmax"]

_LIKELY = 1024  # tokens that are sorted first where the likeliest few are wanted


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Logarithms of probabilities, float64 [vocabulary]."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    shifted -= np.log(np.exp(shifted).sum())
    return shifted


class Sampler:
    """One generation's choices: the same seed, model and prompt make the same text.

    In order: repetition penalty, temperature, top_k, top_p, min_p. The penalty divides positive logits of tokens that were seen, and
    multiplies negative ones (Keskar et al., CTRL, 2019, section 4.1); top_p keeps the likeliest tokens that together reach it (Holtzman
    et al., 2020); min_p keeps those at least so likely as that share of the likeliest (Nguyen et al., 2024).
    """

    def __init__(self, options: Sampling, seen: Sequence[int]) -> None:
        self.options = options
        self.random = np.random.default_rng(options.seed)
        self.seen: NDArray[np.int64] | None = None
        if options.repetition_penalty != 1.0:
            self.seen = np.unique(np.asarray(seen, np.int64))

    @property
    def draws(self) -> bool:
        """Whether chance is at work."""
        return self.options.temperature > 0 and self.options.top_k != 1

    def draw(self) -> float:
        """The number from [0, 1) by which the next token is drawn; 0 where chance is not at work."""
        return self.random.random() if self.draws else 0.0

    def choose(self, logits: NDArray[np.float32]) -> int:
        """The next token; logits float32 [vocabulary] are left as they are."""
        options = self.options
        if self.seen is not None:
            logits = logits.copy()
            known = logits[self.seen]
            logits[self.seen] = np.where(known > 0, known / options.repetition_penalty, known * options.repetition_penalty)
        chosen = self._draw(logits) if self.draws else int(logits.argmax())
        if self.seen is not None:
            self.seen = np.union1d(self.seen, [chosen])
        return chosen

    def _draw(self, logits: NDArray[np.float32]) -> int:
        tokens, weights = self._candidates(logits)
        sums = weights.cumsum()
        return int(tokens[min(np.searchsorted(sums, self.draw() * sums[-1], side="right"), len(tokens) - 1)])

    def _candidates(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Tokens that may be drawn and their weights, the likeliest first where the order was needed."""
        options = self.options
        weights = np.exp((logits.astype(np.float64) - logits.max()) / options.temperature)
        tokens: NDArray[np.int64] = np.arange(len(logits))
        if options.top_k:
            tokens = _largest(weights, min(options.top_k, len(weights)))
            weights = weights[tokens]
        if options.top_p < 1:
            order = _until(weights, options.top_p * weights.sum())
            tokens, weights = tokens[order], weights[order]
        if options.min_p:
            likely = weights >= options.min_p * weights.max()
            tokens, weights = tokens[likely], weights[likely]
        return tokens, weights


def _largest(weights: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Positions of the largest, largest first; of equals the first goes first."""
    if count < len(weights):
        least = -np.partition(-weights, count - 1)[count - 1]
        found = np.flatnonzero(weights >= least)  # more than `count` where there are ties: the lowest tokens of those stay
        return found[np.argsort(-weights[found], kind="stable")][:count]
    return np.argsort(-weights, kind="stable")


def _until(weights: NDArray[np.float64], total: float) -> NDArray[np.int64]:
    """Positions of the largest that together reach the total, largest first. Sorting all of a vocabulary is rarely needed."""
    count = min(_LIKELY, len(weights))
    while True:
        order = _largest(weights, count)
        sums = weights[order].cumsum()
        if sums[-1] >= total or count == len(weights):
            return order[: np.searchsorted(sums, total, side="left") + 1]
        count = min(count * 8, len(weights))
