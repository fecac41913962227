"""Rotary positions: how far each pair of elements is turned from one token to the next, and the tables of cosines and sines.

Pair i of n turns by base ** (-i / n) radians a token (Su et al. 2021, RoFormer). Longer contexts come by changing that: `linear` divides
all frequencies; Llama 3 divides each by a factor that its file lists; YaRN (Peng et al. 2023) divides slow ones, leaves quick ones, and
makes vectors longer; LongRoPE (Ding et al. 2024) has two lists of factors, one for texts that fit into the original context and one for
longer ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turnout_gguf.architectures import Keys, Sizes
from turnout_gguf.blocks import dequantise
from turnout_gguf.weights import Weights

__all__ = ["Rotary", "local_rotary", "rotary"]

_AT_ONCE = 4096  # positions of which the angles are computed at a time, in float64


@dataclass(frozen=True, slots=True)
class Rotary:
    """The rotary positions of some blocks.

    name: of the tables. rows: positions in a table. frequencies: makes the radians from one position to the next, float64 [pairs].
    pairs: how many. magnitude: what cosines and sines are multiplied by. original: where texts of more tokens turn by `long` instead,
    the number of tokens, else 0; the table then has `original` rows for short texts, and `rows` for long ones after them.
    """

    name: str
    rows: int
    pairs: int
    frequencies: Callable[[], NDArray[np.float64]]
    magnitude: float = 1.0
    original: int = 0
    long: Callable[[], NDArray[np.float64]] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.original + self.rows, self.pairs

    def table(self, of: Callable[..., Any]) -> NDArray[np.float32]:
        """The cosines or sines at each position, float32 [rows, pairs]."""
        if self.long is None:
            return self._table(of, self.frequencies(), self.rows)
        return np.concatenate([self._table(of, self.frequencies(), self.original), self._table(of, self.long(), self.rows)])

    def _table(self, of: Callable[..., Any], frequencies: NDArray[np.float64], rows: int) -> NDArray[np.float32]:
        table = np.empty((rows, self.pairs), np.float32)
        for start in range(0, rows, _AT_ONCE):
            positions = np.arange(start, min(start + _AT_ONCE, rows))
            table[positions] = of(np.outer(positions, frequencies)) * self.magnitude
        return table


def rotary(weights: Weights, keys: Keys, sizes: Sizes) -> Rotary:
    """The file's own rotary positions. Raises InvalidModel for a scaling that is not known."""
    pairs, base = sizes.turned // 2, keys.number("rope.freq_base", 10000.0)
    if weights.has("rope_factors_long.weight"):
        return _long(weights, keys, sizes, base)
    given = keys.get("rope.scaling.type", "")
    kind = given if isinstance(given, str) else None  # an array cannot be compared
    factor = 1.0
    if kind == "yarn":
        return _yarn(keys, sizes, base)
    if kind == "linear" or (kind == "" and f"{keys.prefix}.rope.scale_linear" in keys.file.metadata):
        factor = keys.number("rope.scaling.factor" if kind else "rope.scale_linear", 1.0)
    elif kind not in ("", "none"):
        keys.refuse(f"its positions are scaled by {given!r:.40}, which turnout cannot compute yet", "use another model of this family")
    stretches = _factors(weights, "rope_freqs.weight", pairs) if weights.has("rope_freqs.weight") else None

    def frequencies() -> NDArray[np.float64]:
        return _divided(_plain(base, pairs) / factor, stretches)

    return Rotary("rotary", sizes.context, pairs, frequencies)


def local_rotary(sizes: Sizes, base: float) -> Rotary:
    """Rotary positions of windowed blocks that have their own: never scaled, for they never see far."""
    pairs = sizes.turned // 2
    return Rotary("rotary.local", sizes.context, pairs, lambda: _plain(base, pairs))


def _plain(base: float, pairs: int) -> NDArray[np.float64]:
    frequencies: NDArray[np.float64] = base ** (-np.arange(pairs) / pairs)
    return frequencies


Factors = Callable[[], NDArray[np.float32]]


def _factors(weights: Weights, name: str, pairs: int) -> Factors:
    tensor = weights.tensor(name, (pairs,))
    return lambda: dequantise(weights.file.raw(tensor), tensor.type)[0]


def _divided(frequencies: NDArray[np.float64], factors: Factors | None) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):  # a factor of 0 gives what it gives
        return frequencies if factors is None else frequencies / factors()


def _long(weights: Weights, keys: Keys, sizes: Sizes, base: float) -> Rotary:
    pairs = sizes.turned // 2
    short, long = (_factors(weights, f"rope_factors_{which}.weight", pairs) for which in ("short", "long"))
    plain = _plain(base, pairs)
    return Rotary(
        "rotary",
        sizes.context,
        pairs,
        lambda: _divided(plain, short),
        keys.number("rope.scaling.attn_factor", 1.0),
        min(keys.count("rope.scaling.original_context_length", sizes.context), sizes.context),
        lambda: _divided(plain, long),
    )


def _yarn(keys: Keys, sizes: Sizes, base: float) -> Rotary:
    """YaRN, section 3.2 and appendix A.2 of the paper: a ramp between pairs that turn often and pairs that turn rarely within the
    original context, and vectors longer by 0.1 ln(factor) + 1."""
    pairs, factor = sizes.turned // 2, keys.number("rope.scaling.factor", 1.0)
    original = keys.count("rope.scaling.original_context_length", sizes.context)
    if base == 1.0:
        keys.refuse("its rotary positions have the base 1, with which YaRN cannot be computed")

    def pair(turns: float) -> float:
        """The pair that turns so often within the original context."""
        return pairs * math.log(original / (min(turns, 1e30) * 2 * math.pi)) / math.log(base)

    low = max(math.floor(pair(keys.number("rope.scaling.yarn_beta_fast", 32.0))), 0)
    high = min(math.ceil(pair(keys.number("rope.scaling.yarn_beta_slow", 1.0))), sizes.turned - 1)

    def frequencies() -> NDArray[np.float64]:
        slow = np.clip((np.arange(pairs) - low) / max(high - low, 0.001), 0, 1)
        plain = _plain(base, pairs)
        return plain / factor * slow + plain * (1 - slow)

    longer = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    return Rotary("rotary", sizes.context, pairs, frequencies, keys.number("rope.scaling.attn_factor", 1.0) * longer)
