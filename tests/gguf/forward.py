"""What a GGUF decoder computes, in plain NumPy: the oracle. Weights are dequantised by the gguf package, not by turnout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from turnout_gguf.reader import Gguf

Array = NDArray[np.floating[Any]]


class Oracle:
    """One file's decoder; arithmetic in `dtype`."""

    def __init__(self, file: Gguf, dtype: Any = np.float64) -> None:
        self.file = file
        self.dtype = dtype
        self.architecture = file.metadata["general.architecture"]
        self.heads = self.key("attention.head_count")
        self.key_heads = int(np.ravel(self.key("attention.head_count_kv", self.heads))[0])
        self.head = self.key("attention.key_length", self.key("embedding_length") // self.heads)
        self.epsilon = self.key("attention.layer_norm_rms_epsilon")

    def key(self, name: str, default: Any = None) -> Any:
        return self.file.metadata.get(f"{self.architecture}.{name}", default)

    def weight(self, name: str) -> Array | None:
        tensor = self.file.tensors.get(name)
        if tensor is None:
            return None
        raw = self.file.raw(tensor).reshape(1, -1)  # it walks rows in Python
        weights = gguf.dequantize(raw, gguf.GGMLQuantizationType(tensor.type.number))
        return weights.reshape(tensor.shape).astype(self.dtype)

    def logits(self, ids: Sequence[int]) -> Array:
        """[tokens, vocabulary]."""
        table = self.weight("token_embd.weight")
        assert table is not None
        x = table[np.array(ids)]
        for number in range(self.key("block_count")):
            name = f"blk.{number}"
            x = x + self.attention(name, self.norm(f"{name}.attn_norm", x))
            h = self.norm(f"{name}.ffn_norm", x)
            gate = self.linear(f"{name}.ffn_gate", h)
            x = x + self.linear(f"{name}.ffn_down", gate / (1 + np.exp(-gate)) * self.linear(f"{name}.ffn_up", h))
        head = self.weight("output.weight")
        return self.norm("output_norm", x) @ (table if head is None else head).T

    def linear(self, name: str, x: Array) -> Array:
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        assert weight is not None
        return x @ weight.T + (0 if bias is None else bias)

    def norm(self, name: str, x: Array) -> Array:
        weight = self.weight(f"{name}.weight")
        assert weight is not None
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.dtype(self.epsilon)) * weight

    def attention(self, name: str, x: Array) -> Array:
        tokens = len(x)
        queries, keys = (self.turned(f"{name}.attn_{kind}", x) for kind in "qk")
        values = self.linear(f"{name}.attn_v", x).reshape(tokens, -1, self.head)
        outputs = []
        for head in range(self.heads):
            group = head * self.key_heads // self.heads
            scores = queries[:, head] @ keys[:, group].T / np.sqrt(self.dtype(self.head))
            scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            outputs.append(weights / weights.sum(-1, keepdims=True) @ values[:, group])
        return self.linear(f"{name}.attn_output", np.concatenate(outputs, -1))

    def turned(self, name: str, x: Array) -> Array:
        """Queries or keys, [tokens, heads, head], each pair of elements turned as a complex number."""
        tokens = len(x)
        heads = self.linear(name, x).reshape(tokens, -1, self.head)
        if f"{name}_norm.weight" in self.file.tensors:
            heads = self.norm(f"{name}_norm", heads)
        size = self.key("rope.dimension_count", self.head)
        turned, rest = heads[..., :size], heads[..., size:]
        angles = np.arange(tokens)[:, None] * self.frequencies(size)
        spin = np.exp(1j * angles)[:, None, :]
        if self.architecture == "llama":
            pairs = (turned[..., 0::2] + 1j * turned[..., 1::2]) * spin
            turned = np.stack([pairs.real, pairs.imag], -1).reshape(turned.shape)
        else:
            pairs = (turned[..., : size // 2] + 1j * turned[..., size // 2 :]) * spin
            turned = np.concatenate([pairs.real, pairs.imag], -1)
        return np.concatenate([turned, rest], -1).astype(self.dtype)

    def frequencies(self, size: int) -> NDArray[np.float64]:
        frequencies = 1.0 / self.key("rope.freq_base", 10000.0) ** (np.arange(0, size, 2) / size)
        if self.key("rope.scaling.type") == "linear":
            frequencies = frequencies / self.key("rope.scaling.factor")
        frequencies = frequencies / self.key("rope.scale_linear", 1.0)
        factors = self.file.tensors.get("rope_freqs.weight")
        return frequencies if factors is None else frequencies / self.file.raw(factors).view("<f4")[0]
