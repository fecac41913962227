"""Small random decoders as GGUF files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    joined: bool = False,
    norms_after: bool = False,
    blocks: int = BLOCKS,
) -> list[MadeTensor]:
    """The weights.

    kind: of all matrices. table: of the embedding. biases: of which of q, k, v, output. joined, norms_after: as in phi3 and gemma2.
    """
    found = [tensor("token_embd.weight", table or kind, (VOCABULARY, WIDTH), 1, 0.5), vector("output_norm.weight", WIDTH, 1, 2)]
    if not tied:
        found.append(tensor("output.weight", kind, (VOCABULARY, WIDTH), 3, 0.1))
    queries, shared = HEADS * HEAD, key_heads * HEAD
    rows = {"qkv": queries + 2 * shared} if joined else {"q": queries, "k": shared, "v": shared}
    shapes = {**{part: (count, WIDTH) for part, count in rows.items()}, "output": (WIDTH, queries)}
    for block in range(blocks):
        name, seed = f"blk.{block}", 100 * block + 10
        found += [vector(f"{name}.{norm}_norm.weight", WIDTH, 1, seed + i) for i, norm in enumerate(("attn", "ffn"))]
        for i, (part, shape) in enumerate(shapes.items()):
            found.append(tensor(f"{name}.attn_{part}.weight", kind, shape, seed + 2 + i, 0.1))
            if part in biases.split():
                found.append(vector(f"{name}.attn_{part}.bias", shape[0], 0, seed + 6 + i))
        if head_norms:
            found += [vector(f"{name}.attn_{part}_norm.weight", HEAD, 1, seed + 20) for part in "qk"]
        if norms_after:
            found += [vector(f"{name}.post_{part}_norm.weight", WIDTH, 1, seed + 25 + i) for i, part in enumerate(("attention", "ffw"))]
        if joined:
            found.append(tensor(f"{name}.ffn_up.weight", kind, (2 * HIDDEN, WIDTH), seed + 30, 0.1))
        else:
            gate_and_up = enumerate(("gate", "up"))
            found += [tensor(f"{name}.ffn_{part}.weight", kind, (HIDDEN, WIDTH), seed + 30 + i, 0.1) for i, part in gate_and_up]
        found.append(tensor(f"{name}.ffn_down.weight", kind, (WIDTH, HIDDEN), seed + 32, 0.1))
    return found


AS_FAMILY: dict[str, dict[str, Any]] = {
    "phi3": {"joined": True},
    "gemma2": {"norms_after": True},
    "gemma3": {"norms_after": True, "head_norms": True},
}


def decoder(architecture: str = "llama", changes: Mapping[str, Any] | None = None, more: Sequence[MadeTensor] = (), **how: Any) -> bytes:
    """A whole file, with the tensors that its family has, and `more`."""
    how = {**AS_FAMILY.get(architecture, {}), **how}
    own = keys(architecture, {"block_count": how.get("blocks", BLOCKS), **(changes or {})})
    return gguf(own, [*more, *tensors(**how)])


def encoder_tensors(kind: str = "F32") -> list[MadeTensor]:
    """A bert encoder's weights; its context is as long as the vocabulary."""
    norms = ["token_embd_norm", *(f"blk.{block}.{norm}" for block in range(BLOCKS) for norm in ("attn_output_norm", "layer_output_norm"))]
    found = [tensor(f"{name}.weight", kind, (VOCABULARY, WIDTH), 1, 0.5) for name in ("token_embd", "position_embd")]
    found += [vector(f"{name}.{part}", WIDTH, part == "weight", 2) for name in norms for part in ("weight", "bias")]
    for block in range(BLOCKS):
        shapes = {f"attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")} | {
            "ffn_up": (HIDDEN, WIDTH),
            "ffn_down": (WIDTH, HIDDEN),
        }
        found += [tensor(f"blk.{block}.{name}.weight", kind, shape, 3, 0.1) for name, shape in shapes.items()]
    return found
