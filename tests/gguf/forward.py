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
        self.is_gemma = self.architecture.startswith("gemma")

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
        if self.is_gemma:
            x = x * self.dtype(np.sqrt(x.shape[-1]))
        for number in range(self.key("block_count")):
            name = f"blk.{number}"
            attended = self.attention(number, self.norm(f"{name}.attn_norm", x))
            x = x + self.maybe_normed(f"{name}.post_attention_norm", attended)
            fed = self.feed_forward(name, self.norm(f"{name}.ffn_norm", x))
            x = x + self.maybe_normed(f"{name}.post_ffw_norm", fed)
        head = self.weight("output.weight")
        return self.capped(self.norm("output_norm", x) @ (table if head is None else head).T, "final_logit_softcapping")

    def maybe_normed(self, name: str, x: Array) -> Array:
        return self.norm(name, x) if f"{name}.weight" in self.file.tensors else x

    def capped(self, x: Array, key: str) -> Array:
        cap = self.key(key)
        return x if cap is None else cap * np.tanh(x / cap)

    def feed_forward(self, name: str, x: Array) -> Array:
        if self.architecture == "phi3":
            gate, up = np.split(self.linear(f"{name}.ffn_up", x), 2, -1)
        else:
            gate, up = (self.linear(f"{name}.ffn_{part}", x) for part in ("gate", "up"))
        gelu = gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))) / 2
        silu = gate / (1 + np.exp(-gate))
        return self.linear(f"{name}.ffn_down", (gelu if self.is_gemma else silu) * up)

    def linear(self, name: str, x: Array) -> Array:
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        assert weight is not None
        return x @ weight.T + (0 if bias is None else bias)

    def norm(self, name: str, x: Array) -> Array:
        weight = self.weight(f"{name}.weight")
        assert weight is not None
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.dtype(self.epsilon)) * weight

    def attention(self, number: int, x: Array) -> Array:
        tokens, name = len(x), f"blk.{number}"
        far = self.sees_far(number)
        if self.architecture == "phi3":
            sizes = np.array([self.heads, self.key_heads, self.key_heads]) * self.head
            projected = np.split(self.linear(f"{name}.attn_qkv", x), np.cumsum(sizes)[:-1], -1)
        else:
            projected = [self.linear(f"{name}.attn_{kind}", x) for kind in "qkv"]
        queries, keys = (self.turned(f"{name}.attn_{kind}", one, far) for kind, one in zip("qk", projected, strict=False))
        values = projected[2].reshape(tokens, -1, self.head)
        age = np.arange(tokens)[:, None] - np.arange(tokens)
        seen = (age >= 0) & ((age < self.key("attention.sliding_window", tokens)) | far)
        outputs = []
        for head in range(self.heads):
            group = head * self.key_heads // self.heads
            scores = self.capped(queries[:, head] @ keys[:, group].T / np.sqrt(self.dtype(self.head)), "attn_logit_softcapping")
            scores = np.where(seen, scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            outputs.append(weights / weights.sum(-1, keepdims=True) @ values[:, group])
        return self.linear(f"{name}.attn_output", np.concatenate(outputs, -1))

    def sees_far(self, number: int) -> bool:
        """Whether a block has no window: one in two of gemma2's, one in six of gemma3's; none of the others where the file has one."""
        if "attention.sliding_window" not in {key.split(".", 1)[-1] for key in self.file.metadata}:
            return True
        return {"gemma2": number % 2 == 1, "gemma3": number % 6 == 5}.get(self.architecture, False)

    def turned(self, name: str, x: Array, far: bool) -> Array:
        """Queries or keys, [tokens, heads, head], each pair of elements turned as a complex number."""
        tokens = len(x)
        heads = self.maybe_normed(f"{name}_norm", x.reshape(tokens, -1, self.head))
        size = self.key("rope.dimension_count", self.head)
        turned, rest = heads[..., :size], heads[..., size:]
        frequencies, longer = self.frequencies(size, tokens, far)
        spin = longer * np.exp(1j * np.arange(tokens)[:, None] * frequencies)[:, None, :]
        if self.architecture == "llama":
            pairs = (turned[..., 0::2] + 1j * turned[..., 1::2]) * spin
            turned = np.stack([pairs.real, pairs.imag], -1).reshape(turned.shape)
        else:
            pairs = (turned[..., : size // 2] + 1j * turned[..., size // 2 :]) * spin
            turned = np.concatenate([pairs.real, pairs.imag], -1)
        return np.concatenate([turned, rest], -1).astype(self.dtype)

    def frequencies(self, size: int, tokens: int, far: bool) -> tuple[NDArray[np.float64], float]:
        """Radians a token for each pair, and by how much turned vectors are made longer."""
        base = self.key("rope.freq_base", 10000.0)
        if self.architecture == "gemma3" and not far:
            return 1.0 / 10000.0 ** (np.arange(0, size, 2) / size), 1.0
        frequencies = 1.0 / base ** (np.arange(0, size, 2) / size)
        longer = self.key("rope.scaling.attn_factor", 1.0)
        if self.key("rope.scaling.type") == "linear":
            frequencies = frequencies / self.key("rope.scaling.factor")
        if self.key("rope.scaling.type") == "yarn":
            frequencies, longer = self.yarn(frequencies, base), longer * (0.1 * np.log(self.key("rope.scaling.factor")) + 1)
        frequencies = frequencies / self.key("rope.scale_linear", 1.0)
        is_long = tokens > self.key("rope.scaling.original_context_length", tokens)
        for name in ("rope_freqs.weight", f"rope_factors_{'long' if is_long else 'short'}.weight"):
            if name in self.file.tensors:
                frequencies = frequencies / self.file.raw(self.file.tensors[name]).view("<f4")[0]
        return frequencies, longer

    def yarn(self, frequencies: NDArray[np.float64], base: float) -> NDArray[np.float64]:
        """Pairs that turn more than 32 times in the original context stay, those that turn less than once are divided."""
        pairs, original = len(frequencies), self.key("rope.scaling.original_context_length")
        low, high = (pairs * np.log(original / (turns * 2 * np.pi)) / np.log(base) for turns in (32, 1))
        low, high = max(np.floor(low), 0), min(np.ceil(high), 2 * pairs - 1)
        keep = 1 - np.clip((np.arange(pairs) - low) / (high - low), 0, 1)
        return frequencies * keep + frequencies / self.key("rope.scaling.factor") * (1 - keep)
