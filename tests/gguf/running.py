"""Runs a decoder's graph: a text from its beginning, or token after token with the caches of the run before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import turnout
from turnout.model import Model
from turnout_gguf.format import GgufFormat, Options

Floats = NDArray[np.float32]


def load(file: bytes | Path, *, accuracy: turnout.Accuracy = "exact", batch: int | None = 1, device: Any = "cpu") -> Model:
    """Without the store on disk. Any number of texts at once is for whoever has TensorScatter, which old ONNX Runtimes have not."""
    source = GgufFormat().open(file, accuracy=accuracy, options=Options(keep=False, batch=batch))
    return turnout.load(source.model(), device=device)


class Text:
    """Texts on their way through a model: how many tokens are in the caches, and the caches. filled: with what they are at first."""

    def __init__(self, model: Model, rows: int = 1, capacity: int = 64, filled: float = 7.0) -> None:
        self.model = model
        self.past = np.zeros(rows, np.int64)
        self.state = {}
        for info in model.inputs:
            if info.name.startswith(("past_key", "past_value")):
                assert info.shape is not None
                shape = (rows, info.shape[1], capacity, info.shape[3])
                self.state[info.name] = np.full(shape, filled, np.float32)  # type: ignore[arg-type]

    def feed(self, ids: Any, wanted: Any = None) -> Floats:
        """Adds tokens, [rows, tokens], and gives their logits (those of `wanted`): float32 [rows, tokens, vocabulary]."""
        ids = np.atleast_2d(np.asarray(ids, np.int64))
        tokens = np.arange(ids.shape[1]) if wanted is None else np.asarray(wanted, np.int64)
        found = self.model.run({"input_ids": ids, "past_tokens": self.past, "wanted_tokens": tokens, **self.state})
        logits: Floats = found.pop("logits")
        self.state = {name.replace("present", "past"): array for name, array in found.items()}
        self.past = self.past + ids.shape[1]
        return logits


def logits_of(model: Model, ids: Any) -> Floats:
    """Logits of one text, float32 [tokens, vocabulary]."""
    return Text(model, capacity=max(64, len(ids))).feed([ids])[0]
