"""Small random GGUF files that llama.cpp takes too: it wants a vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf_decoders
import numpy as np
from made import MadeTensor, gguf

CONTEXT = 2048


def vocabulary(size: int = gguf_decoders.VOCABULARY) -> dict[str, Any]:
    """A SentencePiece vocabulary: three special tokens, then single characters."""
    tokens = ["<unk>", "<s>", "</s>", *(chr(33 + i) for i in range(size - 3))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.zeros(size, np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, 3] + [1] * (size - 3), np.int32),
    }


def write(path: Path, architecture: str = "llama", **how: Any) -> Path:
    """A decoder of this architecture, or what would be one: its name is written as it is given."""
    keys = gguf_decoders.keys(architecture, {"context_length": CONTEXT, "attention.layer_norm_epsilon": 1e-5, **how.pop("changes", {})})
    tensors: list[MadeTensor] = gguf_decoders.tensors(**how)
    if architecture == "olmo":  # a llama whose norms have no weights
        tensors = [one for one in tensors if "norm" not in one.name]
    path.write_bytes(gguf(keys | vocabulary(), tensors))
    return path
