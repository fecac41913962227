"""The next token, chosen where its logits are: a partition of one operator behind a decoder's step."""

from __future__ import annotations

from typing import Any

import numpy as np

from turnout.graph import declare_alias, ir
from turnout_cuda.operators.cache import OWN

__all__ = ["NUMBERS", "choice"]

NUMBERS = 6
"""What a choice is told with each token, as float64: temperature, top_k, top_p, min_p, repetition penalty, a draw from [0, 1)."""


def choice(vocabulary: int, logits: np.dtype[Any]) -> ir.Graph:
    """Logits, marks of the tokens that were there, and numbers in; the token and the marks with it out, in place."""
    seen, numbers = _value("seen", np.uint8, (vocabulary,)), _value("numbers", np.float64, (NUMBERS,))
    given = [_value("logits", logits, (1, 1, vocabulary)), seen, numbers]
    token, marked = _value("token", np.int64, (1,)), _value("marked", np.uint8, (vocabulary,))
    declare_alias(marked, seen)
    node = ir.node("Sample", given, domain=OWN, outputs=[token, marked], version=1, name="Sample")
    return ir.Graph(given, [token, marked], nodes=[node], opset_imports={"": 24, OWN: 1}, name="choice")


def _value(name: str, dtype: Any, shape: tuple[int, ...]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype))), shape=ir.Shape(shape))
