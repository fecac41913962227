"""Small random language models as GGUF files, for the level `text`: a writer of that format for float32 and a few kinds of keys.

The layout is the GGUF specification's, version 3 (ggml's docs/gguf.md); the tensors' names and shapes are those that llama.cpp reads.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["ARCHITECTURES", "CONTEXT", "LETTERS", "decoder"]

ARCHITECTURES = ("llama", "phi3")
CONTEXT = 96
"""Tokens that these models take."""
LETTERS = "".join(chr(code) for code in range(33, 125))
"""The characters of which each is a token."""

_WIDTH, _HEADS, _KEY_HEADS, _HEAD, _HIDDEN, _BLOCKS = 64, 4, 2, 16, 128, 2
_TOKENS = ("<unk>", "<s>", "</s>", "\u2581", *LETTERS)  # U+2581: SentencePiece's space
_ALIGNMENT = 32


def decoder(architecture: str, seed: int = 0) -> bytes:
    """A file of random weights and a SentencePiece vocabulary of single characters. It never ends a text by itself."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, size: float = 0.15) -> np.ndarray[Any, Any]:
        return (size * random.standard_normal((rows, columns))).astype("<f4")

    def norm() -> np.ndarray[Any, Any]:
        return (1 + 0.2 * random.standard_normal(_WIDTH)).astype("<f4")

    head = matrix(len(_TOKENS), _WIDTH, 0.4)
    head[:4] = 0  # special tokens and the space are never the likeliest
    tensors = {"token_embd.weight": matrix(len(_TOKENS), _WIDTH, 1.0), "output_norm.weight": norm(), "output.weight": head}
    queries, keys = _HEADS * _HEAD, _KEY_HEADS * _HEAD
    for number in range(_BLOCKS):
        parts = {"attn_norm": norm(), "ffn_norm": norm(), "attn_output": matrix(_WIDTH, queries), "ffn_down": matrix(_WIDTH, _HIDDEN)}
        if architecture == "phi3":
            parts |= {"attn_qkv": matrix(queries + 2 * keys, _WIDTH), "ffn_up": matrix(2 * _HIDDEN, _WIDTH)}
        else:
            parts |= {"attn_q": matrix(queries, _WIDTH), "attn_k": matrix(keys, _WIDTH), "attn_v": matrix(keys, _WIDTH)}
            parts |= {"ffn_gate": matrix(_HIDDEN, _WIDTH), "ffn_up": matrix(_HIDDEN, _WIDTH)}
        tensors |= {f"blk.{number}.{name}.weight": value for name, value in parts.items()}
    return _file(_keys(architecture), tensors)


def _keys(architecture: str) -> dict[str, Any]:
    sizes = {
        "block_count": _BLOCKS,
        "context_length": CONTEXT,
        "embedding_length": _WIDTH,
        "feed_forward_length": _HIDDEN,
        "attention.head_count": _HEADS,
        "attention.head_count_kv": _KEY_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": _HEAD,
    }
    vocabulary = {
        "model": "llama",
        "tokens": list(_TOKENS),
        "scores": np.zeros(len(_TOKENS), "<f4"),
        "token_type": np.array([2, 3, 3] + [1] * (len(_TOKENS) - 3), "<i4"),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    own = {f"{architecture}.{key}": value for key, value in sizes.items()}
    return {"general.architecture": architecture, **own, **{f"tokenizer.ggml.{key}": value for key, value in vocabulary.items()}}


def _file(keys: Mapping[str, Any], tensors: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    head += b"".join(_text(key) + _value(value) for key, value in keys.items())
    data = b""
    for name, tensor in tensors.items():
        sizes = tensor.shape[::-1]  # GGUF counts the fastest dimension first
        head += _text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, 0, len(data))
        data += tensor.tobytes()
        data += bytes(-len(data) % _ALIGNMENT)
    return head + bytes(-len(head) % _ALIGNMENT) + data


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    """A typed value: 4 uint32, 6 float32, 8 string, 9 array of what follows."""
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, np.ndarray):
        return struct.pack("<IIQ", 9, 6 if value.dtype.kind == "f" else 5, value.size) + value.tobytes()
    return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
