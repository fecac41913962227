"""Small random decoders as GGUF files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from made import MadeTensor, gguf, tensor

WIDTH, HEADS, KEY_HEADS, HEAD, HIDDEN, VOCABULARY, BLOCKS = 256, 4, 2, 64, 512, 96, 2


def keys(architecture: str = "llama", changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The metadata; a change to None takes a key away."""
    own = {
        "block_count": BLOCKS,
        "context_length": 64,
        "embedding_length": WIDTH,
        "feed_forward_length": HIDDEN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KEY_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        **(changes or {}),
    }
    return {"general.architecture": architecture} | {f"{architecture}.{key}": value for key, value in own.items() if value is not None}


def vector(name: str, size: int, around: float, seed: int) -> MadeTensor:
    values = around + 0.3 * np.random.default_rng(seed).standard_normal(size)
    return MadeTensor(name, 0, (size,), values.astype("<f4").tobytes())


def tensors(
    kind: str = "F32",
    *,
    tied: bool = True,
    table: str | None = None,
    biases: str = "",
    head_norms: bool = False,
    key_heads: int = KEY_HEADS,
) -> list[MadeTensor]:
    """The weights. kind: of all matrices. table: of the embedding. biases: of which of q, k, v, output."""
    found = [tensor("token_embd.weight", table or kind, (VOCABULARY, WIDTH), 1, 0.5), vector("output_norm.weight", WIDTH, 1, 2)]
    if not tied:
        found.append(tensor("output.weight", kind, (VOCABULARY, WIDTH), 3, 0.1))
    queries, shared = HEADS * HEAD, key_heads * HEAD
    shapes = {"q": (queries, WIDTH), "k": (shared, WIDTH), "v": (shared, WIDTH), "output": (WIDTH, queries)}
    for block in range(BLOCKS):
        name, seed = f"blk.{block}", 100 * block + 10
        found += [vector(f"{name}.{norm}_norm.weight", WIDTH, 1, seed + i) for i, norm in enumerate(("attn", "ffn"))]
        for i, (part, shape) in enumerate(shapes.items()):
            found.append(tensor(f"{name}.attn_{part}.weight", kind, shape, seed + 2 + i, 0.1))
            if part in biases.split():
                found.append(vector(f"{name}.attn_{part}.bias", shape[0], 0, seed + 6 + i))
        if head_norms:
            found += [vector(f"{name}.attn_{part}_norm.weight", HEAD, 1, seed + 20) for part in "qk"]
        found += [tensor(f"{name}.ffn_{part}.weight", kind, (HIDDEN, WIDTH), seed + 30 + i, 0.1) for i, part in enumerate(("gate", "up"))]
        found.append(tensor(f"{name}.ffn_down.weight", kind, (WIDTH, HIDDEN), seed + 32, 0.1))
    return found


def decoder(architecture: str = "llama", changes: Mapping[str, Any] | None = None, **how: Any) -> bytes:
    """A whole file."""
    return gguf(keys(architecture, changes), tensors(**how))
